"""kill -9 in the middle of an erasure: the collection stays deleted, its id is free, and the next start takes the erasure up."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

from kit import assert_ledger_whole, null_settings, picture, process_serving, serving

from aboveboard import bootstrap

FACES = 25
DIES = """
import os, signal, sys
from aboveboard.storage import erasures
from aboveboard.storage.erasures import Erasures
erasures._SLICES = tuple(erasures._some(table, name, 10) for table, name in erasures._ERASED)
real, done = Erasures.slice, []
def dying(self, *how):
    done.append(real(self, *how))
    if len(done) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return done[-1]
Erasures.slice = dying
from aboveboard.cli import main
sys.argv[1:] = ["collection", "delete", "a", "--yes"]
main()
"""


def counts(data):
    """Rows of faces, templates, subjects, images and collections."""
    tables = "faces", "templates", "subjects", "indexed_images", "idempotent_requests", "collections"
    with closing(sqlite3.connect(data / "aboveboard.db")) as connection:
        return [connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables]


def test_an_erasure_that_was_killed_is_taken_up(tmp_path):
    """In the third slice of a command line's delete; a collection of the same id that was made meanwhile loses nothing."""
    settings = null_settings(tmp_path / "data")
    with serving(settings) as server:
        client, key = server.client(), server.key
        client.create_collection(CollectionId="a", Tags={"k": "v"})
        for subject in range(FACES):
            client.index_faces(CollectionId="a", Image={"Bytes": picture(subject)})
        client.create_user(CollectionId="a", UserId="u")
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "ABOVEBOARD_PACK": "null", "ABOVEBOARD_DATA": str(settings.data)}
    died = subprocess.run([sys.executable, "-c", DIES], env=environment, capture_output=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert counts(settings.data)[0] == FACES - 20  # two slices are done, the third never was
    with serving(settings, key) as server:  # nobody erases here
        client = server.client()
        assert client.list_collections()["CollectionIds"] == []
        client.create_collection(CollectionId="a")
        made = client.index_faces(CollectionId="a", Image={"Bytes": picture(0)})["FaceRecords"][0]["Face"]["FaceId"]
        assert client.describe_collection(CollectionId="a")["FaceCount"] == 1
        assert client.list_users(CollectionId="a")["Users"] == []
        assert client.list_tags_for_resource(ResourceArn=client.describe_collection(CollectionId="a")["CollectionARN"])["Tags"] == {}
        found = client.search_faces_by_image(CollectionId="a", Image={"Bytes": picture(0)}, FaceMatchThreshold=0)["FaceMatches"]
        assert [match["Face"]["FaceId"] for match in found] == [made]
        assert counts(settings.data)[0] == FACES - 20 + 1
    with process_serving(settings.data, key) as running:
        for _ in range(300):
            if counts(settings.data)[-1] == 1:
                break
            time.sleep(0.1)
        assert [face["FaceId"] for face in running.client().list_faces(CollectionId="a")["Faces"]] == [made]
    assert counts(settings.data) == [1, 1, 0, 1, 0, 1]
    app = bootstrap.open_app(settings)
    entries = [entry for entry in assert_ledger_whole(app) if entry["type"] in ("collection.deleted", "collection.erased")]
    app.database.close()
    assert [(entry["type"], entry["collection"], entry["faces"]) for entry in entries] == [
        ("collection.deleted", "a", FACES),
        ("collection.erased", "a", FACES),
    ]
