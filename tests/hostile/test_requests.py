"""Ten thousand requests that no SDK sends: an answer or a documented error, never a 500; afterwards every row is accounted for."""

from __future__ import annotations

import json
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from judge import judge
from kit import ServerProcess, assert_ledger_whole, b64, null_settings, picture, process_serving
from requesting import COLLECTIONS, NAMES, Request, filled, requests

from aboveboard import bootstrap


class Target:
    """A server process under fire, and what its answers have told about its state: ids of faces and page tokens, the newest first."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        self.faces: list[str] = []
        self.tokens: list[str] = []
        self.answers: Counter[str] = Counter()
        self.answered: set[str] = set()
        for name in COLLECTIONS[:3]:
            self.restore(name)

    def restore(self, collection: str) -> None:
        self.server.post("CreateCollection", {"CollectionId": collection})
        self.send(Request("IndexFaces", json.dumps({"CollectionId": collection, "Image": {"Bytes": b64(picture(1, 2))}}).encode()))

    def known(self, kind: str, i: int) -> str:
        """What a placeholder stands for just now."""
        known = self.faces if kind == "face" else self.tokens
        return known[i] if i < len(known) else "00000000-0000-4000-8000-00000000000f"

    def learn(self, answer: dict) -> None:
        self.faces = [record["Face"]["FaceId"] for record in answer.get("FaceRecords", [])] + self.faces[:20]
        self.tokens = ([answer["NextToken"]] if "NextToken" in answer else []) + self.tokens[:4]

    def send(self, request: Request) -> None:
        """Send a request; AssertionError where the answer is none that AWS documents, or where none comes."""
        body = filled(request.body, self.known)
        if request.twists:
            self.exchange(request, body)
            return
        reply = self.server.send(body, self.server.signed(body, f"RekognitionService.{request.operation}"))
        assert reply.status != 500, reply.body
        judge(request.operation, reply.status, reply.headers, reply.body)
        self.answers[reply.code or "200"] += 1
        if reply.status == 200:
            self.answered.add(request.operation)
            self.learn(reply.json)
            if request.operation == "DeleteCollection":
                self.restore(json.loads(body)["CollectionId"])

    def exchange(self, request: Request, body: bytes) -> None:
        """The same through a socket, with a twisted envelope; the server may hang up, but every answer is well-formed and no 500."""
        of = {twist.kind: twist.value for twist in request.twists}
        path = of.get("path", "/")
        extra = dict([of["header"]] if "header" in of and of["header"][0] not in ("Content-Length", "X-Amz-Date") else [])
        headers = self.server.signed(body, of.get("target", f"RekognitionService.{request.operation}"), path=path, headers=extra)
        lines = [(name, value) for name, value in headers.items() if name != of.get("drop")]
        if "header" in of:
            lines = [line for line in lines if line[0] != of["header"][0]] + [of["header"]]
        if "authorization" in of:
            at, cut, text = of["authorization"]
            value = headers["Authorization"]
            start = int(at * len(value))
            lines = [(name, value[:start] + text + value[start + cut :] if name == "Authorization" else old) for name, old in lines]
        if "chunked" in of:
            payload = of["chunked"].replace(b"%x", b"%x" % len(body)).replace(b"%s", body)
            lines.append(("Transfer-Encoding", "chunked"))
        else:
            payload = body
            if of.get("header", ("",))[0] != "Content-Length":
                lines.append(("Content-Length", of.get("length", str(len(body) + of.get("short", 0)))))
        lines += [line for line in lines if line[0] == of.get("twice")]
        start_line = of.get("line", f"{of.get('method', 'POST')} {path} HTTP/1.1")
        one = "\r\n".join([start_line, *(f"{name}: {value}" for name, value in lines)]).encode("latin-1")
        data = one + b"\r\n\r\n" + payload
        data = data * of.get("twins", 1) + of.get("rubbish", b"")
        try:
            said = self.server.bytes_exchange(data, then_hang_up=True)
        except ConnectionError:
            said = b""
        self.answers["twisted"] += 1
        for status, head, content in answers(said, start_line.startswith("HEAD")):
            assert status < 500, said[:2000]
            if "x-amzn-requestid" in head:
                document = json.loads(content)
                assert status == 200 or (document["__type"] == head["x-amzn-errortype"] and document["Message"]), said[:2000]
        if not request.twists[1:] and request.twists[0].kind in ("target", "path", "drop", "authorization", "twice"):
            # Hanging up may cut the answer off: what is well-formed HTTP is sent again by a client that waits.
            told = [status for status, _, _ in answers(self.server.bytes_exchange(with_close(data), then_hang_up=False))]
            assert told, "no answer to a request that is well-formed HTTP"
            assert max(told) < 500


def with_close(data: bytes) -> bytes:
    head, _, payload = data.partition(b"\r\n\r\n")
    return head + b"\r\nConnection: close\r\n\r\n" + payload


def answers(said: bytes, of_head: bool = False) -> Iterator[tuple[int, dict[str, str], bytes]]:
    """Status, headers and body of every answer in what a server said.

    An answer to HEAD has a length without a body, unless the request was so broken that nobody could know that it was one.
    """
    while said:
        head, _, said = said.partition(b"\r\n\r\n")
        first, *rest = head.decode("latin-1").split("\r\n")
        found = re.fullmatch(r"HTTP/1\.[01] (\d{3}) .*", first)
        assert found, f"no HTTP answer: {head[:200]!r}"
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
        has_no_body = of_head and (not said or said.startswith(b"HTTP/"))
        length = 0 if has_no_body else int(headers.get("content-length", len(said) if int(found[1]) >= 200 else 0))
        content, said = said[:length], said[length:]
        yield int(found[1]), headers, content


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("hostile")
    with process_serving(folder / "data", log=folder / "log") as server:
        yield Target(server)


def bombard(target: Target, count: int) -> None:
    """Send `count` generated requests; the failing one is printed by hypothesis, and can be sent again with target.send(...)."""

    @settings(max_examples=count)
    @given(request=requests())
    def withstands(request: Request) -> None:
        target.send(request)

    withstands()


def assert_whole(target: Target) -> None:
    """The ledger has no gap, and every count agrees with what is listed and with what is in the file."""
    client = target.server.client()
    data = null_settings(target.server.data)
    app = bootstrap.open_app(data)
    try:
        assert_ledger_whole(app)
    finally:
        app.database.close()
    names = [name for page in client.get_paginator("list_collections").paginate() for name in page["CollectionIds"]]
    listed = {
        name: [face for page in client.get_paginator("list_faces").paginate(CollectionId=name) for face in page["Faces"]] for name in names
    }
    assert {name: client.describe_collection(CollectionId=name)["FaceCount"] for name in names} == {
        name: len(faces) for name, faces in listed.items()
    }
    if "ListUsers" in NAMES:
        users = {
            name: [user for page in client.get_paginator("list_users").paginate(CollectionId=name) for user in page["Users"]]
            for name in names
        }
        assert {name: client.describe_collection(CollectionId=name)["UserCount"] for name in names} == {
            name: len(found) for name, found in users.items()
        }
    with sqlite3.connect(data.data / "aboveboard.db") as file:
        rows, templates, orphans = (file.execute(query).fetchone()[0] for query in (
            "SELECT count(*) FROM faces", "SELECT count(*) FROM templates",
            "SELECT count(*) FROM templates WHERE face NOT IN (SELECT n FROM faces)"))  # fmt: skip
        assert (rows, templates, orphans) == (sum(map(len, listed.values())),) * 2 + (0,)
        assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def told(target: Target, capsys: pytest.CaptureFixture[str]) -> None:
    now, most = target.server.memory_mb()
    with capsys.disabled():
        counts = ", ".join(f"{n} {code}" for code, n in target.answers.most_common())
        print(f"\n{target.answers.total()} generated requests: {counts}; memory {now:.0f} MB, at most {most:.0f} MB")


def test_a_thousand_generated_requests_are_answered_or_refused(target, capsys):
    """Bodies and envelopes of every kind, to every operation that is offered."""
    bombard(target, 1000)
    assert_whole(target)
    told(target, capsys)
    assert target.answers["200"] > 100


@pytest.mark.long
def test_ten_thousand_generated_requests_are_answered_or_refused(target, capsys):
    """The same, longer: every operation was answered too, and the process is as large as after the first tenth."""
    bombard(target, 1000)
    before, _ = target.server.memory_mb()
    bombard(target, 10_000)
    assert_whole(target)
    told(target, capsys)
    assert target.answered == set(NAMES)
    assert target.server.memory_mb()[0] - before < 100
