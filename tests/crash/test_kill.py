"""kill -9 and SIGTERM in the middle of work: what was acknowledged is there, what is there is whole."""

from __future__ import annotations

import itertools
import json
import random
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError, ClientError
from kit import ServerProcess, assert_ledger_whole, b64, null_settings, picture, process_serving
from typer.testing import CliRunner

from aboveboard import bootstrap
from aboveboard.cli import app as program

WRITERS = 4


@dataclass
class Gallery:
    """What one writer knows of one collection. `unsure` are faces of which a request was cut off: they may be there or not."""

    name: str
    there: dict[str, int] = field(default_factory=dict)  # face id -> subject
    gone: dict[str, int] = field(default_factory=dict)
    owner: dict[str, str] = field(default_factory=dict)
    users: int = 0
    unsure: set[str] = field(default_factory=set)

    def any_face(self, chance: random.Random) -> str | None:
        return chance.choice(sorted(self.there)) if self.there else None


class Writer:
    """One client in collections of its own: it knows after each answer what must be there, and what must not."""

    def __init__(self, number: int, seed: int, subjects: Iterator[int]) -> None:
        self.number, self.chance, self.subjects = number, random.Random(f"{seed} {number}"), subjects
        self.made, self.gallery, self.deleted = 0, None, dict[str, Gallery]()
        self.counts = Counter()

    def run(self, client) -> None:
        """Work until the server is gone; what was asked last stays unsure."""
        with suppress(BotoCoreError, ClientError, json.JSONDecodeError):  # the last one: killed between head and body of an answer
            while True:
                if self.gallery is None:
                    self.create(client)
                (step,) = self.chance.choices(list(MIX), list(MIX.values()))
                step(self, client, self.gallery)
                self.counts[step.__name__] += 1

    def create(self, client) -> None:
        self.made += 1
        name = f"writer-{self.number}-{self.made}"
        client.create_collection(CollectionId=name)
        self.gallery = Gallery(name)

    def index(self, client, gallery) -> None:
        subject = next(self.subjects)
        answer = client.index_faces(CollectionId=gallery.name, Image={"Bytes": picture(subject)}, ExternalImageId=f"e{subject}")
        gallery.there[answer["FaceRecords"][0]["Face"]["FaceId"]] = subject

    def delete_face(self, client, gallery) -> None:
        if (face := gallery.any_face(self.chance)) is None:
            return
        gallery.unsure.add(face)
        if user := gallery.owner.get(face):  # a user's face is not deleted before it is nobody's
            client.disassociate_faces(CollectionId=gallery.name, UserId=user, FaceIds=[face])
            del gallery.owner[face]
        assert client.delete_faces(CollectionId=gallery.name, FaceIds=[face])["DeletedFaces"] == [face]
        gallery.unsure.discard(face)
        gallery.gone[face] = gallery.there.pop(face)

    def associate(self, client, gallery) -> None:
        if (face := gallery.any_face(self.chance)) is None or face in gallery.owner:
            return
        gallery.users += 1
        user = f"user-{gallery.users}"
        client.create_user(CollectionId=gallery.name, UserId=user)
        answer = client.associate_faces(CollectionId=gallery.name, UserId=user, FaceIds=[face])
        assert [one["FaceId"] for one in answer["AssociatedFaces"]] == [face]
        gallery.owner[face] = user

    def search(self, client, gallery) -> None:
        if (face := gallery.any_face(self.chance)) is not None:
            assert face in found(client, gallery.name, gallery.there[face])

    def delete_collection(self, client, gallery) -> None:
        self.gallery, self.deleted[gallery.name] = None, gallery
        gallery.unsure |= set(gallery.there)
        client.delete_collection(CollectionId=gallery.name)
        gallery.unsure.clear()
        gallery.gone |= gallery.there
        gallery.there.clear()


MIX = {Writer.index: 20, Writer.delete_face: 8, Writer.associate: 6, Writer.search: 4, Writer.delete_collection: 1}
"""What writers do, and how often."""


def found(client, collection: str, subject: int) -> list[str]:
    answer = client.search_faces_by_image(CollectionId=collection, Image={"Bytes": picture(subject)})
    return [match["Face"]["FaceId"] for match in answer["FaceMatches"]]


def listed(client, collection: str) -> dict[str, dict]:
    return {face["FaceId"]: face for page in client.get_paginator("list_faces").paginate(CollectionId=collection) for face in page["Faces"]}


def check(client, writer: Writer) -> dict[str, set[str]]:
    """What a writer was told is so, in lists, in searches and in counts; learns what became of what it was unsure of.

    Returns the faces of each of its collections that is there.
    """
    there = {name for name in client.list_collections(MaxResults=4096)["CollectionIds"] if name.startswith(f"writer-{writer.number}-")}
    faces = {}
    for name in sorted(there):
        gallery = writer.gallery if writer.gallery and writer.gallery.name == name else writer.deleted.get(name, Gallery(name))
        rows = listed(client, name)
        faces[name] = set(rows)
        assert set(gallery.there) - gallery.unsure <= set(rows), "an acknowledged face is lost"
        assert not set(gallery.gone) & set(rows), "a deleted face is back"
        assert client.describe_collection(CollectionId=name)["FaceCount"] == len(rows)
        for face, user in gallery.owner.items():
            assert face in gallery.unsure or rows[face]["UserId"] == user, "an acknowledged association is lost"
        for face, subject in writer.chance.sample(sorted(gallery.gone.items()), min(3, len(gallery.gone))):
            assert face not in found(client, name, subject)
        for face in writer.chance.sample(sorted(rows), min(3, len(rows))):
            assert face in found(client, name, int(rows[face]["ExternalImageId"][1:]))
        gallery.there = {face: int(row["ExternalImageId"][1:]) for face, row in rows.items()}
        gallery.owner = {face: row["UserId"] for face, row in rows.items() if "UserId" in row}
        gallery.users += 1  # the last one may have been made
        gallery.unsure.clear()
        assert name not in writer.deleted or gallery.there or not gallery.gone, "a deleted collection is back"
        writer.gallery = gallery
    for name, gallery in writer.deleted.items():
        assert name not in there or gallery.unsure or writer.gallery is gallery
    assert writer.gallery is None or writer.gallery.name in there, "an acknowledged collection is lost"
    return faces


def rounds(data: Path, how_many: int, seed: int) -> Counter[str]:
    """Mixed traffic by several clients, kill -9 at a random moment, doctor, restart, compare; again and again on one data folder."""
    chance, subjects, key = random.Random(seed), itertools.count(), None
    writers = [Writer(number, seed, subjects) for number in range(WRITERS)]
    for _ in range(how_many):
        server = ServerProcess(data, key)
        key = server.key
        with ThreadPoolExecutor(WRITERS) as pool:
            list(pool.map(check, [server.client() for _ in writers], writers))
            running = [pool.submit(writer.run, server.client(retries={"total_max_attempts": 1})) for writer in writers]
            time.sleep(chance.uniform(0.1, 2))
            assert server.process.poll() is None
            server.kill()
            for one in running:
                one.result()
        assert_well(data)
    with process_serving(data, key) as server:
        faces = {name: held for writer in writers for name, held in check(server.client(), writer).items()}
    assert_well(data)
    app = bootstrap.open_app(null_settings(data))
    recorded: dict[str, set[str]] = {}
    for entry in assert_ledger_whole(app):
        if entry["type"] == "collection.erased":  # of one that is out of `recorded` already, or made anew
            continue
        held = recorded.setdefault(entry["collection"], set()) if isinstance(entry.get("collection"), str) else set()
        if entry["type"] == "faces.enrolled":
            held |= set(entry["face_ids"])
        elif entry["type"] == "faces.removed":
            held -= set(entry["face_ids"])
        elif entry["type"] == "collection.deleted":
            del recorded[entry["collection"]]
    app.database.close()
    assert recorded == faces
    return sum((writer.counts for writer in writers), Counter())


def assert_well(data: Path) -> None:
    done = CliRunner().invoke(program, ["doctor", "--data", str(data)], env={"ABOVEBOARD_PACK": "null"})
    assert done.exit_code == 0, done.output


def test_what_was_acknowledged_survives_kill_9(tmp_path):
    """No acknowledged face or association is lost, no deleted face is back, doctor is content with what the kill left, unopened."""
    assert rounds(tmp_path / "data", 2, seed=1)["index"]


@pytest.mark.long
def test_what_was_acknowledged_survives_fifty_kills(tmp_path):
    """The same on one growing data folder, again and again; everything in the mix was in it."""
    assert set(rounds(tmp_path / "data", 50, seed=2)) == {step.__name__ for step in MIX}


def test_a_request_in_flight_is_finished_before_the_server_stops(tmp_path):
    """SIGTERM while an image is being sent: no new connection is taken, the request is answered, the face is there, exit code 0."""
    data = tmp_path / "data"
    server = ServerProcess(data)
    server.client().create_collection(CollectionId="a")
    body = json.dumps({"CollectionId": "a", "Image": {"Bytes": b64(picture(1))}}).encode()
    host = urlsplit(server.endpoint).netloc
    request = AWSRequest("POST", server.endpoint, {"Host": host, "X-Amz-Target": "RekognitionService.IndexFaces"}, body)
    SigV4Auth(Credentials(server.key.id, server.key.secret), "rekognition", "eu-west-1").add_auth(request)
    lines = [f"{name}: {value}" for name, value in request.headers.items()]
    head = "\r\n".join(["POST / HTTP/1.1", *lines, f"Content-Length: {len(body)}", "Expect: 100-continue", "", ""]).encode()
    address = ("127.0.0.1", int(host.split(":")[1]))
    with socket.create_connection(address, timeout=60) as wire:
        wire.sendall(head)
        assert b"100 Continue" in wire.recv(1000)  # the request is in flight
        wire.sendall(body[:100])
        server.process.send_signal(signal.SIGTERM)
        while True:  # until the signal has arrived: the port is closed
            try:
                socket.create_connection(address, timeout=60).close()
            except OSError:
                break
        wire.sendall(body[100:])
        answer = b""
        while part := wire.recv(65536):
            answer += part
    assert b"200 OK" in answer.split(b"\r\n")[0]
    face = json.loads(answer.split(b"\r\n\r\n", 1)[1])["FaceRecords"][0]["Face"]["FaceId"]
    assert server.process.wait(60) == 0
    with process_serving(data, server.key) as again:
        assert [one["FaceId"] for one in again.client().list_faces(CollectionId="a")["Faces"]] == [face]


@pytest.mark.long
def test_sdk_retries_after_a_kill_make_no_second_face(tmp_path):
    """A client that heard nothing sends the request again to the restarted server: one face, the same id."""
    data = tmp_path / "data"
    with process_serving(data) as server:
        key = server.key
        server.client().create_collection(CollectionId="a")
        first = server.client().index_faces(CollectionId="a", Image={"Bytes": picture(1)}, ExternalImageId="x")
        server.kill()
    with process_serving(data, key) as server:
        again = server.client().index_faces(CollectionId="a", Image={"Bytes": picture(1)}, ExternalImageId="x")
        assert again["FaceRecords"][0]["Face"] == first["FaceRecords"][0]["Face"]
        assert server.client().describe_collection(CollectionId="a")["FaceCount"] == 1


def test_credentials_from_the_printed_lines_work_in_boto3s_own_way(tmp_path, monkeypatch):
    """The lines that the first start prints are all that an unmodified boto3 program needs."""
    with process_serving(tmp_path / "data") as server:
        for name, value in (
            ("AWS_ACCESS_KEY_ID", server.key.id), ("AWS_SECRET_ACCESS_KEY", server.key.secret),
            ("AWS_DEFAULT_REGION", "us-east-1"), ("AWS_ENDPOINT_URL_REKOGNITION", server.endpoint),
        ):  # fmt: skip
            monkeypatch.setenv(name, value)
        assert boto3.session.Session().client("rekognition").list_collections()["CollectionIds"] == []
