"""Who may ask at all: signatures, clocks and keys over the wire."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import botocore.auth
import pytest
from botocore.exceptions import ClientError
from kit import client, picture

from aboveboard.accountability.operators import AccessKey

TARGET = "RekognitionService.ListCollections"


@pytest.fixture
def send(server):
    """Sends headers and a body; returns (code, message)."""

    def sending(headers, body=b"{}", path="/"):
        reply = server.send(body, headers, path=path)
        assert reply.status in (200, 400)
        return reply.code, reply.message

    return sending


def without(headers, *names):
    return {name: value for name, value in headers.items() if name.lower() not in names}


@pytest.mark.parametrize("region", ["us-east-1", "eu-west-1", "ap-south-2", "us-gov-east-1", "local"])
def test_the_region_is_the_clients_choice(server, region):
    """Any region signs, whatever the settings say."""
    assert client(server.endpoint, server.key, region).list_collections()["ResponseMetadata"]["HTTPStatusCode"] == 200


@pytest.mark.parametrize("path", ["/", "/rekognition", "/a%20b/", "//x/../y", "/%C3%A4?b=2&a=%20"])
def test_any_signed_path_is_the_one_route(server, send, path):
    """Behind a proxy the endpoint may have a path; botocore's signature of it is verified."""
    assert send(server.signed(b"{}", TARGET, path=path), path=path) == ("", "")


def test_temporary_credentials_headers_do_no_harm(server):
    """A session token is signed along and otherwise ignored."""
    headers = server.signed(b"{}", TARGET, headers={"X-Amz-Security-Token": "x" * 300, "X-Amz-User-Agent": "js"})
    assert server.send(b"{}", headers).status == 200


def test_without_a_signature_nobody_is_known(server, send):
    """MissingAuthenticationTokenException."""
    code, _ = send(without(server.signed(b"{}", TARGET), "authorization"))
    assert code == "MissingAuthenticationTokenException"


def test_an_unknown_key_is_unrecognized(server, send):
    """UnrecognizedClientException, in AWS's words; boto3 raises a ClientError with it."""
    stranger = AccessKey("ABKEYAAAAAAAAAAAAAAA", server.key.secret)
    assert send(server.signed(b"{}", TARGET, stranger)) == (
        "UnrecognizedClientException", "The security token included in the request is invalid.",
    )  # fmt: skip
    with pytest.raises(ClientError) as refused:
        server.client(stranger).list_collections()
    assert refused.value.response["Error"]["Code"] == "UnrecognizedClientException"


def test_a_wrong_secret_is_an_invalid_signature(server, send):
    """InvalidSignatureException, for another operator's secret too."""
    other = server.operator("somebody-else", "auditor")
    for secret in (other.secret, server.key.secret[:-1], "", server.key.secret.lower()):
        code, message = send(server.signed(b"{}", TARGET, AccessKey(server.key.id, secret)))
        assert code == "InvalidSignatureException"
        assert server.key.secret not in message


@pytest.mark.parametrize(
    ("minutes", "is_taken"), [(-4.8, True), (4.8, True), (-5.2, False), (5.2, False), (-60 * 24 * 365, False), (60 * 24, False)]
)
def test_the_clock_may_be_five_minutes_off(server, send, monkeypatch, minutes, is_taken):
    """A request from the past or the future beyond five minutes is refused, and says both times."""
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: datetime.now(UTC) + timedelta(minutes=minutes))
    code, message = send(server.signed(b"{}", TARGET))
    if is_taken:
        assert code == ""
    else:
        assert code == "InvalidSignatureException"
        assert "Signature expired" in message


@pytest.mark.parametrize("header", ["host", "x-amz-date", "x-amz-target"])
def test_host_date_and_target_must_be_signed(server, send, header, monkeypatch):
    """A signature that leaves one of them out could be used for another host, time or operation."""
    real = botocore.auth.SigV4Auth.headers_to_sign

    def fewer(self, request):
        chosen = real(self, request)
        del chosen[header]
        return chosen

    monkeypatch.setattr(botocore.auth.SigV4Auth, "headers_to_sign", fewer)
    code, message = send(server.signed(b"{}", TARGET))
    assert code == "InvalidSignatureException"
    assert f"{header} is not" in message


def test_a_request_without_a_date_or_target_is_refused(server, send):
    """What is named as signed must be there."""
    headers = server.signed(b"{}", TARGET)
    for name in ("x-amz-date", "x-amz-target"):
        assert send(without(headers, name))[0] == "InvalidSignatureException"
    assert send(server.signed(b"{}", None))[0] == "InvalidSignatureException"


def test_a_body_changed_on_the_way_is_refused(server, send):
    """The body is part of the signature, with and without x-amz-content-sha256."""
    headers = server.signed(b"{}", TARGET)
    assert send(headers, b"{ }")[0] == "InvalidSignatureException"
    with_hash = server.signed(b"{}", TARGET, headers={"X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD"})
    assert send(with_hash)[0] == "InvalidSignatureException"


def test_a_signature_is_good_for_its_operation_only(server, send):
    """The target is signed: a captured ListCollections cannot be made a DeleteCollection."""
    headers = server.signed(b'{"CollectionId": "x"}', "RekognitionService.DescribeCollection")
    headers["X-Amz-Target"] = "RekognitionService.DeleteCollection"
    assert send(headers, b'{"CollectionId": "x"}')[0] == "InvalidSignatureException"


@pytest.mark.parametrize("service", ["s3", "sts", "rekognition2"])
def test_a_signature_for_another_service_is_refused(server, send, service):
    """The scope must say rekognition."""
    code, message = send(server.signed(b"{}", TARGET, service=service))
    assert code == "InvalidSignatureException"
    assert "correct service" in message


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.replace("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256"),
        lambda value: value.replace("AWS4-HMAC-SHA256 ", ""),
        lambda value: value.replace("aws4_request", "aws5_request"),
        lambda value: value.replace("Signature=", "Sig="),
        lambda value: value.replace("SignedHeaders=", "SignedHeaders=x-not-there;"),
        lambda value: value.replace("host;x-amz-date", "x-amz-date;host"),
        lambda value: value.replace("host;", "host;host;"),
        lambda value: value[:-1],
        lambda value: value[:-1] + "G",
        lambda value: value.upper(),
        lambda value: value.replace("/20", "/19"),
        lambda value: value.replace(", ", ";"),
        lambda _: "Bearer abc",
        lambda _: "AWS4-HMAC-SHA256",
        lambda _: "AWS4-HMAC-SHA256 Credential",
        lambda _: "=,=,=",
        lambda _: "Ä" * 50,
        lambda value: value * 50,
    ],
)
def test_a_malformed_authorization_is_an_invalid_signature(server, send, change):
    """Whatever is wrong with it: InvalidSignatureException, never a 500."""
    headers = server.signed(b"{}", TARGET)
    headers["Authorization"] = change(headers["Authorization"])
    assert send(headers)[0] == "InvalidSignatureException"


@pytest.mark.parametrize("date", ["", "x", "20260101", "2026-01-01T00:00:00Z", "99999999T999999Z", "20261301T000000Z", "²0260101T000000Z"])
def test_a_malformed_date_is_an_invalid_signature(server, send, date):
    """The same for x-amz-date."""
    assert send(server.signed(b"{}", TARGET) | {"X-Amz-Date": date})[0] == "InvalidSignatureException"


def test_no_answer_tells_a_stranger_anything(server, send):
    """Authentication comes before everything: an unknown caller learns neither which operations nor which collections there are."""
    stranger = AccessKey("ABKEYAAAAAAAAAAAAAAA", "x")
    for target, body in ((TARGET, b"{}"), ("RekognitionService.NoSuch", b"{}"), ("RekognitionService.CreateUser", b"not json")):
        assert send(server.signed(body, target, stranger), body)[0] == "UnrecognizedClientException"


def test_a_refused_signature_leaves_no_entry(server, send):
    """Nobody can fill the ledger without a key."""
    before = server.entry_count()
    send(server.signed(b"{}", TARGET, AccessKey(server.key.id, "wrong")))
    assert server.entry_count() == before


def test_the_secret_is_kept_sealed(own_server):
    """Secret keys lie encrypted: neither the database nor its log holds one; the master key file is for its owner's eyes only."""
    key = own_server.operator("sealed", "admin")
    own_server.client(key).create_collection(CollectionId="a")
    own_server.client(key).detect_faces(Image={"Bytes": picture(1)})
    folder = own_server.app.settings.data
    for file in folder.iterdir():
        assert key.secret.encode() not in file.read_bytes()
    assert (folder / "master.key").stat().st_mode & 0o077 == 0
