"""`aboveboard demo` on the default pack (`make models` installs it): what somebody sees who runs it for the first time."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

DEMO = [sys.executable, "-m", "aboveboard", "demo"]
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith(("ABOVEBOARD_", "AWS_"))},
    # What a user may have set for Amazon's own servers must not get in the way.
    "AWS_PROFILE": "no-such-profile",
    "HTTP_PROXY": "http://192.0.2.1:1",
    "COLUMNS": "120",
}


def processes_of(folder: Path) -> list[str]:
    """Command lines of running processes that name the folder."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
        if str(folder) in line:
            found.append(line)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "deployment"


@pytest.fixture(scope="module")
def seen(folder: Path) -> str:
    """What the demo prints."""
    done = subprocess.run([*DEMO, "--data", str(folder)], env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert processes_of(folder) == []
    return done.stdout


@pytest.fixture(scope="module")
def searches(folder: Path, seen: str) -> dict[tuple[str, float | None], dict[str, Any]]:
    """Its searches as JSON, by photograph and threshold; a second run in the same folder takes seconds."""
    began = time.monotonic()
    done = subprocess.run([*DEMO, "--data", str(folder), "--json"], env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 60
    return {(one["photograph"], one["threshold_sent"]): one for one in json.loads(done.stdout)["searches"]}


def cells(seen: str, row: str) -> list[str]:
    """The cells of the first line of the picture that begins with these words."""
    for line in seen.splitlines():
        parts = [cell.strip() for cell in line.split("│")]
        if len(parts) > 2 and parts[1] == row:
            return parts[2:-1]
    raise AssertionError(f"no row {row!r} in\n{seen}")


def test_the_picture_has_the_four_thresholds_side_by_side(seen: str) -> None:
    assert cells(seen, "searched with") == ["80", "95*", "99*", "none"]
    assert cells(seen, "threshold from") == ["request", "request", "request", "none"]
    assert cells(seen, "FMR") == ["2e-6", "3.05e-8", "1e-8", "1"]


def test_obama_is_found_and_biden_is_nobody(seen: str, searches: dict[tuple[str, float | None], dict[str, Any]]) -> None:
    assert cells(seen, "Obama")[0].startswith("Obama ")
    assert cells(seen, "Biden")[:3] == ["nobody", "nobody", "nobody"]
    for photograph in ("obama2.jpg", "obama3.jpg"):
        assert [one["external_image_id"] for one in searches[photograph, 80.0]["candidates"]] == ["Obama"]
    for threshold in (80.0, 95.0, 99.0):
        assert searches["biden.jpg", threshold]["candidates"] == []


def test_without_a_threshold_everybody_is_a_candidate(seen: str, searches: dict[tuple[str, float | None], dict[str, Any]]) -> None:
    assert len(searches["biden.jpg", 0.0]["candidates"]) == 3
    assert searches["biden.jpg", 0.0]["headers"]["x-aboveboard-threshold-origin"] == "none"
    assert seen.count("false candidate") >= 7


def test_a_request_without_a_threshold_says_where_it_came_from(seen: str, searches: dict[tuple[str, float | None], dict[str, Any]]) -> None:
    headers = searches["obama2.jpg", None]["headers"]
    assert (headers["x-aboveboard-threshold"], headers["x-aboveboard-threshold-origin"]) == ("80", "default")
    assert "gets 80 (origin: default)" in " ".join(seen.split())


def test_what_the_thresholds_mean_in_a_county(seen: str, searches: dict[tuple[str, float | None], dict[str, Any]]) -> None:
    assert "at N = 3 " in seen
    assert "at N = 300,000" in seen
    county = seen[seen.index("at N = 300,000") :]
    assert cells(county, "expected false") == ["0.6", "0.00915", "0.003", "300,000"]
    assert cells(county, "FPIR") == ["45.1 %", "0.911 %*", "0.3 %*", "100 %"]
    assert searches["biden.jpg", 80.0]["at_300000"]["fpir"] == pytest.approx(0.4512, abs=1e-4)
    assert all(re.fullmatch(r"[\d.]+ %\*?", cell) for cell in cells(county, "missed (FNIR)"))
    assert "extrapolated" in seen


def test_it_says_what_it_means_and_what_to_type_next(seen: str) -> None:
    assert "What it means" in seen
    for command in (
        "aboveboard serve",
        "import boto3",
        "boto3.client('rekognition')",
        "aboveboard index",
        "aboveboard search",
        "aboveboard evaluate",
    ):
        assert command in seen
    assert "SECRET" not in seen


def test_the_picture_in_the_readme_is_what_it_prints_today(seen: str) -> None:
    """Line by line."""
    page = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert pictured(page) == pictured(seen)


def pictured(text: str) -> list[str]:
    """The lines of the table in a text."""
    return [line.strip() for line in text.splitlines() if line.strip().startswith(("╭", "│", "├", "╰"))]


def test_the_searches_are_on_record(folder: Path, seen: str) -> None:
    show = [sys.executable, "-m", "aboveboard", "ledger", "show", "--data", str(folder)]
    entries = [json.loads(line) for line in subprocess.run(show, env=ENVIRONMENT, capture_output=True, check=True).stdout.splitlines()]
    assert sum(entry["type"] == "look.outcome" for entry in entries) == 13


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_half_way_it_leaves_no_process_behind(tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "deployment"
    process = subprocess.Popen(
        [*DEMO, "--data", str(folder)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in its background has them, and what they start, ignore SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("server"):
            break
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert processes_of(folder) == []


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    done = subprocess.run([*DEMO, "--data", str(tmp_path)], env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "holds files that no demo made" in done.stderr
    assert (tmp_path / "precious.txt").exists()
