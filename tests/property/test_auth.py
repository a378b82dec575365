"""Signature Version 4: what botocore signs is verified, what was changed afterwards is not."""

from __future__ import annotations

import string
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from aboveboard.errors import Unauthenticated
from aboveboard.rekognition import auth

KEY_ID, SECRET = "ABKEYABCDEFGHIJKLMNO", "secret/with+signs=and 40 characters or so"
VISIBLE = "".join(chr(code) for code in range(33, 127))

header_names = st.text(string.ascii_lowercase + string.digits + "-", min_size=1, max_size=20).map("x-".__add__)
header_values = st.lists(st.text(VISIBLE, min_size=1, max_size=12), max_size=4).flatmap(
    lambda words: st.sampled_from([" ", "  ", "    "]).map(lambda space: space.join(words))
)
headers = st.dictionaries(header_names, header_values, max_size=5)
segments = st.one_of(st.text(max_size=8), st.sampled_from([".", "..", "", "a b", "%", "ä", "~", "+", "a%2Fb", "*"]))
paths = st.lists(segments, max_size=5).map(lambda parts: "/" + "/".join(quote(part, safe="~") for part in parts))
words = st.text(max_size=6)
queries = st.lists(st.tuples(words, words), max_size=4).map(
    lambda pairs: "&".join(f"{quote(k, safe='~')}={quote(v, safe='~')}" for k, v in pairs)
)
regions = st.sampled_from(["us-east-1", "eu-west-1", "ap-southeast-2", "us-gov-west-1", "local", "a"])


def signed(body, extra, path, query, region="eu-west-1", secret=SECRET, service="rekognition"):
    """The headers (lower case) of a request that botocore signed."""
    given_headers = {
        "Host": "localhost:7070",
        "Content-Type": "application/x-amz-json-1.1",
        "X-Amz-Target": "RekognitionService.DetectFaces",
        **extra,
    }
    request = AWSRequest("POST", f"http://localhost:7070{path}{'?' if query else ''}{query}", given_headers, body)
    SigV4Auth(Credentials(KEY_ID, secret), service, region).add_auth(request)
    sent = urlsplit(request.url)
    return {name.lower(): value for name, value in request.headers.items()}, sent.path, sent.query


def check(heads, path, query, body, secret=SECRET):
    claim = auth.read(heads, datetime.now(UTC))
    auth.verify(claim, secret, path, query, heads, body)
    return claim


@given(st.binary(max_size=200), headers, paths, queries, regions)
@settings(max_examples=300)
def test_what_botocore_signs_is_verified(body, extra, path, query, region):
    """Any body, headers, path, query and region."""
    heads, path, query = signed(body, extra, path, query, region)
    claim = check(heads, path, query, body)
    assert (claim.key_id, claim.region) == (KEY_ID, region)
    assert set(claim.headers) >= {"host", "x-amz-date", "x-amz-target"}


@given(st.binary(max_size=60), headers, st.data())
@settings(max_examples=200)
def test_what_was_changed_on_the_way_is_refused(body, extra, data):
    """One change of body, signed header, path, query, secret, signature or scope: InvalidSignatureException."""
    heads, path, query = signed(body, extra, "/a/b", "x=1")
    secret = SECRET
    what = data.draw(st.sampled_from(["body", "header", "path", "query", "secret", "signature", "region", "drop", "sha256"]))
    if what == "body":
        body += data.draw(st.binary(min_size=1, max_size=3))
    elif what == "header":
        names = heads["authorization"].split("SignedHeaders=")[1].split(",")[0].split(";")
        name = data.draw(st.sampled_from([name for name in names if name != "x-amz-date"]))
        heads[name] += "x"
    elif what == "path":
        path += data.draw(st.sampled_from(["c", "/d", "%20"]))
    elif what == "query":
        query += data.draw(st.sampled_from(["1", "&y=2", "%20"]))
    elif what == "secret":
        secret += "x"
    elif what == "signature":
        digits = heads["authorization"][-64:]
        at = data.draw(st.integers(0, 63))
        new = data.draw(st.sampled_from([digit for digit in "0123456789abcdef" if digit != digits[at]]))
        heads["authorization"] = heads["authorization"][:-64] + digits[:at] + new + digits[at + 1 :]
    elif what == "region":
        heads["authorization"] = heads["authorization"].replace("eu-west-1", "eu-west-2")
    elif what == "drop":
        heads["authorization"] = heads["authorization"].replace("SignedHeaders=content-type;", "SignedHeaders=")
    else:
        heads["x-amz-content-sha256"] = data.draw(st.sampled_from(["UNSIGNED-PAYLOAD", "0" * 64, "", "ä"]))
    with pytest.raises(Unauthenticated) as refused:
        check(heads, path, query, body, secret)
    assert refused.value.reason == "InvalidSignatureException"


@given(st.text(max_size=80), st.text(max_size=30), st.text(max_size=20))
@settings(max_examples=300)
def test_garbage_in_the_headers_is_refused_and_never_a_defect(authorization, date, credential):
    """Whatever stands in Authorization and x-amz-date: Unauthenticated, no other exception."""
    rest = f"SignedHeaders=host;x-amz-date;x-amz-target, Signature={'0' * 64}"
    for value in (
        authorization,
        f"AWS4-HMAC-SHA256 {authorization}",
        f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={authorization}, Signature={'0' * 64}",
        f"AWS4-HMAC-SHA256 Credential={KEY_ID}/20260101/eu-west-1/rekognition/aws4_request, {rest}",
    ):
        heads = {"authorization": value, "x-amz-date": date, "host": "h", "x-amz-target": "t"}
        with pytest.raises(Unauthenticated):
            check(heads, "/", "", b"")


@given(st.text(string.ascii_letters + string.digits + "_", min_size=1, max_size=140))
@settings(max_examples=50)
def test_key_ids_outside_the_form_are_malformed(key_id):
    """16 to 128 letters, digits and underscores are looked up; anything else is refused before any look-up."""
    heads, _, _ = signed(b"", {}, "/", "")
    heads["authorization"] = heads["authorization"].replace(KEY_ID, key_id)
    assume(key_id != KEY_ID)
    if 16 <= len(key_id) <= 128:
        assert auth.read(heads, datetime.now(UTC)).key_id == key_id
    else:
        with pytest.raises(Unauthenticated):
            auth.read(heads, datetime.now(UTC))
