"""The ledger: an append-only Merkle log (RFC 9162, section 2.1). What is not in it did not happen."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

import rfc8785
import sqlalchemy as sa

from aboveboard.errors import Unavailable
from aboveboard.storage.database import Database, driver, now
from aboveboard.storage.merkle import grow, leaf_hash, root_of, root_over
from aboveboard.storage.schema import LEDGER, LEDGER_BLOCKS

BLOCK = 256
"""Entries whose common root is kept, so that a proof need not hash the whole log. A power of two."""

# Straight to sqlite3: each of these is run for every look, and through SQLAlchemy's statement machinery takes several times as long.
_STATE = "SELECT size, subtrees, (SELECT entry FROM ledger WHERE seq = size - 1) FROM ledger_state"
_UPDATE_STATE = "UPDATE ledger_state SET size = ?, subtrees = ?"
_INSERT_STATE = "INSERT INTO ledger_state (one, size, subtrees) VALUES (1, ?, ?)"
_INSERT = "INSERT INTO ledger (seq, entry) VALUES (?, ?)"
_INSERT_KEY = "INSERT INTO commitment_keys (audit_id, key) VALUES (?, ?)"
_INSERT_BLOCK = "INSERT INTO ledger_blocks (n, root) VALUES (?, ?)"


class Ledger:
    """Entries are canonical JSON (RFC 8785): `seq` without gaps, `time`, `type` and what the caller gives."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(
        self,
        kind: str,
        facts: Mapping[str, Any],
        commitment_key: bytes | None = None,
        beside: Callable[[sa.Connection, int], None] | None = None,
        now_true: Callable[[sa.Connection], Mapping[str, Any]] | None = None,
    ) -> int:
        """Append one entry and return its `seq` once it is on the disk. Raises Unavailable if it cannot be.

        `commitment_key` is kept outside the log, beside it: destroying it makes the entry's commitments meaningless. `beside` writes, with
        the entry's `seq`, what must be there if and only if the entry is. `now_true` reads facts that must be true as the entry is written.
        """
        with self._database.write() as connection:
            if commitment_key is not None:
                driver(connection).execute(_INSERT_KEY, (facts["audit_id"], commitment_key))
            seq = self.append(connection, kind, facts if now_true is None else {**facts, **now_true(connection)})
            if beside is not None:
                beside(connection, seq)
            return seq

    def append(self, connection: sa.Connection, kind: str, facts: Mapping[str, Any]) -> int:
        """Append one entry inside the caller's transaction: it is in the log if, and only if, the caller's rows are in theirs.

        Where the clock stands before the entry that is the last, an entry of its own says so first.
        """
        size, subtrees, last = self._state(connection)
        time = now()
        if time < last:
            subtrees = self._append(connection, size, subtrees, {"time": time, "type": "clock.set.back", "before": last})
            size += 1
        self._append(connection, size, subtrees, {"time": time, "type": kind, **facts})
        return size

    @staticmethod
    def _append(connection: sa.Connection, size: int, subtrees: list[bytes], facts: Mapping[str, Any]) -> list[bytes]:
        entry = rfc8785.dumps({"seq": size, **facts})
        leaf = leaf_hash(entry)
        grown = grow(subtrees, size, leaf)
        raw = driver(connection)
        raw.execute(_INSERT, (size, entry))
        if (size + 1) % BLOCK == 0:
            raw.execute(_INSERT_BLOCK, (size // BLOCK, root_of([*subtrees[1 - BLOCK.bit_length() :], leaf])))
        raw.execute(_UPDATE_STATE if size else _INSERT_STATE, (size + 1, b"".join(grown)))
        return grown

    def checkpoint(self, connection: sa.Connection | None = None) -> tuple[int, bytes]:
        """How many entries there are and the root over them (32 bytes)."""
        if connection is None:
            with self._database.read() as own:
                return self.checkpoint(own)
        size, subtrees, _ = self._state(connection)
        return size, root_of(subtrees)

    def root_at(self, size: int) -> bytes:
        """The root over the first `size` entries, computed anew; over all, where there are fewer."""
        grown = list[bytes]()
        for count, entry in enumerate(islice(self.entries(), size)):
            grown = grow(grown, count, leaf_hash(entry))
        return root_of(grown)

    def entries(self, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The entries from `start` up to, without, `end`, as they were hashed."""
        chosen = sa.select(LEDGER.c.entry).where(LEDGER.c.seq >= start).order_by(LEDGER.c.seq)
        with self._database.read() as connection:
            for row in connection.execute(chosen if end is None else chosen.where(LEDGER.c.seq < end)):
                yield row.entry

    def fault(self, connection: sa.Connection) -> str:
        """What is wrong with the log: a gap in the sequence, or a root that its entries do not have; empty where it is whole."""
        size, subtrees, _ = self._state(connection)
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

    def block_fault(self, first: int, end: int) -> str:
        """Which of the kept blocks from `first` up to, without, `end` has entries that do not give its root; empty where none has."""
        with self._database.read() as connection:
            kept = connection.execute(sa.select(LEDGER_BLOCKS).where(LEDGER_BLOCKS.c.n.between(first, end - 1))).all()
        for n, root in kept:
            entries = list(self.entries(n * BLOCK, (n + 1) * BLOCK))
            if any(not isinstance(entry, bytes) for entry in entries) or root_over(map(leaf_hash, entries)) != root:
                return f"the entries {n * BLOCK} to {(n + 1) * BLOCK - 1} are not those that were written"
        return ""

    def root(self, start: int, end: int) -> bytes:
        """The root over the entries from `start` up to, without, `end`, for proofs; `start` is a multiple of that tree's largest subtree.

        Blocks of entries are not hashed again: who changed one gets a proof that does not hold.
        """
        chosen = sa.select(LEDGER_BLOCKS).where(LEDGER_BLOCKS.c.n.between(start // BLOCK, end // BLOCK - 1))
        with self._database.read() as connection:
            kept = {row.n: row.root for row in connection.execute(chosen)}
        subtrees: list[bytes] = []
        at = start
        while at < end:
            n = at // BLOCK
            if at % BLOCK == 0 and n in kept:
                subtrees = grow(subtrees, n - start // BLOCK, kept[n])
                at += BLOCK
                continue
            # The rest, or a block of a log that an older release began.
            for entry in self.entries(at, min(end, (n + 1) * BLOCK)):
                subtrees = grow(subtrees, at - start, leaf_hash(entry))
                at += 1
            if at < min(end, (n + 1) * BLOCK):
                raise Unavailable(f"entry {at} is missing; the ledger was changed: export it and see what verify says")
        return root_of(subtrees)

    @staticmethod
    def _state(connection: sa.Connection) -> tuple[int, list[bytes], str]:
        """Size, the roots of the full subtrees, and the last entry's time."""
        row = driver(connection).execute(_STATE).fetchone()
        if row is None:
            return 0, [], ""
        size, subtrees, last = row
        return size, [subtrees[i : i + 32] for i in range(0, len(subtrees), 32)], _time(last)


def _time(entry: bytes | None) -> str:
    """Of an entry; empty where it is gone or was changed so that it has none: the next entry must be written all the same."""
    try:
        time = json.loads(entry or b"{}")["time"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""
    return time if isinstance(time, str) else ""
