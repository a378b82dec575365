"""The codec against botocore's own serializer and parser, over all 75 operations: requests of any form in, answers of any form out."""

from __future__ import annotations

import json
import string
from datetime import UTC, datetime

import botocore.parsers
import botocore.serialize
import pytest
from botocore.model import Shape
from hypothesis import given, settings
from hypothesis import strategies as st
from judge import faults, model, operation

from aboveboard.errors import BadRequest, SampleTooLarge
from aboveboard.rekognition import codec

NAMES = sorted(model().operation_names)
DIGITS, HEX = string.digits, "0123456789abcdef"
WORD = string.ascii_letters + string.digits + "_.-"


def text(alphabet: str, shape: Shape, least: int = 0, most: int = 12) -> st.SearchStrategy[str]:
    low = max(least, shape.metadata.get("min", 0))
    return st.text(alphabet, min_size=low, max_size=min(max(low, most), shape.metadata.get("max", 10**9)))


def arn(kind: str) -> st.SearchStrategy[str]:
    return st.text(DIGITS, min_size=12, max_size=12).map(lambda account: f"arn:aws:{kind}".replace("ACCOUNT", account))


def strings(shape: Shape) -> st.SearchStrategy[str]:
    """Strings inside a shape's enum, pattern and length."""
    if shape.enum:
        return st.sampled_from(list(shape.enum))
    uuid = st.uuids().map(str)
    special = {
        "FaceId": uuid, "ImageId": uuid, "LivenessSessionId": uuid,
        "DatasetArn": arn("rekognition:eu-west-1:ACCOUNT:project/p/dataset/train/1"),
        "ProjectArn": arn("rekognition:eu-west-1:ACCOUNT:project/p/1"),
        "ProjectVersionArn": arn("rekognition:eu-west-1:ACCOUNT:project/p/version/v/1"),
        "ProjectVersionId": arn("rekognition:eu-west-1:ACCOUNT:project/p/version/v/1"),
        "StreamProcessorArn": arn("rekognition:eu-west-1:ACCOUNT:streamprocessor/s"),
        "KinesisDataArn": arn("kinesis:eu-west-1:ACCOUNT:stream/s"),
        "KinesisVideoArn": arn("kinesisvideo:eu-west-1:ACCOUNT:stream/s"),
        "SNSTopicArn": arn("sns:eu-west-1:ACCOUNT:topic"),
        "RoleArn": arn("iam::ACCOUNT:role/r"),
        "DatasetEntry": st.just('{"source-ref": "s3://b/k"}'),
        "HumanLoopName": text(string.ascii_lowercase, shape, 1),
        "KmsKeyId": text(string.ascii_letters, shape, 1),
        "Version": st.tuples(*[st.integers(0, 999)] * 3).map(lambda parts: ".".join(map(str, parts))),
        "QueryString": st.text(WORD, min_size=1, max_size=9),
    }  # fmt: skip
    if shape.name in special:
        return special[shape.name]
    pattern = shape.metadata.get("pattern")
    if pattern is None:
        return text("aZ 09äß€😀/\\\"'\n\t\x00<>&", shape)
    alphabet = {
        "ClientRequestToken": string.ascii_letters + DIGITS + "-_", "JobId": string.ascii_letters + DIGITS + "-_",
        "MediaAnalysisJobId": string.ascii_letters + DIGITS + "-_", "IndexFacesModelVersion": DIGITS + ".",
        "KinesisVideoStreamFragmentNumber": DIGITS, "ProjectPolicyRevisionId": HEX, "RekognitionUniqueId": DIGITS,
        "TagKey": "bcö ½_.:/=+-@", "TagValue": "awsö ½_.:/=+-@", "VersionDescription": WORD.replace("_", "") + " ,;?",
        "GeneralLabelsFilterValue": string.ascii_letters + " ()", "LivenessS3KeyPrefix": WORD + "/", "MediaAnalysisS3KeyPrefix": WORD + "/",
    }.get(shape.name, WORD)  # fmt: skip
    return text(alphabet, shape, 1)


def values(shape: Shape, open_structures: frozenset[str] = frozenset()) -> st.SearchStrategy:
    """Python values inside a shape, as boto3 takes and gives them."""
    kind, least, most = shape.type_name, shape.metadata.get("min"), shape.metadata.get("max")
    if kind == "structure":
        inside = open_structures | {shape.name}
        members = {name: member for name, member in shape.members.items() if member.name not in inside}
        required = {name: st.deferred(lambda m=members[name]: values(m, inside)) for name in shape.required_members}
        optional = {name: st.deferred(lambda m=member: values(m, inside)) for name, member in members.items() if name not in required}
        return st.fixed_dictionaries(required, optional=optional)
    if kind == "list":
        low = least or 0
        return st.lists(values(shape.member, open_structures), min_size=low, max_size=max(low, min(most or 2, 2)))
    if kind == "map":
        return st.dictionaries(values(shape.key), values(shape.value), min_size=least or 0, max_size=3)
    if kind == "string":
        return strings(shape)
    if kind == "blob":
        return st.binary(min_size=least or 0, max_size=max(least or 0, 20))
    if kind == "boolean":
        return st.booleans()
    if kind == "timestamp":
        moment = st.datetimes(datetime(1971, 1, 1), datetime(2100, 1, 1))
        return moment.map(lambda at: at.replace(tzinfo=UTC, microsecond=at.microsecond // 1000 * 1000))
    if kind in ("float", "double"):
        return st.floats(least if least is not None else -1e30, most if most is not None else 1e30, allow_nan=False)
    return st.integers(least if least is not None else -(2**31), most if most is not None else 2**31 - 1)


def on_the_wire(name: str, request: dict) -> bytes:
    """The body that botocore's own serializer makes of a request."""
    serializer = botocore.serialize.create_serializer("json", include_validation=False)
    body = serializer.serialize_to_request(request, operation(name))["body"]
    return body if isinstance(body, bytes) else body.encode()


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=10)
def test_what_botocore_serializes_is_parsed_to_the_same_request(name, data):
    """Every request inside the model's limits passes, and is understood as it was meant."""
    shape = operation(name).input_shape
    if shape is None:
        assert codec.parse(name, b"{}") == {}
        return
    request = data.draw(values(shape))
    assert codec.parse(name, on_the_wire(name, request)) == request


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=10)
def test_what_is_dumped_is_parsed_by_botocore_to_the_same_answer(name, data):
    """Every answer of the model survives the way to an SDK."""
    shape = operation(name).output_shape
    answer = {} if shape is None else data.draw(values(shape))
    body = codec.dump(name, answer)
    assert list(faults(shape, json.loads(body))) == []
    parser = botocore.parsers.create_parser("json")
    parsed = parser.parse({"status_code": 200, "headers": {}, "body": body}, shape)
    parsed.pop("ResponseMetadata", None)
    assert parsed == answer


@pytest.mark.parametrize("name", NAMES)
def test_none_is_left_out_and_a_stranger_is_a_defect(name):
    """An absent member is absent on the wire; a member that the model lacks never leaves the server."""
    shape = operation(name).output_shape
    if shape is None or not shape.members:
        return
    assert codec.dump(name, dict.fromkeys(shape.members)) == b"{}"
    with pytest.raises(KeyError):
        codec.dump(name, {"NoSuchMember": 1})


@given(st.binary(max_size=300))
@settings(max_examples=300)
def test_bytes_of_any_kind_are_a_request_or_a_bad_request(body):
    """No other exception, whatever comes."""
    for name in ("IndexFaces", "ListCollections", "TagResource"):
        try:
            request = codec.parse(name, body)
        except (BadRequest, SampleTooLarge):
            continue
        assert isinstance(request, dict)


def test_a_name_that_the_model_lacks_is_no_operation():
    """Neither for the codec nor as a handler."""
    from aboveboard.rekognition.operations import operation as mark

    with pytest.raises(KeyError):
        codec.operation_model("DetectNothing")
    with pytest.raises(LookupError, match="DetectNothing"):
        mark("DetectNothing")
