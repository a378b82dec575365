"""The database: SQLite in write-ahead mode, every commit synced to the disk before it is acknowledged."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

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


def now() -> str:
    """The time as the ledger writes it: RFC 3339, UTC, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Database:
    """One SQLite file. `read` and `write` give a connection in a transaction; a failing disk raises Unavailable, nothing half-written."""

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Made by us, for its owner alone; SQLite gives the files beside it the same mode.
            os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            raise Unavailable(f"the data folder {file.parent} cannot be made: {error.strerror}") from error
        self._engine = sa.create_engine(
            f"sqlite:///{file}", connect_args={"timeout": 30}, pool_size=16, pool_reset_on_return=None, hide_parameters=True
        )
        sa.event.listen(self._engine, "connect", _configure)
        sa.event.listen(self._engine, "begin", _begin)
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
        except (sa.exc.OperationalError, sa.exc.DatabaseError) as error:
            if isinstance(error, sa.exc.IntegrityError):
                raise
            raise Unavailable(f"the database does not answer ({error.orig}); nothing was written") from error

    def close(self) -> None:
        self._engine.dispose()


def _configure(connection: sqlite3.Connection, _: Any) -> None:
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
        connection.execute(f"PRAGMA {pragma}")


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
