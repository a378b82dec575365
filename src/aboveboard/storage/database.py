"""The database: SQLite in write-ahead mode, every commit synced to the disk before it is acknowledged."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa

from aboveboard.errors import Unavailable
from aboveboard.storage.schema import METADATA, MIGRATIONS, SCHEMA, VERSION

_AGAIN_S = 0.1
"""After which a write-ahead log that somebody reads is tried to be emptied again."""


def now() -> str:
    """The time as the ledger writes it: RFC 3339, UTC, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


_PAGES = 1024
"""Pages of a snapshot that are copied at once (4 MiB)."""
_WRITABLE = "the data folder must be on a disk that can be written to, and belong to the user who runs the program"
MEND = "see what is with: aboveboard doctor, and put a backup in its place with: aboveboard restore DIR --replace"
_DAMAGED = f"it is damaged; {MEND}; "
_MENDS = {
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
    sqlite3.SQLITE_CONSTRAINT: _DAMAGED,
    sqlite3.SQLITE_FULL: "make room on the disk of the data folder; ",
    sqlite3.SQLITE_READONLY: f"{_WRITABLE}; ",
    sqlite3.SQLITE_CANTOPEN: f"{_WRITABLE}; ",
    sqlite3.SQLITE_IOERR: "the disk of the data folder is full or fails; ",
}


class Database:
    """One SQLite file. `read` and `write` give a connection in a transaction; a failing disk raises Unavailable, nothing half-written.

    `read_only` opens a file as it is, of any schema: it is neither made nor changed, and `write` fails.
    """

    def __init__(self, file: Path, *, read_only: bool = False) -> None:
        self.file = file
        self._engine = sa.create_engine(
            _address(file) if read_only else f"sqlite:///{file}",
            connect_args={"timeout": 30},
            pool_size=16,
            pool_reset_on_return=None,
            hide_parameters=True,
        )
        self._scrubs, self._is_truncating, self._lock = 0, False, threading.Lock()
        sa.event.listen(self._engine, "connect", _configure_reader if read_only else self._configure)
        sa.event.listen(self._engine, "checkin", self._checked_in)
        sa.event.listen(self._engine, "begin", _begin)
        if not read_only:
            self._make()

    def _make(self) -> None:
        file = self.file
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Made by us, for its owner alone; SQLite gives the files beside it the same mode.
            os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            raise Unavailable(f"{file} cannot be opened for writing ({error.strerror}); {_WRITABLE}") from error
        with self.write() as connection:
            METADATA.create_all(connection)
            version = connection.execute(sa.select(VERSION.c.version)).scalar()
            if version is None:
                connection.execute(sa.insert(VERSION).values(version=SCHEMA))
            elif version > SCHEMA:
                raise Unavailable(f"{file} has schema {version}, this program knows {SCHEMA}; use the release that wrote it or a newer one")
            else:
                for step in range(version + 1, SCHEMA + 1):
                    for statement in MIGRATIONS[step]:
                        connection.exec_driver_sql(statement)
                    connection.execute(sa.update(VERSION).values(version=step))

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A connection that sees one snapshot."""
        with self._transaction(immediate=False) as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A connection that may write; committed and on the disk when the block ends, rolled back if it raises."""
        with self._transaction(immediate=True) as connection:
            yield connection

    @contextmanager
    def _transaction(self, *, immediate: bool) -> Iterator[sa.Connection]:
        try:
            with self._engine.connect().execution_options(immediate=immediate) as connection, connection.begin():
                yield connection
        except (json.JSONDecodeError, UnicodeDecodeError) as error:  # in a column of JSON, in the schema's text
            raise Unavailable(f"the database does not answer ({error}); {_DAMAGED}nothing was written") from error
        except (sa.exc.DatabaseError, sqlite3.DatabaseError) as error:
            said = getattr(error, "orig", error)
            code = getattr(said, "sqlite_errorcode", None)
            # An id that is taken is the caller's business; no caller refers to a row that is not there.
            if isinstance(error, sa.exc.IntegrityError) and code != sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY:
                raise
            is_undecodable = code is None and "decode" in str(said)  # no error of SQLite's: Python's, about a damaged text
            mend = _DAMAGED if is_undecodable else _MENDS.get((code or 0) & 0xFF, "")
            raise Unavailable(f"the database does not answer ({_without_values(said)}); {mend}nothing was written") from error

    def damage(self) -> list[str]:
        """What SQLite finds wrong in the file's structure, as `table: page and fault`; takes a second for a gigabyte that is in memory.

        A byte that changed inside a value is not found: SQLite keeps no checksums.
        """
        try:
            with self.read() as connection:
                return damage(connection)
        except Unavailable as error:
            return [error.message]

    def snapshot(self, to: Path, progress: Callable[[int, int], None]) -> None:
        """Copy the database as it is now into a new file (mode 0600), while others go on writing. `progress`: pages done, of how many.

        The copy needs no files beside it. Raises Unavailable where it cannot be written whole.
        """
        with self.read() as connection:
            source = driver(connection)
            # The first read fixes what this transaction sees: without one, every write of others would start the copy anew.
            source.execute("SELECT 1 FROM sqlite_master").fetchone()
            try:
                os.close(os.open(to, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
                with closing(sqlite3.connect(to, isolation_level=None)) as copy:
                    copy.execute("PRAGMA synchronous=OFF")  # whoever asked for it syncs it, whole
                    source.backup(copy, pages=_PAGES, progress=lambda _, left, total: progress(total - left, total))
                    copy.execute("PRAGMA journal_mode=DELETE")
            except (sqlite3.Error, OSError) as error:
                raise Unavailable(f"the copy {to} cannot be written ({error}); is its disk full?") from error

    def scrub(self) -> None:
        """Leave nothing of what was deleted: not in the connections' page caches, not in the write-ahead log.

        Transactions that are open now keep what they see until they end; the log is then emptied in the background.
        """
        with self._lock:
            self._scrubs += 1
        self._engine.dispose()
        if self._truncated():
            return
        with self._lock:
            if self._is_truncating:
                return
            self._is_truncating = True
        threading.Thread(target=self._truncate, name="scrub", daemon=True).start()

    def _truncate(self) -> None:
        """Empty the write-ahead log, again if another scrub came meanwhile."""
        while True:
            scrubs = self._scrubs
            while not self._truncated():
                time.sleep(_AGAIN_S)
            with self._lock:
                if scrubs == self._scrubs:
                    self._is_truncating = False
                    return

    def _truncated(self) -> bool:
        """Whether all of the write-ahead log could be moved to the database and the log emptied; waits for nobody."""
        try:
            with closing(sqlite3.connect(self.file, timeout=0)) as connection:
                return not connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        except sqlite3.Error:
            return False

    def close(self) -> None:
        self._engine.dispose()

    def _configure(self, connection: sqlite3.Connection, record: sa.pool.ConnectionPoolEntry) -> None:
        record.info["scrubs"] = self._scrubs
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
            connection.execute(f"PRAGMA {pragma}")

    def _checked_in(self, _: Any, record: sa.pool.ConnectionPoolEntry) -> None:
        if record.info.get("scrubs", self._scrubs) != self._scrubs:
            record.invalidate()


def driver(connection: sa.Connection) -> sqlite3.Connection:
    """The driver's own connection, inside the same transaction."""
    raw = connection.connection.dbapi_connection
    assert isinstance(raw, sqlite3.Connection)
    return raw


def _without_values(error: object) -> str:
    """An error of the driver without the text that it could not decode: that may be a name."""
    return str(error).partition(" with text ")[0]


def damage(connection: sa.Connection, check: str = "quick_check") -> list[str]:
    """What SQLite's `quick_check`, or the slower `integrity_check`, finds wrong, as `table: page and fault`; empty for a whole file."""
    raw = driver(connection)
    if (said := _said(raw, check)) == ["ok"]:
        return []
    try:
        tables = raw.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage > 0").fetchall()
    except (sqlite3.DatabaseError, UnicodeDecodeError):
        tables = []
    named = [f"{table}: {line}" for (table,) in tables for line in _said(raw, check, table) if line != "ok"]
    raw.rollback()  # even a transaction that only reads cannot be committed any more
    return named or said


_CHECKS = {
    "quick_check": ("SELECT * FROM pragma_quick_check", "SELECT * FROM pragma_quick_check(?)"),
    "integrity_check": ("SELECT * FROM pragma_integrity_check", "SELECT * FROM pragma_integrity_check(?)"),
}
"""Each for the whole file and for one table."""


def _said(raw: sqlite3.Connection, check: str, *table: str) -> list[str]:
    statement = _CHECKS[check][len(table)]
    try:
        rows = raw.execute(statement, table).fetchall()
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise
        try:  # the first row tells the pages; the damage that they have keeps SQLite from giving the next
            rows = raw.execute(f"{statement} LIMIT 1", table).fetchall()
        except (sqlite3.DatabaseError, UnicodeDecodeError):
            rows = [(str(error),)]
    return [line for (text,) in rows for line in str(text).splitlines() if not line.startswith("***")]


def _address(file: Path) -> str:
    """The address of a file that is only read. Where nothing can be written beside it, SQLite must be told that nobody else does."""
    wal = file.with_name(file.name + "-wal")
    is_still = not os.access(file.parent, os.W_OK) and not (wal.exists() and wal.stat().st_size)
    return f"sqlite:///file:{quote(str(file.absolute()))}?mode=ro{'&immutable=1' * is_still}&uri=true"


def _configure_reader(connection: sqlite3.Connection, _: Any) -> None:
    connection.isolation_level = None


def _begin(connection: sa.Connection) -> None:
    # Straight to sqlite3: through SQLAlchemy's statement machinery this takes ten times as long, for every transaction.
    raw = driver(connection)
    try:
        if raw.in_transaction:  # a commit that failed may leave one open
            raw.rollback()
        raw.execute("BEGIN IMMEDIATE" if connection.get_execution_options().get("immediate") else "BEGIN")
    except sqlite3.Error as error:
        raise sa.exc.OperationalError("BEGIN", None, error) from error
