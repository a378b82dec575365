"""kill -9 in the middle of casework under `public-safety`: looks, cases, certificates and suspensions agree with the ledger."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError
from kit import ServerProcess, assert_ledger_whole, basis, client, null_settings, picture, serving
from sqlalchemy import select

from aboveboard import bootstrap
from aboveboard.accountability import verify_ledger
from aboveboard.accountability.operators import AccessKey, Session
from aboveboard.service import record
from aboveboard.service.app import App
from aboveboard.storage.schema import CASE_LOOKS, CASES, CERTIFICATES, SUSPENSIONS

STRICT = {"default_policy": "public-safety"}
OFFICE = """
import itertools, sys
from pathlib import Path
from aboveboard import bootstrap, settings
data = Path(sys.argv[1])
app = bootstrap.open_app(settings.load(data, {"ABOVEBOARD_PACK": "null", "ABOVEBOARD_DEFAULT_POLICY": "public-safety", "HOME": str(data)}))
print("ready", flush=True)
for turn in itertools.count():
    for one in app.standing.all():
        if not one.lifted_at:
            for name in {"first", "second"} - {one.lift_asked_by}:  # killed in between, it was asked for before
                app.standing.lift(one.n, app.operators.named(name))
    app.standing.suspend("operator", "spare", "a turn of the test", "first")
    app.standing.certify("spare", "examiner", 0.5, "2999-01-01", "first")
    if turn % 3 == 2:
        app.standing.uncertify("spare", "second")
"""
"""A process that certifies, suspends and lifts without end."""


def prepared(data: Path) -> dict[str, AccessKey]:
    """A strict deployment with a gallery of five and three detectives in cases; their keys."""
    with serving(null_settings(data, **STRICT)) as server:
        server.operator("second", "admin")
        server.operator("spare", "investigator")
        records = server.client(server.operator("records", "enroller"))
        server.client().create_collection(CollectionId="arrests")
        for subject in range(5):
            records.index_faces(CollectionId="arrests", Image={"Bytes": picture(subject)})
        return {name: server.detective(name) for name in ("ann", "bob", "eve")}


class Detective(threading.Thread):
    """Searches and compares until the server is gone; eve asks below the floor, again and again. Knows what was answered."""

    def __init__(self, name: str, endpoint: str, key: AccessKey, answered: dict[str, int], refused: Counter[str]) -> None:
        super().__init__()
        self.who, self.answered, self.refused = name, answered, refused
        self.client = client(endpoint, key)

    def run(self) -> None:
        face = {"Bytes": picture(1)}
        for turn in range(10**6):
            try:
                if self.who == "eve":
                    answer = self.client.search_faces_by_image(CollectionId="arrests", Image=face, FaceMatchThreshold=50)
                elif turn % 3:
                    answer = self.client.search_faces_by_image(CollectionId="arrests", Image={"Bytes": picture(turn % 5)})
                else:
                    answer = self.client.compare_faces(SourceImage=face, TargetImage=face)
            except ClientError as error:
                if error.response["Error"]["Code"] != "AccessDeniedException":
                    return
                self.refused[error.response["Error"]["Message"].split(":")[0]] += 1
            except (BotoCoreError, json.JSONDecodeError):
                return
            else:
                self.answered[basis(answer)["audit-id"]] = len(answer["FaceMatches"])


def rounds(data: Path, how_many: int, seed: int) -> tuple[dict[str, int], Counter[str]]:
    """Detectives at work and an office that certifies and suspends, all killed at a random moment, again and again."""
    keys, chance = prepared(data), random.Random(seed)
    answered: dict[str, int] = {}
    refused: Counter[str] = Counter()
    for _ in range(how_many):
        server = ServerProcess(data, keys["ann"], **STRICT)
        office = subprocess.Popen([sys.executable, "-c", OFFICE, str(data)], stdout=subprocess.PIPE, text=True)
        assert office.stdout is not None
        assert office.stdout.readline() == "ready\n"
        people = [Detective(name, server.endpoint, key, answered, refused) for name, key in keys.items()]
        for one in people:
            one.start()
        before, limit = len(answered), time.monotonic() + 60
        while len(answered) < before + 3 and time.monotonic() < limit:
            time.sleep(0.05)
        time.sleep(chance.uniform(0, 1.5))
        were_running = server.process.poll(), office.poll()
        for kill in chance.sample([server.kill, office.kill], 2):
            kill()
        office.communicate()
        assert were_running == (None, None)
        for one in people:
            one.join(60)
    return answered, refused


def assert_agrees(app: App, answered: dict[str, int]) -> None:
    """Pairs, cases, leads, comparisons, certificates and suspensions are what the ledger says, and nothing else is."""
    entries = assert_ledger_whole(app)
    intents = {entry["audit_id"]: entry for entry in entries if entry["type"] == "look.intent"}
    outcomes = {entry["audit_id"]: entry for entry in entries if entry["type"] == "look.outcome"}
    for audit_id, matches in answered.items():
        assert outcomes[audit_id]["intent"] == intents[audit_id]["seq"]
        assert len(outcomes[audit_id]["candidates"]) == matches
    with app.database.read() as connection:
        rows: dict[str, list[Any]] = {
            table.name: list(connection.execute(select(table)).all()) for table in (CASE_LOOKS, CASES, CERTIFICATES, SUSPENSIONS)
        }
    handles = {row.n: row.handle for row in rows["cases"]}
    noted = {(handles[row.case], row.intent, row.audit_id) for row in rows["case_looks"]}
    assert noted == {(entry["case"], entry["seq"], audit_id) for audit_id, entry in intents.items()}
    leads = {audit_id: found for case in app.cases.all() for audit_id, found in app.cases.leads(case).items()}
    kept = {audit_id: entry["below_threshold"] for audit_id, entry in outcomes.items() if entry.get("below_threshold")}
    assert {audit_id: len(found) for audit_id, found in leads.items()} == kept
    # Faces are counted before they are compared: a comparison that was cut off in between may be counted and was not answered.
    compares = [(entry["case"], audit_id) for audit_id, entry in intents.items() if entry["duty"] == "compare"]
    made, done = (
        Counter(case for case, audit_id in some)
        for some in (compares, [one for one in compares if "candidates" in outcomes.get(one[1], {})])
    )
    assert all(done[row.handle] <= row.comparisons <= made[row.handle] for row in rows["cases"])
    assert sum(done.values()) > 0
    kinds = Counter(entry["type"] for entry in entries)
    assert len(rows["certificates"]) == kinds["operator.certified"]
    suspended = {entry["suspension"]: entry for entry in entries if entry["type"] == "suspension.made"}
    assert {row.n: (row.scope, row.target) for row in rows["suspensions"]} == {
        n: (entry["scope"], entry["target"]) for n, entry in suspended.items()
    }
    lifted = {entry["suspension"] for entry in entries if entry["type"] == "suspension.lifted"}
    asked = {entry["suspension"] for entry in entries if entry["type"] == "suspension.lift.asked"}
    assert {row.n for row in rows["suspensions"] if row.lifted_at} == lifted
    assert {row.n for row in rows["suspensions"] if row.lift_asked_by} == asked


def check(data: Path, how_many: int, seed: int) -> Counter[str]:
    answered, refused = rounds(data, how_many, seed)
    app = bootstrap.open_app(null_settings(data, **STRICT))
    assert_agrees(app, answered)
    assert len(answered) >= 3 * how_many
    (admin,) = (one for one in app.operators.all() if one.name == "first")
    record.export(app, Session(admin, "cli", "test"), data.parent / "bundle")
    assert verify_ledger.check(data.parent / "bundle").faults() == {}
    assert not {one.scope for one in app.standing.all()} & {"system"}, "a kill is no attack on the ledger"
    app.database.close()
    return refused


def test_casework_survives_kill_9(tmp_path: Path) -> None:
    """Every answered look has its pair, each case its looks, and no certificate or suspension is half made."""
    assert set(check(tmp_path / "data", 1, seed=1)) <= {
        "Refused by rule public-safety/threshold.floor", "Refused by rule public-safety/suspended",
    }  # fmt: skip


@pytest.mark.long
def test_casework_survives_fifty_kills(tmp_path: Path) -> None:
    """The same on one growing data folder; the trigger suspended somebody on the way."""
    refused = check(tmp_path / "data", 50, seed=2)
    assert refused["Refused by rule public-safety/suspended"]
