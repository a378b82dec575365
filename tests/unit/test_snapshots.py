"""Writers and searchers at once: what a search sees is what the database held at one moment."""

from __future__ import annotations

import threading
import uuid

import pytest
from test_templates import Gallery as Store
from test_templates import directions

from aboveboard.biometrics.vocabulary import Template
from aboveboard.storage.collections import Collections
from aboveboard.storage.database import Database
from aboveboard.storage.templates import Permit, Templates

PAIRS = 60


@pytest.mark.parametrize("stores", [1, 2])
def test_a_search_sees_all_of_a_write_or_nothing(tmp_path, stores):
    """Faces come and go two by two, in one transaction each: no search, of this process or of another one's store, finds one without
    its twin, or counts an odd number; and what was acknowledged before a search began is in it."""
    store = Store(tmp_path)
    store.add(directions(5, 2 * 500, 1.0))
    fixed = len(store.truth)
    vectors, probe = directions(6, PAIRS, 1.0), directions(6, 1, 1.0)[0]
    templates = [Templates(Database(tmp_path / "a.db")) for _ in range(stores)]
    acknowledged, stop, faults = set[int](), threading.Event(), list[str]()

    def twins(i):
        return [str(uuid.uuid5(uuid.NAMESPACE_OID, f"{i}-{side}")) for side in "ab"]

    def write():
        database = Database(tmp_path / "a.db")
        collections = Collections(database)
        row = {"image_id": "i", "external_image_id": None, "box": [0, 0, 1, 1], "confidence": 1.0}
        for i in range(PAIRS):
            with database.write() as connection:
                collection = collections.get("a", connection)
                collections.add_faces(connection, collection, {face_id: (row, Template(vectors[i], "1.0")) for face_id in twins(i)})
                collections.touch(connection, collection, added=2)
            acknowledged.add(i)
            if i % 3 == 2:
                acknowledged.discard(i - 1)
                with database.write() as connection:
                    collections.remove_faces(connection, collection, twins(i - 1))
                    collections.touch(connection, collection, removed=2)
        stop.set()

    def search(number):
        while not stop.is_set():
            known = set(acknowledged)
            scan = templates[number % stores].search(Permit("a", store.n, ("1.0", "m"), -1, 4096), probe)
            still = known & acknowledged
            found = {face_id for face_id, _ in scan.found}
            if scan.size % 2 or len(found) != scan.size or scan.size < fixed:
                faults.append(f"{scan.size} faces, {len(found)} found")
            for i in range(PAIRS):
                if len(found & set(twins(i))) == 1:
                    faults.append("a twin alone")
            if any(not found >= set(twins(i)) for i in still):
                faults.append("an acknowledged face is missing")

    threads = [threading.Thread(target=search, args=(i,)) for i in range(3)]
    writer = threading.Thread(target=write)
    for thread in (*threads, writer):
        thread.start()
    for thread in (*threads, writer):
        thread.join()
    assert not faults
