"""policies/table.csv: what each pack says about each thing, written by hand from the texts that the packs cite.

One row is one look: who asks has the role investigator, asks for at most 5 candidates, and has a certificate of yesterday, unless the row
says otherwise. An empty purpose is a look without a case. Expected is `refuse RULE` or `allow THRESHOLD ORIGIN`, with a shorter list as
`limit N` and rules that were not kept, but are only recorded, as `; noted RULE ...`.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from aboveboard import strict
from aboveboard.accountability.catalogue import Policies
from aboveboard.accountability.packs import Pack, moment
from aboveboard.accountability.policy import Asked, CaseFacts, Certificate, Document, decide
from aboveboard.accountability.rules import ANY, EDITS, KINDS, OFFENCES, PROBES, PURPOSES

FOLDER = Path(__file__).parent / "policies"
POLICIES = Policies("general", "general", FOLDER)
PACKS = {pack.id: pack for pack in POLICIES.all()}
OVERLAY, OWN = (
    "agency",
    r"effective|threshold\.(fpir|floor )|threshold\.floors\.\d\.(similarity|fpir)|candidates|certificate|documents\.0\.[kse]",
)
"""The overlay in the folder, and what it adds to public-safety, whose words have rows of their own."""


def shown(time: datetime) -> str:
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def documents(text: str) -> tuple[str, tuple[Document, ...]]:
    """`emergency TIME; KIND REQUESTED granted|refused DECIDED`: when an emergency began, and the documents."""
    emergency, found = "", []
    for part in filter(None, text.split("; ")):
        kind, requested, *decided = part.split()
        if kind == "emergency":
            emergency = requested
        else:
            found.append(Document(kind, requested, decided[1] if decided else None, decided[0] == "granted" if decided else None))
    return emergency, tuple(found)


def certificate(text: str, at: str) -> Certificate | None:
    """`none`, or `MADE..UNTIL SCORE`; by default of yesterday, for long, and perfect."""
    if text == "none":
        return None
    dates, score = [*text.split(), "1"][:2] if text else (f"{shown(moment(at) - timedelta(days=1))}..2999-01-01", "1")
    made, until = dates.split("..")
    return Certificate(made, until, float(score))


def asked(row: dict[str, str]) -> Asked:
    probe, *edits = (row["probe"] or "photograph").split()
    emergency, papers = documents(row["documents"])
    case = CaseFacts(row["purpose"], "2999-01-01", row["offence"], "", emergency, papers, probe, tuple(edits))
    return Asked(
        row["duty"] or "search.image",
        ("investigator",),
        row["at"],
        float(row["threshold"]) if row["threshold"] else None,
        int(row["limit"] or 5),
        comparisons=int(row["comparisons"] or 1000),
        case=case if row["purpose"] else None,
        certificate=certificate(row["certificate"], row["at"]),
    )


def verdict(pack: Pack, look: Asked) -> str:
    decision = decide(pack, look)
    if not decision.is_allowed:
        return f"refuse {decision.rule.removeprefix(f'{pack.id}/')}"
    # To four decimals, for floors that follow from an FPIR.
    limit = f" limit {decision.limit}" if decision.limit != look.limit else ""
    noted = "; noted " + " ".join(name.removeprefix(f"{pack.id}/") for name in decision.departures) if decision.departures else ""
    return f"allow {round(decision.threshold, 4):g} {decision.origin}{limit}{noted}"


with (FOLDER / "table.csv").open() as opened:
    ROWS = list(csv.DictReader(opened))
LOOKS: dict[str, list[tuple[Asked, str]]] = defaultdict(list)
for _row in ROWS:
    LOOKS[_row["pack"]].append((asked(_row), _row["expected"]))


@pytest.mark.parametrize("pack", sorted(PACKS))
def test_the_packs_say_what_the_table_says(pack):
    """Every row of the pack, with its line in the file."""
    wrong = [
        f"line {line}: {verdict(PACKS[pack], asked(row))}, not {row['expected']} ({row['text']})"
        for line, row in enumerate(ROWS, start=2)
        if row["pack"] == pack and verdict(PACKS[pack], asked(row)) != row["expected"]
    ]
    assert not wrong, "\n".join(wrong)


def test_the_table_is_as_large_as_it_must_be():
    """At least 200 rows, of every pack that ships, each a look of its own; both verdicts for each."""
    assert len(ROWS) >= 200
    assert len({str(tuple(row[key] for key in list(row)[:-2])) for row in ROWS}) > 0.98 * len(ROWS)
    for pack in PACKS:
        assert {expected.split()[0] for _, expected in LOOKS[pack]} == {"allow", "refuse"}, pack


# --- is there a row for every word, number and date? ------------------------------------------------------------------------------


def changed(pack: Pack, value: object, *path: str | int) -> Pack:
    """The pack with another value at a path; not checked, as a change may well be one that cannot be loaded."""
    raw = pack.plain()
    part = raw
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return strict.table(Pack, raw, "changed")


def lists(held: list[str], known: object) -> Iterator[tuple[str, list[str]]]:
    """A list with one word less, and with one word more; `*` stands for all words."""
    whole = list(known) if ANY in held else held
    yield from ((f"without {word}", [one for one in whole if one != word]) for word in whole)
    yield from ((f"with {word}", [*held, word]) for word in known if word not in whole)


def second(text: str, by: int) -> str:
    return shown(moment(text) + timedelta(seconds=by))


def mutants(pack: Pack) -> Iterator[tuple[str, Pack]]:
    """Every pack that differs in one floor, date, word, kind, number or flag, and one that enforces less."""
    raw = pack.plain()

    def words(known: object, *path: str | int) -> Iterator[tuple[str, Pack]]:
        part = raw
        for key in path:
            part = part[key]
        for how, held in lists(part, known):
            yield f"{'.'.join(map(str, path))} {how}", changed(pack, held, *path)

    def values(path: tuple[str | int, ...], *others: object) -> Iterator[tuple[str, Pack]]:
        yield from ((f"{'.'.join(map(str, path))} {other}", changed(pack, other, *path)) for other in others)

    for key, none in (("effective_from", "2000-01-01"), ("effective_to", "2100-01-01")):
        yield from values((key,), *([second(raw[key], -1), second(raw[key], 1), ""] if raw[key] else [none]))
    allowed = [purpose for purpose in PURPOSES if pack.purposes.allows(purpose)]
    for how, held in lists(allowed, PURPOSES):
        yield f"purposes {how}", changed(changed(pack, held, "purposes", "allow"), [], "purposes", "deny")
    yield from values(("purposes", "required"), not raw["purposes"]["required"])
    if raw["offences"]["purposes"]:
        yield from words(OFFENCES, "offences", "allow")
        yield from words(allowed, "offences", "purposes")
    for i, rule in enumerate(raw["documents"]):
        yield from words(allowed, "documents", i, "purposes")
        yield from words(OFFENCES, "documents", i, "offences")
        yield from values(("documents", i, "kind"), *(kind for kind in KINDS if kind != rule["kind"]))
        yield from values(("documents", i, "state"), {"granted": "requested", "requested": "granted"}[rule["state"]])
        yield from values(("documents", i, "emergency_hours"), rule["emergency_hours"] + 1, max(0, rule["emergency_hours"] - 1) or 2)
    if raw["documents"]:
        yield from values(("documents",), [])
    yield from words(PROBES, "probes", "types")
    yield from words(EDITS, "probes", "edits")
    threshold = raw["threshold"]
    fpir = threshold["fpir"]
    yield from values(("threshold", "floor"), *(sorted({max(0, threshold["floor"] - 1), threshold["floor"] + 0.5} - {threshold["floor"]})))
    yield from values(("threshold", "absent"), *({max(0, threshold["absent"] - 1), threshold["absent"] + 0.5} - {threshold["absent"]}))
    yield from values(("threshold", "fpir"), *([fpir / 2, fpir * 2, 0.0] if fpir else [0.001]))
    yield from values(("threshold", "allow_none"), not threshold["allow_none"])
    yield from values(("threshold", "when_absent"), "refuse")
    for i, floor in enumerate(threshold["floors"]):
        yield from values(("threshold", "floors", i, "similarity"), floor["similarity"] - 1, min(100, floor["similarity"] + 0.2))
        yield from values(("threshold", "floors", i, "fpir"), *([floor["fpir"] / 2, 0.0] if floor["fpir"] else [0.001]))
        yield f"without floor {i}", changed(pack, [one for one in threshold["floors"] if one is not floor], "threshold", "floors")
        yield from words(allowed, "threshold", "floors", i, "purposes")
    maximum = raw["candidates"]["maximum"]
    yield from values(("candidates", "maximum"), maximum - 1, maximum + 1)
    held = raw["certificate"]
    yield from values(("certificate", "required"), not held["required"])
    if held["required"]:
        yield from values(
            ("certificate", "max_age_days"), *([held["max_age_days"] - 1, held["max_age_days"] + 1] if held["max_age_days"] else [365])
        )
    if held["least_score"]:
        yield from values(("certificate", "least_score"), held["least_score"] - 0.01, held["least_score"] + 0.01)


@pytest.mark.parametrize("pack", sorted(PACKS))
def test_no_floor_word_date_or_number_can_change_unnoticed(pack):
    """Each change of one of them in a pack breaks a row of the table, and there are many such changes."""
    changes = [(name, mutant) for name, mutant in mutants(PACKS[pack]) if pack != OVERLAY or re.match(OWN, name)]
    unnoticed = [name for name, mutant in changes if all(verdict(mutant, look) == expected for look, expected in LOOKS[pack])]
    assert not unnoticed, f"{len(unnoticed)} of {len(changes)}: {unnoticed}"
    assert len(changes) > (20 if pack == OVERLAY else 40)


@pytest.mark.parametrize("pack", sorted(PACKS))
def test_no_rule_can_be_weakened_unnoticed(pack):
    """Where a rule refuses something in the table, a weaker mode breaks a row; where it is only noted, so does a stronger one."""
    raw = PACKS[pack].plain()
    tables = {"purpose": "purposes", "offence": "offences", "probe": "probes", "certificate": "certificate"}
    seen = {word for _, expected in LOOKS[pack] for word in expected.replace(";", "").split()}
    for rule, table in tables.items():
        mode = {"enforce": "record", "record": "enforce"}[raw[table]["mode"]]
        other = changed(PACKS[pack], mode, table, "mode")
        is_noticed = any(verdict(other, look) != expected for look, expected in LOOKS[pack])
        assert is_noticed == (rule in seen), rule
