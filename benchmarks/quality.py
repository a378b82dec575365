"""Which measure of a face tells that it will be missed, and the fitted quality: python benchmarks/quality.py DATA [--cache CACHE].

DATA holds the folders lfw-a and congress-a (a folder of photographs a person); CACHE keeps what was measured of them. Writes the tables
of docs/how-good.md and the fitted quality of the default pack. With --pack PACK --to FILE it fits the quality of an installed and
calibrated pack on every folder in DATA instead, and writes that to FILE and nothing else.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from quality_data import MOST_PHOTOGRAPHS, NAMES, SEED, WORSE, Array, Faces, faces, models
from report import write
from scipy import optimize

from aboveboard.biometrics.calibration import similarity_at
from aboveboard.biometrics.quality import UnifiedQuality
from aboveboard.evaluation.protocol import content_hash, read_folder, shipped_errata
from aboveboard.service.quality import BARS
from aboveboard.vision import packs

PACK = "yunet-sface"
FITTED = Path(packs.__file__).parent / "fitted" / "yunet-sface-quality.json"
SIMILARITY, DRAWS = 80.0, 200
DROPPED = np.arange(0, 0.301, 0.01)
SHOWN = (0, 1, 2, 5, 10, 15, 20, 30)
LEVELS = {"LOW": 20.0, "MEDIUM": 50.0, "HIGH": 80.0}
EDGES = (0, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.99, 1)


@dataclass(frozen=True)
class Comparisons:
    """Mated comparisons of faces `one` with photographs as they are, `other`: their scores, weights that count each person once."""

    one: NDArray[np.int64]
    other: NDArray[np.int64]
    scores: Array
    weights: Array
    person: NDArray[np.int64]


def compared(seen: Faces, kinds: tuple[str, ...]) -> Comparisons:
    """Every face of these kinds with the person's other photographs as they are."""
    _, person = np.unique(seen.person, return_inverse=True)
    plain = np.flatnonzero(seen.kind == "")
    one, other = [], []
    for row in np.flatnonzero(np.isin(seen.kind, kinds)):
        mates = plain[(person[plain] == person[row]) & (seen.photograph[plain] != seen.photograph[row])]
        mates = mates[mates > row] if seen.kind[row] == "" else mates
        one += [row] * len(mates)
        other += list(mates)
    rows, mates = np.array(one), np.array(other)
    return Comparisons(rows, mates, (seen.features[rows] * seen.features[mates]).sum(axis=1), once(person[rows]), person[rows])


def once(person: NDArray[np.int64]) -> Array:
    return np.asarray(1 / np.bincount(person)[person], np.float64)


def curve(quality: Array, missed: NDArray[np.bool_], weights: Array) -> Array:
    """FNMR of what remains after each share of DROPPED, worst first; ties fall as they lie in a fixed random order."""
    order = np.lexsort((np.random.default_rng(SEED).random(len(quality)), quality))
    heads = np.concatenate([[0], np.cumsum(weights[order])])
    errors = np.concatenate([[0], np.cumsum((weights * missed)[order])])
    cut = np.searchsorted(heads, DROPPED * heads[-1] + 1e-9, side="right") - 1
    return np.asarray((errors[-1] - errors[cut]) / (heads[-1] - heads[cut]))


def area(found: Array) -> float:
    """The curve's mean over its beginning: 1 for a measure that tells nothing."""
    return float(found.mean() / found[0])


def combined(seen: Faces, names: tuple[str, ...], sets: list[Comparisons], half: NDArray[np.int64]) -> Array:
    """A linear combination of measures that foretells the comparison score, each half of the people by the fit on the other."""
    columns = np.column_stack([shaped(seen, name) for name in names])
    columns = (columns - columns.mean(axis=0)) / columns.std(axis=0)
    made = np.zeros(len(seen.kind))
    for side in (0, 1):
        rows, targets = [], []
        for each in sets:
            chosen = half[each.one] != side
            root = np.sqrt(each.weights[chosen] / each.weights[chosen].sum())
            both = columns[each.one[chosen]] + columns[each.other[chosen]]
            rows.append(np.column_stack([both, np.ones(len(both))]) * root[:, None])
            targets.append(each.scores[chosen] * root)
        weights = np.linalg.lstsq(np.concatenate(rows), np.concatenate(targets), rcond=None)[0][:-1]
        made[half == side] = columns[half == side] @ weights
    return made


def shaped(seen: Faces, name: str) -> Array:
    """A measure so that more is better."""
    values = seen.measures[:, NAMES.index(name)]
    if name in ("yaw", "pitch"):
        return -((values / 30) ** 2)
    if name == "residual":
        return -values
    return np.log(np.minimum(values, 100) + 1) if name in ("size_px", "brightness", "sharpness", "contrast") else values


def bars_passed(seen: Faces) -> Array:
    """How many of the plain bars a face passes: what the filter rested on before."""
    value = dict(zip(NAMES, seen.measures.T, strict=True))
    return np.sum(
        [
            (value["confidence"] >= bar.confidence) & (value["size_px"] >= bar.size_px)
            & (np.maximum(np.abs(value["yaw"]), np.abs(value["pitch"])) <= bar.turn_degrees)
            & (value["brightness"] >= bar.brightness) & (value["sharpness"] >= bar.sharpness)
            for bar in (BARS["LOW"], BARS["MEDIUM"], BARS["HIGH"])
        ], axis=0,
    ).astype(np.float64)  # fmt: skip


def candidates(seen: Faces, sets: list[Comparisons], half: NDArray[np.int64]) -> dict[str, Array]:
    cheap = tuple(name for name in NAMES if name not in ("norm", "flip"))
    return {
        "length of the features (what ships)": shaped(seen, "norm"),
        "length, detector confidence": combined(seen, ("norm", "confidence"), sets, half),
        "length, yaw, pitch": combined(seen, ("norm", "yaw", "pitch"), sets, half),
        "all measures together": combined(seen, NAMES, sets, half),
        "all that need no recogniser": combined(seen, cheap, sets, half),
        "likeness to the mirror image": shaped(seen, "flip"),
        "detector confidence": shaped(seen, "confidence"),
        "size": shaped(seen, "size_px"),
        "yaw": shaped(seen, "yaw"),
        "pitch": shaped(seen, "pitch"),
        "sharpness": shaped(seen, "sharpness"),
        "contrast": shaped(seen, "contrast"),
        "brightness": shaped(seen, "brightness"),
        "residual of the five points": shaped(seen, "residual"),
        "the plain bars, set by hand": bars_passed(seen),
    }


def fit(parts: list[tuple[Array, NDArray[np.bool_], Array]]) -> tuple[float, float]:
    """Middle and slope of the logistic function of the length that makes the outcomes likeliest; every part counts alike."""
    length, reached = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    weights = np.concatenate([part[2] / part[2].sum() for part in parts])

    def loss(line: Array) -> float:
        return float(weights @ np.logaddexp(0, np.where(reached, -1, 1) * (line[0] + line[1] * length)))

    offset, slope = optimize.minimize(loss, [0.0, 0.1]).x
    return float(-offset / slope), float(slope)


def per_cent(value: float) -> str:
    return f"{100 * value:.1f} %"


def interval(draws: list[float]) -> str:
    low, high = np.quantile(draws, [0.025, 0.975])
    return f"{low:.2f} to {high:.2f}"


class Study:
    """The data sets, their comparisons as they are and made worse, and the fit."""

    def __init__(self, folders: dict[str, Path], cache: Path | None, pack: str) -> None:
        self.folders, self.models = folders, models(pack)
        calibration = self.models.calibration
        if calibration is None:
            raise SystemExit(f"the pack '{pack}' has no calibration: first run aboveboard calibrate")
        self.calibration = calibration
        self.seen = {name: faces(folder, cache, pack) for name, folder in self.folders.items()}
        kinds = {"as they are": ("",), "made worse": tuple(WORSE)}
        self.sets = {name: {how: compared(seen, kind) for how, kind in kinds.items()} for name, seen in self.seen.items()}
        self.thresholds = {"at similarity 80": calibration.score_at(SIMILARITY), "at FMR 1e-4": calibration.score_at(similarity_at(1e-4))}
        self.least = self.thresholds["at similarity 80"]
        rng = np.random.default_rng(SEED)
        self.half = {}
        for name, seen in self.seen.items():
            _, person = np.unique(seen.person, return_inverse=True)
            self.half[name] = rng.permutation(person.max() + 1)[person] % 2
        self.sides = [self.fitted(side) for side in (0, 1)]
        self.middle, self.slope = self.fitted(None)

    def length(self, name: str) -> Array:
        return self.seen[name].measures[:, NAMES.index("norm")]

    def fitted(self, without: int | None) -> tuple[float, float]:
        """Fitted on everybody, or on the people of the other half."""
        parts = []
        for name, sets in self.sets.items():
            for how, each in sets.items():
                kept = self.half[name][each.one] != without
                faces = [each.one, each.other] if how == "as they are" else [each.one]
                parts += [
                    (self.length(name)[face[kept]], each.scores[kept] >= self.least, each.weights[kept] / len(faces)) for face in faces
                ]
        return fit(parts)

    def chance(self, name: str) -> Array:
        """The cross-fitted unified quality of every face, 0-1."""
        middle, slope = (np.array([side[i] for side in self.sides])[self.half[name]] for i in (0, 1))
        return np.asarray(1 / (1 + np.exp(-slope * (self.length(name) - middle))))

    def measures(self) -> None:
        """The area under each candidate's curve, beside the best one's."""
        columns, places = {}, []
        for name, sets in self.sets.items():
            made = candidates(self.seen[name], list(sets.values()), self.half[name])
            for how, each in sets.items():
                places.append(f"{name}, {how}")
                missed, people = each.scores < self.least, each.person.max() + 1
                rng = np.random.default_rng(SEED)
                counts = [rng.multinomial(people, np.ones(people) / people)[each.person] for _ in range(DRAWS)]
                for measure, quality in made.items():
                    worst = np.minimum(quality[each.one], quality[each.other])
                    draws = [area(curve(worst, missed, each.weights * drawn)) for drawn in counts]
                    columns[measure, places[-1]] = area(curve(worst, missed, each.weights)), draws
        rows = []
        for measure in sorted(made, key=lambda one: sum(columns[one, place][0] for place in places)):
            cells = [f"{columns[measure, place][0]:.2f} ({interval(columns[measure, place][1])})" for place in places]
            rows.append([measure, *cells])
        note = (
            "Area under the error-versus-discard curve from 0 to 30 % dropped, over the FNMR of all, at similarity 80 (1: tells nothing);"
            " each person counted once; combinations cross-fitted by halves of the people; 95 % intervals from resampling people."
        )
        write("quality-measures", ["measure", *places], rows, note, "how-good.md")

    def discard(self) -> None:
        """The curve of what ships, at both thresholds, beside the plain bars'."""
        rows, drawn = [], list[Array]()
        for name, sets in self.sets.items():
            measures = {"unified quality": self.length(name), "plain bars": bars_passed(self.seen[name])}
            for how, each in sets.items():
                for when, least in self.thresholds.items():
                    for title, quality in measures.items():
                        worst = np.minimum(quality[each.one], quality[each.other])
                        drawn.append(curve(worst, each.scores < least, each.weights))
                        rows.append([f"{name}, {how}", when, title, *(per_cent(drawn[-1][share]) for share in SHOWN)])
        self.figure(*drawn[:2])
        note = "FNMR of what remains once the worst are dropped, each person counted once. " + self.counts()
        write("quality-curve", ["photographs", "FNMR", "by", *(f"{share} % dropped" for share in SHOWN)], rows, note, "how-good.md")

    def figure(self, ships: Array, plain: Array) -> None:
        rows = []
        for share in SHOWN:
            full = round(40 * ships[share] / ships[0])
            mark = min(39, round(40 * plain[share] / ships[0]))
            bar = "█" * full + "░" * (40 - full)
            rows.append([f"{share} %", bar[:mark] + "│" + bar[mark + 1 :], per_cent(ships[share]), per_cent(plain[share])])
        head = ["dropped", "misses left, LFW as it is (│: by the plain bars)", "FNMR", "by the plain bars"]
        write("quality-figure", head, rows, "At similarity 80, each person counted once.", "how-good.md")

    def counts(self) -> str:
        parts = []
        for name, sets in self.sets.items():
            for how, each in sets.items():
                people, missed = len(np.unique(each.person)), int((each.scores < self.least).sum())
                parts.append(f"{name} {how}: {len(each.one):,} mated comparisons of {people} people, {missed} below similarity 80")
        return "; ".join(parts) + "."

    def bars(self) -> None:
        """What each bar drops and what remains."""
        rows = []
        for name, sets in self.sets.items():
            chance, seen = self.chance(name), self.seen[name]
            for how, each in sets.items():
                of = (seen.kind == "") == (how == "as they are")
                person = np.unique(seen.person[of], return_inverse=True)[1]
                weights = once(person) / (person.max() + 1)
                for level, least in {"NONE": 0.0, **LEVELS}.items():
                    kept = np.minimum(chance[each.one], chance[each.other]) >= least / 100
                    missed = each.scores < self.least
                    rng, draws, people = np.random.default_rng(SEED), [], each.person.max() + 1
                    for _ in range(DRAWS):
                        drawn = each.weights * rng.multinomial(people, np.ones(people) / people)[each.person]
                        draws.append(float(drawn @ (missed & kept) / (drawn @ kept)))
                    left = each.weights @ (missed & kept) / (each.weights @ kept)
                    low, high = np.quantile(draws, [0.025, 0.975])
                    faces_dropped = float(weights @ (chance[of] < least / 100))
                    rows.append(
                        [f"{name}, {how}", level, f"{least:g}", per_cent(faces_dropped),
                         f"{100 * left:.1f} % ({100 * low:.1f} to {100 * high:.1f})"]
                    )  # fmt: skip
        note = "Cross-fitted; each person counted once; 95 % intervals from resampling people. A comparison remains where both faces pass."
        write(
            "quality-bars", ["photographs", "filter", "least quality", "faces dropped", "FNMR at similarity 80"], rows, note, "how-good.md"
        )

    def kinds(self) -> None:
        """What the bars do with each kind of fault."""
        rows = []
        for kind in WORSE:
            chances, missed, weights, unseen, seen_faces, dropped = [], [], [], 0, 0, dict.fromkeys(LEVELS, 0)
            for name, seen in self.seen.items():
                each, chance = compared(seen, (kind,)), self.chance(name)
                chances.append(np.minimum(chance[each.one], chance[each.other]))
                missed.append(each.scores < self.least)
                weights.append(each.weights)
                unseen += int((seen.missed == kind).sum())
                seen_faces += int((seen.kind == kind).sum())
                for level, least in LEVELS.items():
                    dropped[level] += int((chance[seen.kind == kind] < least / 100).sum())
            quality, wrong, weight = (np.concatenate(part) for part in (chances, missed, weights))
            row = [kind, f"{unseen} of {unseen + seen_faces}", per_cent(weight @ wrong / weight.sum())]
            for level, least in LEVELS.items():
                kept = quality >= least / 100
                row.append(f"{per_cent(dropped[level] / seen_faces)}, {per_cent(weight @ (wrong & kept) / (weight @ kept))}")
            rows.append(row)
        head = ["fault", "no face found", "FNMR without a filter", *(f"{level}: dropped, FNMR left" for level in LEVELS)]
        write("quality-faults", head, rows, "LFW and Congress together, cross-fitted, at similarity 80.", "how-good.md")

    def reliability(self) -> None:
        """The chance that was foretold against what came."""
        foretold, came, weights = [], [], []
        for name, sets in self.sets.items():
            chance = self.chance(name)
            for how, each in sets.items():
                for face in [each.one, each.other] if how == "as they are" else [each.one]:
                    foretold.append(chance[face])
                    came.append(each.scores >= self.least)
                    weights.append(each.weights)
        quality, reached, weight = (np.concatenate(part) for part in (foretold, came, weights))
        rows = []
        for low, high in pairwise(EDGES):
            chosen = (quality >= low) & ((quality < high) | (high == 1))
            share = float(weight[chosen] @ reached[chosen] / weight[chosen].sum())
            bar = "█" * round(20 * share) + "░" * (20 - round(20 * share))
            mean = float(weight[chosen] @ quality[chosen] / weight[chosen].sum())
            rows.append([f"{100 * low:g} to {100 * high:g}", f"{int(chosen.sum()):,}", f"{100 * mean:.1f}", per_cent(share), bar])
        note = "LFW and Congress, as they are and made worse, cross-fitted, each person counted once."
        write("quality-reliability", ["quality", "comparisons", "its mean", "reached similarity 80", ""], rows, note, "how-good.md")

    def save(self, file: Path) -> None:
        """The fitted quality, with where it comes from."""
        card = self.models.card
        document = {
            "id": f"{datetime.now(UTC):%Y%m%d}",
            "model_version": card.model_version,
            "similarity": SIMILARITY,
            "middle": round(self.middle, 4),
            "slope": round(self.slope, 4),
            "bars": {"AUTO": LEVELS["LOW"], **LEVELS},
            "halves": [{"middle": round(middle, 4), "slope": round(slope, 4)} for middle, slope in self.sides],
            "calibration": {"id": self.calibration.id, "sha256": self.calibration.sha256},
            "data_sets": {
                folder.name: {"sha256": content_hash(read_folder(folder)), "people": len(np.unique(self.seen[name].person))}
                for name, folder in self.folders.items()
            },
            "errata_sha256": shipped_errata().sha256,
            "photographs_of_a_person": MOST_PHOTOGRAPHS,
            "seed": SEED,
            "pack": {"id": card.id, "files": {part.file: part.sha256 for part in card.files}},
        }
        text = json.dumps(document, indent=1) + "\n"
        UnifiedQuality.from_json(text)
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--pack", default=PACK)
    parser.add_argument("--to", type=Path)
    asked = parser.parse_args()
    if asked.to:
        study = Study({folder.name: folder for folder in sorted(asked.data.iterdir()) if folder.is_dir()}, asked.cache, asked.pack)
        study.save(asked.to)
        print(study.counts())
        return
    if asked.pack != PACK:
        parser.error("--pack needs --to FILE: what ships is the default pack's")
    study = Study({"LFW": asked.data / "lfw-a", "Congress": asked.data / "congress-a"}, asked.cache, PACK)
    study.save(FITTED)
    study.discard()
    study.bars()
    study.kinds()
    study.reliability()
    study.measures()


if __name__ == "__main__":
    main()
