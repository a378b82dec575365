"""The database: what an older release wrote is taken over; what a newer one wrote is refused."""

from __future__ import annotations

import sqlite3
import time

import pytest
import sqlalchemy as sa

from aboveboard.errors import Unavailable
from aboveboard.storage.database import Database
from aboveboard.storage.schema import LEDGER, SCHEMA, VERSION

SCHEMA_1 = """
CREATE TABLE schema_version (version INTEGER NOT NULL);
CREATE TABLE operators (name VARCHAR NOT NULL, roles JSON NOT NULL, created_at VARCHAR NOT NULL, PRIMARY KEY (name));
CREATE TABLE access_keys (id VARCHAR NOT NULL, operator VARCHAR NOT NULL, sealed_secret BLOB NOT NULL, created_at VARCHAR NOT NULL,
    PRIMARY KEY (id), FOREIGN KEY(operator) REFERENCES operators (name));
CREATE TABLE collections (n INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, id VARCHAR NOT NULL, model_version VARCHAR NOT NULL,
    model VARCHAR NOT NULL, created_at VARCHAR NOT NULL, generation INTEGER NOT NULL, removals INTEGER NOT NULL,
    face_count INTEGER NOT NULL, UNIQUE (id));
CREATE TABLE faces (n INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, collection INTEGER NOT NULL, face_id VARCHAR NOT NULL,
    image_id VARCHAR NOT NULL, external_image_id VARCHAR, box JSON NOT NULL, confidence FLOAT NOT NULL, UNIQUE (collection, face_id),
    FOREIGN KEY(collection) REFERENCES collections (n) ON DELETE CASCADE);
CREATE INDEX faces_in_order ON faces (collection, n);
INSERT INTO schema_version VALUES (1);
INSERT INTO operators VALUES ('first', '["admin"]', '2026-01-01T00:00:00.000Z');
INSERT INTO access_keys VALUES ('ABKEY', 'first', x'00', '2026-01-01T00:00:00.000Z');
INSERT INTO collections VALUES (1, 'a', '1.0', 'm', '2026-01-01T00:00:00.000Z', 3, 0, 1);
INSERT INTO faces VALUES (1, 1, 'f', 'i', NULL, '[0, 0, 1, 1]', 99.0);
"""
"""What the release before schema 2 made, as far as the migration touches it."""


SCHEMA_2 = """
CREATE TABLE schema_version (version INTEGER NOT NULL);
CREATE TABLE operators (name VARCHAR NOT NULL, roles JSON NOT NULL, created_at VARCHAR NOT NULL, PRIMARY KEY (name));
CREATE TABLE access_keys (id VARCHAR NOT NULL, operator VARCHAR NOT NULL, sealed_secret BLOB NOT NULL, created_at VARCHAR NOT NULL,
    buckets JSON DEFAULT '[]' NOT NULL, revoked_at VARCHAR, PRIMARY KEY (id), FOREIGN KEY(operator) REFERENCES operators (name));
CREATE TABLE collections (n INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, id VARCHAR NOT NULL, model_version VARCHAR NOT NULL,
    model VARCHAR NOT NULL, created_at VARCHAR NOT NULL, generation INTEGER NOT NULL, removals INTEGER NOT NULL,
    face_count INTEGER NOT NULL, associations INTEGER DEFAULT '0' NOT NULL, subject_count INTEGER DEFAULT '0' NOT NULL, UNIQUE (id));
CREATE TABLE subjects (n INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, collection INTEGER NOT NULL, subject_id VARCHAR NOT NULL,
    handle VARCHAR NOT NULL, created_at VARCHAR NOT NULL, UNIQUE (collection, subject_id),
    FOREIGN KEY(collection) REFERENCES collections (n) ON DELETE CASCADE, UNIQUE (handle));
CREATE INDEX subjects_in_order ON subjects (collection, n);
CREATE TABLE faces (n INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, collection INTEGER NOT NULL, face_id VARCHAR NOT NULL,
    image_id VARCHAR NOT NULL, external_image_id VARCHAR, box JSON NOT NULL, confidence FLOAT NOT NULL, subject INTEGER,
    UNIQUE (collection, face_id), FOREIGN KEY(collection) REFERENCES collections (n) ON DELETE CASCADE,
    FOREIGN KEY(subject) REFERENCES subjects (n) ON DELETE SET NULL);
CREATE INDEX faces_in_order ON faces (collection, n);
CREATE INDEX faces_of_image ON faces (collection, image_id);
CREATE INDEX faces_of_subject ON faces (subject, n);
INSERT INTO schema_version VALUES (2);
INSERT INTO operators VALUES ('first', '["admin"]', '2026-01-01T00:00:00.000Z');
INSERT INTO access_keys VALUES ('ABKEY', 'first', x'00', '2026-01-01T00:00:00.000Z', '["b"]', NULL);
INSERT INTO collections VALUES (1, 'a', '1.0', 'm', '2026-01-01T00:00:00.000Z', 3, 7, 1, 2, 1);
INSERT INTO subjects VALUES (4, 1, 'someone', 'h', '2026-01-01T00:00:00.000Z');
INSERT INTO faces VALUES (1, 1, 'f', 'i', NULL, '[0, 0, 1, 1]', 99.0, 4);
"""
"""The same of the release before schema 3."""


def columns(file):
    with sqlite3.connect(file) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {table: {row[1] for row in connection.execute(f"PRAGMA table_info({table})")} for table in tables}


def indexes(file):
    with sqlite3.connect(file) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'index'") if "autoindex" not in name}


@pytest.mark.parametrize(
    ("text", "subject_count", "subject", "buckets"), [(SCHEMA_1, 0, None, "[]"), (SCHEMA_2, 1, 4, '["b"]')], ids=["1", "2"]
)
def test_a_file_of_a_release_before_is_taken_over(tmp_path, text, subject_count, subject, buckets):
    """The same tables, columns and indexes as a new one, the rows kept, once."""
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    with sqlite3.connect(old) as connection:
        connection.executescript(text)
    for _ in range(2):
        Database(old).close()
    Database(new).close()
    assert columns(old) == columns(new)
    assert indexes(old) == indexes(new)
    with sqlite3.connect(old) as connection:
        assert connection.execute("SELECT version FROM schema_version").fetchall() == [(SCHEMA,)]
        kept = connection.execute("SELECT id, generation, face_count, subject_count, touches, deleted_at FROM collections").fetchall()
        assert kept == [("a", 3, 1, subject_count, 0, None)]
        assert connection.execute("SELECT face_id, subject FROM faces").fetchall() == [("f", subject)]
        assert connection.execute("SELECT buckets, revoked_at FROM access_keys").fetchall() == [(buckets, None)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


def test_a_file_of_a_newer_release_is_refused(tmp_path):
    """Nothing is changed in it."""
    file = tmp_path / "a.db"
    opened = Database(file)
    with opened.write() as connection:
        connection.execute(sa.update(VERSION).values(version=SCHEMA + 1))
    opened.close()
    with pytest.raises(Unavailable, match="use the release that wrote it or a newer one"):
        Database(file)


def test_what_was_deleted_leaves_the_log_once_nobody_reads_it(tmp_path):
    """Scrubbed: the write-ahead log is empty at once, or as soon as a reader of older times has ended, for whom nobody waits."""
    opened = Database(tmp_path / "a.db")
    log, secret = tmp_path / "a.db-wal", b"secret" * 100

    def written_and_deleted():
        with opened.write() as connection:
            connection.execute(sa.insert(LEDGER).values(seq=1, entry=secret))
        with opened.write() as connection:
            connection.execute(sa.delete(LEDGER))
        assert secret in log.read_bytes()
        opened.scrub()

    def is_left():
        return any(secret in file.read_bytes() for file in tmp_path.iterdir())

    written_and_deleted()
    assert not is_left()
    with opened.read() as connection:
        connection.execute(sa.select(VERSION)).all()  # the snapshot is taken now
        written_and_deleted()
        assert is_left()
    for _ in range(600):
        if not is_left():
            break
        time.sleep(0.05)
    assert not is_left()
    opened.close()
