"""Collections, their faces and their tags. Templates are written here beside their rows, and never read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import sqlalchemy as sa

from aboveboard.biometrics.vocabulary import Box, Template
from aboveboard.errors import Exists, NoSuch
from aboveboard.storage import commitments
from aboveboard.storage.database import Database, now
from aboveboard.storage.schema import COLLECTIONS, FACES, IMAGES, RECORDS, SUBJECTS, TAGS, TOUCHED


@dataclass(frozen=True, slots=True)
class Collection:
    """A gallery as a stored thing. `n` is its row: a collection that is deleted and made anew under the same id is another one."""

    n: int
    id: str
    model_version: str
    model: str
    created_at: str
    face_count: int
    subject_count: int
    generation: int
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class FaceRow:
    """An enrolled face, without its template. `n` orders faces by enrolment."""

    n: int
    face_id: str
    image_id: str
    external_image_id: str | None
    box: Box
    confidence: float
    subject_id: str | None = None

    def withheld(self) -> FaceRow:
        """The row without what tells who it is."""
        return replace(self, image_id="", external_image_id=None, subject_id=None)


@dataclass(frozen=True, slots=True)
class Record:
    """What an office keeps about an enrolled photograph: where the original is, when it was taken (ISO date), why it may be held,
    what became of the case, and when it must go (ISO date)."""

    source: str | None = None
    taken_on: str | None = None
    legal_basis: str | None = None
    disposition: str | None = None
    expires_on: str | None = None


_CHUNK = 500
"""Ids in one statement."""
TOUCHES_KEPT, TOUCHES_PER_TRIM = 100_000, 1000
"""Of a collection's touched faces: how many are kept, and every how many touches older ones go."""

# Built once: SQLAlchemy takes longer to build a statement than SQLite to answer it.
_BY_ID = (
    sa.select(COLLECTIONS, TAGS.c.key, TAGS.c.value)
    .outerjoin(TAGS, TAGS.c.collection == COLLECTIONS.c.n)
    .where(COLLECTIONS.c.id == sa.bindparam("id"), COLLECTIONS.c.deleted_at.is_(None))
)
_FACES = sa.select(FACES, SUBJECTS.c.subject_id).outerjoin(SUBJECTS, SUBJECTS.c.n == FACES.c.subject)
_HERE: sa.BindParameter[int] = sa.bindparam("collection")
_THESE: sa.BindParameter[list[str]] = sa.bindparam("image_ids", expanding=True)
_OF_IMAGES = _FACES.where(FACES.c.collection == _HERE, FACES.c.image_id.in_(_THESE)).order_by(FACES.c.n)
_IMAGES_OF = sa.select(FACES.c.n, FACES.c.image_id).where(
    FACES.c.collection == _HERE, FACES.c.face_id.in_(sa.bindparam("face_ids", expanding=True))
)
# Straight to sqlite3: SQLAlchemy takes twice as long to hand over a row as SQLite to keep it.
_KNOWN = "SELECT face_id FROM faces WHERE collection = ? AND face_id IN (SELECT value FROM json_each(?))"
_LAST = "SELECT seq FROM sqlite_sequence WHERE name = 'faces'"
_ADD_FACES = (
    "INSERT INTO faces (n, collection, face_id, image_id, external_image_id, box, confidence, subject) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_COUNT = "UPDATE collections SET generation = generation + 1, face_count = face_count + ? WHERE n = ?"
_ADD_TEMPLATES = "INSERT INTO templates (face, vector) VALUES (?, ?)"
_MARK = sa.insert(IMAGES).prefix_with("OR IGNORE", dialect="sqlite")
_MARKED = sa.select(IMAGES.c.image_id).where(IMAGES.c.collection == _HERE)
_RECORDS = sa.select(RECORDS.c.image_id, *(RECORDS.c[one.name] for one in fields(Record))).where(
    RECORDS.c.collection == _HERE, RECORDS.c.image_id.in_(_THESE)
)
_TOUCH = (
    sa.update(COLLECTIONS)
    .where(COLLECTIONS.c.n == _HERE)
    .values(touches=COLLECTIONS.c.touches + sa.bindparam("count"), generation=COLLECTIONS.c.generation + 1)
    .returning(COLLECTIONS.c.touches)
)
_LOG = sa.insert(TOUCHED)
_TRIM = sa.delete(TOUCHED).where(TOUCHED.c.collection == _HERE, TOUCHED.c.touch <= sa.bindparam("last"))
_PUT_RECORD = sa.insert(RECORDS).prefix_with("OR REPLACE", dialect="sqlite")


class Collections:
    """Reads open their own transaction; writes take the caller's connection, so that rows and ledger entry are one."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, collection_id: str, connection: sa.Connection | None = None) -> Collection:
        """The collection of this id (case-sensitive); raises NoSuch."""
        if connection is None:
            with self._database.read() as own:
                return self.get(collection_id, own)
        rows = connection.execute(_BY_ID, {"id": collection_id}).all()
        if not rows:
            raise NoSuch(f"The collection id: {collection_id} does not exist")
        row = rows[0]
        return Collection(
            row.n, row.id, row.model_version, row.model, row.created_at, row.face_count, row.subject_count, row.generation,
            {row.key: row.value for row in rows if row.key is not None},
        )  # fmt: skip

    def create(self, connection: sa.Connection, collection_id: str, model_version: str, model: str, tags: Mapping[str, str]) -> int:
        """Make a collection and return its row; raises Exists."""
        try:
            values = {"id": collection_id, "model_version": model_version, "model": model, "created_at": now(), "enrolled_subtrees": b""}
            n: int = connection.execute(sa.insert(COLLECTIONS).values(**values).returning(COLLECTIONS.c.n)).scalar_one()
        except sa.exc.IntegrityError as error:
            raise Exists(f"The collection id: {collection_id} already exists.") from error
        self.set_tags(connection, n, tags)
        return n

    def delete(self, connection: sa.Connection, collection: Collection) -> None:
        """Take a collection away from every reader and free its id; `Erasures` takes up its rows."""
        # No collection can be named with a stroke in its id.
        change = {"id": f"/deleted/{collection.n}/{collection.id}", "deleted_at": now()}
        connection.execute(sa.update(COLLECTIONS).where(COLLECTIONS.c.n == collection.n).values(change))

    def page(self, after: int, limit: int) -> list[tuple[int, str, str]]:
        """Row, id and model version of collections in the order they were made, those behind row `after`."""
        query = sa.select(COLLECTIONS.c.n, COLLECTIONS.c.id, COLLECTIONS.c.model_version)
        query = query.where(COLLECTIONS.c.n > after, COLLECTIONS.c.deleted_at.is_(None))
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(COLLECTIONS.c.n).limit(limit))
            return [(row.n, row.id, row.model_version) for row in rows]

    def set_tags(self, connection: sa.Connection, n: int, tags: Mapping[str, str]) -> None:
        """Add tags or overwrite those of the same key."""
        if tags:
            self.remove_tags(connection, n, tags)
            rows = [{"collection": n, "key": key, "value": value} for key, value in tags.items()]
            connection.execute(sa.insert(TAGS), rows)

    def remove_tags(self, connection: sa.Connection, n: int, keys: Iterable[str]) -> None:
        """Remove tags; keys that are not there are passed over."""
        connection.execute(sa.delete(TAGS).where(TAGS.c.collection == n, TAGS.c.key.in_(list(keys))))

    def add_faces(
        self, connection: sa.Connection, collection: Collection, faces: Mapping[str, tuple[Mapping[str, Any], Template]]
    ) -> list[str]:
        """Add faces' rows and their templates, by face id; returns the ids of those that the collection did not hold already."""
        if not faces:
            return []
        raw = connection.exec_driver_sql
        known = set(raw(_KNOWN, (collection.n, json.dumps(list(faces)))).scalars())
        new = [face_id for face_id in faces if face_id not in known]
        if new:
            # Nobody else writes meanwhile; numbered here, faces need not be read again to be given their templates.
            first = (raw(_LAST).scalar() or 0) + 1
            raw(_ADD_FACES, [(n, collection.n, face_id, *_columns(faces[face_id][0])) for n, face_id in enumerate(new, first)])
            vectors = (np.ascontiguousarray(faces[face_id][1].vector, "<f4").data for face_id in new)
            raw(_ADD_TEMPLATES, list(enumerate(vectors, first)))
            commitments.add_to(connection, collection.n, "enrolled", new)
        return new

    def remove_faces(self, connection: sa.Connection, collection: Collection, face_ids: Sequence[str]) -> None:
        """Remove faces of the collection with their templates."""
        for start in range(0, len(face_ids), _CHUNK):
            chosen = {"collection": collection.n, "face_ids": face_ids[start : start + _CHUNK]}
            rows = connection.execute(_IMAGES_OF, chosen).all()
            numbers, sources = [row.n for row in rows], {row.image_id for row in rows}
            touch_faces(connection, collection.n, numbers)
            # The memory that an image was indexed goes with its face: indexing it again must enrol it again.
            connection.execute(sa.delete(IMAGES).where(IMAGES.c.collection == collection.n, IMAGES.c.image_id.in_(sources)))
            connection.execute(sa.delete(FACES).where(FACES.c.n.in_(numbers)))
            self._drop_records(connection, collection, sources)
        commitments.add_to(connection, collection.n, "removed", face_ids)

    @staticmethod
    def _drop_records(connection: sa.Connection, collection: Collection, image_ids: Iterable[str]) -> None:
        """Forget the records of those images of which no face is left."""
        left = sa.select(FACES.c.image_id).where(FACES.c.collection == collection.n, FACES.c.image_id == RECORDS.c.image_id)
        mine = RECORDS.c.collection == collection.n, RECORDS.c.image_id.in_(list(image_ids))
        connection.execute(sa.delete(RECORDS).where(*mine, ~left.exists()))

    def put_records(self, connection: sa.Connection, collection: Collection, records: Mapping[str, Record]) -> list[str]:
        """Keep what is known of enrolled images, beside what was known before; returns the images whose earlier record that changed."""
        before = self.records(collection, list(records), connection)
        after = {image_id: _joined(before.get(image_id), record) for image_id, record in records.items()}
        fresh = {image_id: record for image_id, record in after.items() if record != before.get(image_id)}
        if fresh:
            empty = {"collection": collection.n, **dict.fromkeys(Record.__slots__)}
            connection.execute(_PUT_RECORD, [{**empty, "image_id": image_id, **_known(record)} for image_id, record in fresh.items()])
        return [image_id for image_id in fresh if image_id in before]

    def records(self, collection: Collection, image_ids: Sequence[str], connection: sa.Connection | None = None) -> dict[str, Record]:
        """The records of those of these images that have one."""
        if connection is None:
            with self._database.read() as own:
                return self.records(collection, image_ids, own)
        found: dict[str, Record] = {}
        for start in range(0, len(image_ids), _CHUNK):
            chosen = {"collection": collection.n, "image_ids": image_ids[start : start + _CHUNK]}
            found.update((image_id, Record(*values)) for image_id, *values in connection.execute(_RECORDS, chosen))
        return found

    def mark_images(self, connection: sa.Connection, collection: Collection, image_ids: Sequence[str]) -> None:
        """Remember that every face of these images was enrolled."""
        if image_ids:
            connection.execute(_MARK, [{"collection": collection.n, "image_id": image_id} for image_id in image_ids])

    def marked_images(self, collection: Collection) -> frozenset[str]:
        """The images of which every face was enrolled and none removed since."""
        with self._database.read() as connection:
            return frozenset(connection.execute(_MARKED, {"collection": collection.n}).scalars())

    def touch(self, connection: sa.Connection, collection: Collection, added: int = 0, removed: int = 0) -> None:
        """Note a write: every process that searches this collection sees it at its next search."""
        connection.exec_driver_sql(_COUNT, (added - removed, collection.n))

    def faces(self, collection: Collection, face_ids: Sequence[str], connection: sa.Connection | None = None) -> list[FaceRow]:
        """The faces of these ids that are there, in the order given."""
        if not face_ids:
            return []
        if connection is None:
            with self._database.read() as own:
                return self.faces(collection, face_ids, own)
        found: dict[str, FaceRow] = {}
        for start in range(0, len(face_ids), _CHUNK):
            chosen = FACES.c.face_id.in_(face_ids[start : start + _CHUNK])
            for row in connection.execute(_FACES.where(FACES.c.collection == collection.n, chosen)):
                found[row.face_id] = _face(row)
        return [found[face_id] for face_id in dict.fromkeys(face_ids) if face_id in found]

    def faces_of_images(self, connection: sa.Connection, collection: Collection, image_ids: Sequence[str]) -> list[FaceRow]:
        """The faces that were enrolled of these images, in the order of enrolment."""
        found: list[FaceRow] = []
        for start in range(0, len(image_ids), _CHUNK):
            chosen = {"collection": collection.n, "image_ids": image_ids[start : start + _CHUNK]}
            found += [_face(row) for row in connection.execute(_OF_IMAGES, chosen)]
        return found

    def face_page(self, collection: Collection, after: int, limit: int) -> list[FaceRow]:
        """Faces in the order of enrolment, those behind row `after`."""
        query = _FACES.where(FACES.c.collection == collection.n, FACES.c.n > after).order_by(FACES.c.n).limit(limit)
        with self._database.read() as connection:
            return [_face(row) for row in connection.execute(query)]


def touch_faces(connection: sa.Connection, collection: int, faces: Sequence[int]) -> None:
    """Note faces, by their rows, that are removed or become another subject's: whoever holds them in memory looks at them again."""
    if not faces:
        return
    last = connection.execute(_TOUCH, {"collection": collection, "count": len(faces)}).scalar_one()
    before = last - len(faces)
    connection.execute(_LOG, [{"collection": collection, "touch": touch, "face": n} for touch, n in enumerate(faces, before + 1)])
    if last // TOUCHES_PER_TRIM > before // TOUCHES_PER_TRIM:
        connection.execute(_TRIM, {"collection": collection, "last": last - TOUCHES_KEPT})


def _columns(face: Mapping[str, Any]) -> tuple[Any, ...]:
    """A face's own columns, in the order in which they are added."""
    return face["image_id"], face.get("external_image_id"), json.dumps(face["box"]), face["confidence"], face.get("subject")


def _face(row: Any) -> FaceRow:
    return FaceRow(row.n, row.face_id, row.image_id, row.external_image_id, Box(*row.box), row.confidence, row.subject_id)


def _joined(before: Record | None, now: Record) -> Record:
    """What was known and what is known now, which goes first."""
    return replace(before or Record(), **_known(now))


def _known(record: Record) -> dict[str, str]:
    return {name: value for name in Record.__slots__ if (value := getattr(record, name)) is not None}
