"""An evaluation of drawn faces gives the numbers in verification.json; written anew only with --regen."""

from __future__ import annotations

import datetime
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from aboveboard.biometrics.calibration import Calibration
from aboveboard.errors import BadRequest
from aboveboard.evaluation import calibrating, run
from aboveboard.evaluation.protocol import read_errata
from aboveboard.vision import null
from aboveboard.vision.packs import PackFolder

GOLDEN = Path(__file__).with_name("verification.json")
ERRATA = """name,action,to,reason,source
P03/2.png,move,P04,drawn as P04,made so
P07,merge,P08,drawn as one person,made so
P09/2.png,drop,,the same drawing as P10/0.png,made so
"""
DRAWN_AS = {"P03/2.png": (4, 9), "P07/0.png": (8, 6), "P07/1.png": (8, 7), "P07/2.png": (8, 8), "P09/2.png": (10, 0)}


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 people with three photographs each; the wrong labels of `ERRATA`; a passer-by; one photograph without a face."""
    folder = tmp_path_factory.mktemp("people")
    for person in range(36):
        (folder / f"P{person:02}").mkdir()
        for take in range(3):
            name = f"P{person:02}/{take}.png"
            subject, drawn_take = DRAWN_AS.get(name, (person, take))
            image = np.full((128, 128, 3), 200, np.uint8)
            if name != "P20/1.png":
                null.draw(image, 20, 24, 80, subject, 0.45, drawn_take)
            if name == "P21/1.png":
                null.draw(image, 102, 2, 24, 99)
            cv2.imwrite(str(folder / name), image)
    return folder


def test_verification_is_golden(people: Path, tmp_path: Path, regen: bool) -> None:
    models = PackFolder(tmp_path).load("null")
    done: list[tuple[int, int]] = []
    found = run.verification(people, models, read_errata(ERRATA), lambda *at: done.append(at), draws=200)
    assert done == [(i, 108) for i in range(1, 109)]
    if regen:
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
    _assert_close(found, json.loads(GOLDEN.read_text()), "")


def test_the_golden_numbers_are_what_counting_says() -> None:
    golden = json.loads(GOLDEN.read_text())
    assert golden["failures_to_enrol"] == 1
    assert golden["failed"] == {"P20/1.png": "no face found"}
    assert golden["errata"] == {"dropped": 1, "moved": 1, "merged": 1}
    assert golden["as_is"]["mated"] == 36 * 3
    # P03 has two photographs, P04 four, P08 six, P09 two; P20's missing one still counts as two missed comparisons.
    assert golden["corrected"]["mated"] == 31 * 3 + 1 + 6 + 15 + 1
    assert golden["as_is"]["non_mated"] == 107 * 106 // 2 - (36 * 3 - 2)
    assert golden["corrected"]["tar"]["1e-3"] > golden["as_is"]["tar"]["1e-3"]


def _assert_close(found: object, golden: object, where: str) -> None:
    """Equal but for the last digits that another machine's arithmetic may change."""
    if isinstance(golden, dict) and isinstance(found, dict):
        assert list(found) == list(golden), where
        for key in golden:
            _assert_close(found[key], golden[key], f"{where}.{key}")
    elif isinstance(golden, list) and isinstance(found, list):
        assert len(found) == len(golden), where
        for i, (a, b) in enumerate(zip(found, golden, strict=True)):
            _assert_close(a, b, f"{where}[{i}]")
    elif isinstance(golden, float):
        assert found == pytest.approx(golden, rel=1e-4, abs=1e-5), where
    else:
        assert found == golden, where


def test_a_calibration_says_what_it_was_made_from(people: Path, tmp_path: Path) -> None:
    models = PackFolder(tmp_path).load("null")
    done: list[tuple[int, int]] = []
    made = calibrating.calibrate(
        people, models, read_errata(ERRATA), "drawn people", datetime.date(2026, 11, 23), progress=lambda *at: done.append(at), draws=30
    )
    assert done == [(i, 138) for i in range(1, 139)]
    calibration = Calibration.from_json(json.dumps(made))
    assert (calibration.id, calibration.model_version, made["date"]) == ("20261123", "0.1", "2026-11-23")
    assert (made["data_set"], made["pack"]["id"]) == ("drawn people", "null")
    assert (made["photographs"], made["subjects"], made["failures_to_enrol"]) == (107, 35, 1)
    assert made["errata"] == {"sha256": read_errata(ERRATA).sha256, "dropped": 1, "moved": 1, "merged": 1}
    assert len(made["data_sha256"]) == 64
    assert made["curve_as_is"][-1]["score"] > made["curve"][0]["score"]
    assert calibration.similarity(0.999) == 100


def test_ratios_stay_below_their_bound_where_others_match_each_other_less_than_promised(people: Path, tmp_path: Path) -> None:
    """What the calibration's comparisons cannot tell, other people's do not tell either."""
    for person, take in np.ndindex(36, 3):
        image = np.full((128, 128, 3), 200, np.uint8)
        null.draw(image, 20, 24, 80, 600 + person, 0.45, take)
        (tmp_path / f"other/R{person:02}").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / f"other/R{person:02}/{take}.png"), image)
    held = calibrating.calibrate(people, PackFolder(tmp_path).load("null"), read_errata(ERRATA), draws=30, check=tmp_path / "other")
    points = held["ratios"]["points"]
    assert held["checked"]["widened"][0] < 1
    assert max(point["log10_high"] for point in points) == points[-1]["log10_lr"]
    assert Calibration.from_json(json.dumps(held)).ratios is not None


def test_a_calibration_held_against_other_people_is_widened_by_what_is_found_there(people: Path, tmp_path: Path) -> None:
    """Others of whom every two are drawn as one person: they match each other more often than promised."""
    for person in range(36):
        (tmp_path / f"other/Q{person:02}").mkdir(parents=True)
        for take in range(2):
            image = np.full((128, 128, 3), 200, np.uint8)
            null.draw(image, 20, 24, 80, 200 + person // 2, 0.45, 2 * person + take)
            cv2.imwrite(str(tmp_path / f"other/Q{person:02}/{take}.png"), image)
    models, errata = PackFolder(tmp_path).load("null"), read_errata(ERRATA)
    alone = calibrating.calibrate(people, models, errata, draws=30)
    held = calibrating.calibrate(people, models, errata, draws=30, check=tmp_path / "other")
    rates = held["checked"]["rates"]
    assert (held["checked"]["data_set"], held["checked"]["subjects"], rates[0]["promised"]) == ("other", 36, 0.01)
    for found in rates:
        assert found["low"] < found["found_to_promised"] < found["high"]
    farthest = max(found["found_to_promised"] for found in rates)
    assert held["checked"]["widened"] == [1.0, farthest]
    assert farthest > 2
    for before, after in zip(alone["curve"], held["curve"], strict=True):
        assert (before["score"], before["fmr"]) == (after["score"], after["fmr"]), "the scale stays"
        assert after["high"] == pytest.approx(min(before["high"] * farthest, 1), rel=1e-4)
        assert after["low"] == before["low"]
    (tmp_path / "other/Q00/1.png").unlink()
    for person in range(1, 36):
        shutil.rmtree(tmp_path / f"other/Q{person:02}")
    shutil.copytree(people, tmp_path / "named")
    with pytest.raises(BadRequest, match=r"--check takes other people, but .* in all"):
        calibrating.calibrate(people, models, errata, draws=30, check=tmp_path / "named")
    copied = next(people.rglob("*.png"))
    (tmp_path / "other/Q01").mkdir()
    shutil.copy(copied, tmp_path / "other/Q01/0.png")
    with pytest.raises(BadRequest, match="1 of its photographs"):
        calibrating.calibrate(people, models, errata, draws=30, check=tmp_path / "other")
    null.draw(image := np.full((128, 128, 3), 200, np.uint8), 20, 24, 80, 400)
    cv2.imwrite(str(tmp_path / "other/Q01/0.png"), image)
    single = calibrating.calibrate(people, models, errata, draws=30, check=tmp_path / "other")
    assert (single["checked"]["rates"], single["checked"]["widened"]) == ([], [1.0, 1.0]), "one photograph a person will do"
    assert single["curve"] == alone["curve"]
