"""Decisions made again: the replay agrees with the gate about ledgers at random, and with nothing else."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import rfc8785
from inventing import Invented

from aboveboard.accountability.packs import Pack
from aboveboard.accountability.replay import Replay, Replayed
from aboveboard.accountability.verify_ledger import Report

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def invented() -> Invented:
    ledger = Invented(seed=1)
    ledger.go_on(10_000)
    return ledger


def replayed(packs: Sequence[Pack], lines: Sequence[bytes]) -> tuple[Report, Replayed]:
    again = Replay({pack.sha256: pack for pack in packs}, report := Report())
    for line in lines:
        again.add(line)
    return report, again.end()


def test_the_replay_agrees_with_ten_thousand_entries(invented: Invented) -> None:
    """Every decision, and everything that it claims of operators, cases and galleries; refusals by rules of many kinds are among them."""
    report, made = replayed(invented.packs, invented.lines)
    assert report.findings == []
    refused = Counter(json.loads(line)["rule"].partition("/")[2] for line in invented.lines if b'"type":"refused"' in line)
    assert made.looks > 500
    assert made.refusals == refused.total() > 2000
    assert set(refused) >= {
        "suspended", "effective", "roles", "certificate", "purpose", "case", "offence", "documents", "probe", "threshold.floor",
        "threshold.none", "threshold.absent", "candidates",
    }  # fmt: skip


class Numbers(Report):
    """A report that keeps the numbers of all entries that it was told of."""

    def __init__(self) -> None:
        super().__init__()
        self.told = set[int]()

    def tell(self, kind: str, text: str, grade: str = "fault") -> None:
        self.told.add(int(text.removeprefix("entry ").partition(":")[0]))


CHANGES: tuple[Callable[[dict[str, Any]], Any], ...] = (
    lambda entry: entry["threshold"].update(value=entry["threshold"]["value"] + 0.5),
    lambda entry: entry["threshold"].update(floor=entry["threshold"]["floor"] + 0.5),
    lambda entry: entry["threshold"].update(origin="gallery"),
    lambda entry: entry.update(limit=entry["limit"] + 1),
    lambda entry: entry.update(departures=[*entry.get("departures", []), "general/made-up"]),
    lambda entry: entry["asked"].update(at="2030-11-30T00:00:00.000Z"),
    lambda entry: entry["asked"].update(roles=["auditor"]),
    lambda entry: entry["asked"].update(least=12.5),
    lambda entry: entry["asked"].update(certificate={"made_at": "2030-11-30T00:00:00.000Z", "until": "2099-01-01", "score": 1}),
    lambda entry: entry["asked"].update(case={"purpose": "test", "expires_at": "2099-01-01"}),
    lambda entry: entry["asked"].update(suspended="the operator 'o9'"),
    lambda entry: entry["policy"].update(sha256="0" * 64),
    lambda entry: entry["policy"].update(version="0"),
    lambda entry: entry.update(duty="detect"),
    lambda entry: entry.update(operator="o9"),
    lambda entry: entry.update(asked={}),
    lambda entry: entry.pop("asked"),
)
"""What can be changed in an intent."""


def test_no_decision_can_be_another(invented: Invented) -> None:
    """Decisions changed in one thing each are told by their numbers, and no others are."""
    rng, lines = random.Random(2), list(invented.lines)
    # Comparisons in a case are counted up from one to the next: who changes one changes what is said of the next.
    decisions = [seq for seq in invented.decisions() if b'"duty":"compare"' not in lines[seq]]
    changed = set(rng.sample(decisions, 600))
    for n, seq in enumerate(sorted(changed)):
        entry = json.loads(lines[seq])
        if entry["type"] == "refused":
            entry["rule"] += "x"
        else:
            CHANGES[n % len(CHANGES)](entry)
        lines[seq] = rfc8785.dumps(entry)
    report = Numbers()
    again = Replay({pack.sha256: pack for pack in invented.packs}, report)
    for line in lines:
        again.add(line)
    # An outcome may be told with its look.
    outcomes = {seq + 1 for seq in changed}
    assert changed - report.told == set()
    assert report.told - changed - outcomes == set()
