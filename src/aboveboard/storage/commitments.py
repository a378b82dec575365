"""Which faces are in a gallery, as commitments that anybody can recompute out of the ledger's own entries.

Each collection has two append-only Merkle logs (RFC 9162): of the face ids that were enrolled and of those that were removed, in the order
in which entries name them. What is kept of a log is its size and the roots of its full subtrees; it grows in the transaction of the rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from aboveboard.errors import NoSuch
from aboveboard.storage.merkle import grow, leaf_hash, root_of

Log = Literal["enrolled", "removed"]
# Straight to sqlite3, as for the rows themselves.
_STATE = {
    "enrolled": "SELECT enrolled, enrolled_subtrees FROM collections WHERE n = ?",
    "removed": "SELECT removed, removed_subtrees FROM collections WHERE n = ?",
}
_KEEP = {
    "enrolled": "UPDATE collections SET enrolled = ?, enrolled_subtrees = ? WHERE n = ?",
    "removed": "UPDATE collections SET removed = ?, removed_subtrees = ? WHERE n = ?",
}
_GALLERY = (
    "SELECT id, face_count, generation, enrolled, enrolled_subtrees, removed, removed_subtrees FROM collections "
    "WHERE n = ? AND deleted_at IS NULL"
)
_UNCOMMITTED = "SELECT n, id FROM collections WHERE enrolled_subtrees IS NULL AND deleted_at IS NULL ORDER BY n"
_FACES = "SELECT face_id FROM faces WHERE collection = ? ORDER BY n"


@dataclass(slots=True)
class FaceLog:
    """A Merkle log of face ids: how many, and the roots of its full subtrees, largest first."""

    count: int
    subtrees: list[bytes]

    def add(self, face_ids: Iterable[str]) -> None:
        for face_id in face_ids:
            self.subtrees = grow(self.subtrees, self.count, leaf_hash(face_id.encode()))
            self.count += 1

    def plain(self) -> dict[str, Any]:
        """As an entry says it."""
        return {"count": self.count, "root": root_of(self.subtrees).hex()}


def add_to(connection: sa.Connection, collection: int, log: Log, face_ids: Sequence[str]) -> None:
    """Face ids join a log of a collection, by its row."""
    grown = _read(*connection.exec_driver_sql(_STATE[log], (collection,)).one())
    grown.add(face_ids)
    connection.exec_driver_sql(_KEEP[log], (grown.count, b"".join(grown.subtrees), collection))


def gallery(connection: sa.Connection, collection: int) -> dict[str, Any]:
    """A collection, by its row, as the intent of a look into it names it; raises NoSuch for one that was deleted."""
    row = connection.exec_driver_sql(_GALLERY, (collection,)).first()
    if row is None:
        raise NoSuch("the collection was deleted before it was searched")
    collection_id, faces, generation, *logs = row
    commitment = {"enrolled": _read(*logs[:2]).plain(), "removed": _read(*logs[2:]).plain()}
    return {"id": collection_id, "faces": faces, "generation": generation, "commitment": commitment}


def has_uncommitted(connection: sa.Connection) -> bool:
    """Whether any collection is of a release that committed to none of its faces."""
    return connection.exec_driver_sql(_UNCOMMITTED).first() is not None


def commit(connection: sa.Connection) -> Iterator[dict[str, Any]]:
    """Begin the logs of such collections with the faces that they have, in the order of their rows; yields each as an entry says it.

    `subtrees` are the roots of the full subtrees, largest first: with them a verifier can go on.
    """
    for n, collection_id in connection.exec_driver_sql(_UNCOMMITTED).all():
        log = FaceLog(0, [])
        log.add(connection.exec_driver_sql(_FACES, (n,)).scalars())
        connection.exec_driver_sql(_KEEP["enrolled"], (log.count, b"".join(log.subtrees), n))
        yield {"collection": collection_id, "enrolled": log.plain() | {"subtrees": [one.hex() for one in log.subtrees]}}


def _read(count: int, subtrees: bytes) -> FaceLog:
    return FaceLog(count, [subtrees[i : i + 32] for i in range(0, len(subtrees), 32)])
