"""Ask an endpoint what it says of single faces, through boto3's DetectFaces: the answers of a facial-analysis study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from aboveboard.errors import BadRequest, Unavailable
from aboveboard.evaluation.endpoint import NO_TEMPLATE, WORKERS, Pace
from aboveboard.evaluation.facial_analysis import ANSWER_COLUMNS, ANSWERS, NOT_ASSESSED
from aboveboard.evaluation.journal import Journal
from aboveboard.evaluation.protocol import PHOTOGRAPHS, Sample, content_hash
from aboveboard.evaluation.run import Progress
from aboveboard.reporting.tables import Cell, csv_of

JOURNAL = "answers.jsonl"
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


def open_journal(folder: Path, endpoint: str, data: Mapping[str, Any]) -> Journal:
    """What this run has been answered so far."""
    return Journal(folder / JOURNAL, {"endpoint": endpoint, "data": dict(data)})


def ask(
    client: Any, name: str, photographs: Sequence[Labelled], journal: Journal, per_second: float, progress: Progress
) -> dict[str, bytes]:
    """Ask about each photograph that has no answer yet and give the study's inputs. Raises Unavailable where the endpoint does."""
    pace, keys = Pace(per_second), [("face", number, -1) for number in range(len(photographs))]

    def one(key: tuple[str, int, int]) -> None:
        pace.wait()
        journal.add(key, _said(client, photographs[key[1]].sample))

    pool = ThreadPoolExecutor(WORKERS)
    try:
        for _ in pool.map(one, [key for key in keys if key not in journal.answers]):
            progress(len(journal.answers), len(keys))
    except (ClientError, BotoCoreError) as error:
        raise Unavailable(f"{name} answered: {error}; run the same line again to go on") from error
    finally:
        pool.shutdown(cancel_futures=True)
    columns = sorted({column for photograph in photographs for column in photograph.labels})
    rows: list[list[Cell]] = []
    for key, photograph in zip(keys, photographs, strict=True):
        answer = journal.answers[key]
        said = [answer.get("answer", ""), answer.get("confidence"), answer.get("failed", "")]
        rows.append([photograph.sample.name, photograph.truth, *said, *(photograph.labels[column] for column in columns)])
    return {ANSWERS: csv_of([*ANSWER_COLUMNS, *columns], rows)}


def _said(client: Any, sample: Sample) -> dict[str, Any]:
    """The gender said of the largest face, or why there is none."""
    try:
        faces = client.detect_faces(Image={"Bytes": sample.path.read_bytes()}, Attributes=["ALL"])["FaceDetails"]
    except ClientError as error:
        if error.response["Error"]["Code"] not in NO_TEMPLATE:
            raise
        return {"failed": error.response["Error"]["Message"]}
    if not faces:
        return {"failed": "no face found"}
    gender = max(faces, key=_area).get("Gender")
    return {"answer": gender["Value"].casefold(), "confidence": gender["Confidence"]} if gender else {"failed": NOT_ASSESSED}


def _area(face: Mapping[str, Any]) -> float:
    return float(face["BoundingBox"]["Width"] * face["BoundingBox"]["Height"])
