"""Verbs for a deployment and its models: operators, collections, ledger, packs; and the laboratory's."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import documents, errors, write
from typer.testing import Result


def test_operators(run: Callable[..., Result]) -> None:
    assert "role admin" in errors(run("operator", "add", "ann", "--role", "auditor", code=2))[0]
    (made,) = documents(run("operator", "add", "ann", "--role", "auditor", "--role", "admin", "--json"))
    assert made["roles"] == ["admin", "auditor"]
    assert len(made["secret_access_key"]) == 40
    shown = run("operator", "add", "ben", "--role", "enroller").stdout
    assert re.search(r"^export AWS_SECRET_ACCESS_KEY=\S{40}$", shown, re.MULTILINE)
    assert "general/roles" in errors(run("operator", "add", "eve", "--role", "admin", "--operator", "ben", code=3))[0]
    assert [one["operator"] for one in documents(run("operator", "list", "--json", "--operator", "ann"))] == ["ann", "ben"]
    run("operator", "add", "ann", "--role", "admin", "--operator", "ann", code=2)
    secret = made["secret_access_key"]
    assert secret not in run("ledger", "show", "--operator", "ann").stdout


def test_among_several_operators_nobody_acts_by_default(run: Callable[..., Result], photographs: Path) -> None:
    """Not even `first`."""
    run("collection", "list")
    run("operator", "add", "ben", "--role", "enroller")
    before = len(documents(run("ledger", "show", "--operator", "first")))
    for verb in (["collection", "create", "c"], ["detect", photographs / "bob.jpg"], ["operator", "add", "eve", "--role", "admin"]):
        assert "--operator NAME, one of: ben, first" in errors(run(*verb, code=2))[0]
    assert len(documents(run("ledger", "show", "--operator", "first"))) == before


def test_roles_that_the_policy_keeps_apart_are_refused_together(run: Callable[..., Result]) -> None:
    strict = {"ABOVEBOARD_DEFAULT_POLICY": "public-safety"}
    run("operator", "add", "chief", "--role", "admin", **strict)
    refused = run("operator", "add", "eve", "--role", "investigator", "--role", "enroller", code=3, **strict)
    assert "public-safety/roles" in errors(refused)[0]
    assert [one["operator"] for one in documents(run("operator", "list", "--json", **strict))] == ["chief"]


def test_the_first_verb_on_a_new_deployment_makes_its_operator_and_shows_his_secret_once(run: Callable[..., Result]) -> None:
    assert "AWS_SECRET_ACCESS_KEY" in run("collection", "list").stderr
    assert "AWS_SECRET_ACCESS_KEY" not in run("collection", "list").stderr


def test_collections(run: Callable[..., Result]) -> None:
    assert "no collection yet" in run("collection", "list").stdout
    run("collection", "create", "one")
    (made,) = documents(run("collection", "create", "two", "--policy", "public-safety", "--json"))
    assert made["policy"] == "public-safety"
    run("collection", "create", "two", code=2)
    run("collection", "create", "three", "--policy", "no-such-pack", code=2)
    assert [one["collection"] for one in documents(run("collection", "list", "--json"))] == ["one", "two"]
    assert "policy: general" in run("collection", "describe", "one").stdout
    assert "--yes" in errors(run("collection", "delete", "one", code=2))[0]
    assert documents(run("collection", "delete", "one", "--yes", "--json")) == [{"collection": "one", "faces": 0, "is_deleted": True}]
    for verb in ("describe", "delete"):
        assert "aboveboard collection list" in errors(run("collection", verb, "one", code=2))[0]
    assert "deleted the collection two" in run("collection", "delete", "two", "--yes").stdout


def test_the_ledger_and_its_root(run: Callable[..., Result]) -> None:
    run("collection", "create", "one")
    entries = documents(run("ledger", "show"))
    assert [entry["seq"] for entry in entries] == list(range(len(entries)))
    (root,) = documents(run("ledger", "root", "--json"))
    assert root["size"] == len(entries)
    assert re.fullmatch("[0-9a-f]{64}", root["root"])


def test_models(run: Callable[..., Result], tmp_path: Path) -> None:
    packs = {one["pack"]: one for one in documents(run("models", "list", "--json"))}
    assert packs["null"]["is_in_use"]
    kinds = {pack: one["kind"] for pack, one in packs.items() if one["is_in_use"]}
    assert kinds == {"null": "faces", "null-labels": "labels", "null-attributes": "attributes"}
    assert not packs["efficientnet-lite0"]["is_installed"]
    assert not packs["yunet-sface"]["is_installed"]
    assert packs["yunet-sface"]["licence"]
    assert "in use" in run("models", "list").stdout
    assert "is whole" in run("models", "verify").stdout
    assert documents(run("models", "verify", "--json"))[0]["pack"] == "null"
    (installed,) = documents(run("models", "install", "--json"))
    assert (installed["pack"], installed["folder"]) == ("null", str(tmp_path / "home" / "aboveboard" / "models" / "null"))
    assert "yunet" in errors(run("models", "verify", "yunet-sface", code=5))[0]
    run("models", "install", "no-such-pack", code=2)
    run("models", "install")
    assert "card.toml" in errors(run("models", "install", "--from", tmp_path, code=2))[0]


def test_photographs_that_are_there_are_not_fetched(run: Callable[..., Result], tmp_path: Path) -> None:
    nowhere = {"ABOVEBOARD_PACKAGE_INDEX": f"file://{tmp_path}/no-index/", "ABOVEBOARD_PHOTOGRAPHS": str(tmp_path / "none")}
    assert "obama.jpg" in errors(run("models", "photographs", code=5, **nowhere))[0]


def test_evaluate_and_calibrate(run: Callable[..., Result], tmp_path: Path) -> None:
    folder = tmp_path / "people"
    for subject in range(110):
        for take in range(2):
            write(folder / f"person {subject}" / f"{take}.png", subject, take=take, variation=0.3)
    shown = run("evaluate", "verification", folder, "--json", tmp_path / "result.json").stdout
    assert "TAR corrected" in shown
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["failures_to_enrol"] == 0
    for labels in ("as_is", "corrected"):
        assert result[labels]["mated"] == 110
        assert set(result[labels]["tar"]) == {"1e-3", "1e-4", "1e-5", "2e-6", "1e-6"}
    (calibrated,) = documents(run("calibrate", folder, "--out", tmp_path / "elsewhere.json", "--json"))
    assert calibrated["calibration"] == json.loads((tmp_path / "elsewhere.json").read_text())["id"]
    assert calibrated["at_similarity"]["80"]["fmr"] == pytest.approx(2e-6)
    assert calibrated["file"] == str(tmp_path / "elsewhere.json")
    assert (calibrated["mated"], calibrated["mated_subjects"], calibrated["at_similarity"]["80"]["fnir"]) == (110, 110, 0)
    assert calibrated["at_similarity"]["80"]["fnir_high"] == pytest.approx(3 / 110, rel=0.02), "the rule of 3"
    told = " ".join(run("calibrate", folder).stdout.split())
    assert "it is in" in told
    assert "0 % (0 % to 2.69 %)" in told
    assert "of 110 comparisons of 110 people" in told
    made = tmp_path / "home" / "aboveboard" / "models" / "null" / "calibration.json"
    assert json.loads(made.read_text())["data_set"] == "people"
    (null_pack,) = (one for one in documents(run("models", "list", "--json")) if one["pack"] == "null")
    assert null_pack["calibration"] == json.loads(made.read_text())["id"]
    assert "errata" in errors(run("evaluate", "verification", folder, "--errata", tmp_path / "absent.csv", code=2))[0]
    run("evaluate", "verification", tmp_path / "absent", code=2)
