"""`aboveboard study`: published counts, drawn people in process, at a server of ours and at one that is not, and verified again."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from commands import write
from foreign import Foreign
from kit import Server
from typer.testing import CliRunner, Result

from aboveboard.cli import app

KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIAFOREIGN000000000",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_REGION": "eu-west-1",
    "AWS_DEFAULT_REGION": "eu-west-1",
}
PEOPLE, OTHERS, ALONE = 24, 30, 4
"""People who are looked up, people of the gallery, and how many of the former have one photograph only."""
AT = ("--at", "15", "--at", "30", "--at", "80")


class Analysing(Foreign):
    """Says that whoever is drawn on a bright ground is a man; sees nobody on a black one, says nothing on a grey one."""

    def DetectFaces(self, Image: Any, Attributes: list[str]) -> dict[str, Any]:
        assert Attributes == ["ALL"]
        self.calls["DetectFaces"] += 1
        ground = int(cv2.imdecode(np.frombuffer(base64.b64decode(Image["Bytes"]), np.uint8), cv2.IMREAD_GRAYSCALE)[0, 0])
        box = {"BoundingBox": {"Left": 0.1, "Top": 0.1, "Width": 0.5, "Height": 0.5}}
        if ground < 10:
            return {"FaceDetails": []}
        gender = {} if 100 < ground < 150 else {"Gender": {"Value": "Male" if ground > 150 else "Female", "Confidence": 99.0}}
        return {"FaceDetails": [{**box, **gender}]}


class Silent(Foreign):
    """Finds the faces that the others find, and says nothing of any."""

    def DetectFaces(self, Image: Any, Attributes: list[str]) -> dict[str, Any]:
        image = cv2.imdecode(np.frombuffer(base64.b64decode(Image["Bytes"]), np.uint8), cv2.IMREAD_GRAYSCALE)
        box = {"BoundingBox": {"Left": 0.1, "Top": 0.1, "Width": 0.5, "Height": 0.5}}
        return {"FaceDetails": [box] if image.std() > 1 else []}


@pytest.fixture
def foreign() -> Iterator[Callable[..., Any]]:
    running: list[Foreign] = []

    def start(kind: type[Foreign] = Foreign, **how: Any) -> Foreign:
        running.append(kind(**how))
        return running[-1]

    yield start
    for one in running:
        one.stop()


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`congress` with labels, `gallery`; one person is in both, one probe shows nobody."""
    folder = tmp_path_factory.mktemp("people")
    for person in range(PEOPLE):
        if person == 3:
            write(folder / "congress" / f"P{person:02}" / "1.png")
        else:
            write(folder / "congress" / f"P{person:02}" / "1.png", person)
        if person >= ALONE:
            write(folder / "congress" / f"P{person:02}" / "2.png", person, take=1, variation=0.3)
    for person in range(OTHERS):
        write(folder / "gallery" / f"G{person:02}" / "1.png", 1000 + person)
    write(folder / "gallery" / "P05" / "1.png", 5, take=2, variation=0.1)
    lines = [f"P{person:02},{'F' if person % 2 else 'M'},{'a' if person < 8 else 'b'}" for person in range(PEOPLE)]
    (folder / "members.csv").write_text("\n".join(["id,gender,party", *lines]) + "\n")
    return folder


@pytest.fixture(scope="module")
def finished(people: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A study that was made in process, with the pack `public-safety`: its folder, and what the verb printed."""
    folder = tmp_path_factory.mktemp("finished")
    environment = {"ABOVEBOARD_PACK": "null", "ABOVEBOARD_DATA": str(folder / "data"), "XDG_DATA_HOME": str(folder / "home")}

    def run(*arguments: object) -> Result:
        result = CliRunner().invoke(app, [str(one) for one in arguments], env=environment)
        assert result.exit_code == 0, (result.output, result.exception)
        return result

    return folder / "out", study(run, people, folder / "out", "--policy", "public-safety")


def study(run: Callable[..., Result], people: Path, out: Path, *options: object, **how: Any) -> dict[str, Any]:
    labels = ("--labels", people / "members.csv", "--by", "gender", "--by", "gender+party")
    result = run("study", "false-matches", people / "congress", people / "gallery", "--out", out, *labels, *AT, *options, "--json", **how)
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def inputs(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / "inputs" / name).open() as file:
        return list(csv.DictReader(file))


def test_published_false_matches(run: Callable[..., Result], tmp_path: Path) -> None:
    """28 of 535 against 25,000, what follows at 300,000, and that nobody reported the misses."""
    result = run("study", "false-matches", "--published", "--out", tmp_path / "out", COLUMNS="300")
    assert (
        "28 of 535 at 80: FPIR 5.23 % [3.65, 7.46]* at N = 25,000, 47.54 % [35.96, 60.56]* at 300,000; FNIR not reported" in result.stdout
    )
    rows = json.loads((tmp_path / "out" / "tables.json").read_text())["sizes"]["rows"]
    (county,) = [row for row in rows if row["setting"].startswith("ACLU") and row["size"] == 300_000]
    assert (county["fpir"], county["expected"]) == pytest.approx((0.475, 0.645), abs=1e-3)
    run("study", "verify", tmp_path / "out")


def test_counts_of_ones_own_with_an_unknown_threshold_are_invalid(run: Callable[..., Result], tmp_path: Path) -> None:
    """And broken ones are named."""
    file = tmp_path / "mine.csv"
    file.write_text("study,threshold,origin,gallery_size,errors,searches,source\nmine,,unknown,20000,27,188,a newspaper\n")
    result = run("study", "false-matches", "--counts", file, "--out", tmp_path / "out", code=1)
    assert "this run is invalid: the threshold of 'mine' is not known" in result.stderr.replace("\n", " ")
    assert "This run is invalid" in (tmp_path / "out" / "report.html").read_text()
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["valid"] is False
    for bad, said in (
        ("80,request,20000,189,188", "no share"),
        ("80,guess,20000,27,188", "no origin"),
        ("80,request,0,27,188", "at least one face"),
    ):
        file.write_text(f"study,threshold,origin,gallery_size,errors,searches,source\nmine,{bad},x\n")
        assert said in run("study", "false-matches", "--counts", file, "--out", tmp_path / "out", code=2).stderr
    file.write_text("study,errors\n")
    assert "needs the column threshold" in run("study", "false-matches", "--counts", file, "--out", tmp_path / "out", code=2).stderr


def test_published_facial_analysis(run: Callable[..., Result], tmp_path: Path) -> None:
    """Amazon's four groups of August 2018, and that no similarity threshold applies."""
    result = run("study", "facial-analysis", "--published", "--out", tmp_path / "out", COLUMNS="300")
    rows = json.loads((tmp_path / "out" / "tables.json").read_text())["groups"]["rows"]
    amazon = {row["group"]: round(100 * row["error"], 2) for row in rows if row["study"].startswith("Amazon")}
    assert amazon == {"darker female": 31.37, "darker male": 1.26, "lighter female": 7.12, "lighter male": 0.0, "all": 8.66}
    assert "No similarity threshold applies" in result.stdout
    assert "No similarity threshold applies" in (tmp_path / "out" / "report.html").read_text()
    gaps = json.loads((tmp_path / "out" / "tables.json").read_text())["gaps"]["rows"]
    (worst,) = [row for row in gaps if row["study"].startswith("Amazon") and row["group"] == "darker female"]
    assert worst["lowest"] == "lighter male"
    assert worst["gap"] == pytest.approx(85 / 271)
    assert worst["standing"] == "apart"
    run("study", "verify", tmp_path / "out")


def test_false_matches_are_what_counting_says(finished: tuple[Path, dict[str, Any]]) -> None:
    out, found = finished
    assert found["valid"]
    tables = found["tables"]
    assert [(row["threshold"], row["origin"]) for row in tables["thresholds"]] == [
        ("15", "request"), ("30", "request"), ("80", "request"), ("99", "policy"), ("none", "none"),
    ]  # fmt: skip
    searches, probes = inputs(out, "searches.csv"), inputs(out, "probes.csv")
    assert len(probes) == PEOPLE
    assert [row["probe"] for row in probes if row["failure"]] == ["probes/P03/1.png"]
    assert len(inputs(out, "gallery.csv")) == OTHERS, "P05 stands in both folders and is left out of the gallery"
    for row in tables["thresholds"]:
        least = -1.0 if row["threshold"] == "none" else float(row["threshold"])
        false = {one["probe"] for one in searches if one["against"] == "gallery" and float(one["similarity"]) >= least}
        own = {(probe["probe"], probe["mate"]) for probe in probes if probe["mate"]}
        came = {one["probe"] for one in searches if (one["probe"], one["reference"]) in own and float(one["similarity"]) >= least}
        assert (row["fpir_errors"], row["fpir_trials"]) == (len(false), PEOPLE)
        assert (row["fnir_errors"], row["fnir_trials"]) == (len(own) - len(came), PEOPLE - ALONE)
    assert 0 < tables["thresholds"][1]["fpir_errors"] < PEOPLE - 1
    assert tables["thresholds"][-1]["fpir_errors"] == PEOPLE - 1, (
        "without a threshold everybody brings up somebody, but for who has no face"
    )
    by_gender = [row for row in tables["groups"] if row["by"] == "gender" and row["threshold"] == "30"]
    assert sum(row["fpir_errors"] for row in by_gender) == tables["thresholds"][1]["fpir_errors"]
    assert {row["group"] for row in tables["groups"]} == {"F", "M", "F, a", "F, b", "M, a", "M, b"}
    assert {row["standing"] for row in tables["disparities"]} <= {"insufficient", "apart"}
    assert [row["promised"] for row in tables["promises"]] == sorted((row["promised"] for row in tables["promises"]), reverse=True)


def test_each_false_match_is_a_picture_in_the_local_report_only(finished: tuple[Path, dict[str, Any]]) -> None:
    out, found = finished
    pairs = found["tables"]["false_matches"]
    kept = sorted((out / "inputs" / "pictures").iterdir())
    assert len(pairs) > 5
    assert [int(file.stem) for file in kept] == [row["number"] for row in pairs]
    shown = cv2.imread(str(kept[0]))
    assert shown.shape[1] > 1.8 * shown.shape[0]
    assert (out / "report.html").read_text().count("data:image/jpeg;base64,") == len(pairs)
    assert (out / ".gitignore").read_text() == "*\n"


def test_the_same_study_is_the_same_bytes(
    run: Callable[..., Result], people: Path, tmp_path: Path, finished: tuple[Path, dict[str, Any]]
) -> None:
    study(run, people, tmp_path / "again", "--policy", "public-safety")
    files = sorted(file.relative_to(finished[0]) for file in finished[0].rglob("*") if file.is_file())
    assert len(files) > 20
    assert [name for name in files if (finished[0] / name).read_bytes() != (tmp_path / "again" / name).read_bytes()] == []


@pytest.mark.parametrize(
    "changes",
    [
        {
            "tables/thresholds.csv": (",24,", ",25,"),
            "tables.json": ('"fpir_trials": 24', '"fpir_trials": 25'),
            "report.html": (" of 24", " of 2400"),
            "figures/det.svg": ("FPIR", "FNIR"),
            "manifest.json": ('"valid": true', '"valid": false'),
        },
        {
            "inputs/searches.csv": ("probes/P00/1.png,gallery,1,", "probes/P00/1.png,gallery,1,9"),
            "inputs/probes.csv": (",P07,", ",P99,"),
            "inputs/pictures/0001.jpg": ("", ""),
        },
    ],
    ids=["outputs", "inputs"],
)
def test_a_study_that_was_changed_is_found_out(
    run: Callable[..., Result], tmp_path: Path, finished: tuple[Path, dict[str, Any]], changes: dict[str, tuple[str, str]]
) -> None:
    """Untouched it verifies; each file that was changed, or is gone, is named."""
    out = tmp_path / "out"
    shutil.copytree(finished[0], out)
    for name, (old, new) in changes.items():
        if not old:
            (out / name).unlink()
            continue
        assert old in (out / name).read_text()
        (out / name).write_text((out / name).read_text().replace(old, new, 1))
    said = run("study", "verify", out, code=1).stderr
    assert [name for name in changes if name not in said] == []


def test_other_inputs_under_their_own_hash_do_not_make_the_old_tables(
    run: Callable[..., Result], tmp_path: Path, finished: tuple[Path, dict[str, Any]]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished[0], out)
    assert "each follows from what was measured" in run("study", "verify", out).stdout
    searches, manifest = out / "inputs" / "searches.csv", out / "manifest.json"
    before = hashlib.sha256(searches.read_bytes()).hexdigest()
    searches.write_text("\n".join(line for line in searches.read_text().splitlines() if "P00" not in line) + "\n")
    manifest.write_text(manifest.read_text().replace(before, hashlib.sha256(searches.read_bytes()).hexdigest()))
    assert "tables/thresholds.csv: other numbers follow" in run("study", "verify", out, code=1).stderr
    searches.write_text("nonsense")
    assert "make no report" in run("study", "verify", out, code=1).stderr
    manifest.write_text('{"inputs": {"../../etc/passwd": ""}}')
    assert "is not the manifest" in run("study", "verify", out, code=2).stderr


def test_a_server_of_ours_gives_the_same_study(
    run: Callable[..., Result], people: Path, tmp_path: Path, server: Server, finished: tuple[Path, dict[str, Any]]
) -> None:
    here = finished[1]["tables"]
    keys = {**KEYS, "AWS_ACCESS_KEY_ID": server.key.id, "AWS_SECRET_ACCESS_KEY": server.key.secret}
    there = study(run, people, tmp_path / "there", "--policy", "public-safety", "--endpoint", server.endpoint, **keys)["tables"]
    assert there["thresholds"] == here["thresholds"]
    assert there["groups"] == here["groups"]
    assert "promises" not in there, "another server's scale promises nothing that we know"


def test_an_endpoint_that_hides_its_threshold_is_invalid(
    run: Callable[..., Result], people: Path, tmp_path: Path, foreign: Callable[..., Any]
) -> None:
    open_, hiding = foreign(), foreign(cut=95.0)
    found = study(run, people, tmp_path / "open", "--no-pictures", "--endpoint", open_.endpoint, **KEYS)
    assert found["valid"]
    assert found["tables"]["thresholds"][-1]["fpir_errors"] == PEOPLE - 1
    assert open_.collections == {}
    hidden = study(run, people, tmp_path / "hiding", "--no-pictures", "--endpoint", hiding.endpoint, code=1, **KEYS)
    assert not hidden["valid"]
    assert "threshold" in hidden["invalid_because"][0]
    assert "Its figures must not be quoted" in (tmp_path / "hiding" / "report.html").read_text()


def test_facial_analysis_of_an_endpoint(run: Callable[..., Result], tmp_path: Path, foreign: Callable[..., Any]) -> None:
    """Known wrong answers: of 8 women 3 on a bright ground are called men; one man is not found, of one nothing is said."""
    grounds = {f"w{i}.png": ("F", 240 if i < 3 else 60) for i in range(8)} | {
        f"m{i}.png": ("M", (240, 0, 120)[min(i, 2)]) for i in range(3)
    }
    lines = ["file,gender,skin"]
    for i, (name, (gender, ground)) in enumerate(grounds.items()):
        assert cv2.imwrite(str(tmp_path / name), np.full((80, 80, 3), ground, np.uint8))
        lines.append(f"{name},{gender},{'darker' if i % 2 else 'lighter'}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    endpoint = foreign(Analysing)
    ask = (
        "study",
        "facial-analysis",
        tmp_path,
        "--labels",
        tmp_path / "labels.csv",
        "--endpoint",
        endpoint.endpoint,
        "--by",
        "skin+gender",
    )
    found = json.loads(run(*ask, "--out", tmp_path / "out", "--json", **KEYS).stdout)["tables"]
    rows = {row["group"]: row for row in found["groups"]}
    assert (rows["all"]["error_errors"], rows["all"]["error_trials"], rows["all"]["faces"]) == (3, 9, 11)
    assert (rows["all"]["unfound"], rows["all"]["unsaid"], rows["all"]["error_of_all_errors"]) == (1, 1, 5)
    assert (rows["lighter, F"]["error_errors"], rows["darker, F"]["error_errors"]) == (2, 1)
    calls = endpoint.calls["DetectFaces"]
    run(*ask, "--out", tmp_path / "out", **KEYS)
    assert endpoint.calls["DetectFaces"] == calls, "what was answered is not asked again"
    run("study", "verify", tmp_path / "out")


def test_facial_analysis_of_an_endpoint_that_says_nothing(
    run: Callable[..., Result], people: Path, tmp_path: Path, foreign: Callable[..., Any]
) -> None:
    """Nothing measured is not nothing wrong."""
    ask = ("study", "facial-analysis", people / "congress", "--labels", people / "members.csv", "--endpoint", foreign(Silent).endpoint)
    result = run(*ask, "--out", tmp_path / "out", **KEYS, COLUMNS="300")
    assert "all: wrong not assessed, of 24" in result.stdout
    page = (tmp_path / "out" / "report.html").read_text()
    assert "says no gender: of 24 photographs it classified none (1 without a face found)" in page
    assert "0.00 %" not in page.partition("<tbody>")[2].partition("</tbody>")[0].replace("100.00 %", "")


def test_facial_analysis_in_process_is_that_of_a_server(run: Callable[..., Result], people: Path, tmp_path: Path, server: Server) -> None:
    ask = ("study", "facial-analysis", people / "congress", "--labels", people / "members.csv", "--json")
    keys = {**KEYS, "AWS_ACCESS_KEY_ID": server.key.id, "AWS_SECRET_ACCESS_KEY": server.key.secret}
    there = json.loads(run(*ask, "--out", tmp_path / "there", "--endpoint", server.endpoint, **keys).stdout)
    here = json.loads(run(*ask, "--out", tmp_path / "here", ABOVEBOARD_ATTRIBUTE_PACK="null-attributes").stdout)
    answered = [[(row["photograph"], row["answer"]) for row in inputs(tmp_path / one, "answers.csv")] for one in ("here", "there")]
    assert answered[0] == answered[1]
    assert {answer for _, answer in answered[0]} == {"", "male", "female"}
    faces = [{row["group"]: (row["error_errors"], row["error_trials"]) for row in one["tables"]["groups"]} for one in (here, there)]
    assert faces[0] == faces[1]
    assert (
        json.loads((tmp_path / "here" / "manifest.json").read_text())["parameters"]["source"]["endpoint"]
        == "null and null-attributes, in process"
    )
    run("study", "verify", tmp_path / "here")


def test_what_cannot_be_studied_is_said_before_anything_is_asked(run: Callable[..., Result], people: Path, tmp_path: Path) -> None:
    congress, gallery, out = people / "congress", people / "gallery", tmp_path / "out"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("x")
    cases: list[tuple[tuple[object, ...], str]] = [
        (("false-matches", "--out", out), "name a folder of people"),
        (("false-matches", congress, congress, "--out", out), "nobody but the people who are probed"),
        (("false-matches", congress, gallery, "--out", out, "--by", "gender"), "--by needs --labels"),
        (("false-matches", congress, gallery, "--out", out, "--labels", people / "members.csv", "--by", "age"), "needs the column age"),
        (("false-matches", congress, gallery, "--out", tmp_path / "mine"), "something else than a study"),
        (("false-matches", congress, gallery, "--out", out, "--policy", "nowhere"), "nowhere"),
        (("facial-analysis", congress, "--labels", people / "members.csv", "--out", out), "no attribute pack is installed"),
        (("facial-analysis", congress, "--labels", people / "members.csv", "--out", out, "--region", "x"), "are about an endpoint"),
        (
            ("facial-analysis", gallery, "--labels", people / "members.csv", "--out", out, "--endpoint", "http://127.0.0.1:9"),
            "no photograph",
        ),
        (("verify", tmp_path / "mine"), "holds no manifest.json"),
    ]
    for arguments, said in cases:
        assert said in run("study", *arguments, code=2, ABOVEBOARD_ATTRIBUTE_PACK="face-attributes", **KEYS).stderr.replace("\n", " ")
    assert (tmp_path / "mine" / "letter.txt").exists()
