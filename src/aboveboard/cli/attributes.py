"""Attributes of faces for people: chosen by name, shown as a table, written as lines beside a picture, and as a document."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from aboveboard.biometrics.vocabulary import ATTRIBUTES, AttributeName, Attributes, Face, Gaze, Judgement
from aboveboard.cli.common import columns
from aboveboard.errors import BadRequest

if TYPE_CHECKING:
    from aboveboard.service.analyse import Details

_SIDE_BY_SIDE = 4
_WORDS: dict[AttributeName, tuple[str, str]] = {
    "smile": ("smiles", "no smile"),
    "eyes_open": ("eyes open", "eyes shut"),
    "mouth_open": ("mouth open", "mouth shut"),
    "eyeglasses": ("eyeglasses", "no eyeglasses"),
    "sunglasses": ("sunglasses", "no sunglasses"),
    "face_occluded": ("covered", "not covered"),
    "beard": ("beard", "no beard"),
    "mustache": ("moustache", "no moustache"),
}
_OTHERS: tuple[AttributeName, ...] = ("gender", "age_range", "emotions", "eye_direction")


def wanted(names: str) -> Details:
    """What `all`, `none` or names with commas between them ask for; raises BadRequest for an unknown name."""
    from aboveboard.service import analyse

    if names in ("all", "none"):
        return analyse.ALL if names == "all" else analyse.DEFAULT
    asked = {name.strip().lower().replace("-", "_") for name in names.split(",")}
    if unknown := sorted(asked - set(ATTRIBUTES)):
        raise BadRequest(f"--attributes: '{unknown[0]}' is none of all, none, {', '.join(ATTRIBUTES)}")
    return replace(analyse.DEFAULT, attributes=frozenset(name for name in ATTRIBUTES if name in asked))


def as_json(said: Attributes) -> dict[str, Any]:
    """The attributes that are known, as a document."""
    document: dict[str, Any] = {name: value for name, value in asdict(said).items() if value is not None}
    if said.age_range is not None:
        document["age_range"] = {"low": said.age_range[0], "high": said.age_range[1]}
    if said.emotions is not None:
        document["emotions"] = [{"name": name, "confidence": sure} for name, sure in said.emotions]
    return document


def tables(faces: Sequence[Face], untold: Collection[AttributeName]) -> list[Table]:
    """A row for each attribute that is not `untold`, a column for each face, a few faces side by side; none where nothing was told."""
    made = []
    for first in range(0, len(faces), _SIDE_BY_SIDE):
        part = faces[first : first + _SIDE_BY_SIDE]
        told = [(name, [_cell(name, face.attributes) for face in part]) for name in (*_OTHERS, *_WORDS) if name not in untold]
        rows = [(name, cells) for name, cells in told if any(cells)]
        if rows:
            table = columns("attribute", *(f"face {first + i}" for i in range(1, len(part) + 1)))
            for name, cells in rows:
                table.add_row(name.replace("_", " "), *cells)
            made.append(table)
    return made


def lines(number: int, face: Face, untold: Collection[AttributeName]) -> tuple[str, ...]:
    """The same of one face, as short lines for a picture."""
    said = face.attributes
    who = [f"{said.gender.value.lower()} {said.gender.confidence:.0f}"] if said.gender else []
    if said.age_range:
        who.append(f"{said.age_range[0]}-{said.age_range[1]} years")
    judged: list[tuple[AttributeName, Judgement]] = [
        (name, getattr(said, name)) for name in _WORDS if getattr(said, name) and name not in untold
    ]
    yes = [f"{_WORDS[name][0]} {one.confidence:.0f}" for name, one in judged if one.value]
    no = [f"{_WORDS[name][1]} {one.confidence:.0f}" for name, one in judged if not one.value]
    shown = [f"{name.lower()} {sure:.0f}" for name, sure in (said.emotions or ())[:2]]
    gaze = said.eye_direction
    looks = [f"looks {_direction(gaze, ' deg')}"] if gaze and gaze.confidence >= 50 else []  # the letters of pictures lack the sign
    texts = [", ".join(who), ", ".join(shown), *(", ".join(part[i : i + 2]) for part in (yes, no) for i in range(0, len(part), 2)), *looks]
    return (f"{number}: {face.size_px:.0f} px, a face {face.confidence:.0f}", *(f"   {text}" for text in texts if text))


def _cell(name: AttributeName, said: Attributes) -> Text:
    value = getattr(said, name)
    if value is None:
        return Text("")
    match name:
        case "age_range":
            return Text(f"{value[0]} to {value[1]} years")
        case "gender":
            return _sure(value.value.lower(), value.confidence)
        case "emotions":
            return Text("\n").join(_sure(emotion.lower(), sure) for emotion, sure in value[:3])
        case "eye_direction":
            return _sure(_direction(value, "\N{DEGREE SIGN}"), value.confidence)
        case _:
            return _sure("yes" if value.value else "no", value.confidence, is_plain=not value.value)


def _sure(what: str, confidence: float, *, is_plain: bool = False) -> Text:
    return Text(what, "dim" if is_plain else "").append(f" {confidence:.0f}", "green" if confidence >= 80 else "yellow")


def _direction(gaze: Gaze, degrees: str) -> str:
    """Degrees to the viewer's left or right, up or down."""
    across, along = "right" if gaze.yaw >= 0 else "left", "up" if gaze.pitch >= 0 else "down"
    return f"{abs(gaze.yaw):.0f}{degrees} {across}, {abs(gaze.pitch):.0f}{degrees} {along}"
