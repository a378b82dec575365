"""JSON <-> dict by botocore's Rekognition model: the one schema, every limit of it enforced.

SDKs validate almost nothing, so the server does. Null members count as absent, unknown members are passed over (as AWS does).
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

from botocore.loaders import Loader
from botocore.model import OperationModel, ServiceModel, Shape

from aboveboard.errors import BadRequest, SampleTooLarge

MAX_DEPTH = 32
SMALL, MOST_PARTS = 1024 * 1024, 100_000
"""A larger body is an image: its JSON has few parts and is ASCII, or reading it would take many times its size in memory."""
_SEPARATORS = " \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"


@lru_cache(maxsize=1)
def service_model() -> ServiceModel:
    """botocore's model of Rekognition, read once."""
    # The packaged model alone: a session would read AWS_* variables and ~/.aws, which are for clients.
    loader = Loader(extra_search_paths=[Loader.BUILTIN_DATA_PATH], include_default_search_paths=False)
    return ServiceModel(loader.load_service_model("rekognition", "service-2"), service_name="rekognition")


@lru_cache(maxsize=128)
def operation_model(name: str) -> OperationModel:
    """The model of one operation; raises KeyError where there is none of this name."""
    if name not in service_model().operation_names:
        raise KeyError(name)
    return service_model().operation_model(name)


def parse(operation: str, body: bytes) -> dict[str, Any]:
    """The request of an operation, checked member by member; raises BadRequest naming the member, its value's fault and the limit."""
    if len(body) > SMALL and (not body.isascii() or sum(body.count(sign) for sign in (b"{", b"[", b",")) > MOST_PARTS):
        text = f"a request body of more than {SMALL} bytes must be ASCII, other signs escaped, and have at most {MOST_PARTS:,} parts"
        raise BadRequest(text)
    try:
        document = json.loads(body or b"{}", parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the request body is not JSON: {error}") from error
    shape = operation_model(operation).input_shape
    if not isinstance(document, dict):
        raise BadRequest("the request body must be a JSON object")
    return {} if shape is None else _structure(shape, document, "", 0)


def dump(operation: str, answer: Mapping[str, Any]) -> bytes:
    """The answer of an operation as JSON; None members are left out, a member that the model lacks is a defect (KeyError)."""
    shape = operation_model(operation).output_shape
    return json.dumps({} if shape is None else _plain(shape, answer), allow_nan=False, separators=(",", ":")).encode()


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _fault(where: str, constraint: str) -> BadRequest:
    return BadRequest(f"1 validation error detected: Value at '{where}' failed to satisfy constraint: {constraint}")


def _structure(shape: Shape, value: Any, where: str, depth: int) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _fault(where or "request", "Member must be an object")
    if depth > MAX_DEPTH:
        raise _fault(where, f"Members must not be nested deeper than {MAX_DEPTH}")
    given = {name: item for name, item in value.items() if item is not None}
    for name in shape.required_members:
        if name not in given:
            raise _fault(_under(where, name), "Member must not be null")
    return {name: _value(member, given[name], _under(where, name), depth + 1) for name, member in shape.members.items() if name in given}


def _under(where: str, name: str) -> str:
    return f"{where}.{name[0].lower()}{name[1:]}".lstrip(".")


def _value(shape: Shape, value: Any, where: str, depth: int) -> Any:
    kind = shape.type_name
    if kind == "structure":
        return _structure(shape, value, where, depth)
    if kind == "list":
        if not isinstance(value, list):
            raise _fault(where, "Member must be a list")
        _length(shape, len(value), where)
        return [_value(shape.member, item, f"{where}.{i}.member", depth + 1) for i, item in enumerate(value, 1)]
    if kind == "map":
        if not isinstance(value, dict):
            raise _fault(where, "Member must be an object")
        _length(shape, len(value), where)
        return {
            _value(shape.key, key, f"{where}.key", depth + 1): _value(shape.value, item, f"{where}.{key}", depth + 1)
            for key, item in value.items()
        }
    if kind == "string":
        return _string(shape, value, where)
    if kind == "blob":
        return _blob(shape, value, where)
    if kind == "boolean":
        if not isinstance(value, bool):
            raise _fault(where, "Member must be true or false")
        return value
    if kind in ("integer", "long", "float", "double"):
        return _number(shape, value, where, whole=kind in ("integer", "long"))
    raise _fault(where, f"Members of type {kind} are not read by this server")


def _length(shape: Shape, length: int, where: str) -> None:
    least, most = shape.metadata.get("min"), shape.metadata.get("max")
    if least is not None and length < least:
        raise _fault(where, f"Member must have length greater than or equal to {least}")
    if most is not None and length > most:
        raise _fault(where, f"Member must have length less than or equal to {most}")


def _string(shape: Shape, value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise _fault(where, "Member must be a string")
    _length(shape, len(value), where)
    if (enum := shape.metadata.get("enum")) and value not in enum:
        raise _fault(where, f"Member must satisfy enum value set: [{', '.join(enum)}]")
    if (pattern := shape.metadata.get("pattern")) and not _compiled(pattern).fullmatch(value):
        raise _fault(where, f"Member must satisfy regular expression pattern: {pattern}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _fault(where, "Member must be text without lone surrogates") from error
    return value


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    # Java's \p classes, which Python lacks, as they occur inside the model's character classes.
    return re.compile(pattern.replace(r"\p{L}", r"\w").replace(r"\p{N}", "").replace(r"\p{Z}", _SEPARATORS))


def _blob(shape: Shape, value: Any, where: str) -> bytes:
    if not isinstance(value, str):
        raise _fault(where, "Member must be base64 text")
    try:
        data = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _fault(where, "Member must be base64 text") from error
    most = shape.metadata.get("max")
    if most is not None and len(data) > most and where.lower().endswith("bytes"):
        raise SampleTooLarge(f"Image size is too large. It has {len(data)} bytes; send at most {most}.")
    _length(shape, len(data), where)
    return data


def _number(shape: Shape, value: Any, where: str, *, whole: bool) -> int | float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _fault(where, "Member must be a number")
    if isinstance(value, float) and (not math.isfinite(value) or (whole and not value.is_integer())):
        raise _fault(where, "Member must be a whole number" if whole else "Member must be a finite number")
    least, most = shape.metadata.get("min"), shape.metadata.get("max")
    if least is not None and value < least:
        raise _fault(where, f"Member must have value greater than or equal to {least}")
    if most is not None and value > most:
        raise _fault(where, f"Member must have value less than or equal to {most}")
    if whole:
        if abs(value) > 2**63:
            raise _fault(where, "Member must be a 64-bit number")
        return int(value)
    return float(value) if abs(value) < 1e300 else _too_wide(where)


def _too_wide(where: str) -> float:
    raise _fault(where, "Member must be a finite number")


def _plain(shape: Shape, value: Any) -> Any:
    kind = shape.type_name
    if kind == "structure":
        if unknown := set(value) - set(shape.members):
            raise KeyError(f"{shape.name} has no member {sorted(unknown)[0]}")
        return {name: _plain(shape.members[name], item) for name, item in value.items() if item is not None}
    if kind == "list":
        return [_plain(shape.member, item) for item in value]
    if kind == "map":
        return {key: _plain(shape.value, item) for key, item in value.items()}
    if kind == "blob":
        return base64.b64encode(value).decode()
    if kind == "timestamp":
        return value.timestamp() if isinstance(value, datetime) else float(value)
    return value
