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

METADATA = sa.MetaData()

VERSION = sa.Table("schema_version", METADATA, sa.Column("version", sa.Integer, nullable=False))

OPERATORS = sa.Table(
    "operators",
    METADATA,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("roles", sa.JSON, nullable=False),
    sa.Column("created_at", sa.String, nullable=False),
)
ACCESS_KEYS = sa.Table(
    "access_keys",
    METADATA,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("operator", sa.ForeignKey("operators.name"), nullable=False),
    sa.Column("sealed_secret", sa.LargeBinary, nullable=False),
    sa.Column("created_at", sa.String, nullable=False),
    # Names of the buckets that this key may have read for it; "*" stands for all.
    sa.Column("buckets", sa.JSON, nullable=False, server_default="[]"),
    sa.Column("revoked_at", sa.String),
)
COLLECTIONS = sa.Table(
    "collections",
    METADATA,
    sa.Column("n", sa.Integer, primary_key=True),
    sa.Column("id", sa.String, nullable=False, unique=True),
    sa.Column("model_version", sa.String, nullable=False),
    sa.Column("model", sa.String, nullable=False),
    sa.Column("created_at", sa.String, nullable=False),
    # Counted up with each write, so that every process notices the writes of the others.
    sa.Column("generation", sa.Integer, nullable=False, default=0),
    sa.Column("face_count", sa.Integer, nullable=False, default=0),
    sa.Column("subject_count", sa.Integer, nullable=False, server_default="0"),
    # The last number that TOUCHED gave: how often a face was removed or became another subject's.
    sa.Column("touches", sa.Integer, nullable=False, server_default="0"),
    # Since then its rows are being erased; `id` is no collection's any more.
    sa.Column("deleted_at", sa.String),
    sqlite_autoincrement=True,
)
TAGS = sa.Table(
    "tags",
    METADATA,
    sa.Column("collection", sa.ForeignKey("collections.n", ondelete="CASCADE"), primary_key=True),
    sa.Column("key", sa.String, primary_key=True),
    sa.Column("value", sa.String, nullable=False),
)
SUBJECTS = sa.Table(
    "subjects",
    METADATA,
    sa.Column("n", sa.Integer, primary_key=True),
    sa.Column("collection", sa.ForeignKey("collections.n", ondelete="CASCADE"), nullable=False),
    sa.Column("subject_id", sa.String, nullable=False),
    # What the ledger calls this subject: the caller's own id may be a name, and an entry cannot be taken back.
    sa.Column("handle", sa.String, nullable=False, unique=True),
    sa.Column("created_at", sa.String, nullable=False),
    sa.UniqueConstraint("collection", "subject_id"),
    sa.Index("subjects_in_order", "collection", "n"),
    sqlite_autoincrement=True,
)
FACES = sa.Table(
    "faces",
    METADATA,
    sa.Column("n", sa.Integer, primary_key=True),
    sa.Column("collection", sa.ForeignKey("collections.n", ondelete="CASCADE"), nullable=False),
    sa.Column("face_id", sa.String, nullable=False),
    sa.Column("image_id", sa.String, nullable=False),
    sa.Column("external_image_id", sa.String),
    sa.Column("box", sa.JSON, nullable=False),
    sa.Column("confidence", sa.Float, nullable=False),
    sa.Column("subject", sa.ForeignKey("subjects.n", ondelete="SET NULL")),
    sa.UniqueConstraint("collection", "face_id"),
    sa.Index("faces_in_order", "collection", "n"),
    sa.Index("faces_of_image", "collection", "image_id"),
    sa.Index("faces_of_subject", "subject", "n"),
    sqlite_autoincrement=True,
)
TEMPLATES = sa.Table(
    "templates",
    METADATA,
    sa.Column("face", sa.ForeignKey("faces.n", ondelete="CASCADE"), primary_key=True),
    sa.Column("vector", sa.LargeBinary, nullable=False),
)
TOUCHED = sa.Table(
    "touched_faces",
    METADATA,
    # What a reader that knows a collection as of one touch must look at again: faces that were removed or became another subject's.
    sa.Column("collection", sa.ForeignKey("collections.n", ondelete="CASCADE"), primary_key=True),
    sa.Column("touch", sa.Integer, primary_key=True),
    sa.Column("face", sa.Integer, nullable=False),
    sqlite_with_rowid=False,
)
IMAGES = sa.Table(
    "indexed_images",
    METADATA,
    sa.Column("collection", sa.ForeignKey("collections.n", ondelete="CASCADE"), primary_key=True),
    sa.Column("image_id", sa.String, primary_key=True),
    sqlite_with_rowid=False,
)
RECORDS = sa.Table(
    "enrolment_records",
    METADATA,
    sa.Column("collection", sa.ForeignKey("collections.n", ondelete="CASCADE"), primary_key=True),
    sa.Column("image_id", sa.String, primary_key=True),
    # Where the original is kept: a path or s3://bucket/name. It is read again to make templates of another model.
    sa.Column("source", sa.String),
    sa.Column("taken_on", sa.String),
    sa.Column("legal_basis", sa.String),
    sa.Column("disposition", sa.String),
    sa.Column("expires_on", sa.String),
    sa.Index("records_by_expiry", "expires_on"),
    sqlite_with_rowid=False,
)
REINDEXINGS = sa.Table(
    "reindexings",
    METADATA,
    sa.Column("collection", sa.ForeignKey("collections.n", ondelete="CASCADE"), primary_key=True),
    sa.Column("model_version", sa.String, nullable=False),
    sa.Column("model", sa.String, nullable=False),
    sa.Column("started_at", sa.String, nullable=False),
)
SHADOW_TEMPLATES = sa.Table(
    "shadow_templates",
    METADATA,
    sa.Column("face", sa.ForeignKey("faces.n", ondelete="CASCADE"), primary_key=True),
    sa.Column("vector", sa.LargeBinary, nullable=False),
)
REQUESTS = sa.Table(
    "idempotent_requests",
    METADATA,
    sa.Column("token", sa.LargeBinary, primary_key=True),
    sa.Column("collection", sa.ForeignKey("collections.n", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("request", sa.LargeBinary, nullable=False),
    sa.Column("answer", sa.JSON, nullable=False),
    sa.Column("created_at", sa.String, nullable=False),
    sa.Index("requests_by_age", "created_at"),
    sqlite_with_rowid=False,
)
LEDGER = sa.Table(
    "ledger",
    METADATA,
    sa.Column("seq", sa.Integer, primary_key=True),
    sa.Column("entry", sa.LargeBinary, nullable=False),
)
LEDGER_STATE = sa.Table(
    "ledger_state",
    METADATA,
    sa.Column("one", sa.Integer, primary_key=True),
    sa.Column("size", sa.Integer, nullable=False),
    sa.Column("subtrees", sa.LargeBinary, nullable=False),
)
LEDGER_BLOCKS = sa.Table(
    "ledger_blocks",
    METADATA,
    # The root over each full block of entries: what a proof reads instead of the entries.
    sa.Column("n", sa.Integer, primary_key=True),
    sa.Column("root", sa.LargeBinary, nullable=False),
)
COMMITMENT_KEYS = sa.Table(
    "commitment_keys",
    METADATA,
    sa.Column("audit_id", sa.String, primary_key=True),
    sa.Column("key", sa.LargeBinary, nullable=False),
)

SCHEMA = 3
_MIGRATIONS = {
    2: (
        "ALTER TABLE access_keys ADD COLUMN buckets JSON NOT NULL DEFAULT '[]'",
        "ALTER TABLE access_keys ADD COLUMN revoked_at VARCHAR",
        "ALTER TABLE collections ADD COLUMN associations INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE collections ADD COLUMN subject_count INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE faces ADD COLUMN subject INTEGER REFERENCES subjects (n) ON DELETE SET NULL",
        "CREATE INDEX faces_of_image ON faces (collection, image_id)",
        "CREATE INDEX faces_of_subject ON faces (subject, n)",
    ),
    3: (
        "ALTER TABLE collections DROP COLUMN removals",
        "ALTER TABLE collections DROP COLUMN associations",
        "ALTER TABLE collections ADD COLUMN touches INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE collections ADD COLUMN deleted_at VARCHAR",
    ),
}
"""Schema version -> what makes it of the one before; new tables make themselves."""
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
                    for statement in _MIGRATIONS[step]:
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
            source = connection.connection.dbapi_connection
            assert isinstance(source, sqlite3.Connection)
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


def _without_values(error: object) -> str:
    """An error of the driver without the text that it could not decode: that may be a name."""
    return str(error).partition(" with text ")[0]


def damage(connection: sa.Connection, check: str = "quick_check") -> list[str]:
    """What SQLite's `quick_check`, or the slower `integrity_check`, finds wrong, as `table: page and fault`; empty for a whole file."""
    raw = connection.connection.dbapi_connection
    assert isinstance(raw, sqlite3.Connection)
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
    raw = connection.connection.dbapi_connection
    assert isinstance(raw, sqlite3.Connection)
    try:
        if raw.in_transaction:  # a commit that failed may leave one open
            raw.rollback()
        raw.execute("BEGIN IMMEDIATE" if connection.get_execution_options().get("immediate") else "BEGIN")
    except sqlite3.Error as error:
        raise sa.exc.OperationalError("BEGIN", None, error) from error
