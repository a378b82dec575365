"""Intervals from resampling people: each draw takes as many persons as there are, with replacement, on both sides of a comparison."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from aboveboard.errors import BadRequest
from aboveboard.evaluation.metrics import interval
from aboveboard.evaluation.rates import Rate, bound_without_errors

Weights = NDArray[np.float64]
MOST_WEIGHTS = 250_000_000
PEOPLE = "people resampled"
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


def draw(persons: int, draws: int, seed: int) -> Weights:
    """How often each person is drawn, (draws, persons); the same for the same seed. Raises BadRequest where that is too much to hold."""
    if persons * draws > MOST_WEIGHTS:
        raise BadRequest(f"{draws:,} draws of {persons:,} people do not fit into memory; at most {MOST_WEIGHTS // persons:,} draws do")
    return np.random.default_rng(seed).multinomial(persons, np.full(persons, 1 / persons), size=draws).astype(np.float64)


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


def rate(errors: int, trials: int, errors_drawn: Weights, trials_drawn: Weights) -> Rate:
    """A rate with its 95 % percentile interval over draws (draws,); draws without a trial say nothing.

    No error at all is no error in every draw: then the rule of 3 bounds the rate, and pairs that share people make it optimistic.
    """
    if not errors:
        return Rate(0, trials, 0.0, 0.0, bound_without_errors(trials), INDEPENDENT)
    tried = trials_drawn > 0
    low, high = interval(errors_drawn[tried] / trials_drawn[tried])
    return Rate(errors, trials, errors / trials, low, high, PEOPLE)


def up(threshold: float) -> float:
    """A threshold as it stands in tables: to six digits after the point, rounded up, so that it still keeps its promise."""
    return math.ceil(threshold * 1e6) / 1e6
