"""What the studies share: what a report of one is, reading their CSV files, and the groups that labels make."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

from aboveboard.errors import BadRequest
from aboveboard.reporting.page import Page

JOINT = "+"
"""Joins columns whose values are taken together: gender+ethnicity."""
UNLABELLED = "(no label)"


@dataclass(frozen=True)
class Report:
    """A study's page, what it says in a few lines, and why its figures must not be quoted (nothing where they may)."""

    page: Page
    summary: tuple[str, ...]
    invalid: tuple[str, ...] = ()


def rows_of(content: bytes, name: str, required: Iterable[str] = ()) -> list[dict[str, str]]:
    """The rows of a CSV file in UTF-8; raises BadRequest, naming file and line, where a column or a field is missing."""
    try:
        reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadRequest(f"{name} is not CSV in UTF-8: {error}") from error
    missing = [column for column in required if column not in (reader.fieldnames or ())]
    if missing:
        raise BadRequest(f"{name} needs the column {missing[0]}; it has: {', '.join(reader.fieldnames or ()) or 'none'}")
    for line, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise BadRequest(f"{name}, row {line - 1}: it must have as many fields as the first line")
    return rows


def labels_of(content: bytes, name: str, by: Sequence[str]) -> dict[str, dict[str, str]]:
    """The labels of people or photographs from a CSV whose first column names them; `by` are the columns wanted, joint ones too."""
    wanted = list(dict.fromkeys(column for joint in by for column in joint.split(JOINT)))
    rows = rows_of(content, name, wanted)
    if not rows:
        raise BadRequest(f"{name} has no rows; give each person one")
    key = next(iter(rows[0]))
    labels: dict[str, dict[str, str]] = {}
    for row in rows:
        if row[key] in labels:
            raise BadRequest(f"{name} names '{row[key]}' twice in its first column, {key}; each may stand there once")
        labels[row[key]] = {column: row[column].strip() for column in wanted}
    return labels


def group_of(labels: Mapping[str, str], by: str) -> str:
    """The group that labels put somebody in, by a column or several taken together."""
    values = [labels.get(column, "") for column in by.split(JOINT)]
    return ", ".join(values) if all(values) else UNLABELLED


def shipped(study: str) -> bytes:
    """The published counts of a study that come with Aboveboard, as CSV."""
    return (resources.files("aboveboard.evaluation") / "published" / f"{study}.csv").read_bytes()
