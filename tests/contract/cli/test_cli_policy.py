"""Verbs about policies: what a records officer, a journalist and an authority do with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from commands import documents, errors
from typer.testing import Result

from aboveboard.accountability.catalogue import shipped
from aboveboard.accountability.verify_ledger import open_note

OVERLAY = """extends = "public-safety"
id = "agency"
version = "1"
effective_from = "2027-01-01"
[candidates]
maximum = 20
"""


def explained(run: Callable[..., Result], *arguments: object, code: int = 0) -> dict:
    (found,) = documents(run("policy", "explain", *arguments, "--json", code=code))
    return found


def test_list_and_show(run: Callable[..., Result], tmp_path: Path) -> None:
    """Every pack with its state; needs no deployment and makes none."""
    found = {one["id"]: one for one in documents(run("policy", "list", "--json"))}
    assert {name for name, one in found.items() if one["status"] == "unverified"} == {"us-md", "us-wa", "eu-26-10"}
    assert [name for name, one in found.items() if one["used_as"]] == ["general"]
    assert not (tmp_path / "data").exists()
    shown = run("policy", "show", "wcso-2019").stdout
    assert "5 of 5 wrong if not enrolled" in shown
    assert "'We do not set nor do we utilize a confidence threshold'" in " ".join(shown.split())
    (whole,) = documents(run("policy", "show", "eu-26-10", "--json"))
    assert (whole["sha256"], whole["is_loadable"]) == (found["eu-26-10"]["sha256"], False)
    assert whole["pack"]["review"]["reviewers"] == 2
    assert "there is no version '9'" in errors(run("policy", "show", "general", "--version", "9", code=2))[0]


def test_explain_names_every_rule_that_is_not_kept_with_its_source_and_how_to_comply(run: Callable[..., Result]) -> None:
    """Theft at 80 under Maryland, without a certificate: two rules refuse; homicide is allowed."""
    theft = ("--pack", "us-md", "--purpose", "suspect", "--offence", "theft", "--on", "2026-11-23")
    found = explained(run, *theft, "--threshold", "80", "--uncertified", code=3)
    refusing = {one["rule"]: one for one in found["rules"] if one["verdict"] == "refuses"}
    assert list(refusing) == ["us-md/certificate", "us-md/offence"]
    assert found["decision"]["rule"] == "us-md/certificate"
    assert "these are: homicide, " in refusing["us-md/offence"]["text"]
    assert "§ 2-503" in refusing["us-md/offence"]["citation"]
    text = run("policy", "explain", *theft, code=3).stdout
    assert "No: us-md/offence refuses it. (a template, which is not in force)" in text
    assert "REFUSES     us-md/offence" in text
    allowed = explained(run, "--pack", "us-md", "--purpose", "suspect", "--offence", "homicide", "--threshold", "0")
    assert [one["rule"] for one in allowed["rules"] if one["verdict"] == "noted"] == ["us-md/threshold.none"]


def test_explain_by_date_and_document(run: Callable[..., Result]) -> None:
    """The EU's authorisation: asked for, requested, refused, in an emergency; and before the law applies."""
    asked = ("--pack", "eu-26-10", "--purpose", "suspect", "--offence", "robbery", "--on", "2028-01-10T08:00:00Z")
    assert explained(run, *asked, code=3)["decision"]["rule"] == "eu-26-10/documents"
    assert explained(run, *asked, "--document", "court_order:requested")["is_allowed"]
    assert explained(run, *asked, "--document", "court_order:refused", code=3)["decision"]["rule"] == "eu-26-10/documents"
    assert explained(run, *asked, "--emergency", "2028-01-08T08:00:01Z")["is_allowed"]
    assert explained(run, *asked, "--emergency", "2028-01-08T08:00:00Z", code=3)
    assert explained(run, *asked[:-1], "2027-12-01T23:59:59Z", "--document", "warrant", code=3)["decision"]["rule"] == "eu-26-10/effective"


def test_explain_on_the_last_day_of_all(run: Callable[..., Result]) -> None:
    """No sum of days or hours leaves the calendar: a certificate of a year, an emergency of 48 hours."""
    last = ("--purpose", "suspect", "--offence", "robbery", "--on", "9999-12-31")
    found = explained(run, "--pack", "public-safety", *last, "--threshold", "99.9", code=3)
    assert found["decision"]["rule"] == "public-safety/certificate"
    assert explained(run, "--pack", "eu-26-10", *last, "--emergency", "9999-12-31", code=3)["decision"]["rule"]


def test_explain_in_a_deployment(run: Callable[..., Result]) -> None:
    """The collection's own pack, the operator's own roles and certificate; nothing is looked at, so that nothing is recorded."""
    run("collection", "create", "arrests", "--policy", "public-safety")
    run("operator", "add", "dispatch", "--role", "investigator")
    before = len(documents(run("ledger", "show", "--operator", "first")))
    asked = ("-c", "arrests", "--operator", "first", "--purpose", "suspect", "--offence", "theft", "--threshold", "96.03")
    own = explained(run, *asked, code=3)
    assert own["decision"]["rule"] == "public-safety/roles"
    other = explained(run, *asked, "--for", "dispatch", code=3)
    assert [one["rule"] for one in other["rules"] if one["verdict"] == "refuses"] == [
        "public-safety/certificate",
        "public-safety/threshold.floor",
    ]
    assert "no operator 'nobody'" in errors(run("policy", "explain", *asked, "--for", "nobody", code=2))[0]
    assert len(documents(run("ledger", "show", "--operator", "first"))) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "name a collection with --collection, or a pack with --pack"),
        (("--pack", "general", "-c", "people"), "name a collection with --collection, or a pack with --pack"),
        (("--pack", "nothing"), "there is no policy pack 'nothing'"),
        (("--pack", "general", "--purpose", "curiosity"), "--purpose: 'curiosity' is not one of suspect"),
        (("--pack", "general", "--purpose", "*"), "--purpose: '*' is not one of suspect"),
        (("--pack", "general", "--purpose", "suspect", "--probe", "*"), "--probe: '*' is not one of photograph"),
        (("--pack", "general", "--offence", "theft"), "name its purpose with --purpose"),
        (("--pack", "general", "--purpose", "suspect", "--document", "court_order:lost"), "'lost' is not one of requested"),
        (("--pack", "general", "--on", "9999-12-31T23:59:59-14:00"), "--on: '9999-12-31T23:59:59-14:00' is no time"),
        (("--pack", "general", "--on", "tomorrow"), "--on: 'tomorrow' is no time; write one like"),
    ],
)
def test_explain_says_what_was_asked_wrongly(run: Callable[..., Result], arguments: tuple[str, ...], words: str) -> None:
    assert words in errors(run("policy", "explain", *arguments, code=2))[0]


def test_check_says_what_an_overlay_tightens_and_refuses_what_loosens(run: Callable[..., Result], tmp_path: Path) -> None:
    file = tmp_path / "agency.toml"
    file.write_text(OVERLAY)
    (found,) = documents(run("policy", "check", file, "--json"))
    assert [(one["rule"], one["stricter"]) for one in found["tightens"]] == [("dates", "neither"), ("candidates", "first")]
    assert (found["at_least_as_strict_as"], found["below_minimum"]) == (["public-safety", "general"], False)
    assert "candidates.maximum: 20 (here), 100 (public-safety)" in run("policy", "check", file).stdout
    strict = {"ABOVEBOARD_MINIMUM_POLICY": "public-safety", "ABOVEBOARD_DEFAULT_POLICY": "public-safety"}
    file.write_text(OVERLAY.replace("public-safety", "general"))
    below = run("policy", "check", file, **strict).stdout
    assert "looser than this deployment's minimum_policy 'public-safety'" in " ".join(below.split())
    file.write_text(OVERLAY.replace("maximum = 20", "maximum = 200"))
    assert "it loosens the rules candidates of 'public-safety'" in errors(run("policy", "check", file, code=2))[0]
    file.write_bytes(b"\xff")
    assert "agency.toml is not text" in errors(run("policy", "check", file, code=2))[0]
    run("policy", "check", tmp_path / "none.toml", code=5)


def test_diff_says_who_is_stricter_in_which_rule(run: Callable[..., Result], tmp_path: Path) -> None:
    (found,) = documents(run("policy", "diff", "public-safety", "us-md", "--json"))
    assert {one["rule"]: one["stricter"] for one in found["differences"]}["threshold"] == "first"
    assert {one["rule"]: one["stricter"] for one in found["differences"]}["offences"] == "second"
    assert "neither is at least as strict as the other" in run("policy", "diff", "public-safety", "us-md").stdout
    assert "wcso-2019 allows nothing that general refuses" in run("policy", "diff", "general", "wcso-2019").stdout
    file = tmp_path / "agency.toml"
    file.write_text(OVERLAY)
    assert "agency allows nothing that public-safety refuses" in run("policy", "diff", file, "public-safety").stdout


def test_an_authority_signs_a_looser_version(run: Callable[..., Result], tmp_path: Path) -> None:
    """Until then `check` says what it loosens, and nothing starts under it, be it the default pack itself; verbs about packs go on."""
    folder, key = tmp_path / "data" / "policies", tmp_path / "authority.key"
    folder.mkdir(parents=True)
    (folder / "authorities.txt").write_text(run("policy", "key", "council.example.org", key).stdout)
    file = folder / "general.toml"
    text = dict(shipped())["general.toml"].replace('version = "2"', 'version = "3"').replace('deny = ["civil_immigration", ', "deny = [")
    file.write_text(text)
    assert "version of 'general' before it (purposes): in force nowhere" in " ".join(run("policy", "check", file).stdout.split())
    assert "version 3 of the policy pack 'general' loosens the rules purposes" in errors(run("collection", "list", code=2))[0]
    run("policy", "sign", "general", "--version", "3", "--key", key)
    run("collection", "create", "people")
    assert "in force nowhere" not in run("policy", "check", file).stdout


def test_an_authority_signs_a_template_and_puts_it_in_force(run: Callable[..., Result], tmp_path: Path) -> None:
    """Not before the deployment trusts its key; afterwards it can be the default; a change of the note is refused at the next start."""
    folder, key, maryland = tmp_path / "data" / "policies", tmp_path / "authority.key", {"ABOVEBOARD_DEFAULT_POLICY": "us-md"}
    assert "us-md' is a template and unverified" in errors(run("collection", "list", code=2, **maryland))[0]
    verifier = run("policy", "key", "legislature.example.org", key).stdout.strip()
    assert key.stat().st_mode & 0o777 == 0o600
    assert "is there already" in errors(run("policy", "key", "legislature.example.org", key, code=2))[0]
    refused = errors(run("policy", "sign", "us-md", "--key", key, code=2))[0]
    assert f"does not trust legislature.example.org: add this line to {folder}/authorities.txt" in refused
    assert verifier in refused
    folder.mkdir(parents=True)
    (folder / "authorities.txt").write_text(f"{verifier}\n")
    run("policy", "sign", "us-md", "--key", key, **maryland)
    note = folder / "us-md-1.sig"
    assert open_note(note.read_bytes(), verifier).split("\n")[1] == "us-md"
    assert "is there already" in errors(run("policy", "sign", "us-md", "--key", key, code=2))[0]
    run("policy", "sign", "us-md", "--key", key, "--out", tmp_path / "elsewhere.sig")
    assert (tmp_path / "elsewhere.sig").read_bytes() == note.read_bytes()
    assert {one["id"]: one["signed_by"] for one in documents(run("policy", "list", "--json"))}["us-md"] == "legislature.example.org"
    run("collection", "create", "arrests", **maryland)
    refusal = run("policy", "explain", "-c", "arrests", code=3, **maryland).stdout
    assert "No: us-md/certificate refuses it." in refusal
    assert "UNVERIFIED" not in refusal
    note.write_bytes(note.read_bytes().replace(b"us-md", b"us-wa"))
    assert "the signature of legislature.example.org does not hold" in errors(run("collection", "list", code=2, **maryland))[0]
