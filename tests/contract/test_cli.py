"""The command line on drawn faces: what it prints, its exit codes, who acts, stopping and going on, the server as a process."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import boto3
import cv2
import numpy as np
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from typer.testing import CliRunner, Result

from aboveboard.cli import app
from aboveboard.cli.folders import Photograph
from aboveboard.vision import null

COMMAND = [sys.executable, "-m", "aboveboard"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A machine of its own: null models, its own home."""
    return {"ABOVEBOARD_PACK": "null", "ABOVEBOARD_DATA": str(tmp_path / "data"), "XDG_DATA_HOME": str(tmp_path / "home"), "COLUMNS": "120"}


@pytest.fixture
def run(environment: Mapping[str, str]) -> Callable[..., Result]:
    """run("search", ...): the verb in this process; `code` is the exit code that it must have."""

    def call(*arguments: object, code: int = 0, **overrides: str) -> Result:
        result = CliRunner().invoke(app, [str(one) for one in arguments], env={**environment, **overrides})
        assert result.exit_code == code, (result.output, result.exception)
        return result

    return call


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder: two people, one of them twice, a photograph of nobody, a broken file, a note."""
    folder = tmp_path / "photographs"
    write(folder / "Ada" / "ada 1.png", 1)
    write(folder / "Ada" / "ada_2.PNG", 1, take=1, variation=0.2)
    write(folder / "bob.jpg", 2)
    write(folder / "nobody.png")
    (folder / "broken.jpg").write_bytes(b"<html>")
    (folder / "notes.txt").write_text("not a photograph")
    return folder


def write(file: Path, *subjects: int, take: int = 0, variation: float = 0.0, side: int = 96) -> Path:
    """A drawn photograph of these subjects."""
    image = np.full((side + 64, max(160, 40 + len(subjects) * (side + 20)), 3), 190, np.uint8)
    for i, subject in enumerate(subjects):
        null.draw(image, 20 + i * (side + 20), 32, side, subject, variation, take)
    file.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(file), image)
    return file


def documents(result: Result) -> list[dict[str, Any]]:
    """The JSON lines of stdout."""
    return [json.loads(line) for line in result.stdout.splitlines()]


def errors(result: Result) -> list[str]:
    """The lines of stderr that report an error; none of them is a traceback."""
    assert "Traceback" not in result.stderr
    return [line for line in result.stderr.splitlines() if line.startswith("error: ")]


# --- help ----------------------------------------------------------------------------------------------------------------------


def test_help_names_the_verbs_and_the_exit_codes(run: Callable[..., Result]) -> None:
    shown = run("--help").output
    for word in (
        "serve",
        "detect",
        "compare",
        "index",
        "search",
        "evaluate",
        "calibrate",
        "demo",
        "collection",
        "operator",
        "models",
        "ledger",
    ):
        assert word in shown
    for code in ("0 done", "1 nothing found", "2 wrong usage", "3 refused", "4 no photograph", "5 unavailable", "130 stopped"):
        assert code in " ".join(shown.split())
    assert run("--version").output == f"aboveboard {metadata.version('aboveboard')}\n"


def test_help_loads_neither_models_nor_database() -> None:
    """Or it would take two seconds."""
    code = "import sys, aboveboard.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"onnxruntime", "cv2", "sqlalchemy", "scipy", "botocore", "aboveboard.bootstrap"} & set(loaded)


def test_python_m_is_the_same_command(environment: Mapping[str, str]) -> None:
    everything = {**os.environ, **environment, "ABOVEBOARD_PACK": "yunet-sface"}
    done = subprocess.run([*COMMAND, "collection", "list"], env=everything, capture_output=True, text=True)
    assert done.returncode == 5
    assert "run: python -m aboveboard models install" in done.stderr


def test_wrong_usage_is_2(run: Callable[..., Result], photographs: Path) -> None:
    run("search", photographs, code=2)
    run("search", photographs, "-c", "c", "--threshold", "101", code=2)
    run("search", photographs, "-c", "c", "--limit", "4097", code=2)
    run("no-such-verb", code=2)
    assert "there is no file or folder" in errors(run("detect", photographs / "absent.jpg", code=2))[0]
    (photographs.parent / "empty").mkdir()
    assert "no photograph there" in errors(run("detect", photographs.parent / "empty", code=2))[0]


def test_an_unknown_setting_is_named(run: Callable[..., Result]) -> None:
    assert "ABOVEBOARD_PAKC" in errors(run("collection", "list", code=2, ABOVEBOARD_PAKC="null"))[0]


def test_a_missing_pack_is_5_and_says_what_to_run(run: Callable[..., Result]) -> None:
    missing = {"code": 5, "ABOVEBOARD_PACK": "yunet-sface"}
    assert errors(run("collection", "list", **missing))[0].endswith("run: aboveboard models install")


def test_advice_repeats_the_data_folder(run: Callable[..., Result], photographs: Path, tmp_path: Path) -> None:
    data = tmp_path / "a folder"
    given = f"--data '{data}'"
    elsewhere = ["--data", data]
    bob = photographs / "bob.jpg"
    assert given in errors(run("collection", "list", *elsewhere, code=5, ABOVEBOARD_PACK="yunet-sface"))[0]
    assert given in errors(run("calibrate", photographs, *elsewhere, code=5, ABOVEBOARD_PACK="yunet-sface"))[0]
    assert given in " ".join(run("collection", "list", *elsewhere, COLUMNS="1000").stdout.split())
    assert f"aboveboard operator add eve --role ROLE {given}" in errors(run("detect", bob, "--operator", "eve", *elsewhere, code=2))[0]
    assert f"aboveboard collection list {given}" in errors(run("search", bob, "-c", "c", *elsewhere, code=2))[0]


# --- detect and compare --------------------------------------------------------------------------------------------------------


def test_detect(run: Callable[..., Result], photographs: Path, tmp_path: Path) -> None:
    bob = photographs / "bob.jpg"
    assert "would enrol" in run("detect", bob).stdout
    (found,) = documents(run("detect", bob, "--json"))
    (face,) = found["faces"]
    assert found["photograph"] == "bob.jpg"
    assert face["size_px"] == pytest.approx(96, abs=2)
    assert len(face["landmarks"]) == 5
    assert face["shortcoming"] is None
    drawn = tmp_path / "drawn.jpg"
    run("detect", bob, "--draw", drawn)
    assert min(cv2.imread(str(drawn)).shape[:2]) >= 700, "a small photograph is enlarged, so that its words can be read"


def test_detect_says_what_it_could_not_use(run: Callable[..., Result], photographs: Path, tmp_path: Path) -> None:
    assert "no face found" in run("detect", photographs / "nobody.png", code=1).stdout
    assert errors(run("detect", photographs / "broken.jpg", code=4)) == [
        "error: broken.jpg: the bytes are neither a JPEG nor a PNG; convert the image to one of them"
    ]
    whole = run("detect", photographs, "--json", "--draw", tmp_path / "drawn")
    assert [one["photograph"] for one in documents(whole)] == ["bob.jpg", "broken.jpg", "nobody.png", "Ada/ada 1.png", "Ada/ada_2.PNG"]
    assert "error" in documents(whole)[1]
    assert sorted(file.name for file in (tmp_path / "drawn").rglob("*.jpg")) == [
        "ada 1.png.jpg",
        "ada_2.PNG.jpg",
        "bob.jpg.jpg",
        "nobody.png.jpg",
    ]


def test_a_picture_that_cannot_be_written_is_5(run: Callable[..., Result], photographs: Path) -> None:
    assert "cannot be written" in errors(run("detect", photographs / "bob.jpg", "--draw", "/proc/drawn.jpg", code=5))[0]
    assert "drawn as .jpg or .png" in errors(run("detect", photographs / "bob.jpg", "--draw", "drawn.bmp", code=2))[0]


def test_compare(run: Callable[..., Result], photographs: Path, tmp_path: Path) -> None:
    both = write(tmp_path / "both.png", 2, 1, take=1, variation=0.2)
    drawn = tmp_path / "compared.png"
    shown = run("compare", photographs / "Ada" / "ada 1.png", both, "--draw", drawn).stdout
    assert_basis(shown)
    assert "below 80" in shown
    assert drawn.exists()
    (found,) = documents(run("compare", photographs / "Ada" / "ada 1.png", both, "--json"))
    assert [one["rank"] for one in found["candidates"]] == [1]
    assert found["candidates"][0]["similarity"] >= 80
    assert len(found["others"]) == 1
    assert found["basis"]["gallery_size"] == 2
    assert found["basis"]["threshold_origin"] == "default"


def test_compare_exit_codes(run: Callable[..., Result], photographs: Path) -> None:
    ada, bob = photographs / "Ada" / "ada 1.png", photographs / "bob.jpg"
    run("compare", ada, bob, code=1)
    assert errors(run("compare", ada, photographs / "nobody.png", code=1)) == [
        "error: There are no faces in the target image. Should be at least 1."
    ]
    assert "no faces" in documents(run("compare", ada, photographs / "nobody.png", "--json", code=1))[0]["error"]
    run("compare", photographs / "broken.jpg", ada, code=4)
    run("compare", ada, photographs / "absent.png", code=2)
    run("compare", ada, ada, "--threshold", "50", code=3, ABOVEBOARD_DEFAULT_POLICY="public-safety")


def test_who_wants_no_threshold_gets_no_advice_on_one(run: Callable[..., Result], photographs: Path) -> None:
    ada, bob = photographs / "Ada" / "ada 1.png", photographs / "bob.jpg"
    assert "send a threshold" not in run("compare", ada, bob, "-t", "0").stdout
    assert "better_threshold" not in documents(run("compare", ada, bob, "-t", "0", "--json"))[0]["basis"]


# --- index ---------------------------------------------------------------------------------------------------------------------


def test_index_a_folder(run: Callable[..., Result], photographs: Path) -> None:
    shown = run("index", photographs, "--collection", "c", "--create").stdout
    assert "3 photographs, 3 new faces" in shown
    assert "notes.txt" in shown
    assert "broken.jpg: the bytes are neither a JPEG nor a PNG" in shown
    assert "nobody.png" in shown
    again = documents(run("index", photographs, "--collection", "c", "--json"))
    assert [one["status"] for one in again[:-1]] == ["already_indexed", "failed", "no_face", "already_indexed", "already_indexed"]
    summary = again[-1]["summary"]
    assert summary == {
        "collection": "c", "faces": 3, "photographs": 5, "taken": 5, "indexed": 0, "already_indexed": 3, "new_faces": 0,
        "failures_to_enrol": 0, "without_face": ["nobody.png"], "skipped": ["notes.txt"],
        "failed": [{"photograph": "broken.jpg", "error": "the bytes are neither a JPEG nor a PNG; convert the image to one of them"}],
    }  # fmt: skip


def test_external_image_ids_are_the_paths(run: Callable[..., Result], photographs: Path) -> None:
    lines = documents(run("index", photographs, "-c", "c", "--create", "--json"))[:-1]
    ids = {one["photograph"]: one["external_image_id"] for one in lines}
    assert ids["Ada/ada 1.png"] == "Ada:ada_1.png-75fd188e"
    assert ids["Ada/ada_2.PNG"] == "Ada:ada_2.PNG"
    long = Photograph(Path("x"), "é/" + 300 * "a" + ".jpg")
    assert re.fullmatch(r"[a-zA-Z0-9_.\-:]{255}", long.external_image_id)
    assert "aaa.jpg-" in long.external_image_id


def test_index_exit_codes(run: Callable[..., Result], photographs: Path) -> None:
    absent = errors(run("index", photographs / "bob.jpg", "-c", "c", code=2))[0]
    assert absent.startswith("error: The collection id: c does not exist; make it with --create")
    run("index", photographs / "bob.jpg", "-c", "no good", "--create", code=2)
    run("index", photographs / "bob.jpg", "-c", "c", "--policy", "public-safety", code=2)
    run("index", photographs / "broken.jpg", "-c", "c", "--create", code=4)
    for _ in range(2):
        run("index", photographs / "nobody.png", "-c", "c", code=1)
        run("index", photographs / "nobody.png", photographs / "broken.jpg", "-c", "c", code=1)
    for _ in range(2):
        run("index", photographs / "bob.jpg", "-c", "c")
    run("index", photographs / "bob.jpg", photographs / "nobody.png", photographs / "broken.jpg", "-c", "c")


def test_ids_are_whole_on_a_terminal_of_80_columns(run: Callable[..., Result], photographs: Path) -> None:
    shown = run("index", photographs / "bob.jpg", "-c", "c", "--create", COLUMNS="80").stdout
    assert re.search(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", shown)
    assert "ExternalImageId" in shown
    assert " bob.jpg" in shown
    found = run("search", photographs / "bob.jpg", "-c", "c", COLUMNS="80").stdout
    assert re.search(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", found)
    assert "…" not in shown + found
    narrow = run("search", photographs / "bob.jpg", "-c", "c", COLUMNS="40").stdout
    assert "…" not in narrow


def test_faces_that_are_not_enrolled_are_named(run: Callable[..., Result], tmp_path: Path) -> None:
    crowd = write(tmp_path / "crowd.png", 1, 2, 3)
    shown = run("index", crowd, "-c", "c", "--create", "--max-faces", "2", "--draw", tmp_path / "crowd.jpg").stdout
    assert "not enrolled: more faces than --max-faces" in shown
    assert (tmp_path / "crowd.jpg").exists()


def test_ctrl_c_keeps_what_is_done_and_the_next_run_goes_on(environment: Mapping[str, str], tmp_path: Path) -> None:
    folder, many = tmp_path / "many", 200
    for subject in range(many):
        write(folder / f"{subject:03d}.png", subject)
    index = [*COMMAND, "index", str(folder), "-c", "c", "--create", "--json", "--workers", "2"]
    everything = {**os.environ, **environment}
    process = subprocess.Popen(index, env=everything, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    # A pipe that holds fewer lines than there are photographs: the run waits for its reader and cannot end before Ctrl-C.
    fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)
    first = [process.stdout.readline() for _ in range(5)]
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    # Not communicate(): it would lose what readline() has taken in ahead.
    rest, said = process.stdout.read(), process.stderr.read()
    lines = [json.loads(line) for line in [*first, *rest.splitlines()]]
    assert process.wait(60) == 130, said
    assert "Traceback" not in said
    assert "To go on: " in said
    done = lines[-1]["summary"]
    assert 5 <= done["taken"] == done["faces"] < many
    again = subprocess.run(index, env=everything, capture_output=True, text=True, timeout=120, check=True)
    summary = json.loads(again.stdout.splitlines()[-1])["summary"]
    assert (summary["faces"], summary["already_indexed"], summary["new_faces"]) == (many, done["taken"], many - done["taken"])


# --- search --------------------------------------------------------------------------------------------------------------------


def assert_basis(shown: str) -> None:
    """Beside the similarity, always."""
    for word in ("threshold", "origin", "policy", "floor", "N = ", "FMR", "E = ", "FPIR", "FNIR", "calibration", "audit id"):
        assert word in shown, f"{word} is missing in {shown}"


@pytest.fixture
def gallery(run: Callable[..., Result], photographs: Path) -> str:
    run("index", photographs, "-c", "people", "--create")
    return "people"


def test_search_shows_what_it_rests_on(run: Callable[..., Result], photographs: Path, gallery: str, tmp_path: Path) -> None:
    shown = run("search", photographs / "bob.jpg", "-c", gallery, "--draw", tmp_path / "found.jpg").stdout
    assert_basis(shown)
    assert "100.00* " in shown
    assert "bob.jpg" in shown
    assert "origin default" in shown
    assert (tmp_path / "found.jpg").exists()
    low = run("search", photographs / "bob.jpg", "-c", gallery, "-t", "1").stdout
    assert "false candidates per search: for at most 0.01 at N = 3" in " ".join(low.split())
    assert "extrapolated" in run("search", photographs / "bob.jpg", "-c", gallery, "-t", "99.9").stdout


def test_search_as_json(run: Callable[..., Result], photographs: Path, gallery: str) -> None:
    (found,) = documents(run("search", photographs / "Ada" / "ada 1.png", "-c", gallery, "--json", "--limit", "1", "-t", "60"))
    (candidate,) = found["candidates"]
    assert candidate["rank"] == 1
    assert candidate["external_image_id"] == "Ada:ada_1.png-75fd188e"
    assert candidate["similarity"] == 100
    basis = found["basis"]
    assert (basis["threshold"], basis["threshold_origin"], basis["policy"], basis["gallery_size"]) == (60, "request", "general", 3)
    entries = documents(run("ledger", "show", "--last", "2"))
    assert [entry["type"] for entry in entries] == ["look.intent", "look.outcome"]
    assert {entry["audit_id"] for entry in entries} == {basis["audit_id"]}
    assert entries[0]["via"] == "cli"
    assert entries[0]["operator"] == "first"
    (unbounded,) = documents(run("search", photographs / "bob.jpg", "-c", gallery, "--json", "-t", "1"))
    assert unbounded["basis"]["better_threshold"]["expected_false"] <= 0.01


def test_search_a_folder(run: Callable[..., Result], photographs: Path, gallery: str) -> None:
    result = run("search", photographs, "-c", gallery)
    assert {line.split(":")[1].strip() for line in errors(result)} == {"broken.jpg", "nobody.png"}
    assert "Ada:ada_1.png-75fd188e" in result.stdout
    assert len(documents(run("search", photographs, "-c", gallery, "--json"))) == 5


def test_search_exit_codes(run: Callable[..., Result], photographs: Path, gallery: str, tmp_path: Path) -> None:
    stranger = write(tmp_path / "stranger.png", 77)
    assert "nobody in the collection is a candidate" in run("search", stranger, "-c", gallery, code=1).stdout
    absent = errors(run("search", stranger, "-c", "absent", code=2))[0]
    assert absent == "error: The collection id: absent does not exist; see which there are with: aboveboard collection list"
    run("search", photographs / "broken.jpg", "-c", gallery, code=4)
    run("search", photographs / "nobody.png", "-c", gallery, code=1)
    run("search", photographs / "nobody.png", photographs / "broken.jpg", "-c", gallery, code=1)
    run("search", stranger, "-c", gallery, "--operator", "mallory", code=2)


def test_a_strict_collection_refuses_and_withholds(run: Callable[..., Result], photographs: Path) -> None:
    bob = photographs / "bob.jpg"
    run("operator", "add", "chief", "--role", "admin")
    run("operator", "add", "clerk", "--role", "enroller", "--operator", "chief")
    run("operator", "add", "detective", "--role", "investigator", "--operator", "chief")
    assert "--operator NAME, one of: chief, clerk, detective" in errors(run("search", bob, "-c", "strict", code=2))[0]
    run("collection", "create", "strict", "--policy", "public-safety", "--operator", "chief")
    run("index", bob, "-c", "strict", "--operator", "detective", code=3)
    run("index", bob, "-c", "strict", "--operator", "clerk")
    search = ["search", bob, "-c", "strict", "--operator", "detective"]
    assert "public-safety/threshold.floor" in errors(run(*search, "-t", "80", code=3))[0]
    assert documents(run("ledger", "show", "--last", "1", "--operator", "chief"))[0]["type"] == "refused"
    shown = run(*search).stdout
    assert "withheld until reviewed" in shown
    assert "origin policy" in shown
    assert "bob.jpg" not in shown
    (found,) = documents(run(*search, "--json"))
    assert found["candidates"][0]["external_image_id"] is None
    assert found["basis"]["identities_withheld"] is True


# --- the deployment ------------------------------------------------------------------------------------------------------------


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


# --- the laboratory ------------------------------------------------------------------------------------------------------------


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
    assert "it is in" in run("calibrate", folder).stdout
    made = tmp_path / "home" / "aboveboard" / "models" / "null" / "calibration.json"
    assert json.loads(made.read_text())["data_set"] == "people"
    (null_pack,) = (one for one in documents(run("models", "list", "--json")) if one["pack"] == "null")
    assert null_pack["calibration"] == json.loads(made.read_text())["id"]
    assert "errata" in errors(run("evaluate", "verification", folder, "--errata", tmp_path / "absent.csv", code=2))[0]
    run("evaluate", "verification", tmp_path / "absent", code=2)


# --- the server as a process ---------------------------------------------------------------------------------------------------


@contextmanager
def served(environment: Mapping[str, str], *arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, str], str]]:
    """A server process, what it says to export, and all it said on its start."""
    everything = {**os.environ, **environment}
    process = subprocess.Popen(
        [*COMMAND, "serve", "--port", "0", *arguments], env=everything, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        said = ""
        while "listening on" not in said:
            line = process.stdout.readline()
            assert line, process.communicate()
            said += line
        yield process, dict(re.findall(r"^export (\w+)=(\S+)$", said, re.MULTILINE)), said
    finally:
        process.kill()
        process.communicate()


def client(exports: Mapping[str, str]) -> Any:
    return boto3.client(
        "rekognition",
        endpoint_url=exports["AWS_ENDPOINT_URL_REKOGNITION"],
        aws_access_key_id=exports["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=exports["AWS_SECRET_ACCESS_KEY"],
        region_name=exports["AWS_REGION"],
    )


def test_serve_prints_the_key_once_and_stops_cleanly(environment: Mapping[str, str]) -> None:
    with served(environment) as (process, exports, said):
        assert list(exports) == [
            "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "AWS_REGION", "AWS_ENDPOINT_URL_REKOGNITION",
        ]  # fmt: skip
        assert "shown this once" in said
        url = exports["AWS_ENDPOINT_URL_REKOGNITION"]
        with urllib.request.urlopen(f"{url}/healthz", timeout=10) as answer:
            assert json.load(answer)["status"] == "ok"
            assert answer.headers["server"] is None
        assert client(exports).list_collections()["CollectionIds"] == []
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        out, err = process.communicate()
        assert exports["AWS_SECRET_ACCESS_KEY"] not in out + err
    with served(environment) as (process, exports, said):
        assert "AWS_SECRET_ACCESS_KEY" not in said
        assert "not shown again" in said
        assert "aboveboard operator add NAME --role ROLE\n" in said
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0


def test_serve_repeats_the_data_folder(environment: Mapping[str, str], tmp_path: Path) -> None:
    data = str(tmp_path / "elsewhere")
    for _ in range(2):
        with served(environment, "--data", data) as (_, _, said):
            pass
    assert f"operator add NAME --role ROLE --data {data}\n" in said


def test_a_request_in_flight_is_finished(environment: Mapping[str, str]) -> None:
    with served(environment) as (process, exports, _):
        url = exports["AWS_ENDPOINT_URL_REKOGNITION"]
        body = b'{"MaxResults": 7}'
        headers = {"X-Amz-Target": "RekognitionService.ListCollections", "Content-Type": "application/x-amz-json-1.1"}
        request = AWSRequest("POST", f"{url}/", headers=headers, data=body)
        keys = Credentials(exports["AWS_ACCESS_KEY_ID"], exports["AWS_SECRET_ACCESS_KEY"])
        SigV4Auth(keys, "rekognition", exports["AWS_REGION"]).add_auth(request)
        host, port = url.removeprefix("http://").split(":")
        lines = [f"{name}: {value}" for name, value in request.headers.items()]
        head = "\r\n".join(["POST / HTTP/1.1", f"Host: {host}:{port}", f"Content-Length: {len(body)}", *lines, "", ""])
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(head.encode() + body[:5])
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            connection.sendall(body[5:])
            answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200"), answer
        assert process.wait(10) == 0


def test_server_and_verbs_see_each_others_writes(environment: Mapping[str, str], run: Callable[..., Result], photographs: Path) -> None:
    bob = photographs / "bob.jpg"
    with served(environment) as (_, exports, _):
        rekognition = client(exports)
        rekognition.create_collection(CollectionId="shared")
        run("index", photographs, "-c", "shared")
        answer = rekognition.search_faces_by_image(CollectionId="shared", Image={"Bytes": bob.read_bytes()})
        assert answer["FaceMatches"][0]["Face"]["ExternalImageId"] == "bob.jpg"
        rekognition.delete_faces(CollectionId="shared", FaceIds=[answer["FaceMatches"][0]["Face"]["FaceId"]])
        run("search", bob, "-c", "shared", code=1)


def test_serve_refuses_a_taken_port_and_plain_http_for_others(environment: Mapping[str, str], run: Callable[..., Result]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert "is another server running?" in errors(run("serve", "--port", port, code=5))[0]
    assert "--plain-http-behind-proxy" in errors(run("serve", "--host", "0.0.0.0", code=3))[0]
    assert "cannot listen" in errors(run("serve", "--host", "192.0.2.1", "--plain-http-behind-proxy", code=5))[0]
    with served(environment, "--host", "0.0.0.0", "--plain-http-behind-proxy") as (_, exports, _):
        port = int(exports["AWS_ENDPOINT_URL_REKOGNITION"].rsplit(":", 1)[1])
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10) as answer:
            assert answer.status == 200


def test_names_that_the_api_does_not_allow_stay_apart(tmp_path):
    """Signs that an ExternalImageId cannot hold are replaced, and a mark keeps the names apart."""
    from aboveboard.cli.folders import Photograph

    ids = {
        Photograph(tmp_path, name).external_image_id
        for name in ("张三.png", "李四.png", "a b.png", "a_b.png", "a/b.png", "a:b.png", "x" * 300)
    }
    assert len(ids) == 7
    assert all(len(one) <= 255 for one in ids)


def test_a_drawing_does_not_overwrite_the_photograph(photographs, run):
    """Neither the file itself nor one of a folder."""
    before = (photographs / "bob.jpg").read_bytes()
    run("detect", photographs / "bob.jpg", "--draw", photographs / "bob.jpg", code=2)
    assert (photographs / "bob.jpg").read_bytes() == before
