"""Add faces to a collection and remove them: rows, templates and ledger entry in one transaction."""

from __future__ import annotations

import uuid
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import sqlalchemy as sa

from aboveboard.accountability.gate import actor, must_agree
from aboveboard.accountability.operators import Session
from aboveboard.biometrics.places import paired
from aboveboard.biometrics.vocabulary import Face, Template
from aboveboard.errors import BadRequest
from aboveboard.service import analyse, quality, samples
from aboveboard.service.analyse import Found
from aboveboard.service.app import App
from aboveboard.service.quality import Shortcoming
from aboveboard.service.samples import Sample
from aboveboard.storage.collections import Collection, FaceRow, Record
from aboveboard.storage.subjects import MOST_FACES
from aboveboard.vision import formats

Refusal = Literal["subject_full", "other_subject", "ambiguous"]
"""Why a face was not given to the subject that the records name."""

RIVAL = 0.5
"""Of a photograph that should show one subject: the share of the largest face's area from which on a second one may be meant."""


@dataclass(frozen=True, slots=True)
class Label:
    """What a photograph is enrolled as.

    `subject` is whom it shows, as the office's own records say: then one face of it is enrolled.
    """

    external_image_id: str | None = None
    subject: str | None = None
    record: Record | None = None


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
    """What became of the faces of one image, each list largest face first.

    `is_known`: every face was enrolled before, so that the image was not looked at.
    """

    enrolled: tuple[Enrolled, ...]
    failures_to_enrol: tuple[_Failed, ...]
    model_version: str
    is_known: bool = False
    refused: Refusal | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A photograph of which the templates are made and nothing is stored yet."""

    image_id: str
    label: Label
    made: tuple[tuple[str, Face, Template], ...]
    failed: tuple[_Failed, ...]
    is_known: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether every face of it has a template, so that it need not be looked at again."""
        return bool(self.made) and not self.failed


def index(
    app: App,
    session: Session,
    collection_id: str,
    sample: Sample,
    external_image_id: str | None = None,
    most: int = analyse.MOST_FACES,
    bar: str = "AUTO",
    details: analyse.Details = analyse.DEFAULT,
) -> Indexed:
    """Enrol the faces of a photograph. The same photograph under the same external id makes no second face.

    `most` faces are kept: those below the AUTO bar go first, then the smallest. Acknowledged once it is on the disk.
    """
    collection = app.collections.get(collection_id)
    app.gate.authorise(session, "face.enrol", collection)
    must_agree(app.models.card, collection)
    data = samples.read(app, session, "face.enrol", sample, collection)
    return store(app, session, collection_id, [prepare(app, collection, data, Label(external_image_id), most, bar, details=details)])[0]


def prepare(
    app: App,
    collection: Collection,
    data: bytes,
    label: Label,
    most: int,
    bar: str,
    known: Container[str] | None = None,
    details: analyse.Details = analyse.DEFAULT,
) -> Prepared:
    """The templates of a photograph's faces; writes nothing, and may run in several threads.

    In bulk, which is with the ids of those images that are `known` whole, other formats are converted, and a known image is not looked
    at again: a folder is taken up where it was left, without models.
    """
    image_id = image_mark(app, collection, data, label.external_image_id)
    if known is not None and image_id in known:
        return Prepared(image_id, label, (), (), is_known=True)
    made: list[tuple[str, Face, Template]] = []
    with analyse.faces(app, data if known is None else formats.readable(data, app.settings.max_image_pixels), details) as found:
        chosen, failed = _choose(found, most, bar) if label.subject is None else _only(found, bar)
        for one in chosen:
            try:
                made.append((_face_id(app, image_id, one.face), one.assessed, analyse.template(app, one)))
            except BadRequest:
                failed.append((one.face, ("no_template",)))
    return Prepared(image_id, label, tuple(made), tuple(failed))


def store(app: App, session: Session, collection_id: str, prepared: Sequence[Prepared]) -> list[Indexed]:
    """Enrol what was prepared, all of it in one transaction with one ledger entry. On the disk when it returns."""
    # Again: a folder takes hours, and who was suspended meanwhile enrols no more.
    app.gate.authorise(session, "face.enrol", app.collections.get(collection_id))
    version = app.models.card.model_version
    with app.database.write() as connection:
        collection = app.collections.get(collection_id, connection)
        must_agree(app.models.card, collection)
        rows = app.collections.faces_of_images(connection, collection, [one.image_id for one in prepared])
        prepared = [_found_again(one, [row for row in rows if row.image_id == one.image_id]) for one in prepared] if rows else prepared
        given, refused = _matched(app, connection, collection, prepared, rows)
        taken = [one for i, one in enumerate(prepared) if i not in refused]
        faces = {face_id: (_row(one, face), template) for one in taken for face_id, face, template in one.made}
        new = app.collections.add_faces(connection, collection, faces)
        app.collections.mark_images(connection, collection, [one.image_id for one in taken if one.is_whole])
        records = {one.image_id: one.label.record for one in taken if one.label.record and (one.made or one.is_known)}
        changed = app.collections.put_records(connection, collection, records)
        facts = {**actor(session), "collection": collection.id}
        if new:
            app.collections.touch(connection, collection, added=len(new))
            app.ledger.append(connection, "faces.enrolled", {**facts, "face_ids": new, "model_version": version})
        if given:
            handles = app.subjects.enrol(connection, collection, given)
            app.ledger.append(connection, "subjects.enrolled", {**facts, "subjects": handles})
        if changed:
            app.ledger.append(connection, "records.changed", {**facts, "image_ids": changed})
    fresh, answers = set(new), []
    for i, one in enumerate(prepared):
        refusal = refused.get(i)
        made = () if refusal else one.made
        enrolled = tuple(Enrolled(face_id, one.image_id, face, face_id in fresh) for face_id, face, _ in made)
        answers.append(Indexed(enrolled, one.failed, version, one.is_known, refusal))
    return answers


def _found_again(one: Prepared, rows: Sequence[FaceRow]) -> Prepared:
    """A face that is there keeps its id: its box is found again, though a later pack may draw it a little otherwise."""
    same = paired([face.box for _, face, _ in one.made], [row.box for row in rows])
    made = ((rows[same[i]].face_id if i in same else face_id, face, template) for i, (face_id, face, template) in enumerate(one.made))
    return replace(one, made=tuple(made))


def _row(one: Prepared, face: Face) -> dict[str, Any]:
    box = face.box
    return {
        "image_id": one.image_id,
        "external_image_id": one.label.external_image_id,
        "box": [box.left, box.top, box.width, box.height],
        "confidence": face.confidence,
    }


def _matched(
    app: App, connection: sa.Connection, collection: Collection, prepared: Sequence[Prepared], rows: Sequence[FaceRow]
) -> tuple[dict[str, list[str]], dict[int, Refusal]]:
    """Face ids that are to become subjects', by subject id, and why those of other images cannot, by their place in `prepared`."""
    named = [(i, one, one.label.subject) for i, one in enumerate(prepared) if one.label.subject is not None and (one.made or one.is_known)]
    given, refused = dict[str, list[str]](), dict[int, Refusal]()
    if not named:
        return given, refused
    counts = app.subjects.face_counts(connection, collection, [subject_id for _, _, subject_id in named])
    owners = {row.face_id: row.subject_id for row in rows}
    for i, one, subject_id in named:
        face_ids = [face_id for face_id, _, _ in one.made] or [row.face_id for row in rows if row.image_id == one.image_id]
        if not face_ids:
            continue
        owner = owners.get(face_ids[0])
        mine = given.get(subject_id, [])
        if len(face_ids) > 1:
            refused[i] = "ambiguous"
        elif owner not in (None, subject_id):
            refused[i] = "other_subject"
        elif owner is None and counts.get(subject_id, 0) + len(mine) >= MOST_FACES:
            refused[i] = "subject_full"
        elif owner is None:
            given[subject_id] = [*mine, face_ids[0]]
            owners[face_ids[0]] = subject_id
    return given, refused


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
    if removed:
        app.gate.refresh(collection)
        app.scrub()
    kept = {row.face_id: None if decision.withhold_identities else row.subject_id for row in rows if row.subject_id is not None}
    return Removed(tuple(removed), kept)


def image_mark(app: App, collection: Collection, data: bytes, external_image_id: str | None) -> str:
    """The image's id: a keyed mark, because a plain hash would tell anyone who holds a photograph whether it is enrolled."""
    return next(image_marks(app, collection, data, [external_image_id]))


def image_marks(app: App, collection: Collection, data: bytes, external_image_ids: Iterable[str | None]) -> Iterator[str]:
    """The ids that a photograph has under each of these external ids; its bytes are hashed once."""
    external = ((one or "").encode() for one in external_image_ids)
    return map(_uuid, app.keyring.marks("image", (collection.id.encode(), data), external))


def _face_id(app: App, image_id: str, face: Face) -> str:
    box = face.box
    place = ",".join(f"{value:.4f}" for value in (box.left, box.top, box.width, box.height))
    return _uuid(app.keyring.mark("face", image_id.encode(), place.encode(), app.models.card.model_version.encode()))


def _uuid(mark: bytes) -> str:
    return str(uuid.UUID(bytes=mark[:16]))


def _choose(found: Sequence[Found], most: int, bar: str) -> tuple[list[Found], list[_Failed]]:
    """The faces to enrol, at most so many, and why the others are not: those of low quality go first, then the smallest.

    Largest first, so that where enough good ones are found the rest is not looked at.
    """
    good, low, failed = list[Found](), list[Found](), list[_Failed]()
    for one in found:
        if len(good) == most:
            failed.append((one.face, ("crowded",)))
        elif lacks := one.lacks(bar):
            failed.append((one.assessed if "poor" in lacks else one.face, lacks))
        elif one.lacks("AUTO"):
            low.append(one)
        else:
            good.append(one)
    low.sort(key=lambda one: -(one.assessed.unified or 0.0))
    chosen = good + low[: most - len(good)]
    failed += [(one.face, ("crowded",)) for one in low[most - len(good) :]]
    return sorted(chosen, key=_area), sorted(failed, key=lambda one: -one[0].box.area)


def _only(found: Sequence[Found], bar: str) -> tuple[list[Found], list[_Failed]]:
    """The face that a photograph of one subject shows: its largest, unless another one is nearly as large or it is not good enough."""
    faces = [one for one in found if not _is_unsure(one, bar)]
    failed: list[_Failed] = [(one.face, ("unsure",)) for one in found if _is_unsure(one, bar)]
    if len(faces) > 1 and faces[1].face.box.area >= RIVAL * faces[0].face.box.area:
        return [], [(one.face, ("ambiguous",)) for one in faces] + failed
    failed = [(one.face, ("bystander",)) for one in faces[1:]] + failed
    if faces and (lacks := faces[0].lacks(bar)):
        return [], [(faces[0].assessed, lacks), *failed]
    return faces[:1], failed


def _is_unsure(one: Found, bar: str) -> bool:
    return quality.lacks(one.face, bar, None) == ("unsure",)


def _area(one: Found) -> float:
    return -one.face.box.area
