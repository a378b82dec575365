"""Say what a photograph shows: a classifier's probabilities, and the taxonomy that makes labels of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from aboveboard.errors import BadRequest
from aboveboard.vision.media import Image, shrunk

FACE, ANIMAL = "face", "animal"
"""In a taxonomy's column of classes: what a person's detected face means; and what has faces that the detector may take for a person's."""
COLUMNS = ("class", "key", "label", "parents", "category", "aliases")


class Labeller(Protocol):
    """What gives an upright BGR image's probability of each class, calibrated: (classes,) float64, 0-1."""

    def probabilities(self, image: Image) -> NDArray[np.float64]: ...


@dataclass(frozen=True)
class Classifier:
    """A network that says of a square picture which of its classes it shows: EfficientNet and its kin.

    Input (1, 3, size, size) float32 in `colour` order, (pixel - mean) / deviation; output (1, classes), logits or probabilities. The square
    is the middle of the image, `crop` of its shorter side. Probabilities are the softmax of logits / temperature (Guo et al. 2017).
    """

    session: onnxruntime.InferenceSession
    size: int
    colour: str
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    crop: float
    output: str
    temperature: float

    def probabilities(self, image: Image) -> NDArray[np.float64]:
        given = self.session.get_inputs()[0].name
        raw = np.asarray(self.session.run(None, {given: self.prepared(image)})[0], np.float64).reshape(-1)
        logits = np.log(np.maximum(raw, 1e-12)) if self.output == "probabilities" else raw
        if not np.isfinite(logits).all():
            raise BadRequest("the classifier makes nothing of this photograph; use another one")
        shares = np.exp((logits - logits.max()) / self.temperature)
        return np.asarray(shares / shares.sum(), np.float64)

    def prepared(self, image: Image) -> NDArray[np.float32]:
        """The network's input."""
        height, width = image.shape[:2]
        side = max(round(min(height, width) * self.crop), 1)
        top, left = (height - side) // 2, (width - side) // 2
        square = image[top : top + side, left : left + side]
        if side > 2 * self.size:
            square = shrunk(square, self.size, self.size)
        else:
            # Down to half the size a linear step skips no pixel, at a fifth of an area's time; it names as many right.
            way = cv2.INTER_LINEAR if side > self.size else cv2.INTER_CUBIC
            square = np.asarray(cv2.resize(square, (self.size, self.size), interpolation=way), np.uint8)
        planes = np.array(cv2.split(square)[:: -1 if self.colour == "RGB" else 1], np.float32)
        planes -= np.array(self.mean, np.float32)[:, None, None]
        planes /= np.array(self.deviation, np.float32)[:, None, None]
        return planes[None]


@dataclass(frozen=True, slots=True)
class Entry:
    """A label of a taxonomy. `parents`: every label above it, the nearest first. `classes`: the classifier's outputs that mean it or
    a label below it. `is_face`: a detected face means it; `is_animal`: its faces are no person's.
    """

    name: str
    parents: tuple[str, ...]
    category: str
    aliases: tuple[str, ...]
    classes: tuple[int, ...]
    is_face: bool
    is_animal: bool

    def confidence(self, probabilities: NDArray[np.float64], detected: float = 0.0) -> float:
        """0-100, never above that of a label above it: the exactly rounded sum of its classes, or what a detector says if that is surer."""
        # fsum, because a sum in another order could make a child surer than its parent by a last digit.
        seen = math.fsum(probabilities[list(self.classes)]) if probabilities.size else 0.0
        return 100 * min(max(seen, detected), 1.0)


@dataclass(frozen=True)
class Taxonomy:
    """The labels, and of each key by which data sets name a class its output."""

    entries: tuple[Entry, ...]
    keys: Mapping[str, int]

    @cached_property
    def _members(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Each label's classes one after the other, and where each begins; behind each stands one more class, which has no share."""
        lengths = [len(entry.classes) + 1 for entry in self.entries]
        members = [one for entry in self.entries for one in (*entry.classes, self.classes)]
        return np.array(members), np.cumsum([0, *lengths[:-1]])

    def shares(self, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
        """Each label's probability, but for rounding: to leave out early what is far below any bound."""
        members, starts = self._members
        return np.asarray(np.add.reduceat(np.append(probabilities, 0.0)[members], starts))

    @cached_property
    def called(self) -> Mapping[str, int]:
        """By each name and alias the place of its label among the entries."""
        return {name: place for place, entry in enumerate(self.entries) for name in (entry.name, *entry.aliases)}

    @cached_property
    def categories(self) -> Mapping[str, Sequence[int]]:
        """The places of each category's labels."""
        return {
            name: [place for place, one in enumerate(self.entries) if one.category == name]
            for name in {one.category for one in self.entries}
        }

    @cached_property
    def has_classes(self) -> NDArray[np.bool_]:
        """Which labels a classifier can say."""
        return np.array([bool(entry.classes) for entry in self.entries], bool)

    @cached_property
    def of_faces(self) -> tuple[Entry, ...]:
        """The labels that a detected face means."""
        return tuple(entry for entry in self.entries if entry.is_face)

    @cached_property
    def of_animals(self) -> tuple[Entry, ...]:
        """The labels of what has faces that are no person's."""
        return tuple(entry for entry in self.entries if entry.is_animal)

    @cached_property
    def classes(self) -> int:
        return 1 + max((max(entry.classes, default=-1) for entry in self.entries), default=-1)


@dataclass(frozen=True)
class _Row:
    classes: list[str]
    parents: list[str]
    category: str
    aliases: list[str]


def read_taxonomy(text: str, where: str) -> Taxonomy:
    """A taxonomy out of its file (docs/labels.md has the form); raises BadRequest that names the line and its fault.

    Every label has a category; one with a class has a parent, unless only a face means it; parents are labels and form no circle; every
    output from 0 to the last belongs to exactly one label; names and aliases are unique.
    """
    lines = {number: line for number, line in enumerate(text.splitlines(), 1) if line.strip() and not line.startswith("#")}
    head, *numbers = lines or [0]
    if tuple(lines.get(head, "").split("\t")) != COLUMNS:
        raise BadRequest(f"{where}: its first line that is no comment must be the columns {', '.join(COLUMNS)}, with tabs between them")
    rows: dict[str, _Row] = {}
    names, outputs, keys = set[str](), dict[int, str](), dict[str, int]()
    for number in numbers:
        cells = lines[number].split("\t")
        if len(cells) != len(COLUMNS):
            raise BadRequest(f"{where}, line {number}: it has {len(cells)} columns, not {len(COLUMNS)}")
        name, category = cells[2].strip(), cells[4].strip()
        row = _Row(cells[0].split(), _listed(cells[3]), category, _listed(cells[5]))
        for one in (name, *row.aliases):
            if not one or one in names:
                raise BadRequest(f"{where}, line {number}: {f'{one!r} is there already' if one else 'the label has no name'}")
            names.add(one)
        classes = [one for one in row.classes if one not in (FACE, ANIMAL)]
        if not category or (classes and not row.parents):
            raise BadRequest(f"{where}, line {number}: '{name}' has no {'parent' if category else 'category'}")
        for one in classes:
            if not one.isdecimal() or int(one) in outputs:
                raise BadRequest(f"{where}, line {number}: the class {one!r} is {'taken' if one.isdecimal() else 'no number'}")
            outputs[int(one)] = name
        keys |= dict(zip(cells[1].split(), map(int, classes), strict=False))
        rows[name] = row
    if sorted(outputs) != list(range(len(outputs))):
        raise BadRequest(f"{where}: the classes must be 0 to {len(outputs) - 1}, each once")
    above = {name: _above(name, rows, where) for name in rows}
    below: dict[str, list[str]] = {name: [name] for name in rows}
    for name, parents in above.items():
        for parent in parents:
            below[parent].append(name)
    entries = []
    for name, row in rows.items():
        together = [one for label in below[name] for one in rows[label].classes]
        classes_below = tuple(sorted(int(one) for one in together if one.isdecimal()))
        marks = FACE in row.classes, ANIMAL in row.classes
        entries.append(Entry(name, above[name], row.category, tuple(row.aliases), classes_below, *marks))
    return Taxonomy(tuple(entries), keys)


def _listed(cell: str) -> list[str]:
    return [part.strip() for part in cell.split(",") if part.strip()]


def _above(name: str, rows: Mapping[str, _Row], where: str) -> tuple[str, ...]:
    """Every label above one, level by level."""
    found: dict[str, None] = {}
    level = rows[name].parents
    while level:
        for parent in level:
            if parent not in rows or parent == name:
                raise BadRequest(f"{where}: {parent!r}, above '{name}', {'is below it as well' if parent == name else 'is no label'}")
        new = [parent for parent in dict.fromkeys(level) if parent not in found]
        found |= dict.fromkeys(new)
        level = [one for parent in new for one in rows[parent].parents]
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which labels are wanted: those that any inclusion names (all without one), less those that an exclusion names.

    A label is named by its name or an alias, in exactly that spelling.
    """

    labels: frozenset[str] = frozenset()
    categories: frozenset[str] = frozenset()
    no_labels: frozenset[str] = frozenset()
    no_categories: frozenset[str] = frozenset()

    def chosen(self, taxonomy: Taxonomy) -> NDArray[np.bool_]:
        """Of each label of a taxonomy whether it is wanted."""
        is_limited = bool(self.labels or self.categories)
        included = _named(taxonomy, self.labels, self.categories) if is_limited else np.ones(len(taxonomy.entries), bool)
        return included & ~_named(taxonomy, self.no_labels, self.no_categories)

    def unknown(self, taxonomy: Taxonomy) -> list[str]:
        """What it names that the taxonomy does not have, in alphabetical order."""
        return sorted(
            (self.labels | self.no_labels) - taxonomy.called.keys() | (self.categories | self.no_categories) - taxonomy.categories.keys()
        )


def _named(taxonomy: Taxonomy, labels: frozenset[str], categories: frozenset[str]) -> NDArray[np.bool_]:
    found = np.zeros(len(taxonomy.entries), bool)
    for places in (
        [taxonomy.called[one] for one in labels if one in taxonomy.called],
        *(taxonomy.categories.get(one, ()) for one in categories),
    ):
        found[list(places)] = True
    return found
