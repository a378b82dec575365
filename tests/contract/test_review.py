"""What a review found: looks that a change overtakes, models that look alike, clients that hold the server up."""

from __future__ import annotations

import dataclasses
import datetime
import socket
import struct
import threading

import pytest
from kit import picture

from aboveboard.service import analyse


def collection_with(client, subjects, name="a", **members):
    client.create_collection(CollectionId=name, **members)
    for subject in subjects:
        client.index_faces(CollectionId=name, Image={"Bytes": picture(subject)}, ExternalImageId=f"e{subject}")
    return client.list_faces(CollectionId=name)["Faces"]


def test_another_model_of_the_same_version_is_not_searched_with(own_server):
    """Neither by image nor by face id, and nothing is indexed: the pack and its recogniser must be those of the collection."""
    client = own_server.client()
    face = collection_with(client, [1])[0]["FaceId"]
    models = own_server.app.models
    card = dataclasses.replace(models.card, id="other")
    for place in (own_server.app, own_server.app.gate):
        name = "models" if place is own_server.app else "_models"
        object.__setattr__(place, name, dataclasses.replace(models, card=card))
    for call in (
        lambda: client.search_faces(CollectionId="a", FaceId=face),
        lambda: client.search_faces_by_image(CollectionId="a", Image={"Bytes": picture(1)}),
        lambda: client.index_faces(CollectionId="a", Image={"Bytes": picture(2)}),
    ):
        with pytest.raises(client.exceptions.InvalidParameterException, match="serve the pack that it is at"):
            call()


def test_a_policy_made_stricter_during_a_search_holds_for_that_search(own_server, monkeypatch):
    """Tagged between detection and look: no candidate is answered, and the record says that nobody looked."""
    client = own_server.client()
    collection_with(client, [1, 2])
    arn = client.describe_collection(CollectionId="a")["CollectionARN"]
    real = analyse.template

    def template(*args):
        other = threading.Thread(target=client.tag_resource, kwargs={"ResourceArn": arn, "Tags": {"aboveboard:policy": "public-safety"}})
        other.start()
        other.join()
        return real(*args)

    monkeypatch.setattr(analyse, "template", template)
    with pytest.raises(client.exceptions.ThrottlingException, match="ask again"):
        client.search_faces_by_image(CollectionId="a", Image={"Bytes": picture(1)}, FaceMatchThreshold=0)
    outcome = own_server.entries()[-1]
    assert (outcome["type"], outcome["looked"], outcome["reason"]) == ("look.outcome", False, "Busy")


def test_a_jpeg_of_thousands_of_scans_is_refused(rekognition):
    """Each scan makes the decoder pass over the whole picture; minutes of work in a few hundred kilobytes."""
    whole = picture(1, suffix=".jpg")
    start = whole.index(b"\xff\xda")
    scan = whole[start : start + 2 + struct.unpack(">H", whole[start + 2 : start + 4])[0]]
    with pytest.raises(rekognition.exceptions.InvalidImageFormatException, match="scans"):
        rekognition.detect_faces(Image={"Bytes": whole[:-2] + scan * 101 + whole[-2:]})


def test_headers_without_end_are_hung_up_upon(server):
    """64 KiB of headers are more than any client sends; 100 MB are not taken in."""

    def pour():
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
            connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\n")
            for _ in range(10_000):
                connection.sendall(b"X-A: " + b"a" * 10_000 + b"\r\n")

    with pytest.raises(ConnectionError):
        pour()


def test_nobody_without_a_key_has_a_body_read(server):
    """An invented key is refused before the body has come."""
    date = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    authorization = (
        f"AWS4-HMAC-SHA256 Credential=ABKEYNOBODYNOBODYNOB/{date[:8]}/us-east-1/rekognition/aws4_request, "
        f"SignedHeaders=host;x-amz-date;x-amz-target, Signature={'0' * 64}"
    )
    head = (
        f"POST / HTTP/1.1\r\nHost: x\r\nX-Amz-Date: {date}\r\nX-Amz-Target: RekognitionService.ListCollections\r\n"
        f"Authorization: {authorization}\r\nContent-Length: 15000000\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.settimeout(20)
        connection.sendall(head.encode())
        answer = connection.recv(65536)
    assert b"UnrecognizedClientException" in answer


@pytest.mark.parametrize("name", ["X-Amz-Target", "Authorization"])
def test_a_deciding_header_stands_in_a_request_once(server, name):
    """A proxy in front may have read the other one."""
    answer = server.bytes_exchange(f"POST / HTTP/1.1\r\nHost: x\r\n{name}: a\r\n{name}: b\r\nContent-Length: 0\r\n\r\n".encode())
    assert b"InvalidParameterException" in answer
    assert b"twice" in answer


def test_the_database_is_its_owners_alone(own_server):
    """Other accounts of the machine read neither rows nor templates."""
    files = list(own_server.app.settings.data.iterdir())
    assert {file.name for file in files} >= {"aboveboard.db", "master.key"}
    assert {file.name: oct(file.stat().st_mode & 0o077) for file in files if file.stat().st_mode & 0o077} == {}


def test_equal_faces_are_ordered_by_their_id(rekognition, collection):
    """Ties are ties to the last digit: the order is by similarity, then by face id."""
    for i in range(6):
        rekognition.index_faces(CollectionId=collection, Image={"Bytes": picture(1)}, ExternalImageId=f"e{i}")
    for _ in range(5):
        matches = rekognition.search_faces_by_image(CollectionId=collection, Image={"Bytes": picture(1)})["FaceMatches"]
        found = [match["Face"]["FaceId"] for match in matches]
        assert found == sorted(found)
        assert len(found) == 6
