"""Judgements of labelled faces beside their labels, as the tables of docs/how-good.md: what face_regions.py measures."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from report import write
from scipy import stats

from aboveboard.evaluation.rates import wilson
from aboveboard.vision import media, regions

LEAST_J, LEAST_LOWER = 0.5, 0.3
"""Decided before anything was measured: Youden's J and its lower bound that a judgement needs to be given."""
LABELS = Path(__file__).parent / "labels"
NAMES = ("eyeglasses", "sunglasses", "face_occluded", "beard", "mustache", "smile", "eyes_open", "mouth_open")
HELD_TO_THE_RULE, RARE = NAMES[:5], ("sunglasses", "face_occluded")
FRESH = {"sunglasses": ("second", "third"), "face_occluded": ("third",)}
"""Scans that were labelled when the method had been settled on."""
EDGES = (50, 80, 95, 99, 100)
Array = NDArray[np.float64]


@dataclass
class Face:
    """A labelled face and what the mesh says of it; `truth` is 1, 0 or NaN where the label is "unclear"."""

    row: dict[str, str]
    crop: media.Image
    points: regions.Array
    summary: regions.Array
    blendshapes: dict[str, float]
    truth: dict[str, float]


def read(name: str) -> list[dict[str, str]]:
    with (LABELS / name).open(newline="") as file:
        return list(csv.DictReader(file))


def place(row: dict[str, str]) -> tuple[str, str]:
    return row["set"], row["photograph"]


@dataclass(frozen=True)
class Measured:
    """Judgements of one attribute on some faces; `rare` is what is to be found: yes, but "eyes closed" of eyes_open."""

    truth: Array
    probability: Array

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """Found, missed, false and rightly not."""
        says = self.probability >= 0.5
        found, yes, said = (int(which.sum()) for which in (says & (self.truth == 1), self.truth == 1, says))
        return found, yes - found, said - found, len(says) - yes - said + found

    @property
    def auc(self) -> float:
        yes = int(self.truth.sum())
        return float((stats.rankdata(self.probability)[self.truth == 1].sum() - yes * (yes + 1) / 2) / (yes * (len(self.truth) - yes)))

    @property
    def youden(self) -> tuple[float, float, float]:
        """J with its 95 % interval (Newcombe 1998, of the difference of two independent shares)."""
        found, missed, false, rest = self.counts
        hit, alarm = found / (found + missed), false / (false + rest)
        (hit_low, hit_high), (alarm_low, alarm_high) = wilson(found, found + missed), wilson(false, false + rest)
        j = hit - alarm
        return j, j - math.hypot(hit - hit_low, alarm_high - alarm), j + math.hypot(hit_high - hit, alarm - alarm_low)

    @property
    def keeps_the_rule(self) -> bool:
        found, _, false, _ = self.counts
        j, low, _ = self.youden
        return j >= LEAST_J and low > LEAST_LOWER and found > false


def of(name: str, faces: list[Face], crossed: dict[str, Array], chosen: Callable[[Face], bool]) -> Measured:
    take = np.array([chosen(face) and math.isfinite(face.truth[name]) for face in faces])
    truth, probability = np.array([face.truth[name] for face in faces])[take], crossed[name][take]
    return Measured(1 - truth, 1 - probability) if name == "eyes_open" else Measured(truth, probability)


def is_drawn(face: Face) -> bool:
    return face.row["sampled"] == "random"


def percent(good: int, trials: int) -> str:
    if not trials:
        return "-"
    low, high = wilson(good, trials)
    return f"{100 * good / trials:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def title(name: str) -> str:
    return f"`{name}`, closed" if name == "eyes_open" else f"`{name}`"


def row_of(name: str, one: Measured, unclear: int) -> list[str]:
    found, missed, false, rest = one.counts
    yes, n, (j, low, high) = found + missed, len(one.truth), one.youden
    return [
        title(name), f"{yes} of {n}", str(unclear), percent(found + rest, n), f"{100 * max(yes, n - yes) / n:.1f} %",
        f"{percent(found, yes)}; {found}/{yes}", f"{percent(found, found + false)}; {found}/{found + false}",
        f"{one.auc:.3f}", f"{j:.2f} ({low:.2f} to {high:.2f})",
    ]  # fmt: skip


def tables(faces: list[Face], crossed: dict[str, Array], scanned: list[Face], said: dict[str, Array]) -> set[str]:
    """Write the tables of random and of picked faces; returns the names of attributes that the rule keeps back."""
    drawn, which = [face for face in faces if is_drawn(face)], [is_drawn(face) for face in faces]
    of_drawn = {name: values[which] for name, values in crossed.items()}
    rows, picked, withheld = [], [], set()
    for name in NAMES:
        one, unclear = of(name, faces, crossed, is_drawn), sum(math.isnan(face.truth[name]) for face in drawn)
        if name in RARE:
            more = of(name, scanned, said, lambda _: True)
            one = Measured(np.append(one.truth, more.truth), np.append(one.probability, more.probability))
            unclear += sum(math.isnan(face.truth[name]) for face in scanned)
        if name in HELD_TO_THE_RULE and not one.keeps_the_rule:
            withheld.add(name)
        rows.append(row_of(name, one, unclear))
        found, missed, false, rest = (every := of(name, faces, crossed, lambda _: True)).counts
        alarms = f"{percent(false, false + rest)}; {false}"
        picked.append([title(name), str(found + missed), percent(found, found + missed), alarms, f"{every.auc:.3f}"])
    fresh = []
    for name in RARE:

        def is_fresh(face: Face, scans: tuple[str, ...] = FRESH[name]) -> bool:
            return face.row["scan"] in scans

        found, missed, false, rest = of(name, scanned, said, is_fresh).counts
        fresh.append(f"{title(name)} {found} of {found + missed} found, {false} of {false + rest} others taken for it")

    def without_lenses(face: Face) -> bool:
        return face.truth["sunglasses"] == 0

    found, missed = np.sum([of("face_occluded", *each, without_lenses).counts[:2] for each in ((drawn, of_drawn), (scanned, said))], axis=0)
    note = (
        f"{len(drawn)} faces drawn at random, half LFW, half UTKFace; the rare `sunglasses` and `face_occluded` on {len(scanned)} more."
        " Each is judged by models fitted without it. 95 % intervals: Wilson's, of J Newcombe's. Faces whose label is unclear are left"
        f" out. Of faces covered by something else than dark glasses {found} of {found + missed} are found. In the scans alone that were"
        f" made when the method had been settled on: {'; '.join(fresh)}."
    )
    head = ["attribute", "yes", "unclear", "right", "always the commoner answer", "recall", "precision", "AUC", "Youden's J"]
    write("face-regions", head, rows, note, "how-good.md")
    more = len(faces) - len(drawn)
    note = f"{len(faces)} labelled faces; {more} were picked as rare or hard, so that false alarms look worse than they are."
    write("face-regions-picked", ["attribute", "yes", "recall", "false alarms", "AUC"], picked, note, "how-good.md")
    return withheld


def groups(data: Path, faces: list[Face], crossed: dict[str, Array]) -> None:
    with (data / "utkface-a" / "labels.csv").open(newline="") as file:
        people = {row["file"]: row for row in csv.DictReader(file)}
    rows = []
    for column, word in [(column, word) for column in ("gender", "race") for word in sorted({row[column] for row in people.values()})]:
        row = [word]
        for name in NAMES:

            def belongs(face: Face, column: str = column, word: str = word) -> bool:
                return people.get(face.row["photograph"], {}).get(column) == word

            one = of(name, faces, crossed, belongs)
            found, missed, false, rest = one.counts
            row.append(f"{percent(found + rest, len(one.truth))}; -{missed} of {found + missed}, +{false}")
        rows.append(row)
    note = (
        "All labelled faces of UTKFace, drawn and picked, by the annotators' words: right, with Wilson's 95 %; after the minus how many"
        " were missed of how many, after the plus how many others were taken for it."
    )
    write("face-regions-groups", ["group", *map(title, NAMES)], rows, note, "how-good.md")


def reliability(faces: list[Face], crossed: dict[str, Array]) -> None:
    rows = []
    for low, high in pairwise(EDGES):
        row = [f"{low:g} to {high:g}"]
        for name in NAMES:
            one = of(name, faces, crossed, is_drawn)
            confidence = 100 * np.maximum(one.probability, 1 - one.probability)
            inside = (confidence >= low) & ((confidence < high) | (high == EDGES[-1]))
            right = (one.probability >= 0.5) == (one.truth == 1)
            row.append(f"{int(right[inside].sum())} of {int(inside.sum())}")
        rows.append(row)
    note = "Of the faces drawn at random: how many judgements with such a confidence are right."
    write("face-regions-confidence", ["confidence", *map(title, NAMES)], rows, note, "how-good.md")


def agreement() -> str:
    first = {place(row): row for row in read("face-attributes.csv")}
    again = read("face-attributes-again.csv")
    pairs = [(first[place(row)][name], row[name]) for row in again for name in NAMES]
    clear = [one == other for one, other in pairs if "unclear" not in (one, other)]
    same = sum(one == other for one, other in pairs)
    return f"{len(again)} faces: {same} of {len(pairs)} labels the same, {sum(clear)} of {len(clear)} clear ones"
