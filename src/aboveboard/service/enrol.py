"""Add faces to a collection and remove them: rows, templates and ledger entry in one transaction."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from aboveboard.accountability.gate import actor, must_agree
from aboveboard.accountability.operators import Session
from aboveboard.biometrics.places import paired
from aboveboard.biometrics.vocabulary import Face, Template
from aboveboard.errors import BadRequest
from aboveboard.service import analyse, samples
from aboveboard.service.analyse import Found, Shortcoming
from aboveboard.service.app import App
from aboveboard.service.samples import Sample
from aboveboard.storage.collections import Collection

_Failed = tuple[Face, tuple[Shortcoming, ...]]


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A face that is in the collection now; `is_new` is False where it was there before."""

    face_id: str
    image_id: str
    face: Face
    is_new: bool


@dataclass(frozen=True, slots=True)
class Indexed:
    """What became of the faces of one image, each list largest face first."""

    enrolled: tuple[Enrolled, ...]
    failures_to_enrol: tuple[tuple[Face, tuple[Shortcoming, ...]], ...]
    model_version: str


def index(
    app: App,
    session: Session,
    collection_id: str,
    sample: Sample,
    external_image_id: str | None = None,
    most: int = analyse.MOST_FACES,
    bar: str = "AUTO",
) -> Indexed:
    """Enrol the faces of a photograph. The same photograph under the same external id makes no second face.

    `most` faces are kept: those below the AUTO bar go first, then the smallest. Acknowledged once it is on the disk.
    """
    collection = app.collections.get(collection_id)
    app.gate.authorise(session, "face.enrol", collection)
    must_agree(app.models.card, collection)
    data = samples.read(app, session, "face.enrol", sample, collection)
    image_id = image_mark(app, collection, data, external_image_id)
    made, failed = _templates(app, data, image_id, most, bar)
    enrolled = _store(app, session, collection_id, image_id, external_image_id, made, is_whole=bool(made) and not failed)
    return Indexed(tuple(enrolled), tuple(failed), app.models.card.model_version)


def is_indexed(app: App, collection_id: str, data: bytes, external_image_id: str | None) -> bool:
    """Whether every face of this photograph was enrolled under this external id: a folder can be taken up again without models."""
    collection = app.collections.get(collection_id)
    return app.collections.is_marked(collection, image_mark(app, collection, data, external_image_id))


@dataclass(frozen=True, slots=True)
class Removed:
    """Face ids that were removed, and those that stay because they are a person's, with his id (none where identities are withheld)."""

    face_ids: tuple[str, ...]
    of_subjects: Mapping[str, str | None]


def remove(app: App, session: Session, collection_id: str, face_ids: Sequence[str]) -> Removed:
    """Remove faces and their templates, except those that are a person's. On the disk when it returns."""
    decision = app.gate.authorise(session, "face.remove", app.collections.get(collection_id))
    with app.database.write() as connection:
        collection = app.collections.get(collection_id, connection)
        rows = app.collections.faces(collection, face_ids, connection)
        removed = [row.face_id for row in rows if row.subject_id is None]
        app.collections.remove_faces(connection, collection, removed)
        if removed:
            app.collections.touch(connection, collection, removed=len(removed))
            app.ledger.append(connection, "faces.removed", {**actor(session), "collection": collection.id, "face_ids": removed})
    kept = {row.face_id: None if decision.withhold_identities else row.subject_id for row in rows if row.subject_id is not None}
    return Removed(tuple(removed), kept)


def image_mark(app: App, collection: Collection, data: bytes, external_image_id: str | None) -> str:
    """The image's id: a keyed mark, because a plain hash would tell anyone who holds a photograph whether it is enrolled."""
    return next(image_marks(app, collection, data, [external_image_id]))


def image_marks(app: App, collection: Collection, data: bytes, external_image_ids: Iterable[str | None]) -> Iterator[str]:
    """The ids that a photograph has under each of these external ids; its bytes are hashed once."""
    external = ((one or "").encode() for one in external_image_ids)
    return map(_uuid, app.keyring.marks("image", (collection.id.encode(), data), external))


def _templates(app: App, data: bytes, image_id: str, most: int, bar: str) -> tuple[list[tuple[str, Face, Template]], list[_Failed]]:
    made: list[tuple[str, Face, Template]] = []
    with analyse.faces(app, data) as found:
        chosen, failed = _choose(found, most, bar)
        for one in chosen:
            try:
                made.append((_face_id(app, image_id, one.face), one.face, analyse.template(app, one)))
            except BadRequest:
                failed.append((one.face, ("no_template",)))
    return made, failed


def _face_id(app: App, image_id: str, face: Face) -> str:
    box = face.box
    place = ",".join(f"{value:.4f}" for value in (box.left, box.top, box.width, box.height))
    return _uuid(app.keyring.mark("face", image_id.encode(), place.encode(), app.models.card.model_version.encode()))


def _uuid(mark: bytes) -> str:
    return str(uuid.UUID(bytes=mark[:16]))


def _choose(found: Sequence[Found], most: int, bar: str) -> tuple[list[Found], list[_Failed]]:
    failed: list[_Failed] = []
    passing = []
    for one in found:
        lack = analyse.shortcoming(one.face, bar)
        if lack is None:
            passing.append(one)
        else:
            failed.append((one.face, (lack,)))
    kept = sorted(passing, key=lambda one: (analyse.shortcoming(one.face, "AUTO") is not None, -one.face.box.area))[:most]
    chosen = [one for one in passing if any(one is other for other in kept)]
    failed += [(one.face, ("crowded",)) for one in passing if not any(one is other for other in kept)]
    failed.sort(key=lambda one: -one[0].box.area)
    return chosen, failed


def _store(
    app: App,
    session: Session,
    collection_id: str,
    image_id: str,
    external_image_id: str | None,
    made: Sequence[tuple[str, Face, Template]],
    *,
    is_whole: bool,
) -> list[Enrolled]:
    enrolled = []
    with app.database.write() as connection:
        collection = app.collections.get(collection_id, connection)
        must_agree(app.models.card, collection)
        new = []
        # A face that is there keeps its id: its box is found again, though a later pack may draw it a little otherwise.
        known = app.collections.faces_of_image(connection, collection, image_id)
        same = paired([face.box for _, face, _ in made], [row.box for row in known])
        for i, (face_id, face, template) in enumerate(made):
            if i in same:
                enrolled.append(Enrolled(known[same[i]].face_id, image_id, face, is_new=False))
                continue
            box = face.box
            row = {
                "face_id": face_id,
                "image_id": image_id,
                "external_image_id": external_image_id,
                "box": [box.left, box.top, box.width, box.height],
                "confidence": face.confidence,
            }
            is_new = app.collections.add_face(connection, collection, row, template)
            if is_new:
                new.append(face_id)
            enrolled.append(Enrolled(face_id, image_id, face, is_new))
        if is_whole:
            app.collections.mark_image(connection, collection, image_id)
        if new:
            app.collections.touch(connection, collection, added=len(new))
            facts = {"collection": collection.id, "face_ids": new, "model_version": app.models.card.model_version}
            app.ledger.append(connection, "faces.enrolled", {**actor(session), **facts})
    return enrolled
