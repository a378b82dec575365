"""A protocol as CSV: who is enrolled, who is probed, which pairs are compared; every other column is a group label (docs/evaluate.md)."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from aboveboard.errors import BadRequest

ENROLLED, PROBED, PAIRS = "enrolled.csv", "probed.csv", "pairs.csv"
REQUIRED: Mapping[str, tuple[str, ...]] = {ENROLLED: ("path", "subject"), PROBED: ("path", "subject"), PAIRS: ("first", "second")}
LONGEST = 1024


@dataclass(frozen=True, slots=True)
class Photograph:
    """A photograph of a manifest: `name` is its path as the CSV has it, `labels` are the user's own columns (empty ones left out)."""

    name: str
    path: Path
    subject: str
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Manifest:
    """What is compared with what. Photographs are numbered, the enrolled first; `pairs` (numbers) is None where all are compared.

    `sha256` is that of each file that was read.
    """

    enrolled: tuple[Photograph, ...]
    probed: tuple[Photograph, ...]
    pairs: tuple[tuple[int, int], ...] | None
    sha256: Mapping[str, str]

    @property
    def photographs(self) -> tuple[Photograph, ...]:
        return self.enrolled + self.probed

    @property
    def columns(self) -> list[str]:
        """The user's own columns, by name."""
        return sorted({column for photograph in self.photographs for column in photograph.labels})


def read(folder: Path) -> Manifest:
    """The manifest in a folder: enrolled.csv, and where they are there probed.csv and pairs.csv.

    Raises BadRequest, naming file, line and column, at the first thing that is wrong.
    """
    if not (folder / ENROLLED).is_file():
        raise BadRequest(f"{folder / ENROLLED} is not there; a manifest is a folder with {ENROLLED} and, if need be, {PROBED} and {PAIRS}")
    seen: dict[str, str] = {}
    sha256: dict[str, str] = {}
    lists = {name: tuple(_photographs(folder, name, seen, sha256)) if (folder / name).exists() else () for name in (ENROLLED, PROBED)}
    for name, photographs in lists.items():
        if not photographs and (name == ENROLLED or (folder / name).exists()):
            raise BadRequest(f"{name} names no photograph; write one row for each below the header")
    number = {photograph.name: i for i, photograph in enumerate(lists[ENROLLED] + lists[PROBED])}
    pairs = tuple(_pairs(folder, number, sha256)) if (folder / PAIRS).exists() else None
    if pairs == ():
        raise BadRequest(f"{PAIRS} names no pair; write one row for each, or take the file away to compare all")
    return Manifest(lists[ENROLLED], lists[PROBED], pairs, sha256)


def _photographs(folder: Path, name: str, seen: dict[str, str], sha256: dict[str, str]) -> Iterator[Photograph]:
    for line, cells in _rows(folder, name, sha256):
        where = f"{name}, line {line}"
        path = folder / cells["path"]
        if cells["path"] in seen:
            raise BadRequest(f"{where}, column path: '{cells['path']}' stands in {seen[cells['path']]} too; take one of them out")
        if not path.is_file():
            raise BadRequest(f"{where}, column path: there is no file {path}; paths are relative to the manifest's folder")
        seen[cells["path"]] = where
        labels = {column: text for column, text in cells.items() if column not in REQUIRED[name] and text}
        yield Photograph(cells["path"], path, cells["subject"], labels)


def _pairs(folder: Path, number: Mapping[str, int], sha256: dict[str, str]) -> Iterator[tuple[int, int]]:
    seen: dict[frozenset[int], int] = {}
    for line, cells in _rows(folder, PAIRS, sha256):
        for column in REQUIRED[PAIRS]:
            if cells[column] not in number:
                raise BadRequest(
                    f"{PAIRS}, line {line}, column {column}: '{cells[column]}' is in neither {ENROLLED} nor {PROBED}; write it as there"
                )
        pair = (number[cells["first"]], number[cells["second"]])
        if pair[0] == pair[1]:
            raise BadRequest(f"{PAIRS}, line {line}, column second: a photograph is paired with itself; name another one")
        if (first := seen.setdefault(frozenset(pair), line)) != line:
            raise BadRequest(f"{PAIRS}, line {line}, column first: this pair stands on line {first} already; take one out")
        yield pair


def _rows(folder: Path, name: str, sha256: dict[str, str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and cells by column of each row of one file; empty lines are passed over."""
    try:
        data = (folder / name).read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise BadRequest(f"{name} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadRequest(f"{name} is not UTF-8; save it as 'CSV UTF-8'") from error
    sha256[name] = hashlib.sha256(data).hexdigest()
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = _header(name, next(reader, []))
        start = reader.line_num + 1
        for written in reader:
            if any(cell.strip() for cell in written):
                yield start, _cells(f"{name}, line {start}", REQUIRED[name], columns, written)
            start = reader.line_num + 1
    except csv.Error as error:
        raise BadRequest(f"{name}, line {reader.line_num}: {error}; is a quotation mark left open?") from error


def _header(name: str, written: list[str]) -> list[str]:
    columns = [column.strip() for column in written]
    for column in REQUIRED[name]:
        if column not in columns:
            raise BadRequest(f"{name}, line 1: has no column '{column}'; it must have {' and '.join(REQUIRED[name])}")
    for i, column in enumerate(columns):
        if not column or not column.isprintable() or len(column) > 64 or columns.index(column) != i:
            raise BadRequest(f"{name}, line 1, column {i + 1}: needs a name of its own, of up to 64 signs; '{column}' is none")
        if name == PAIRS and column not in REQUIRED[name]:
            raise BadRequest(f"{name}, line 1, column '{column}': is not known; labels stand in {ENROLLED} and {PROBED}")
    return columns


def _cells(where: str, required: tuple[str, ...], columns: list[str], written: list[str]) -> dict[str, str]:
    if len(written) != len(columns):
        raise BadRequest(f"{where}: has {len(written)} cells, the header {len(columns)}; put a cell with a comma in it into quotes")
    cells = {column: text.strip() for column, text in zip(columns, written, strict=True)}
    for column, text in cells.items():
        if column in required and not text:
            raise BadRequest(f"{where}, column {column}: is empty; each row needs {' and '.join(required)}")
        if len(text) > LONGEST or not text.isprintable():
            raise BadRequest(f"{where}, column {column}: is longer than {LONGEST} signs or has signs that cannot be printed")
    return cells
