"""The database: what an older release wrote is taken over; what a newer one wrote is refused."""

from __future__ import annotations

import sqlite3

import pytest
import sqlalchemy as sa

from aboveboard.errors import Unavailable
from aboveboard.storage import database
from aboveboard.storage.database import Database

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


def columns(file):
    with sqlite3.connect(file) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {table: {row[1] for row in connection.execute(f"PRAGMA table_info({table})")} for table in tables}


def indexes(file):
    with sqlite3.connect(file) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'index'") if "autoindex" not in name}


def test_a_file_of_the_release_before_is_taken_over(tmp_path):
    """The same tables, columns and indexes as a new one, the rows kept, once."""
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    with sqlite3.connect(old) as connection:
        connection.executescript(SCHEMA_1)
    for _ in range(2):
        Database(old).close()
    Database(new).close()
    assert columns(old) == columns(new)
    assert indexes(old) == indexes(new)
    with sqlite3.connect(old) as connection:
        assert connection.execute("SELECT version FROM schema_version").fetchall() == [(database.SCHEMA,)]
        assert connection.execute("SELECT face_count, subject_count, associations FROM collections").fetchall() == [(1, 0, 0)]
        assert connection.execute("SELECT face_id, subject FROM faces").fetchall() == [("f", None)]
        assert connection.execute("SELECT buckets, revoked_at FROM access_keys").fetchall() == [("[]", None)]


def test_a_file_of_a_newer_release_is_refused(tmp_path):
    """Nothing is changed in it."""
    file = tmp_path / "a.db"
    opened = Database(file)
    with opened.write() as connection:
        connection.execute(sa.update(database.VERSION).values(version=database.SCHEMA + 1))
    opened.close()
    with pytest.raises(Unavailable, match="use the release that wrote it or a newer one"):
        Database(file)
