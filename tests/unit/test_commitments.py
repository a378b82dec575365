"""Which faces are in a gallery: what intents commit to is the root that others compute, through every way that faces come and go."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import Any

from kit import Server, assert_ledger_whole, null_settings, picture, serving
from pymerkle import InmemoryTree


def root(face_ids: list[str]) -> str:
    """By pymerkle, somebody else's program."""
    tree = InmemoryTree(algorithm="sha256")
    for face_id in face_ids:
        tree.append_entry(face_id.encode())
    return tree.get_root().hex()


def logs(entries: list[dict[str, Any]]) -> dict[str, list[str]]:
    """The face ids of one collection's entries, in their order."""
    kinds = {"enrolled": "faces.enrolled", "removed": "faces.removed"}
    return {name: [face_id for entry in entries if entry["type"] == kind for face_id in entry["face_ids"]] for name, kind in kinds.items()}


def commitment(server: Server) -> Any:
    server.client().search_faces_by_image(CollectionId="people", Image={"Bytes": picture(1)})
    return server.entries()[-2]["collection"]["commitment"]


def test_each_intent_commits_to_the_faces_that_came_and_went(own_server: Server) -> None:
    """Enrolled, removed, enrolled again, by several at once or one by one; a collection of the same id begins anew."""
    client = own_server.client()
    client.create_collection(CollectionId="people")
    assert commitment(own_server) == {name: {"count": 0, "root": root([])} for name in ("enrolled", "removed")}
    for start in range(3):
        for n in range(4):
            client.index_faces(CollectionId="people", Image={"Bytes": picture(n, n + 1)})
        faces = [face["FaceId"] for face in client.list_faces(CollectionId="people")["Faces"]]
        client.delete_faces(CollectionId="people", FaceIds=faces[start : start + 3])
        expected = logs(own_server.entries())
        assert commitment(own_server) == {name: {"count": len(log), "root": root(log)} for name, log in expected.items()}
    assert len(expected["removed"]) == 9
    client.delete_collection(CollectionId="people")
    client.create_collection(CollectionId="people")
    assert commitment(own_server)["enrolled"]["count"] == 0
    assert_ledger_whole(own_server.app)


def test_the_log_of_an_older_releases_collection_begins_with_its_faces(tmp_path: Path) -> None:
    """In the order of their rows, once, with an entry from which a verifier goes on."""
    with serving(null_settings(tmp_path / "data")) as server:
        client = server.client()
        client.create_collection(CollectionId="people")
        for n in range(5):
            client.index_faces(CollectionId="people", Image={"Bytes": picture(n)})
        faces = [face["FaceId"] for face in client.list_faces(CollectionId="people")["Faces"]]
        client.delete_faces(CollectionId="people", FaceIds=faces[:2])
    with sqlite3.connect(tmp_path / "data" / "aboveboard.db") as file:
        # What the schema's migration leaves.
        file.execute("UPDATE collections SET enrolled = 0, enrolled_subtrees = NULL, removed = 0, removed_subtrees = x''")
    shutil.rmtree(tmp_path / "data" / "cache", ignore_errors=True)
    for _ in range(2):
        with serving(null_settings(tmp_path / "data"), server.key) as again:
            found = commitment(again)
            begun = [entry for entry in again.entries() if entry["type"] == "collection.committed"]
            assert len(begun) == 1
            assert begun[0]["collection"] == "people"
            assert (begun[0]["enrolled"]["count"], begun[0]["enrolled"]["root"]) == (3, root(faces[2:]))
            assert found == {"enrolled": {"count": 3, "root": root(faces[2:])}, "removed": {"count": 0, "root": root([])}}
            assert_ledger_whole(again.app)
    with serving(null_settings(tmp_path / "data"), server.key) as again:
        new = again.client().index_faces(CollectionId="people", Image={"Bytes": picture(8)})["FaceRecords"][0]["Face"]["FaceId"]
        assert commitment(again)["enrolled"] == {"count": 4, "root": root([*faces[2:], new])}
        assert_ledger_whole(again.app)
