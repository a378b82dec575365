"""Rates of groups beside each other in a report: how far apart they lie, and whether there were errors enough to say so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aboveboard.evaluation.disparity import Disparity
from aboveboard.evaluation.rates import Found, Rate
from aboveboard.evaluation.report import Threshold
from aboveboard.reporting.tables import Cell, Column, Table, percent

_NOTE = (
    "Max/min and max/geo: the highest rate over the lowest, and over the geometric mean of all. Gini: 0 where all are equal, 1 where one "
    "group has every error. A group without an error stands in these ratios with its Wilson upper bound, and is named. Difference: highest "
    "minus lowest rate in points, Newcombe's interval, 95 % for all pairs of groups together (Bonferroni). 'insufficient': it reaches 0 "
    "and some group has fewer than 30 errors, so that nothing is said; it does not mean that there is no difference."
)


@dataclass(frozen=True)
class Compared:
    """One rate of several groups at one threshold; `by` names what makes the groups."""

    by: str
    threshold: Threshold
    rate: str
    rates: Mapping[str, Found]


def disparities(name: str, compared: Sequence[Compared]) -> Table:
    """A line for each comparison of two groups or more; what was not measured is left out."""
    columns = (
        Column("by", "by"), Column("threshold", "threshold"), Column("rate", "rate"), Column("groups", "groups", "count"),
        Column("fewest", "fewest errors", "count"), Column("highest", "highest"), Column("lowest", "lowest"),
        Column("difference", "difference", "share", in_page=False), Column("low", "", "share", in_page=False),
        Column("high", "", "share", in_page=False), Column("shown", "difference [95 %]", in_data=False),
        Column("max_min", "max/min", "number"), Column("max_geo", "max/geo", "number"), Column("gini", "Gini", "number"),
        Column("without_errors", "without an error"), Column("standing", "standing"),
    )  # fmt: skip
    lines: list[tuple[Cell, ...]] = []
    for one in compared:
        rates = {group: rate for group, rate in one.rates.items() if isinstance(rate, Rate)}
        if len(rates) < 2:
            continue
        found = Disparity.of(rates)
        shown = f"{percent(found.difference)} [{percent(found.low)}, {percent(found.high)}]"
        fewest = min(rate.errors for rate in rates.values())
        lines.append((
            one.by, one.threshold.name, one.rate.upper(), len(rates), fewest, found.highest, found.lowest, found.difference, found.low,
            found.high, shown, found.max_min, found.max_geo, found.gini, ", ".join(found.flagged), found.standing,
        ))  # fmt: skip
    return Table(name, "How far apart the groups lie", columns, tuple(lines), _NOTE)
