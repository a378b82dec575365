"""`aboveboard report transparency`: what was done on a server is what the page, the tables and the JSON say, and what others count."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from commands import documents, errors
from kit import Server, null_settings, picture, serving
from typer.testing import CliRunner, Result

from aboveboard.cli import app

LEAST = {"default_policy": "least", "minimum_policy": "least"}
"""Settings: office and public-safety may both stand beside it."""
Run = Callable[..., Result]


def pack(name: str, candidates: int, required: str) -> str:
    """A pack as the article describes that office's rules: no threshold, a case asked for or not, nothing enforced about purposes."""
    text = (resources.files("aboveboard.accountability") / "policies" / "general.toml").read_text()
    text = text.replace('id = "general"', f'id = "{name}"').replace("absent = 80.0", "absent = 0.0").replace("4096\n", f"{candidates}\n")
    return text.replace('mode = "enforce"\nrequired = false', f'mode = "record"\nrequired = {required}')


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A deployment on which known things were done: see the test of the numbers."""
    data = tmp_path_factory.mktemp("office") / "data"
    (data / "policies").mkdir(parents=True)
    (data / "policies" / "office.toml").write_text(pack("office", 5, "true"))
    (data / "policies" / "least.toml").write_text(pack("least", 4096, "false"))
    with serving(null_settings(data, **LEAST)) as server:
        admin, records = server.client(), server.client(server.operator("records-office", "enroller"))
        for name in ("office", "public-safety"):
            admin.create_collection(CollectionId=f"{name}-gallery", Tags={"aboveboard:policy": name})
            for i in range(6):
                records.index_faces(CollectionId=f"{name}-gallery", Image={"Bytes": picture(i)}, ExternalImageId=f"doe-{i}")

        def search(key: Any, gallery: str, subject: int, **how: Any) -> None:
            image = picture(subject) if subject >= 0 else picture()
            with suppress(admin.exceptions.ClientError):
                server.client(key).search_faces_by_image(CollectionId=f"{gallery}-gallery", Image={"Bytes": image}, **how)

        deputy = server.operator("deputy", "investigator")
        detective = server.detective("detective", offence="homicide")
        finder = server.detective("finder", purpose="missing_person", offence="")
        for subject in (0, 1, 9):
            search(deputy, "office", subject)  # no threshold, no case: five candidates, two rules recorded
        for subject in (0, 9):
            search(detective, "public-safety", subject)  # 99 by policy: one candidate, none
        search(detective, "public-safety", 0, FaceMatchThreshold=80)  # refused: floor
        search(detective, "public-safety", -1)  # no face
        search(finder, "public-safety", 2)  # 95 by policy
        search(deputy, "public-safety", 0)  # refused: no certificate
        yield server


@pytest.fixture
def run(office: Server) -> Run:
    def call(*arguments: object, code: int = 0) -> Result:
        environment = {f"ABOVEBOARD_{name.upper()}": value for name, value in {"pack": "null", **LEAST}.items()}
        environment |= {"ABOVEBOARD_DATA": str(office.app.settings.data), "COLUMNS": "120"}
        result = CliRunner().invoke(app, [str(one) for one in arguments], env=environment)
        assert result.exit_code == code, (result.output, result.exception)
        return result

    return call


def today() -> str:
    return datetime.now(UTC).date().isoformat()


@pytest.fixture
def make(run: Run, tmp_path: Path) -> Callable[..., Path]:
    """make(...): a report of today in a new folder."""

    def call(*more: object, name: str = "report") -> Path:
        run("report", "transparency", "--from", "2026-01-01", "--to", today(), "--out", tmp_path / name, "--operator", "first", *more)
        return tmp_path / name

    return call


def report_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def test_the_numbers_are_those_of_what_was_done(make: Callable[..., Path]) -> None:
    """Journalist's story: thresholds, searches by offence and purpose, candidates, refusals, packs."""
    totals = report_of(make())["totals"]
    made = {"made": 7, "answered": 6, "withheld": 0, "not_looked": 1, "unfinished": 0, "refused": 2}
    assert totals["searches"]["all"] == made
    assert totals["searches"]["by_purpose"] == {
        "none named": {"made": 3, "answered": 3, "refused": 1},
        "suspect": {"made": 3, "answered": 2, "not_looked": 1, "refused": 1},
        "missing_person": {"made": 1, "answered": 1},
    }
    assert totals["searches"]["by_offence"]["homicide"] == {"made": 3, "answered": 2, "not_looked": 1, "refused": 1}
    assert totals["thresholds"]["by_origin"] == {"none": 3, "policy": 4}
    assert totals["thresholds"]["histogram"]["suspect"] == {"homicide": {"policy": {"99.0": 3}}}
    assert totals["thresholds"]["histogram"]["missing_person"] == {"none named": {"policy": {"95.0": 1}}}
    assert totals["candidates"]["lists"] == {"0": 1, "1": 2, "2-5": 3, "6 or more": 0}
    assert totals["candidates"]["returned_without_threshold"] == 15
    assert sum(sum(duties.values()) for duties in totals["refusals"].values()) == 2
    assert totals["refusals"]["public-safety/threshold.floor"] == {"search.image": 1}
    assert totals["departures"] == {"office/purpose": {"searches": 3}}
    assert totals["galleries"]["faces_enrolled"] == 12
    assert totals["certificates"]["entered"] == 2


def test_an_office_without_a_threshold_reports_all_its_searches_as_such(make: Callable[..., Path]) -> None:
    """No-threshold agency's story: 100 % `none`, each with five candidates, for somebody who is not enrolled as well."""
    folder = make()
    report = report_of(folder)
    with (folder / "tables" / "thresholds.csv").open() as text:
        office = [row for row in csv.DictReader(text) if row["purpose"] == "none named"]
    assert [(row["origin"], row["threshold"], row["searches"]) for row in office] == [("none", "none", "3")]
    assert report["totals"]["searches"]["by_policy"]["office 2"] == {"made": 3, "answered": 3}
    assert report["totals"]["candidates"]["lists"]["2-5"] == 3
    assert "3 of 7 searches (42.9 %) were made without any threshold" in (folder / "index.html").read_text()
    (office_sha256,) = [sha256 for sha256, one in report["totals"]["policies"].items() if one["id"] == "office"]
    assert report["not_enforced"][office_sha256]["purposes"]["mode"] == "record"


def test_a_list_without_a_threshold_is_on_record_as_what_it_is(office: Server) -> None:
    """The cut at a rank is the rule: its length, no threshold, and that every search for a stranger brings candidates up."""
    entries = office.entries()
    intents = [one for one in entries if one["type"] == "look.intent" and one["policy"]["id"] == "office"]
    assert [(one["limit"], one["threshold"]["value"], one["threshold"]["origin"]) for one in intents] == [(5, 0, "none")] * 3
    ids = {one["audit_id"] for one in intents}
    outcomes = [one for one in entries if one["type"] == "look.outcome" and one["audit_id"] in ids]
    assert [(one["fpir"], one["fmr"], one["expected_false"], len(one["candidates"])) for one in outcomes] == [(1, 1, 6, 5)] * 3


def test_the_page_needs_nothing_and_names_nobody(make: Callable[..., Path]) -> None:
    """It loads nothing, is well-formed, says what candidates are, and holds no name unless it is asked for."""
    folder = make("--agency", "County <Police>")
    page = (folder / "index.html").read_text()
    assert re.findall(r"(?:src|href)=", page) == []
    assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)\S+", page) == []
    assert page.count("<svg ") == 4
    for figure in (folder / "figures").iterdir():
        assert ElementTree.fromstring(figure.read_text()).tag.endswith("svg")
    assert "Candidates are leads, not identifications." in page
    assert "County &lt;Police&gt;" in page
    assert re.findall(r"(?i)\bmatch(?:es)?\b|\bhits?\b|\bsuspects\b", re.sub(r"<style>.*?</style>", "", page, flags=re.S)) == []
    everything = "".join(file.read_text() for file in folder.rglob("*") if file.is_file())
    names = ("deputy", "detective", "records-office", "office-gallery", "doe-1", "case of")
    assert [name for name in names if name in everything] == []
    named = "".join(file.read_text() for file in make("--operators", "--collections", name="named").rglob("*.csv"))
    assert [name for name in names if name in named] == ["deputy", "detective", "office-gallery"]


def test_the_packs_beside_the_page_are_those_of_the_record(make: Callable[..., Path], office: Server) -> None:
    """Hash on the page = hash of the file = hash in the ledger."""
    folder = make()
    page = (folder / "index.html").read_text()
    used = {entry["policy"]["sha256"] for entry in office.entries() if entry["type"] == "look.intent"}
    assert len(used) == 2
    for sha256 in used:
        assert hashlib.sha256((folder / "policies" / f"{sha256}.json").read_bytes()).hexdigest() == sha256
        assert sha256 in page


def test_the_same_record_and_period_give_the_same_bytes(run: Run, tmp_path: Path) -> None:
    """A period that is over, reported twice: page, tables, figures, packs and JSON."""
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        run("report", "transparency", "--from", "2020-01-01", "--to", "2020-12-31", "--out", folder, "--operator", "first")
    one, two = ({file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()} for folder in folders)
    assert one == two
    assert len(one) > 20


def test_others_count_the_report_again(run: Run, make: Callable[..., Path], tmp_path: Path) -> None:
    """From an exported bundle: nothing differs; a number, a pack or a report that was changed is named, with exit code 1."""
    folder = make("--operators")
    run("ledger", "export", tmp_path / "bundle", "--operator", "first")
    verify = ("ledger", "verify", tmp_path / "bundle", "--report")
    assert run(*verify, folder / "report.json").stdout.splitlines()[-1] == "whole"
    changed = shutil.copytree(folder, tmp_path / "changed")
    text = (changed / "report.json").read_text()
    (changed / "report.json").write_text(text.replace('"without": 3', '"without": 0'))
    said = run(*verify, changed / "report.json", code=1).stdout
    assert "fault, report: totals.thresholds.without: the report says 0, the entries 3" in said
    assert "no entry says that this report" in said
    pack = next((changed / "policies").iterdir())
    pack.write_text(pack.read_text().replace('"record"', '"enforce"'))
    (changed / "report.json").write_text(text)
    (found,) = documents(run(*verify, changed / "report.json", "--json", code=1))
    assert not found["is_whole"]
    assert [one["text"].partition(".")[0] for one in found["findings"]] == ["not_enforced"]
    for wrong in ("[]", "{}", "not JSON", '{"format":1,"title":"transparency"}'):
        (changed / "report.json").write_text(wrong)
        assert "is no report" in errors(run(*verify, changed / "report.json", code=2))[0]


def test_that_it_was_made_is_an_entry(make: Callable[..., Path], office: Server) -> None:
    """By whom, of which period, over how much of the record, with the sha256 of report.json."""
    folder = make()
    entry = [one for one in office.entries() if one["type"] == "report.made"][-1]
    assert entry["sha256"] == hashlib.sha256((folder / "report.json").read_bytes()).hexdigest()
    assert (entry["operator"], entry["title"], entry["from"], entry["to"]) == ("first", "transparency", "2026-01-01", today())
    assert entry["size"] == report_of(folder)["ledger"]["size"] == entry["seq"]


def test_who_searches_does_not_report(run: Run, tmp_path: Path, office: Server) -> None:
    """An admin or an auditor does; a refusal is on record and writes nothing."""
    period = ("--from", "2026-01-01", "--to", today())
    said = errors(run("report", "transparency", *period, "--out", tmp_path / "no", "--operator", "deputy", code=3))[0]
    assert "report" in said
    assert not (tmp_path / "no").exists()
    assert (office.entries()[-1]["type"], office.entries()[-1]["duty"]) == ("refused", "report")
    office.operator("board", "auditor")
    run("report", "transparency", *period, "--out", tmp_path / "yes", "--operator", "board")
    assert (tmp_path / "yes" / "index.html").exists()


def test_a_folder_that_holds_something_is_left_alone(run: Run, tmp_path: Path, office: Server) -> None:
    """As is the ledger; so with a period that is none."""
    (tmp_path / "notes.txt").write_text("mine")
    before = office.entry_count()
    call = ("report", "transparency", "--operator", "first", "--out")
    assert "not an empty folder" in errors(run(*call, tmp_path, "--from", "2026-01-01", "--to", "2026-12-31", code=2))[0]
    assert "has no days" in errors(run(*call, tmp_path / "x", "--from", "2026-12-31", "--to", "2026-01-01", code=2))[0]
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]
    assert office.entry_count() == before
