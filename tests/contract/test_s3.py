"""Photographs by S3Object: folders as buckets, and S3's own protocol (moto's server), with boto3 on both sides."""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.request
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import boto3
import pytest
from judge import operation
from kit import b64, picture
from moto.server import ThreadedMotoServer

from aboveboard.errors import SampleUnreachable
from aboveboard.rekognition.operations import offered
from aboveboard.storage import objects as store

TAKING_IMAGES = [name for name in sorted(offered()) if "InvalidS3ObjectException" in {error.name for error in operation(name).error_shapes}]
KEY = "2024/ada & grace + co/Zoë 顔.png"
MOST = 15 * 1024 * 1024
SAYS = "Unable to get object metadata from S3. Check object key, region and/or access permissions."


def stored(bucket, name, **version):
    return {"S3Object": {"Bucket": bucket, "Name": name, **version}}


def request_of(name, image):
    """A request of any operation that takes images, out of the model's required members."""
    shape = operation(name).input_shape
    return {member: image if shape.members[member].name == "Image" else "c" for member in shape.required_members}


def padded(data, size):
    """A picture of exactly so many bytes."""
    return data + b"\0" * (size - len(data))


@pytest.fixture(scope="module")
def s3():
    """An S3 with buckets that its user may read (open, versioned) and one that he may not (closed)."""
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    endpoint = f"http://127.0.0.1:{running.get_host_and_port()[1]}"

    def client(service, **key):
        return boto3.session.Session().client(service, endpoint_url=endpoint, region_name="us-east-1", **key)

    def check_keys_from(count):
        request = urllib.request.Request(f"{endpoint}/moto-api/reset-auth", count.encode(), {"Content-Type": "text/plain"})
        urllib.request.urlopen(request, timeout=60).close()

    any_key = {"aws_access_key_id": "x", "aws_secret_access_key": "x"}
    admin, iam = client("s3", **any_key), client("iam", **any_key)
    for bucket in ("open", "versioned", "closed"):
        admin.create_bucket(Bucket=f"{bucket}-bucket")
    admin.put_bucket_versioning(Bucket="versioned-bucket", VersioningConfiguration={"Status": "Enabled"})
    for name, body in ((KEY, picture(1)), ("edge.png", padded(picture(1), MOST)), ("large.png", padded(picture(1), MOST + 1)), ("x", b"x")):
        admin.put_object(Bucket="open-bucket", Key=name, Body=body)
    admin.put_object(Bucket="closed-bucket", Key="a.png", Body=picture(1))
    versions = [admin.put_object(Bucket="versioned-bucket", Key="a.png", Body=picture(*who))["VersionId"] for who in ((1,), (1, 2, 3))]
    iam.create_user(UserName="reader")
    buckets = [f"arn:aws:s3:::{bucket}-bucket{what}" for bucket in ("open", "versioned") for what in ("", "/*")]
    rule = {"Effect": "Allow", "Action": ["s3:GetObject", "s3:GetObjectVersion", "s3:ListBucket"], "Resource": buckets}
    iam.put_user_policy(UserName="reader", PolicyName="p", PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [rule]}))
    key = iam.create_access_key(UserName="reader")["AccessKey"]
    check_keys_from("0")
    yield SimpleNamespace(endpoint=endpoint, id=key["AccessKeyId"], secret=key["SecretAccessKey"], versions=versions)
    check_keys_from("inf")
    running.stop()


@pytest.fixture(autouse=True)
def credentials(s3, tmp_path, monkeypatch):
    """AWS's credentials file with the profile `photographs`; in the environment the keys of somebody else, and another endpoint."""
    file = tmp_path / "credentials"
    file.write_text(f"[photographs]\naws_access_key_id = {s3.id}\naws_secret_access_key = {s3.secret}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ABKEYOFANOPERATOR000")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "his-secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-north-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")


@pytest.fixture
def server(make_server, s3, tmp_path):
    """A server with S3, and with a bucket that is a folder."""
    folder = tmp_path / "in a folder"
    (folder / KEY).parent.mkdir(parents=True)
    (folder / KEY).write_bytes(picture(1))
    (folder / "large.png").write_bytes(padded(picture(1), MOST + 1))
    buckets = f'{{folder = "{folder}"}}'
    made = make_server(s3_endpoint=s3.endpoint, s3_profile="photographs", buckets=buckets)
    made.client().create_collection(CollectionId="c")
    return made


@contextmanager
def endpoint(handle):
    """An S3 endpoint that a test writes itself; yields its address and the requests that came."""
    came = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            came.append(self.path)
            with suppress(ConnectionError):
                handle(self)

        def log_message(self, *_):
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{running.server_port}", came
    finally:
        running.shutdown()
        running.server_close()


@pytest.mark.parametrize("name", TAKING_IMAGES)
def test_every_operation_takes_an_object_where_it_takes_bytes(server, name):
    """From S3 and from a folder, with the same answer."""
    if name != "IndexFaces":
        server.client().index_faces(CollectionId="c", Image={"Bytes": picture(1)})
    answers = []
    for image in ({"Bytes": b64(picture(1))}, stored("open-bucket", KEY), stored("folder", KEY)):
        reply = server.post(name, request_of(name, image))
        assert reply.status == 200, reply.message
        answers.append(reply.json)
    assert answers[0] == answers[1] == answers[2]
    assert [list_ for list_ in ("FaceDetails", "FaceMatches", "FaceRecords", "SearchedFace", "Labels") if answers[0].get(list_)]


def test_bytes_and_objects_may_be_compared(server):
    """One of each."""
    images = {"SourceImage": {"Bytes": picture(1)}, "TargetImage": stored("versioned-bucket", "a.png")}
    assert [len(server.client().compare_faces(**images)[list_]) for list_ in ("FaceMatches", "UnmatchedFaces")] == [1, 2]


def test_a_version_is_that_version(server, s3):
    """Without one the newest; one that never was is unreachable; a folder has none."""
    client = server.client()
    counts = [len(client.detect_faces(Image=stored("versioned-bucket", "a.png", Version=one))["FaceDetails"]) for one in s3.versions]
    assert [*counts, len(client.detect_faces(Image=stored("versioned-bucket", "a.png"))["FaceDetails"])] == [1, 3, 3]
    for image in (stored("versioned-bucket", "a.png", Version="none"), stored("folder", KEY, Version=s3.versions[0])):
        assert server.post("DetectFaces", {"Image": image}).code == "InvalidS3ObjectException"


@pytest.mark.parametrize("name", TAKING_IMAGES)
def test_whatever_keeps_an_object_from_being_read_the_answer_is_amazons(server, name):
    """Absent, forbidden, in no bucket, with a key that not even is one: one code, one sentence."""
    answers = set()
    for image in (
        stored("open-bucket", "none.png"),
        stored("closed-bucket", "a.png"),
        stored("closed-bucket", "none.png"),
        stored("nobodys-bucket", "a.png"),
        stored("NOBODYS_bucket", "a.png"),
        stored("...", "a.png"),
        stored("open-bucket", "../closed-bucket/a.png"),
        stored("open-bucket", "\0"),
        stored("folder", "none.png"),
        stored("folder", "../data1/master.key"),
    ):
        reply = server.post(name, request_of(name, image))
        answers.add((reply.code, reply.message))
    assert answers == {("InvalidS3ObjectException", SAYS)}


def test_fifteen_mebibytes_are_taken_and_one_byte_more_is_not(server):
    """From S3 as from a folder; as Bytes an image may have five."""
    assert len(server.client().detect_faces(Image=stored("open-bucket", "edge.png"))["FaceDetails"]) == 1
    for bucket in ("open-bucket", "folder"):
        assert server.post("DetectFaces", {"Image": stored(bucket, "large.png")}).code == "ImageTooLargeException"
    assert server.post("DetectFaces", {"Image": {"Bytes": b64(padded(picture(1), MOST // 3 + 1))}}).code == "ImageTooLargeException"


def test_an_object_that_is_no_image_is_called_that(server):
    """The bytes came; what they are is another question."""
    assert server.post("DetectFaces", {"Image": stored("open-bucket", "x")}).code == "InvalidImageFormatException"


def test_a_key_has_its_own_buckets_read_only(server):
    """The others are refused on record, by bucket and without the object's name; the caller is told no more than where nothing is."""
    key = server.operator("ada", "enroller", "investigator", buckets=("open-bucket",))
    bare = server.operator("bare", "enroller", "investigator")
    for name in TAKING_IMAGES:
        assert server.post(name, request_of(name, stored("open-bucket", KEY)), key).status == 200
        for image, who in ((stored("folder", KEY), key), (stored("versioned-bucket", "a.png"), key), (stored("open-bucket", KEY), bare)):
            start = server.entry_count()
            reply = server.post(name, request_of(name, image), who)
            assert (reply.code, reply.message) == ("InvalidS3ObjectException", SAYS)
            (entry,) = server.entries(start)
            assert (entry["type"], entry["rule"], entry["bucket"]) == ("refused", "bucket", image["S3Object"]["Bucket"])
            assert entry["operator"] == ("ada" if who is key else "bare")
            assert entry["request_id"] == reply.headers["x-amzn-requestid"]
    assert "Zo" not in json.dumps(server.entries())


def test_nothing_is_read_for_who_may_not_act(make_server):
    """Role, collection and threshold are decided before the server asks S3 for anything."""
    with endpoint(lambda handler: handler.send_error(404)) as (address, came):
        server = make_server(s3_endpoint=address, s3_profile="photographs", default_policy="public-safety")
        image = stored("bucket", "a.png")
        server.client().create_collection(CollectionId="c")
        auditor = server.operator("auditor", "auditor", buckets=("*",))
        investigator = server.detective("investigator", buckets=("*",))
        for name in set(TAKING_IMAGES) - {"DetectFaces", "DetectLabels"}:
            reply = server.post(name, request_of(name, image), auditor)
            assert (reply.code, server.entries()[-1]["rule"]) == ("AccessDeniedException", "public-safety/roles")
        searching = {"CollectionId": "none", "Image": image}
        assert server.post("SearchFacesByImage", searching, investigator).code == "ResourceNotFoundException"
        low = {"CollectionId": "c", "Image": image, "FaceMatchThreshold": 1}
        assert server.post("SearchFacesByImage", low, investigator).code == "AccessDeniedException"
        assert came == []
        assert server.post("SearchFacesByImage", {**low, "FaceMatchThreshold": 99.9}, investigator).code == "InvalidS3ObjectException"
        assert came == ["/bucket/a.png"]


def test_an_object_whose_size_is_a_lie_ends_where_the_limit_is(make_server):
    """Announced as too large it is not even begun; without a size it is given up beyond 15 MiB, however much comes."""

    def handle(handler):
        handler.send_response(200)
        if "announced" in handler.path:
            handler.send_header("Content-Length", str(MOST + 1))
            handler.end_headers()
            handler.rfile.read(1)  # sends nothing until the other side goes away
        else:
            handler.end_headers()
            while True:
                handler.wfile.write(b"\0" * 2**20)

    with endpoint(handle) as (address, _):
        server = make_server(s3_endpoint=address, s3_profile="photographs")
        for name in ("announced", "endless"):
            assert server.post("DetectFaces", {"Image": stored("bucket", name)}).code == "ImageTooLargeException"


def test_an_endpoint_that_is_down_silent_slow_or_cuts_off_is_given_up(make_server, monkeypatch, caplog):
    """In bounded time, with the same sentence; the log names neither object nor key."""
    monkeypatch.setattr(store, "_READ_S", 0.3)
    monkeypatch.setattr(store, "_WHOLE_S", 0.6)

    def cut_off(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b"\xff\xd8\xff")

    def trickle(handler):
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(b"\0" * 2**16)
            time.sleep(0.1)

    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        socket.socket() as down,
        endpoint(cut_off) as (cutting, _),
        endpoint(trickle) as (slow, _),
    ):
        down.bind(("127.0.0.1", 0))
        for address in (*(f"http://127.0.0.1:{one.getsockname()[1]}" for one in (silent, down)), cutting, slow):
            server = make_server(s3_endpoint=address, s3_profile="photographs")
            reply = server.post("DetectFaces", {"Image": stored("bucket", "ada-lovelace.png")})
            assert (reply.code, reply.message) == ("InvalidS3ObjectException", SAYS)
            assert server.is_alive()
    assert "ReadTimeoutError at the S3 endpoint, profile 'photographs'" in caplog.text
    assert "EndpointConnectionError" in caplog.text
    assert "not read within 0.6 s" in caplog.text
    assert not [word for word in ("lovelace", "his-secret") if word in caplog.text]


def test_a_profile_that_is_not_there_is_in_the_log_and_may_be_mended(make_server, s3, tmp_path, caplog):
    """The server need not be started again."""
    server = make_server(s3_endpoint=s3.endpoint, s3_profile="later")
    assert server.post("DetectFaces", {"Image": stored("open-bucket", KEY)}).code == "InvalidS3ObjectException"
    assert "ProfileNotFound at the S3 endpoint, profile 'later'" in caplog.text
    file = tmp_path / "credentials"
    file.write_text(file.read_text().replace("photographs", "later"))
    assert server.post("DetectFaces", {"Image": stored("open-bucket", KEY)}).status == 200


def test_the_names_in_a_bucket_are_listed_by_prefix(server):
    """What `index s3://bucket/prefix` goes through; a bucket that may not be listed is unreachable, not empty."""
    objects = server.app.objects
    assert list(objects.list("open-bucket", "")) == [KEY, "edge.png", "large.png", "x"]
    assert list(objects.list("open-bucket", "2024/ada & g")) == [KEY]
    assert list(objects.list("folder", "2024/")) == [KEY]
    assert list(objects.list("open-bucket", "none/")) == []
    for bucket in ("closed-bucket", "nobodys-bucket", "arn:aws:s3:us-east-1:000000000000:accesspoint/x"):
        with pytest.raises(SampleUnreachable):
            list(objects.list(bucket, ""))
