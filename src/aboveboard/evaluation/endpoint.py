"""Carry out a manifest at any Rekognition endpoint, through boto3: CompareFaces for listed pairs, a collection and searches for the rest.

Every answer is written down before the next question (`Journal`), so that a run that was stopped goes on where it was and nothing
is paid for twice, but for the few questions whose answers were under way.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import numpy as np
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoRegionError

from aboveboard.errors import BadRequest, Unavailable
from aboveboard.evaluation.identification import DEPTH
from aboveboard.evaluation.journal import Answer, Journal, Key
from aboveboard.evaluation.manifest import Manifest
from aboveboard.evaluation.measure import NAMED, NO_THRESHOLD, about_data, columns_of
from aboveboard.evaluation.run import Progress
from aboveboard.evaluation.scores import Scores

ANSWERS = "answers.jsonl"
WORKERS = 4
AMAZONS_PACE = 5.0
"""Calls a second that Amazon allows every account in every region: the smallest default of its quotas
(docs.aws.amazon.com/general/latest/gr/rekognition.html, 2026-11); some regions and accounts have more."""
USD_PER_1000 = 1.0
"""Amazon's list price of 1,000 images, the first million a month, for these operations in US East, without faces kept and without the free
tier (aws.amazon.com/rekognition/pricing, 2026-11). Other regions ask more: an estimate, no offer."""
NO_TEMPLATE = ("InvalidParameterException", "InvalidImageFormatException", "ImageTooLargeException")
"""Errors that are about the photograph: no face in it, or no image."""
STATED = "x-aboveboard-threshold"
"""Header in which an Aboveboard server states the threshold that it applied."""


def connect(url: str | None, region: str | None) -> Any:
    """boto3's client of an endpoint, or of Amazon itself for None, with the user's own credentials; it slows down when throttled."""
    config = Config(
        retries={"mode": "adaptive", "total_max_attempts": 10}, ignore_configured_endpoint_urls=True, max_pool_connections=WORKERS
    )
    try:
        return boto3.session.Session().client("rekognition", endpoint_url=url, region_name=region, config=config)
    except NoRegionError as error:
        raise BadRequest("the endpoint's region is not known: name it with --region, or in AWS_DEFAULT_REGION") from error
    except (BotoCoreError, ValueError) as error:
        raise BadRequest(f"the endpoint cannot be asked: {error}") from error


def questions(manifest: Manifest) -> list[Key]:
    """What an endpoint is asked for a manifest, each question once; raises BadRequest where that is nothing."""
    enrolled, probed = len(manifest.enrolled), len(manifest.probed)
    index = [("index", i, -1) for i in range(enrolled)] if probed else []
    search = [("search", enrolled + i, -1) for i in range(probed)]
    pairs = [("pair", first, second) for first, second in manifest.pairs or ()]
    if not index and not pairs:
        raise BadRequest(
            "at an endpoint every comparison costs a call: list the pairs in pairs.csv, or write probed.csv to have them searched for"
        )
    return [*index, *search, *pairs]


class Pace:
    """At most so many calls a second, however many threads ask."""

    def __init__(self, per_second: float) -> None:
        self._step = 1 / per_second if per_second else 0.0
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self) -> None:
        with self._lock:
            start = max(self._next, time.monotonic())
            self._next = start + self._step
        time.sleep(max(0.0, start - time.monotonic()))


@dataclass(frozen=True)
class Endpoint:
    """An endpoint that is asked for one manifest: boto3's `client`, its `name` for the record, threshold 0-100, calls a second (0: any)."""

    client: Any
    name: str
    manifest: Manifest
    threshold: float = 0.0
    per_second: float = 0.0

    def journal(self, folder: Path) -> Journal:
        """What this run has been answered so far."""
        data = about_data(self.manifest)["data"]
        return Journal(folder / ANSWERS, {"endpoint": self.name, "threshold": self.threshold, "data": data})

    def measure(self, journal: Journal, progress: Progress | None = None) -> Scores:
        """Ask what was not yet answered, delete the collection, and make the score file. Raises Unavailable where the endpoint does."""
        asked = questions(self.manifest)
        is_searched = bool(self.manifest.probed) and not journal.is_closed
        try:
            if is_searched:
                self._open_collection(journal)
            for kind in ("index", "search", "pair"):
                for _ in self._ask([key for key in asked if key[0] == kind], journal):
                    if progress:
                        progress(len(journal.answers), len(asked))
            if is_searched:
                self.client.delete_collection(CollectionId=journal.head["collection"])
                journal.close_collection()
        except ClientError as error:
            raise Unavailable(f"{self.name} answered: {error}; run the same line again to go on") from error
        except BotoCoreError as error:
            raise Unavailable(f"{self.name} cannot be asked: {error}; run the same line again to go on") from error
        return _scores(self, journal)

    def _open_collection(self, journal: Journal) -> None:
        """Make the collection, or take up one that is there: faces in it whose answer was lost are not indexed again."""
        name = journal.head["collection"]
        try:
            self.client.create_collection(CollectionId=name)
            if any(key[0] == "index" for key in journal.answers):
                self.client.delete_collection(CollectionId=name)
                raise BadRequest(f"the collection {name}, which this run had filled, is gone; start again with another folder")
        except self.client.exceptions.ResourceAlreadyExistsException:
            for page in self.client.get_paginator("list_faces").paginate(CollectionId=name):
                for face in page["Faces"]:
                    # Under a policy with review an Aboveboard server withholds the id: then a lost answer's face is indexed twice.
                    key = ("index", int(face.get("ExternalImageId", -1)), -1)
                    if key[1] >= 0 and key not in journal.answers:
                        journal.add(key, {"face": face["FaceId"]})

    def _ask(self, asked: Sequence[Key], journal: Journal) -> Iterator[None]:
        """Ask the questions that have no answer, a step for each; the first error lets those under way end and asks no more."""
        pace = Pace(self.per_second)
        call = {"index": self._index, "search": self._search, "pair": self._compare}

        def one(key: Key) -> None:
            pace.wait()
            try:
                answer = call[key[0]](key, journal.head["collection"])
            except ClientError as error:
                if error.response["Error"]["Code"] not in NO_TEMPLATE:
                    raise
                answer = {"failed": error.response["Error"]["Message"]}
            journal.add(key, answer)

        pool = ThreadPoolExecutor(WORKERS)
        try:
            for done in as_completed([pool.submit(one, key) for key in asked if key not in journal.answers]):
                yield done.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _index(self, key: Key, collection: str) -> Answer:
        answer = self.client.index_faces(
            CollectionId=collection, Image=self._image(key[1]), ExternalImageId=str(key[1]), MaxFaces=1, QualityFilter="NONE"
        )
        faces = answer["FaceRecords"]
        return {"face": faces[0]["Face"]["FaceId"]} if faces else {"failed": "no face found"}

    def _search(self, key: Key, collection: str) -> Answer:
        answer = self.client.search_faces_by_image(
            CollectionId=collection, Image=self._image(key[1]), MaxFaces=DEPTH, FaceMatchThreshold=self.threshold, QualityFilter="NONE"
        )
        found = [[match["Face"]["FaceId"], match["Similarity"]] for match in answer["FaceMatches"]]
        return {"candidates": found, **_stated(answer)}

    def _compare(self, key: Key, _: str) -> Answer:
        answer = self.client.compare_faces(
            SourceImage=self._image(key[1]), TargetImage=self._image(key[2]), SimilarityThreshold=self.threshold, QualityFilter="NONE"
        )
        best = max((match["Similarity"] for match in answer["FaceMatches"]), default=None)
        if best is None and not answer.get("UnmatchedFaces"):
            return {"failed": "no face found in the second photograph"}
        return {"similarity": best, **_stated(answer)}

    def _image(self, number: int) -> dict[str, bytes]:
        return {"Bytes": self.manifest.photographs[number].path.read_bytes()}


def _stated(answer: Mapping[str, Any]) -> Answer:
    stated = answer["ResponseMetadata"].get("HTTPHeaders", {}).get(STATED)
    return {"stated": float(stated)} if stated is not None else {}


def _scores(endpoint: Endpoint, journal: Journal) -> Scores:
    """The score file of a finished journal. `applied` is null, and the run invalid, where the answers show a threshold nobody stated."""
    manifest, answers = endpoint.manifest, journal.answers
    failed = {key: answer["failed"] for key, answer in answers.items() if "failed" in answer}
    if len(failed) == len(answers):
        raise BadRequest(f"{endpoint.name} could use no photograph; it said: {next(iter(failed.values()))}")
    template = np.ones(len(manifest.photographs), np.bool_)
    template[[key[1] for key in failed if key[0] != "pair"]] = False
    applied, why = _applied(endpoint.threshold, answers)
    about = {
        **about_data(manifest),
        "scale": "similarity (0 to 100, the endpoint's own)",
        "threshold": {"asked": endpoint.threshold or NO_THRESHOLD, "applied": applied, **({"why": why} if why else {})},
        "named": {f"{similarity:g}": similarity for similarity in NAMED},
        "endpoint": endpoint.name,
        "model": None,
        "calibration": None,
        "failures_to_enrol": {manifest.photographs[key[1]].name: reason for key, reason in sorted(failed.items()) if key[0] != "pair"},
    }
    enrolled = {answer["face"]: key[1] for key, answer in answers.items() if "face" in answer}
    listed = [(key[1], *found) for key, answer in sorted(answers.items()) for found in answer.get("candidates", ())]
    candidates = [(probe, enrolled[face], similarity) for probe, face, similarity in listed if face in enrolled]
    pairs = [("pair", first, second) for first, second in manifest.pairs or ()]
    return Scores(
        **columns_of(manifest),
        template=template,
        about=about,
        pairs=np.array(manifest.pairs, np.int32) if pairs else None,
        pair_scores=np.array([_score(answers[key]) for key in pairs], np.float32) if pairs else None,
        candidates=np.array([row[:2] for row in candidates], np.int32).reshape(-1, 2) if manifest.probed else None,
        candidate_scores=np.array([row[2] for row in candidates], np.float32) if manifest.probed else None,
    )


def _score(answer: Answer) -> float:
    if "failed" in answer:
        return np.nan
    return -np.inf if answer["similarity"] is None else float(answer["similarity"])


def _applied(asked: float, answers: Mapping[Key, Answer]) -> tuple[float | str | None, str]:
    """The threshold that the endpoint applied ("none" for 0), or None and what in its answers shows that it is unknown."""
    stated = {answer["stated"] for answer in answers.values() if "stated" in answer}
    if len(stated) > 1:
        return None, f"it states several thresholds: {', '.join(map(str, sorted(stated)))}"
    threshold = stated.pop() if stated else asked
    shown = [score for answer in answers.values() for score in _similarities(answer)]
    if any(score < threshold for score in shown):
        return None, f"it answers a similarity of {min(shown):g}, below the threshold of {threshold:g}"
    gallery = sum(1 for key, answer in answers.items() if key[0] == "index" and "face" in answer)
    short = sum(1 for answer in answers.values() if "candidates" in answer and len(answer["candidates"]) < min(DEPTH, gallery))
    hidden = sum(1 for answer in answers.values() if "similarity" in answer and answer["similarity"] is None)
    if threshold == 0 and (short or hidden):
        where = f"{short:,} searches and {hidden:,} comparisons"
        return None, f"asked for everything (threshold 0) it withheld candidates in {where}: it applies a threshold that it does not state"
    return threshold or NO_THRESHOLD, ""


def _similarities(answer: Answer) -> Iterable[float]:
    if answer.get("similarity") is not None:
        yield answer["similarity"]
    yield from (found[1] for found in answer.get("candidates", ()))
