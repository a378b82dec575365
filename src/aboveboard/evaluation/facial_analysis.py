"""The facial-analysis study: Gender Shades' method on any labelled photographs: how often a service says the wrong gender, by group.

The method is Buolamwini and Gebru's (PMLR 81, 2018). A service sees each photograph once and says a gender; faces it did not find
are counted apart, since published rates leave them out. No similarity is compared with anything, so that no similarity threshold applies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aboveboard.errors import BadRequest
from aboveboard.evaluation import plots
from aboveboard.evaluation.disparity import standing_of
from aboveboard.evaluation.findings import Report, group_of, rows_of
from aboveboard.evaluation.groups import Compared, disparities
from aboveboard.evaluation.rates import Found, Rate, difference, found
from aboveboard.evaluation.report import INTERVALS, NOT_APPLICABLE, STAR, Row, rate_table, text
from aboveboard.reporting.page import Block, Heading, Notice, Page, Text
from aboveboard.reporting.tables import Cell, Column, Table, percent

ANSWERS, COUNTS = "answers.csv", "counts.csv"
ANSWER_COLUMNS = ("photograph", "truth", "answer", "confidence", "failure")
COUNT_COLUMNS = ("study", "group", "errors", "faces", "source")
NOT_ASSESSED = "not assessed"
"""What stands as the failure where a face was found and nothing was said about it."""
OVERALL = "all"
"""The group of all faces: last of the counts of a study, or else their sum."""
NO_THRESHOLD = (
    "No similarity threshold applies to anything on this page. A similarity compares two faces; here each face is looked at alone and a "
    "label is said about it. A threshold of 80, 95 or 99 for matching, raised or lowered, changes none of these figures."
)
_LABELS = (
    "Gender is what the labels of the photographs say, not what the people said of themselves. A service that knows two words only is "
    "measured with two words only."
)


@dataclass(frozen=True, slots=True)
class Group:
    """Faces of one group: `wrong` of `classified`; `unfound` were not found, of `unsaid` nothing was said."""

    name: str
    wrong: int
    classified: int
    unfound: int = 0
    unsaid: int = 0

    @property
    def faces(self) -> int:
        return self.classified + self.unfound + self.unsaid

    def error(self) -> Found:
        """The error rate among the faces of which something was said, as it is published."""
        return found(self.wrong, self.classified, NOT_ASSESSED)

    def error_of_all(self) -> Found:
        """The error rate where a face that was not found, or of which nothing was said, counts as an error."""
        return found(self.faces - self.classified + self.wrong, self.faces, "no face")


def findings(parameters: Mapping[str, Any], inputs: Mapping[str, bytes]) -> Report:
    """The study's page from its inputs: the answers of an endpoint, or published counts of several."""
    studies = _counted(inputs[COUNTS]) if COUNTS in inputs else {parameters["source"]["endpoint"]: _answered(parameters, inputs)}
    sources = sorted({(row["study"], row["source"]) for row in rows_of(inputs[COUNTS], COUNTS)}) if COUNTS in inputs else []
    assessed = {study: groups for study, groups in studies.items() if any(group.classified for group in groups)}
    table, gaps = _table(studies), _gaps(assessed)
    blocks: list[Block] = [Notice(NO_THRESHOLD)]
    blocks += [Notice(_not_assessed(study, groups), "warning") for study, groups in studies.items() if study not in assessed]
    blocks += [table]
    if assessed:
        panels: dict[str, Mapping[str, Found]] = {
            study: {group.name: group.error() for group in groups} for study, groups in assessed.items()
        }
        compared = [
            Compared(study, NOT_APPLICABLE, "error", {name: rate for name, rate in rates.items() if name != OVERALL})
            for study, rates in panels.items()
        ]
        drawn = plots.groups("wrong_by_group", "Share of faces whose gender was said wrongly, with 95 % intervals.", panels, "wrong gender")
        blocks += [drawn, Heading("How far apart"), gaps, disparities("disparities", compared)]
    if sources:
        blocks += [
            Heading("Sources"),
            Table("sources", "Where the counts come from", (Column("study", "study"), Column("source", "source")), tuple(sources)),
        ]
    blocks += [Heading("What this does not show"), Text(_LABELS)]
    title = "Facial analysis: whose gender is said wrongly"
    page = Page(title, _lead(assessed), tuple(blocks), _footer(parameters))
    lines = [
        f"{study}, {group.name}: wrong {text(rate)}"
        + (f", {rate.errors:,} of {rate.trials:,}" if isinstance(rate, Rate) else f", of {group.faces:,}")
        for study, groups in studies.items()
        for group, rate in ((group, group.error()) for group in groups)
    ]
    return Report(page, (*lines, NO_THRESHOLD))


def _answered(parameters: Mapping[str, Any], inputs: Mapping[str, bytes]) -> list[Group]:
    rows = rows_of(inputs[ANSWERS], ANSWERS, ANSWER_COLUMNS)
    if not rows:
        raise BadRequest(f"{ANSWERS} has no rows: no photograph was looked at")
    members: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        members.setdefault(group_of(row, parameters["by"]), []).append(row)
    return [*(_group(name, own) for name, own in sorted(members.items())), _group(OVERALL, rows)]


def _group(name: str, rows: Sequence[Mapping[str, str]]) -> Group:
    said = [row for row in rows if row["answer"]]
    unsaid = sum(row["failure"] == NOT_ASSESSED for row in rows)
    wrong = sum(row["answer"].casefold() != row["truth"].casefold() for row in said)
    return Group(name, wrong, len(said), len(rows) - len(said) - unsaid, unsaid)


def _counted(content: bytes) -> dict[str, list[Group]]:
    studies: dict[str, list[Group]] = {}
    for row in rows_of(content, COUNTS, COUNT_COLUMNS):
        try:
            group = Group(row["group"], int(row["errors"]), int(row["faces"]))
            Rate.of(group.wrong, group.classified)
        except ValueError as error:
            raise BadRequest(f"{COUNTS}, '{row['study']}', {row['group']}: {error}") from error
        studies.setdefault(row["study"], []).append(group)
    if not studies:
        raise BadRequest(f"{COUNTS} has no rows; write one for each group of each study")
    for groups in (groups for groups in studies.values() if groups[-1].name != OVERALL):
        groups.append(Group(OVERALL, sum(group.wrong for group in groups), sum(group.classified for group in groups)))
    return studies


def _table(studies: Mapping[str, Sequence[Group]]) -> Table:
    rows = [
        Row(
            {"study": study, "group": group.name, "faces": group.faces},
            NOT_APPLICABLE,
            {"error": group.error(), "error_of_all": group.error_of_all()},
            {"unfound": group.unfound, "unsaid": group.unsaid},
        )
        for study, groups in studies.items()
        for group in groups
    ]
    return rate_table(
        "groups",
        "Wrong gender, by group",
        rows,
        [Column("study", "endpoint"), Column("group", "group"), Column("faces", "faces", "count")],
        {"error": "of faces classified [95 %]", "error_of_all": "of all faces [95 %]"},
        [Column("unfound", "not found", "count"), Column("unsaid", NOT_ASSESSED, "count")],
        "Of faces classified: as such rates are published. Of all faces: one that was not found, or of which nothing was said, counts as "
        f"an error. {INTERVALS.replace('people searched once each', 'one photograph a person')} {STAR}",
        with_threshold=False,
    )


def _gaps(studies: Mapping[str, Sequence[Group]]) -> Table:
    """The difference of every group from the one with the lowest rate, in points, with its interval."""
    lines: list[tuple[Cell, ...]] = []
    for study, groups in studies.items():
        rates = {group.name: rate for group in groups if group.name != OVERALL and isinstance(rate := group.error(), Rate)}
        if len(rates) < 2:
            continue
        lowest = min(rates, key=lambda name: (rates[name].value, name))
        for name, rate in rates.items():
            if name == lowest:
                continue
            gap, low, high = difference(rate, rates[lowest], math.comb(len(rates), 2))
            standing = standing_of(low, (rate, rates[lowest]))
            shown = f"{percent(gap)} [{percent(low)}, {percent(high)}]"
            lines.append((study, name, lowest, f"{rate.errors:,} and {rates[lowest].errors:,}", gap, low, high, shown, standing))
    columns = (
        Column("study", "endpoint"), Column("group", "group"), Column("lowest", "compared with"), Column("errors", "errors"),
        Column("gap", "", "share", in_page=False), Column("low", "", "share", in_page=False), Column("high", "", "share", in_page=False),
        Column("shown", "gap in points [95 %]", in_data=False), Column("standing", "standing"),
    )  # fmt: skip
    note = (
        "Gap: of faces classified, Newcombe's interval, 95 % for all pairs of groups together (Bonferroni). 'insufficient': it "
        "reaches 0 and one of the two has fewer than 30 errors; neither that nor 'not told apart' means that there is no difference."
    )
    return Table("gaps", "Every group beside the one with the fewest errors", columns, tuple(lines), note)


def _not_assessed(study: str, groups: Sequence[Group]) -> str:
    faces = groups[-1].faces
    return (
        f"{study} says no gender: of {faces:,} photographs it classified none ({groups[-1].unfound:,} without a face found). Nothing was "
        "measured, and nothing follows about how it treats anybody."
    )


def _lead(studies: Mapping[str, Sequence[Group]]) -> str:
    said = []
    for study, groups in studies.items():
        rates = {group.name: rate for group in groups if isinstance(rate := group.error(), Rate)}
        own = {name: rate for name, rate in rates.items() if name != OVERALL} or rates
        worst, best = (choose(own, key=lambda name: own[name].value) for choose in (max, min))
        errors = {name: f"{percent(rate.value)} %" for name, rate in rates.items()}
        said.append(f"{study}: {errors[worst]} wrong of {worst}, {errors[best]} of {best}, {errors[OVERALL]} overall")
    return f"{'; '.join(said)}." if said else "Not assessed."


def _footer(parameters: Mapping[str, Any]) -> str:
    data = parameters.get("data")
    return f"Photographs: {data['name']} ({data['photographs']:,}, sha256 {data['sha256'][:16]})." if data else "Published counts."
