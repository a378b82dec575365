"""Error rates that carry their counts and intervals, and what they become in a gallery of another size.

Wilson's interval and the rules of 3 and 30 (ISO/IEC 19795-1) hold for independent trials: one search a person, one photograph a
person. Where trials share people, intervals come from resampling people (`metrics.Resampling`) and are named so in `method`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from scipy import stats

from aboveboard.biometrics.calibration import fmr_for_fpir, fpir

RULE_OF_30 = 30
"""Errors from which on a rate counts as measured: they give +-30 % at 90 % confidence."""
WILSON, RULE_OF_3 = "Wilson", "rule of 3"
Z = 1.959963984540054
"""The standard normal's quantile of 97.5 %."""


@dataclass(frozen=True, slots=True)
class Rate:
    """`errors` of `trials`: the share `value` with the 95 % interval `low` to `high` (0-1), made by `method`."""

    errors: int
    trials: int
    value: float
    low: float
    high: float
    method: str

    @staticmethod
    def of(errors: int, trials: int) -> Rate:
        """The rate of independent trials: Wilson's interval, without any error up to the bound of the rule of 3.

        Raises ValueError where there is no trial or `errors` is no part of them.
        """
        low, high = wilson(errors, trials)
        if not errors:
            return Rate(0, trials, 0.0, 0.0, bound_without_errors(trials), RULE_OF_3)
        return Rate(errors, trials, errors / trials, low, high, WILSON)

    @property
    def is_insufficient(self) -> bool:
        """Whether there are too few errors to say how this rate differs from another (rule of 30)."""
        return self.errors < RULE_OF_30

    def through(self, function: Callable[[float], float], method: str) -> Rate:
        """What a rising function makes of the rate and of both ends of its interval; the counts stay those that were counted."""
        return replace(
            self, value=function(self.value), low=function(self.low), high=function(self.high), method=f"{self.method}, {method}"
        )


@dataclass(frozen=True, slots=True)
class Unmeasured:
    """A rate that nobody measured, and why: it stands where the rate would stand, so that its absence is seen."""

    reason: str


Found = Rate | Unmeasured
"""A rate, or the statement that there is none."""


def found(errors: int, trials: int, reason: str = "no trial") -> Found:
    """The rate of independent trials, or that there was no trial."""
    return Rate.of(errors, trials) if trials else Unmeasured(reason)


def wilson(errors: float, trials: float, z: float = Z) -> tuple[float, float]:
    """Wilson's score interval of a share (95 % for the default z), for independent trials (Wilson, JASA 22, 1927)."""
    if not 0 <= errors <= trials or trials == 0:
        raise ValueError(f"{errors} errors in {trials} trials is no share")
    share, spread = errors / trials, z * z / trials
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / trials + spread / (4 * trials)) / (1 + spread)
    return max(0.0, centre - half) if errors else 0.0, min(1.0, centre + half) if errors < trials else 1.0


def bound_without_errors(trials: int, level: float = 0.95) -> float:
    """The upper bound of a rate when none of `trials` erred: 1 - 0.05^(1/n), about 3/n ("rule of 3", ISO/IEC 19795-1)."""
    return -math.expm1(math.log(1 - level) / trials)


def measured_limit(trials: int) -> float:
    """The smallest rate that so many trials can measure: 30 errors give +-30 % at 90 % confidence ("rule of 30")."""
    return RULE_OF_30 / trials


def trials_without_errors(rate: float, level: float = 0.95) -> int:
    """How many independent trials without an error show that the rate is at most `rate`."""
    return math.ceil(math.log(1 - level) / math.log1p(-rate) - 1e-9)


def difference(first: Rate, second: Rate, pairs: int = 1) -> tuple[float, float, float]:
    """`first - second` of two groups that share no people, with its 95 % interval out of those of the two rates.

    For independent trials Newcombe's hybrid score (Stat. Med. 17, 1998, method 10), else the same out of the intervals that the rates have
    (MOVER: Zou and Donner, Stat. Med. 27, 2008). Where the two were picked out of so many `pairs` of groups, the interval holds for all
    of them together (Bonferroni).
    """
    z = float(stats.norm.isf(0.025 / pairs))
    (low, high), (other_low, other_high) = _ends(first, z), _ends(second, z)
    gap = first.value - second.value
    down = math.hypot(first.value - low, other_high - second.value)
    up = math.hypot(high - first.value, second.value - other_low)
    return gap, gap - down, gap + up


def _ends(rate: Rate, z: float) -> tuple[float, float]:
    """The interval of a rate for another z: Wilson's, or the rate's own 95 % interval, stretched."""
    if rate.method in (WILSON, RULE_OF_3):
        return wilson(rate.errors, rate.trials, z)
    stretch = z / Z
    return max(0.0, rate.value - stretch * (rate.value - rate.low)), min(1.0, rate.value + stretch * (rate.high - rate.value))


def implied_fmr(rate: Rate, gallery_size: int) -> Rate:
    """The FMR per comparison that an FPIR found in a gallery of N implies: 1 - (1 - FPIR)^(1/N), comparisons taken as independent."""
    return rate.through(lambda value: fmr_for_fpir(value, gallery_size), f"per comparison of N = {gallery_size:,}")


def at_size(rate: Rate, gallery_size: int, other_size: int) -> Rate:
    """What an FPIR found in a gallery of N becomes in one of another size at the same threshold, comparisons taken as independent."""
    return rate.through(lambda value: fpir(fmr_for_fpir(value, gallery_size), other_size), f"from N = {gallery_size:,} to {other_size:,}")


def expected_shown(fmr: float, gallery_size: int, cap: int) -> float:
    """E_L: the false candidates a search shows on average where at most `cap` are answered.

    The sum over i = 1..cap of P(Bin(N, FMR) >= i). Without a threshold (FMR 1) it is the cap itself, or N.
    """
    return float(sum(stats.binom.sf(i - 1, gallery_size, fmr) for i in range(1, min(cap, gallery_size) + 1)))
