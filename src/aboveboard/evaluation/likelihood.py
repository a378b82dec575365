"""Likelihood ratios made from scores, and what they cost.

Ratios come as natural logarithms (llr). Pooling adjacent violators (PAV) makes them rise with the score. Methods: Bruemmer and du Preez,
"Application-independent evaluation of speaker detection", CSL 20, 2006.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize

from aboveboard.biometrics.evidence import Floats, Ratios


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
    return cllr_min_of_counts(*_counts(np.asarray(mated, np.float64), np.asarray(non_mated, np.float64))[1:])


def cllr_min_of_counts(is_mated: Floats, is_non_mated: Floats) -> float:
    """The same from how many mated and non-mated comparisons have each of the rising scores; (n,) each, no score without any."""
    llr = _pav(is_mated, is_non_mated)
    # A pooled step without mated or non-mated scores is infinite there, and weighs nothing on the other side.
    cost_mated = np.logaddexp(0, -llr, out=np.zeros(llr.size), where=is_mated > 0) @ is_mated / is_mated.sum()
    cost_non_mated = np.logaddexp(0, llr, out=np.zeros(llr.size), where=is_non_mated > 0) @ is_non_mated / is_non_mated.sum()
    return float((cost_mated + cost_non_mated) / (2 * math.log(2)))


def cllr_cal(mated_llr: ArrayLike, non_mated_llr: ArrayLike) -> float:
    """The part of the cost that calibration could spare: Cllr - Cllr_min."""
    return cllr(mated_llr, non_mated_llr) - cllr_min(mated_llr, non_mated_llr)


def ratios_of(mated: ArrayLike, non_mated: ArrayLike) -> Ratios:
    """PAV over mated and non-mated scores, with one score of each kind added beyond both ends (Laplace's rule of succession).

    So no ratio exceeds about the number of non-mated comparisons, nor falls below one over the number of mated ones: what was
    never seen among n comparisons is not said to be rarer than 1 in n. Where comparisons share people, n overstates what is known.
    """
    same, other = np.asarray(mated, np.float64), np.asarray(non_mated, np.float64)
    if not same.size or not other.size:
        raise ValueError("likelihood ratios need mated and non-mated scores")
    return ratios_of_counts(*_counts(same, other))


def ratios_of_counts(scores: Floats, is_mated: Floats, is_non_mated: Floats) -> Ratios:
    """The same from how many mated and non-mated comparisons have each of the rising scores; (n,) each."""
    ones = np.ones(1)
    llr = _pav(np.concatenate([ones, is_mated, ones]), np.concatenate([ones, is_non_mated, ones]))
    return Ratios(scores, llr[1:-1])


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
