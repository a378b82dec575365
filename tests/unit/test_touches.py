"""The log of touched faces: each removal and each change of whose a face is, numbered without gaps, and not kept for ever."""

from __future__ import annotations

import numpy as np
import pytest
import sqlalchemy as sa

from aboveboard.biometrics.vocabulary import Template
from aboveboard.storage import collections
from aboveboard.storage.collections import Collections
from aboveboard.storage.database import Database
from aboveboard.storage.schema import COLLECTIONS, FACES, TOUCHED
from aboveboard.storage.subjects import Subjects


class Store:
    """A collection 'a' of faces f0, f1, ...; each method is one transaction."""

    def __init__(self, file, faces):
        self.database = Database(file)
        self.collections, self.subjects = Collections(self.database), Subjects(self.database)
        with self.database.write() as connection:
            self.collections.create(connection, "a", "1.0", "m", {})
            collection = self.collections.get("a", connection)
            row = {"image_id": "i", "external_image_id": None, "box": [0, 0, 1, 1], "confidence": 1.0}
            template = Template(np.array([1, 0], np.float32), "1.0")
            self.collections.add_faces(connection, collection, {f"f{i}": (row, template) for i in range(faces)})
            self.numbers = {row.face_id: row.n for row in connection.execute(sa.select(FACES.c.face_id, FACES.c.n))}

    def write(self, verb, *arguments):
        with self.database.write() as connection:
            return verb(connection, self.collections.get("a", connection), *arguments)

    def log(self):
        with self.database.read() as connection:
            rows = connection.execute(sa.select(TOUCHED.c.touch, TOUCHED.c.face).order_by(TOUCHED.c.touch))
            return [(row.touch, row.face) for row in rows], connection.execute(sa.select(COLLECTIONS.c.touches)).scalar_one()

    def faces(self, *face_ids):
        return [self.numbers[face_id] for face_id in face_ids]


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "a.db", 10)
    yield made
    made.database.close()


def test_every_change_of_whose_a_face_is_and_every_removal_is_in_the_log(store):
    """Given, taken away, enrolled with a person, the person deleted, removed; new faces and new people are not."""
    person = store.write(store.subjects.create, "p")
    assert store.log() == ([], 0)
    store.write(store.subjects.give, ["f1", "f2"], person)
    store.write(store.subjects.give, ["f1"], None)
    store.write(store.subjects.enrol, {"q": ["f3"], "p": ["f4"]})
    store.write(store.subjects.delete, person)  # f2 and f4 were his
    store.write(store.collections.remove_faces, ["f9", "unknown", "f0"])
    log, last = store.log()
    steps = (["f1", "f2"], ["f1"], ["f3", "f4"], ["f2", "f4"], ["f0", "f9"])
    assert [touch for touch, _ in log] == list(range(1, last + 1))
    faces = [face for _, face in log]
    for step in steps:
        assert sorted(faces[: len(step)]) == store.faces(*step)
        faces = faces[len(step) :]
    assert faces == []


def test_the_log_goes_with_the_write_it_tells_of(store):
    """A write that is rolled back leaves no touch."""

    def failing(connection, collection):
        store.collections.remove_faces(connection, collection, ["f1"])
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.write(failing)
    assert store.log() == ([], 0)


def test_the_log_does_not_grow_for_ever(store, monkeypatch):
    """The oldest touches go; the last ones stay, and the counter counts on."""
    monkeypatch.setattr(collections, "TOUCHES_KEPT", 20)
    monkeypatch.setattr(collections, "TOUCHES_PER_TRIM", 5)
    person = store.write(store.subjects.create, "p")
    for turn in range(30):
        store.write(store.subjects.give, ["f1", "f2", "f3"], None if turn % 2 else person)
    log, last = store.log()
    assert last == 90
    assert [touch for touch, _ in log] == list(range(last - len(log) + 1, last + 1))
    assert 20 <= len(log) < 20 + 5 + 3
