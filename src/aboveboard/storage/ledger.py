"""The ledger: an append-only Merkle log (RFC 9162, section 2.1). What is not in it did not happen."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import rfc8785
import sqlalchemy as sa

from aboveboard.storage.database import COMMITMENT_KEYS, LEDGER, LEDGER_STATE, Database, now


def leaf_hash(entry: bytes) -> bytes:
    """SHA-256(0x00 || entry)."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def grow(subtrees: list[bytes], size: int, leaf: bytes) -> list[bytes]:
    """The roots of the full subtrees, largest first, after `leaf` joins a tree of `size` leaves."""
    grown = [*subtrees, leaf]
    while size & 1:
        right, left = grown.pop(), grown.pop()
        grown.append(node_hash(left, right))
        size >>= 1
    return grown


def root_of(subtrees: list[bytes]) -> bytes:
    """The tree's root from the roots of its full subtrees; the hash of nothing for an empty tree."""
    if not subtrees:
        return hashlib.sha256(b"").digest()
    root = subtrees[-1]
    for left in reversed(subtrees[:-1]):
        root = node_hash(left, root)
    return root


_STATE = sa.select(LEDGER_STATE.c.size, LEDGER_STATE.c.subtrees)
_UPDATE_STATE = sa.update(LEDGER_STATE).values(size=sa.bindparam("size"), subtrees=sa.bindparam("subtrees"))
_INSERT, _INSERT_KEY = sa.insert(LEDGER), sa.insert(COMMITMENT_KEYS)


class Ledger:
    """Entries are canonical JSON (RFC 8785): `seq` without gaps, `time`, `type` and what the caller gives."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, kind: str, facts: Mapping[str, Any], commitment_key: bytes | None = None) -> int:
        """Append one entry and return its `seq` once it is on the disk. Raises Unavailable if it cannot be.

        `commitment_key` is kept outside the log, beside it: destroying it makes the entry's commitment meaningless.
        """
        with self._database.write() as connection:
            if commitment_key is not None:
                connection.execute(_INSERT_KEY, {"audit_id": facts["audit_id"], "key": commitment_key})
            return self.append(connection, kind, facts)

    def append(self, connection: sa.Connection, kind: str, facts: Mapping[str, Any]) -> int:
        """Append one entry inside the caller's transaction: it is in the log if, and only if, the caller's rows are in theirs."""
        size, subtrees = self._state(connection)
        entry = rfc8785.dumps({"seq": size, "time": now(), "type": kind, **facts})
        grown = grow(subtrees, size, leaf_hash(entry))
        connection.execute(_INSERT, {"seq": size, "entry": entry})
        values = {"size": size + 1, "subtrees": b"".join(grown)}
        if size:
            connection.execute(_UPDATE_STATE, values)
        else:
            connection.execute(sa.insert(LEDGER_STATE).values(one=1, **values))
        return size

    def checkpoint(self, connection: sa.Connection | None = None) -> tuple[int, bytes]:
        """How many entries there are and the root over them (32 bytes)."""
        if connection is None:
            with self._database.read() as own:
                return self.checkpoint(own)
        size, subtrees = self._state(connection)
        return size, root_of(subtrees)

    def root_at(self, size: int) -> bytes:
        """The root over the first `size` entries, computed anew; over all, where there are fewer."""
        grown = list[bytes]()
        for count, entry in enumerate(islice(self.entries(), size)):
            grown = grow(grown, count, leaf_hash(entry))
        return root_of(grown)

    def entries(self, start: int = 0) -> Iterator[bytes]:
        """The entries from `start` on, as they were hashed."""
        with self._database.read() as connection:
            for row in connection.execute(sa.select(LEDGER.c.entry).where(LEDGER.c.seq >= start).order_by(LEDGER.c.seq)):
                yield row.entry

    def fault(self, connection: sa.Connection) -> str:
        """What is wrong with the log: a gap in the sequence, or a root that its entries do not have; empty where it is whole."""
        size, subtrees = self._state(connection)
        grown, count = list[bytes](), 0
        for row in connection.execute(sa.select(LEDGER).order_by(LEDGER.c.seq)):
            if row.seq != count:
                return f"entry {count} is missing"
            if not isinstance(row.entry, bytes):
                return f"entry {count} is damaged"
            grown = grow(grown, count, leaf_hash(row.entry))
            count += 1
        if count != size:
            return f"it has {count} entries, not {size}"
        return "" if grown == subtrees else f"the root of its {size} entries is {root_of(grown).hex()}, not {root_of(subtrees).hex()}"

    @staticmethod
    def _state(connection: sa.Connection) -> tuple[int, list[bytes]]:
        row = connection.execute(_STATE).first()
        if row is None:
            return 0, []
        return row.size, [row.subtrees[i : i + 32] for i in range(0, len(row.subtrees), 32)]
