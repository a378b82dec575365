"""Intervals from resampling people: each draw takes as many persons as there are, with replacement, on both sides of a comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from aboveboard.evaluation.metrics import interval
from aboveboard.evaluation.rates import Rate, bound_without_errors

Weights = NDArray[np.float64]
PEOPLE = "people resampled"
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
    """How often each person is drawn, (draws, persons); the same for the same seed."""
    return np.random.default_rng(seed).multinomial(persons, np.full(persons, 1 / persons), size=draws).astype(np.float64)


def counts(weights: Weights, people: NDArray[np.int64], ends: Sequence[int]) -> Weights:
    """Weighted numbers of the first `ends[k]` of `people` (t, 2), a pair of i and j weighing w_i x w_j: (draws, k); `ends` rise.

    Pairs of the same two persons are taken together first, so that a draw costs a sparse product and no pass over all pairs.
    """
    by_person = np.ascontiguousarray(weights.T)
    sums, start, total = [], 0, np.zeros(len(weights))
    for end in ends:
        if end > start:
            rows, left = np.unique(people[start:end, 0], return_inverse=True)
            ones = np.ones(end - start)
            pairs = sparse.csr_array((ones, (left, people[start:end, 1])), shape=(rows.size, len(by_person)))
            total = total + np.einsum("sd,sd->d", by_person[rows], pairs @ by_person)
            start = end
        sums.append(total)
    return np.stack(sums, axis=1) if sums else np.empty((len(weights), 0))


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
