"""Requests that are odd, broken or hostile: the documented error, never a 500, and the server goes on."""

from __future__ import annotations

import json
import socket
from http.client import HTTPResponse

import pytest
from kit import AccessKey, b64, picture

BAD, TOO_LARGE = "InvalidParameterException", "ImageTooLargeException"
FACE = b64(picture(1))


@pytest.fixture(autouse=True)
def goes_on(server):
    yield
    assert server.is_alive()


MALFORMED = {
    "not JSON": b"x",
    "half an object": b'{"Image": {"Bytes": "QUJD"}',
    "an array": b"[]",
    "a number": b"1",
    "null": b"null",
    "a string": b'"x"',
    "NaN": b'{"MaxResults": NaN}',
    "Infinity": b'{"MaxResults": -Infinity}',
    "a number beyond floats": b'{"MaxResults": 1e999}',
    "a number of 5,000 digits": b'{"MaxResults": ' + b"9" * 5000 + b"}",
    "10^400": b'{"MaxResults": 1' + b"0" * 400 + b"}",
    "a fraction": b'{"MaxResults": 1.5}',
    "nested 100,000 deep": b'{"MaxResults": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "objects nested 50,000 deep": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "invalid UTF-8": b'{"NextToken": "\xff\xfe"}',
    "a lone surrogate": b'{"NextToken": "\\ud800"}',
    "trailing rubbish": b"{} x",
    "single quotes": b"{'MaxResults': 1}",
    "a comment": b"{/* */}",
    "null bytes": bytes(100),
}


@pytest.mark.parametrize("form", MALFORMED)
def test_malformed_json_is_a_bad_request(server, form):
    """InvalidParameterException; the text says what is wrong."""
    reply = server.post("ListCollections", MALFORMED[form])
    assert (reply.status, reply.code) == (400, BAD)
    assert len(reply.message) < 1000


def test_an_empty_body_is_an_empty_request(server):
    """As AWS takes it."""
    assert server.post("ListCollections", b"").status == 200
    assert server.post("DescribeCollection", b"").code == BAD


def test_of_duplicate_keys_the_last_counts(server):
    """JSON leaves it open; a signed request is answered one way, every time."""
    reply = server.post("ListCollections", b'{"MaxResults": -1, "MaxResults": 1}')
    assert reply.status == 200
    assert server.post("ListCollections", b'{"MaxResults": 1, "MaxResults": -1}').code == BAD


@pytest.mark.parametrize("text", ["@@@@", "QUJ", "Q", "QUJD\n", "QU JD", "_-_-", "ÄÖÜß", FACE[:-2] + "\u2028"])
def test_wrong_base64_is_a_bad_request(server, text):
    """Image.Bytes is strict base64 (RFC 4648), without line ends."""
    reply = server.post("DetectFaces", {"Image": {"Bytes": text}})
    assert reply.code == BAD
    assert "'image.bytes'" in reply.message


@pytest.mark.parametrize(
    ("operation", "code"), [("DetectFaces", TOO_LARGE), ("IndexFaces", TOO_LARGE), ("ListFaces", BAD), ("Nonsense", BAD)]
)
def test_a_body_above_15_mib_is_refused(server, operation, code):
    """Before it is parsed, whether its length is announced or not; as a photograph of 6 MB is, where it must be one."""
    body = b'{"Image": {"Bytes": "' + b"A" * (15 * 1024 * 1024) + b'"}}'
    reply = server.send(body, server.signed(body, f"RekognitionService.{operation}"))
    assert reply.code == code
    assert "15728640" in reply.message


def test_a_large_body_is_an_image_or_is_refused(server):
    """15 MiB of tiny objects, or one sign outside ASCII, would take many times as much memory to read; a large image is read as ever."""
    big = b64(picture(1) + b"\0" * 3_000_000)
    for body in (
        b'{"x":[' + b",".join([b"{}"] * 400_000) + b"]}",
        json.dumps({"Image": {"Bytes": big}, "Note": "\N{OWL}"}, ensure_ascii=False).encode(),
    ):
        reply = server.send(body, server.signed(body, "RekognitionService.DetectFaces"))
        assert reply.code == "InvalidParameterException"
        assert "must be ASCII" in reply.message
    assert server.post("DetectFaces", {"Image": {"Bytes": big}, "Note": "\N{OWL}"}).status == 200


def test_a_body_sent_in_chunks_is_read(server):
    """Transfer-Encoding: chunked works, and is bounded like any other."""
    body = json.dumps({"Image": {"Bytes": FACE}}).encode()

    def chunked(data, headers):
        lines = [f"{name}: {value}" for name, value in headers.items()]
        head = "\r\n".join(["POST / HTTP/1.1", *lines, "Transfer-Encoding: chunked", "Connection: close", "", ""]).encode()
        return server.bytes_exchange(head + b"%x\r\n" % len(data) + data + b"\r\n0\r\n\r\n", then_hang_up=False)

    headers = server.signed(body, "RekognitionService.DetectFaces")
    assert b"200 OK" in chunked(body, headers).split(b"\r\n")[0]
    assert b"InvalidSignature" in chunked(body + b" ", headers)
    huge = b" " * (15 * 1024 * 1024 + 1)
    assert TOO_LARGE.encode() in chunked(huge, server.signed(huge, "RekognitionService.DetectFaces"))


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"])
def test_only_post_is_a_request(server, method):
    """405 Method Not Allowed."""
    assert server.send(b"", {"Host": server.host}, method, "/").status == 405


HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"
RAW = {
    "nothing": b"",
    "rubbish": b"\x00\xff rubbish \r\n\r\n",
    "TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no version": b"POST /\r\n\r\n",
    "negative length": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "length that is no number": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: ten\r\n\r\n",
    "length of 5,000 digits": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "length and chunks": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bad chunk": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "header without colon": b"POST / HTTP/1.1\r\nHost x\r\n\r\n",
    "header of 1 MB": b"POST / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n",
    "10,000 headers": b"POST / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X%d: y\r\n" % i for i in range(10_000)) + b"\r\n",
    "folded header": b"POST / HTTP/1.1\r\nHost: x\r\nAuthorization: a\r\n b\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "odd bytes in headers": HEAD + b"Authorization: \xe4\xf6\xfc\x80\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "odd path": b"POST /%ff%00/..//\x7f?%zz=%c3 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "absolute address": b"POST http://elsewhere.example/ HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "upgrade": HEAD.replace(b"POST", b"GET") + b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: eA==\r\n\r\n",
    "body cut short": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nshort",
}


@pytest.mark.parametrize("form", RAW)
def test_garbage_on_the_wire_is_no_internal_error(server, form):
    """Whatever comes: nothing, or an answer that is no 500."""
    try:
        answer = server.bytes_exchange(RAW[form])
    except OSError:  # hung up upon
        return
    assert b" 500 " not in answer.split(b"\r\n")[0]


@pytest.mark.parametrize("last", [b"Connection: close\r\n", b""], ids=["closes", "keeps the connection"])
def test_a_refusal_reaches_who_is_still_sending(server, last):
    """An unknown key is refused at its head; the body that is on its way is taken in, so that no reset takes the answer away."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as wire:
        body = b"x" * 4_000_000
        head = server.signed(body, "RekognitionService.ListCollections", AccessKey("AKIAIOSFODNN7EXAMPLE", "x" * 40))
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        wire.sendall(f"POST / HTTP/1.1\r\n{lines}Content-Length: {len(body)}\r\n".encode() + last + b"\r\n" + body[:1000])
        refusal = HTTPResponse(wire)
        refusal.begin()
        assert json.loads(refusal.read())["__type"] == "UnrecognizedClientException"
        wire.sendall(body[1000:])
        if last:
            assert wire.recv(1) == b""
        else:
            wire.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert wire.recv(15) == b"HTTP/1.1 200 OK"


def test_a_client_that_goes_away_leaves_the_server_standing(server):
    """A signed request whose sender hangs up in the middle of its body, twenty times."""
    body = json.dumps({"Image": {"Bytes": FACE}}).encode()
    head = "\r\n".join(
        [
            "POST / HTTP/1.1",
            *(f"{k}: {v}" for k, v in server.signed(body, "RekognitionService.DetectFaces").items()),
            f"Content-Length: {len(body)}",
            "",
            "",
        ]
    )
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", server.port)) as wire:
            wire.sendall(head.encode() + body[: len(body) // 2])
    assert server.is_alive()
