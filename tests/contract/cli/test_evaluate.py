"""`aboveboard evaluate MANIFEST`: in process, at an Aboveboard server and at an endpoint that is not ours; stopped and gone on with."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import COMMAND, errors, write
from foreign import Foreign
from kit import Server
from typer.testing import Result

from aboveboard.evaluation import manifest as manifests
from aboveboard.evaluation import measure
from aboveboard.vision.packs import PackFolder

KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIAFOREIGN000000000",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_REGION": "eu-west-1",
    "AWS_DEFAULT_REGION": "eu-west-1",
}
ENROLLED, MATED, OTHERS = 10, 6, 5
"""People who are enrolled; those of them who are searched for; people who are searched for and not enrolled."""


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Ten people enrolled; six of them and five others searched for, one of each without a face; listed pairs; a label."""
    folder = tmp_path / "manifest"
    for person in range(ENROLLED):
        write(folder / f"enrolled/{person}.png", person)
    probed = [*range(MATED), *range(ENROLLED, ENROLLED + OTHERS)]
    for person in probed:
        if person in (5, 14):
            write(folder / f"probed/{person}.png")
        else:
            write(folder / f"probed/{person}.png", person, take=1, variation=0.3)
    rows(
        folder / "enrolled.csv", "path,subject,side", ((f"enrolled/{i}.png", f"P{i}", "odd" if i % 2 else "even") for i in range(ENROLLED))
    )
    rows(folder / "probed.csv", "path,subject,side", ((f"probed/{i}.png", f"P{i}", "odd" if i % 2 else "even") for i in probed))
    rows(folder / "pairs.csv", "first,second", ((f"probed/{i}.png", f"enrolled/{j}.png") for i in range(MATED) for j in (i, (i + 1) % 9)))
    return folder


def rows(file: Path, header: str, lines: Any) -> None:
    file.write_text("\n".join([header, *(",".join(line) for line in lines)]) + "\n")


@pytest.fixture
def foreign() -> Iterator[Callable[..., Foreign]]:
    running: list[Foreign] = []

    def start(**how: Any) -> Foreign:
        running.append(Foreign(**how))
        return running[-1]

    yield start
    for one in running:
        one.stop()


def table(folder: Path, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "tables.json").read_text())[name]["rows"]
    return found


def by(rows: list[dict[str, Any]], set_for: str) -> dict[str, Any]:
    return next(row for row in rows if row["set_for"] == set_for)


def test_in_process(run: Callable[..., Result], manifest: Path, tmp_path: Path) -> None:
    shown = run("evaluate", manifest, "--out", tmp_path / "out", "--draws", 100, "--tables-only").stdout
    assert "probed: 11 photographs, 2 failures to enrol" in shown
    assert "identification in a gallery of 10" in shown
    identification = table(tmp_path / "out", "identification")
    at_rank = by(identification, "rank 1")
    assert (at_rank["fnir_errors"], at_rank["fnir_trials"]) == (1, MATED)  # the photograph without a face
    assert (at_rank["fpir_errors"], at_rank["fpir_trials"]) == (OTHERS - 1, OTHERS)
    verification = by(table(tmp_path / "out", "verification"), "similarity 80")
    assert (verification["fnmr_trials"], verification["fmr_trials"]) == (MATED, MATED - 1)
    sides = {(row["group"], row["other"]) for row in table(tmp_path / "out", "verification_by_group")}
    assert sides == {("even", "even"), ("odd", "odd"), ("even", "odd")}
    assert {row["group"] for row in table(tmp_path / "out", "identification_by_group")} == {"even", "odd"}
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (record["valid"], record["tables"]["seed"], record["tables"]["draws"], record["model"]["pack"]) == (True, 0, 100, "null")
    with (tmp_path / "out" / "tables" / "identification.csv").open() as text:
        assert len(list(csv.DictReader(text))) == len(identification)


def test_the_tables_come_again_from_the_score_file_alone(run: Callable[..., Result], manifest: Path, tmp_path: Path) -> None:
    run("evaluate", manifest, "--out", tmp_path / "out", "--draws", 100)
    for photograph in manifest.rglob("*.png"):
        photograph.unlink()
    run("evaluate", "run", tmp_path / "out" / "scores.npz", "--out", tmp_path / "again", "--draws", 100, ABOVEBOARD_PACK="absent")
    made = [
        file.relative_to(tmp_path / "out")
        for file in sorted((tmp_path / "out").rglob("*.*"))
        if file.name not in ("run.json", "scores.npz")
    ]
    assert {"report.html", "tables.json", "tables/det.csv", "figures/histogram.svg", "figures/cmc.png"} <= {str(name) for name in made}
    for name in made:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert "each follows from what was measured" in run("study", "verify", tmp_path / "out").stdout
    file = tmp_path / "out" / "tables" / "identification.csv"
    file.write_text(file.read_text().replace("0.1", "0.2"))
    found = run("study", "verify", tmp_path / "out", code=1)
    assert errors(found) == ["error: tables/identification.csv: other numbers follow from the score file"]
    scores = dict(np.load(tmp_path / "out" / "scores.npz"))
    scores["cross"] = scores["cross"] + np.float32(0.01)
    np.savez(tmp_path / "out" / "scores.npz", **scores)
    found = run("study", "verify", tmp_path / "out", code=1)
    assert "error: scores.npz: is not the file that run.json names" in errors(found)


def test_through_the_api_the_same_protocol_gives_the_same_errors(
    run: Callable[..., Result], manifest: Path, server: Server, tmp_path: Path
) -> None:
    run("evaluate", manifest, "--out", tmp_path / "here", "--draws", 100, "--tables-only")
    keys = {**KEYS, "AWS_ACCESS_KEY_ID": server.key.id, "AWS_SECRET_ACCESS_KEY": server.key.secret}
    run("evaluate", manifest, "--out", tmp_path / "there", "--endpoint", server.endpoint, "--draws", 100, "--tables-only", **keys)
    for name in ("verification", "identification"):
        here, there = table(tmp_path / "here", name), table(tmp_path / "there", name)
        for point in ("similarity 80", "similarity 95", "similarity 99", *(("rank 1", "rank 5") if name == "identification" else ())):
            counts = [key for key in by(here, point) if key.endswith(("_errors", "_trials"))]
            assert [by(here, point)[key] for key in counts] == [by(there, point)[key] for key in counts]
    left = [name for name in server.client().list_collections()["CollectionIds"] if name.startswith("aboveboard-evaluate")]
    assert left == []


def test_an_endpoint_that_is_not_ours(run: Callable[..., Result], manifest: Path, foreign: Callable[..., Foreign], tmp_path: Path) -> None:
    other = foreign(errors={"SearchFacesByImage": ["ThrottlingException"]})
    run("evaluate", manifest, "--out", tmp_path / "out", "--endpoint", other.endpoint, "--draws", 100, "--tables-only", **KEYS)
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (record["valid"], record["endpoint"], record["model"]) == (True, other.endpoint, None)
    assert record["scale"].startswith("similarity")
    at_rank = by(table(tmp_path / "out", "identification"), "rank 1")
    assert (at_rank["fnir_errors"], at_rank["fnir_trials"], at_rank["fpir_trials"]) == (1, MATED, OTHERS)
    assert other.calls == {
        "CreateCollection": 1,
        "IndexFaces": 10,
        "SearchFacesByImage": 11,
        "ThrottlingException": 1,
        "CompareFaces": 12,
        "DeleteCollection": 1,
    }
    assert other.collections == {}


def test_a_threshold_that_is_asked_for_is_where_the_rates_begin(
    run: Callable[..., Result], manifest: Path, foreign: Callable[..., Foreign], tmp_path: Path
) -> None:
    options = ("--draws", 100, "--tables-only", "--threshold", 90)
    run("evaluate", manifest, "--out", tmp_path / "out", "--endpoint", foreign().endpoint, *options, **KEYS)
    identification = table(tmp_path / "out", "identification")
    assert by(identification, "rank 1")["threshold"] == 90
    assert "similarity 80" not in {row["set_for"] for row in identification}
    assert by(identification, "rank 50")["fpir_errors"] < OTHERS


def test_an_endpoint_that_hides_its_threshold_makes_the_run_invalid(
    run: Callable[..., Result], manifest: Path, foreign: Callable[..., Foreign], tmp_path: Path
) -> None:
    hiding = foreign(cut=95.0)
    result = run("evaluate", manifest, "--out", tmp_path / "out", "--endpoint", hiding.endpoint, "--draws", 100, code=1, **KEYS)
    assert "threshold is unknown" in errors(result)[0]
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["valid"] is False
    assert record["threshold"]["applied"] is None
    for made in json.loads((tmp_path / "out" / "tables.json").read_text()).values():
        assert all(row["invalid"] == "threshold unknown" for row in made["rows"])
    assert "This run is invalid" in (tmp_path / "out" / "report.html").read_text()


def test_a_killed_run_goes_on_and_asks_nothing_twice(
    environment: Mapping[str, str], manifest: Path, foreign: Callable[..., Foreign], run: Callable[..., Result], tmp_path: Path
) -> None:
    slow, out = foreign(delay_s=0.05), tmp_path / "out"
    line = ["evaluate", str(manifest), "--out", str(out), "--endpoint", slow.endpoint, "--draws", "100", "--tables-only"]
    process = subprocess.Popen([*COMMAND, *line], env={**os.environ, **environment, **KEYS}, stderr=subprocess.PIPE, text=True)
    try:
        began = time.monotonic()
        while not slow.calls["SearchFacesByImage"] and time.monotonic() - began < 60:
            time.sleep(0.01)
    finally:
        process.kill()
        process.communicate()
    assert 0 < slow.calls["SearchFacesByImage"] < 11
    assert len(slow.collections) == 1
    time.sleep(0.2)
    asked, answered = sum(slow.calls.values()), len((out / "answers.jsonl").read_bytes().splitlines()) - 1
    with (out / "answers.jsonl").open("ab") as journal:
        journal.write(b'{"asked": ["sea')  # as if it had been killed in the middle of a line
    run(*line, **KEYS)
    assert slow.calls["IndexFaces"] == 10
    # Of what costs money only answers under way when it was killed, at most one for each of the four workers, are asked for again.
    assert sum(slow.calls[name] for name in ("SearchFacesByImage", "CompareFaces")) <= 11 + 12 + 4
    assert asked - 2 - answered <= 4
    assert slow.collections == {}
    assert by(table(out, "identification"), "rank 1")["fnir_trials"] == MATED
    before = sum(slow.calls.values())
    run(*line, **KEYS)
    assert sum(slow.calls.values()) == before


def test_a_run_in_process_goes_on_and_leaves_no_template(run: Callable[..., Result], manifest: Path, tmp_path: Path) -> None:
    out, models = tmp_path / "out", PackFolder(tmp_path / "models").load("null")
    with closing(measure.open_journal(out, manifests.read(manifest), models)) as journal:
        with pytest.raises(KeyboardInterrupt):
            measure.in_process(manifests.read(manifest), models, interrupting(21), journal)
        assert len(journal.answers) == 16
    assert (out / measure.TEMPLATES).stat().st_mode & 0o777 == 0o600
    with closing(measure.open_journal(out, manifests.read(manifest), models)) as journal:
        done: list[int] = []
        again = measure.in_process(manifests.read(manifest), models, lambda at, _: done.append(at), journal)
        assert done == [17, 18, 19, 20, 21]
    alone = measure.in_process(manifests.read(manifest), models)
    assert np.array_equal(again.cross, alone.cross, equal_nan=True)
    assert again.about == alone.about
    run("evaluate", manifest, "--out", out, "--draws", 100, "--tables-only")
    assert not (out / measure.TEMPLATES).exists()


def interrupting(at: int) -> Callable[[int, int], None]:
    """Ctrl-C when so many templates are made."""

    def progress(done: int, _: int) -> None:
        if done == at:
            raise KeyboardInterrupt

    return progress


def test_answers_of_another_run_are_not_taken(
    run: Callable[..., Result], manifest: Path, foreign: Callable[..., Foreign], tmp_path: Path
) -> None:
    one = foreign()
    line = ("evaluate", manifest, "--out", tmp_path / "out", "--endpoint", one.endpoint, "--draws", 100, "--tables-only")
    run(*line, **KEYS)
    assert "not of this run" in errors(run(*line, "--threshold", 50, code=2, **KEYS))[0]
    write(manifest / "probed/0.png", 7)
    assert "not of this run" in errors(run(*line, code=2, **KEYS))[0]


@pytest.mark.parametrize(
    "asked",
    [("--aws",), ("--endpoint", "https://rekognition.us-east-1.amazonaws.com."), ("--endpoint", "https://rekognition.us-east-1.api.aws"),
     ("--endpoint", "https://rekognition.eusc-de-east-1.amazonaws.eu")],
)  # fmt: skip
def test_nothing_is_paid_for_without_consent(run: Callable[..., Result], manifest: Path, tmp_path: Path, asked: tuple[str, ...]) -> None:
    result = run("evaluate", manifest, "--out", tmp_path / "out", *asked, code=2, **KEYS)
    assert "33 questions" in result.stderr
    assert "0.03 US dollars" in result.stderr
    assert "--yes" in errors(result)[0]


def test_what_cannot_be_asked_is_told(run: Callable[..., Result], manifest: Path, tmp_path: Path, foreign: Callable[..., Foreign]) -> None:
    out = ("--out", tmp_path / "out")
    (manifest / "pairs.csv").unlink()
    (manifest / "probed.csv").unlink()
    assert "pairs.csv" in errors(run("evaluate", manifest, *out, "--endpoint", foreign().endpoint, code=2, **KEYS))[0]
    assert "no score file" in errors(run("evaluate", manifest / "enrolled.csv", *out, code=2))[0]
    assert "exclude" in errors(run("evaluate", manifest, *out, "--aws", "--endpoint", "http://127.0.0.1:1", code=2))[0]
    assert "enrolled.csv is not there" in errors(run("evaluate", tmp_path, *out, code=2))[0]
