"""What a score says for and against "the same person": likelihood ratios, and a candidate's posterior for a stated prior.

A likelihood ratio (LR) is how many times likelier a score is between two photographs of one person than between those of two. How
probable the person was before, the prior, is no matter of photographs: whoever states one has it shown beside each posterior.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Support:
    """What the ratios at n scores rest on: the ends of their 95 % intervals as natural logarithms, and pairs of one and of two people.

    Pairs are those of the step of equal ratios that a score lies in: (n,) each.
    """

    low: Floats
    high: Floats
    mated: NDArray[np.int64]
    non_mated: NDArray[np.int64]

    def is_sound(self, llr: Floats) -> bool:
        """Whether the interval's ends rise, hold the ratios, and numbers of pairs are numbers."""
        ends = bool(np.isfinite([self.low, self.high]).all() and (np.diff(self.low) >= 0).all() and (np.diff(self.high) >= 0).all())
        return ends and bool((self.low <= llr).all() and (llr <= self.high).all() and min(self.mated.min(), self.non_mated.min()) >= 0)


@dataclass(frozen=True, eq=False)
class Ratios:
    """Score -> natural logarithm of the likelihood ratio: `llr` (n,) never falls over the rising `scores` (n,).

    Its first and last value are the bounds: what the comparisons it was made from could not tell is not said. `support` is None where
    it was not computed, as in calibrations of before.
    """

    scores: Floats
    llr: Floats
    support: Support | None = None

    def at(self, scores: ArrayLike) -> Floats:
        """The log likelihood ratio of each score: between two scores of the data linear, beyond them that of the last."""
        return np.interp(np.asarray(scores, np.float64), self.scores, self.llr)

    def is_open(self, scores: ArrayLike) -> NDArray[np.bool_]:
        """Whether each score lies in a gap of the data, between two scores of it whose ratios differ by more than ten times."""
        asked = np.asarray(scores, np.float64)
        above = np.clip(np.searchsorted(self.scores, asked), 1, len(self.scores) - 1)
        is_inside = (self.scores[above - 1] < asked) & (asked < self.scores[above])
        return np.asarray(is_inside & (self.llr[above] - self.llr[above - 1] > math.log(10)), np.bool_)

    def ends(self, scores: ArrayLike) -> tuple[Floats, Floats]:
        """The ends of the interval of each score's log likelihood ratio; ValueError without `support`."""
        if self.support is None:
            raise ValueError("these likelihood ratios have no intervals")
        asked = np.asarray(scores, np.float64)
        return np.interp(asked, self.scores, self.support.low), np.interp(asked, self.scores, self.support.high)

    def pairs(self, scores: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """How many pairs of one and of two people each score's ratio rests on; between two steps the fewer of theirs."""
        if self.support is None:
            raise ValueError("these likelihood ratios have no intervals")
        above = np.clip(np.searchsorted(self.scores, scores), 0, len(self.scores) - 1)
        is_on = (self.scores[above] == scores) | (self.scores[0] > scores) | (self.scores[-1] < scores)
        below = np.where(is_on, above, above - 1)
        mated, non_mated = self.support.mated, self.support.non_mated
        return np.minimum(mated[below], mated[above]), np.minimum(non_mated[below], non_mated[above])

    def bounded(self, least: float, most: float) -> Ratios:
        """The same with no ratio (not its logarithm) below `least` or above `most`."""
        return Ratios(self.scores, np.clip(self.llr, math.log(least), math.log(most)))

    @property
    def is_rising(self) -> bool:
        """Whether scores rise, ratios never fall, and all of them are finite."""
        is_finite = bool(self.llr.size and np.isfinite(self.scores).all() and np.isfinite(self.llr).all())
        return is_finite and bool((np.diff(self.scores) > 0).all() and (np.diff(self.llr) >= 0).all())

    @property
    def is_sound(self) -> bool:
        """Whether they rise, and what they rest on fits them."""
        return self.is_rising and (self.support is None or self.support.is_sound(self.llr))

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
    `low` to `high` is its 95 % interval, `mated` and `non_mated` how many pairs of one and of two people it rests on; None where the
    calibration does not know. `posterior` is for the prior that was stated; None where none was.
    """

    ratio: float
    is_most: bool
    is_open: bool
    posterior: float | None
    low: float | None = None
    high: float | None = None
    mated: int | None = None
    non_mated: int | None = None


@dataclass(frozen=True, slots=True)
class Owners:
    """Of each candidate whose face it is, as any number that his other candidates have too, and that person's references, or more."""

    person: Sequence[int]
    faces: Sequence[int]


def posterior(prior: float, gallery_size: int, ratios: ArrayLike, missed: float = 0.0, owners: Owners | None = None) -> Floats:
    """The probability that each candidate is the person sought: P_j = (p/N) LR_j / ((1 - p) + p m + (p/N) sum_k LR_k).

    `prior` p is how probable it was before the search that the person is enrolled at all; `ratios` (n,) are the likelihood ratios
    (not their logarithms) of the candidates. `missed` m is the share of mated comparisons below what was answered (FNIR): what all the
    references that are no candidates say together, on average; 0 where `ratios` has every reference.

    With `owners` N counts people: LR_j is the mean of the ratios of all references of the person (of those that are no candidates 0), which
    no dependence among them makes too much, and P_j is the person's at each of his. Without, each reference counts as one of N.
    """
    if not 0 <= prior <= 1 or gallery_size < 1:
        raise ValueError("a posterior needs a prior of 0 to 1 and a gallery of at least one person")
    weights = prior / gallery_size * np.asarray(ratios, np.float64) / (np.asarray(owners.faces) if owners else 1)
    chances = np.asarray(weights / ((1 - prior) + prior * missed + weights.sum()), np.float64)
    if owners is None or not chances.size:
        return chances
    _, person = np.unique(owners.person, return_inverse=True)
    return np.asarray(np.bincount(person, chances)[person], np.float64)
