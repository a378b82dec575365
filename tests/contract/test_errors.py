"""Every error that an operation's model documents, provoked; and everything that this server does not offer, refused."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
from botocore import xform_name
from botocore.exceptions import ClientError
from judge import model, operation
from kit import b64, picture

from aboveboard.rekognition.operations import offered

UNKNOWN = "00000000-0000-4000-8000-000000000000"
NEVER = {"ThrottlingException", "ProvisionedThroughputExceededException"}
"""This server has no rates or quotas yet."""
OPEN_TO_EVERY_ROLE = {
    "DetectFaces",
    "DetectLabels",
    "DescribeCollection",
    "ListCollections",
    "ListFaces",
    "ListTagsForResource",
    "ListUsers",
}
"""Every operator holds at least one role, and each role may read."""
ARN = "arn:aws:rekognition:us-east-1:000000000000:collection/{}"
HTML = b"<html><body>not found</body></html>"
LARGE = b"\xff\xd8\xff" + b"\x00" * (5 * 1024 * 1024 - 2)


def request_of(name: str, collection: str, image: Any = None) -> dict[str, Any]:
    """A request that nothing is wrong with."""
    image = {"Bytes": b64(picture(1))} if image is None else image
    return {
        "DetectFaces": {"Image": image},
        "DetectLabels": {"Image": image},
        "CompareFaces": {"SourceImage": image, "TargetImage": image},
        "IndexFaces": {"CollectionId": collection, "Image": image},
        "SearchFacesByImage": {"CollectionId": collection, "Image": image},
        "SearchFaces": {"CollectionId": collection, "FaceId": UNKNOWN},
        "CreateCollection": {"CollectionId": collection},
        "DescribeCollection": {"CollectionId": collection},
        "ListCollections": {},
        "DeleteCollection": {"CollectionId": collection},
        "ListFaces": {"CollectionId": collection},
        "DeleteFaces": {"CollectionId": collection, "FaceIds": [UNKNOWN]},
        "TagResource": {"ResourceArn": ARN.format(collection), "Tags": {"a": "b"}},
        "UntagResource": {"ResourceArn": ARN.format(collection), "TagKeys": ["a"]},
        "ListTagsForResource": {"ResourceArn": ARN.format(collection)},
        "CreateUser": {"CollectionId": collection, "UserId": "new"},
        "DeleteUser": {"CollectionId": collection, "UserId": "one"},
        "ListUsers": {"CollectionId": collection},
        "AssociateFaces": {"CollectionId": collection, "UserId": "one", "FaceIds": [UNKNOWN]},
        "DisassociateFaces": {"CollectionId": collection, "UserId": "one", "FaceIds": [UNKNOWN]},
        "SearchUsers": {"CollectionId": collection, "UserId": "one"},
        "SearchUsersByImage": {"CollectionId": collection, "Image": image},
    }[name]


def provoke(server: Any, name: str, code: str, collection: str) -> Any:
    """A request that must be answered with this error."""
    if code == "InvalidParameterException":
        return server.post(name, {"MaxResults": -1} if name == "ListCollections" else {})
    if code == "AccessDeniedException":
        role = "auditor"
        key = server.operator(f"{role}-{name}", role)
        return server.post(name, request_of(name, collection), key)
    if code == "ResourceNotFoundException":
        return server.post(name, request_of(name, "no-such-collection"))
    if code == "ConflictException":
        return server.post(name, {**request_of(name, collection), "UserId": "one"})
    if code == "IdempotentParameterMismatchException":
        asked = {**request_of(name, collection), "ClientRequestToken": "once"}
        assert server.post(name, asked).status == 200
        return server.post(name, {**asked, "UserId": "two"})
    if code == "ResourceAlreadyExistsException":
        return server.post(name, request_of(name, collection))
    if code == "InvalidPaginationTokenException":
        return server.post(name, {**request_of(name, collection), "NextToken": "made-up"})
    if code == "InvalidImageFormatException":
        return server.post(name, request_of(name, collection, {"Bytes": b64(HTML)}))
    if code == "ImageTooLargeException":
        return server.post(name, request_of(name, collection, {"Bytes": b64(LARGE)}))
    if code == "InvalidS3ObjectException":
        return server.post(name, request_of(name, collection, {"S3Object": {"Bucket": "bucket", "Name": "x.jpg"}}))
    if code == "ServiceQuotaExceededException":
        server.post(name, {"ResourceArn": ARN.format(collection), "Tags": {f"k{i}": "" for i in range(200)}})
        return server.post(name, {"ResourceArn": ARN.format(collection), "Tags": {"more": ""}})
    raise LookupError(f"no way to provoke {code} from {name}")


def documented() -> list[tuple[str, str]]:
    """(operation, error) of the model, less what cannot occur here and what has a test of its own below."""
    found = []
    for name in sorted(offered()):
        for shape in operation(name).error_shapes:
            if shape.name in NEVER or shape.name == "InternalServerError":
                continue
            if shape.name == "AccessDeniedException" and name in OPEN_TO_EVERY_ROLE:
                continue
            if shape.name == "ServiceQuotaExceededException" and name != "TagResource":
                continue  # no quota of faces or collections; test_users.py has that of a user's faces
            if shape.name == "ConflictException" and name != "CreateUser":
                continue  # two requests at the same moment: test_users.py
            if shape.name == "ResourceNotFoundException" and name == "ListCollections":
                continue  # names no resource
            found.append((name, shape.name))
    return found


@pytest.fixture
def collection(rekognition: Any, collection: str) -> str:
    """A collection with two users."""
    for user in ("one", "two"):
        rekognition.create_user(CollectionId=collection, UserId=user)
    return collection


@pytest.mark.parametrize(("name", "code"), documented())
def test_each_documented_error_occurs(server, collection, name, code):
    """The code, its HTTP status, AWS's body and the request id; boto3 makes its modelled exception of it (judged in judge.judge)."""
    reply = provoke(server, name, code, collection)
    assert reply.code == code
    assert reply.headers["x-amzn-errortype"] == code


@pytest.mark.parametrize("name", sorted(offered()))
def test_a_request_that_nothing_is_wrong_with_is_answered(server, collection, name):
    """The requests above fail for their one fault: without it they pass (SearchFaces: up to its unknown face)."""
    reply = server.post(name, request_of(name, f"{collection}-2" if name == "CreateCollection" else collection))
    if name == "SearchFaces":
        assert reply.message == "faceId was not found in the collection"
    else:
        assert reply.status == 200


def test_a_damaged_database_is_an_internal_error_of_every_operation(own_server):
    """A store that is down: InternalServerError, HTTP 500, no traceback in the text, from every operation but DetectFaces."""
    own_server.client().create_collection(CollectionId="a")
    own_server.app.database.close()
    for file in own_server.app.settings.data.glob("aboveboard.db*"):
        file.write_bytes(b"this is no database" * 1000)
    for name in sorted(offered()):
        reply = own_server.post(name, request_of(name, "a"))
        assert (reply.status, reply.code) == (500, "InternalServerError"), name
        assert "Traceback" not in reply.message


def test_a_vanished_data_folder_is_an_internal_error(own_server):
    """The same where the folder is gone."""
    own_server.app.database.close()
    shutil.rmtree(own_server.app.settings.data)
    assert own_server.post("ListCollections", {}).code == "InternalServerError"


def test_boto3_raises_the_modelled_exception(rekognition, collection):
    """error.response carries code, message and request id; client.exceptions matches."""
    with pytest.raises(rekognition.exceptions.ResourceNotFoundException) as caught:
        rekognition.describe_collection(CollectionId="no-such")
    response = caught.value.response
    assert response["Error"]["Code"] == "ResourceNotFoundException"
    assert response["Error"]["Message"] == "The collection id: no-such does not exist"
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert len(response["ResponseMetadata"]["RequestId"]) == 36


def test_request_ids_are_unique(rekognition):
    """Every answer has its own."""
    found = {rekognition.list_collections()["ResponseMetadata"]["RequestId"] for _ in range(10)}
    assert len(found) == 10


@pytest.mark.parametrize("name", sorted(set(model().operation_names) - set(offered())))
def test_what_is_not_offered_says_so(server, name):
    """Every other operation of the model: AccessDeniedException 'not provided by this server'; nothing is canned."""
    reply = server.post(name, {})
    assert (reply.status, reply.code) == (400, "AccessDeniedException")
    assert reply.message.startswith(f"{name} is not provided by this server")
    with pytest.raises(ClientError, match="not provided by this server"):
        getattr(server.client(parameter_validation=False), xform_name(name))()


def test_the_offered_operations_are_those_of_the_issue():
    """Twenty-two operations: one more or less is a decision, not an accident."""
    assert set(offered()) == {
        "CompareFaces", "CreateCollection", "DeleteCollection", "DeleteFaces", "DescribeCollection", "DetectFaces", "IndexFaces",
        "ListCollections", "ListFaces", "ListTagsForResource", "SearchFaces", "SearchFacesByImage", "TagResource", "UntagResource",
        "AssociateFaces", "CreateUser", "DeleteUser", "DisassociateFaces", "ListUsers", "SearchUsers", "SearchUsersByImage",
        "DetectLabels",
    }  # fmt: skip


@pytest.mark.parametrize(
    "target", ["RekognitionService.NoSuch", "RekognitionService.", "x", "", "DynamoDB_20120810.ListTables", "RekognitionService.ä"]
)
def test_an_unknown_operation_is_unknown(server, target):
    """UnknownOperationException, as AWS's JSON protocol has it."""
    reply = server.send(b"{}", server.signed(b"{}", target.encode("ascii", "ignore").decode()))
    assert (reply.status, reply.code) == (400, "UnknownOperationException")


def test_health_says_which_models_are_loaded(server):
    """GET /healthz needs no signature: status, pack and model version."""
    reply = server.send(b"", {"Host": server.host}, "GET", "/healthz")
    assert reply.status == 200
    assert reply.json == {"status": "ok", "pack": "null", "model_version": "0.1"}
