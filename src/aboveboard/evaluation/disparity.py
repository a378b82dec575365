"""How far apart the error rates of groups lie: NIST's, Howard's and Idiap's figures over one rate a group.

Each is a plain function of the groups' rates (n,). A group without an error has no rate to divide by: `comparable` takes the upper end
of its Wilson interval instead and says so. FDR of small false match rates is near 1 whatever happens: never the headline figure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aboveboard.evaluation.rates import Rate, difference, wilson

Standing = Literal["insufficient", "apart", "not told apart"]
"""`apart`: 0 lies outside the interval of the difference between the highest and the lowest rate. Else `insufficient` where some
group has fewer than 30 errors, so that nothing follows from it; only with more may two groups be called `not told apart`."""


def _rates(rates: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(rates, dtype=np.float64)
    if values.ndim != 1 or values.size < 2 or not (values >= 0).all():
        raise ValueError("a comparison of groups needs one rate of at least 0 for each of two groups or more")
    return values


def _positive(rates: ArrayLike) -> NDArray[np.float64]:
    values = _rates(rates)
    if not (values > 0).all():
        raise ValueError("a ratio needs rates above 0; use comparable() for groups without an error")
    return values


def max_min(rates: ArrayLike) -> float:
    """The highest rate over the lowest."""
    values = _positive(rates)
    return float(values.max() / values.min())


def max_geo(rates: ArrayLike) -> float:
    """The highest rate over the geometric mean (NIST IR 8429 draft)."""
    values = _positive(rates)
    return float(values.max() / np.exp(np.log(values).mean()))


def gini(rates: ArrayLike) -> float:
    """Gini's coefficient with the correction n/(n-1) for few groups: 0 where all are equal, 1 where one group has every error."""
    values = _rates(rates)
    if not values.any():
        return 0.0
    apart = np.abs(values[:, None] - values[None, :]).sum() / (2 * values.size**2 * values.mean())
    return float(apart * values.size / (values.size - 1))


def garbe(fmr: ArrayLike, fnmr: ArrayLike, alpha: float = 0.5) -> float:
    """GARBE: alpha x Gini of the FMR + (1 - alpha) x Gini of the FNMR (Howard et al., arXiv 2203.05051)."""
    return alpha * gini(fmr) + (1 - alpha) * gini(fnmr)


def max_difference(rates: ArrayLike) -> float:
    """The highest rate minus the lowest."""
    return float(np.ptp(_rates(rates)))


def fdr(fmr: ArrayLike, fnmr: ArrayLike, alpha: float = 0.5) -> float:
    """Fairness discrepancy rate: 1 - (alpha x max |dFMR| + (1 - alpha) x max |dFNMR|) (de Freitas Pereira and Marcel, 2020)."""
    return 1 - (alpha * max_difference(fmr) + (1 - alpha) * max_difference(fnmr))


def inequity(fmr: ArrayLike, fnmr: ArrayLike, alpha: float = 0.5) -> float:
    """NIST's inequity ratio: (max/min FMR)^alpha x (max/min FNMR)^(1 - alpha)."""
    return float(max_min(fmr) ** alpha * max_min(fnmr) ** (1 - alpha))


def mape(rates: ArrayLike) -> float:
    """Mean absolute percentage error: how far, on average, a group's rate lies from the mean of all, in % of it."""
    values = _positive(rates)
    return float(100 * np.mean(np.abs(values - values.mean())) / values.mean())


def comparable(rates: Mapping[str, Rate]) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """The groups' rates for the functions above, (n,), and the groups without an error: these stand with their Wilson upper bound."""
    flagged = tuple(group for group, rate in rates.items() if not rate.errors)
    return np.array([rate.value or wilson(0, rate.trials)[1] for rate in rates.values()]), flagged


@dataclass(frozen=True, slots=True)
class Disparity:
    """One rate compared between groups; `flagged` groups had no error and stand with their upper bound."""

    max_min: float
    max_geo: float
    gini: float
    difference: float
    low: float
    high: float
    highest: str
    lowest: str
    flagged: tuple[str, ...]
    standing: Standing

    @staticmethod
    def of(rates: Mapping[str, Rate]) -> Disparity:
        """Compare the rates of two groups or more; `difference` is that of the highest and the lowest, with an interval for any pair."""
        values, flagged = comparable(rates)
        by_value = sorted(rates, key=lambda group: (rates[group].value, group))
        lowest, highest = by_value[0], by_value[-1]
        gap, low, high = difference(rates[highest], rates[lowest], math.comb(len(rates), 2))
        standing = standing_of(low, rates.values())
        return Disparity(max_min(values), max_geo(values), gini(values), gap, low, high, highest, lowest, flagged, standing)


def standing_of(low: float, rates: Iterable[Rate]) -> Standing:
    """What may be said of a difference whose interval begins at `low`, between some of these rates."""
    if low > 0:
        return "apart"
    return "insufficient" if any(rate.is_insufficient for rate in rates) else "not told apart"
