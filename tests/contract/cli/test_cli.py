"""The verbs on drawn faces: what they print, their exit codes, who acts."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib import metadata, resources
from pathlib import Path

import cv2
import pytest
from commands import COMMAND, certify, documents, errors, write
from typer.testing import Result

from aboveboard.cli.folders import Photograph

# --- help ----------------------------------------------------------------------------------------------------------------------


def test_help_names_the_verbs_and_the_exit_codes(run: Callable[..., Result]) -> None:
    shown = run("--help").output
    for word in (
        "serve",
        "detect",
        "labels",
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
    assert len(face["landmarks"]) == 30
    assert face["shortcomings"] == []
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


# --- search --------------------------------------------------------------------------------------------------------------------


def assert_basis(shown: str) -> None:
    """Beside the similarity, always."""
    for word in ("threshold", "origin", "policy", "floor", "N = ", "FMR", "E = ", "FPIR", "FNIR", "calibration", "audit id"):
        assert word in shown, f"{word} is missing in {shown}"


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


def test_a_candidate_has_its_likelihood_ratio_with_its_bound_and_a_posterior_for_a_stated_prior(
    run: Callable[..., Result], photographs: Path, gallery: str, tmp_path: Path
) -> None:
    search = ["search", photographs / "bob.jpg", "-c", gallery]
    shown = " ".join(run(*search, "--prior", "0.5").stdout.split())
    assert "at most 600,000, as far as 17,997,000 comparisons of two people can tell" in shown
    assert "LR 600,000" in shown
    assert "600,000 to 600,000" in shown
    assert "3,600 : 0 pairs" in shown
    assert "Pairs of one person : of two people that it rests on" in shown
    assert "P > 99.9 %" in shown
    assert "for your prior of 50 %" in shown
    assert "too much if his are added up" in shown
    assert "prior" not in run(*search).stdout
    (found,) = documents(run(*search, "--json", "--prior", "0.001"))
    (candidate,) = found["candidates"]
    assert found["evidence"]["prior"] == 0.001
    assert candidate["likelihood_ratio"] == found["evidence"]["most"] == pytest.approx(599_900, rel=1e-3)
    assert candidate["is_most"] is True
    assert candidate["likelihood_ratio_low"] == candidate["likelihood_ratio_high"] == candidate["likelihood_ratio"]
    assert (candidate["mated_pairs"], candidate["non_mated_pairs"]) == (3600, 0)
    odds = 0.001 / 3 * candidate["likelihood_ratio"]
    assert candidate["posterior"] == pytest.approx(odds / (0.999 + odds), rel=1e-3)
    (compared,) = documents(run("compare", photographs / "bob.jpg", photographs / "bob.jpg", "--json", "--prior", "0.5"))
    assert compared["candidates"][0]["posterior"] > 0.99
    entries = "".join(run("ledger", "show", "--last", "8").stdout)
    assert "look.outcome" in entries
    for word in ("likelihood", "posterior", "evidence", f"{candidate['likelihood_ratio']:.0f}"):
        assert word not in entries, "a ratio reaches no log"
    run(*search, "--prior", "1.5", code=2)


def test_a_prior_counts_people_where_faces_have_users(run: Callable[..., Result], photographs: Path) -> None:
    """Ada has two faces and Bob one: N is 2, and both of her faces have her one posterior."""
    rows = ["path,subject", "Ada/ada 1.png,ada", "Ada/ada_2.PNG,ada", "bob.jpg,bob"]
    (photographs / "list.csv").write_text("\n".join(rows) + "\n")
    run("index", "--manifest", photographs / "list.csv", "-c", "bookings", "--create")
    search = ["search", photographs / "Ada" / "ada 1.png", "-c", "bookings", "-t", "80", "--prior", "0.01"]
    (found,) = documents(run(*search, "--json"))
    assert (found["evidence"]["prior_counts"], found["evidence"]["n"]) == ("people", 2)
    one, other = found["candidates"]
    mean = (one["likelihood_ratio"] + other["likelihood_ratio"]) / 2
    odds = 0.01 / 2 * mean
    assert one["posterior"] == other["posterior"] == pytest.approx(odds / (0.99 + 0.01 * found["basis"]["fnir"] + odds), rel=1e-3)
    assert "it counts the 2 people here, not their 3 faces" in " ".join(run(*search).stdout.split())


def test_a_calibration_without_ratios_serves_as_before_and_makes_no_posterior(
    run: Callable[..., Result], photographs: Path, gallery: str, tmp_path: Path
) -> None:
    document = json.loads((resources.files("aboveboard.calibrations") / "null.json").read_text())
    del document["ratios"]
    folder = tmp_path / "models" / "null"
    folder.mkdir(parents=True)
    (folder / "calibration.json").write_text(json.dumps(document))
    search = ["search", photographs / "bob.jpg", "-c", gallery]
    (found,) = documents(run(*search, "--json", ABOVEBOARD_MODELS=str(folder.parent)))
    assert (found["evidence"], found["candidates"][0]["likelihood_ratio"], found["candidates"][0]["similarity"]) == (None, None, 100)
    assert "LR" not in run(*search, ABOVEBOARD_MODELS=str(folder.parent)).stdout
    assert "no likelihood ratios" in errors(run(*search, "--prior", "0.5", code=2, ABOVEBOARD_MODELS=str(folder.parent)))[0]


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


def test_a_strict_collection_refuses_and_withholds(run: Callable[..., Result], photographs: Path, environment: Mapping[str, str]) -> None:
    bob = photographs / "bob.jpg"
    run("operator", "add", "chief", "--role", "admin")
    run("operator", "add", "clerk", "--role", "enroller", "--operator", "chief")
    run("operator", "add", "detective", "--role", "investigator", "--operator", "chief")
    assert "--operator NAME, one of: chief, clerk, detective" in errors(run("search", bob, "-c", "strict", code=2))[0]
    run("collection", "create", "strict", "--policy", "public-safety", "--operator", "chief")
    run("index", bob, "-c", "strict", "--operator", "detective", code=3)
    run("index", bob, "-c", "strict", "--operator", "clerk")
    certify(environment, "detective")
    run("case", "open", "1", "--purpose", "suspect", "--offence", "theft", "--operator", "detective")
    search = ["search", bob, "-c", "strict", "--case", "1", "--operator", "detective"]
    assert "public-safety/threshold.floor" in errors(run(*search, "-t", "80", code=3))[0]
    assert documents(run("ledger", "show", "--last", "1", "--operator", "chief"))[0]["type"] == "refused"
    shown = run(*search).stdout
    assert "withheld until reviewed" in shown
    assert "origin policy" in shown
    assert "bob.jpg" not in shown
    (found,) = documents(run(*search, "--json"))
    assert found["candidates"][0]["external_image_id"] is None
    assert found["basis"]["identities_withheld"] is True


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
