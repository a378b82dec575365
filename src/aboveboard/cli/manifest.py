"""A records office's list of photographs (CSV), and the list of those that were not enrolled, in the same columns."""

from __future__ import annotations

import csv
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import typer

from aboveboard.cli.common import printable
from aboveboard.cli.folders import Photograph, Stored
from aboveboard.errors import BadRequest

COLUMNS = ("path", "external_id", "subject", "date", "legal_basis", "disposition", "expires")
REPORTED = ("line", "reason", "explanation", "mend")
"""Columns that a list of failures has besides; a manifest may have them, so that such a list can be corrected and used as one."""
REASONS: Mapping[str, str] = {
    "missing": "correct the path, or bring the file back",
    "unreadable": "make the file readable for the account that runs this",
    "broken": "export the photograph again from where it came",
    "unsupported_format": "convert it to JPEG or PNG",
    "too_large": "scale it down",
    "too_small": "use a photograph of higher resolution",
    "no_face": "use a photograph that shows the face from the front; crop it if the face is very small",
    "low_quality": "use a better photograph, or index it with --quality NONE",
    "ambiguous": "crop the photograph to the subject",
    "partly": "nothing, if the other faces are bystanders; else give them photographs of their own",
    "duplicate": "keep one of the two rows",
    "expired": "leave the row out, or correct the date; delete the faces if the photograph is enrolled",
    "subject_full": "delete faces of the subject that are no longer needed",
    "other_subject": "correct the subject, or take the face from the other one (DisassociateFaces)",
}
"""Why a photograph was not enrolled, or not all of it, and what to do about it."""

_LONGEST_CELL = 1024
_MOST_ERRORS = 100
_ID = {"external_id": (r"[a-zA-Z0-9_.\-:]{1,255}", 255), "subject": (r"[a-zA-Z0-9_.\-:]{1,128}", 128)}


@dataclass(frozen=True, slots=True)
class Row(Photograph):
    """A line of a manifest and the photograph that it names. `cells` has every column; where the manifest has none it is empty."""

    line: int
    cells: Mapping[str, str] = field(hash=False)

    @property
    def external_image_id(self) -> str:
        return self.cells["external_id"] or Photograph.external_image_id.__get__(self)

    @property
    def subject(self) -> str | None:
        return self.cells["subject"] or None

    @property
    def known(self) -> dict[str, str | None]:
        """What the line says for the record, by the names that storage.collections.Record has for it."""
        names = {"taken_on": "date", "legal_basis": "legal_basis", "disposition": "disposition", "expires_on": "expires"}
        return {name: self.cells[column] or None for name, column in names.items()}

    def is_expired(self, today: date) -> bool:
        """Whether the photograph had to go before today."""
        return bool(self.cells["expires"]) and date.fromisoformat(self.cells["expires"]) < today


def read(file: Path) -> tuple[list[Row], list[str]]:
    """The rows of a manifest, and what about it is worth a look. Raises BadRequest with everything that is wrong, by line."""
    rows: list[Row] = []
    wrong: list[tuple[int, str]] = []
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            header = text.readline()
            text.seek(0)
            reader = csv.reader(text, delimiter=max(",;\t", key=header.count), strict=True)
            columns = _columns(next(reader, []), file)
            start = reader.line_num + 1
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    row = _row(file.parent, start, columns, cells, wrong)
                    if row is not None:
                        rows.append(row)
                start = reader.line_num + 1
    except OSError as error:
        raise BadRequest(f"the manifest {file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadRequest(f"the manifest {file} is not UTF-8; save it as 'CSV UTF-8'") from error
    except csv.Error as error:
        raise BadRequest(f"the manifest {file}, line {reader.line_num}: {error}; is a quotation mark left open?") from error
    notes = _twice(rows, wrong)
    if wrong:
        wrong.sort()
        for line, what in wrong[:_MOST_ERRORS]:
            typer.echo(f"line {line}: {printable(what)}", err=True)
        more = f", the first {_MOST_ERRORS} of them above" if len(wrong) > _MOST_ERRORS else ""
        raise BadRequest(f"the manifest {file} has {len(wrong):,} mistakes{more}; nothing was enrolled, correct them and start again")
    if not rows:
        raise BadRequest(f"the manifest {file} names no photograph; write one row for each below the header")
    return rows, notes


def _columns(header: list[str], file: Path) -> list[str]:
    columns = [name.strip().lower() for name in header]
    known = f"known are {', '.join(COLUMNS)}; of these only path must be there"
    for name in columns:
        if name not in (*COLUMNS, *REPORTED):
            raise BadRequest(f"the manifest {file} has an unknown column '{name}'; {known}: rename it or take it out")
        if columns.count(name) > 1:
            raise BadRequest(f"the manifest {file} has the column '{name}' twice; take one out")
    if "path" not in columns:
        raise BadRequest(f"the manifest {file} has no column 'path' in its first line; {known}")
    return columns


def _row(folder: Path, line: int, columns: list[str], written: list[str], wrong: list[tuple[int, str]]) -> Row | None:
    if len(written) != len(columns):
        wrong.append((line, f"has {len(written)} cells, the header {len(columns)}; put a cell with a comma in it between quotation marks"))
        return None
    cells = {**dict.fromkeys(COLUMNS, ""), **{name: cell.strip() for name, cell in zip(columns, written, strict=True)}}
    cells["path"] = dict(zip(columns, written, strict=True))["path"]
    before = len(wrong)
    if not cells["path"].strip():
        wrong.append((line, "has no path"))
    for name in COLUMNS:
        if len(cells[name]) > _LONGEST_CELL or not cells[name].isprintable():
            wrong.append((line, f"{name}: longer than {_LONGEST_CELL} signs, or with signs that cannot be printed"))
        elif name in _ID and cells[name] and not re.fullmatch(_ID[name][0], cells[name]):
            text = f"{name} '{cells[name]}' is no id; use 1 to {_ID[name][1]} letters without accents, digits or the signs _ . - :"
            wrong.append((line, text))
        elif name in ("date", "expires") and cells[name] and not _is_date(cells[name]):
            wrong.append((line, f"{name} '{cells[name]}' is no date; write it as 2026-01-31"))
    return Row(Stored.named(cells["path"]) or folder / cells["path"], cells["path"], line, cells) if len(wrong) == before else None


def _is_date(text: str) -> bool:
    try:
        return bool(re.fullmatch(r"\d{4}-\d\d-\d\d", text)) and bool(date.fromisoformat(text))
    except ValueError:
        return False


def _twice(rows: list[Row], wrong: list[tuple[int, str]]) -> list[str]:
    """Paths that stand on two lines are wrong; an external id on two lines is worth a look, because both photographs will bear it."""
    places, ids = dict[str, int](), defaultdict[str, list[int]](list)
    for row in rows:
        first = places.setdefault(row.source if isinstance(row.path, Stored) else os.path.normpath(row.source), row.line)
        if first != row.line:
            wrong.append((row.line, f"path '{row.name}' stands on line {first} too; take one of them out"))
        ids[row.external_image_id].append(row.line)
    shared = [(name, lines) for name, lines in ids.items() if len(lines) > 1]
    notes = [f"the external id {name} stands on lines {', '.join(map(str, lines[:5]))}" for name, lines in shared[:10]]
    return notes + ([f"and {len(shared) - 10:,} more external ids stand on several lines"] if len(shared) > 10 else [])


class Failures:
    """Writes the list of photographs that were not enrolled, line by line, as they come."""

    def __init__(self, file: Path, folder: Path | None) -> None:
        self.file = file
        self._text = file.open("w", encoding="utf-8", newline="")
        self._writer = csv.writer(self._text)
        # Paths of a manifest that lies beside the list stay as they are.
        self._keeps_paths = folder is not None and folder.absolute() == file.parent.absolute()
        self.count = 0
        self._writer.writerow([*COLUMNS, *REPORTED])
        self.flush()

    def add(self, photograph: Photograph, reason: str, explanation: str) -> None:
        """One photograph, why it was not enrolled and how to mend that."""
        cells = dict(photograph.cells) if isinstance(photograph, Row) else {"external_id": photograph.external_image_id}
        name = photograph.name if self._keeps_paths else photograph.source
        line = str(photograph.line) if isinstance(photograph, Row) else ""
        kept = [printable(name), *(cells.get(column, "") for column in COLUMNS[1:])]
        self._writer.writerow([*kept, line, reason, printable(explanation), REASONS[reason]])
        self.count += 1

    def flush(self) -> None:
        """Bring it to the file, so that a run that is killed leaves what it found."""
        self._text.flush()

    def close(self) -> None:
        self._text.close()


@contextmanager
def failures(file: Path | None, manifest: Path | None) -> Iterator[Failures | None]:
    """The list of failures in `file`; without one beside the manifest, and without either none.

    Another list of failures that is there gets the suffix .old.csv; any other file is left alone and BadRequest raised.
    """
    place = file or (manifest.with_name(f"{manifest.stem}.failures.csv") if manifest else None)
    if place is None:
        yield None
        return
    if manifest and place.absolute() == manifest.absolute():
        raise BadRequest("--failures names the manifest itself; name another file")
    try:
        if place.exists():
            with place.open(encoding="utf-8", errors="replace") as there:
                if there.readline().strip() not in ("", ",".join([*COLUMNS, *REPORTED])):
                    raise BadRequest(f"{place} is there and is no list of failures; name another file with --failures")
            place.replace(place.with_suffix(".old.csv"))
        made = Failures(place, manifest.parent if manifest else None)
    except OSError as error:
        raise BadRequest(f"the list of failures {place} cannot be written: {error.strerror}; name another file with --failures") from error
    try:
        yield made
    finally:
        made.close()
