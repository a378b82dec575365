"""What is said of single faces, by an attribute pack in process or by an endpoint's DetectFaces: the answers of a facial-analysis study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from botocore.exceptions import BotoCoreError, ClientError

from aboveboard.errors import BadRequest, BadSample, Unavailable
from aboveboard.evaluation.endpoint import NO_TEMPLATE, WORKERS, Pace
from aboveboard.evaluation.facial_analysis import ANSWER_COLUMNS, ANSWERS, NOT_ASSESSED
from aboveboard.evaluation.journal import Answer, Journal
from aboveboard.evaluation.protocol import PHOTOGRAPHS, Sample, content_hash
from aboveboard.evaluation.run import MAX_PIXELS, Progress
from aboveboard.reporting.tables import Cell, csv_of
from aboveboard.vision.attributes import AttributeReader
from aboveboard.vision.media import decode
from aboveboard.vision.model_cards import AttributeCard
from aboveboard.vision.packs import Models

JOURNAL, NO_FACE = "answers.jsonl", "no face found"
LETTERS = {"m": "male", "f": "female"}


@dataclass(frozen=True)
class Labelled:
    """A photograph of one person with what is said of him: the `truth` that is asked for, and the labels that make groups."""

    sample: Sample
    truth: str
    labels: Mapping[str, str]


def labelled(folder: Path, labels: Mapping[str, Mapping[str, str]], truth: str) -> list[Labelled]:
    """The photographs that `labels` name: each a file of `folder`, or a person's folder in it, of which the first photograph counts.

    Raises BadRequest where one is not there or has no truth.
    """
    found = []
    for name, own in labels.items():
        path = folder / name
        if path.is_dir():
            path = min((one for one in path.iterdir() if one.suffix.lower() in PHOTOGRAPHS), default=path)
        if ".." in Path(name).parts or not path.is_file():
            raise BadRequest(f"the labels name '{name}', which is no photograph and no folder of photographs in {folder}")
        if not own[truth]:
            raise BadRequest(f"the labels give '{name}' no {truth}; leave the row out, or write it")
        said = own[truth].casefold()
        found.append(Labelled(Sample(name, str(path.relative_to(folder)), path), LETTERS.get(said, said), own))
    return found


def data_of(name: str, photographs: Sequence[Labelled]) -> dict[str, Any]:
    """What a study says of its photographs."""
    samples = [one.sample for one in photographs]
    return {"name": name, "photographs": len(samples), "sha256": content_hash(samples)}


class Asked(Protocol):
    """Who is asked for the gender of the largest face of a photograph; `about` says who that is."""

    about: dict[str, Any]

    def gender(self, photograph: bytes, /) -> Answer:
        """`answer` and `confidence`, or why there is none, as `failed`."""


class InProcess:
    """A pack's detector and an attribute pack, without a server."""

    def __init__(self, models: Models, reader: AttributeReader, card: AttributeCard) -> None:
        self._detector, self._reader = models.detector, reader
        parts = [*models.card.files, *card.files]
        self.about = {"endpoint": f"{models.card.id} and {card.id}, in process", "files": {part.file: part.sha256 for part in parts}}

    def gender(self, photograph: bytes, /) -> Answer:
        try:
            image = decode(photograph, MAX_PIXELS)
        except BadSample as error:
            return {"failed": error.message}
        faces = self._detector.detect(image)
        if not faces:
            return {"failed": NO_FACE}
        largest = max(faces, key=lambda face: float(face.box[2] * face.box[3]))
        said = self._reader.read(image, [largest], ["gender"], mesh=False)[0].attributes.gender
        return {"answer": said.value.casefold(), "confidence": said.confidence} if said else {"failed": NOT_ASSESSED}


class AtEndpoint:
    """Any Rekognition endpoint through boto3's `client`. Raises Unavailable where the endpoint does."""

    def __init__(self, client: Any, name: str) -> None:
        self._client = client
        self.about: dict[str, Any] = {"endpoint": name}

    def gender(self, photograph: bytes, /) -> Answer:
        try:
            faces = self._client.detect_faces(Image={"Bytes": photograph}, Attributes=["ALL"])["FaceDetails"]
        except (ClientError, BotoCoreError) as error:
            if isinstance(error, ClientError) and error.response["Error"]["Code"] in NO_TEMPLATE:
                return {"failed": error.response["Error"]["Message"]}
            raise Unavailable(f"{self.about['endpoint']} answered: {error}; run the same line again to go on") from error
        if not faces:
            return {"failed": NO_FACE}
        said = max(faces, key=_area).get("Gender")
        return {"answer": said["Value"].casefold(), "confidence": said["Confidence"]} if said else {"failed": NOT_ASSESSED}


def open_journal(folder: Path, about: Mapping[str, Any], data: Mapping[str, Any]) -> Journal:
    """What this run has been answered so far."""
    return Journal(folder / JOURNAL, {**about, "data": dict(data)})


def ask(asked: Asked, photographs: Sequence[Labelled], journal: Journal, per_second: float, progress: Progress) -> dict[str, bytes]:
    """Ask about each photograph that has no answer yet and give the study's inputs."""
    pace, keys = Pace(per_second), [("face", number, -1) for number in range(len(photographs))]

    def one(key: tuple[str, int, int]) -> None:
        pace.wait()
        journal.add(key, asked.gender(photographs[key[1]].sample.path.read_bytes()))

    pool = ThreadPoolExecutor(WORKERS)
    try:
        for _ in pool.map(one, [key for key in keys if key not in journal.answers]):
            progress(len(journal.answers), len(keys))
    finally:
        pool.shutdown(cancel_futures=True)
    columns = sorted({column for photograph in photographs for column in photograph.labels})
    rows: list[list[Cell]] = []
    for key, photograph in zip(keys, photographs, strict=True):
        answer = journal.answers[key]
        said = [answer.get("answer", ""), answer.get("confidence"), answer.get("failed", "")]
        rows.append([photograph.sample.name, photograph.truth, *said, *(photograph.labels[column] for column in columns)])
    return {ANSWERS: csv_of([*ANSWER_COLUMNS, *columns], rows)}


def _area(face: Mapping[str, Any]) -> float:
    return float(face["BoundingBox"]["Width"] * face["BoundingBox"]["Height"])
