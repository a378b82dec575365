"""kill -9 and SIGTERM in the middle of work: what was acknowledged is there, what is there is whole."""

from __future__ import annotations

import itertools
import json
import random
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError, ClientError
from kit import ServerProcess, assert_ledger_whole, b64, null_settings, picture, process_serving

from aboveboard import bootstrap

WRITERS = 4


def killed_while_indexing(data: Path, key, subjects, acknowledgements: int) -> dict[str, str]:
    """Index with several clients at once, kill -9 at that many acknowledgements; returns FaceId by external id of the acknowledged."""
    server = ServerProcess(data, key)
    acknowledged: dict[str, str] = {}
    enough, lock = threading.Event(), threading.Lock()

    def write(_):
        client = server.client()
        while True:
            with lock:
                subject = next(subjects)
            try:
                answer = client.index_faces(CollectionId="a", Image={"Bytes": picture(subject)}, ExternalImageId=f"e{subject}")
            except (BotoCoreError, ClientError, json.JSONDecodeError):  # the last one: killed between head and body of the answer
                assert enough.is_set()
                return
            with lock:
                acknowledged[f"e{subject}"] = answer["FaceRecords"][0]["Face"]["FaceId"]
                if len(acknowledged) >= acknowledgements:
                    enough.set()

    with ThreadPoolExecutor(WRITERS) as pool:
        done = [pool.submit(write, i) for i in range(WRITERS)]
        assert enough.wait(120)
        server.kill()
        for future in done:
            future.result()
    return acknowledged


def check(data: Path, key, acknowledged: dict[str, str]) -> None:
    """Over a new server process: everything acknowledged is listed and found; rows, templates, count and ledger agree."""
    with process_serving(data, key) as server:
        client = server.client()
        listed = [face for page in client.get_paginator("list_faces").paginate(CollectionId="a") for face in page["Faces"]]
        by_name = {face["ExternalImageId"]: face["FaceId"] for face in listed}
        assert len(by_name) == len(listed)
        assert acknowledged.items() <= by_name.items()
        assert client.describe_collection(CollectionId="a")["FaceCount"] == len(listed)
        for face in listed:
            answer = client.search_faces(CollectionId="a", FaceId=face["FaceId"])
            assert answer["ResponseMetadata"]["HTTPHeaders"]["x-aboveboard-gallery-size"] == str(len(listed) - 1)
        for name in list(acknowledged)[-3:]:
            answer = client.search_faces_by_image(CollectionId="a", Image={"Bytes": picture(int(name[1:]))})
            assert acknowledged[name] in [match["Face"]["FaceId"] for match in answer["FaceMatches"]]
    app = bootstrap.open_app(null_settings(data))
    entries = assert_ledger_whole(app)
    app.database.close()
    recorded = [face_id for entry in entries if entry["type"] == "faces.enrolled" for face_id in entry["face_ids"]]
    assert sorted(recorded) == sorted(by_name.values())


def rounds(tmp_path: Path, how_many: int, seed: int) -> None:
    data, chance = tmp_path / "data", random.Random(seed)
    with process_serving(data) as server:
        key = server.key
        server.client().create_collection(CollectionId="a")
    subjects, acknowledged = itertools.count(), {}
    for _ in range(how_many):
        acknowledged |= killed_while_indexing(data, key, subjects, chance.randint(3, 40))
        check(data, key, acknowledged)


def test_what_was_acknowledged_survives_kill_9(tmp_path):
    """Four clients index, the server is killed: every acknowledged FaceId is there after the restart, the ledger has no gap."""
    rounds(tmp_path, 1, seed=1)


@pytest.mark.long
def test_what_was_acknowledged_survives_twenty_five_kills(tmp_path):
    """The same on one growing data folder, again and again."""
    rounds(tmp_path, 25, seed=2)


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
