"""Collections that were deleted and whose rows are still there: erased a slice at a time, so that nobody waits for long."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from aboveboard.storage.database import Database
from aboveboard.storage.schema import COLLECTIONS, FACES, IMAGES, RECORDS, REQUESTS, SUBJECTS, TAGS, TOUCHED

SLICE = 1000
"""Rows that one transaction erases."""


@dataclass(frozen=True, slots=True)
class Erasure:
    """A deleted collection: its row, the id that it had, how many faces it had, when it was deleted."""

    n: int
    collection_id: str
    faces: int
    deleted_at: str


_PENDING = sa.select(COLLECTIONS).where(COLLECTIONS.c.deleted_at.is_not(None)).order_by(COLLECTIONS.c.n)


# Templates, those of a re-indexing too, go with their faces.
_ERASED = (
    (FACES, "n"),
    (SUBJECTS, "n"),
    (IMAGES, "image_id"),
    (RECORDS, "image_id"),
    (REQUESTS, "token"),
    (TOUCHED, "touch"),
    (TAGS, "key"),
)


def _some(table: sa.Table, name: str, rows: int) -> sa.Delete:
    key, of_it = table.c[name], table.c.collection == sa.bindparam("collection")
    some = key.in_(sa.select(key).where(of_it).order_by(key).limit(rows))
    # Where the key stands alone SQLite might else go through all of the collection for the few.
    return sa.delete(table).where(some if len(table.primary_key) == 1 else sa.and_(of_it, some))


_SLICES = tuple(_some(table, name, SLICE) for table, name in _ERASED)


class Erasures:
    """Reads open their own transaction; writes take the caller's connection, so that rows and ledger entry are one."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def pending(self) -> list[Erasure]:
        """Collections that were deleted and are not erased yet, of any process."""
        with self._database.read() as connection:
            rows = connection.execute(_PENDING).all()
        # The id behind the third stroke: see Collections.delete.
        return [Erasure(row.n, row.id.split("/", 3)[3], row.face_count, row.deleted_at) for row in rows]

    def slice(self, connection: sa.Connection, erasure: Erasure) -> int:
        """Erase some rows of a deleted collection, faces first, and return how many; 0 when its own row alone is left."""
        rows = (connection.execute(statement, {"collection": erasure.n}).rowcount for statement in _SLICES)
        return next(filter(None, rows), 0)

    def end(self, connection: sa.Connection, erasure: Erasure) -> bool:
        """Remove the collection's own row, the last; False where somebody else did."""
        return bool(connection.execute(sa.delete(COLLECTIONS).where(COLLECTIONS.c.n == erasure.n)).rowcount)
