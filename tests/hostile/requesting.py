"""Requests that no SDK sends, generated out of botocore's model: bodies of every offered operation, and the envelopes around them.

A request is drawn by hypothesis and shrinks; what depends on the server's state stands in it as a placeholder (%face3%), so that its
repr says the same on every machine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from botocore.model import Shape
from hypothesis import strategies as st
from judge import operation
from kit import b64, picture

from aboveboard.rekognition.operations import offered

NAMES = sorted(offered())
COLLECTIONS = ("fuzz-a", "fuzz-b", "fuzz.C_3", "no-such")
NOBODY = "00000000-0000-4000-8000-000000000000"
IMAGES = {
    "one": picture(1), "two": picture(1, 2), "three": picture(3, 4, 5), "other": picture(6, suffix=".jpg"), "noface": picture(),
    "cut": picture(1, suffix=".jpg")[:900], "half": picture(2)[:400], "small": picture(1)[:40], "text": b"<html>", "byte": b"\xff",
    "limit": picture(1, suffix=".jpg").ljust(5 * 1024 * 1024, b"\0"), "over": picture(1, suffix=".jpg").ljust(5 * 1024 * 1024 + 1, b"\0"),
}  # fmt: skip
_READ = ("one", "two", "three", "other", "noface")
_ENCODED = {name: b64(data) for name, data in IMAGES.items()}

ODD = [
    b"null", b"true", b"[]", b"{}", b'""', b"[[]]", b"[null]", b'{"":""}', b"0", b"-1", b'"x"', b"", b"undefined", b"'x'", b'"\\x41"',
    b'"\\ud800"', b'"\\udfff\\ud800"', b'"\\u0000"', b'"\x00"', b'"\xff\xfe"', b'"\xed\xa0\x80"', b'"\xf4\x90\x80\x80"', b"\xef\xbb\xbf1",
    b"[" * 3000 + b"]" * 3000, b'{"a":' * 3000 + b"1" + b"}" * 3000, b'"' + b"x" * 70_000 + b'"', b'"\\ud83d\\ude00"', b'"unended',
]  # fmt: skip
NUMBERS = [
    b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999", b"1e-999", b"-0", b"-0.0", b"1.5", b"1e2", b"1E+2", b"5.0", b"01", b"+1", b".5",
    b"1.", b"0x10", b"1_0", b'"5"', b"2147483647", b"2147483648", b"9223372036854775807", b"9223372036854775808", b"-9223372036854775809",
    b"9007199254740993", b"9" * 310, b"9" * 5000, b"99.99999999999999999", b"100.00000000000001", b"1e300", b"1e308", b"-1", b"0",
]  # fmt: skip
BLOBS = [
    "", "=", "====", "QUJ", "Q", "QUJD\n", "QU JD", "_-_-", "\u00e4", "QUJDRA", "QQ==QQ==", "QUJD====", "/9j/", "iVBORw0KGgo=",
    "A" * 100_001,
]  # fmt: skip
FAULTS = ["lacking", "double", "unknown", "null", "case"]


@dataclass(frozen=True)
class Twist:
    """One thing wrong with an envelope."""

    kind: str
    value: Any


@dataclass(frozen=True)
class Request:
    """What is sent: an operation's name, its body with placeholders, and what is wrong with the envelope."""

    operation: str
    body: bytes
    twists: tuple[Twist, ...] = ()


def filled(body: bytes, placeholder: Callable[[str, int], str]) -> bytes:
    """The body with %image-NAME% as base64, and %face3%, %token0% as `placeholder` has them."""
    body = re.sub(rb"%image-(\w+)%", lambda found: _ENCODED[found[1].decode()].encode(), body)
    return re.sub(rb"%(face|token)(\d+)%", lambda found: placeholder(found[1].decode(), int(found[2])).encode(), body)


class _Writer:
    """Writes bodies as text."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw

    def spoiled(self, shape: Shape) -> bytes:
        """A value with a fault: in itself or somewhere inside."""
        if shape.type_name == "structure" and shape.members and self.draw(st.booleans()):
            return self.structure(shape, "", 1)
        if shape.type_name == "list" and self.draw(st.booleans()):
            return b"[" + self.well(shape.member) + b"," + self.spoiled(shape.member) + b"]"
        return self.faulty(shape)

    def faulty(self, shape: Shape) -> bytes:
        kind = shape.type_name
        if kind in ("integer", "long", "float", "double"):
            bounds = [shape.metadata[bound] for bound in ("min", "max") if bound in shape.metadata]
            near = [json.dumps(bound + step).encode() for bound in bounds for step in (-1, -0.5, 0, 1e-9, 0.5, 1)]
            return self.draw(st.sampled_from(near or NUMBERS) | st.sampled_from(NUMBERS) | odd)
        if kind == "blob":
            text = st.sampled_from(BLOBS).map(lambda blob: json.dumps(blob).encode())
            return self.draw(text | st.sampled_from([f'"%image-{name}%"'.encode() for name in IMAGES]) | st.sampled_from(ODD))
        if kind == "string":
            return self.draw(st.sampled_from(_bent(shape)) | st.text(max_size=30).map(lambda text: json.dumps(text).encode()) | odd)
        if kind == "list":
            least, most = shape.metadata.get("min", 0), shape.metadata.get("max", 50)
            item = self.well(shape.member)
            count = self.draw(st.sampled_from(sorted({max(least - 1, 0), least, most, most + 1, 2})))
            return self.draw(st.sampled_from([b"[" + b",".join([item] * count) + b"]", b"[null]", b"[" + item + b",]", item, b"{}"]))
        if kind == "map":
            most = shape.metadata.get("max", 50)
            many = ",".join(f'"k{i}":"v"' for i in range(self.draw(st.sampled_from([most, most + 1])))).encode()
            keys = (b'""', b'"aws:x"', b'"a\\nb"', b'"' + b"k" * 129 + b'"', b'"\\ud800"', b'"aboveboard:policy"', b'"\xff"', b'"\\u0000"')
            pairs = [b"{" + key + b':"v"}' for key in keys] + [b'{"k":1}', b'{"k":null}', b'{"k":"' + b"v" * 257 + b'"}', b"[]"]
            return self.draw(st.sampled_from([*pairs, b"{" + many + b"}", b'{"k":"a","k":"b"}']) | odd)
        if kind == "structure" and shape.members:
            return self.structure(shape, self.draw(st.sampled_from([*FAULTS, "all", "odd"])), 0)
        return self.draw(odd)

    def well(self, shape: Shape) -> bytes:
        kind = shape.type_name
        least, most = shape.metadata.get("min"), shape.metadata.get("max")
        if kind == "structure":
            return self.structure(shape, "", 0)
        if kind == "list":
            count = self.draw(st.integers(least or 0, min(most or 3, 3)))
            return b"[" + b",".join(self.well(shape.member) for _ in range(count)) + b"]"
        if kind == "map":
            pairs = st.sampled_from([b'"a":"b"', b'"team":"\xc3\xa4"', b'"aboveboard:policy":"general"', b'"x/y":""', b'"k 1":"v=1+@"'])
            return b"{" + b",".join(self.draw(st.lists(pairs, max_size=3))) + b"}"
        if kind == "string":
            return self.draw(st.sampled_from(_plausible(shape)))
        if kind == "blob":
            return f'"%image-{self.draw(st.sampled_from(_READ))}%"'.encode()
        if kind == "boolean":
            return self.draw(st.sampled_from([b"true", b"false"]))
        if kind in ("float", "double"):
            return repr(self.draw(st.floats(least or 0, most if most is not None else 1e6))).encode()
        return str(self.draw(st.sampled_from([least or 0, 1, 2, 3, most if most is not None else 2**31 - 1]))).encode()

    def structure(self, shape: Shape, fault: str, spoiled: int) -> bytes:
        """An object with a fault of its own, if one is named, and so many members spoiled."""
        if fault == "odd":
            return self.draw(odd)
        required = list(shape.required_members) or list(shape.members)[:1]
        others = [name for name in shape.members if name not in required]
        chosen = required + [name for name in others if fault == "all" or self.draw(st.integers(0, 1 if spoiled else 2)) == 0]
        if shape.name == "Image" and fault != "all":
            chosen = [self.draw(st.sampled_from(["Bytes", "Bytes", "Bytes", "Bytes", "S3Object"]))]
        if fault == "lacking" and chosen:
            chosen.remove(self.draw(st.sampled_from(chosen)))
        victims = self.draw(st.lists(st.sampled_from(chosen), min_size=1, max_size=spoiled)) if spoiled and chosen else []
        members = [(name, (self.spoiled if name in victims else self.well)(shape.members[name])) for name in chosen]
        if fault == "double":
            members += [(name, self.faulty(shape.members[name])) for name in chosen[:1]]
        if fault == "unknown":
            members.append((self.draw(st.sampled_from(["Unknown", "", "__proto__", "\u00e4", "__type"])), self.draw(odd)))
        if fault == "null" and members:
            members[self.draw(st.integers(0, len(members) - 1))] = (members[0][0], b"null")
        if fault == "case":
            members = [(name.lower(), value) for name, value in members]
        return b"{" + b",".join(json.dumps(name).encode() + b":" + value for name, value in members) + b"}"


odd = st.sampled_from(ODD)


def _arn(collection: str) -> str:
    return f"arn:aws:rekognition:us-east-1:000000000000:collection/{collection}"


def _plausible(shape: Shape) -> list[bytes]:
    """Texts inside a shape's pattern, of things that are there and things that are not."""
    if shape.enum:
        return [json.dumps(value).encode() for value in shape.enum]
    texts = {
        "CollectionId": COLLECTIONS,
        "FaceId": (*(f"%face{i}%" for i in range(8)), NOBODY),
        "UserId": ("user-a", "user-b", "user:C", "nobody"),
        "PaginationToken": ("%token0%", "%token1%", "", "made-up", "QUJDREVGR0hJSktMTU5PUFFSU1RVVldY"),
        "ResourceArn": tuple(map(_arn, COLLECTIONS)),
        "ClientRequestToken": ("once", "again", "token-3"),
        "TagKey": ("a", "team", "x/y", "aboveboard:policy"),
        "ExternalImageId": ("person:1", "x.jpg", "a" * 255),
        "S3Bucket": ("bucket", "../etc"),
        "S3ObjectName": ("x.jpg", "../../etc/passwd", "/etc/passwd", "a\u0000b"),
    }.get(shape.name, ("abc", "1", "a-b_c"))  # fmt: skip
    return [json.dumps(text).encode() for text in texts]


def _bent(shape: Shape) -> list[bytes]:
    """Texts at and just outside a shape's length, pattern and enum."""
    least, most = shape.metadata.get("min", 0), shape.metadata.get("max", 300)
    plain = [json.loads(text) for text in _plausible(shape)]
    lengths = {"a" * count for count in (least - 1, least, most, most + 1) if count >= 0}
    edges = [
        change(text) for text in plain[:2] for change in (str.upper, str.title, lambda t: t + "\n", lambda t: " " + t, lambda t: t + "\0")
    ]
    arns = [_arn("a/b"), _arn("a" * 256), "arn:aws:s3:::" + "b" * 20, _arn("x").replace("0" * 12, "\u0661" * 12)]
    signs = ["\u00e4\u00f6", "\u2028", "%", "..", "a'b\"; DROP TABLE faces;--", "\U0001f600" * 5, "aws:x", "\x7f"]
    return [json.dumps(text).encode() for text in [*sorted(lengths), *edges, *arns, *signs]]


@st.composite
def bodies(draw: Any, name: str) -> bytes:
    """A body of an operation: nothing wrong, one thing, or several; seldom no object at all."""
    faults = draw(st.sampled_from([0, 0, 0, 1, 1, 1, 1, 3, -1]))
    shape = operation(name).input_shape
    if faults < 0 or shape is None:
        return draw(odd | st.binary(max_size=60))
    fault = draw(st.sampled_from(["", *FAULTS])) if faults > 1 else ""
    body = _Writer(draw).structure(shape, fault, faults)
    if faults > 1 and draw(st.integers(0, 4)) == 0:
        at = draw(st.integers(0, len(body)))
        body = draw(
            st.sampled_from([body[:at], body + b" x", b"\xef\xbb\xbf" + body, body[:at] + b"\xff" + body[at:], body * 2, b" " + body])
        )
    return body


TARGETS = ["", "x", "RekognitionService", "RekognitionService.", "RekognitionService.NoSuch", "rekognitionservice.ListFaces", ".ListFaces",
           "RekognitionService.DetectLabels", "RekognitionService.ListFaces.", "DynamoDB_20120810.ListTables", "A" * 5000, "%s%n",
           "RekognitionService.__class__", "RekognitionService.ListFaces RekognitionService.ListFaces"]  # fmt: skip
PATHS = ["//", "/x", "/../..", "/%2e%2e/%00", "/%ff%fe", "/?a=b&a=a", "/?%zz=%c3", "/a//b/./c/", "/healthz", "/metrics", "/;x=1", "/?x",
         "/" + "a" * 9000, "/~", "/a%20b+c", "/?X-Amz-Signature=0"]  # fmt: skip
HEADERS = [
    ("Content-Type", "text/html"), ("Content-Type", ""), ("Content-Type", "application/json; charset=utf-16"), ("Content-Type", "x" * 9000),
    ("Accept", "application/cbor"), ("Accept-Encoding", "br"), ("Content-Encoding", "gzip"), ("Expect", "100-continue"),
    ("Expect", "200-ok"),    ("Range", "bytes=0-1"), ("Upgrade", "h2c"), ("Upgrade", "websocket"), ("X-Forwarded-For", "'; DROP TABLE"),
    ("Forwarded", "for=_x"),
    ("Amz-Sdk-Invocation-Id", "\xff\xfe"), ("Amz-Sdk-Invocation-Id", "a" * 5000), ("Amz-Sdk-Request", "attempt=99999999999"),
    ("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD"), ("X-Amz-Content-Sha256", "\xe4"), ("X-Amz-Security-Token", "x"),
    ("X-Amz-User-Agent", "\x01"),     ("X-Amz-Date", "20200101T000000Z"), ("Cookie", "a=b; " * 2000), ("Te", "trailers"),
    ("Origin", "null"),
    ("X-Http-Method-Override", "GET"),     ("Content-Length", "0"), ("Transfer-Encoding", "identity"),
    ("Traceparent", "00-" + "f" * 32 + "-x"), ("If-None-Match", "*"),
]  # fmt: skip
METHODS = ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "SEARCH"]
LINES = ["POST http://elsewhere.example/ HTTP/1.1", "POST http://[::1 HTTP/1.1", "POST * HTTP/1.1", "POST / HTTP/1.0", "POST / HTTP/2.0",
         "POST / HTTP/9", "POST /", "post / HTTP/1.1", "BREW / HTTP/1.1", "POST  /  HTTP/1.1", "POST\t/ HTTP/1.1", "POST x HTTP/1.1", "",
         "POST /\x00 HTTP/1.1", "POST /\xe4 HTTP/1.1", "POST / HTTP/1.1 x", "CONNECT a:1 HTTP/1.1", "HEAD / HTTP/1.1",
         "M-SEARCH * HTTP/1.1", "POST ? HTTP/1.1", "POST http:// HTTP/1.1", "POST :80 HTTP/1.1",
         "POST http://a:99999/ HTTP/1.1"]  # fmt: skip
LENGTHS = [
    "-1",
    "+5",
    "0x5",
    "5, 5",
    "5 5",
    "",
    " ",
    "1e3",
    "99999999999999999999",
    "9" * 5000,
    "15728641",
    "18446744073709551616",
    "\xb2",
    "0",
]
CHUNKS = [b"%x\r\n%s\r\n0\r\n\r\n", b"%x;ext=\"a\"\r\n%s\r\n0\r\nX-Amz-Trailer: y\r\n\r\n", b"000000%x\r\n%s\r\n0\r\n\r\n",
          b"-%x\r\n%s\r\n0\r\n\r\n",
          b"%xg\r\n%s\r\n0\r\n\r\n", b"%x\n%s\n0\n\n", b"fffffffffffffffff%x\r\n%s\r\n0\r\n\r\n"]  # fmt: skip
LATIN = st.characters(max_codepoint=255, exclude_characters="\r\n\0")
REPEATED = ["Authorization", "Host", "X-Amz-Date", "X-Amz-Target", "Content-Type", "Content-Length"]
twists = st.one_of(
    st.builds(Twist, st.just("target"), st.sampled_from(TARGETS)),
    st.builds(Twist, st.just("path"), st.sampled_from(PATHS)),
    st.builds(Twist, st.just("header"), st.sampled_from(HEADERS)),
    st.builds(Twist, st.just("header"), st.tuples(st.just("X-Odd"), st.text(LATIN, max_size=20))),
    st.builds(Twist, st.just("twice"), st.sampled_from(REPEATED)),
    st.builds(Twist, st.just("drop"), st.sampled_from(REPEATED[:-1])),
    st.builds(Twist, st.just("authorization"), st.tuples(st.floats(0, 1), st.integers(0, 20), st.text(LATIN, max_size=6))),
    st.builds(Twist, st.just("method"), st.sampled_from(METHODS)),
    st.builds(Twist, st.just("line"), st.sampled_from(LINES)),
    st.builds(Twist, st.just("length"), st.sampled_from(LENGTHS)),
    st.builds(Twist, st.just("short"), st.integers(1, 1000)),
    st.builds(Twist, st.just("chunked"), st.sampled_from(CHUNKS)),
    st.builds(Twist, st.just("twins"), st.just(2)),
    st.builds(Twist, st.just("rubbish"), st.binary(min_size=1, max_size=40)),
)  # fmt: skip


@st.composite
def requests(draw: Any) -> Request:
    """A request to an offered operation: six in seven in an envelope that nothing is wrong with."""
    name = draw(st.sampled_from(NAMES))
    wrong = draw(st.sampled_from([0, 0, 0, 0, 0, 0, 1])) and draw(st.lists(twists, min_size=1, max_size=2))
    return Request(name, draw(bodies(name)), tuple(wrong or ()))
