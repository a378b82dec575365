"""What may stand in a report of error rates: no rate without count, interval and threshold, no FPIR without its FNIR.

`rate_table` refuses to make a table otherwise: whoever leaves the misses out has to write down that nobody measured them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

from aboveboard.evaluation.rates import Found, Rate, Unmeasured
from aboveboard.reporting.tables import Cell, Column, Table, percent

FPIR, FNIR, FMR, FNMR = "fpir", "fnir", "fmr", "fnmr"
PARTNER = {FPIR: FNIR, FMR: FNMR}
"""A rate of false matches, and the rate of misses that must stand beside it."""
HEADINGS = {FPIR: "FPIR [95 %]", FNIR: "FNIR [95 %]"}
Origin = Literal["request", "policy", "default", "none", "unknown", "not applicable"]


class Unrenderable(ValueError):
    """A rate that may not be shown as it is."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """The least similarity that counts, inclusive, and where it came from; `none` has no value, an `unknown` one makes a run invalid."""

    similarity: float | None
    origin: Origin

    def __post_init__(self) -> None:
        if (self.similarity is None) != (self.origin in ("none", "unknown", "not applicable")):
            raise ValueError(f"a threshold of origin '{self.origin}' {'has no' if self.similarity is not None else 'needs a'} value")

    @staticmethod
    def of(similarity: str, origin: str) -> Threshold:
        """A threshold from the fields of a file; raises ValueError where they make none."""
        if origin not in get_args(Origin):
            raise ValueError(f"'{origin}' is no origin of a threshold; it is one of: {', '.join(get_args(Origin))}")
        return Threshold(float(similarity) if similarity else None, cast("Origin", origin))

    @property
    def name(self) -> str:
        """How it is called in tables: 80, "none", "unknown"."""
        return self.origin if self.similarity is None else f"{self.similarity:g}"

    @property
    def least(self) -> float:
        """The least similarity that reaches it; without one everything does."""
        return float("-inf") if self.similarity is None else self.similarity


NOT_APPLICABLE = Threshold(None, "not applicable")
"""Where no similarity is compared with anything: the attributes of one face."""


@dataclass(frozen=True)
class Row:
    """A line of a table of rates: its labels, the threshold, the rates by name, and further cells."""

    labels: Mapping[str, Cell]
    threshold: Threshold
    rates: Mapping[str, Found]
    more: Mapping[str, Cell]


def checked(row: Row) -> Row:
    """The row; raises Unrenderable where a rate lacks count, interval, threshold or partner."""
    for name, rate in row.rates.items():
        if not isinstance(rate, Rate | Unmeasured):
            raise Unrenderable(f"{name} without count and interval: give a Rate, or say with Unmeasured why there is none")
        if isinstance(rate, Rate) and not (rate.trials > 0 and rate.low <= rate.value <= rate.high):
            raise Unrenderable(f"{name} is {rate.value} with {rate.low} to {rate.high}, of {rate.trials} trials: no interval around it")
        if not isinstance(row.threshold, Threshold):
            raise Unrenderable(f"{name} without a threshold means nothing; where it is not known, say so with the origin 'unknown'")
        if name in PARTNER and PARTNER[name] not in row.rates:
            raise Unrenderable(f"{name} without {PARTNER[name]}: what a threshold spares stands beside what it misses, or not at all")
    return row


def rate_table(
    name: str,
    title: str,
    rows: Sequence[Row],
    labels: Sequence[Column],
    headings: Mapping[str, str],
    more: Sequence[Column] = (),
    note: str = "",
    with_threshold: bool = True,
) -> Table:
    """A table of rates: each as "28 of 535" and "5.23 % [3.65, 7.46]" in the page, as errors, trials, value, low, high, method in the data.

    `headings` names the rates in their order. A rate of fewer than 30 errors is marked "insufficient". Raises Unrenderable.
    """
    columns = [*labels]
    if with_threshold:
        columns += [Column("threshold", "threshold"), Column("origin", "origin", in_page=False)]
    for rate, heading in headings.items():
        columns += [
            Column(f"{rate}_errors", "", "count", in_page=False),
            Column(f"{rate}_trials", "", "count", in_page=False),
            Column(rate, "", "share", in_page=False),
            Column(f"{rate}_low", "", "share", in_page=False),
            Column(f"{rate}_high", "", "share", in_page=False),
            Column(f"{rate}_method", "", in_page=False),
            Column(f"{rate}_standing", "", in_page=False),
            Column(f"{rate}_count", "errors", in_data=False),
            Column(f"{rate}_text", heading, in_data=False),
        ]
    columns += more
    lines = []
    for row in map(checked, rows):
        cells = [row.labels[column.key] for column in labels]
        if with_threshold:
            cells += [row.threshold.name, row.threshold.origin]
        for rate in headings:
            cells += _cells(row.rates[rate])
        lines.append((*cells, *(row.more[column.key] for column in more)))
    return Table(name, title, tuple(columns), tuple(lines), note)


def _cells(rate: Found) -> list[Cell]:
    if isinstance(rate, Unmeasured):
        return [None, None, None, None, None, rate.reason, "not measured", "–", rate.reason]
    standing = "insufficient" if rate.is_insufficient else "measured"
    counts = f"{rate.errors:,} of {rate.trials:,}"
    return [rate.errors, rate.trials, rate.value, rate.low, rate.high, rate.method, standing, counts, text(rate)]


def text(rate: Found) -> str:
    """A rate as people read it: "5.23 % [3.65, 7.46]"; one of fewer than 30 errors with an asterisk."""
    if isinstance(rate, Unmeasured):
        return rate.reason
    star = "*" if rate.is_insufficient else ""
    return f"{percent(rate.value)} % [{percent(rate.low)}, {percent(rate.high)}]{star}"


STAR = "* fewer than 30 errors: insufficient to say how this rate differs from another (rule of 30, ISO/IEC 19795-1)."
INTERVALS = "Intervals are Wilson's, 95 %, for people searched once each; without any error the upper bound is that of the rule of 3."
