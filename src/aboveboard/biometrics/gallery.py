"""A gallery's own scores beside its calibration: does the promise hold among these faces?

`Sample` counts, for a uniform sample of a gallery's faces, the scores of each with all others, exactly, as faces come and go.
`OwnScores` is what it has counted; it answers the gallery factor (FMR found / FMR promised) at several similarities, and which
share of the gallery's own pairs scores as high as a candidate. docs/gallery-factor.md explains estimator, interval and bias.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aboveboard.biometrics.calibration import Calibration, fmr_at, similarity_at

BINS = 1_000
EDGES = np.linspace(-1.0, 1.0, BINS + 1)
"""Bin i holds the scores from EDGES[i] up to, without, EDGES[i + 1]; the last bin also 1."""
SAMPLE, LEAST = 512, 500
"""How many faces are sampled, and in how small a gallery nothing is measured."""
LEVELS = (20, 30, 40, 50, 60, 70, 80, 90)
"""The similarities at which found and promised rates are compared."""
LEAST_MATED, LEAST_MATED_PEOPLE = 30, 10
"""Of how few comparisons of how few people with themselves nothing is given out: a handful would be scores of known pairs."""
WARN = 3.0
"""The gallery factor above which people are warned."""
KNOWN = 0.9
"""The share of sampled faces that must be of known people: mates that nobody knows of would count as false matches."""
_ERRORS = 30
_FEW = 3
_BLOCK = 512


class Faces(NamedTuple):
    """Enrolled faces as they are scanned: numbers (m,) int64, rows (m, d) int8, scales (m,) float32, subjects (m,) int64, 0 for none."""

    numbers: NDArray[np.int64]
    rows: NDArray[np.int8]
    scales: NDArray[np.float32]
    subjects: NDArray[np.int64]

    @property
    def owners(self) -> NDArray[np.int64]:
        """Whose each face is: its subject, or, as a number below 0, its own. Faces of one owner are not compared."""
        return np.where(self.subjects > 0, self.subjects, -self.numbers)

    def at(self, which: NDArray[np.int64] | slice) -> Faces:
        """Some of them."""
        return Faces(self.numbers[which], self.rows[which], self.scales[which], self.subjects[which])


def histogram(scores: NDArray[np.floating]) -> NDArray[np.int64]:
    """How many of the scores lie in each bin, (BINS,)."""
    return np.bincount(_bins(scores.ravel()), minlength=BINS)


def _bins(scores: NDArray[np.floating]) -> NDArray[np.int32]:
    return np.clip(((scores + 1) * (BINS / 2)).astype(np.int32), 0, BINS - 1)


Counted = tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.int64]]
"""Rows of whole numbers, scales, owners."""
Tally = Callable[[Counted, Counted, NDArray[np.int32]], None]
"""(faces (m, ...), members (b, ...), counts (b, BINS)): adds to the counts where each member's scores with faces of other owners lie."""


class Sample:
    """Of each sampled face how its scores with the gallery's faces of other owners lie. Not for several threads at once.

    The scores are those of the int8 rows: sums of whole numbers are exact in whatever order, so that a face that goes takes away what it
    brought, to the count.
    """

    def __init__(self, dimensions: int, tally: Tally) -> None:
        self._tally = tally
        self._numbers, self._owners = np.empty(0, np.int64), np.empty(0, np.int64)
        self._rows, self._scales = np.empty((0, dimensions), np.int8), np.empty(0, np.float32)
        self._counts = np.empty((0, BINS), np.int32)

    def move(self, gone: Faces | None, came: Faces | None) -> None:
        """Faces went and came; one whose subject changed went with the old one and came with the new one. `drop` those of them that are
        members after it, and call `choose` before the counts are used."""
        for faces, sign in ((gone, -1), (came, 1)):
            if faces is not None:
                self._count(self._counts, np.arange(len(self._counts)), faces, sign)

    def drop(self, numbers: Sequence[int]) -> None:
        """Forget those members that are among these faces: they are gone, or are to be counted anew as another subject's."""
        kept = ~np.isin(self._numbers, numbers)
        self._numbers, self._owners, self._counts = self._numbers[kept], self._owners[kept], self._counts[kept]
        self._rows, self._scales = self._rows[kept], self._scales[kept]

    def choose(self, members: Faces, gallery: Callable[[], Iterable[Faces]]) -> None:
        """These are the members now. Who was one, with the same subject, keeps its counts; the others are counted with all faces of the
        gallery, as it now is, which is asked for (in blocks of any size) only if there are others."""
        held = {key: i for i, key in enumerate(zip(self._numbers.tolist(), self._owners.tolist(), strict=True))}
        owners = members.owners
        before = np.array([held.get(key, -1) for key in zip(members.numbers.tolist(), owners.tolist(), strict=True)], np.int64)
        counts = np.zeros((len(before), BINS), np.int32)
        counts[before >= 0] = self._counts[before[before >= 0]]
        self._hold(members, counts)
        new = np.flatnonzero(before < 0)
        if new.size:
            for faces in gallery():
                self._count(counts, new, faces, 1)

    @property
    def counts(self) -> NDArray[np.int32]:
        """(members, BINS), in the members' order: with the members all that is needed to go on after a restart. Not to be written to."""
        return self._counts

    @property
    def members(self) -> NDArray[np.int64]:
        """Their numbers."""
        return self._numbers

    def restore(self, members: Faces, counts: NDArray[np.int32]) -> None:
        """Go on with members and counts that were kept."""
        self._hold(members, counts.copy())

    def scores(self, size: int) -> OwnScores:
        """What is counted, of a gallery of `size` faces; later moves do not change it."""
        return OwnScores(self._counts.copy(), self._owners, size)

    def _hold(self, members: Faces, counts: NDArray[np.int32]) -> None:
        self._numbers, self._owners, self._counts = members.numbers.copy(), members.owners, counts
        self._rows, self._scales = members.rows.copy(), members.scales.copy()

    def _count(self, counts: NDArray[np.int32], members: NDArray[np.int64], faces: Faces, sign: int) -> None:
        own = self._rows[members], self._scales[members], self._owners[members]
        found = np.zeros((len(members), BINS), np.int32)
        self._tally((faces.rows, faces.scales, faces.owners), own, found)
        counts[members] += sign * found


@dataclass(frozen=True, slots=True)
class Level:
    """Found against promised at one similarity, counted at `score`, the edge of a bin at or just above it.

    `ratio` (with its 95 % interval) is found / promised FMR; it is None, and `high` an upper bound, where it cannot be told: `lacks`
    says whether `errors` are too few or may be unknown mates. `pairs` counts each pair of faces once.
    """

    similarity: int
    score: float
    promised: float
    extrapolated: bool
    errors: int
    pairs: int
    ratio: float | None
    low: float
    high: float
    lacks: Literal["", "errors", "subjects"]


@dataclass(frozen=True, slots=True)
class Factor:
    """The gallery factor: the ratio at the strictest similarity at which it can be told, with its 95 % interval."""

    value: float
    low: float
    high: float
    similarity: int


@dataclass(frozen=True, slots=True)
class Share:
    """The share of a gallery's own pairs that scores as high as a candidate; where none does, its upper 95 % bound."""

    value: float
    is_bound: bool


@dataclass(frozen=True, slots=True)
class Point:
    """One place of a gallery's own distribution: the promised and the found FMR at a similarity."""

    similarity: int
    promised: float
    found: float


@dataclass(frozen=True, slots=True)
class GalleryCheck:
    """A gallery beside its calibration: `faces` of its `size` were sampled, `pairs` compared, each once.

    `points` show the whole distribution; where mates are not known, they are in it.
    """

    size: int
    faces: int
    pairs: int
    knows_mates: bool
    factor: Factor | None
    levels: tuple[Level, ...]
    points: tuple[Point, ...]


@dataclass(frozen=True, eq=False)
class OwnScores:
    """Scores among a gallery's own faces: `counts` (members, BINS) of each sampled face with all faces of other owners.

    `owners` (members,) are subjects, or, below 0, faces without one; `size` is the gallery's. Where nine in ten sampled faces have a
    subject, mates are known: the others are left out. Else every face counts, and unknown mates may be among its highest scores.
    """

    counts: NDArray[np.int32]
    owners: NDArray[np.int64]
    size: int
    _levels: dict[str, tuple[Level, ...]] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def knows_mates(self) -> bool:
        """Whether most of the faces have a subject, so that nearly all that are compared are of two people."""
        return bool(np.mean(self.owners > 0) >= KNOWN)

    @cached_property
    def pairs(self) -> int:
        """How many pairs of faces were counted, each once."""
        return round(int(self._reached[0]) * self._once)

    @cached_property
    def _chosen(self) -> NDArray[np.bool_]:
        return self.owners > 0 if self.knows_mates else np.ones(len(self.owners), np.bool_)

    @property
    def _once(self) -> float:
        return once(int(np.count_nonzero(self._chosen)), self.size)

    @cached_property
    def _reached(self) -> NDArray[np.int64]:
        """How many scores reach each edge, (BINS + 1,)."""
        total = self.counts[self._chosen].sum(axis=0, dtype=np.int64)
        return np.append(np.cumsum(total[::-1])[::-1], 0)

    def levels(self, calibration: Calibration) -> tuple[Level, ...]:
        """Found against promised at each of `LEVELS`.

        The estimator: errors of all sampled faces / (their comparisons x promised FMR), of scores from the level's edge up to a `top`.
        Known mates are not compared. With subjects known, the top is the scale's end (FMR 1e-12): beyond it are copies and mates under
        two ids. Without, it is where the promise has fallen to a hundredth of the level's, and a level counts only where 10 errors a
        face are promised: three mates a face below the top would raise the ratio by at most 3/10, and the interval's low end allows
        for them. A ratio needs 30 errors, found or promised, each pair counted once.
        The interval: people as clusters, on both sides of the comparisons. See docs/gallery-factor.md.
        """
        if calibration.sha256 not in self._levels:
            self._levels[calibration.sha256] = self._compared(calibration)
        return self._levels[calibration.sha256]

    def check(self, calibration: Calibration) -> GalleryCheck:
        """All of it, for people to read."""
        faces = int(np.count_nonzero(self._chosen))
        levels, points = self.levels(calibration), self.points(calibration)
        return GalleryCheck(self.size, faces, self.pairs, self.knows_mates, self.factor(calibration), levels, points)

    def factor(self, calibration: Calibration) -> Factor | None:
        """The ratio at the strictest level that can be told; None where none can."""
        return next((_factor(level) for level in reversed(self.levels(calibration)) if level.ratio is not None), None)

    def ratio_at(self, calibration: Calibration, similarity: float) -> float | None:
        """The ratio to reckon with at a threshold: that of the strictest level at or below it, else of the lowest; None without any."""
        told = [level for level in self.levels(calibration) if level.ratio is not None]
        below = [level for level in told if level.similarity <= similarity]
        return below[-1].ratio if below else told[0].ratio if told else None

    def share(self, score: float) -> Share:
        """The share of the gallery's own pairs whose score lies in the bin of this one or higher, unknown mates among them."""
        errors = int(self._reached[min(max(int((score + 1) * (BINS / 2)), 0), BINS - 1)])
        if errors:
            return Share(errors / int(self._reached[0]), False)
        return Share(-math.expm1(math.log(0.05) / max(self.pairs, 1)), True)

    def points(self, calibration: Calibration) -> tuple[Point, ...]:
        """The distribution beside the promise, at every fifth similarity; unknown mates are in it."""
        found = []
        for similarity in range(5, 101, 5):
            edge = _edge(calibration.score_at(similarity))
            promised = fmr_at(calibration.similarity(float(EDGES[edge])))
            found.append(Point(similarity, promised, int(self._reached[edge]) / int(self._reached[0])))
        return tuple(found)

    def _compared(self, calibration: Calibration) -> tuple[Level, ...]:
        knows, once = self.knows_mates, self._once
        low_edges = [_edge(calibration.score_at(level)) for level in LEVELS]
        promised = np.array([fmr_at(calibration.similarity(float(EDGES[edge]))) for edge in low_edges])
        tops = [_edge(calibration.score_at(100.0 if knows else similarity_at(rate / 100))) for rate in promised]
        beyond = np.array([fmr_at(calibration.similarity(float(EDGES[edge]))) for edge in tops])
        edges = np.unique([0, *low_edges, *tops])
        between = np.add.reduceat(self.counts[self._chosen], edges[edges < BINS], axis=1).astype(np.float64)
        reaching = np.cumsum(between[:, ::-1], axis=1)[:, ::-1]
        # A column of zeros for a top at the very end.
        reaching = np.hstack([reaching, np.zeros((len(reaching), 1))])
        at = np.minimum(np.searchsorted(edges[edges < BINS], low_edges), reaching.shape[1] - 1)
        end = np.searchsorted(edges[edges < BINS], tops)
        trials = reaching[:, 0]
        in_band = reaching[:, at] - reaching[:, end]
        # Of a scale so short that a level and its top lie on one edge nothing is promised between them, and nothing can be told.
        expected = np.maximum(trials.sum() * (promised - beyond), 1e-9)
        found, whole = in_band.sum(axis=0), reaching[:, at].sum(axis=0)
        ratios = found / expected
        spread = self._spread(in_band, trials, found)
        levels = []
        for i, similarity in enumerate(LEVELS):
            lacks: Literal["", "errors", "subjects"] = ""
            if not knows and expected[i] < 10 * len(trials):
                lacks = "subjects"
            elif max(found[i], expected[i]) * once < _ERRORS:
                lacks = "errors"
            errors = found[i] if not lacks else whole[i]
            # Without an error the rule of 3 of the pairs.
            high = float(errors / expected[i] * math.exp(1.96 * spread[i])) if errors else 3 / float(expected[i] * once)
            low = float(ratios[i] * math.exp(-1.96 * spread[i])) if not lacks else 0.0
            if not knows and found[i]:
                low *= max(1 - _FEW * len(trials) / float(found[i]), 0.0)
            levels.append(
                Level(
                    similarity=similarity,
                    score=float(EDGES[low_edges[i]]),
                    promised=float(promised[i]),
                    extrapolated=bool(promised[i] < calibration.measured_limit),
                    errors=round(float(errors) * once),
                    pairs=round(float(trials.sum()) * once),
                    ratio=None if lacks else float(ratios[i]),
                    low=low,
                    high=high,
                    lacks=lacks,
                )
            )
        return tuple(levels)

    def _spread(self, errors: NDArray[np.float64], trials: NDArray[np.float64], found: NDArray[np.float64]) -> NDArray[np.float64]:
        """The relative standard error of the ratio at each level, (levels,).

        Over the sampled people V = sum of (errors of a person - what is expected of his share of the trials)^2. The gallery's other side
        is a draw of people too: with R sampled of N faces, f of a person on average, the whole variance is V x (1 + 3 R f / N).
        """
        residuals = errors - np.outer(trials, found / trials.sum())
        _, person = np.unique(self.owners[self._chosen], return_inverse=True)
        people = np.zeros((int(person.max(initial=-1)) + 1, errors.shape[1]))
        np.add.at(people, person, residuals)
        n = max(len(people), 2)
        variance = (people**2).sum(axis=0) * n / (n - 1) * both_sides(trials, self.size)
        return np.asarray(np.sqrt(variance) / np.maximum(found, 1))


def once(sampled: int, size: int) -> float:
    """The share of the counts of `sampled` faces in a gallery of `size` that is left where a pair of two sampled faces counts once."""
    return 1 - (sampled - 1) / (2 * (size - 1))


def both_sides(trials: NDArray[Any], size: int) -> float:
    """How many times the variance over the sampled people is the whole one, from each face's comparisons: see `OwnScores._spread`."""
    return 1 + 3 * len(trials) * float(np.mean(size - trials)) / size


def mean_and_spread(counts: NDArray[np.int64]) -> tuple[float, float]:
    """Mean and standard deviation of the scores of a histogram (BINS,)."""
    centres, n = (EDGES[:-1] + EDGES[1:]) / 2, int(counts.sum())
    mean = float(counts @ centres) / n
    return mean, math.sqrt(max(float(counts @ centres**2) / n - mean**2, 0.0))


def _factor(level: Level) -> Factor:
    assert level.ratio is not None
    return Factor(level.ratio, level.low, level.high, level.similarity)


def _edge(score: float) -> int:
    """The first edge at or above a score."""
    return min(math.ceil((score + 1) * (BINS / 2) - 1e-9), BINS)
