"""The transparency report as a page for people, made out of report.json alone: each number with what it means and what it does not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aboveboard.accountability.rules import OFFENCES, PURPOSES
from aboveboard.accountability.transparency import NONE, STATES
from aboveboard.reporting.bars import Bar, bars
from aboveboard.reporting.page import Block, Heading, Notice, Page, Text
from aboveboard.reporting.tables import Cell, Column, Table, number

DUTIES = {
    "compare": "the faces of one photograph beside the face of another",
    "search.image": "a photograph's face in a collection",
    "search.face": "an enrolled face in a collection",
    "search.subjects.image": "a photograph's face among the people of a collection",
    "search.subjects": "an enrolled person among the people of a collection",
    "collection.check": "a collection's own faces beside each other",
    "collection.scores": "counts of a collection's own scores",
    "subject.associate": "whether faces are one person's",
}
ORIGINS = {
    "request": "who searched named it",
    "policy": "the policy pack set it",
    "default": "nobody named one: the API's default",
    "gallery": "it follows from the size of the gallery",
    "none": "there was none",
}
_STATE_COLUMNS = tuple(Column(one, {"not_looked": "without a look"}.get(one, one), "count") for one in STATES)
_BANDS = ((99.0, "99 and over"), (95.0, "95 to 99"), (85.0, "85 to 95"), (80.0, "80 to 85"), (50.0, "50 to 80"), (0.0, "under 50"))
_LEADS = (
    "Candidates are leads, not identifications. A candidate is an enrolled face that is at least as similar as the threshold asks; it may "
    "be another person's. This record tells how searches were made, not who was right: what became of a candidate is not part of it."
)


def page(report: Mapping[str, Any]) -> Page:
    """The whole page."""
    agency, ledger = report["agency"], report["ledger"]
    title = f"Transparency report: face searches{f' of {agency}' if agency else ''}, {report['from']} to {report['to']}"
    footer = (
        f"Counted by Aboveboard from the first {ledger['size']:,} entries of the record {ledger['checkpoint'].partition(chr(10))[0]}, the "
        f"last of them of {ledger['last_entry'] or 'no time'}; their root (RFC 9162) is {ledger['root']}. Days are those of UTC. The same "
        "numbers stand in report.json and tables/."
    )
    lead = "What was searched for, under which rule and at which threshold, and what was refused: counted from the record of each search."
    return Page(title, lead, (Notice(_LEADS, "warning"), *map(_said, _blocks(report))), footer)


def _said(block: Block) -> Block:
    """A table without rows says that it has none."""
    if isinstance(block, Table) and not block.rows:
        return Table(block.name, block.title, block.columns, (), "None in this period.")
    return block


def _blocks(report: Mapping[str, Any]) -> Iterator[Block]:
    totals = report["totals"]
    yield _headline(totals)
    yield from _searches(totals)
    yield from _thresholds(totals)
    yield from _candidates(totals)
    yield from _rules(report)
    yield from _authority(totals)
    yield from _kept(totals)
    yield from _recount(report)


def _headline(totals: Mapping[str, Any]) -> Table:
    searches, candidates, thresholds = totals["searches"]["all"], totals["candidates"], totals["thresholds"]
    rows: list[tuple[Cell, ...]] = [
        (
            "searches made", f"{searches['made']:,}",
            "Somebody looked for a person: a face was searched for in a collection, or compared with another photograph's.",
            "Not a number of people: one person may be searched for many times, and each search compares with everybody in the gallery.",
        ),
        (
            "searches refused", f"{searches['refused']:,}",
            "A rule said no before anything was compared.",
            "Not all of it is misuse: a certificate that had ended, or a form that lacked a purpose, is refused as well.",
        ),
        (
            "searches without a threshold", f"{thresholds['without']:,} ({_share(thresholds['without'], searches['made'])})",
            "The list was filled with the most similar faces, however unlike they were.",
            "For somebody who is not enrolled every candidate of such a list is another person: 5 of 5 wrong.",
        ),
        (
            "candidates returned", f"{candidates['returned']:,}",
            "Enrolled faces that were put before somebody as possibly the person looked for.",
            "Not identifications, and not people: the same face may come up in many searches.",
        ),
        (
            "false candidates to expect", number(totals["expected_false_candidates"]["all"]),
            "So many candidates chance brings up, by the calibration, where a threshold applied, if nobody looked for is enrolled.",
            "Not a count of errors, and no upper bound: relatives, bad photographs and a gallery unlike the calibration's make more.",
        ),
        (
            "looks without an outcome", f"{totals['gaps']['looks_without_outcome']:,}",
            "The record announces a comparison and does not say how it ended: the server was stopped in between.",
            "Not an answer that went unrecorded: nothing is answered before its outcome is written.",
        ),
    ]  # fmt: skip
    columns = [Column("number", "number"), Column("value", "value"), Column("means", "what it means")]
    return Table("headline", "The period in six numbers", (*columns, Column("means_not", "what it does not mean")), tuple(rows))


def _searches(totals: Mapping[str, Any]) -> Iterator[Block]:
    searches = totals["searches"]
    yield Heading("Searches")
    yield Text(
        "A search is refused, or it is made. Of those made each was answered; or withheld, because something was suspended or the gallery "
        "was found unfit while it ran; or it was without a look, as when the photograph had no face; or it is unfinished. The purpose and "
        f"the offence are those of its case; '{NONE}' is a search outside any case, or for a purpose that needs no offence."
    )
    purposes = searches.get("by_purpose", {})
    yield bars("purposes", "Searches made, by purpose.", [Bar(name, one.get("made", 0), name == NONE) for name, one in _ranked(purposes)])
    yield _states("searches_by_purpose", "Searches by purpose", "purpose", purposes, PURPOSES)
    yield _states("searches_by_offence", "Searches by offence", "offence", searches.get("by_offence", {}), OFFENCES)
    yield _states("searches_by_duty", "Searches by kind", "kind", searches.get("by_duty", {}), DUTIES)
    yield _states("searches_by_policy", "Searches by policy pack", "policy pack", searches.get("by_policy", {}), {})
    yield _states("searches_by_month", "Searches by month", "month", searches.get("by_month", {}), {})
    for name in ("operator", "collection"):
        if f"by_{name}" in searches:
            yield _states(f"searches_by_{name}", f"Searches by {name}", name, searches[f"by_{name}"], {})
    yield _states("other_looks", "Other comparisons: the records office's own", "kind", totals.get("other_looks", {}), DUTIES)
    note = "Why a search that was made compared nothing, or answered nothing."
    kept = [("without a look", name, count) for name, count in totals.get("not_looked", {}).items()]
    kept += [("withheld", name, count) for name, count in totals.get("withheld", {}).items()]
    yield _table("unanswered", "Searches made and not answered", ["state", "reason"], kept, "looks", note)


def _thresholds(totals: Mapping[str, Any]) -> Iterator[Block]:
    thresholds, made = totals["thresholds"], totals["searches"]["all"]["made"]
    yield Heading("Thresholds")
    yield Text(
        "The threshold is the least similarity, 0 to 100, that is answered as a candidate. It is no probability: 99 does not mean that a "
        "candidate is the right person with 99 %. The lower it is, the more wrong candidates come up, and the more so the larger the "
        "gallery; the higher it is, the more often somebody who is enrolled is missed."
    )
    without = thresholds["without"]
    yield Notice(
        f"{without:,} of {made:,} searches ({_share(without, made)}) were made without any threshold.", "warning" if without else "note"
    )
    rows = [
        (purpose, offence, origin, threshold, count)
        for purpose, offences in thresholds.get("histogram", {}).items()
        for offence, origins in offences.items()
        for origin, found in origins.items()
        for threshold, count in sorted(found.items(), key=lambda item: -1.0 if item[0] == "none" else float(item[0]))
    ]
    yield bars("thresholds", "Searches made, by the threshold that was applied.", list(_bands(rows)))
    origins = [(name, ORIGINS.get(name, ""), count) for name, count in thresholds.get("by_origin", {}).items()]
    yield _table("threshold_origins", "Where thresholds came from", ["origin", "what that is"], origins, "searches")
    note = "Thresholds in tenths, cut, never rounded up: 99.0 stands for 99.0 up to 99.1."
    yield _table("thresholds", "Thresholds", ["purpose", "offence", "origin", "threshold"], rows, "searches", note)


def _bands(rows: Sequence[tuple[str, str, str, str, int]]) -> Iterator[Bar]:
    counts = dict.fromkeys(["none", *(name for _, name in _BANDS)], 0)
    for *_, threshold, count in rows:
        counts["none" if threshold == "none" else next(name for least, name in _BANDS if float(threshold) >= least)] += count
    for name, count in counts.items():
        yield Bar("no threshold" if name == "none" else name, count, name == "none")


def _candidates(totals: Mapping[str, Any]) -> Iterator[Block]:
    candidates, below = totals["candidates"], totals["below_threshold"]
    yield Heading("Candidates")
    caption = "Searches answered, by how many candidates they returned."
    yield bars("lists", caption, [Bar(f"{name} candidate{'s' * (name != '1')}", count) for name, count in candidates["lists"].items()])
    lists = [(name, count) for name, count in candidates["lists"].items()]
    yield _table("candidate_lists", "How long candidate lists were", ["candidates"], lists, "searches")
    numbers = [
        ("candidates returned", candidates["returned"], "at or above the threshold, or in a list without one"),
        ("of these, in searches without a threshold", candidates["returned_without_threshold"], "the most similar faces, however unlike"),
        ("searches answered without names", candidates["searches_without_identities"], "a review comes before anybody learns who it is"),
        ("searches with candidates below the threshold", below["searches"], "kept sealed with the case, shown to nobody without a reason"),
        ("candidates below the threshold that were kept", below["kept"], ""),
        ("times that somebody asked for them, with a reason", below["asked_for"], ""),
        ("candidates below the threshold that were shown", below["disclosed"], "likelier to be other people than those above it"),
    ]  # fmt: skip
    yield Table("candidates", "Candidates", _columns(["number"], "count", "remark"), tuple(numbers))
    expected = [(name, round(value, 6)) for name, value in totals["expected_false_candidates"].items()]
    columns = (Column("purpose", "purpose"), Column("expected_false", "false candidates to expect", "number"))
    note = "N x FMR of each answered search that had a threshold, summed: what chance brings up if nobody looked for was enrolled."
    yield Table("expected_false", "False candidates to expect", columns, tuple(expected), note)


def _rules(report: Mapping[str, Any]) -> Iterator[Block]:
    totals = report["totals"]
    refusals, departures = totals.get("refusals", {}), totals.get("departures", {})
    yield Heading("Rules")
    yield Text(
        "A rule is enforced: what breaks it is refused. Or it is only asked to be kept: what breaks it is done, with a reason or without "
        "one, and recorded here as a departure. A rule's name begins with its policy pack."
    )
    by_rule = sorted(((rule, sum(duties.values())) for rule, duties in refusals.items()), key=lambda one: (-one[1], one[0]))
    yield bars("refusals", "Refusals of anything, not of searches alone, by rule.", [Bar(rule, count) for rule, count in by_rule])
    rows = [(rule, duty, count) for rule, duties in refusals.items() for duty, count in duties.items()]
    yield _table("refusals", "Refusals", ["rule", "what was refused"], rows, "refusals")
    made = totals["searches"].get("by_policy", {})
    kept = []
    for rule, found in departures.items():
        under = sum(one.get("made", 0) for name, one in made.items() if name.rpartition(" ")[0] == rule.partition("/")[0])
        departed = found.get("searches", 0)
        kept.append((rule, under, departed, departed / under if under else None, found.get("other_looks", 0)))
    columns = (
        Column("rule", "rule"), Column("searches", "searches made under its pack", "count"),
        Column("departed", "of these, not kept", "count"),
        Column("share", "share", "share"), Column("other_looks", "other comparisons, not kept", "count"),
    )  # fmt: skip
    yield Table("departures", "Rules that were not kept, and what was done all the same", columns, tuple(kept))
    modes = {"reason": "a reason is asked for", "record": "it is recorded"}
    lax: list[tuple[Cell, ...]] = []
    for sha256, rules in report["not_enforced"].items():
        named = totals["policies"][sha256]["id"], totals["policies"][sha256]["version"]
        lax += [(*named, rule, modes.get(one["mode"], one["mode"]), one["citation"]) for rule, one in (rules or {}).items()]
        lax += [(*named, "unknown", "unknown", "the pack's text was not kept")] if rules is None else []
    headings = ("policy pack", "version", "rule", "where it is not kept", "what it rests on")
    keys = ("policy", "version", "rule", "mode", "citation")
    lines = tuple(Column(key, heading) for key, heading in zip(keys, headings, strict=True))
    yield Table("not_enforced", "Rules that are not enforced", lines, tuple(lax))


def _authority(totals: Mapping[str, Any]) -> Iterator[Block]:
    cases = totals["cases"]
    yield Heading("Cases, documents, certificates, suspensions")
    numbers: list[tuple[Cell, ...]] = [
        ("cases opened", cases["opened"], ""),
        ("of these, as emergencies", cases["emergencies"], "the document may follow within the hours that the pack grants"),
        ("cases closed", cases["closed"], ""),
        ("keys made for cases", cases["keys"], "each works in one case alone, for 12 hours at most"),
        ("certificates entered", totals["certificates"]["entered"], "an operator passed a test"),
        ("certificates ended before their day", totals["certificates"]["ended"], ""),
        ("suspensions asked to be lifted", totals["suspensions"]["lift_asked"], "by a first person"),
        ("suspensions lifted", totals["suspensions"]["lifted"], "by a second one"),
    ]
    yield Table("authority", "Cases and standing", _columns(["number"], "count", "remark"), tuple(numbers))
    suspended = totals["suspensions"].get("made", {})
    made = [(scope, because, count) for scope, found in suspended.items() for because, count in found.items()]
    yield _table("suspensions", "Suspensions", ["of", "because of"], made, "suspensions", "A rule's name: it suspended by itself.")
    opened = [("purpose", name, count) for name, count in cases.get("by_purpose", {}).items()]
    opened += [("offence", name, count) for name, count in cases.get("by_offence", {}).items()]
    yield _table("cases", "Cases opened", ["by", "which"], opened, "cases")
    papers = [(kind, state, count) for kind, found in totals.get("documents", {}).items() for state, count in found.items()]
    note = "Each time one was entered: a document that was requested and then granted was entered twice."
    yield _table("documents", "Authority documents", ["kind", "state"], papers, "entered", note)


def _kept(totals: Mapping[str, Any]) -> Iterator[Block]:
    yield Heading("Policy packs")
    yield Text("The text of each pack lies in policies/; its sha256 is the one here and the one that the record names with each decision.")
    names = ("id", "version", "known_since", "first_used", "last_used", "decisions", "signed_by", "sha256")
    rows = sorted(tuple({**one, "sha256": sha256}.get(name, "") for name in names) for sha256, one in totals["policies"].items())
    in_page = ("id", "version", "decisions")
    columns = tuple(Column(name, name, "count" if name == "decisions" else "text", name in in_page) for name in names)
    since = (Column("since", "known since", in_data=False),)
    note = "Decisions: searches, comparisons and refusals of the period that it decided."
    yield Table("policies", "Policy packs in force", (*columns, *since), tuple((*row, row[2][:10]) for row in rows), note)
    # In lines of their own: beside other columns a hash does not fit on paper.
    yield from (Text(f"{row[0]} {row[1]}: sha256 {row[-1]}") for row in rows)
    settings = [(_words(name), value) for name, value in totals["settings"].items()]
    yield Table("settings", "At the server's last start", (Column("setting", "setting"), Column("value", "value")), tuple(settings))
    yield Heading("Galleries, and what was handed out")
    for name, title in (("galleries", "Galleries"), ("handed_out", "Handed out")):
        numbers = [(_words(key), count) for key, count in totals[name].items()]
        yield _table(name, title, ["number"], numbers, "count")
    yield Heading("Gaps in the record")
    yield Text(
        "The record counts its entries, and each is hashed with those before it. A look without an outcome, a server that started without "
        "having stopped, a clock that was set back: each is a moment of which the record says less."
    )
    gaps = [(_words(key), count) for key, count in totals["gaps"].items()]
    yield _table("gaps", "Gaps", ["number"], gaps, "count")
    yield _table("entries", "Entries of the record, by type", ["type"], list(totals.get("entries", {}).items()), "entries")


def _recount(report: Mapping[str, Any]) -> Iterator[Block]:
    yield Heading("Count it again")
    yield Text(
        "Who is given the record (aboveboard ledger export) recounts every number: aboveboard ledger verify BUNDLE --report report.json. "
        "That this report was made, and what it said, is an entry of the record itself, by the sha256 of report.json."
    )
    shown = [name for name, is_shown in report["shows"].items() if is_shown]
    if not shown:
        yield Text(
            "It names no operator and no collection, and no person who was searched for or found: the record does not hold the latter."
        )


def _states(name: str, title: str, heading: str, found: Mapping[str, Mapping[str, int]], words: Mapping[str, str]) -> Table:
    """A row for each value of what searches are counted by, most first."""
    key = _key(heading)
    label = (Column(key, heading), Column("what", "")) if words else (Column(key, heading),)
    rows: list[tuple[Cell, ...]] = [
        (value, *([words.get(value, "")] if words else []), *(states.get(state, 0) for state in STATES)) for value, states in _ranked(found)
    ]
    return Table(name, title, (*label, *_STATE_COLUMNS), tuple(rows))


def _ranked(found: Mapping[str, Mapping[str, int]]) -> list[tuple[str, Mapping[str, int]]]:
    return sorted(found.items(), key=lambda item: (-item[1].get("made", 0), -item[1].get("refused", 0), item[0]))


def _columns(labels: Sequence[str], *more: str) -> tuple[Column, ...]:
    named = [Column(_key(label), label) for label in labels]
    counts = [Column(name, name, "text" if name == "remark" else "count") for name in more]
    return (*named, *counts)


def _table(name: str, title: str, labels: Sequence[str], rows: Sequence[tuple[Cell, ...]], count: str, note: str = "") -> Table:
    return Table(name, title, _columns(labels, count), tuple(rows), note)


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "of none"


def _words(key: str) -> str:
    return " ".join(key.split("_"))


def _key(words: str) -> str:
    return "_".join(words.split())
