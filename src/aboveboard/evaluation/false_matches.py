"""The false-match study: how often people who are not in a gallery bring up a candidate in it, and what each threshold misses.

The method is the ACLU's of 2018, with what it left out: intervals, groups, other thresholds, the misses, other sizes of gallery.
Everything here is computed from the study's inputs (`searching`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aboveboard.biometrics.calibration import expected_false, fmr_at, fpir
from aboveboard.errors import BadRequest
from aboveboard.evaluation import plots, resampling
from aboveboard.evaluation.findings import UNLABELLED, Report, group_of, rows_of
from aboveboard.evaluation.gallery_sizes import Counted, at_sizes
from aboveboard.evaluation.groups import Compared, disparities
from aboveboard.evaluation.identification import DEPTH
from aboveboard.evaluation.rates import Found, Rate, found
from aboveboard.evaluation.report import FNIR, FPIR, HEADINGS, INTERVALS, STAR, Row, Threshold, rate_table, text
from aboveboard.evaluation.resampling import NOBODY, SEVERAL
from aboveboard.evaluation.searching import GALLERY, NO_THRESHOLD, PICTURES, PROBE_COLUMNS, PROBES, SEARCHES
from aboveboard.reporting.page import Block, Figure, Heading, Notice, Page, Picture, Pictures, Text
from aboveboard.reporting.tables import Cell, Column, Table

DRAWS, SEED = 1000, 0
"""Of people, for the interval of an FPIR in other galleries."""


@dataclass(frozen=True)
class Search:
    """One person looked up: `false` are the candidates in the gallery without him, `mate` is the similarity at which his second photograph
    came up (None where it did not), `rank` its place."""

    probe: str
    subject: str
    labels: Mapping[str, str]
    failure: str
    false: tuple[tuple[str, float], ...]
    is_enrolled: bool
    mate: float | None
    rank: int

    @property
    def best_false(self) -> float:
        return self.false[0][1] if self.false else float("-inf")

    def is_false_at(self, threshold: Threshold) -> bool:
        """Whether it brings up a candidate though the person is not enrolled."""
        return bool(self.false) and self.best_false >= threshold.least

    def is_missed_at(self, threshold: Threshold) -> bool:
        """Whether it fails to bring up the enrolled person."""
        return self.mate is None or self.mate < threshold.least


def findings(parameters: Mapping[str, Any], inputs: Mapping[str, bytes]) -> Report:
    """The study's page from its inputs; `parameters` has thresholds, `by` and where the photographs and models come from."""
    searches = read(inputs)
    enrolled = rows_of(inputs[GALLERY], GALLERY, ("reference", "subject", "failure"))
    size = sum(not row["failure"] for row in enrolled)
    people = len({row["subject"] for row in enrolled if not row["failure"]})
    thresholds = [Threshold(one["similarity"], one["origin"]) for one in parameters["thresholds"]]
    finite = [threshold for threshold in thresholds if threshold.similarity is not None]
    mated = [search for search in searches if search.is_enrolled]
    points = [_point({}, threshold, searches, {"shown": _shown(searches, threshold)}) for threshold in thresholds]
    with_threshold = [row for row in points if row.threshold.similarity is not None]
    headline = rate_table(
        "thresholds",
        f"Searches of a gallery of {size:,} photographs of {people:,} people",
        points,
        [],
        {FPIR: "false: FPIR [95 %]", FNIR: "missed: FNIR [95 %]"},
        [Column("shown", "false candidates a search", "number")],
        f"FPIR: of {len(searches):,} people who are not in the gallery, those who brought up somebody. FNIR: of {len(mated):,} people "
        f"of whom a second photograph was enrolled, those whom the search missed. Thresholds are inclusive. {INTERVALS} {STAR}",
    )
    blocks: list[Block] = [
        Heading("What each threshold lets through, and what it misses"),
        headline,
        Text(_failures(searches, enrolled)),
        *_other_galleries(searches, enrolled, with_threshold),
        *_curves(searches, mated, thresholds),
        Heading("By group"),
        *_groups(searches, finite, parameters["by"]),
        Heading("In galleries of other sizes"),
        *at_sizes([Counted(row.threshold.name, row.threshold, size, row.rates[FPIR], row.rates[FNIR]) for row in with_threshold]),
        *_promises(parameters["source"], finite, size, with_threshold),
        Heading("The false matches"),
        *_pairs(searches, finite, inputs),
    ]
    title = f"False matches: {len(searches):,} people looked up in a gallery in which they are not"
    return Report(
        Page(title, _lead(points, thresholds), tuple(blocks), _footer(parameters)),
        _summary(points),
        _invalid(searches, thresholds, size, parameters["source"]),
    )


def read(inputs: Mapping[str, bytes]) -> list[Search]:
    """The searches from the study's inputs. A tie counts against the mate."""
    probes = rows_of(inputs[PROBES], PROBES, PROBE_COLUMNS)
    answers: dict[tuple[str, str], list[tuple[str, float]]] = {}
    for row in rows_of(inputs[SEARCHES], SEARCHES, ("probe", "against", "rank", "reference", "similarity")):
        answers.setdefault((row["probe"], row["against"]), []).append((row["reference"], float(row["similarity"])))
    searches = []
    for row in probes:
        false, others = tuple(answers.get((row["probe"], "gallery"), ())), answers.get((row["probe"], "mates"), [])
        mate = next((similarity for reference, similarity in others if reference == row["mate"]), None)
        labels = {column: value for column, value in row.items() if column not in PROBE_COLUMNS}
        rank = sum(similarity >= mate for _, similarity in (*false, *others)) if mate is not None else 0
        is_listed = 1 <= rank <= DEPTH
        searches.append(
            Search(
                row["probe"],
                row["subject"],
                labels,
                row["failure"],
                false,
                bool(row["mate"]),
                mate if is_listed else None,
                rank if is_listed else 0,
            )
        )
    if not searches:
        raise BadRequest("nobody was probed")
    return searches


def _point(labels: Mapping[str, Cell], threshold: Threshold, searches: Sequence[Search], more: Mapping[str, Cell]) -> Row:
    mated = [search for search in searches if search.is_enrolled]
    rates = {
        FPIR: found(sum(search.is_false_at(threshold) for search in searches), len(searches), "nobody searched for"),
        FNIR: found(sum(search.is_missed_at(threshold) for search in mated), len(mated), "nobody enrolled"),
    }
    return Row(labels, threshold, rates, more)


def _shown(searches: Sequence[Search], threshold: Threshold) -> float:
    return sum(similarity >= threshold.least for search in searches for _, similarity in search.false) / len(searches)


def _lead(points: Sequence[Row], thresholds: Sequence[Threshold]) -> str:
    said = [
        f"at {threshold.name} {_count(row.rates[FPIR])} brought up somebody else, and {_count(row.rates[FNIR])} whose second "
        "photograph was enrolled were missed"
        for row, threshold in zip(points, thresholds, strict=True)
        if threshold.similarity is not None
    ]
    return f"Of the people searched for, {'; '.join(said)}." if said else "No threshold: every search brings up somebody."


def _summary(points: Sequence[Row]) -> tuple[str, ...]:
    return tuple(
        f"threshold {row.threshold.name}: {_count(row.rates[FPIR])} brought up somebody else, FPIR {text(row.rates[FPIR])}; "
        f"{_count(row.rates[FNIR])} were missed, FNIR {text(row.rates[FNIR])}"
        for row in points
    )


def _count(rate: Found) -> str:
    return f"{rate.errors:,} of {rate.trials:,}" if isinstance(rate, Rate) else f"({rate.reason})"


def _failures(searches: Sequence[Search], enrolled: Sequence[Mapping[str, str]]) -> str:
    probes, faces = sum(bool(search.failure) for search in searches), sum(bool(row["failure"]) for row in enrolled)
    return (
        f"Failures to enrol: {probes:,} probes and {faces:,} photographs of the gallery gave no template. A failed probe brings up "
        "nobody, so that it counts as a search without a false match and, where the person was enrolled, as a miss."
    )


def _invalid(searches: Sequence[Search], thresholds: Sequence[Threshold], size: int, source: Mapping[str, Any]) -> tuple[str, ...]:
    reasons = [f"the threshold '{threshold.name}' is not known" for threshold in thresholds if threshold.origin == "unknown"]
    applied = source["applied"]
    if applied is None:
        reasons.append(f"the threshold that the endpoint applied is not known ({source['why']})")
    elif applied != NO_THRESHOLD:
        below = [threshold.name for threshold in thresholds if threshold.least < applied]
        reasons += [f"the endpoint applied a threshold of {applied:g}, above {', '.join(below)}"] * bool(below)
    elif short := sum(len(search.false) < min(DEPTH, size) for search in searches if not search.failure):
        reasons.append(f"{short:,} searches answered fewer candidates than there are, though no threshold was asked for")
    return tuple(reasons)


def _other_galleries(searches: Sequence[Search], enrolled: Sequence[Mapping[str, str]], points: Sequence[Row]) -> list[Block]:
    """Who in the gallery the false matches rest on, and how sure the FPIR is if other people were enrolled: people drawn on both sides."""
    if not points:
        return []
    subject = {row["reference"]: row["subject"] for row in enrolled}
    found = [[{subject[name] for name, score in search.false if score >= row.threshold.least} for search in searches] for row in points]
    sought = {search.subject for search in searches}
    # Of all others it matters only how many they are.
    told = sorted(sought.union(*(people for who in found for people in who if len(people) == 1)))
    number, everybody = {name: i for i, name in enumerate(told)}, len(sought.union(subject.values()))
    weights = resampling.draw(everybody, DRAWS, SEED, len(told))
    person, rows = np.array([number[search.subject] for search in searches]), []
    for row, who in zip(points, found, strict=True):
        culprit = [NOBODY if not people else SEVERAL if len(people) > 1 else number[next(iter(people))] for people in who]
        by_person = Counter(name for people in who for name in people)
        rates = {**row.rates, "both": resampling.searched(weights, person, np.array(culprit), everybody).rate}
        rows.append(Row({}, row.threshold, rates, {"people": len(by_person), "most": max(by_person.values(), default=0)}))
    note = (
        f"The FPIR of above, whose interval stands for other people searched for in this gallery, and the same with those enrolled drawn "
        f"anew as well ({DRAWS:,} draws of people, seed {SEED}): what rests on one enrolled person comes and goes with that person. {STAR}"
    )
    headings = {FPIR: "other searches [95 %]", "both": "another gallery too [95 %]", FNIR: HEADINGS[FNIR]}
    columns = [Column("people", "enrolled people brought up", "count"), Column("most", "most searches by one of them", "count")]
    return [rate_table("other_galleries", "If other people were enrolled", rows, [], headings, columns, note)]


def _curves(searches: Sequence[Search], mated: Sequence[Search], thresholds: Sequence[Threshold]) -> list[Figure]:
    false = np.array([search.best_false for search in searches])
    mates = np.array([-np.inf if search.mate is None else search.mate for search in mated])
    series = {"best of a gallery without the person": false[np.isfinite(false)]}
    if mated:
        series["second photograph of the person"] = mates[np.isfinite(mates)]
    drawn = [
        plots.histogram(
            "similarities",
            "The best candidate of each search for somebody not enrolled, and the person's own second photograph.",
            series,
            thresholds,
        )
    ]
    if not mated:
        return drawn
    at = np.unique(np.concatenate([false[np.isfinite(false)], mates[np.isfinite(mates)], [np.inf]]))
    falling, rising = (false[None, :] >= at[:, None]).mean(axis=1), (mates[None, :] < at[:, None]).mean(axis=1)
    marks = {
        threshold.name: (float(np.mean(false >= threshold.least)), float(np.mean(mates < threshold.least)))
        for threshold in thresholds
        if threshold.similarity is not None
    }
    caption = "Misses against false matches over all thresholds (DET, normal-deviate axes). Grey: fewer than 30 errors."
    drawn.append(plots.det("det", caption, falling, rising, ("FPIR", "FNIR"), (len(searches), len(mated)), marks))
    ranks = [search.rank for search in mated if search.rank]
    caption = "Without a threshold: the share of enrolled people whose second photograph is among the first candidates (CMC)."
    drawn.append(plots.cmc("cmc", caption, ranks, len(mated), 20))
    return drawn


def _groups(searches: Sequence[Search], thresholds: Sequence[Threshold], by: Sequence[str]) -> list[Block]:
    if not by or not thresholds:
        return [Text("No labels were given: rates by group were not measured. It does not follow that they are alike.")]
    rows: list[Row] = []
    compared: list[Compared] = []
    for column in by:
        groups: dict[str, list[Search]] = {}
        for search in searches:
            groups.setdefault(group_of(search.labels, column), []).append(search)
        for threshold in thresholds:
            false = sum(search.is_false_at(threshold) for search in searches)
            points = [_group(column, group, threshold, own, len(searches), false) for group, own in sorted(groups.items())]
            rows += points
            compared += [
                Compared(
                    column,
                    threshold,
                    name,
                    {str(row.labels["group"]): row.rates[name] for row in points if row.labels["group"] != UNLABELLED},
                )
                for name in (FPIR, FNIR)
            ]
    table = rate_table(
        "groups",
        "By group",
        rows,
        [Column("by", "by"), Column("group", "group")],
        HEADINGS,
        [Column("of_searched", "of those searched for", "share"), Column("of_false", "of those falsely matched", "share")],
        "Labels are those of the data set. The last two columns are shares of all, not rates: who was looked up, and who was falsely "
        f"matched. {INTERVALS} {STAR}",
    )
    lowest = min(thresholds, key=lambda threshold: threshold.least)
    drawn = [
        plots.groups(
            f"groups_{name}",
            f"{name.upper()} by group at {lowest.name}, with 95 % intervals; the other rate stands in the table and in the other figure.",
            {f"by {one.by}": one.rates for one in compared if one.rate == name and one.threshold == lowest},
            f"{name.upper()} at {lowest.name}",
        )
        for name in (FPIR, FNIR)
    ]
    return [table, *drawn, disparities("disparities", compared)]


def _group(by: str, group: str, threshold: Threshold, own: Sequence[Search], searches: int, false: int) -> Row:
    wrong = sum(search.is_false_at(threshold) for search in own)
    shares: dict[str, Cell] = {"of_searched": len(own) / searches, "of_false": wrong / false if false else None}
    return _point({"by": by, "group": group}, threshold, own, shares)


def _promises(source: Mapping[str, Any], thresholds: Sequence[Threshold], size: int, points: Sequence[Row]) -> list[Block]:
    """What our own scale promises at these thresholds, beside what was found; nothing for an endpoint with another scale."""
    if "calibration" not in source:
        return []
    rows = []
    for threshold, row in zip(thresholds, points, strict=True):
        fmr = fmr_at(threshold.least)
        beyond = "extrapolated" if fmr < source["measured_limit"] * (1 - 1e-9) else "measured"
        rates = {"found": row.rates[FPIR], FNIR: row.rates[FNIR]}
        rows.append(
            Row(
                {},
                threshold,
                rates,
                {"fmr": fmr, "expected": expected_false(fmr, size), "promised": fpir(fmr, size), "calibration": beyond},
            )
        )
    return [
        rate_table(
            "promises",
            f"What the scale promises in a gallery of {size:,}, and what was found",
            rows,
            [],
            {"found": "FPIR found [95 %]", FNIR: HEADINGS[FNIR]},
            [
                Column("fmr", "FMR promised", "number"),
                Column("expected", "false candidates expected", "number"),
                Column("promised", "FPIR promised", "share"),
                Column("calibration", "calibration there"),
            ],
            f"Calibration {source['calibration']}. {INTERVALS} {STAR}",
        )
    ]


def _pairs(searches: Sequence[Search], thresholds: Sequence[Threshold], inputs: Mapping[str, bytes]) -> list[Block]:
    if not thresholds:
        return [Text("Without a threshold every candidate is one.")]
    pairs = false_pairs(searches, min(threshold.least for threshold in thresholds))
    if not pairs:
        return [Text("There was none at any of the thresholds.")]
    columns = (
        Column("number", "#", "count"), Column("probe", "probe"), Column("reference", "reference"),
        Column("similarity", "similarity", "number"), Column("reaches", "reaches"),
    )  # fmt: skip
    rows, pictures = [], []
    for place, (probe, reference, similarity) in enumerate(pairs, start=1):
        reaches = ", ".join(threshold.name for threshold in thresholds if similarity >= threshold.least)
        rows.append((place, probe, reference, similarity, reaches))
        name = f"{PICTURES}/{place:04}.jpg"
        if name in inputs:
            pictures.append(Picture(name, f"{place}: {probe} and {reference}, similarity {similarity:.1f}", inputs[name]))
    blocks: list[Block] = [Table("false_matches", "Every false match at the lowest threshold", columns, tuple(rows))]
    if pictures:
        warning = "These pairs show different people, unless the labels are wrong. They stay in this folder: publish none of them."
        blocks += [Notice(warning), Pictures(tuple(pictures))]
    return blocks


def false_pairs(searches: Sequence[Search], least: float) -> list[tuple[str, str, float]]:
    """Every false candidate (probe, reference, similarity) from `least` on, highest similarity first."""
    pairs = [(search.probe, reference, similarity) for search in searches for reference, similarity in search.false if similarity >= least]
    return sorted(pairs, key=lambda pair: (-pair[2], pair[0], pair[1]))


def _footer(parameters: Mapping[str, Any]) -> str:
    source = "; ".join(f"{name} {value}" for name, value in parameters["source"].items() if isinstance(value, str | int | float))
    data = "; ".join(
        f"{name}: {one['name']} ({one['photographs']:,} photographs, sha256 {one['sha256'][:16]})"
        for name, one in parameters["data"].items()
    )
    return f"Photographs: {data}. Scores: {source}."
