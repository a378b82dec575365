"""Read TOML into dataclasses strictly: an unknown key, a missing one or a value of another type is named and refused."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from functools import cache
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from aboveboard.errors import BadRequest

T = TypeVar("T")


def parse(text: str, where: str) -> dict[str, Any]:
    """The document in `text`; raises BadRequest naming `where` if it is not TOML."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadRequest(f"{where} is not TOML: {error}") from error


def table(kind: Callable[..., T], raw: Any, where: str) -> T:
    """The dataclass `kind` from a table, nested tables and lists of them included; raises BadRequest naming key and fault."""
    if not isinstance(raw, Mapping):
        raise BadRequest(f"{where} must be a table")
    dataclass: Any = kind
    known = {f.name: f for f in fields(dataclass)}
    if unknown := sorted(set(raw) - set(known)):
        raise BadRequest(f"{where}: unknown key '{unknown[0]}'; known are {', '.join(sorted(known))}")
    required = {name for name, f in known.items() if f.default is MISSING and f.default_factory is MISSING}
    if missing := sorted(required - set(raw)):
        raise BadRequest(f"{where}: the key '{missing[0]}' is missing")
    hints = _hints(dataclass)
    return kind(**{key: _value(hints[key], value, f"{where} {key}") for key, value in raw.items()})


@cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    """Evaluating them takes longer than all the rest, and a verifier reads a document for each look."""
    return get_type_hints(kind)


def _value(kind: Any, value: Any, where: str) -> Any:
    if hasattr(kind, "__dataclass_fields__"):
        return table(kind, value, where)
    if isinstance(kind, UnionType):
        return None if value is None else _value(get_args(kind)[0], value, where)
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise BadRequest(f"{where} must be one of {', '.join(map(str, get_args(kind)))}, not {value!r}")
        return value
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise BadRequest(f"{where} must be a list, not {value!r}")
        parts = get_args(kind)
        if parts[-1] is Ellipsis:
            return tuple(_value(parts[0], item, where) for item in value)
        if len(parts) != len(value):
            raise BadRequest(f"{where} must have {len(parts)} values each, not {value!r}")
        return tuple(_value(part, item, where) for part, item in zip(parts, value, strict=True))
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise BadRequest(f"{where} must be a {getattr(kind, '__name__', kind)}, not {value!r}")
    return value
