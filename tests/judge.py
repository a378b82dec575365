"""botocore's model as the judge of every answer and error."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import botocore.session
from botocore.model import OperationModel, ServiceModel, Shape

HANDSHAKE_CODES = {
    "ExpiredTokenException",
    "MissingAuthenticationTokenException",
    "UnrecognizedClientException",
    "InvalidSignatureException",
    "UnknownOperationException",
}


@lru_cache(maxsize=1)
def model() -> ServiceModel:
    """botocore's model of Rekognition."""
    return botocore.session.Session().get_service_model("rekognition")


def operation(name: str) -> OperationModel:
    """The model of one operation."""
    return model().operation_model(name)


def faults(shape: Shape | None, value: Any, where: str = "answer") -> Iterator[str]:
    """Where a JSON value departs from a shape of the model: type, required, unknown member, enum, pattern, min, max."""
    if shape is None:
        if value not in ({}, None):
            yield f"{where}: the model has no answer here, found {value!r}"
        return
    least, most = shape.metadata.get("min"), shape.metadata.get("max")
    kind = shape.type_name
    expected: tuple[type, ...] = {
        "structure": (dict,), "map": (dict,), "list": (list,), "string": (str,), "blob": (str,), "boolean": (bool,),
        "integer": (int,), "long": (int,), "float": (int, float), "double": (int, float), "timestamp": (int, float),
    }[kind]  # fmt: skip
    if not isinstance(value, expected) or (isinstance(value, bool) and kind != "boolean"):
        yield f"{where}: {value!r} is no {kind}"
        return
    measure = value if kind in ("integer", "long", "float", "double") else len(value) if kind != "timestamp" and kind != "boolean" else None
    if measure is not None and kind != "structure":
        # Amazon answers empty lists where nothing is there (DeletedFaces), whatever the minimum of the list's shape as input.
        if least is not None and measure < least and kind != "list":
            yield f"{where}: {measure} is below {least}"
        if most is not None and measure > most:
            yield f"{where}: {measure} is above {most}"
    if kind == "structure":
        for name in sorted(set(shape.required_members) - set(value)):
            yield f"{where}: lacks {name}"
        for name, item in value.items():
            if name in shape.members:
                yield from faults(shape.members[name], item, f"{where}.{name}")
            else:
                yield f"{where}: has {name}, which the model does not know"
    elif kind == "list":
        for i, item in enumerate(value):
            yield from faults(shape.member, item, f"{where}[{i}]")
    elif kind == "map":
        for key, item in value.items():
            yield from faults(shape.key, key, f"{where} key")
            yield from faults(shape.value, item, f"{where}.{key}")
    elif kind == "string":
        if (enum := shape.metadata.get("enum")) and value not in enum:
            yield f"{where}: {value!r} is none of {enum}"
        pattern = shape.metadata.get("pattern", "").replace(r"\p{L}", r"\w").replace(r"\p{N}", "").replace(r"\p{Z}", r"\s")
        if pattern and not re.fullmatch(pattern, value):
            yield f"{where}: {value!r} does not match {pattern}"


def judge(name: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
    """Hold an answer against botocore's model of its operation, and an error against AWS's form and the operation's own list."""
    document = json.loads(body)
    assert headers["content-type"] == "application/x-amz-json-1.1"
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", headers["x-amzn-requestid"])
    if status == 200:
        assert "\n".join(faults(operation(name).output_shape, document)) == ""
        return
    code = document["__type"]
    assert document["Code"] == code
    assert document["Message"]
    assert document["Logref"] == headers["x-amzn-requestid"]
    assert code in {shape.name for shape in operation(name).error_shapes} | HANDSHAKE_CODES, f"{name} does not model {code}"
    assert status == (500 if code == "InternalServerError" else 400)
