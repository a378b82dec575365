"""Intervals from resampling people: each draw takes as many persons as there are, with replacement, on both sides of a comparison."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from aboveboard.errors import BadRequest
from aboveboard.evaluation.metrics import interval
from aboveboard.evaluation.rates import WILSON, Found, Rate, Unmeasured, wilson

Weights = NDArray[np.float64]
MOST_WEIGHTS = 250_000_000
PEOPLE, BOTH_SIDES = "people resampled", "people resampled on both sides"
NOBODY, SEVERAL = -1, -2
_BLOCK = 10_000_000
"""Weights of so many persons and draws are worked on at once: 80 MB, and twice that beside it."""
INDEPENDENT = "rule of 3, as if trials were independent"


@dataclass(frozen=True, eq=False)
class Form:
    """A whole set of pairs as a product: `factor` times every photograph of one side with every one of the other, per person counted."""

    factor: float
    left: Weights
    right: Weights

    def of(self, weights: Weights) -> Weights:
        """The weighted number of its pairs of two different persons, (draws,) for (draws, persons)."""
        both = (weights @ self.left) * (weights @ self.right)
        return np.asarray(self.factor * (both - np.square(weights) @ (self.left * self.right)))


def draw(persons: int, draws: int, seed: int, told: int | None = None) -> Weights:
    """How often each person is drawn, (draws, persons); of only the first `told` of them (draws, told), the rest being drawn as one.

    The same for the same seed. Raises BadRequest where that is too much to hold.
    """
    told = persons if told is None else told
    if told * draws > MOST_WEIGHTS:
        raise BadRequest(f"{draws:,} draws of {told:,} people do not fit into memory; at most {MOST_WEIGHTS // told:,} draws do")
    shares = np.append(np.full(told, 1 / persons), [(persons - told) / persons] * (told < persons))
    return np.random.default_rng(seed).multinomial(persons, shares, size=draws)[:, :told].astype(np.float64)


def counts(weights: Weights, people: NDArray[np.int64], ends: Sequence[int]) -> Weights:
    """Weighted numbers of the first `ends[k]` of `people` (t, 2), a pair of i and j weighing w_i x w_j: (draws, k); `ends` rise.

    Pairs of the same two persons are taken together first, so that a draw costs a sparse product and no pass over all pairs.
    """
    draws, persons = weights.shape
    steps = []
    for start, end in itertools.pairwise([0, *ends]):
        rows, left = np.unique(people[start:end, 0], return_inverse=True)
        steps.append((rows, sparse.csr_array((np.ones(end - start), (left, people[start:end, 1])), shape=(rows.size, persons))))
    sums = np.empty((draws, len(steps)))
    block = max(1, _BLOCK // persons)
    for first in range(0, draws, block):
        by_person = np.ascontiguousarray(weights[first : first + block].T)
        for k, (rows, pairs) in enumerate(steps):
            sums[first : first + block, k] = np.einsum("sd,sd->d", by_person[rows], pairs @ by_person)
    return np.cumsum(sums, axis=1)


@dataclass(frozen=True, eq=False)
class Drawn:
    """A rate as counted, and its weighted errors and trials in each draw of people (draws,).

    `is_once`: every trial is another person's. `both_sides`: those who were compared with them were drawn too, where a trial has such.
    """

    errors: int
    trials: int
    errors_drawn: Weights
    trials_drawn: Weights
    is_once: bool = False
    both_sides: bool = False

    @property
    def rate(self) -> Rate:
        """The rate with its 95 % percentile interval over draws; draws without a trial say nothing.

        Where every trial is another person's it is Wilson's; if both sides were drawn, for as many independent trials as would scatter as
        much as the draws do, at most those that there were (Kish's design effect). No error at all is no error in every draw: then the rule
        of 3 bounds the rate, and pairs that share people make it optimistic.
        """
        found = Rate.of(self.errors, self.trials)
        if self.is_once and not (self.both_sides and self.errors):
            return found
        if not self.errors:
            return replace(found, method=INDEPENDENT)
        shares = self.shares[self.trials_drawn > 0]
        if self.is_once:
            scatter, binomial = float(np.var(shares)), found.value * (1 - found.value)
            trials = min(self.trials, binomial / scatter) if scatter and binomial else self.trials
            low, high = wilson(found.value * trials, trials)
            return replace(found, low=low, high=high, method=f"{WILSON}, {BOTH_SIDES}")
        low, high = interval(shares)
        return replace(found, low=low, high=high, method=BOTH_SIDES if self.both_sides else PEOPLE)

    @property
    def shares(self) -> Weights:
        """The rate in each draw, NaN where it has no trial."""
        shares: Weights = np.full(self.trials_drawn.shape, np.nan)
        np.divide(self.errors_drawn, self.trials_drawn, out=shares, where=self.trials_drawn > 0)
        return shares


def searched(weights: Weights, person: NDArray[np.int64], culprit: NDArray[np.int64], persons: int | None = None) -> Drawn:
    """The FPIR of searches for people who are not enrolled, with both the people searched for and those enrolled drawn anew.

    `person` (p,) is who was searched for, `culprit` (p,) whose photographs came up: a person, `NOBODY` or `SEVERAL`.
    `persons`: how many there are, where `weights` has not all of them.

    The best candidate is a maximum over the gallery, and a draw leaves out a third of it: to look for the best one again would make every
    FPIR smaller. So each search keeps what it found, as many times as its person is drawn; what rests on a single enrolled person counts
    besides as many times as that one is drawn, what several make stands without any of them. That is the jackknife's influence of each
    enrolled person (Efron 1982) inside a bootstrap; its mean is the FPIR that was found.
    """
    told, alone, several = weights.shape[1], culprit >= 0, culprit == SEVERAL
    persons = told if persons is None else persons
    pairs = np.stack([person[alone], culprit[alone]], axis=1)
    # Two different people are drawn together a little more rarely than once: E(w_i w_j) = 1 - 1/n.
    errors = counts(weights, pairs, [len(pairs)])[:, 0] * persons / max(persons - 1, 1)
    errors += weights @ np.bincount(person[several], minlength=told)
    each = np.bincount(person, minlength=told)
    trials = weights @ each
    is_once = bool(each.max() == 1)
    return Drawn(int((alone | several).sum()), person.size, np.minimum(errors, trials), trials, is_once, both_sides=True)


def rate_of(drawn: Drawn | Unmeasured) -> Found:
    """The rate of what was drawn, or that there is none."""
    return drawn if isinstance(drawn, Unmeasured) else drawn.rate


def up(threshold: float) -> float:
    """A threshold as it stands in tables: to six digits after the point, rounded up, so that it still keeps its promise."""
    return math.ceil(threshold * 1e6) / 1e6
