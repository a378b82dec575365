"""What an FPIR found in one gallery becomes in galleries of other sizes; and published counts, recomputed so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aboveboard.biometrics.calibration import expected_false
from aboveboard.errors import BadRequest
from aboveboard.evaluation import plots
from aboveboard.evaluation.findings import Report, rows_of
from aboveboard.evaluation.rates import Found, Rate, Unmeasured, at_size, implied_fmr
from aboveboard.evaluation.report import FNIR, FPIR, HEADINGS, INTERVALS, STAR, Row, Threshold, rate_table, text
from aboveboard.reporting.page import Block, Heading, Notice, Page, Text
from aboveboard.reporting.tables import Column, Table

SIZES = (1_000, 10_000, 25_000, 100_000, 300_000, 1_000_000)
COUNTY = 300_000
"""Faces in a county's mugshots, for the line that sums a study up."""
COUNTS = "counts.csv"
COUNT_COLUMNS = ("study", "threshold", "origin", "gallery_size", "errors", "searches", "source")
NOT_REPORTED = Unmeasured("not reported")
_INDEPENDENT = (
    "Carried to another N as if comparisons were independent: FPIR(N) = 1 - (1 - FMR)^N. Kin and look-alikes make the true rate higher. "
    "The FNIR is the one found at the size that was measured: in a larger gallery, false candidates also crowd mates out of a short list."
)

_WITHOUT_MISSES = (
    "None of these studies reported how many enrolled people the same threshold misses. A threshold that finds nobody has no false matches "
    "either: without the misses, no figure here says that a threshold is good."
)


@dataclass(frozen=True, slots=True)
class Counted:
    """What one search setting gave in a gallery of `size` faces: `name` says which."""

    name: str
    threshold: Threshold
    size: int
    fpir: Found
    fnir: Found


def at_sizes(counted: Sequence[Counted]) -> list[Block]:
    """The FPIR of each setting in galleries of `SIZES`, as a table and a figure; those that were not measured are left out."""
    measured = [(one, one.fpir) for one in counted if isinstance(one.fpir, Rate)]
    if not measured:
        return [Text("Nothing to carry to another size.")]
    rows, lines = [], {}
    for one, rate in measured:
        lines[one.name] = [at_size(rate, one.size, size) for size in SIZES]
        fmr = implied_fmr(rate, one.size).value
        rows += [
            Row(
                {"setting": one.name, "size": size}, one.threshold, {FPIR: carried, FNIR: one.fnir}, {"expected": expected_false(fmr, size)}
            )
            for size, carried in zip(SIZES, lines[one.name], strict=True)
        ]
    table = rate_table(
        "sizes",
        "Expected in galleries of other sizes, at the same threshold",
        rows,
        [Column("setting", "setting"), Column("size", "N", "count")],
        HEADINGS,
        [Column("expected", "false candidates a search", "number")],
        f"{_INDEPENDENT} {STAR}",
    )
    caption = "FPIR against the size of the gallery. Dotted: no false match was counted, the line is the upper bound of the rule of 3."
    return [plots.fpir_by_size("fpir_by_size", caption, SIZES, lines, {one.name: one.fnir for one in counted}), table]


def published(_: Mapping[str, Any], inputs: Mapping[str, bytes]) -> Report:
    """The page of published counts: intervals, and what they become in galleries of other sizes."""
    counted, sources, unknown = [], [], []
    for row in rows_of(inputs[COUNTS], COUNTS, COUNT_COLUMNS):
        try:
            threshold = Threshold.of(row["threshold"], row["origin"])
            rate, size = Rate.of(int(row["errors"]), int(row["searches"])), int(row["gallery_size"])
        except ValueError as error:
            raise BadRequest(f"{COUNTS}, '{row['study']}': {error}") from error
        if size < 1:
            raise BadRequest(f"{COUNTS}, '{row['study']}': a gallery has at least one face")
        counted.append((Counted(row["study"], threshold, size, rate, NOT_REPORTED), implied_fmr(rate, size).value))
        sources.append((row["study"], row["source"]))
        if threshold.origin == "unknown":
            unknown.append(f"the threshold of '{row['study']}' is not known")
    if not counted:
        raise BadRequest(f"{COUNTS} has no rows; write one for each study")
    headline = rate_table(
        "published",
        "Published false-match studies",
        [Row({"study": one.name, "size": one.size}, one.threshold, {FPIR: one.fpir, FNIR: one.fnir}, {"fmr": fmr}) for one, fmr in counted],
        [Column("study", "study"), Column("size", "gallery, N", "count")],
        HEADINGS,
        [Column("fmr", "implied FMR", "number")],
        f"{INTERVALS} {STAR} Implied FMR: per comparison, 1 - (1 - FPIR)^(1/N).",
    )
    carried = at_sizes([one for one, _ in counted])
    blocks: tuple[Block, ...] = (
        Notice(_WITHOUT_MISSES, "warning"),
        headline,
        Heading("In galleries of other sizes"),
        *carried,
        Heading("Sources"),
        Table("sources", "Where the counts come from", (Column("study", "study"), Column("source", "source")), tuple(sources)),
    )
    lead = "What published counts say with their intervals, and what the same setting would do in galleries of other sizes."
    page = Page("Published false-match studies, recomputed", lead, blocks)
    return Report(page, tuple(_line(one) for one, _ in counted), tuple(unknown))


def _line(one: Counted) -> str:
    assert isinstance(one.fpir, Rate)
    county = text(at_size(one.fpir, one.size, COUNTY))
    return (
        f"{one.name}: {one.fpir.errors:,} of {one.fpir.trials:,} at {one.threshold.name}: FPIR {text(one.fpir)} at N = {one.size:,}, "
        f"{county} at {COUNTY:,}; FNIR {text(one.fnir)}"
    )
