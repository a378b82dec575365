"""Bring a collection to another model: new templates of the kept originals beside the old ones, then all of them at once in their place.

Faces keep their ids, users, rows and dates. An original is known by its image's keyed mark, so that no other photograph can take its
place; in it, an enrolled face by where it lies. Until the last moment nothing of the collection changes, and work that was stopped goes on.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import sqlalchemy as sa

from aboveboard.accountability.gate import actor
from aboveboard.accountability.operators import Session
from aboveboard.biometrics.places import paired
from aboveboard.biometrics.vocabulary import Template
from aboveboard.errors import BadRequest, BadSample, Busy, Conflict, NoSuch
from aboveboard.service import analyse, enrol
from aboveboard.service.app import App
from aboveboard.storage.collections import Collection
from aboveboard.storage.reindexings import Lacking, Reindexing
from aboveboard.vision import formats

DUTY = "collection.reindex"
MOST_TRIES = 300_000_000
"""Files times external ids that are tried where names do not tell: a quarter of an hour."""
_SAMPLE = 8

Reason = Literal["no_original", "untried", "unreadable", "not_found", "no_template"]
"""Why a face cannot be carried over: its photograph is not there, may be there under a name that says nothing among too many files to
try, cannot be read, shows no face in its place, or gives no template."""


@dataclass(frozen=True, slots=True)
class Original:
    """A file that may be an original, and the external ids that it was most likely enrolled under."""

    read: Callable[[], bytes]
    external_image_ids: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Left:
    """A face that cannot be carried over, and why."""

    face: Lacking
    reason: Reason


@dataclass(frozen=True, slots=True)
class Reindexed:
    """How far it came. Where `is_switched`, the collection is at the new model, without the faces `left`; else it is as it was."""

    is_switched: bool
    is_stopped: bool
    from_version: str
    to_version: str
    faces: int
    left: tuple[Left, ...] = ()


@dataclass(frozen=True, slots=True)
class Checked:
    """What a re-indexing would meet: images still to do, those whose originals are there, faces whose are not, time per image."""

    images: int
    located: int
    done_faces: int
    left: tuple[Left, ...]
    seconds_per_image: float

    @property
    def seconds(self) -> float:
        """The time that the located images will take, as far as a sample tells."""
        return self.located * self.seconds_per_image


@dataclass
class _Round:
    """Images to do, with their faces; buckets that may be read; what was found out about faces that cannot be carried over."""

    images: dict[str, list[Lacking]]
    buckets: Sequence[str]
    failed: dict[int, Reason] = field(default_factory=dict)

    @property
    def external_ids(self) -> list[str | None]:
        return list(dict.fromkeys(faces[0].external_image_id for faces in self.images.values()))


def run(
    app: App,
    session: Session,
    collection_id: str,
    originals: Callable[[], Sequence[Original]],
    *,
    dropping: Sequence[Left] = (),
    workers: int = 1,
    stopped: threading.Event | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Reindexed:
    """Make the collection's templates anew with the model in use and switch over once every face has one.

    Where faces cannot be carried over the collection stays as it is and they are answered. Given back as `dropping` they are not tried
    again, and are removed with the switch-over, on record.
    `progress` gets images done and images in all. Raises Refused without the role or without a calibration of the new model.
    """
    stop = stopped or threading.Event()
    began = _permitted(app, session, collection_id)
    if _is_at(app, began):
        return _outcome(app, began, began.face_count, is_switched=True)
    _begin(app, session, began)
    failed = {one.face.n: one.reason for one in dropping}
    agreed = set(failed)
    done = 0
    while not stop.is_set():
        work = _Round(_by_image(app, began, failed), session.buckets)
        if not work.images:
            if result := _switch(app, session, began, failed, agreed):
                return result
            continue
        # Again where the collection was enrolled into meanwhile: only what came since is looked for.
        total = done + len(work.images)
        for _ in _carry_over(app, began, work, originals(), workers, stop):
            done += 1
            progress(done, total)
        failed |= work.failed
        if not stop.is_set():
            for faces in work.images.values():
                failed |= {face.n: work.failed.get(face.n, "no_original") for face in faces}
            done = total
            progress(done, total)
    return _outcome(app, began, app.reindexings.made(began), is_stopped=True)


def check(app: App, session: Session, collection_id: str, originals: Callable[[], Sequence[Original]], workers: int = 1) -> Checked:
    """What `run` would meet, with nothing written: the originals are looked for, a sample of them is worked on for the time it takes."""
    began = _permitted(app, session, collection_id)
    if _is_at(app, began):
        return Checked(0, 0, began.face_count, (), 0.0)
    images = _by_image(app, began, {})
    work = _Round(dict(images), session.buckets)
    sample: list[tuple[str, bytes]] = []
    located = 0
    for image_id, data in _located(app, began, work, originals(), threading.Event()):
        located += 1
        if len(sample) < max(_SAMPLE, 2 * workers):
            sample.append((image_id, data))
    start = time.monotonic()
    with ThreadPoolExecutor(workers, thread_name_prefix="reindex") as pool:
        tried = list(pool.map(lambda one: _templates(app, began, *one), sample))
    took = time.monotonic() - start
    faces = {face.n: face for faces in images.values() for face in faces}
    left = [Left(face, work.failed.get(face.n, "no_original")) for faces in work.images.values() for face in faces]
    left += [Left(faces[n], reason) for _, failed in tried for n, reason in failed.items() if n in faces]
    return Checked(len(images), located, began.face_count - len(faces), tuple(left), took / len(sample) if sample else 0.0)


def abandon(app: App, session: Session, collection_id: str) -> Reindexing:
    """Give up a re-indexing: its new templates are deleted, the collection stays as it is. Raises NoSuch where none is under way."""
    app.gate.authorise(session, DUTY, app.collections.get(collection_id))
    with app.database.write() as connection:
        collection = app.collections.get(collection_id, connection)
        under_way = app.reindexings.of(collection, connection)
        if under_way is None:
            raise NoSuch(f"the collection {collection_id} is not being re-indexed; there is nothing to abandon")
        app.reindexings.end(connection, collection)
        facts = {"collection": collection_id, "to": {"version": under_way.model_version, "model": under_way.model}}
        app.ledger.append(connection, "collection.reindexing.abandoned", {**actor(session), **facts})
    app.scrub()
    return under_way


def _permitted(app: App, session: Session, collection_id: str) -> Collection:
    collection = app.collections.get(collection_id)
    app.gate.authorise(session, DUTY, collection)
    if app.models.calibration is None:
        text = f"the model pack '{app.models.card.id}' has no calibration, so no search would be answered; run: aboveboard calibrate"
        app.gate.refuse(session, DUTY, "calibration", text, collection)
    return collection


def _is_at(app: App, collection: Collection) -> bool:
    """Whether the collection is at the model in use."""
    return (collection.model_version, collection.model) == (app.models.card.model_version, app.models.card.model)


def _outcome(app: App, began: Collection, faces: int, left: Sequence[Left] = (), **how: bool) -> Reindexed:
    return Reindexed(
        how.get("is_switched", False), how.get("is_stopped", False), began.model_version, app.models.card.model_version, faces, tuple(left)
    )


def _begin(app: App, session: Session, collection: Collection) -> None:
    card = app.models.card
    with app.database.write() as connection:
        under_way = app.reindexings.of(collection, connection)
        if under_way is None:
            app.reindexings.begin(connection, collection, card.model_version, card.model)
            facts = {"collection": collection.id, "faces": collection.face_count, **_versions(collection, card.model_version, card.model)}
            app.ledger.append(connection, "collection.reindexing", {**actor(session), **facts})
        elif (under_way.model_version, under_way.model) != (card.model_version, card.model):
            raise Conflict(
                f"the collection {collection.id} is on its way to model version {under_way.model_version} ({under_way.model}) since "
                f"{under_way.started_at}; go on with that pack, or give it up first with --abandon"
            )


def _versions(began: Collection, model_version: str, model: str) -> dict[str, dict[str, str]]:
    return {"from": {"version": began.model_version, "model": began.model}, "to": {"version": model_version, "model": model}}


def _by_image(app: App, collection: Collection, failed: Mapping[int, Reason]) -> dict[str, list[Lacking]]:
    """The faces without a new template that have not failed, by image."""
    images: dict[str, list[Lacking]] = {}
    for face in app.reindexings.lacking(collection):
        if face.n not in failed:
            images.setdefault(face.image_id, []).append(face)
    return images


def _located(
    app: App, collection: Collection, work: _Round, originals: Sequence[Original], stop: threading.Event
) -> Iterator[tuple[str, bytes]]:
    """Images and the bytes of their originals, as they are found; an image that is found leaves the round's images."""

    def tried(data: bytes | None, external_ids: Sequence[str | None]) -> Iterator[tuple[str, bytes]]:
        if data is not None:
            for image_id in enrol.image_marks(app, collection, data, external_ids):
                if work.images.pop(image_id, None):
                    yield image_id, data

    # Where somebody said where the original lies, it is there, or it was moved.
    for faces in list(work.images.values()):
        if stop.is_set():
            return
        if faces[0].source:
            yield from tried(_kept(app, faces[0].source, work.buckets), [faces[0].external_image_id])
    # A file is read only where its name fits something wanted ...
    wanted = set(work.external_ids)
    placed: list[Original] = []
    others: list[Original] = []
    for original in originals:
        if stop.is_set() or not work.images:
            return
        likely = [one for one in original.external_image_ids if one in wanted]
        found = list(tried(_read(original), likely)) if likely else []
        yield from found
        (placed if found else others).append(original)
    # ... and then each against every id that is left: names may say nothing, and one photograph may be enrolled under two ids.
    external_ids = work.external_ids
    if len(originals) * len(external_ids) > MOST_TRIES:
        work.failed |= {face.n: "untried" for faces in work.images.values() for face in faces}
        return
    for original in others + placed:
        if stop.is_set() or not work.images:
            return
        yield from tried(_read(original), external_ids)


def _read(original: Original) -> bytes | None:
    try:
        return original.read()
    except BadSample:
        return None


def _kept(app: App, source: str, buckets: Sequence[str]) -> bytes | None:
    try:
        if source.startswith("s3://"):
            bucket, _, name = source.removeprefix("s3://").partition("/")
            return app.objects.read(bucket, name, None, buckets)
        # A device or a pipe under this name by now would be read for ever.
        return Path(source).read_bytes() if Path(source).is_file() else None
    except (BadSample, OSError, ValueError):
        return None


def _carry_over(
    app: App, collection: Collection, work: _Round, originals: Sequence[Original], workers: int, stop: threading.Event
) -> Iterator[None]:
    """Make and keep the new templates of the images whose originals are found; yields as each image is done."""

    def one(image_id: str, data: bytes) -> Mapping[int, Reason]:
        made, failed = _templates(app, collection, image_id, data)
        if made:
            with app.database.write() as connection:
                _still_under_way(app, connection, collection)
                app.reindexings.add(connection, made)
        return failed

    waiting: deque[Future[Mapping[int, Reason]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="reindex") as pool:
        try:
            for image_id, data in _located(app, collection, work, originals, stop):
                waiting.append(pool.submit(one, image_id, data))
                if len(waiting) > 2 * workers:
                    work.failed |= waiting.popleft().result()
                    yield
            while waiting:
                work.failed |= waiting.popleft().result()
                yield
        finally:
            for future in waiting:
                future.cancel()


def _templates(app: App, collection: Collection, image_id: str, data: bytes) -> tuple[dict[int, Template], dict[int, Reason]]:
    """New templates of an image's enrolled faces by their rows, and why others have none."""
    with app.database.read() as connection:
        rows = app.collections.faces_of_images(connection, collection, [image_id])
    made: dict[int, Template] = {}
    failed: dict[int, Reason] = {}
    try:
        # Photographs of other formats come from the command line, which converted them when they were enrolled.
        with analyse.faces(app, formats.readable(data, app.settings.max_image_pixels)) as found:
            same = paired([row.box for row in rows], [one.box for one in found])
            for i, row in enumerate(rows):
                try:
                    if i in same:
                        made[row.n] = analyse.template(app, found[same[i]])
                    else:
                        failed[row.n] = "not_found"
                except BadRequest:
                    failed[row.n] = "no_template"
    except (BadSample, BadRequest):
        return {}, {row.n: "unreadable" for row in rows}
    return made, failed


def _still_under_way(app: App, connection: sa.Connection, began: Collection) -> Reindexing:
    """The re-indexing, inside a transaction that is to write; raises Busy where somebody else ended it or replaced the collection."""
    collection = app.collections.get(began.id, connection)
    under_way = app.reindexings.of(collection, connection) if collection.n == began.n else None
    if under_way is None or (under_way.model_version, under_way.model) != (app.models.card.model_version, app.models.card.model):
        raise Busy(f"the re-indexing of {began.id} was ended or abandoned by somebody else; see: aboveboard collection describe {began.id}")
    return under_way


def _switch(app: App, session: Session, began: Collection, failed: Mapping[int, Reason], agreed: Set[int]) -> Reindexed | None:
    """Switch over, or answer the faces that forbid it; None where faces were enrolled meanwhile that have not been tried."""
    with app.database.write() as connection:
        to = _still_under_way(app, connection, began)
        collection = app.collections.get(began.id, connection)
        made = app.reindexings.made(collection, connection)
        lacking = list(app.reindexings.lacking(collection, connection))
        if any(face.n not in failed for face in lacking):
            return None
        left = [Left(face, failed[face.n]) for face in lacking]
        if any(one.face.n not in agreed for one in left):
            return _outcome(app, began, made, left)
        if left:
            dropped = [one.face.face_id for one in left]
            app.collections.remove_faces(connection, collection, dropped)
            app.collections.touch(connection, collection, removed=len(dropped))
            facts = {"collection": collection.id, "face_ids": dropped, "because": "not carried over to another model"}
            app.ledger.append(connection, "faces.removed", {**actor(session), **facts})
        app.reindexings.switch(connection, collection, to)
        ended = {"collection": collection.id, "faces": made, "left_out": len(left)}
        ended |= _versions(collection, to.model_version, to.model)
        app.ledger.append(connection, "collection.reindexed", {**actor(session), **ended})
    app.gate.refresh(collection)
    app.scrub()
    return _outcome(app, began, made, left, is_switched=True)
