"""Who is who: read a folder of person/photograph, correct its known label errors, and say which face of a photograph counts."""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path, PurePosixPath

from aboveboard.errors import BadRequest
from aboveboard.vision.detector import Detection

PHOTOGRAPHS = (".jpg", ".jpeg", ".png")
COLUMNS = ("name", "action", "to", "reason", "source")
CENTRE_WEIGHT = 2.0


@dataclass(frozen=True, slots=True)
class Sample:
    """A photograph of a protocol: whom it shows, its name "person/photograph.jpg" in the data set, and where it lies here."""

    subject: str
    name: str
    path: Path


@dataclass(frozen=True, slots=True)
class Erratum:
    """One known label error: `drop` or `move` a photograph "person/photograph.jpg", or `merge` a whole person into another."""

    name: str
    action: str
    to: str
    reason: str
    source: str


@dataclass(frozen=True)
class Errata:
    """Label errors of a data set, in the open; `sha256` is that of the file they were read from."""

    entries: tuple[Erratum, ...] = ()
    sha256: str = ""


NO_ERRATA = Errata()


def read_folder(folder: Path) -> list[Sample]:
    """Every JPEG and PNG in the person folders of `folder`, by name; raises BadRequest where there are none."""
    if not folder.is_dir():
        raise BadRequest(f"{folder} is not a folder; name one with a folder of photographs for each person")
    samples = [
        Sample(person.name, f"{person.name}/{photograph.name}", photograph)
        for person in sorted(folder.iterdir())
        if person.is_dir()
        for photograph in sorted(person.iterdir())
        if photograph.suffix.lower() in PHOTOGRAPHS
    ]
    if not samples:
        raise BadRequest(f"{folder} holds no person/photograph.jpg; give each person a folder of JPEG or PNG files")
    return samples


def read_errata(text: str) -> Errata:
    """Errata from CSV with the columns name, action, to, reason, source; a row of another form raises BadRequest with its line."""
    rows = csv.DictReader(io.StringIO(text))
    if tuple(rows.fieldnames or ()) != COLUMNS:
        raise BadRequest(f"the errata file must have the columns {', '.join(COLUMNS)}, in this order")
    entries, seen = [], set[str]()
    for row in rows:
        where = f"line {rows.line_num} of the errata file"
        if None in row or None in row.values():
            raise BadRequest(f"{where} must have {len(COLUMNS)} fields; put a text with commas into quotes")
        entry = Erratum(**{key: value.strip() for key, value in row.items()})
        is_photograph = len(PurePosixPath(entry.name).parts) == 2
        if entry.action not in ("drop", "move", "merge") or is_photograph == (entry.action == "merge"):
            raise BadRequest(f"{where}: the action must be drop or move (of person/photograph.jpg) or merge (of a person)")
        if bool(entry.to) == (entry.action == "drop") or not entry.reason or not entry.source:
            raise BadRequest(f"{where}: move and merge need the person to go to, drop must have none; each needs reason and source")
        if entry.name in seen:
            raise BadRequest(f"{where}: '{entry.name}' stands in the file twice")
        seen.add(entry.name)
        entries.append(entry)
    return Errata(tuple(entries), hashlib.sha256(text.encode()).hexdigest())


def shipped_errata(data_set: str = "lfw") -> Errata:
    """The errata that come with Aboveboard: so far of Labeled Faces in the Wild, "lfw"."""
    return read_errata((resources.files("aboveboard.evaluation") / "errata" / f"{data_set}.csv").read_text(encoding="utf-8"))


def correct(samples: Iterable[Sample], errata: Errata) -> tuple[list[Sample], dict[str, int]]:
    """The samples with the errata applied, and how many photographs were dropped and moved and persons merged.

    Entries of photographs and people that are not among the samples do nothing: one file serves every part of a data set.
    """
    merged = {entry.name: entry.to for entry in errata.entries if entry.action == "merge"}
    single = {entry.name: entry for entry in errata.entries if entry.action != "merge"}
    corrected, done, persons = [], Counter[str](), set[str]()
    for sample in samples:
        entry = single.get(sample.name)
        if entry:
            done[entry.action] += 1
            if entry.action == "drop":
                continue
        subject = entry.to if entry else sample.subject
        if subject in merged:
            persons.add(subject)
        corrected.append(replace(sample, subject=_end(subject, merged)))
    return corrected, {"dropped": done["drop"], "moved": done["move"], "merged": len(persons)}


def _end(subject: str, merged: dict[str, str]) -> str:
    seen = {subject}
    while subject in merged:
        subject = merged[subject]
        if subject in seen:
            raise BadRequest(f"the errata merge '{subject}' into itself; leave one of the names alone")
        seen.add(subject)
    return subject


def content_hash(samples: Sequence[Sample]) -> str:
    """SHA-256 over "name<TAB>sha256 of the file<LF>" of every sample, by name: the same photographs give the same hash anywhere."""
    total = hashlib.sha256()
    for sample in sorted(samples, key=lambda sample: sample.name):
        total.update(f"{sample.name}\t{hashlib.sha256(sample.path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def centre_face(faces: Sequence[Detection], width: int, height: int) -> Detection | None:
    """The face that a photograph of one person is taken to show: the largest, unless another lies nearer the middle.

    It has the greatest `area - 2 x offset^2`, `offset` being the distance in px from its box's centre to the image's. LFW centres
    the named person, and passers-by are often larger. None where no face was found.
    """
    return max(faces, key=lambda face: _prominence(face, width, height), default=None)


def _prominence(face: Detection, width: int, height: int) -> float:
    x, y, w, h = (float(side) for side in face.box)
    return w * h - CENTRE_WEIGHT * ((x + w / 2 - width / 2) ** 2 + (y + h / 2 - height / 2) ** 2)
