"""What a score says for and against "the same person": likelihood ratios, their calibration cost, and a candidate's posterior.

Ratios come as natural logarithms (llr). Pooling adjacent violators (PAV) makes them rise with the score. Methods: Bruemmer and du Preez,
"Application-independent evaluation of speaker detection", CSL 20, 2006.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize

Floats = NDArray[np.float64]


def cllr(mated_llr: ArrayLike, non_mated_llr: ArrayLike) -> float:
    """The cost of log likelihood ratios in bits: (mean log2(1 + 1/LR) of mated + mean log2(1 + LR) of non-mated) / 2.

    0 is perfect, 1 is what a system costs that always says LR = 1; above 1 it misleads.
    """
    mated, non_mated = np.asarray(mated_llr, np.float64), np.asarray(non_mated_llr, np.float64)
    if not mated.size or not non_mated.size:
        raise ValueError("Cllr needs mated and non-mated comparisons")
    return float((np.logaddexp(0, -mated).mean() + np.logaddexp(0, non_mated).mean()) / (2 * math.log(2)))


def cllr_min(mated: ArrayLike, non_mated: ArrayLike) -> float:
    """The Cllr that remains when the scores (or llrs) are calibrated as well as can be (PAV on themselves): what they cannot tell."""
    scores, is_mated, is_non_mated = _counts(np.asarray(mated, np.float64), np.asarray(non_mated, np.float64))
    llr = _pav(is_mated, is_non_mated)
    # A pooled step without mated or non-mated scores is infinite there, and weighs nothing on the other side.
    cost_mated = np.logaddexp(0, -llr, out=np.zeros(scores.size), where=is_mated > 0) @ is_mated / is_mated.sum()
    cost_non_mated = np.logaddexp(0, llr, out=np.zeros(scores.size), where=is_non_mated > 0) @ is_non_mated / is_non_mated.sum()
    return float((cost_mated + cost_non_mated) / (2 * math.log(2)))


def cllr_cal(mated_llr: ArrayLike, non_mated_llr: ArrayLike) -> float:
    """The part of the cost that calibration could spare: Cllr - Cllr_min."""
    return cllr(mated_llr, non_mated_llr) - cllr_min(mated_llr, non_mated_llr)


@dataclass(frozen=True, eq=False)
class Ratios:
    """Score -> log likelihood ratio: `llr` (n,) never falls over the rising `scores` (n,), and ends where the data end."""

    scores: Floats
    llr: Floats

    @staticmethod
    def of(mated: ArrayLike, non_mated: ArrayLike) -> Ratios:
        """PAV over mated and non-mated scores, with one score of each kind added beyond both ends (Laplace's rule of succession).

        So no ratio exceeds about the number of non-mated comparisons, nor falls below one over the number of mated ones: what was
        never seen among n comparisons is not said to be rarer than 1 in n. Where comparisons share people, n overstates what is known.
        """
        same, other = np.asarray(mated, np.float64), np.asarray(non_mated, np.float64)
        if not same.size or not other.size:
            raise ValueError("likelihood ratios need mated and non-mated scores")
        scores, is_mated, is_non_mated = _counts(same, other)
        ones = np.ones(1)
        llr = _pav(np.concatenate([ones, is_mated, ones]), np.concatenate([ones, is_non_mated, ones]))
        return Ratios(scores, llr[1:-1])

    def at(self, scores: ArrayLike) -> Floats:
        """The log likelihood ratio of each score: between two scores of the data linear, beyond them that of the last."""
        return np.interp(np.asarray(scores, np.float64), self.scores, self.llr)


def posterior(prior: float, gallery_size: int, ratios: ArrayLike) -> Floats:
    """The probability that each candidate is the person sought: P_j = (p/N) LR_j / ((1 - p) + (p/N) sum_k LR_k).

    `prior` p is how probable it was before the search that the person is enrolled at all; `ratios` (n,) are the likelihood ratios
    (not their logarithms) of the candidates, and of every reference that is not among them if it says anything.
    """
    if not 0 <= prior <= 1 or gallery_size < 1:
        raise ValueError("a posterior needs a prior of 0 to 1 and a gallery of at least one person")
    weights = prior / gallery_size * np.asarray(ratios, np.float64)
    return np.asarray(weights / ((1 - prior) + weights.sum()), np.float64)


def _counts(mated: Floats, non_mated: Floats) -> tuple[Floats, Floats, Floats]:
    """Every different score, rising, with how many mated and non-mated comparisons have it."""
    scores, place = np.unique(np.concatenate([mated, non_mated]), return_inverse=True)
    is_mated = np.bincount(place[: mated.size], minlength=scores.size).astype(np.float64)
    return scores, is_mated, np.bincount(place[mated.size :], minlength=scores.size).astype(np.float64)


def _pav(is_mated: Floats, is_non_mated: Floats) -> Floats:
    """The rising llr of each step from its counts; infinite where a pooled step has one kind only."""
    together = is_mated + is_non_mated
    share = optimize.isotonic_regression(is_mated / together, weights=together).x
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(share) - np.log1p(-share) - np.log(is_mated.sum() / is_non_mated.sum()), np.float64)
