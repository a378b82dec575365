"""Every limit of botocore's model, one by one, on every offered operation: what is outside is refused by name, what is on it passes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.model import Shape
from judge import model, operation
from kit import b64, picture

from aboveboard.rekognition.operations import offered

UNKNOWN = "00000000-0000-4000-8000-000000000000"
ARN = "arn:aws:rekognition:us-east-1:000000000000:collection/limits"
OF_SHAPE = {
    "GeneralLabelsFilterValue": "Blue",
    "CollectionId": "limits",
    "FaceId": UNKNOWN,
    "ResourceArn": ARN,
    "ExternalImageId": "e",
    "UserId": "u",
    "TagKey": "k",
    "TagValue": "v",
    "PaginationToken": "t",
    "ExtendedPaginationToken": "t",
    "S3Bucket": "bucket",
    "S3ObjectName": "name",
    "S3ObjectVersion": "1",
}
FACE = picture(1)


def java(pattern: str) -> str:
    return pattern.replace(r"\p{L}", r"\w").replace(r"\p{N}", "").replace(r"\p{Z}", r"\s")


def valid(shape: Shape) -> Any:
    """A value inside every limit."""
    kind, least = shape.type_name, shape.metadata.get("min", 0)
    if kind == "structure":
        if shape.name == "Image":
            return {"Bytes": b64(FACE)}
        return {name: valid(shape.members[name]) for name in shape.required_members}
    if kind == "list":
        return [valid(shape.member)] * max(1, least)
    if kind == "map":
        return {valid(shape.key): valid(shape.value)}
    if kind == "string":
        return shape.enum[0] if getattr(shape, "enum", None) else OF_SHAPE[shape.name]
    if kind == "boolean":
        return True
    return max(least, 1)


def breaches(shape: Shape) -> Iterator[tuple[str, Any]]:
    """What is wrong, and a value that is wrong so."""
    kind, least, most = shape.type_name, shape.metadata.get("min"), shape.metadata.get("max")
    wrong_types: dict[str, list[Any]] = {
        "structure": ["x", 1, [], True], "list": ["x", 1, {}, False], "map": ["x", 1, []], "boolean": [1, "true"],
        "string": [1, 1.5, True, [], {}], "blob": [1, [], {}, "not base64!", "QUJ", "QQ==QQ=="],
    }  # fmt: skip
    for value in wrong_types.get(kind, ["1", True, [], {}]):
        yield "type", value
    if kind in ("integer", "long"):
        yield "whole", 1.5
    if kind == "string":
        if least:
            yield "min", "a" * (least - 1)
        if most:
            yield "max", "a" * (most + 1)
        if shape.enum:
            yield from (("enum", value) for value in ("NO_SUCH", "", shape.enum[0].lower()) if value not in shape.enum)
        if pattern := shape.metadata.get("pattern"):
            odd = [" ", "\n", "ä", "a b", "a\n", "aws:a", "a;", "\x00", "../a", UNKNOWN.upper().replace("0", "A"), "x" + UNKNOWN, "\ud800"]
            found = [value for value in odd if not re.fullmatch(java(pattern), value)]
            assert found, pattern
            yield from (("pattern", value) for value in found)
    elif kind == "list":
        if least:
            yield "min", [valid(shape.member)] * (least - 1)
        if most:
            yield "max", [valid(shape.member)] * (most + 1)
    elif kind == "map":
        if most:
            yield "max", {f"k{i}": "v" for i in range(most + 1)}
    elif kind in ("integer", "long", "float", "double"):
        if least is not None:
            yield "min", least - 1
            yield "min", -1e30 if kind == "float" else -(10**30)
        if most is not None:
            yield "max", most + (0.001 if kind == "float" else 1)
        yield "max", 10**400


def edges(shape: Shape) -> Iterator[tuple[str, Any]]:
    """Values exactly on a limit."""
    kind, least, most = shape.type_name, shape.metadata.get("min"), shape.metadata.get("max")
    if kind == "string" and not shape.enum:
        pattern = java(shape.metadata.get("pattern", ".*"))
        for length in (least, most):
            if length and re.fullmatch(pattern, "a" * length):
                yield f"length {length}", "a" * length
    elif kind == "string":
        yield from ((value, value) for value in shape.enum)
    elif kind == "list":
        for length in (least, most):
            if length is not None:
                yield f"length {length}", [valid(shape.member)] * length
    elif kind in ("integer", "long", "float", "double"):
        yield from ((f"value {value}", value) for value in (least, most) if value is not None)


def places(shape: Shape, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Shape]]:
    """Every member of an input, at every depth; `*` stands for a list's member, `key` and `value` for a map's."""
    if path:
        yield path, shape
    if shape.type_name == "structure":
        for name, member in shape.members.items():
            yield from places(member, (*path, name))
    elif shape.type_name == "list":
        yield from places(shape.member, (*path, "*"))
    elif shape.type_name == "map":
        yield from places(shape.key, (*path, "key"))
        yield from places(shape.value, (*path, "value"))


def with_value(document: Any, path: tuple[str, ...], value: Any) -> Any:
    """A copy of a request with another value at a path."""
    if not path:
        return value
    head, *rest = path
    if head == "*":
        return [with_value(None, tuple(rest), value)]
    if head == "key":
        return {value: "v"}
    if head == "value":
        return {"k": value}
    inner = document.get(head, {}) if isinstance(document, dict) else {}
    if head == "S3Object":
        inner = {**inner, "Bucket": "bucket", "Name": "name"}
    return {**(document or {}), head: with_value(inner, tuple(rest), value)}


def spoken(path: tuple[str, ...]) -> str:
    """The member as AWS's messages name it: lower camel case, list members counted."""
    special = {"*": "1.member", "value": "k", "key": "key"}
    return ".".join(special.get(name) or name[0].lower() + name[1:] for name in path)


def table(kind: Any) -> list[Any]:
    found = []
    for name in offered():
        for path, shape in places(operation(name).input_shape):
            for i, (what, value) in enumerate(kind(shape)):
                if path[-1] == "key" and not isinstance(value, str):
                    continue  # JSON has no other keys
                if shape.type_name == "blob" and what == "max":
                    continue
                found.append(pytest.param(name, path, what, value, id=f"{name}-{spoken(path)}-{what}-{i}"))
    return found


@pytest.fixture(scope="module", autouse=True)
def limits(rekognition):
    rekognition.create_collection(CollectionId="limits")


@pytest.mark.parametrize(("name", "path", "what", "value"), table(breaches))
def test_a_value_outside_a_limit_is_refused_by_name(server, name, path, what, value):
    """InvalidParameterException in AWS's form, naming the member, for every type, min, max, enum and pattern of the model."""
    reply = server.post(name, with_value(valid(operation(name).input_shape), path, value))
    assert reply.code == "InvalidParameterException"
    assert re.match(
        f"1 validation error detected: Value at '{re.escape(spoken(path))}' failed to satisfy constraint: Member must ", reply.message
    )


@pytest.mark.parametrize(("name", "path", "what", "value"), table(edges))
def test_a_value_on_a_limit_passes(server, name, path, what, value):
    """The limits themselves are inside: what comes back is an answer, or an error about something else."""
    document = with_value(valid(operation(name).input_shape), path, value)
    if name == "CreateCollection" and path != ("CollectionId",):
        document["CollectionId"] = f"{'.'.join(path)}-{what.replace(' ', '-')}".replace("*", "")
    reply = server.post(name, document)
    assert "validation error" not in reply.message


@pytest.mark.parametrize(
    ("name", "member"), [(name, member) for name in offered() for member in operation(name).input_shape.required_members]
)
@pytest.mark.parametrize("how", ["absent", "null"])
def test_a_required_member_must_be_there(server, name, member, how):
    """Absent and null alike."""
    document = valid(operation(name).input_shape)
    document.pop(member)
    if how == "null":
        document[member] = None
    reply = server.post(name, document)
    assert reply.code == "InvalidParameterException"
    assert f"Value at '{spoken((member,))}' failed to satisfy constraint: Member must not be null" in reply.message


@pytest.mark.parametrize("name", sorted(offered()))
def test_null_counts_as_absent_and_unknown_members_are_passed_over(server, name):
    """As Amazon does: an optional member that is null is absent; a member from a newer SDK does no harm."""
    shape = operation(name).input_shape
    document = valid(shape)
    if name in ("CreateCollection", "DeleteCollection"):
        document["CollectionId"] = f"null-{name}"
    if name in ("CreateUser", "DeleteUser"):
        server.post("CreateCollection", {"CollectionId": "limits"})
        for user in ("u", "u-2"):
            server.post("CreateUser" if name == "DeleteUser" else "DeleteUser", {"CollectionId": "limits", "UserId": user})
    plain = server.post(name, document)
    # What was done once is done to another.
    if name == "CreateCollection":
        document["CollectionId"] += "-2"
    if name in ("CreateUser", "DeleteUser"):
        document["UserId"] += "-2"
    odd = {**dict.fromkeys(set(shape.members) - set(document)), **document, "MemberOfTheFuture": {"x": [1]}}
    reply = server.post(name, odd)
    assert (reply.code, reply.status) == (plain.code, plain.status)


@pytest.mark.parametrize(
    ("name", "member"), [(n, m) for n in offered() for m, s in operation(n).input_shape.members.items() if s.name == "Image"]
)
def test_an_image_is_bytes_or_an_s3_object_and_not_both(server, name, member):
    """Neither, both and half an S3Object are refused; a whole one is looked for, in vain."""
    document = valid(operation(name).input_shape)
    s3 = {"Bucket": "bucket", "Name": "n"}
    for image, code in (
        ({}, "InvalidParameterException"),
        ({"Bytes": b64(FACE), "S3Object": s3}, "InvalidParameterException"),
        ({"S3Object": {"Bucket": "bucket"}}, "InvalidParameterException"),
        ({"S3Object": {"Name": "n"}}, "InvalidParameterException"),
        ({"S3Object": s3}, "InvalidS3ObjectException"),
        ({"S3Object": {**s3, "Version": "3"}}, "InvalidS3ObjectException"),
    ):
        reply = server.post(name, {**document, member: image})
        assert reply.code == code
        assert "S3" in reply.message


def test_boto3_with_its_own_checks_switched_off_gets_the_same_refusal(server):
    """The server's checks do not lean on the client's."""
    client = server.client(parameter_validation=False)
    with pytest.raises(client.exceptions.InvalidParameterException, match="'collectionId'"):
        client.describe_collection()
    with pytest.raises(client.exceptions.InvalidParameterException, match="'faceMatchThreshold'"):
        client.search_faces(CollectionId="limits", FaceId=UNKNOWN, FaceMatchThreshold=101)


def test_the_table_is_not_empty():
    """Guards the tests above against a model that lost its limits."""
    assert len(table(breaches)) > 300
    assert len(table(edges)) > 80
    assert len(model().operation_names) == 75
