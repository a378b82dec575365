"""Verification from a score file: FMR and FNMR at thresholds, for all pairs or for groups of pairs, with intervals from people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from aboveboard.evaluation import metrics, resampling
from aboveboard.evaluation.rates import Unmeasured
from aboveboard.evaluation.resampling import Drawn, Form, Weights
from aboveboard.evaluation.scores import Floats, Scores, least

TAIL_SHARE = 0.1
"""Share of the non-mated comparisons, from the highest down, at whose scores an FMR gets an interval."""
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Comparisons:
    """The mated and non-mated comparisons of a set of pairs; comparisons without a template are missed mated or no non-mated ones.

    `tail` are the non-mated scores from `floor` up, highest first, with their two photographs `tail_pairs` (t, 2); `size` counts all
    non-mated ones. `forms` add up to the whole set; None where pairs were listed: then the tail is whole. `mated` (m,) with their
    photographs (m, 2), NaN where one failed to enrol.
    """

    person: Ints
    tail: Floats
    tail_pairs: Ints
    size: int
    floor: float
    forms: tuple[Form, ...] | None
    mated: Floats
    mated_pairs: Ints

    def fmr(self, thresholds: Sequence[float], weights: Weights) -> Sequence[Drawn | Unmeasured]:
        """The FMR at each threshold, none below `floor`; thresholds rise."""
        if not self.size:
            return [Unmeasured("no non-mated comparison")] * len(thresholds)
        errors = [self.reaching(threshold) for threshold in thresholds]
        people = self.person[self.tail_pairs]
        drawn = resampling.counts(weights, people, errors[::-1])[:, ::-1]
        if self.forms is None:
            trials = resampling.counts(weights, people, [self.size])[:, 0]
        else:
            trials = np.sum([form.of(weights) for form in self.forms], axis=0)
        return [Drawn(count, self.size, drawn[:, k], trials) for k, count in enumerate(errors)]

    def fnmr(self, thresholds: Sequence[float], weights: Weights) -> Sequence[Drawn | Unmeasured]:
        """The FNMR at each threshold; a mated comparison without a template is a miss."""
        if not self.mated.size:
            return [Unmeasured("no mated comparison")] * len(thresholds)
        person, persons = self.person[self.mated_pairs[:, 0]], weights.shape[1]
        trials = weights @ np.bincount(person, minlength=persons)
        found = []
        for threshold in thresholds:
            missed = ~(self.mated >= least(threshold))
            drawn = weights @ np.bincount(person[missed], minlength=persons)
            found.append(Drawn(int(missed.sum()), self.mated.size, drawn, trials))
        return found

    def reaching(self, threshold: float) -> int:
        """How many non-mated comparisons reach a threshold; below `floor` raises ValueError."""
        if threshold < self.floor:
            raise ValueError(f"only scores from {self.floor} up were kept one by one")
        return int(np.searchsorted(-self.tail, -least(threshold), side="right"))


@dataclass(frozen=True, eq=False)
class Verification:
    """All comparisons of a score file: `whole`, every non-mated score in `rising`, and the groups of pairs by `group`."""

    scores: Scores
    rising: Floats
    whole: Comparisons

    def threshold_for(self, rate: float) -> float | None:
        """The lowest threshold with an FMR of at most `rate`, to six digits; None where the scores do not reach so low."""
        allowed = int(np.floor(rate * self.rising.size * (1 + 1e-12)))
        if allowed >= self.rising.size or not np.isfinite(self.rising[-1 - allowed]):
            return None
        return resampling.up(metrics.threshold_for(self.rising[::-1], rate * self.rising.size))

    def group(self, column: str, one: str, other: str) -> Comparisons:
        """The pairs between two groups of a label column, or within one where both names are the same; the order does not matter."""
        values, whole = self.scores.labels[column], self.whole
        left, right = values == one, values == other

        def between(pairs: Ints) -> NDArray[np.bool_]:
            first, second = pairs.T
            chosen: NDArray[np.bool_] = (left[first] & right[second]) | (right[first] & left[second])
            return chosen

        in_tail, in_mated = between(whole.tail_pairs), between(whole.mated_pairs)
        forms = None if whole.forms is None else tuple(_forms(self.scores, left, right))
        ones = np.ones((1, self.scores.people.size))
        size = int(in_tail.sum()) if forms is None else round(sum(float(form.of(ones)[0]) for form in forms))
        return replace(
            whole,
            tail=whole.tail[in_tail],
            tail_pairs=whole.tail_pairs[in_tail],
            size=size,
            forms=forms,
            mated=whole.mated[in_mated],
            mated_pairs=whole.mated_pairs[in_mated],
        )


def verification(scores: Scores, lowest: Sequence[float] = ()) -> Verification | None:
    """The comparisons of a score file: its listed pairs, else all; None where it has none. `lowest` thresholds must be countable."""
    if scores.pair_scores is not None and scores.pairs is not None:
        pairs = scores.pairs.astype(np.int64)
        same = scores.person[pairs[:, 0]] == scores.person[pairs[:, 1]]
        cut = _cut(scores.pair_scores, np.flatnonzero(same), [-np.inf])
        return _verification(scores, cut, pairs[cut.which], None, scores.pair_scores[same], pairs[same])
    flat = scores.cross.ravel() if scores.cross is not None else scores.all_pairs
    if flat is None:
        return None
    n, enrolled = scores.photograph.size, int(scores.enrolled.sum())
    if scores.cross is not None:
        mated = np.concatenate([np.empty((0, 2), np.int64), *_mated_across(scores.person, enrolled)])
        at = (mated[:, 0] - enrolled) * enrolled + mated[:, 1]
    else:
        starts = np.concatenate([[0], np.cumsum(np.arange(n - 1, 0, -1))]).astype(np.int64)
        mated = np.concatenate([np.empty((0, 2), np.int64), *_mated_among(scores.person)])
        at = starts[mated[:, 0]] + mated[:, 1] - mated[:, 0] - 1
    cut = _cut(flat, at, lowest)
    if scores.cross is not None:
        pairs = np.stack([cut.which // enrolled + enrolled, cut.which % enrolled], axis=1)
    else:
        first = np.searchsorted(starts, cut.which, side="right") - 1
        pairs = np.stack([first, cut.which - starts[first] + first + 1], axis=1)
    everybody = np.ones(n, np.bool_)
    return _verification(scores, cut, pairs, tuple(_forms(scores, everybody, everybody)), flat[at], mated)


@dataclass(frozen=True, eq=False)
class _Cut:
    """Non-mated scores `rising`; those from `floor` up, falling, and where in the flat array they are."""

    rising: Floats
    floor: float
    tail: Floats
    which: Ints


def _cut(flat: Floats, mated: Ints, lowest: Sequence[float]) -> _Cut:
    non_mated = ~np.isnan(flat)
    non_mated[mated] = False
    rising = np.sort(flat[non_mated])
    floor = min([float(rising[-max(1, int(TAIL_SHARE * rising.size))]), *lowest]) if rising.size else -np.inf
    which = np.flatnonzero(non_mated & (flat >= least(floor)) if np.isfinite(floor) else non_mated)
    order = np.argsort(-flat[which], kind="stable")
    return _Cut(rising, floor, flat[which][order], which[order])


def _verification(scores: Scores, cut: _Cut, pairs: Ints, forms: tuple[Form, ...] | None, mated: Floats, mated_pairs: Ints) -> Verification:
    whole = Comparisons(scores.person, cut.tail, pairs, cut.rising.size, cut.floor, forms, mated, mated_pairs)
    return Verification(scores, cut.rising, whole)


def _mated_among(person: Ints) -> Iterator[Ints]:
    for i in range(person.size - 1):
        same = np.flatnonzero(person[i + 1 :] == person[i])
        if same.size:
            yield np.stack([np.full(same.size, i), same + i + 1], axis=1)


def _mated_across(person: Ints, enrolled: int) -> Iterator[Ints]:
    for i in range(enrolled, person.size):
        same = np.flatnonzero(person[:enrolled] == person[i])
        if same.size:
            yield np.stack([np.full(same.size, i), same], axis=1)


def _forms(scores: Scores, left: NDArray[np.bool_], right: NDArray[np.bool_]) -> Iterator[Form]:
    """The pairs between photographs `left` and `right` as products; the two are the same, or have none in common."""

    def sizes(chosen: NDArray[np.bool_]) -> Weights:
        return np.bincount(scores.person[chosen & scores.template], minlength=scores.people.size).astype(np.float64)

    is_within = bool(np.array_equal(left, right))
    if scores.cross is None:
        yield Form(0.5 if is_within else 1.0, sizes(left), sizes(right))
        return
    yield Form(1.0, sizes(left & ~scores.enrolled), sizes(right & scores.enrolled))
    if not is_within:
        yield Form(1.0, sizes(right & ~scores.enrolled), sizes(left & scores.enrolled))


def groups(scores: Scores) -> Mapping[str, list[str]]:
    """The groups of each label column, by name; photographs without a label are in none."""
    return {column: [str(value) for value in np.unique(values) if value] for column, values in scores.labels.items()}
