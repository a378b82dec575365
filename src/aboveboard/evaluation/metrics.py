"""Error rates from comparison scores: fmr, fnmr, thresholds, intervals; every threshold is inclusive (score >= threshold).

Vocabulary and rules follow ISO/IEC 19795-1:2021. Pairs share people, so that intervals come from resampling people
(`Resampling`); what holds for independent trials only is in `rates`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

Scores = NDArray[np.float64]
Counts = NDArray[np.int64]

BINS = 20_000
_EDGES = np.linspace(-1.0, 1.0, BINS + 1)
CENTRES = (_EDGES[:-1] + _EDGES[1:]) / 2


def fmr(non_mated: Scores, threshold: float) -> float:
    """False match rate: the share of non-mated comparisons at or above the threshold."""
    return float(np.mean(non_mated >= threshold))


def fnmr(mated: Scores, threshold: float, missed: int = 0) -> float:
    """False non-match rate: the share of mated comparisons below the threshold; `missed` more failed before they had a score."""
    return (int(np.count_nonzero(mated < threshold)) + missed) / (mated.size + missed)


def threshold_for(falling: NDArray[np.floating], errors: float) -> float:
    """The lowest threshold that at most `errors` of the scores reach; `falling` are the highest scores, highest first.

    Raises ValueError where fewer scores were kept than may err: the threshold then lies below them.
    """
    allowed = math.floor(errors * (1 + 1e-12))
    if allowed >= falling.size:
        raise ValueError(f"{falling.size} scores cannot tell the threshold of {allowed} errors; keep more of the tail")
    return float(np.nextafter(falling[allowed], np.inf))


@dataclass(frozen=True)
class Pairs:
    """All comparisons among n templates: every mated score, the highest non-mated scores, and the rest as counts.

    `subject` (n,) of each template; `mated` (m,) with `mated_subject`; `tail` (t,) falling, with the two templates of each pair
    (t, 2); `counts` of all non-mated scores in `BINS` equal bins over [-1, 1]; per subject: `sizes` templates, `missed` mated
    comparisons for want of a template.
    """

    subject: Counts

    mated: Scores
    mated_subject: Counts
    tail: Scores
    tail_templates: Counts
    counts: Counts
    sizes: Counts
    missed: Counts

    @property
    def non_mated_size(self) -> int:
        return int(self.counts.sum())

    @property
    def mated_size(self) -> int:
        return self.mated.size + int(self.missed.sum())

    def errors_at(self, threshold: float) -> int:
        """How many non-mated comparisons reach the threshold; below the kept tail by whole bins."""
        if self.tail.size and threshold >= self.tail[-1]:
            return int(np.searchsorted(-self.tail, -threshold, side="right"))
        return int(self.counts[np.searchsorted(_EDGES[:-1], threshold) :].sum())

    def fmr_at(self, threshold: float) -> float:
        return self.errors_at(threshold) / self.non_mated_size

    def tar_at(self, threshold: float) -> float:
        """True accept rate: 1 - fnmr, with the missed comparisons as misses."""
        return 1 - fnmr(self.mated, threshold, int(self.missed.sum()))

    def tar_by_person_at(self, threshold: float) -> float:
        """The mean of every person's own true accept rate, so that those with many photographs do not outvote the rest."""
        all_of = self.mated_of_person
        return float(np.mean(self.accepted_of_person(threshold)[all_of > 0] / all_of[all_of > 0]))

    @property
    def mated_of_person(self) -> Counts:
        """Mated comparisons of each person, the missed ones too."""
        return self.sizes * (self.sizes - 1) // 2 + self.missed

    def accepted_of_person(self, threshold: float) -> Counts:
        """Mated comparisons of each person that reach the threshold."""
        return np.bincount(self.mated_subject[self.mated >= threshold], minlength=self.sizes.size)

    def threshold_for(self, rate: float) -> float:
        """The lowest threshold with an FMR of at most `rate`; outside the kept tail to within a bin of 1e-4."""
        errors = rate * self.non_mated_size
        if math.floor(errors * (1 + 1e-12)) < self.tail.size:
            return threshold_for(self.tail, errors)
        reaching = np.cumsum(self.counts[::-1])[::-1]
        return float(_EDGES[np.searchsorted(-reaching, -errors, side="left")])


def all_pairs(
    features: NDArray[np.float32], subjects: Sequence[int], missed: Sequence[int] = (), keep: float = 1e-2, least: int = 1_000_000
) -> Pairs:
    """Compare every two of n unit templates (n, d) once; `subjects` (n,) number the persons from 0, `missed` is as in `Pairs`.

    Of the non-mated scores the highest `keep` share, and at least `least`, are kept whole. Memory is some 100 MB however large
    n is: the scores pass twice in blocks, first to be counted, then to be kept.
    """
    subject = np.asarray(subjects, dtype=np.int64)
    counts = np.zeros(BINS, np.int64)
    mated: list[Scores] = []
    mated_subject: list[Counts] = []
    for scores, row, column in _blocks(features):
        same = subject[row] == subject[column]
        mated.append(scores[same])
        mated_subject.append(subject[row][same])
        counts += binned(scores[~same])
    reaching = np.cumsum(counts[::-1])[::-1]
    wanted = min(max(math.ceil(keep * counts.sum()), least), int(counts.sum()))
    floor = np.flatnonzero(reaching >= wanted)[-1] if wanted else BINS
    tails: list[Scores] = []
    tail_templates: list[Counts] = []
    for scores, row, column in _blocks(features):
        kept = (_bin(scores) >= floor) & (subject[row] != subject[column])
        tails.append(scores[kept])
        tail_templates.append(np.stack([row[kept], column[kept]], axis=1))
    tail = np.concatenate([np.empty(0), *tails])
    order = np.argsort(-tail, kind="stable")
    return Pairs(
        subject=subject,
        mated=np.concatenate([np.empty(0), *mated]),
        mated_subject=np.concatenate([np.empty(0, np.int64), *mated_subject]),
        tail=tail[order],
        tail_templates=np.concatenate([np.empty((0, 2), np.int64), *tail_templates])[order],
        counts=counts,
        sizes=np.bincount(subject, minlength=len(missed)),
        missed=np.asarray(missed, np.int64) if len(missed) else np.zeros(int(subject.max(initial=-1)) + 1, np.int64),
    )


def binned(scores: Scores) -> Counts:
    """How many of the scores lie in each of the `BINS` bins."""
    return np.bincount(_bin(scores), minlength=BINS)


def _bin(scores: Scores) -> Counts:
    return np.clip(((scores + 1) * (BINS / 2)).astype(np.int64), 0, BINS - 1)


def _blocks(features: NDArray[np.float32], rows: int = 256) -> Iterator[tuple[Scores, Counts, Counts]]:
    """Scores of each pair i < j with i and j, in blocks of at most rows x n. float64: a pair scores the same in every block."""
    exact = features.astype(np.float64)
    for start in range(0, len(exact), rows):
        block = np.clip(exact[start : start + rows] @ exact[start:].T, -1.0, 1.0)
        row, column = np.triu_indices(block.shape[0], 1, block.shape[1])
        yield block[row, column], row + start, column + start


@dataclass(frozen=True)
class Resampling:
    """Bootstrap over people: each draw takes as many persons as there are, with replacement, on both sides of a comparison.

    A non-mated pair weighs w_i x w_j and a mated pair w_i, w being how often a person was drawn; `weights` is (draws, persons).
    Denominators are exact sums over all pairs, kept in the tail or not.
    """

    pairs: Pairs
    weights: NDArray[np.int64] | NDArray[np.float64]

    @staticmethod
    def of(pairs: Pairs, draws: int = 1000, seed: int = 0) -> Resampling:
        """`draws` resamplings of the persons of `pairs`; the same for the same seed."""
        persons = pairs.sizes.size
        return Resampling(pairs, np.random.default_rng(seed).multinomial(persons, np.full(persons, 1 / persons), size=draws))

    def totals(self) -> tuple[Scores, Scores]:
        """Weighted numbers of non-mated and mated comparisons of each draw."""
        sizes = self.pairs.sizes
        weighted = (self.weights * sizes).astype(np.float64)
        non_mated = (weighted.sum(axis=1) ** 2 - (weighted**2).sum(axis=1)) / 2
        return non_mated, (self.weights @ self.pairs.mated_of_person).astype(np.float64)

    def tail_weights(self, size: int | None = None) -> Iterator[Scores]:
        """Of each draw the weights of the `size` highest non-mated pairs (all that were kept, by default)."""
        first, second = self.pairs.subject[self.pairs.tail_templates[:size]].T
        for weight in self.weights.astype(np.float64):
            yield weight[first] * weight[second]

    def binned(self) -> Iterator[tuple[Scores, Scores]]:
        """Of each draw how many mated and how many non-mated comparisons lie in each of the `BINS` bins.

        Below the kept tail a draw's comparisons lie as all of them do: there are so many that people hardly change their shares.
        """
        rows = _bin(self.pairs.tail)
        rest = np.maximum(self.pairs.counts - np.bincount(rows, minlength=BINS), 0).astype(np.float64)
        share = rest / max(rest.sum(), 1.0)
        for mated, weight, total in zip(self.mated_binned(), self.tail_weights(), self.totals()[0], strict=True):
            tail = np.bincount(rows, weight, BINS)
            yield mated, tail + max(total - tail.sum(), 0.0) * share

    def mated_binned(self) -> Iterator[Scores]:
        """Of each draw how many mated comparisons lie in each bin."""
        rows, subject = _bin(self.pairs.mated), self.pairs.mated_subject
        return (np.bincount(rows, weight[subject], BINS).astype(np.float64) for weight in self.weights)

    def thresholds(self, rate: float) -> Scores:
        """The threshold of an FMR in each draw, (draws,); the lowest score kept where the tail is too short for it."""
        # A draw's errors scatter about their mean; ten times as many pairs are never short of it by more than a hair.
        size = min(self.pairs.tail.size, int(10 * rate * self.pairs.non_mated_size) + 1000)
        at = [
            int(np.searchsorted(np.cumsum(weight), rate * total, side="right"))
            for weight, total in zip(self.tail_weights(size), self.totals()[0], strict=True)
        ]
        return self.pairs.tail[np.minimum(at, size - 1)]

    def fmr_at(self, thresholds: Sequence[float]) -> Scores:
        """The FMR at each threshold in each draw, (draws, thresholds); thresholds below the kept tail raise ValueError."""
        sizes = [int(np.searchsorted(-self.pairs.tail, -threshold, side="right")) for threshold in thresholds]
        longest = max(sizes, default=0)
        if longest == self.pairs.tail.size < self.pairs.non_mated_size:
            raise ValueError("the threshold lies below the kept tail; keep more of it")
        sums = [np.append(0.0, np.cumsum(weight))[sizes] for weight in self.tail_weights(longest)]
        return np.array(sums).reshape(len(self.weights), len(sizes)) / self.totals()[0][:, None]

    def tar_at(self, thresholds: Sequence[float]) -> Scores:
        """The TAR at each threshold in each draw, (draws, thresholds)."""
        accepted = np.stack([self.pairs.accepted_of_person(threshold) for threshold in thresholds], axis=1)
        return (self.weights @ accepted) / np.maximum(self.totals()[1][:, None], 1)


def interval(draws: Scores, level: float = 0.95) -> tuple[float, float]:
    """The percentile interval of a bootstrap's draws (n,)."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Tail:
    """A generalised Pareto tail: FMR(s) = share x (1 + shape (s - floor) / scale)^(-1/shape) for scores s above `floor`."""

    floor: float
    share: float
    shape: float
    scale: float
    exceedances: int

    def score_at(self, fmr: float) -> float:
        """The score of an FMR below `share`."""
        decay = math.log(self.share / fmr)
        return self.floor + self.scale * (decay if abs(self.shape) < 1e-9 else math.expm1(self.shape * decay) / self.shape)

    def fmr_at(self, score: float) -> float:
        """The FMR at a score above `floor`; 0 beyond the end of a tail that has one (shape < 0)."""
        excess = max(score - self.floor, 0.0) / self.scale
        if abs(self.shape) < 1e-9:
            return self.share * math.exp(-excess)
        inside = 1 + self.shape * excess
        return self.share * inside ** (-1 / self.shape) if inside > 0 else 0.0


def fit_tail(falling: Scores, share: float, weights: Scores | None = None) -> Tail:
    """The maximum likelihood tail above the lowest of `falling` scores, which `share` of all comparisons exceed.

    The likelihood is profiled to one parameter, shape/scale (Grimshaw, Technometrics 35, 1993); shapes are sought from -0.9 to 1.
    """
    floor, excess = float(falling[-1]), falling[:-1] - falling[-1]
    weight = np.ones(excess.size) if weights is None else weights[:-1]
    total, top = float(weight.sum()), float(excess.max(initial=0.0))
    if total == 0 or top == 0:
        raise ValueError("a tail needs different scores above its floor")
    mean = float(weight @ excess) / total

    def profile(ratio: float) -> tuple[float, float, float]:
        """Negative log likelihood per score, shape and scale for shape/scale = ratio."""
        if abs(ratio) * top < 1e-7:
            return math.log(mean) + 1, 0.0, mean
        shape = float(weight @ np.log1p(ratio * excess)) / total
        return math.log(shape / ratio) + shape + 1, min(max(shape, -0.9), 1.0), shape / ratio

    # Beyond shape -1 the likelihood has no maximum: the search stops short of the ratio at which the highest score would end the tail.
    found = optimize.minimize_scalar(
        lambda x: profile(x)[0], bounds=(-0.98 / top, 5 / mean), method="bounded", options={"xatol": 1e-7 / top}
    )
    _, shape, scale = profile(float(found.x))
    return Tail(floor, share, shape, scale, int(excess.size))
