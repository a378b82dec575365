"""The verbs of cases: who may, what they print, what they refuse, and what hostile words do to them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from commands import certify, documents, errors, write
from typer.testing import Result

OPEN = ("--purpose", "suspect", "--offence", "robbery", "--operator", "jane")
JANE = ("--operator", "jane")


@pytest.fixture
def strict(run: Callable[..., Result], environment: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A strict deployment with a gallery of two and its people; the folder of photographs."""
    monkeypatch.setenv("ABOVEBOARD_DEFAULT_POLICY", "public-safety")
    run("operator", "add", "chief", "--role", "admin")
    for name, role in (("clerk", "enroller"), ("jane", "investigator"), ("bob", "investigator"), ("watcher", "auditor")):
        run("operator", "add", name, "--role", role, "--operator", "chief")
    certify(environment, "jane")
    folder = tmp_path / "drawn"
    write(folder / "1.png", 1)
    write(folder / "2.png", 2)
    write(tmp_path / "near.png", 1, take=4, variation=0.46)
    run("collection", "create", "arrests", "--operator", "chief")
    run("index", folder, "-c", "arrests", "--operator", "clerk")
    return folder


def test_a_case_from_its_opening_to_its_packet(run: Callable[..., Result], strict: Path, tmp_path: Path) -> None:
    documented = ("--document", "court_order:R:7/2024:2024-10-01T09:30:00Z:granted:2024-10-02", "--until", "2999-01-01", "--emergency")
    (made,) = documents(run("case", "open", "24-117", *OPEN, *documented, "--json"))
    assert made["documents"] == [
        {
            "kind": "court_order",
            "reference": "R:7/2024",
            "requested_at": "2024-10-01T09:30:00Z",
            "decided_at": "2024-10-02",
            "granted": True,
        }
    ]
    assert (made["expires_at"], made["emergency_at"]) == ("2999-01-01T00:00:00Z", made["opened_at"])
    inside = ("-c", "arrests", "--case", "24-117", "--probe", "video_still", "--edit", "crop", "--edit", "exposure", *JANE)
    assert "nobody in the collection is a candidate" in run("search", tmp_path / "near.png", *inside, "--reason", "r1", code=1).stdout
    run("compare", strict / "1.png", strict / "1.png", "--case", "24-117", *JANE)
    (intent,) = [
        one for one in documents(run("ledger", "show", "--operator", "watcher")) if one["type"] == "look.intent" and "collection" in one
    ]
    assert (intent["case"], intent["declared"]["probe"], intent["declared"]["edits"]) == (
        made["handle"],
        "video_still",
        ["crop", "exposure"],
    )
    assert "r1" not in json.dumps(intent)
    run("case", "document", "24-117", "warrant:W1:2024-10-03", *JANE)
    run("case", "document", "24-117", "warrant:W1:2024-10-03:refused:2024-10-04", *JANE)
    (shown,) = documents(run("case", "show", "24-117", "--operator", "watcher", "--json"))
    assert [one["granted"] for one in shown["documents"]] == [True, False]
    assert ([one["text"] for one in shown["reasons"]], shown["comparisons"], shown["looks"]) == (["r1"], 1, 2)
    leads = run("case", "leads", "24-117", "--below-threshold", "--reason", "r2", *JANE).stdout
    for words in ("below the threshold", "not identifications", "from 90 up to, without, the threshold of 99", "N = 2", "96.0", "withheld"):
        assert words in " ".join(leads.split())
    run("case", "packet", "24-117", "--out", tmp_path / "packet", "--operator", "watcher")
    assert "whole: " in run("case", "verify", tmp_path / "packet").stdout
    assert "closed" in run("case", "close", "24-117", *JANE).stdout
    assert "case/closed" in errors(run("search", strict / "1.png", "-c", "arrests", "--case", "24-117", *JANE, code=3))[0]
    run("case", "packet", "24-117", "--out", tmp_path / "after", "--operator", "watcher")


def test_credentials_are_what_aws_wants_from_a_credential_process(run: Callable[..., Result], strict: Path) -> None:
    """One JSON object on stdout and nothing else: Version 1, a key pair, Expiration in ISO 8601; no SessionToken, as none is needed."""
    run("case", "open", "9", *OPEN)
    before = datetime.now(UTC)
    said = run("case", "credentials", "9", "--seconds", "900", *JANE)
    key = json.loads(said.stdout)
    assert set(key) == {"Version", "AccessKeyId", "SecretAccessKey", "Expiration"}
    assert key["Version"] == 1
    assert re.fullmatch(r"[A-Z0-9]{16,128}", key["AccessKeyId"])
    ends = datetime.fromisoformat(key["Expiration"])
    assert timedelta(seconds=898) <= ends - before <= timedelta(seconds=930)
    assert said.stderr == ""
    assert key["SecretAccessKey"] not in run("ledger", "show", "--operator", "watcher").stdout
    for seconds in ("59", "43201"):
        assert "60 to 43200" in errors(run("case", "credentials", "9", "--seconds", seconds, *JANE, code=2))[0]


def test_what_the_pack_would_refuse_is_refused_when_the_case_is_opened(run: Callable[..., Result], strict: Path) -> None:
    for purpose, offence, rule in (("photo_library", "", "purpose"), ("suspect", "", "offence")):
        words = ("case", "open", "x", "--purpose", purpose, "--offence", offence, *JANE)
        assert f"public-safety/{rule}" in errors(run(*words, code=3))[0]
    assert documents(run("ledger", "show", "--last", "1", "--operator", "watcher"))[0]["rule"] == "public-safety/offence"
    assert run("case", "list", "--operator", "watcher", "--json").stdout == ""
    run("case", "open", "y", "--purpose", "photo_library", *JANE, code=0, ABOVEBOARD_DEFAULT_POLICY="general")
    strict_too = ("case", "open", "z", "--purpose", "photo_library", "-c", "arrests", *JANE)
    assert "purpose" in errors(run(*strict_too, code=3))[0]


@pytest.mark.parametrize(("purpose", "offence"), [("*", ""), ("suspect", "*"), ("curiosity", "")])
def test_a_case_has_one_purpose_and_one_offence_of_the_lists(run: Callable[..., Result], strict: Path, purpose: str, offence: str) -> None:
    """`*` and a slip of the pen open nothing, under whatever pack; they are no refusal that could suspend."""
    for pack in ("public-safety", "general"):
        words = ("case", "open", "x", "--purpose", purpose, "--offence", offence, *JANE)
        assert "is not one of" in errors(run(*words, code=2, ABOVEBOARD_DEFAULT_POLICY=pack))[0]
    assert run("case", "list", "--operator", "watcher", "--json").stdout == ""
    assert documents(run("ledger", "show", "--last", "1", "--operator", "watcher"))[0]["type"] != "refused"


def test_a_case_is_its_operators_own(run: Callable[..., Result], strict: Path) -> None:
    run("case", "open", "own", *OPEN)
    for words in (
        ("case", "show", "own"),
        ("case", "close", "own"),
        ("case", "document", "own", "warrant:1:2024-10-01"),
        ("case", "credentials", "own"),
        ("case", "leads", "own", "--below-threshold", "--reason", "r"),
        ("search", strict / "1.png", "-c", "arrests", "--case", "own"),
    ):
        assert "case/own" in errors(run(*words, "--operator", "bob", code=3))[0]
    assert run("case", "list", "--operator", "bob", "--json").stdout == ""
    assert [one["case"] for one in documents(run("case", "list", "--operator", "chief", "--json"))] == ["own"]
    assert "own" in run("case", "list", *JANE).stdout
    run("case", "open", "own", *OPEN, code=2)


def test_wrong_words_are_told(run: Callable[..., Result], strict: Path) -> None:
    run("case", "open", "1", *OPEN)
    search = ("search", strict / "1.png", "-c", "arrests", *JANE)
    assert "there is no case of this number" in errors(run(*search, "--case", "2", code=2))[0]
    assert "name one with --case" in errors(run(*search, "--reason", "r", code=2))[0]
    assert "must be one of photograph, video_still" in errors(run(*search, "--case", "1", "--probe", "drawing", code=2))[0]
    assert "must be one of crop, rotation" in errors(run(*search, "--case", "1", "--edit", "botox", code=2))[0]
    assert "is not one of suspect" in errors(run("case", "open", "3", "--purpose", "revenge", *JANE, code=2))[0]
    assert "is no date" in errors(run("case", "open", "3", *OPEN, "--until", "soon", code=2))[0]
    for most in ("9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00"):
        assert "is no date" in errors(run("case", "open", "3", *OPEN, "--until", most, code=2))[0]
        certify = ("operator", "certify", "jane", "--examiner", "x", "--score", "1", "--until", most)
        assert "is no date" in errors(run(*certify, "--operator", "chief", code=2))[0]
    assert "ended before it began" in errors(run("case", "open", "3", *OPEN, "--until", "2020-01-01", code=2))[0]
    assert "--below-threshold" in errors(run("case", "leads", "1", *JANE, code=2))[0]
    assert "--reason" in errors(run("case", "leads", "1", "--below-threshold", "--reason", " ", *JANE, code=2))[0]
    for document in (
        "",
        "warrant",
        "warrant::2024-10-01",
        "note:1:2024-10-01",
        "warrant:1:2024-13-01",
        "warrant:1:9999-12-31T23:59:59-14:00",
        "warrant:1:2024-10-01:maybe:2024-10-02",
    ):
        assert "KIND:REFERENCE:REQUESTED" in errors(run("case", "document", "1", document, *JANE, code=2))[0]
    early = "warrant:1:2024-10-02:granted:2024-10-01"
    assert "decided before" in errors(run("case", "document", "1", early, *JANE, code=2))[0]
    assert "no packet" in errors(run("case", "verify", strict, code=2))[0]


HOPELESS = ["", " ", "a\nb", "a\x00b", "\x1b[31mred", "\u202eevil", "x" * 101, "y" * 1_000_000, " a", "a "]
STRANGE = ["<script>alert(1)</script>", "'; DROP TABLE cases; --", "--operator", "../../etc", "№ 7 / Ω", "$(reboot)"]


def test_a_number_that_cannot_be_one_opens_nothing(run: Callable[..., Result], strict: Path) -> None:
    for number in HOPELESS:
        assert "1 to 100 printable characters" in errors(run("case", "open", *OPEN, "--", number, code=2))[0]
    assert run("case", "list", "--operator", "watcher", "--json").stdout == ""


def test_a_strange_number_is_a_number(run: Callable[..., Result], strict: Path, tmp_path: Path) -> None:
    for i, number in enumerate(STRANGE):
        run("case", "open", *OPEN, "--", number)
        assert json.loads(run("case", "credentials", *JANE, "--", number).stdout)["Version"] == 1
        run("case", "packet", "--out", tmp_path / str(i), "--operator", "watcher", "--", number)
        assert "<script" not in (tmp_path / str(i) / "packet.html").read_text()
    assert [one["case"] for one in documents(run("case", "list", *JANE, "--json"))] == STRANGE
    entries = documents(run("ledger", "show", "--operator", "watcher"))
    words = {value for entry in entries for value in entry.values() if isinstance(value, str)}
    assert not words & set(STRANGE)


def test_a_reason_is_of_a_readable_length_and_stays_text(run: Callable[..., Result], strict: Path) -> None:
    run("case", "open", "1", *OPEN)
    long = ("case", "credentials", "1", "--reason", "r" * 1_000_000, *JANE)
    assert "at most 1,000 characters" in errors(run(*long, code=2))[0]
    run("case", "leads", "1", "--below-threshold", "--reason", "r" * 1001, *JANE, code=2)
    run("case", "credentials", "1", "--reason", "a\n<b>\x1b[2Jb", *JANE)
    shown = run("case", "show", "1", *JANE).stdout
    assert "\x1b" not in shown
    assert "<b>" in shown
    assert "<b>" not in run("ledger", "show", "--operator", "watcher").stdout
