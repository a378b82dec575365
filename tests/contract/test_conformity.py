"""doctor compares a deployment with its packs: what departs has the rule's id, and the exit code says whether one is enforced."""

from __future__ import annotations

import json
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from kit import Server, null_settings, picture, serving
from typer.testing import CliRunner

from aboveboard.accountability.cases import Declared
from aboveboard.cli import app as program
from aboveboard.storage.collections import Record

TODAY = datetime.now(UTC).date()
STRICT = 'extends = "public-safety"\nversion = "1"\n'


class Agency:
    """A strict deployment that keeps its pack: two admins, an enroller, a certified investigator."""

    def __init__(self, folder: Path, **overrides: str) -> None:
        self.folder, self.data, self.packs = folder, folder / "data", folder / "packs"
        self.packs.mkdir()
        self.settings = {"default_policy": "public-safety", "policies": str(self.packs), **overrides}

    def server(self, key: Any = None) -> Any:
        return serving(null_settings(self.data, **self.settings), key)

    def findings(self, *, well: bool, **overrides: str) -> dict[str, tuple[str, str, str]]:
        """State, text and mend by rule or, without one, by check, of all that is not well; doctor changes no file."""
        before = {
            file: file.read_bytes() for file in sorted(self.data.rglob("*")) if file.is_file() and not file.name.endswith(("-wal", "-shm"))
        }
        named = {f"ABOVEBOARD_{name.upper()}": value for name, value in {**self.settings, **overrides, "pack": "null"}.items()}
        done = CliRunner().invoke(program, ["doctor", "--data", str(self.data), "--json"], env=named)
        assert done.exit_code == int(not well), done.output
        after = {
            file: file.read_bytes() for file in sorted(self.data.rglob("*")) if file.is_file() and not file.name.endswith(("-wal", "-shm"))
        }
        assert after == before
        document = json.loads(done.stdout)
        assert document["is_well"] == well
        return {
            one["rule"] or one["check"]: (one["state"], one["found"], one["mend"]) for one in document["findings"] if one["state"] != "well"
        }


@pytest.fixture
def agency(tmp_path: Path) -> Agency:
    return Agency(tmp_path)


def staff(server: Server) -> None:
    server.operator("second", "admin")
    server.operator("records", "enroller")
    server.operator("dana", "investigator")
    server.app.standing.certify("dana", "examiner", 1.0, (TODAY + timedelta(days=400)).isoformat(), "first")


def test_a_deployment_that_keeps_its_pack_is_well(agency: Agency) -> None:
    """Certified investigators, separate roles, nothing suspended; in words, too. So is a new one under `general`."""
    with agency.server() as server:
        staff(server)
        server.client().create_collection(CollectionId="arrests")
    assert agency.findings(well=True) == {}
    done = CliRunner().invoke(program, ["doctor", "--data", str(agency.data)], env={"ABOVEBOARD_PACK": "null"})
    assert done.exit_code == 0
    assert "the deployment keeps what 'general' version" in done.stdout


def test_who_would_be_refused_is_named(agency: Agency) -> None:
    """Without a certificate, with one that lapsed, with two roles that are kept apart; not who has no key any more, nor enrollers."""
    with agency.server() as server:
        staff(server)
        for name, roles in (("both", ("admin", "investigator")), ("left", ("investigator",)), ("late", ("investigator",))):
            server.operator(name, *roles)
        server.app.standing.certify("both", "examiner", 1.0, "2999-01-01", "first")
        server.app.standing.certify("late", "examiner", 1.0, "2999-01-01", "first")
        with sqlite3.connect(server.app.database.file) as raw:  # public-safety: a year at most
            raw.execute("UPDATE certificates SET made_at = '2020-01-01T00:00:00.000Z' WHERE operator = 'late'")
        server.app.operators.revoke("left", "first")
    found = agency.findings(well=False)
    assert set(found) == {"public-safety/roles", "public-safety/certificate"}
    state, text, _ = found["public-safety/roles"]
    assert (state, text.endswith("admin and investigator: both")) == ("wrong", True)
    state, text, mend = found["public-safety/certificate"]
    assert (state, text.startswith("late: "), mend) == ("wrong", True, "aboveboard operator certify late")
    page = CliRunner().invoke(
        program, ["doctor", "--data", str(agency.data)], env={"ABOVEBOARD_PACK": "null", "ABOVEBOARD_DEFAULT_POLICY": "public-safety"}
    )
    assert page.exit_code == 1
    assert "(public-safety/certificate)" in page.stdout


def test_a_tagged_collection_counts(agency: Agency) -> None:
    """Under `general` by default, one strict collection: its pack is compared too; by name where its pack has gone."""
    agency.settings["default_policy"] = "general"
    (agency.packs / "county.toml").write_text(f'{STRICT}id = "county"\n')
    with agency.server() as server:
        server.client().create_collection(CollectionId="arrests", Tags={"aboveboard:policy": "county"})
    assert set(agency.findings(well=False)) == {"county/certificate", "county/roles"}
    (agency.packs / "county.toml").unlink()
    found = agency.findings(well=False)
    assert set(found) == {"county"}
    assert "the collection arrests: " in found["county"][1]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"default_policy": "nothing"}, "no policy pack 'nothing'"),
        ({"default_policy": "general", "minimum_policy": "public-safety"}, "looser"),
        ({"default_policy": "template"}, "template and unverified"),
    ],
)
def test_packs_that_cannot_be_loaded(agency: Agency, changed: dict[str, str], words: str) -> None:
    """An unknown default, one looser than the minimum, a template that nobody has signed."""
    (agency.packs / "template.toml").write_text(f'{STRICT}id = "template"\nstatus = "unverified"\n')
    with agency.server() as server:
        staff(server)
    found = agency.findings(well=False, **changed)
    assert words in found[changed["default_policy"]][1]


def test_packs_that_end(agency: Agency) -> None:
    """In ten days: a note, unless another version follows; ended: wrong."""
    soon, later, gone = ((TODAY + timedelta(days=days)).isoformat() for days in (10, 100, -1))
    with agency.server() as server:
        staff(server)
    agency.settings["default_policy"] = "county"
    pack = agency.packs / "county.toml"
    for end, well, state in ((soon, True, "note"), (gone, False, "wrong"), (later, True, None)):
        pack.write_text(f'{STRICT}id = "county"\neffective_to = "{end}"\n')
        found = agency.findings(well=well)
        assert {rule: one[0] for rule, one in found.items()} == ({"county/effective": state} if state else {})
    pack.write_text(f'{STRICT}id = "county"\neffective_to = "{soon}"\n')
    following = f'extends = "public-safety"\nversion = "2"\nid = "county"\neffective_from = "{soon}"\n'
    (agency.packs / "county-2.toml").write_text(following)
    assert agency.findings(well=True) == {}


def test_suspensions_and_authorities_are_noted(agency: Agency) -> None:
    """What is suspended, with the number that lifts it; a key of an authority that is none."""
    with agency.server() as server:
        staff(server)
        server.app.standing.suspend("operator", "dana", "a complaint", "first")
        server.app.standing.suspend_by_itself("public-safety/suspension: of a test")
    (agency.packs / "authorities.txt").write_text("# whom we trust\nattorney-general+12345678+AAAA\n")
    found = agency.findings(well=True)
    assert found["suspension"][0] == "note"
    assert "operator dana" in found["suspension"][1]
    assert "aboveboard suspension lift 1" in found["suspension"][2]
    assert "suspended since" in found["public-safety/suspension"][1]
    assert "line 2" in found["signatures"][1]
    assert "complaint" not in str(found)


@pytest.mark.parametrize(("mode", "well"), [("record", True), ("enforce", False)])
def test_records_past_their_expiry(agency: Agency, mode: str, well: bool) -> None:
    """Expired 40 days ago is late under a pack that gives 30; ten days ago is not. The mode decides what it is."""
    (agency.packs / "county.toml").write_text(f'{STRICT}id = "county"\n[retention]\nmode = "{mode}"\n')
    agency.settings["default_policy"] = "county"
    with agency.server() as server:
        staff(server)
        server.client().create_collection(CollectionId="arrests")
        records = server.client(server.operator("office", "enroller"))
        for subject, days in ((1, 40), (2, 10)):
            face = records.index_faces(CollectionId="arrests", Image={"Bytes": picture(subject)})["FaceRecords"][0]["Face"]
            record = Record("a.png", expires_on=(TODAY - timedelta(days=days)).isoformat())
            with server.app.database.write() as connection:
                collection = server.app.collections.get("arrests", connection)
                server.app.collections.put_records(connection, collection, {face["ImageId"]: record})
    found = agency.findings(well=well)
    assert set(found) == {"county/retention"}
    assert "arrests: 1 enrolled photographs" in found["county/retention"][1]


def test_reports_that_are_overdue(agency: Agency) -> None:
    """Due each 1 February, of a deployment that was there: none, one of the year before, then one that reaches into the last year."""
    with agency.server() as server:
        staff(server)
    assert agency.findings(well=True) == {}  # it was not there yet
    with sqlite3.connect(agency.data / "aboveboard.db") as raw:
        (first,) = raw.execute("SELECT entry FROM ledger WHERE seq = 0").fetchone()
        old = json.dumps({**json.loads(first), "time": "2020-01-01T00:00:00.000Z"}, separators=(",", ":"), sort_keys=True).encode()
        raw.execute("UPDATE ledger SET entry = ? WHERE seq = 0", (old,))

    def overdue() -> bool:
        return "public-safety/reports" in agency.findings(well=False)  # the ledger was changed, by this test

    def report(title: str, last: str) -> None:
        with agency.server(server.key) as again:
            again.app.ledger.record("report.made", {"title": title, "from": "2020-01-01", "to": last})

    assert overdue()
    year = TODAY.year - (f"{TODAY:%m-%d}" < "02-01")  # when it was due last
    for title, last, is_late in (("transparency", f"{year - 2}-12-31", True), ("another", f"{year - 1}-12-31", True)):
        report(title, last)
        assert overdue() == is_late
    report("transparency", f"{year - 1}-12-31")
    assert not overdue()


def test_what_cannot_be_compared_is_told_and_hides_nothing(agency: Agency) -> None:
    """An entry that no release of ours writes: doctor says that it did not see all, beside what it did see."""
    with agency.server() as server:
        staff(server)
        server.operator("new", "investigator")
        server.app.ledger.record("report.made", {"title": "transparency", "from": "2020-01-01", "to": "never"})
    found = agency.findings(well=False)
    assert set(found) == {"policy", "public-safety/certificate"}
    assert found["policy"][:2] == ("wrong", "not all of it could be compared with the packs: ValueError")


def test_credentials_of_a_case_make_nobody_usable(agency: Agency) -> None:
    """Who has nothing but a case's key left has left."""
    with agency.server() as server:
        staff(server)
        server.operator("gone", "investigator")
        server.app.cases.open("24-1", "suspect", "gone", {"operator": "gone"}, offence="robbery")
        server.app.cases.credentials("24-1", Declared(), 3600, {"operator": "gone"})
        assert "public-safety/certificate" in agency.findings(well=False)
        with sqlite3.connect(server.app.database.file) as raw:
            raw.execute("UPDATE access_keys SET revoked_at = created_at WHERE operator = 'gone' AND \"case\" IS NULL")
        assert agency.findings(well=True) == {}
