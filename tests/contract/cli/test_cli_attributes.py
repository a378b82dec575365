"""Attributes at the command line, on the null attribute pack, which reads the boards of drawn faces."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from commands import documents, errors, write
from typer.testing import Result

from aboveboard.biometrics.vocabulary import ATTRIBUTES, EMOTIONS
from aboveboard.vision import null


def test_attributes_of_each_face_in_a_table(run: Callable[..., Result], tmp_path: Path) -> None:
    write(tmp_path / "pair.png", 1, 2)
    lines = run("detect", tmp_path / "pair.png").stdout.splitlines()
    (head,) = (line for line in lines if "attribute" in line)
    assert head.split()[:5] == ["attribute", "face", "1", "face", "2"]
    for name in ATTRIBUTES:
        assert [line for line in lines if line.strip().startswith(name.replace("_", " "))], name


def test_many_faces_stand_in_several_tables(run: Callable[..., Result], tmp_path: Path) -> None:
    write(tmp_path / "crowd.png", *range(8))
    shown = run("detect", tmp_path / "crowd.png").stdout
    assert shown.count("attribute ") == 2
    assert "face 8" in shown


def test_attributes_as_json_and_by_name(run: Callable[..., Result], tmp_path: Path) -> None:
    write(tmp_path / "ada.png", 1)
    (document,) = documents(run("detect", tmp_path / "ada.png", "--json"))
    (face,) = document["faces"]
    assert set(face["attributes"]) == set(ATTRIBUTES)
    assert len(face["landmarks"]) == 30
    assert {one["name"] for one in face["attributes"]["emotions"]} == set(EMOTIONS)
    assert face["attributes"]["age_range"]["low"] <= face["attributes"]["age_range"]["high"]
    (some,) = documents(run("detect", tmp_path / "ada.png", "--json", "--attributes", "smile, eyes-open"))
    assert some["faces"][0]["attributes"] == {name: face["attributes"][name] for name in ("smile", "eyes_open")}
    (none,) = documents(run("detect", tmp_path / "ada.png", "--json", "--attributes", "none"))
    assert none["faces"][0]["attributes"] == {}
    assert len(none["faces"][0]["landmarks"]) == 5


def test_an_unknown_attribute_is_named_with_those_that_there_are(run: Callable[..., Result], tmp_path: Path) -> None:
    write(tmp_path / "ada.png", 1)
    (error,) = errors(run("detect", tmp_path / "ada.png", "--attributes", "smile,race", code=2))
    assert "'race' is none of all, none, age_range" in error


def test_without_the_attribute_pack_it_says_how_to_get_it(run: Callable[..., Result], tmp_path: Path) -> None:
    write(tmp_path / "ada.png", 1)
    shown = run("detect", tmp_path / "ada.png", ABOVEBOARD_ATTRIBUTE_PACK="face-attributes", ABOVEBOARD_MODELS=str(tmp_path / "none"))
    assert "attribute " not in shown.stdout
    assert "not told here: age_range, beard" in shown.stderr
    assert "aboveboard models install face-attributes" in shown.stderr
    quiet = run(
        "detect", tmp_path / "ada.png", "--attributes", "none", ABOVEBOARD_ATTRIBUTE_PACK="", ABOVEBOARD_MODELS=str(tmp_path / "none")
    )
    assert "not told here" not in quiet.stderr


@pytest.mark.parametrize(("width", "height", "count"), [(100, 90, 1), (640, 240, 2), (2000, 1400, 30), (4000, 240, 3), (240, 2400, 2)])
def test_the_drawing_has_its_text_beside_the_picture_at_any_size(
    run: Callable[..., Result], tmp_path: Path, width: int, height: int, count: int
) -> None:
    """A panel to the right or below, of letters in full height, nothing cut off: the picture keeps only boxes, numbers and landmarks."""
    image = np.full((height, width, 3), 200, np.uint8)
    size = 40 if width < 200 else 120
    columns = max(1, (width - 10) // (size + 20))
    for i in range(count):
        null.draw(image, 10 + i % columns * (size + 20), 10 + i // columns * (size + 20), size, i)
    cv2.imwrite(str(tmp_path / "photograph.png"), image)
    (document,) = documents(run("detect", tmp_path / "photograph.png", "--json", "--draw", tmp_path / "drawn.png"))
    assert len(document["faces"]) == count
    drawn = cv2.imread(str(tmp_path / "drawn.png"))
    panel = (drawn == 20).all(axis=2)
    picture = [int(np.flatnonzero(~along).max()) + 1 for along in (panel[:, 0], panel[0])]
    assert picture[1] / picture[0] == pytest.approx(width / height, rel=0.02), "the picture is whole and in its proportions"
    is_right = picture[1] < drawn.shape[1] and picture[0] + 24 > drawn.shape[0]
    words = drawn[:, picture[1] :] if is_right else drawn[picture[0] :]
    ink = words.max(axis=2) > 100
    rows = np.diff(np.flatnonzero(np.diff(ink.any(axis=1).astype(int))))
    assert rows.max() >= 9, "letters of nine pixels or more"
    assert not ink[-3:].any(), "nothing is cut off below"
    assert not ink[:, -2:].any(), "nor at the right"


def test_a_drawing_of_many_faces_fits_a_screen(run: Callable[..., Result], tmp_path: Path) -> None:
    """What is said of forty faces makes no strip, and the number of each is written where no other face is."""
    image = np.full((640, 960, 3), 200, np.uint8)
    for i in range(40):
        null.draw(image, 20 + i % 8 * 116, 30 + i // 8 * 120, 80, i)
    cv2.imwrite(str(tmp_path / "crowd.png"), image)
    (document,) = documents(run("detect", tmp_path / "crowd.png", "--json", "--draw", tmp_path / "drawn.png"))
    drawn = cv2.imread(str(tmp_path / "drawn.png"))
    assert 1 / 2.5 < drawn.shape[1] / drawn.shape[0] < 2.5
    scale = 720 / 640
    for face in document["faces"]:
        left, top = face["box"]["left"] * 960 * scale, face["box"]["top"] * 640 * scale
        inside = drawn[int(top) + 6 : int(top) + 80, int(left) + 6 : int(left) + 80]
        assert (inside == 20).all(axis=2).mean() < 0.01, "no number covers a face"


def test_a_very_wide_photograph_is_drawn_too_or_refused(run: Callable[..., Result], tmp_path: Path) -> None:
    """Its panel has a height of its own; what no JPEG can hold is no traceback."""
    image = np.full((90, 8000, 3), 200, np.uint8)
    for i in range(100):
        null.draw(image, 10 + 79 * i, 10, 70, i)
    cv2.imwrite(str(tmp_path / "wide.png"), image)
    run("detect", tmp_path / "wide.png", "--draw", tmp_path / "drawn.jpg")
    drawn = cv2.imread(str(tmp_path / "drawn.jpg"))
    assert drawn.shape[0] >= 700
    assert drawn.shape[1] < 8_000


def test_doctor_tries_the_packs_that_only_some_operations_need(run: Callable[..., Result], tmp_path: Path) -> None:
    """Well, not installed, and of a wrong kind."""
    run("operator", "add", "ada", "--role", "admin")

    def found(**overrides: str) -> dict[str, str]:
        result = run("doctor", "--json", code=1 if "yunet-sface" in overrides.values() else 0, **overrides)
        return {one["check"]: one["state"] for one in documents(result)[0]["findings"] if one["check"].endswith("pack")}

    assert found()["attribute pack"] == found()["label pack"] == "well"
    missing = found(ABOVEBOARD_ATTRIBUTE_PACK="face-attributes", ABOVEBOARD_MODELS=str(tmp_path / "none"))
    assert missing["attribute pack"] == "note"
    assert found(ABOVEBOARD_ATTRIBUTE_PACK="yunet-sface")["attribute pack"] == "wrong"
