"""Too many, too fast, too slow: limits by key, slow clients, crowds. What is refused is refused as AWS words it, and the server goes on."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import boto3
import numpy as np
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from kit import b64, canvas, encoded, null_settings, picture, process_serving, serving

from aboveboard.rekognition import protocol, server
from aboveboard.vision.media import Room

FACE = picture(1)


@pytest.fixture
def started(tmp_path):
    """Starts servers with settings of their own; they end with the test."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(serving(null_settings(tmp_path / "data", **settings)))


def codes(work, count):
    """What `count` calls give: '' or the error's code."""

    def one(_):
        try:
            work()
            return ""
        except ClientError as error:
            return error.response["Error"]["Code"]

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def test_a_key_that_sends_too_fast_is_throttled_and_sdks_send_again(started):
    """ThrottlingException, without an entry in the ledger; another key has a budget of its own, which nobody spends who lacks the
    secret. With boto3's retries on, every call is answered."""
    running = started(requests_per_second="3")
    other = running.operator("other", "auditor")
    before = running.entry_count()
    got = codes(running.client().list_collections, 12)
    assert set(got) == {"", "ThrottlingException"}
    assert got.count("") >= 3
    for _ in range(6):
        forged = running.send(
            b"{}", {**running.signed(b"{}", "RekognitionService.ListCollections", other), "Authorization": _forged(other)}
        )
        assert forged.code == "InvalidSignatureException"
    assert codes(running.client(other).list_collections, 3) == ["", "", ""]
    assert running.entry_count() == before
    patient = boto3.client(
        "rekognition", endpoint_url=running.endpoint, region_name="us-east-1", aws_access_key_id=running.key.id,
        aws_secret_access_key=running.key.secret, config=Config(retries={"mode": "standard", "max_attempts": 10}),
    )  # fmt: skip
    answers = [patient.list_collections() for _ in range(8)]
    assert sum(answer["ResponseMetadata"]["RetryAttempts"] for answer in answers) > 0


def _forged(key):
    day = time.strftime("%Y%m%d", time.gmtime())
    scope = f"{key.id}/{day}/eu-west-1/rekognition/aws4_request"
    return f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host;x-amz-date;x-amz-target, Signature={'0' * 64}"


def test_without_a_limit_nobody_is_throttled(started):
    """The default."""
    assert codes(started().client(max_pool_connections=30).list_collections, 30) == [""] * 30


HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"
SLOW = {
    "says nothing": (b"", b""),
    "says it letter by letter": (b"POST / HTTP", b"x"),
    "header after header": (HEAD, b"X: y\r\n"),
    "empty lines": (b"\r\n", b"\r\n"),
    "a body that was answered already": (HEAD + b"Content-Length: 9999\r\n\r\n", b"x"),
}


@pytest.mark.parametrize("how", SLOW)
def test_slow_clients_are_hung_up_upon(started, monkeypatch, how):
    """Thirty at a time, each sending a little every 0.1 s: all connections end, and the server answers meanwhile."""
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 1.0)
    running = started()
    first, more = SLOW[how]
    wires = [socket.create_connection(("127.0.0.1", running.port), timeout=30) for _ in range(30)]
    for wire in wires:
        wire.sendall(first)
    gone: set[int] = set()
    deadline = time.monotonic() + 60
    while len(gone) < len(wires) and time.monotonic() < deadline:
        assert running.is_alive()
        for i, wire in enumerate(wires):
            try:
                wire.sendall(more)
                wire.settimeout(0.001)
                while wire.recv(65536):
                    pass
                gone.add(i)
            except TimeoutError:
                continue
            except OSError:
                gone.add(i)
    assert len(gone) == len(wires)
    for wire in wires:
        wire.close()


def test_who_does_not_read_his_answers_is_hung_up_upon(started, monkeypatch):
    """The answers fill the buffers, nothing more is read from him, and the connection ends."""
    monkeypatch.setattr(protocol, "ANSWER_TIMEOUT_S", 1.0)
    running = started()
    with socket.socket() as wire:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        wire.settimeout(60)
        wire.connect(("127.0.0.1", running.port))
        with pytest.raises(ConnectionError):
            _send_for_ever(wire, HEAD + b"Content-Length: 0\r\n\r\n")
    assert running.is_alive()


def _send_for_ever(wire, data):
    for _ in range(200_000):
        wire.sendall(data)


def test_idle_connections_make_room_for_new_ones(started):
    """Of more connections than there may be, those that said nothing for longest end; a request is answered all the while."""
    running = started(connections="20")
    with ExitStack() as stack:
        wires = [stack.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=30)) for _ in range(60)]
        assert running.is_alive()
        closed = 0
        for wire in wires[:40]:
            try:
                closed += wire.recv(1) == b""
            except ConnectionError:
                closed += 1
        assert closed == 40
        wires[-1].settimeout(0.2)
        with pytest.raises(TimeoutError):
            wires[-1].recv(1)  # the newest is still there


def announced(running, key, length):
    """A connection whose request claims a key, has no signature of it and never sends its body."""
    headers = {**running.signed(b"{}", "RekognitionService.DetectFaces", key), "Authorization": _forged(key), "Content-Length": length}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    wire = socket.create_connection(("127.0.0.1", running.port), timeout=30)
    wire.sendall(f"POST / HTTP/1.1\r\n{lines}\r\n".encode())
    return wire


def test_requests_without_a_body_make_room_for_new_ones(started):
    """They are no more than idle connections; who sends his body, however slowly, goes last."""
    running = started(connections="20")
    other = running.operator("other", "auditor")
    body = b"{}" + b" " * 50
    lines = "".join(f"{name}: {value}\r\n" for name, value in running.signed(body, "RekognitionService.ListCollections").items())
    with ExitStack() as stack:
        slow = stack.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=30))
        slow.sendall(f"POST / HTTP/1.1\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode())
        for i in range(50):
            slow.sendall(body[i : i + 1])
            time.sleep(0.01)
            stack.enter_context(announced(running, other, 1))
        assert [running.post("ListCollections", {}).status for _ in range(5)] == [200] * 5
        slow.sendall(body[50:])
        assert b"200 OK" in slow.recv(65536)


def test_a_key_s_id_alone_does_not_take_the_room_of_others(started, monkeypatch):
    """Large bodies announced under it, which never come, leave room for the largest body of another key."""
    monkeypatch.setattr(server, "WAIT_UNREAD_S", 2.0)
    running = started()
    other = running.operator("other", "auditor")
    with ExitStack() as stack:
        for _ in range(6):
            stack.enter_context(announced(running, other, server.MAX_BODY))
        while not running.front.bodies.waiting:
            time.sleep(0.01)
        assert running.post("ListCollections", b"{}" + b" " * (server.MAX_BODY - 2)).status == 200


def test_a_key_whose_requests_do_not_end_leaves_workers_to_others(started):
    """Half of them."""
    running = started(images_at_once="1")
    other, crowd = running.operator("other", "auditor"), running.client(max_pool_connections=6)
    with ThreadPoolExecutor(6) as pool:
        with running.app.room.decoded(FACE, 10**6):  # so that no other image has its turn
            done = [pool.submit(crowd.detect_faces, Image={"Bytes": FACE}) for _ in range(6)]
            while running.front.workers.in_use + running.front.workers.waiting < 6:
                time.sleep(0.01)
            assert (running.front.workers.in_use, running.front.workers.capacity) == (2, 4)
            assert running.client(other).list_collections()["CollectionIds"] == []
            assert not any(future.done() for future in done)
        for future in done:
            future.result()


def test_who_hung_up_does_not_wait(started):
    """Heads sent and closed leave nothing behind, though there is no room for their bodies."""
    running = started()
    other = running.operator("other", "auditor")
    with ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(announced(running, other, server.MAX_BODY))
        for _ in range(100):
            announced(running, other, server.MAX_BODY).close()
        deadline = time.monotonic() + 15
        while running.front.bodies.waiting != 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert running.front.bodies.waiting == 2  # of the five
        assert running.is_alive()


def test_bodies_are_read_while_there_is_room_for_them(started, monkeypatch):
    """Announced bytes take room. Who waits too long for it is told ThrottlingException; once they are gone everything is answered."""
    monkeypatch.setattr(server, "WAIT_UNREAD_S", 1.0)
    running = started(request_bytes_at_once="16000000")
    body = b'{"Image": {"Bytes": "' + b"A" * 9_000_000 + b'"}}'
    head = "".join(f"{name}: {value}\r\n" for name, value in running.signed(body, "RekognitionService.DetectFaces").items())
    large = f"POST / HTTP/1.1\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode()
    with ExitStack() as stack:
        for _ in range(3):  # one has room, two wait for it
            stack.enter_context(socket.create_connection(("127.0.0.1", running.port))).sendall(large)
        while not running.front.bodies.in_use:
            time.sleep(0.01)
        reply = running.post("DetectFaces", body)
        assert reply.code == "ThrottlingException"
        assert "request bodies" in reply.message
        assert running.is_alive()  # small ones find room
    assert running.post("DetectFaces", body).code == "ImageTooLargeException"


def test_an_image_that_waits_too_long_for_its_turn_is_throttled_on_record(started, monkeypatch):
    """The intent of the search was written already, so its outcome says why there was no look."""
    running = started(images_at_once="1")
    running.client().create_collection(CollectionId="a")
    monkeypatch.setattr(Room, "WAIT_S", 0.2)
    with running.app.room.decoded(FACE, 10**6):
        reply = running.post("SearchFacesByImage", {"CollectionId": "a", "Image": {"Bytes": b64(FACE)}})
        assert reply.code == "ThrottlingException"
    assert running.entries()[-1]["reason"] == "TooFast"
    assert running.post("SearchFacesByImage", {"CollectionId": "a", "Image": {"Bytes": b64(FACE)}}).status == 200


def test_comparisons_do_not_wait_for_each_other_for_ever(started):
    """Two images each and room for one: twenty at once are all answered."""
    running = started(images_at_once="1")
    client = running.client(max_pool_connections=20)
    assert codes(lambda: client.compare_faces(SourceImage={"Bytes": FACE}, TargetImage={"Bytes": FACE}), 20) == [""] * 20
    assert running.app.room.in_use() == (0, 0)


def test_a_crowd_of_one_key_does_not_keep_another_waiting(started):
    """Forty requests of one key are waiting; another key's, sent last, is answered before the last of them."""
    running = started(images_at_once="1")
    other, image = running.operator("other", "auditor"), encoded(canvas(1, width=1500, height=1500))
    order = []
    crowd = running.client(max_pool_connections=40)
    running.client(other).list_collections()

    def one(_):
        crowd.detect_faces(Image={"Bytes": image})
        order.append("crowd")

    with ThreadPoolExecutor(40) as pool:
        done = [pool.submit(one, i) for i in range(40)]
        while running.front.workers.waiting < 10:
            time.sleep(0.01)
        running.client(other).list_collections()
        order.append("other")
        for future in done:
            future.result()
    assert order.index("other") < 30


def test_a_hundred_pipelined_requests_are_not_taken(started):
    """Three are answered in order; more than eight ahead, which no SDK sends, end the connection."""
    running = started()
    one = HEAD + b"Content-Length: 0\r\n\r\n"
    last = HEAD + b"Content-Length: 0\r\nConnection: close\r\n\r\n"
    assert running.bytes_exchange(one * 2 + last, then_hang_up=False).count(b"HTTP/1.1 400") == 3
    assert running.bytes_exchange(one * 1000, then_hang_up=False).count(b"HTTP/1.1 400") < 20
    assert running.is_alive()


def test_a_body_is_asked_for_only_where_it_is_wanted(started):
    """Expect: 100-continue. A good key is told to go on; where the answer comes first, the connection ends with it."""
    running = started()
    body = b'{"Image": {"Bytes": "' + b64(FACE).encode() + b'"}}'
    signed = running.signed(body, "RekognitionService.DetectFaces")

    def asked(headers):
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        wire = socket.create_connection(("127.0.0.1", running.port), timeout=30)
        wire.sendall(f"POST / HTTP/1.1\r\n{lines}Expect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n".encode())
        return wire

    with asked(signed) as wire:
        assert wire.recv(100).startswith(b"HTTP/1.1 100 Continue")
        wire.sendall(body)
        assert b"200 OK" in wire.recv(65536)
    with asked({"Host": "x"}) as wire:
        answer = b"".join(iter(lambda: wire.recv(65536), b""))
        assert b"MissingAuthenticationToken" in answer
        assert b"connection: close" in answer.lower()


def test_http_1_0_is_answered(started):
    """And the connection closed."""
    running = started()
    lines = "".join(f"{name}: {value}\r\n" for name, value in running.signed(b"{}", "RekognitionService.ListCollections").items())
    assert b"200 OK" in running.bytes_exchange(f"POST / HTTP/1.0\r\n{lines}Content-Length: 2\r\n\r\n{{}}".encode(), then_hang_up=False)


def five_megabytes():
    """A JPEG of nearly 5 MiB and 16 million pixels with a drawn face in it."""
    image = canvas(1, width=4000, height=4000)
    image[200:] = np.random.default_rng(0).integers(100, 140, (3800, 4000, 1), np.uint8)
    for quality in range(95, 20, -3):
        data = encoded(image, ".jpg", 1, quality)
        if len(data) < 5 * 1024 * 1024:
            return data
    raise AssertionError


@pytest.mark.long
@pytest.mark.parametrize("name", ["DetectFaces", "CompareFaces"])
def test_memory_stays_bounded_under_a_hundred_requests_of_five_megabytes_at_once(tmp_path, name):
    """Each is answered or throttled. The bodies alone would take 670 or 1,340 MB, as many images decoded at once gigabytes."""
    image = {"Bytes": five_megabytes()}
    assert len(image["Bytes"]) > 4_000_000
    request = {"Image": image} if name == "DetectFaces" else {"SourceImage": image, "TargetImage": image}
    with process_serving(tmp_path / "data", images_at_once="2") as running:
        client = running.client(max_pool_connections=100, connect_timeout=300, read_timeout=300)
        method = client.detect_faces if name == "DetectFaces" else client.compare_faces
        got = codes(lambda: method(**request), 100)
        assert set(got) <= {"", "ThrottlingException"}
        assert "" in got
        peak = next(line for line in Path(f"/proc/{running.pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
        assert int(peak.split()[1]) < 1_600_000  # kB; 1,070,000 to 1,340,000 were seen, a quarter of it what malloc keeps
        client.list_collections()
