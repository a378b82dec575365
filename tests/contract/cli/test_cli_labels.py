"""The verb labels, on the null label pack, which sees colours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from commands import documents, errors, write
from typer.testing import Result


def test_labels_of_a_photograph_with_a_bar_each(run: Callable[..., Result], tmp_path: Path) -> None:
    write(tmp_path / "ada.png", 1)
    lines = run("labels", tmp_path / "ada.png").stdout.splitlines()
    (face,) = (line for line in lines if line.strip().startswith("Face"))
    assert "████████" in face
    assert "99.0" in face
    assert "Head, Person" in face
    assert "1 box" in face
    assert not [line for line in lines if "Pink" in line], "a twelfth of the picture is less than 55 %"
    assert "Pink" in run("labels", tmp_path / "ada.png", "--min-confidence", 1).stdout


def test_labels_as_json(run: Callable[..., Result], tmp_path: Path) -> None:
    write(tmp_path / "ada.png", 1)
    (document,) = documents(run("labels", tmp_path / "ada.png", "--json", "--limit", 2, "--properties"))
    assert document["photograph"] == "ada.png"
    assert document["model_version"] == "0.1"
    assert len(document["labels"]) == 2
    assert document["labels"][0]["confidence"] >= document["labels"][1]["confidence"]
    assert document["properties"]["measures"]["brightness"] > 0
    assert sum(colour["share"] for colour in document["properties"]["colours"]) == pytest.approx(1)
    (document,) = documents(run("labels", tmp_path / "ada.png", "--json"))
    assert document["properties"] is None


def test_several_photographs_and_one_that_cannot_be_read(run: Callable[..., Result], photographs: Path) -> None:
    shown = run("labels", photographs, "--properties")
    assert "nobody.png" in shown.stdout
    assert "brightness" in shown.stdout
    assert "broken.jpg" in " ".join(errors(shown))
    broken = run("labels", photographs / "broken.jpg", "--json", code=4)
    assert documents(broken)[0]["error"]


def test_without_the_label_pack_it_says_how_to_get_it(run: Callable[..., Result], tmp_path: Path) -> None:
    write(tmp_path / "ada.png", 1)
    refused = run("labels", tmp_path / "ada.png", code=3, ABOVEBOARD_LABEL_PACK="efficientnet-lite0")
    assert "run: aboveboard models install efficientnet-lite0" in " ".join(errors(refused))
