"""Collections, their faces and their tags. Templates are written here beside their rows, and never read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import sqlalchemy as sa

from aboveboard.biometrics.vocabulary import Box, Template
from aboveboard.errors import Exists, NoSuch
from aboveboard.storage.database import COLLECTIONS, FACES, IMAGES, SUBJECTS, TAGS, TEMPLATES, Database, now


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


_CHUNK = 500
"""Ids in one statement."""

# Built once: SQLAlchemy takes longer to build a statement than SQLite to answer it.
_BY_ID = (
    sa.select(COLLECTIONS, TAGS.c.key, TAGS.c.value)
    .outerjoin(TAGS, TAGS.c.collection == COLLECTIONS.c.n)
    .where(COLLECTIONS.c.id == sa.bindparam("id"))
)


_FACES = sa.select(FACES, SUBJECTS.c.subject_id).outerjoin(SUBJECTS, SUBJECTS.c.n == FACES.c.subject)


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
            values = {"id": collection_id, "model_version": model_version, "model": model, "created_at": now()}
            made = connection.execute(sa.insert(COLLECTIONS).values(**values))
        except sa.exc.IntegrityError as error:
            raise Exists(f"The collection id: {collection_id} already exists.") from error
        n = int(made.inserted_primary_key[0])  # type: ignore[index]
        self.set_tags(connection, n, tags)
        return n

    def delete(self, connection: sa.Connection, collection: Collection) -> None:
        """Remove a collection with its faces, templates and tags."""
        connection.execute(sa.delete(COLLECTIONS).where(COLLECTIONS.c.n == collection.n))

    def page(self, after: int, limit: int) -> list[tuple[int, str, str]]:
        """Row, id and model version of collections in the order they were made, those behind row `after`."""
        query = sa.select(COLLECTIONS.c.n, COLLECTIONS.c.id, COLLECTIONS.c.model_version).where(COLLECTIONS.c.n > after)
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

    def add_face(self, connection: sa.Connection, collection: Collection, face: Mapping[str, Any], template: Template) -> bool:
        """Add a face's row and its template; False if the collection holds this face id already."""
        made = connection.execute(sa.insert(FACES).prefix_with("OR IGNORE", dialect="sqlite").values(collection=collection.n, **face))
        if made.rowcount:
            vector = np.ascontiguousarray(template.vector, "<f4").tobytes()
            connection.execute(sa.insert(TEMPLATES).values(face=made.inserted_primary_key[0], vector=vector))  # type: ignore[index]
        return bool(made.rowcount)

    def remove_faces(self, connection: sa.Connection, collection: Collection, face_ids: Sequence[str]) -> None:
        """Remove faces with their templates."""
        there = list(face_ids)
        for start in range(0, len(there), _CHUNK):
            rows = FACES.c.collection == collection.n, FACES.c.face_id.in_(there[start : start + _CHUNK])
            # The memory that an image was indexed goes with its face: indexing it again must enrol it again.
            images = sa.select(FACES.c.image_id).where(*rows)
            connection.execute(sa.delete(IMAGES).where(IMAGES.c.collection == collection.n, IMAGES.c.image_id.in_(images)))
            connection.execute(sa.delete(FACES).where(*rows))

    def mark_image(self, connection: sa.Connection, collection: Collection, image_id: str) -> None:
        """Remember that every face of an image was enrolled."""
        values = {"collection": collection.n, "image_id": image_id}
        connection.execute(sa.insert(IMAGES).prefix_with("OR IGNORE", dialect="sqlite").values(**values))

    def is_marked(self, collection: Collection, image_id: str) -> bool:
        """Whether every face of an image was enrolled and none removed since."""
        query = sa.select(IMAGES.c.image_id).where(IMAGES.c.collection == collection.n, IMAGES.c.image_id == image_id)
        with self._database.read() as connection:
            return connection.execute(query).first() is not None

    def touch(self, connection: sa.Connection, collection: Collection, added: int = 0, removed: int = 0) -> None:
        """Note a write: every process that searches this collection sees it at its next search."""
        change = {
            "generation": COLLECTIONS.c.generation + 1,
            "removals": COLLECTIONS.c.removals + (1 if removed else 0),
            "face_count": COLLECTIONS.c.face_count + added - removed,
        }
        connection.execute(sa.update(COLLECTIONS).where(COLLECTIONS.c.n == collection.n).values(change))

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

    def faces_of_image(self, connection: sa.Connection, collection: Collection, image_id: str) -> list[FaceRow]:
        """The faces that were enrolled of an image, in the order of enrolment."""
        query = _FACES.where(FACES.c.collection == collection.n, FACES.c.image_id == image_id).order_by(FACES.c.n)
        return [_face(row) for row in connection.execute(query)]

    def face_page(self, collection: Collection, after: int, limit: int) -> list[FaceRow]:
        """Faces in the order of enrolment, those behind row `after`."""
        query = _FACES.where(FACES.c.collection == collection.n, FACES.c.n > after).order_by(FACES.c.n).limit(limit)
        with self._database.read() as connection:
            return [_face(row) for row in connection.execute(query)]


def _face(row: Any) -> FaceRow:
    return FaceRow(row.n, row.face_id, row.image_id, row.external_image_id, Box(*row.box), row.confidence, row.subject_id)
