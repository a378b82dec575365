"""Deleted is deleted: after the answer a template is in no file of the deployment and nowhere in the server's memory."""

from __future__ import annotations

import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from kit import other_pack, picture, process_serving

from aboveboard.biometrics.scan import quantise

FACES = 8


def templates(data):
    """Templates by face id, read past the server: as they are stored, and as the row of bytes that is scanned for them."""
    with closing(sqlite3.connect(data / "aboveboard.db")) as connection:
        stored = dict(connection.execute("SELECT face_id, vector FROM faces JOIN templates ON face = n"))
    rows = quantise(np.stack([np.frombuffer(vector, "<f4") for vector in stored.values()])).codes
    return {face_id: (vector, row.tobytes()) for (face_id, vector), row in zip(stored.items(), rows, strict=True)}


def runs(secrets):
    """Every run of 16 bytes of a secret that begins with one of its numbers: in any 32 bytes of it there is one whole."""
    return {secret[i : i + 16] for secret in secrets for i in range(0, len(secret) - 15, 4)}


def is_in(content, wanted):
    """Whether one of these runs is anywhere in a content; by the halves of their first number first, which few places pass."""
    tables = np.zeros((2, 65536), bool)
    for half in (0, 1):
        tables[half, [int.from_bytes(run[2 * half : 2 * half + 2], "little") for run in wanted]] = True
    for start in range(0, len(content), 1 << 20):
        part = content[start : start + (1 << 20) + 16]
        if part.count(0) == len(part):
            continue
        for shift in range(4):
            halves = np.frombuffer(part[shift : shift + (len(part) - shift) // 4 * 4], "<u2")
            near = np.flatnonzero(tables[0][halves[::2]])
            near = near[tables[1][halves[1::2][near]]]
            if any(part[at : at + 16] in wanted for at in (4 * near + shift).tolist()):
                return True
    return False


def in_files(data, secrets):
    """The files of a deployment that have some of a secret in them."""
    wanted = runs(secrets)
    return {file.name for file in data.rglob("*") if file.is_file() and is_in(file.read_bytes(), wanted)}


def in_memory(server, secrets):
    """The writable mappings of a server's processes that have some of a secret in them."""
    pids = [server.pid, *map(int, Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split())]
    return [found for pid in pids for found in in_process(pid, runs(secrets))]


def in_process(pid, wanted):
    found = []
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            reach, rights, *_ = line.split()
            if "rw" not in rights:
                continue
            start, end = (int(number, 16) for number in reach.split("-"))
            memory.seek(start)
            if is_in(memory.read(end - start), wanted):
                found.append(line)
    return found


def worked_with(client, collection, subjects):
    """Face ids of a new collection with these people, by several clients at once: each indexed, searched for, given to a user who is
    searched for, and taken from him."""

    def work(subject):
        image = {"Bytes": picture(subject)}
        made = client.index_faces(CollectionId=collection, Image=image)["FaceRecords"][0]["Face"]["FaceId"]
        again = client.search_faces_by_image(CollectionId=collection, Image=image)
        assert again["FaceMatches"][0]["Face"]["FaceId"] == made
        client.search_faces(CollectionId=collection, FaceId=made)
        user = {"CollectionId": collection, "UserId": f"u{subject}"}
        client.create_user(**user)
        client.associate_faces(**user, FaceIds=[made])
        client.search_users(CollectionId=collection, FaceId=made)
        client.search_users_by_image(CollectionId=collection, Image=image)
        client.disassociate_faces(**user, FaceIds=[made])
        return made

    client.create_collection(CollectionId=collection)
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(work, subjects))


@pytest.mark.parametrize(
    ("pack", "options"),
    [("null", []), *(pytest.param("other", more, marks=pytest.mark.long) for more in (["--workers", "2"], []))],
    ids=["one process", "workers", "large templates"],
)
def test_a_removed_template_is_nowhere(tmp_path, pack, options):
    """DeleteFaces: gone from database, log, cache and memory when it is answered; DeleteCollection: when the ledger says erased.

    The packs make templates of 64 and of 512 numbers: as objects those lie in memory of different keepers. Between processes the small
    ones, which no pack for photographs has, stay in Python's own memory for a while.
    """
    data, models = tmp_path / "data", tmp_path / "models"
    if pack != "null":
        other_pack(models, pack)
    with process_serving(data, options=options, pack=pack, models=str(models)) as server:
        client = server.client()
        ids = worked_with(client, "a", range(FACES))
        worked_with(client, "b", range(100, 100 + FACES))
        known = templates(data)
        removed = [secret for face_id in ids[3:6] for secret in known[face_id]]
        others = [secret for face_id, both in known.items() for secret in both if face_id not in ids]
        assert in_files(data, removed)  # what is looked for can be found
        assert in_memory(server, removed)
        assert client.delete_faces(CollectionId="a", FaceIds=ids[3:6])["DeletedFaces"] == ids[3:6]
        assert in_files(data, removed) == set()
        assert in_memory(server, removed) == []
        left = client.search_faces(CollectionId="a", FaceId=ids[0], FaceMatchThreshold=0, MaxFaces=100)["FaceMatches"]
        assert {match["Face"]["FaceId"] for match in left} == set(ids) - {ids[0], *ids[3:6]}
        assert in_memory(server, others)
        client.delete_collection(CollectionId="b")
        until_erased(data, "b")
        assert in_files(data, others) == set()
        assert in_memory(server, others) == []


def until_erased(data, collection):
    """Return once the ledger says that a collection is erased."""
    for _ in range(300):
        with closing(sqlite3.connect(data / "aboveboard.db")) as connection:
            entries = [bytes(entry) for (entry,) in connection.execute("SELECT entry FROM ledger")]
        if any(b'"type":"collection.erased"' in entry and f'"collection":"{collection}"'.encode() in entry for entry in entries):
            return
        time.sleep(0.1)
    raise AssertionError("not erased within half a minute")
