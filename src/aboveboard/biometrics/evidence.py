"""What a score says for and against "the same person": likelihood ratios, and a candidate's posterior for a stated prior.

A likelihood ratio (LR) is how many times likelier a score is between two photographs of one person than between those of two. How
probable the person was before, the prior, is no matter of photographs: whoever states one has it shown beside each posterior.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Ratios:
    """Score -> natural logarithm of the likelihood ratio: `llr` (n,) never falls over the rising `scores` (n,).

    Its first and last value are the bounds: what the comparisons it was made from could not tell is not said.
    """

    scores: Floats
    llr: Floats

    def at(self, scores: ArrayLike) -> Floats:
        """The log likelihood ratio of each score: between two scores of the data linear, beyond them that of the last."""
        return np.interp(np.asarray(scores, np.float64), self.scores, self.llr)

    def is_open(self, scores: ArrayLike) -> NDArray[np.bool_]:
        """Whether each score lies in a gap of the data, between two scores of it whose ratios differ by more than ten times."""
        asked = np.asarray(scores, np.float64)
        above = np.clip(np.searchsorted(self.scores, asked), 1, len(self.scores) - 1)
        is_inside = (self.scores[above - 1] < asked) & (asked < self.scores[above])
        return np.asarray(is_inside & (self.llr[above] - self.llr[above - 1] > math.log(10)), np.bool_)

    def bounded(self, least: float, most: float) -> Ratios:
        """The same with no ratio (not its logarithm) below `least` or above `most`."""
        return Ratios(self.scores, np.clip(self.llr, math.log(least), math.log(most)))

    @property
    def is_rising(self) -> bool:
        """Whether scores rise, ratios never fall, and all of them are finite."""
        is_finite = bool(self.llr.size and np.isfinite(self.scores).all() and np.isfinite(self.llr).all())
        return is_finite and bool((np.diff(self.scores) > 0).all() and (np.diff(self.llr) >= 0).all())

    @property
    def least(self) -> float:
        """The lowest ratio that is ever said."""
        return math.exp(self.llr[0])

    @property
    def most(self) -> float:
        """The highest ratio that is ever said."""
        return math.exp(self.llr[-1])


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a candidate's score says: `ratio` is its likelihood ratio, `is_most` whether it is the bound, the highest that is ever said.

    `is_open`: no comparison of the calibration scored near it, so that the ratio is only interpolated, over more than ten times.
    `posterior` is for the prior that was stated; None where none was.
    """

    ratio: float
    is_most: bool
    is_open: bool
    posterior: float | None


def posterior(prior: float, gallery_size: int, ratios: ArrayLike, missed: float = 0.0) -> Floats:
    """The probability that each candidate is the person sought: P_j = (p/N) LR_j / ((1 - p) + p m + (p/N) sum_k LR_k).

    `prior` p is how probable it was before the search that the person is enrolled at all; `ratios` (n,) are the likelihood ratios
    (not their logarithms) of the candidates. `missed` m is the share of mated comparisons below what was answered (FNIR): what all the
    references that are no candidates say together, on average; 0 where `ratios` has every reference. Each reference counts as one of N:
    a person with several has a part at each, and where others have fewer, all of them together are more than his.
    """
    if not 0 <= prior <= 1 or gallery_size < 1:
        raise ValueError("a posterior needs a prior of 0 to 1 and a gallery of at least one person")
    weights = prior / gallery_size * np.asarray(ratios, np.float64)
    return np.asarray(weights / ((1 - prior) + prior * missed + weights.sum()), np.float64)
