"""What a transparency report counts: a ledger written by hand against numbers counted by hand, a large one against SQL."""

from __future__ import annotations

import hashlib
import json
import random
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import rfc8785

from aboveboard.accountability.recount import recount
from aboveboard.accountability.transparency import Period, count, document
from aboveboard.errors import BadRequest
from aboveboard.reporting.tables import json_of
from aboveboard.storage.checkpoints import Checkpoints
from aboveboard.storage.secrets import Keyring

MARCH = Period("2027-03-01", "2027-03-31")
STRICT = {"id": "strict", "version": "1", "sha256": "aa" * 32}
OPEN = {"id": "open", "version": "3", "sha256": "bb" * 32}
SEARCHES = ("compare", "search.face", "search.image", "search.subjects", "search.subjects.image")


class Book:
    """A ledger that a test writes: each entry a minute after the one before, unless it says when."""

    def __init__(self, start: str = "2027-03-01T08:00:00.000Z") -> None:
        self.entries: list[dict[str, Any]] = []
        self.time = datetime.fromisoformat(start)
        self.looks = 0

    def write(self, kind: str, at: str = "", **facts: Any) -> None:
        self.time = datetime.fromisoformat(at) if at else self.time + timedelta(minutes=1)
        time = self.time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self.entries.append({"seq": len(self.entries), "time": time, "type": kind, **facts})

    def intent(self, value: float, origin: str, purpose: str = "", offence: str = "", policy: Any = STRICT, **more: Any) -> str:
        self.looks += 1
        duty, look = more.pop("duty", "search.image"), f"look-{self.looks}"
        case = {"case": {"purpose": purpose, "offence": offence}} if purpose else {}
        threshold = {"value": value, "origin": origin, "floor": 0}
        facts = {"audit_id": look, "duty": duty, "policy": policy, "asked": {"duty": duty, **case}, "threshold": threshold}
        self.write("look.intent", **{"operator": "o", "collection": {"id": "c", "faces": 5}, **facts, **more})
        return look

    def search(self, value: float, origin: str, purpose: str = "", offence: str = "", candidates: int = 0, **more: Any) -> None:
        """A search that was answered."""
        found = {name: more.pop(name) for name in ("below_threshold", "identities_withheld", "outcome_departures") if name in more}
        if "outcome_departures" in found:
            found["departures"] = found.pop("outcome_departures")
        look = self.intent(value, origin, purpose, offence, **more)
        shown = [{"commitment": "x", "similarity": value}] * candidates
        self.write("look.outcome", audit_id=look, looked=True, candidates=shown, expected_false=0.25, **found)

    @property
    def lines(self) -> list[bytes]:
        return [rfc8785.dumps(entry) for entry in self.entries]

    def totals(self, **how: bool) -> dict[str, Any]:
        return count(self.lines, MARCH, **how).totals


def test_known_violations_are_counted_exactly():
    """Followed, overridden and refused, by rule; with and without a threshold, by purpose, offence and origin."""
    book = Book()
    for _ in range(3):
        book.search(99, "policy", "suspect", "robbery", candidates=1, identities_withheld=True)
    book.search(99.97, "request", "suspect", "theft", candidates=2, departures=["strict/offence"])
    for _ in range(4):
        book.search(0, "none", "suspect", "robbery", candidates=5, policy=OPEN, departures=["open/threshold.none", "open/purpose"])
    book.search(95, "policy", "missing_person", candidates=0, below_threshold=4, outcome_departures=["strict/gallery"])
    book.search(80, "default", policy=OPEN, candidates=17)
    nothing = book.intent(99, "policy", "suspect", "robbery")
    book.write("look.outcome", audit_id=nothing, looked=False, reason="NoFace")
    stopped = book.intent(99, "policy", "suspect", "robbery")
    book.write("look.outcome", audit_id=stopped, looked=True, withheld="strict/suspended")
    book.intent(98.9, "request", "suspect", "robbery")
    check = book.intent(90, "gallery", duty="collection.check", policy=OPEN)
    book.write("look.outcome", audit_id=check, looked=True, pairs=[], departures=["open/gallery"])
    asked = {"duty": "search.image", "case": {"purpose": "suspect", "offence": "theft"}}
    for rule in ("strict/threshold.floor", "strict/threshold.floor", "strict/certificate"):
        book.write("refused", duty="search.image", rule=rule, policy=STRICT, asked=asked)
    book.write("refused", duty="face.enrol", rule="strict/roles", policy=STRICT, asked={"duty": "face.enrol"})
    totals = book.totals()
    assert totals["searches"]["all"] == {"made": 13, "answered": 10, "withheld": 1, "not_looked": 1, "unfinished": 1, "refused": 3}
    assert totals["searches"]["by_purpose"]["none named"] == {"made": 1, "answered": 1}
    assert totals["searches"]["by_purpose"]["missing_person"] == {"made": 1, "answered": 1}
    assert totals["searches"]["by_offence"]["theft"] == {"made": 1, "answered": 1, "refused": 3}
    assert totals["searches"]["by_policy"]["open 3"] == {"made": 5, "answered": 5}
    assert totals["searches"]["by_month"] == {
        "2027-03": {"made": 13, "answered": 10, "withheld": 1, "not_looked": 1, "unfinished": 1, "refused": 3}
    }
    assert totals["other_looks"] == {"collection.check": {"made": 1, "answered": 1}}
    assert totals["thresholds"] == {
        "with": 9,
        "without": 4,
        "by_origin": {"none": 4, "policy": 6, "request": 2, "default": 1},
        "histogram": {
            "suspect": {
                "robbery": {"policy": {"99.0": 5}, "none": {"none": 4}, "request": {"98.9": 1}},
                "theft": {"request": {"99.9": 1}},
            },
            "missing_person": {"none named": {"policy": {"95.0": 1}}},
            "none named": {"none named": {"default": {"80.0": 1}}},
        },
    }
    assert totals["refusals"] == {
        "strict/threshold.floor": {"search.image": 2}, "strict/certificate": {"search.image": 1}, "strict/roles": {"face.enrol": 1},
    }  # fmt: skip
    assert totals["departures"] == {
        "strict/offence": {"searches": 1}, "open/threshold.none": {"searches": 4}, "open/purpose": {"searches": 4},
        "strict/gallery": {"searches": 1}, "open/gallery": {"other_looks": 1},
    }  # fmt: skip
    assert totals["withheld"] == {"strict/suspended": 1}
    assert totals["not_looked"] == {"NoFace": 1}
    assert totals["candidates"] == {
        "lists": {"0": 1, "1": 3, "2-5": 5, "6 or more": 1}, "returned": 42, "returned_without_threshold": 20,
        "searches_without_identities": 3,
    }  # fmt: skip
    assert totals["below_threshold"] == {"searches": 1, "kept": 4, "asked_for": 0, "disclosed": 0}
    assert totals["expected_false_candidates"] == {"all": 1.5, "suspect": 1.0, "missing_person": 0.25, "none named": 0.25}
    assert totals["gaps"]["looks_without_outcome"] == 1


def test_standing_cases_galleries_and_gaps_are_counted():
    """Each from its own type of entry."""
    book = Book("2027-02-28T00:00:00.000Z")
    book.write("server.started", default_policy="open", minimum_policy="open", pack="p", version="1", policies=[OPEN])
    book.write("server.stopped", version="1")
    book.write("case.opened", purpose="suspect", offence="theft", documents=[], is_emergency=False)
    book.write(
        "server.started", "2027-03-02T00:00:00.000Z", default_policy="strict", minimum_policy="open", pack="p", version="2", policies=[OPEN]
    )
    book.write("policy.loaded", policies=[{**STRICT, "signed_by": "county.example"}])
    book.write("server.started", default_policy="strict", minimum_policy="open", pack="p", version="2", policies=[OPEN, STRICT])
    paper = {"kind": "warrant", "requested_at": "2027-03-02"}
    book.write("case.opened", purpose="suspect", offence="homicide", documents=[{**paper, "granted": None}], is_emergency=True)
    book.write("case.document", document={**paper, "granted": True})
    book.write("case.document", document={**paper, "granted": False})
    book.write("case.credentials")
    book.write("leads.disclosed", leads=[{"rank": 1}, {"rank": 2}], count=2)
    book.write("packet.made")
    book.write("case.closed")
    for _ in range(2):
        book.write("operator.certified", operator="o")
    book.write("operator.uncertified", operator="o")
    book.write("suspension.made", scope="operator", because="strict/suspension", target="o")
    book.write("suspension.made", scope="system", because="by hand", target="")
    book.write("suspension.lift.asked", scope="operator")
    book.write("suspension.lifted", scope="operator")
    book.write("collection.created", collection="c")
    book.write("faces.enrolled", collection="c", face_ids=["a", "b", "c"])
    book.write("faces.removed", collection="c", face_ids=["a"])
    book.write("collection.deleted", collection="c", faces=2)
    book.write("ledger.exported")
    book.write("backup.made")
    book.write("look.outcome", audit_id="of nobody", looked=True)
    book.write("clock.set.back", before="2027-03-02T01:00:00.000Z")
    book.entries[-1]["seq"] += 1
    totals = book.totals()
    assert totals["cases"] == {
        "opened": 1, "closed": 1, "emergencies": 1, "keys": 1, "by_purpose": {"suspect": 1}, "by_offence": {"homicide": 1},
    }  # fmt: skip
    assert totals["documents"] == {"warrant": {"requested": 1, "granted": 1, "refused": 1}}
    assert totals["certificates"] == {"entered": 2, "ended": 1}
    assert totals["suspensions"] == {
        "made": {"operator": {"strict/suspension": 1}, "system": {"by hand": 1}}, "lift_asked": 1, "lifted": 1,
    }  # fmt: skip
    assert {name: totals["galleries"][name] for name in ("faces_enrolled", "faces_removed", "faces_of_deleted_collections")} == {
        "faces_enrolled": 3, "faces_removed": 1, "faces_of_deleted_collections": 2,
    }  # fmt: skip
    assert totals["below_threshold"] == {"searches": 0, "kept": 0, "asked_for": 1, "disclosed": 2}
    assert totals["handed_out"] == {"ledgers": 1, "packets": 1, "reports": 0, "backups": 1, "restores": 0}
    assert totals["gaps"] == {
        "looks_without_outcome": 0, "outcomes_without_intent": 1, "clock_set_back": 1, "server_starts": 2,
        "server_starts_without_a_stop_before": 1, "unreadable_entries": 0, "sequence_breaks": 1,
    }  # fmt: skip
    assert totals["settings"] == {"default_policy": "strict", "minimum_policy": "open", "pack": "p", "version": "2"}
    assert totals["policies"][STRICT["sha256"]] == {
        "id": "strict", "version": "1", "known_since": "2027-03-02T00:01:00.000Z", "first_used": "", "last_used": "", "decisions": 0,
        "signed_by": "county.example",
    }  # fmt: skip
    assert totals["policies"][OPEN["sha256"]]["known_since"] == "2027-02-28T00:01:00.000Z"


def generated(seed: int, searches: int) -> Book:
    """A ledger of a quarter: looks of every kind and end, refusals, in any order."""
    dice, book = random.Random(seed), Book("2027-02-20T00:00:00.000Z")
    purposes = [("", ""), ("suspect", "robbery"), ("suspect", "theft"), ("cold_case", "homicide"), ("missing_person", "")]
    waiting: list[str] = []
    for _ in range(searches):
        book.time += timedelta(minutes=dice.randrange(60))
        policy, duty = dice.choice([STRICT, OPEN]), dice.choice([*SEARCHES, "collection.check"])
        purpose, offence = dice.choice(purposes)
        if dice.random() < 0.2:
            asked = {"duty": duty, **({"case": {"purpose": purpose, "offence": offence}} if purpose else {})}
            rule = f"{policy['id']}/{dice.choice(['purpose', 'threshold.floor'])}"
            book.write("refused", duty=duty, rule=rule, policy=policy, asked=asked, operator=dice.choice("ab"))
            continue
        value = dice.choice([0, 50, 80, 95, 99, 99.9, 100])
        more = {"departures": [f"{policy['id']}/purpose"]} if dice.random() < 0.3 else {}
        origin = dice.choice(["request", "policy"]) if value else "none"
        waiting.append(book.intent(value, origin, purpose, offence, policy, duty=duty, **more))
        while waiting and dice.random() < 0.7:
            look, end = waiting.pop(dice.randrange(len(waiting))), dice.random()
            if end < 0.05:
                continue
            if end < 0.1:
                book.write("look.outcome", audit_id=look, looked=False, reason="NoFace")
            elif end < 0.15:
                book.write("look.outcome", audit_id=look, looked=True, withheld="strict/suspended")
            else:
                shown, expected = [{}] * dice.choice([0, 0, 1, 2, 5, 6]), dice.random()
                book.write("look.outcome", audit_id=look, looked=True, candidates=shown, expected_false=expected)
    return book


def test_a_large_ledger_is_counted_as_sql_counts_it():
    """Oracle: SQLite over the same entries, looks joined with their outcomes."""
    book = generated(5, 3000)
    totals = book.totals()
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE e (seq INTEGER, type TEXT, time TEXT, entry TEXT, look TEXT)")
    rows = [(one["seq"], one["type"], one["time"], json.dumps(one), one.get("audit_id")) for one in book.entries]
    database.executemany("INSERT INTO e VALUES (?, ?, ?, ?, ?)", rows)
    duties = ", ".join(f"'{duty}'" for duty in SEARCHES)
    database.executescript(f"""
        CREATE VIEW march AS SELECT * FROM e WHERE time >= '2027-03-01' AND time < '2027-04-01';
        CREATE VIEW looks AS SELECT i.entry AS i, o.entry AS o, i.entry ->> '$.threshold.value' AS value,
            coalesce(i.entry ->> '$.asked.case.purpose', 'none named') AS purpose,
            coalesce(nullif(i.entry ->> '$.asked.case.offence', ''), 'none named') AS offence,
            CASE WHEN o.entry IS NULL THEN 'unfinished' WHEN o.entry ->> '$.withheld' IS NOT NULL THEN 'withheld'
                 WHEN o.entry ->> '$.looked' THEN 'answered' ELSE 'not_looked' END AS state
            FROM march i LEFT JOIN e o ON o.look = i.look AND o.type = 'look.outcome'
            WHERE i.type = 'look.intent' AND i.entry ->> '$.duty' IN ({duties});
        CREATE VIEW refusals AS SELECT entry, coalesce(nullif(entry ->> '$.asked.case.purpose', ''), 'none named') AS purpose
            FROM march WHERE type = 'refused' AND entry ->> '$.duty' IN ({duties});
    """)

    def ask(query: str) -> list[Any]:
        return database.execute(query).fetchall()

    made = dict(ask("SELECT state, count(*) FROM looks GROUP BY state"))
    refused = ask("SELECT count(*) FROM refusals")[0][0]
    assert totals["searches"]["all"] == {**made, "made": sum(made.values()), "refused": refused}
    assert min(made.values()) > 20
    by_purpose: dict[str, dict[str, int]] = {}
    for purpose, state, n in ask("SELECT purpose, state, count(*) FROM looks GROUP BY 1, 2"):
        one = by_purpose.setdefault(purpose, {"made": 0})
        one[state], one["made"] = n, one["made"] + n
    for purpose, n in ask("SELECT purpose, count(*) FROM refusals GROUP BY 1"):
        by_purpose[purpose]["refused"] = n
    assert totals["searches"]["by_purpose"] == by_purpose
    histogram: dict[str, Any] = {}
    for purpose, offence, origin, value, n in ask(
        "SELECT purpose, offence, i ->> '$.threshold.origin', value, count(*) FROM looks GROUP BY 1, 2, 3, 4"
    ):
        histogram.setdefault(purpose, {}).setdefault(offence, {}).setdefault(origin, {})[f"{value:.1f}" if value else "none"] = n
    assert totals["thresholds"]["histogram"] == histogram
    ((without,),) = ask("SELECT count(*) FROM looks WHERE value = 0")
    assert totals["thresholds"]["without"] == without > 100
    lengths = "CASE WHEN n = 0 THEN '0' WHEN n = 1 THEN '1' WHEN n < 6 THEN '2-5' ELSE '6 or more' END"
    answered = "(SELECT json_array_length(o, '$.candidates') AS n, * FROM looks WHERE state = 'answered')"
    assert totals["candidates"]["lists"] == dict(ask(f"SELECT {lengths}, count(*) FROM {answered} GROUP BY 1"))
    assert totals["candidates"]["returned"] == ask(f"SELECT sum(n) FROM {answered}")[0][0]
    (((expected),),) = ask(f"SELECT sum(o ->> '$.expected_false') FROM {answered} WHERE value > 0")
    assert totals["expected_false_candidates"]["all"] == pytest.approx(expected, abs=1e-6)
    rules = "SELECT entry ->> '$.rule', count(*) FROM march WHERE type = 'refused' GROUP BY 1"
    assert {rule: sum(duties.values()) for rule, duties in totals["refusals"].items()} == dict(ask(rules))
    departed = "SELECT d.value, count(*) FROM looks, json_each(i, '$.departures') d GROUP BY 1"
    assert {rule: found["searches"] for rule, found in totals["departures"].items()} == dict(ask(departed))
    types = dict(ask("SELECT type, count(*) FROM march WHERE type != 'look.outcome' GROUP BY 1"))
    assert {kind: n for kind, n in totals["entries"].items() if kind != "look.outcome"} == types


def test_names_are_counted_only_when_they_are_asked_for():
    """Neither an operator nor a collection is in a report for the public."""
    book = Book()
    book.search(99, "policy", "suspect", "robbery", operator="deputy-smith", collection={"id": "arrests-2026"})
    assert not any(name in json.dumps(book.totals()) for name in ("deputy-smith", "arrests-2026"))
    shown = book.totals(operators=True, collections=True)["searches"]
    assert shown["by_operator"] == {"deputy-smith": {"made": 1, "answered": 1}}
    assert shown["by_collection"] == {"arrests-2026": {"made": 1, "answered": 1}}


def test_a_period_that_is_over_is_counted_the_same_whenever():
    """What comes after it changes nothing, size and root included; only the end of a look that it began belongs to it."""
    book = Book("2027-03-31T23:57:00.000Z")
    book.search(99, "policy", "suspect", "robbery")
    look = book.intent(99, "policy", "suspect", "robbery", at="2027-03-31T23:59:59.000Z")
    before = count(book.lines, MARCH)
    assert before.totals["gaps"]["looks_without_outcome"] == 1
    book.write("server.started", "2027-04-01T00:00:00.000Z", policies=[OPEN])
    book.write("look.outcome", audit_id=look, looked=True, candidates=[])
    settled = count(book.lines, MARCH)
    assert (settled.size, settled.totals["gaps"]["looks_without_outcome"]) == (5, 0)
    assert settled.totals["searches"]["all"]["answered"] == 2
    assert settled.totals["policies"].keys() == {STRICT["sha256"]}
    for _ in range(5):
        book.search(80, "default", policy=OPEN)
    assert count(book.lines, MARCH) == settled


@pytest.mark.parametrize(
    ("first", "last"), [("2027-03-02", "2027-03-01"), ("yesterday", "2027-03-01"), ("20270301", "20270302"), ("2027-02-30", "2027-03-01")]
)
def test_a_period_is_two_days(first, last):
    """Anything else is told how to be written."""
    with pytest.raises(BadRequest, match="2027-01-31"):
        Period(first, last)


@pytest.mark.parametrize(
    "line",
    [b"", b"[]", b'"x"', b"\xff", b'{"seq":0}', b'{"type":"look.intent","time":"2027-03-01T00:00:00.000Z","threshold":7,"asked":[]}',
     b'{"type":"refused","time":"2027-03-01T00:00:00.000Z","policy":"x","collection":4,"rule":null}', b"[" * 100_000],
)  # fmt: skip
def test_an_entry_that_is_none_never_stops_the_count(line):
    """A forged or damaged line is counted as what can be told of it."""
    book = Book()
    book.search(99, "policy", "suspect", "robbery")
    found = count([line, *book.lines, line], MARCH)
    assert found.totals["searches"]["by_purpose"]["suspect"] == {"made": 1, "answered": 1}
    assert found.totals["gaps"]["unreadable_entries"] == (2 if b"type" not in line else 0)


class Published:
    """A report of March over a book, signed by a deployment's key, and the entry that it was made."""

    def __init__(self, folder: Path, book: Book, counted_lines: list[bytes] | None = None) -> None:
        lines = book.lines if counted_lines is None else counted_lines
        keys = Checkpoints(None, Keyring.open(folder / "master.key", create=True), folder, is_own=True)
        counted = count(lines, MARCH)
        note = keys.sign(counted.size, counted.root).decode()
        self.report = document(counted, MARCH, "", note, {}, operators=False, collections=False)
        self.key, self.book, self.keys = keys.verifier_key, book, keys

    def differences(self, *, is_recorded: bool = True) -> list[str]:
        text = json_of(self.report)
        if is_recorded:
            self.book.write("report.made", "2027-04-02T00:00:00.000Z", sha256=hashlib.sha256(text).hexdigest())
        return recount(self.book.lines, text, {}, self.key)


def leaves(tree: Any, *path: str) -> Iterator[tuple[str, ...]]:
    if isinstance(tree, dict):
        for name, inner in tree.items():
            yield from leaves(inner, *path, name)
    else:
        yield path


def test_each_number_that_was_changed_is_named(tmp_path):
    """One alone, then every total at once, one more than it was."""
    published = Published(tmp_path, generated(2, 700))
    assert published.differences() == []
    totals = published.report["totals"]
    totals["searches"]["all"]["made"] += 1
    (difference,) = published.differences()
    made = totals["searches"]["all"]["made"]
    assert difference == f"totals.searches.all.made: the report says {made}, the entries {made - 1}"
    totals["searches"]["all"]["made"] -= 1
    paths = list(leaves(totals))
    assert len(paths) > 100
    for *path, last in paths:
        inner = totals
        for part in path:
            inner = inner[part]
        inner[last] = inner[last] + 1 if isinstance(inner[last], int | float) else f"{inner[last]}!"
    named = [one.partition(": the report says ")[0] for one in published.differences()]
    assert sorted(named) == sorted(f"totals.{'.'.join(path)}" for path in paths)


def test_what_was_left_out_is_named(tmp_path):
    """A report over fewer entries than the period has, one that the record does not know, one over other entries, one of another key."""
    book = generated(3, 600)
    march = [line for line, entry in zip(book.lines, book.entries, strict=True) if entry["time"] < "2027-04-01"]
    short = Published(tmp_path, book, march[: len(march) - 40])
    assert any(" more entries are of the period" in one for one in short.differences())
    assert any("no entry says that this report" in one for one in Published(tmp_path, book).differences(is_recorded=False))
    other = generated(3, 600)
    other.entries[10]["operator"] = "somebody else"
    assert any(one.startswith("ledger.root") for one in Published(tmp_path, book, other.lines).differences())
    foreign = Published(tmp_path, generated(3, 600))
    (tmp_path / "other").mkdir()
    foreign.key = Published(tmp_path / "other", book).key
    assert any(one.startswith("ledger.checkpoint: ") for one in foreign.differences())
