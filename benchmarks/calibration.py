"""Does a calibration hold for people it never saw, and a tail fit beyond what it was fitted on? Does mean-centring earn its place?

python benchmarks/calibration.py FOLDER (with lfw-a, congress-a, utkface-a) [unseen] [beyond] [ratios] [posteriors] [centring], all by
default. Writes docs/how-good.md.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from report import write
from templates import kept, people_of

from aboveboard import settings
from aboveboard.biometrics.calibration import Calibration, similarity_at
from aboveboard.evaluation import likelihood, metrics
from aboveboard.evaluation.calibrating import calibration_of
from aboveboard.evaluation.metrics import Pairs, Resampling, all_pairs, interval
from aboveboard.evaluation.rates import bound_without_errors
from aboveboard.evaluation.run import TemplateSet
from aboveboard.vision.packs import Models, PackFolder

PAGE, DRAWS, SPLITS = "how-good.md", 1000, 40
RATES = (1e-2, 1e-3, 1e-4, 1e-5, 2e-6)
Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Set:
    """Templates (n, d) and whose each is, as numbers from 0."""

    features: Vectors
    subject: NDArray[np.int64]

    @staticmethod
    def of(made: TemplateSet, left_out: frozenset[str] = frozenset()) -> Set:
        rows = [i for i, sample in enumerate(made.samples) if sample.subject not in left_out]
        return Set.numbered(made.features[rows], [made.samples[i].subject for i in rows])

    @staticmethod
    def numbered(features: Vectors, people: Sequence[object]) -> Set:
        return Set(features, np.unique(np.asarray(people), return_inverse=True)[1])

    def some(self, people: NDArray[np.int64]) -> Set:
        rows = np.isin(self.subject, people)
        return Set.numbered(self.features[rows], self.subject[rows].tolist())

    @property
    def people(self) -> int:
        return int(self.subject.max()) + 1

    def pairs(self) -> Pairs:
        return all_pairs(self.features, self.subject.tolist())


@dataclass(frozen=True)
class Found:
    """Errors among comparisons at each score, and the FMR's interval by resampling people."""

    errors: list[int]
    comparisons: int
    bounds: list[tuple[float, float]]

    def ratio(self, i: int, promised: float) -> str:
        n, (low, high) = self.comparisons, self.bounds[i]
        if not self.errors[i]:
            return f"none (up to {short(bound_without_errors(n) / promised)})"
        return f"{short(self.errors[i] / n / promised)} ({short(low / promised)}-{short(high / promised)}), {self.errors[i]:,}"


def within(data: Set, scores: Sequence[float]) -> Found:
    pairs = data.pairs()
    draws = Resampling.of(pairs, DRAWS).fmr_at(scores)
    return Found([pairs.errors_at(score) for score in scores], pairs.non_mated_size, [interval(draw) for draw in draws.T])


def across(data: Set, other: Set, scores: Sequence[float]) -> Found:
    """Every template of one set with every one of another; both sides are resampled by person."""
    found, first, second = [], [], []
    for start in range(0, len(data.features), 256):
        block = data.features[start : start + 256].astype(np.float64) @ other.features.astype(np.float64).T
        row, column = np.nonzero(block >= min(scores))
        found.append(block[row, column])
        first.append(data.subject[row + start])
        second.append(other.subject[column])
    high, one, two = (np.concatenate(parts) for parts in (found, first, second))
    random = np.random.default_rng(0)
    sizes, other_sizes = np.bincount(data.subject), np.bincount(other.subject)
    draws = np.empty((DRAWS, len(scores)))
    for draw in draws:
        w = random.multinomial(data.people, np.full(data.people, 1 / data.people)).astype(np.float64)
        v = random.multinomial(other.people, np.full(other.people, 1 / other.people)).astype(np.float64)
        weight = w[one] * v[two]
        draw[:] = [weight[high >= score].sum() / ((w @ sizes) * (v @ other_sizes)) for score in scores]
    errors = [int(np.count_nonzero(high >= score)) for score in scores]
    return Found(errors, len(data.features) * len(other.features), [interval(draw) for draw in draws.T])


def short(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def halves(data: Set, splits: int) -> Iterator[tuple[Set, Set]]:
    """The people by lot into two halves."""
    for seed in range(splits):
        people = np.random.default_rng(seed).permutation(data.people)
        yield data.some(people[: data.people // 2]), data.some(people[data.people // 2 :])


def calibrated(pairs: Pairs, draws: int) -> tuple[Calibration, dict[float, tuple[float, float]]]:
    """A calibration made as `aboveboard calibrate` makes it, and by FMR its point's interval as shares of that FMR."""
    document = calibration_of(pairs, draws)
    counted = {"mated": pairs.mated_size, "non_mated": pairs.non_mated_size}
    intervals = {point["fmr"]: (point["low"] / point["fmr"], point["high"] / point["fmr"]) for point in document["curve"]}
    return Calibration.from_json(json.dumps({"id": "1", "model_version": "1", **counted, **document})), intervals


def unseen(data: dict[str, Set], models: Models) -> None:
    """Found / promised FMR of the shipped calibration on people that it was not made from."""
    calibration = models.calibration
    assert calibration is not None
    scores = [calibration.score_at(similarity_at(rate)) for rate in RATES]
    rows = []
    for name, found in (
        ("congress-a among itself", within(data["congress"], scores)),
        ("congress-a against LFW (without the six in both)", across(data["congress outside LFW"], data["lfw"], scores)),
        ("utkface-a against LFW", across(data["utkface"], data["lfw"], scores)),
        ("utkface-a among itself", within(data["utkface"], scores)),
        ("utkface-a against congress-a", across(data["utkface"], data["congress"], scores)),
    ):
        rows.append([name, f"{found.comparisons:,}", *(found.ratio(i, rate) for i, rate in enumerate(RATES))])
    ratios: dict[float, list[float]] = {rate: [] for rate in RATES}
    for one, other in halves(data["lfw"], SPLITS):
        made, tested = one.pairs(), other.pairs()
        for rate in RATES[:-1]:
            ratios[rate].append(tested.fmr_at(made.threshold_for(rate)) / rate)
        fitted, _ = calibrated(made, 20)
        ratios[2e-6].append(tested.fmr_at(fitted.score_at(80)) / 2e-6)
    spread = [f"{short(float(np.mean(ratios[rate])))} ({' to '.join(map(short, interval(np.array(ratios[rate]))))})" for rate in RATES]
    rows.append([f"half of LFW's people, calibrated on the other half: mean and 95 % of {SPLITS} splits", "4.7 M each", *spread])
    write(
        "calibration-unseen",
        ["pairs", "comparisons", *(f"{rate:g}" + (" (similarity 80)" if rate == 2e-6 else "") for rate in RATES)],
        rows,
        "Found FMR / promised FMR (95 % interval by resampling people on both sides), number of false matches.",
        PAGE,
    )


def beyond(data: dict[str, Set], _: Models) -> None:
    """Calibrate on as few people as make the measured limit a decade higher; count, on the others, at the score given for a rate."""
    rows = []
    for limit, targets, splits, draws in ((1e-4, (1e-5, 2e-6), 30, 200), (1e-5, (1e-6,), 12, 100)):
        people = round(data["lfw"].people * (30 / limit / 18.93e6) ** 0.5)
        ratios: dict[float, list[float]] = {target: [] for target in targets}
        stated: dict[float, list[tuple[float, float]]] = {target: [] for target in targets}
        for seed in range(splits):
            order = np.random.default_rng(1000 + seed).permutation(data["lfw"].people)
            made, intervals = calibrated(data["lfw"].some(order[:people]).pairs(), draws)
            tested = data["lfw"].some(order[people:]).pairs()
            for target in targets:
                ratios[target].append(tested.fmr_at(made.score_at(similarity_at(target))) / target)
                stated[target].append(intervals[min(intervals, key=lambda rate: abs(np.log(rate / target)))])
            print(f"{limit:g} {seed}:", {target: (ratios[target][-1], *stated[target][-1]) for target in targets}, flush=True)
        for target in targets:
            found, (low, high) = np.array(ratios[target]), np.array(stated[target]).T
            rows.append(
                [
                    f"{limit:g}",
                    f"{people:,}",
                    f"{target:g}",
                    f"{short(float(found.mean()))} ({' to '.join(map(short, interval(found)))})",
                    f"{short(float(np.median(low)))} to {short(float(np.median(high)))}",
                    f"{np.count_nonzero((low <= found) & (found <= high))} of {splits}",
                ]
            )
    write(
        "calibration-beyond",
        [
            "measured down to",
            "people",
            "predicted FMR",
            "found / predicted: mean, 95 % of draws",
            "interval stated (median)",
            "holds the found",
        ],
        rows,
        "People of LFW by lot; the calibration made from them, counted on all the others.",
        PAGE,
    )


def sets(folder: Path, models: Models) -> dict[str, Set]:
    made = {name: kept(people_of(folder / f"{name}-a"), models) for name in ("lfw", "congress", "utkface")}
    with (folder / "congress-a" / "members.csv").open() as file:
        names = {row["bioguide"]: row["name"].partition(",")[0].split() for row in csv.DictReader(file)}
    people = {sample.subject for sample in made["lfw"].samples}
    both = frozenset(one for one, name in names.items() if {f"{name[0]}_{name[-1]}", "_".join(name)} & people)
    print(len(both), "in both", sorted(both))
    return {
        **{name: Set.of(one) for name, one in made.items()},
        "congress outside LFW": Set.of(made["congress"], both),
    }


def ratios(data: dict[str, Set], models: Models) -> None:
    """Do likelihood ratios keep their promise (of non-mated comparisons at most one in x has x), and what do they cost (Cllr, bits)?"""
    assert models.calibration is not None
    assert models.calibration.ratios is not None
    rows, levels = [], (10, 100, 1_000, 10_000)

    def row(name: str, tested: Pairs, llr: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> list[str]:
        mated, centres = llr(tested.mated), llr(metrics.CENTRES)
        n = tested.non_mated_size
        shares = [tested.counts[centres >= np.log(x)].sum() / n * x for x in levels]
        # All that can be said in bits needs each comparison's own ratio; bins of 1e-4 lose nothing.
        cost = (np.logaddexp(0, -mated).mean() + np.logaddexp(0, centres) @ tested.counts / n) / (2 * np.log(2))
        is_mated, used = metrics.binned(tested.mated), tested.counts + metrics.binned(tested.mated) > 0
        least = likelihood.cllr_min_of_counts(is_mated[used].astype(float), tested.counts[used].astype(float))
        return [name, f"{tested.mated_size:,}", f"{n:,}", *map(short, shares), f"{cost:.4f}", f"{least:.4f}"]

    rows.append(row("congress-a, the shipped calibration", data["congress"].pairs(), models.calibration.ratios.at))
    for seed, (one, other) in enumerate(halves(data["lfw"], 3), 1):
        rows.append(row(f"half of LFW's people, by the other half, split {seed}", other.pairs(), calibrated(one.pairs(), 2)[0].ratios.at))
    write(
        "calibration-ratios",
        ["people", "mated", "non-mated", *(f"LR >= {x:,}" for x in levels), "Cllr", "least possible"],
        rows,
        "Under LR >= x: the share of non-mated comparisons that reach it, times x; up to 1 it is kept. Cllr: 0 tells all, 1 nothing.",
        PAGE,
    )


def posteriors(_: dict[str, Set], models: Models) -> None:
    """What the shipped calibration says of the only candidate of a search, for a prior of 50 %."""
    calibration = models.calibration
    assert calibration is not None
    rows, sizes = [], (300, 25_000, 300_000)
    for similarity in (60, 80, 90, 99):
        searched, score = min(similarity, 80), [calibration.score_at(similarity)]
        said = [calibration.evidence(score, searched, size, 0.5)[0] for size in sizes]
        ratio, low, high = (f"{float(f'{value:.2g}'):,.0f}" for value in (said[0].ratio, said[0].low or 0, said[0].high or 0))
        rests = [ratio + ", the bound" * said[0].is_most, f"{low} to {high}", f"{said[0].mated:,} : {said[0].non_mated:,}"]
        chances = ["> 99 %" if one.posterior > 0.99 else f"{100 * one.posterior:.2g} %" for one in said if one.posterior is not None]
        rows.append([f"{similarity}", f"{searched}", *rests, *chances])
    write(
        "calibration-posteriors",
        [
            "similarity",
            "searched from",
            "LR",
            "its interval",
            "pairs of one : of two people",
            "posterior at N = 300, prior 50 %",
            *(f"at N = {size:,}" for size in sizes[1:]),
        ],
        rows,
        "The only candidate of a search with that threshold, whose FNIR counts.",
        PAGE,
    )


def centring(data: dict[str, Set], _: Models) -> None:
    """Subtract the mean template of other people and renormalise: TAR, the promise on others, and the factor of another gallery."""
    rates, found = (1e-4, 1e-5, 2e-6), {"as it is": [], "centred": []}
    for one, other in halves(data["lfw"], 20):
        mean = one.features.mean(axis=0)
        for name in found:
            made, tested = (
                Set(centred(half.features, mean) if name == "centred" else half.features, half.subject).pairs() for half in (one, other)
            )
            tar = [tested.tar_at(tested.threshold_for(rate)) for rate in rates]
            found[name].append([*tar, *(tested.fmr_at(made.threshold_for(rate)) / rate for rate in (1e-4, 1e-5))])
    mean, rows = data["lfw"].features.mean(axis=0), []
    for name in found:
        lfw, congress = (
            Set(centred(data[one].features, mean) if name == "centred" else data[one].features, data[one].subject).pairs()
            for one in ("lfw", "congress")
        )
        shown = [f"{100 * value:.2f} %" for value in np.mean(found[name], axis=0)[:3]]
        held = [short(float(value)) for value in np.mean(found[name], axis=0)[3:]]
        tar = [f"{100 * congress.tar_at(lfw.threshold_for(rate)):.2f} %" for rate in (1e-4, 1e-5, 2e-6)]
        draws = Resampling.of(congress, DRAWS).fmr_at([lfw.threshold_for(rate) for rate in (1e-3, 1e-4)])
        factor = [
            f"{short(congress.fmr_at(lfw.threshold_for(rate)) / rate)} ({short(low / rate)}-{short(high / rate)})"
            for rate, (low, high) in zip((1e-3, 1e-4), (interval(draw) for draw in draws.T), strict=True)
        ]
        rows.append([name, *shown, *held, *tar, *factor])
    gain = np.array(found["centred"]) - np.array(found["as it is"])
    spread = [
        f"{100 * np.mean(one):+.2f} ({100 * low:+.2f} to {100 * high:+.2f})" for one in gain[:, :3].T for low, high in [interval(one)]
    ]
    rows.append(["gain in points, 95 % of splits", *spread, *[""] * 7])
    write(
        "calibration-centring",
        ["templates", *(f"TAR at {rate:g}" for rate in rates), "found / promised at 1e-4", "at 1e-5",
         *(f"congress-a: TAR at LFW's score for {rate:g}" for rate in rates), "factor at 1e-3", "factor at 1e-4"],
        rows,
        "Halves of LFW's people, the mean taken from the other half, 20 splits; congress-a centred by LFW's mean.",
        PAGE,
    )  # fmt: skip


def centred(features: Vectors, mean: Vectors) -> Vectors:
    moved = features - mean
    return moved / np.linalg.norm(moved, axis=1, keepdims=True)


WHAT: dict[str, Callable[[dict[str, Set], Models], None]] = {
    "unseen": unseen,
    "beyond": beyond,
    "ratios": ratios,
    "posteriors": posteriors,
    "centring": centring,
}


def main(folder: Path, which: Sequence[str]) -> None:
    models = PackFolder(settings.load().models).load("yunet-sface")
    data = sets(folder, models) if set(which or WHAT) - {"posteriors"} else {}
    for name in which or WHAT:
        WHAT[name](data, models)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
