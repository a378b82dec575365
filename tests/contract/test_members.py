"""docs/reference-operations.md tells the truth: every member called answered is answered, no other is; every member called read is read."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kit import Server, b64, picture

from aboveboard import rekognition
from aboveboard.rekognition.codec import operation_model, service_model
from aboveboard.rekognition.operations import offered

ROOT = Path(__file__).parents[2]
_SPEC = importlib.util.spec_from_file_location("generate_operations", ROOT / "tools" / "generate_operations.py")
assert _SPEC is not None
assert _SPEC.loader is not None
generator = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(generator)


def members(name: str, side: str) -> set[str]:
    """Every Shape.Member below an operation's `input_shape` or `output_shape` that does not lie behind one that is not answered."""
    shape = getattr(operation_model(name), side)
    return {f"{one.name}.{member}" for one in generator.structures(shape, generator.differences()) for member in one.members}


def called(how: str) -> set[str]:
    return {member for member, (found, _) in generator.differences().items() if found == how}


def carried(shape: Any, value: Any) -> Iterator[str]:
    """Every Shape.Member that a JSON answer carries."""
    if shape is None or value is None:
        return
    if shape.type_name == "structure":
        for name, item in value.items():
            if item is not None:
                yield f"{shape.name}.{name}"
                yield from carried(shape.members[name], item)
    elif shape.type_name == "list":
        for item in value:
            yield from carried(shape.member, item)


@pytest.fixture(scope="module")
def answers(server: Server) -> dict[str, set[str]]:
    """operation -> the members that its answers carried, over a conversation that gives each of them its occasion."""
    found: dict[str, set[str]] = {}

    def ask(name: str, **request: Any) -> Any:
        reply = server.post(name, request)
        assert reply.status == 200, (name, reply.message)
        found.setdefault(name, set()).update(carried(operation_model(name).output_shape, reply.json))
        return reply.json

    def image(*subjects: int) -> dict[str, str]:
        return {"Bytes": b64(picture(*subjects))}

    here = {"CollectionId": "members"}
    ask("CreateCollection", **here, Tags={"colour": "red"})
    ask("CreateCollection", CollectionId="members-2")
    arn = ask("DescribeCollection", **here)["CollectionARN"]
    ask("TagResource", ResourceArn=arn, Tags={"shape": "round"})
    ask("ListTagsForResource", ResourceArn=arn)
    ask("UntagResource", ResourceArn=arn, TagKeys=["shape"])
    ask("ListCollections", MaxResults=1)
    ask("DetectFaces", Image=image(1), Attributes=["ALL"])
    ask("DetectLabels", Image=image(1), MinConfidence=1, Features=["GENERAL_LABELS", "IMAGE_PROPERTIES"])
    ask("CompareFaces", SourceImage=image(1), TargetImage=image(1, 2))
    ask("IndexFaces", **here, Image=image(1, 2), MaxFaces=1, ExternalImageId="one", DetectionAttributes=["ALL"])
    enrolled = [
        ask("IndexFaces", **here, Image={"Bytes": b64(picture(subject, take=take, variation=0.1))}, ExternalImageId=f"{subject}-{take}")
        for subject, take in ((1, 1), (1, 2), (2, 1))
    ]
    first, second, other = (one["FaceRecords"][0]["Face"]["FaceId"] for one in enrolled)
    for user in ("ada", "grace"):
        ask("CreateUser", **here, UserId=user)
    ask("AssociateFaces", **here, UserId="ada", FaceIds=[first, second])
    ask("AssociateFaces", **here, UserId="ada", FaceIds=[other])
    ask("AssociateFaces", **here, UserId="grace", FaceIds=[first, other])
    ask("ListUsers", **here, MaxResults=1)
    ask("ListFaces", **here, MaxResults=1)
    ask("ListFaces", **here)
    ask("SearchFaces", **here, FaceId=first)
    ask("SearchFacesByImage", **here, Image=image(1))
    ask("SearchUsers", **here, FaceId=first)
    ask("SearchUsers", **here, UserId="ada")
    ask("SearchUsersByImage", **here, Image=image(1, 2))
    ask("DisassociateFaces", **here, UserId="ada", FaceIds=[second, other])
    ask("DeleteFaces", **here, FaceIds=[first, second])
    ask("DeleteUser", **here, UserId="ada")
    for collection in ("members", "members-2"):
        ask("DeleteCollection", CollectionId=collection)
    return found


@pytest.mark.parametrize("name", sorted(offered()))
def test_an_operation_answers_the_members_that_the_reference_calls_answered(answers, name):
    assert name in answers, "have a conversation with this operation in the fixture above"
    ever = set[str]().union(*answers.values())
    promised = members(name, "output_shape") - called("not_answered")
    shape = operation_model(name).output_shape
    own = {member for member in promised if shape is not None and member.startswith(f"{shape.name}.")}
    assert own <= answers[name], "not answered: say so, with the reason, in tools/differences.toml"
    assert promised <= ever, "not answered by any operation: say so, with the reason, in tools/differences.toml"
    assert not answers[name] & called("not_answered"), "answered: tools/differences.toml says that it is not"


def test_every_member_of_a_request_is_read_or_called_not_read():
    """The name of a member that is read stands in the code of the operations."""
    package = Path(rekognition.__file__).parent / "operations"
    texts = {
        node.value
        for file in package.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    asked = set[str]().union(*(members(name, "input_shape") for name in offered()))
    unread = {member for member in asked if member.partition(".")[2] not in texts}
    assert unread == called("not_read")


def test_every_difference_names_a_member_that_is_offered():
    """Spelt as in the model, on the right side, with a reason in a sentence."""
    asked = set[str]().union(*(members(name, "input_shape") for name in offered()))
    answered = set[str]().union(*(members(name, "output_shape") for name in offered()))
    assert called("not_read") <= asked
    assert called("not_answered") <= answered
    assert called("differs") <= asked | answered
    for member, (_, why) in generator.differences().items():
        shape, _, name = member.partition(".")
        assert name in service_model().shape_for(shape).members
        assert why.endswith(".")
        assert len(why) > 10


def test_the_page_is_fresh():
    """`python tools/generate_operations.py` would change nothing, and every offered operation has its heading."""
    text = (ROOT / "docs" / "reference-operations.md").read_text(encoding="utf-8")
    assert text == generator.text(), "run: python tools/generate_operations.py"
    assert all(f"\n## {name}\n" in text for name in offered())
