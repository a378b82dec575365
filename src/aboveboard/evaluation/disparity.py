"""How far apart the error rates of groups lie: NIST's, Howard's and Idiap's figures over one rate a group.

Each is a plain function of the groups' rates (..., n), reduced over the last axis. A group without an error has no rate to divide by:
the upper end of its Wilson interval stands there instead, and is said. FDR of small false match rates is near 1 whatever happens: never
the headline figure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aboveboard.evaluation.metrics import interval
from aboveboard.evaluation.rates import Rate, Z, difference, wilson
from aboveboard.evaluation.resampling import Drawn

Standing = Literal["insufficient", "apart", "not told apart"]
"""`apart`: 0 lies outside the interval of the difference between the highest and the lowest rate. Else `insufficient` where some
group has fewer than 30 errors, so that nothing follows from it; only with more may two groups be called `not told apart`."""
_FIRST = ("apart", "insufficient", "not told apart")
"""What is said of two rates together, if one of them is so."""
Floats = NDArray[np.float64]


def _rates(rates: ArrayLike) -> Floats:
    values = np.asarray(rates, dtype=np.float64)
    if values.ndim < 1 or values.shape[-1] < 2 or (values < 0).any():
        raise ValueError("a comparison of groups needs one rate of at least 0 for each of two groups or more")
    return values


def _positive(rates: ArrayLike) -> Floats:
    values = _rates(rates)
    if (values <= 0).any():
        raise ValueError("a ratio needs rates above 0; use comparable() for groups without an error")
    return values


def max_min(rates: ArrayLike) -> Floats:
    """The highest rate over the lowest."""
    values = _positive(rates)
    return np.asarray(values.max(axis=-1) / values.min(axis=-1))


def max_geo(rates: ArrayLike) -> Floats:
    """The highest rate over the geometric mean (NIST IR 8429 draft)."""
    values = _positive(rates)
    return np.asarray(values.max(axis=-1) / np.exp(np.log(values).mean(axis=-1)))


def gini(rates: ArrayLike) -> Floats:
    """Gini's coefficient with the correction n/(n-1) for few groups: 0 where all are equal, 1 where one group has every error."""
    values = _rates(rates)
    n, mean = values.shape[-1], values.mean(axis=-1)
    apart = np.abs(values[..., :, None] - values[..., None, :]).sum(axis=(-2, -1)) / (2 * n * (n - 1))
    return np.asarray(np.divide(apart, mean, out=np.zeros_like(mean), where=mean != 0))


def garbe(fmr: ArrayLike, fnmr: ArrayLike, alpha: float = 0.5) -> Floats:
    """GARBE: alpha x Gini of the FMR + (1 - alpha) x Gini of the FNMR (Howard et al., arXiv 2203.05051)."""
    return np.asarray(alpha * gini(fmr) + (1 - alpha) * gini(fnmr))


def max_difference(rates: ArrayLike) -> Floats:
    """The highest rate minus the lowest."""
    return np.asarray(np.ptp(_rates(rates), axis=-1))


def fdr(fmr: ArrayLike, fnmr: ArrayLike, alpha: float = 0.5) -> Floats:
    """Fairness discrepancy rate: 1 - (alpha x max |dFMR| + (1 - alpha) x max |dFNMR|) (de Freitas Pereira and Marcel, 2020)."""
    return np.asarray(1 - (alpha * max_difference(fmr) + (1 - alpha) * max_difference(fnmr)))


def inequity(fmr: ArrayLike, fnmr: ArrayLike, alpha: float = 0.5) -> Floats:
    """NIST's inequity ratio: (max/min FMR)^alpha x (max/min FNMR)^(1 - alpha)."""
    return np.asarray(max_min(fmr) ** alpha * max_min(fnmr) ** (1 - alpha))


def mape(rates: ArrayLike) -> Floats:
    """Mean absolute percentage error: how far, on average, a group's rate lies from the mean of all, in % of it."""
    values = _positive(rates)
    mean = values.mean(axis=-1, keepdims=True)
    return np.asarray(100 * np.mean(np.abs(values - mean) / mean, axis=-1))


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
        ratios = float(max_min(values)), float(max_geo(values)), float(gini(values))
        return Disparity(*ratios, gap, low, high, highest, lowest, flagged, standing)


def standing_of(low: float, rates: Iterable[Rate]) -> Standing:
    """What may be said of a difference whose interval begins at `low`, between some of these rates."""
    if low > 0:
        return "apart"
    return "insufficient" if any(rate.is_insufficient for rate in rates) else "not told apart"


@dataclass(frozen=True, slots=True)
class Compared:
    """What the figures of one comparison share: `of` names the rates; `fewest` is the smallest number of errors of a group, `flagged`
    groups had none."""

    of: str
    groups: int
    fewest: int
    highest: str
    lowest: str
    flagged: tuple[str, ...]
    standing: Standing


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure over the rates of groups with its 95 % interval over people drawn anew.

    Without a value where no group has an error, without an interval where half of the draws leave out a whole group.
    """

    compared: Compared
    name: str
    value: float | None
    low: float | None = None
    high: float | None = None


def figures(false: tuple[str, Mapping[str, Drawn]], missed: tuple[str, Mapping[str, Drawn]]) -> Iterator[Figure]:
    """How far the groups lie apart in a rate of false matches and in one of misses, each with its name, and in both together.

    MaxMin, MaxGeo, Gini and the difference of the highest and the lowest rate; GARBE and FDR over groups that have both rates. An
    interval reaches at least to the figure: that of people drawn anew lies above it where groups are alike, since chance sets them apart.
    """
    for name, drawn in (false, missed):
        if len(drawn) > 1:
            yield from _of_one(name, drawn)
    both = [group for group in false[1] if group in missed[1]]
    if len(both) > 1:
        yield from _of_both(f"{false[0]} and {missed[0]}", *({group: drawn[group] for group in both} for _, drawn in (false, missed)))


def _of_one(name: str, drawn: Mapping[str, Drawn]) -> Iterator[Figure]:
    rates = {group: each.rate for group, each in drawn.items()}
    found = Disparity.of(rates)
    fewest = min(rate.errors for rate in rates.values())
    compared = Compared(name, len(rates), fewest, found.highest, found.lowest, found.flagged, found.standing)
    resampled = _comparable_drawn(drawn)
    for figure, value, function in (("MaxMin", found.max_min, max_min), ("MaxGeo", found.max_geo, max_geo), ("Gini", found.gini, gini)):
        is_known = len(found.flagged) < len(rates)
        yield _around(compared, figure, value, function(resampled)) if is_known else Figure(compared, figure, None)
    yield Figure(compared, "difference", found.difference, found.low, found.high)


def _of_both(name: str, false: Mapping[str, Drawn], missed: Mapping[str, Drawn]) -> Iterator[Figure]:
    fmr, fnmr = ({group: each.rate for group, each in drawn.items()} for drawn in (false, missed))
    found = (Disparity.of(fmr), Disparity.of(fnmr))
    fewest = min(rate.errors for rate in (*fmr.values(), *fnmr.values()))
    flagged = tuple(dict.fromkeys(group for one in found for group in one.flagged))
    standing = min((one.standing for one in found), key=_FIRST.index)
    compared = Compared(name, len(fmr), fewest, "", "", flagged, standing)
    is_known = all(len(one.flagged) < len(fmr) for one in found)
    both = garbe(_comparable_drawn(false), _comparable_drawn(missed))
    value = float(garbe(comparable(fmr)[0], comparable(fnmr)[0]))
    yield _around(compared, "GARBE", value, both) if is_known else Figure(compared, "GARBE", None)
    shares = [np.stack([each.shares for each in drawn.values()], axis=-1) for drawn in (false, missed)]
    value = float(fdr([rate.value for rate in fmr.values()], [rate.value for rate in fnmr.values()]))
    yield _around(compared, "FDR", value, fdr(shares[0], shares[1]))


def _comparable_drawn(drawn: Mapping[str, Drawn]) -> Floats:
    """`comparable` in each draw, (draws, groups); NaN where a group has no trial."""
    bounds = [np.where(one.trials_drawn > 0, Z**2 / (one.trials_drawn + Z**2), np.nan) for one in drawn.values()]
    return np.stack([np.where(one.errors_drawn > 0, one.shares, bound) for one, bound in zip(drawn.values(), bounds, strict=True)], axis=-1)


def _around(compared: Compared, name: str, value: float, drawn: Floats) -> Figure:
    whole = drawn[np.isfinite(drawn)]
    if 2 * whole.size < drawn.size:
        return Figure(compared, name, value)
    low, high = interval(whole)
    return Figure(compared, name, value, min(low, value), max(high, value))
