"""The people of a collection and which of its faces are theirs: rows, never templates."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from aboveboard.errors import Conflict, NoSuch
from aboveboard.storage.collections import Collection, touch_faces
from aboveboard.storage.database import Database, now
from aboveboard.storage.schema import COLLECTIONS, FACES, SUBJECTS


@dataclass(frozen=True, slots=True)
class SubjectRow:
    """A person of a collection. `handle` is what the ledger calls him; `n` orders people as they were made."""

    n: int
    subject_id: str
    handle: str
    has_faces: bool

    def withheld(self) -> SubjectRow:
        """The row without what tells who it is."""
        return SubjectRow(self.n, "", self.handle, self.has_faces)


MOST_FACES = 100
"""Faces of one person (Amazon Rekognition's limit)."""

_HAS_FACES = sa.exists().where(FACES.c.subject == SUBJECTS.c.n)
_ROWS = sa.select(SUBJECTS.c.n, SUBJECTS.c.subject_id, SUBJECTS.c.handle, _HAS_FACES.label("has_faces"))
# Built once: SQLAlchemy takes longer to build a statement than SQLite to answer it.
_THESE = SUBJECTS.c.collection == sa.bindparam("collection"), SUBJECTS.c.subject_id.in_(sa.bindparam("subject_ids", expanding=True))
_NAMED = sa.select(SUBJECTS.c.n, SUBJECTS.c.subject_id, SUBJECTS.c.handle).where(*_THESE)
_COUNTS = (
    sa.select(SUBJECTS.c.subject_id, sa.func.count(FACES.c.n).label("faces"))
    .outerjoin(FACES, FACES.c.subject == SUBJECTS.c.n)
    .where(*_THESE)
    .group_by(SUBJECTS.c.n)
)
_ADD = sa.insert(SUBJECTS)
_FACES = sa.select(FACES.c.n).where(
    FACES.c.collection == sa.bindparam("collection"), FACES.c.face_id.in_(sa.bindparam("face_ids", expanding=True))
)
_OWN = (
    sa.update(FACES)
    .where(FACES.c.collection == sa.bindparam("here"), FACES.c.face_id == sa.bindparam("owned"))
    .values(subject=sa.bindparam("owner"))
)


class Subjects:
    """Reads open their own transaction unless given a connection; writes take the caller's, so that rows and ledger entry are one."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, collection: Collection, subject_id: str, connection: sa.Connection | None = None) -> SubjectRow:
        """The person of this id (case-sensitive); raises NoSuch."""
        if connection is None:
            with self._database.read() as own:
                return self.get(collection, subject_id, own)
        row = connection.execute(_ROWS.where(SUBJECTS.c.collection == collection.n, SUBJECTS.c.subject_id == subject_id)).first()
        if row is None:
            raise NoSuch(f"The user id: {subject_id} does not exist")
        return _subject(row)

    def by_handle(self, collection: Collection, handles: Sequence[str]) -> dict[str, SubjectRow]:
        """Those of these handles that are there."""
        if not handles:
            return {}
        with self._database.read() as connection:
            rows = connection.execute(_ROWS.where(SUBJECTS.c.collection == collection.n, SUBJECTS.c.handle.in_(handles)))
            return {row.handle: _subject(row) for row in rows}

    def page(self, collection: Collection, after: int, limit: int) -> list[SubjectRow]:
        """People in the order they were made, those behind row `after`."""
        chosen = _ROWS.where(SUBJECTS.c.collection == collection.n, SUBJECTS.c.n > after).order_by(SUBJECTS.c.n).limit(limit)
        with self._database.read() as connection:
            return [_subject(row) for row in connection.execute(chosen)]

    def create(self, connection: sa.Connection, collection: Collection, subject_id: str) -> SubjectRow:
        """Make a person without faces; raises Conflict where the id is taken."""
        handle = str(uuid.uuid4())
        values = {"collection": collection.n, "subject_id": subject_id, "handle": handle, "created_at": now()}
        try:
            n = connection.execute(sa.insert(SUBJECTS).values(**values).returning(SUBJECTS.c.n)).scalar_one()
        except sa.exc.IntegrityError as error:
            raise Conflict(f"The user id: {subject_id} already exists; choose another, or associate faces with this one.") from error
        _count(connection, collection, COLLECTIONS.c.subject_count, 1)
        return SubjectRow(n, subject_id, handle, False)

    def face_counts(self, connection: sa.Connection, collection: Collection, subject_ids: Sequence[str]) -> dict[str, int]:
        """How many faces those of these people have who are there."""
        chosen = {"collection": collection.n, "subject_ids": list(subject_ids)}
        return {row.subject_id: row.faces for row in connection.execute(_COUNTS, chosen)} if subject_ids else {}

    def enrol(self, connection: sa.Connection, collection: Collection, given: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        """Make faces those of people, by subject id, and the people where they are new; returns the face ids by the people's handles."""
        here, there = {"collection": collection.n}, self.face_counts(connection, collection, list(given))
        if new := [one for one in given if one not in there]:
            rows = [{**here, "subject_id": one, "handle": str(uuid.uuid4()), "created_at": now()} for one in new]
            connection.execute(_ADD, rows)
            _count(connection, collection, COLLECTIONS.c.subject_count, len(new))
        people = {row.subject_id: row for row in connection.execute(_NAMED, {**here, "subject_ids": list(given)})}
        owned = ((people[one].n, face_id) for one, face_ids in given.items() for face_id in face_ids)
        connection.execute(_OWN, [{"here": collection.n, "owner": n, "owned": face_id} for n, face_id in owned])
        _touch(connection, collection, [face_id for face_ids in given.values() for face_id in face_ids])
        return {people[one].handle: list(face_ids) for one, face_ids in given.items()}

    def delete(self, connection: sa.Connection, collection: Collection, subject: SubjectRow) -> None:
        """Remove a person; his faces stay in the collection as nobody's."""
        _touch(connection, collection, self.faces_of(subject, connection))
        connection.execute(sa.delete(SUBJECTS).where(SUBJECTS.c.n == subject.n))
        _count(connection, collection, COLLECTIONS.c.subject_count, -1)

    def faces_of(self, subject: SubjectRow, connection: sa.Connection | None = None) -> list[str]:
        """Face ids of a person, in the order of enrolment."""
        if connection is None:
            with self._database.read() as own:
                return self.faces_of(subject, own)
        chosen = sa.select(FACES.c.face_id).where(FACES.c.subject == subject.n).order_by(FACES.c.n)
        return list(connection.execute(chosen).scalars())

    def give(self, connection: sa.Connection, collection: Collection, face_ids: Sequence[str], subject: SubjectRow | None) -> None:
        """Make faces a person's, or with None nobody's."""
        chosen = FACES.c.collection == collection.n, FACES.c.face_id.in_(list(face_ids))
        connection.execute(sa.update(FACES).where(*chosen).values(subject=subject.n if subject else None))
        _touch(connection, collection, face_ids)


def _touch(connection: sa.Connection, collection: Collection, face_ids: Sequence[str]) -> None:
    chosen = {"collection": collection.n, "face_ids": list(face_ids)}
    touch_faces(connection, collection.n, list(connection.execute(_FACES, chosen).scalars()))


def _count(connection: sa.Connection, collection: Collection, column: sa.Column[int], by: int) -> None:
    connection.execute(sa.update(COLLECTIONS).where(COLLECTIONS.c.n == collection.n).values({column: column + by}))


def _subject(row: Any) -> SubjectRow:
    return SubjectRow(row.n, row.subject_id, row.handle, bool(row.has_faces))
