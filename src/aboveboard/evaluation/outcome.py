"""The folder of an evaluation: its tables as CSV and JSON, and a page with the figures, all out of the tables' rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from aboveboard.errors import BadRequest
from aboveboard.evaluation import plots
from aboveboard.evaluation import scores as score_files
from aboveboard.evaluation.rates import RULE_OF_30, Rate, at_size
from aboveboard.evaluation.report import STAR, text
from aboveboard.evaluation.tables import RUN, SCORES, Row, Tables
from aboveboard.evaluation.tables import tables as computed
from aboveboard.reporting.figures import COLOURS, blank, finish, style
from aboveboard.reporting.page import PAGE, TABLES, Block, Figure, Heading, Notice, Page, Text
from aboveboard.reporting.tables import Column, Kind, Table, json_of, number

TITLES = {
    "failures": "Failures to enrol",
    "verification": "Verification: FMR and FNMR at thresholds",
    "det": "Verification: ten thresholds for each decade of the FMR",
    "histogram": "How many comparisons score how much",
    "highest_non_mated": "The highest non-mated comparisons: where label errors show",
    "verification_by_group": "Verification by groups of pairs",
    "verification_disparity": "Verification: how far the groups lie apart, by the pairs within each",
    "identification": "Identification: FPIR and FNIR by rank and by threshold",
    "cmc": "Identification: the mate among the first R candidates",
    "identification_by_group": "Identification by group of the person searched for",
    "identification_disparity": "Identification: how far the groups lie apart",
}
IN_PAGE = ("failures", "verification", "identification")
RATES = {"fmr": "FMR", "fnmr": "FNMR", "fpir": "FPIR", "fnir": "FNIR", "failure_to_enrol": "failure to enrol"}
SIZES = (1_000, 10_000, 100_000, 1_000_000)
INTERVALS = (
    "Intervals are 95 %: people resampled on both sides of a comparison, Wilson's where each person is searched for once; "
    "without any error the upper bound is that of the rule of 3, as if trials were independent. "
)
DISPARITY = (
    "MaxMin and MaxGeo: the highest rate over the lowest, and over the geometric mean of all. Gini: 0 where all are equal, 1 where one "
    "group has every error. GARBE: the mean Gini of both rates. FDR: 1 minus the mean of both rates' greatest differences, near 1 whatever "
    "happens where rates are small. In these, but for FDR, a group without an error stands with its Wilson upper bound, and is named. "
    "Difference: highest minus lowest rate, 95 % for all pairs of groups together (Bonferroni). Chance alone sets groups apart: an "
    "interval says how far a figure moves when people are drawn anew, and only that of the difference tests whether the groups differ. "
    "'insufficient': it reaches 0 and some group has fewer than 30 errors, so that nothing is said; it does not mean that there is no "
    "difference."
)


def files(made: Tables, origin: Mapping[str, Any], *, with_page: bool = True) -> dict[str, bytes]:
    """Every file that is computed from a score file, by its path in the folder: page, figures, tables. Equal rows give equal bytes."""
    tables = {name: _table(name, rows) for name, rows in made.items()}
    return {
        **(_page(made, tables, origin).files() if with_page else {}),
        TABLES: json_of({name: table.document() for name, table in tables.items()}),
        **{f"tables/{name}.csv": table.csv() for name, table in tables.items()},
    }


def verify(folder: Path) -> tuple[int, list[str]]:
    """Compute an evaluation's folder again from its score file: how many files were compared, and what differs, one line each.

    Page and figures are compared where the same matplotlib drew them. Raises BadRequest where run.json or the score file cannot be read.
    """
    file, scores = folder / SCORES, score_files.load(folder / SCORES)
    try:
        run = json.loads((folder / RUN).read_bytes())
        draws, seed = int(run["tables"]["draws"]), int(run["tables"]["seed"])
        drawn_by, kept_hash = run["tables"].get("matplotlib"), run["scores"]["sha256"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadRequest(f"{folder / RUN} is not the manifest of an evaluation; make one with: aboveboard evaluate") from error
    faults = []
    if hashlib.sha256(file.read_bytes()).hexdigest() != kept_hash:
        faults.append(f"{SCORES}: is not the file that {RUN} names")
    origin = {**run, "valid": scores.is_valid, **{name: value for name, value in scores.about.items() if name != "failures_to_enrol"}}
    if origin != run:
        faults.append(f"{RUN}: what it says of the run is not what the score file says")
    has_page = any((folder / name).exists() for name in (PAGE, "figures")) and drawn_by == metadata.version("matplotlib")
    made = files(computed(scores, draws, seed), origin, with_page=has_page)
    for name, content in made.items():
        if not (folder / name).is_file():
            faults.append(f"{name}: is missing")
        elif (folder / name).read_bytes() != content:
            faults.append(f"{name}: other numbers follow from the score file")
    return 2 + len(made), faults


def _table(name: str, rows: Sequence[Row]) -> Table:
    """The rows as a table: in the page each rate is "28 of 535" and "5.23 % [3.65, 7.46]", in the files it has its columns."""
    columns: list[Column] = []
    shown = [rate for rate in RATES if rows and f"{rate}_errors" in rows[0]]
    is_disparity = name.endswith("_disparity")
    for key in rows[0] if rows else ():
        is_raw = any(key == rate or key.startswith(f"{rate}_") for rate in RATES) or (is_disparity and key in ("value", "low", "high"))
        columns.append(Column(key, "TAR" if key == "tar" else key.replace("_", " "), _kind(key), in_page=not is_raw))
    columns += [Column(f"{rate}_{end}", heading, in_data=False) for rate in shown for end, heading in _headings(rate)]
    cells = [(*row.values(), *(cell for rate in shown for cell in _texts(row, rate))) for row in rows]
    if rows and is_disparity:
        columns.insert(5, Column("shown", "[95 %]", in_data=False))
        cells = [(*row[:5], _between(row[5:8]), *row[5:]) for row in cells]
    return Table(name, TITLES[name], tuple(columns), tuple(cells), DISPARITY if is_disparity else STAR if shown else "")


def _between(cells: Sequence[Any]) -> str:
    """A figure with its interval: "1.84 [1.31, 2.6]"."""
    if cells[0] is None:
        return "no group has an error"
    value, low, high = ("–" if cell is None else number(cell) for cell in cells)
    return f"{value} [{low}, {high}]"


def _kind(key: str) -> Kind:
    return (
        "count"
        if key in ("gallery", "rank", "mated", "non_mated", "groups", "fewest_errors")
        else "number"
        if key in ("threshold", "low", "high", "score")
        else "text"
    )


def _headings(rate: str) -> tuple[tuple[str, str], tuple[str, str]]:
    return ("count", "errors"), ("text", f"{RATES[rate]} [95 %]")


def _texts(row: Row, rate: str) -> tuple[str, str]:
    found = _rate(row, rate)
    return ("–", str(row[f"{rate}_interval"])) if found is None else (f"{found.errors:,} of {found.trials:,}", text(found))


def _rate(row: Row, name: str) -> Rate | None:
    """A rate out of its cells; None where nobody measured it."""
    if row[name] is None:
        return None
    value, low, high = float(row[name]), float(row[f"{name}_low"]), float(row[f"{name}_high"])
    return Rate(row[f"{name}_errors"], row[f"{name}_trials"], value, low, high, row[f"{name}_interval"])


def _page(made: Tables, tables: Mapping[str, Table], origin: Mapping[str, Any]) -> Page:
    blocks: list[Block] = []
    if not origin["valid"]:
        reason = f"This run is invalid: its threshold is unknown, because {origin['threshold']['why']}. Its rates must not be quoted."
        blocks.append(Notice(reason, "warning"))
    blocks.append(Text(INTERVALS + "Thresholds are inclusive. A failure to enrol is a miss."))
    blocks += [tables["failures"], *_verification(made, tables), *_identification(made, tables)]
    who = origin.get("endpoint") or f"the pack {origin['model']['pack']} (model version {origin['model']['model_version']})"
    applied = origin["threshold"]["applied"]
    lead = f"{who}, measured on {origin['data']['photographs']:,} photographs; threshold of the comparisons: {applied or 'unknown'}."
    asked = f"draws {origin['tables']['draws']:,}, seed {origin['tables']['seed']}"
    return Page("Evaluation", lead, tuple(blocks), f"Scores: {origin['scale']}. Data sha256 {origin['data']['sha256']}; {asked}.")


def _verification(made: Tables, tables: Mapping[str, Table]) -> Iterator[Block]:
    if "verification" not in made:
        return
    yield Heading("Verification")
    yield tables["verification"]
    measured = [row for row in made["det"] if row["fmr"] is not None and row["fnmr"] is not None]
    if len(measured) > 1:
        marks = {
            row["set_for"].removeprefix("similarity "): (row["fmr"], row["fnmr"])
            for row in made["verification"]
            if row["set_for"].startswith("similarity") and row["fmr"] is not None and row["fnmr"] is not None
        }
        false, missed = (np.array([row[rate] for row in measured]) for rate in ("fmr", "fnmr"))
        trials = (measured[0]["fmr_trials"], measured[0]["fnmr_trials"])
        caption = "DET on normal-deviate axes; the marks are the similarities of that name. In grey: fewer than 30 errors."
        yield plots.det("det", caption, false, missed, ("FMR", "FNMR"), trials, marks)
    if made["histogram"]:
        yield _histogram(made["histogram"], made["verification"])
    yield from _groups(made, tables, "fmr", "fnmr", "verification")


def _identification(made: Tables, tables: Mapping[str, Table]) -> Iterator[Block]:
    if "identification" not in made:
        return
    yield Heading("Identification")
    yield tables["identification"]
    found = [_rate(row, "fnir") for row in made["cmc"]]
    ranks = [rate for rate in found if rate is not None]
    if ranks:
        at = np.diff([0, *(rate.trials - rate.errors for rate in ranks)])
        yield plots.cmc(
            "cmc",
            "CMC: the share of mated searches whose mate is among the first R candidates. Bands: Wilson.",
            np.repeat(np.arange(1, len(ranks) + 1), at).tolist(),
            ranks[0].trials,
            len(ranks),
        )
    named = [row for row in made["identification"] if row["set_for"].startswith("similarity")]
    both = [(row["set_for"], _rate(row, "fpir"), _rate(row, "fnir"), row["gallery"]) for row in named]
    lines = {name: (fpir, fnir, size) for name, fpir, fnir, size in both if fpir and fnir and fpir.value < 1}
    if lines:
        yield plots.fpir_by_size(
            "fpir_by_size",
            "FPIR in galleries of other sizes, from the one that was measured, comparisons taken as independent.",
            SIZES,
            {name: [at_size(fpir, size, other) for other in SIZES] for name, (fpir, _, size) in lines.items()},
            {name: fnir for name, (_, fnir, _) in lines.items()},
        )
    yield from _groups(made, tables, "fpir", "fnir", "identification")


def _groups(made: Tables, tables: Mapping[str, Table], false: str, missed: str, what: str) -> Iterator[Block]:
    """Both rates of each group, at the highest threshold at which false matches are enough to tell groups apart, else at the lowest."""
    rows, file = made[f"{what}_by_group"], f"{what}_by_group"
    errors: dict[str, list[int]] = {}
    for row in rows:
        if not row["set_for"].startswith("rank") and row[false] is not None:
            errors.setdefault(row["set_for"], []).append(row[f"{false}_errors"])
    enough = [name for name, counts in errors.items() if sum(counts) >= RULE_OF_30 * len(counts)]
    point = enough[-1] if enough else next(iter(errors), None)
    for rate in (false, missed):
        panels: dict[str, dict[str, Rate]] = {}
        for row in rows:
            found = _rate(row, rate) if row["set_for"] == point else None
            if found is not None:
                other = row.get("other", row["group"])
                group = row["group"] if other == row["group"] else f"{row['group']} – {other}"
                panels.setdefault(row["column"], {})[group] = found
        if panels:
            caption = f"{RATES[rate]} by group at {point}. All thresholds, and the other rate, are in tables/{file}.csv."
            yield plots.groups(f"{rate}_by_group", caption, panels, RATES[rate])
    apart = tables[f"{what}_disparity"]
    chosen = [cells for row, cells in zip(made[f"{what}_disparity"], apart.rows, strict=True) if row["set_for"] == point]
    if chosen:
        yield replace(apart, title=f"{apart.title}, at {point}", rows=tuple(chosen))


def _histogram(rows: Sequence[Row], points: Sequence[Row]) -> Figure:
    edges = [row["low"] for row in rows] + [rows[-1]["high"]]
    with style():
        drawing, axes = blank(7.2, 3.8)
        for key, colour in zip(("non_mated", "mated"), COLOURS, strict=False):
            counts = np.array([row[key] for row in rows])
            axes.stairs(100 * counts / max(counts.sum(), 1), edges, color=colour, fill=True, alpha=0.35)
            axes.stairs(
                100 * counts / max(counts.sum(), 1), edges, color=colour, lw=1.2, label=f"{key.replace('_', '-')} ({counts.sum():,})"
            )
        named = [row for row in points if row["set_for"].startswith("similarity")]
        plots.mark(axes, {row["set_for"].removeprefix("similarity "): row["threshold"] for row in named})
        axes.set_xlabel("score")
        axes.set_ylabel("share of the comparisons, %")
        axes.legend(loc="best")
        return finish(
            drawing, "histogram", "Scores of mated and non-mated comparisons, with the similarities' thresholds.", "Two histograms."
        )
