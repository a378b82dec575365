"""A machine of its own for the command line, and photographs on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from commands import write
from typer.testing import CliRunner, Result

from aboveboard.cli import app


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A machine of its own: null models, its own home."""
    return {
        "ABOVEBOARD_PACK": "null",
        "ABOVEBOARD_LABEL_PACK": "null-labels",
        "ABOVEBOARD_ATTRIBUTE_PACK": "null-attributes",
        "ABOVEBOARD_DATA": str(tmp_path / "data"),
        "XDG_DATA_HOME": str(tmp_path / "home"),
        "COLUMNS": "120",
    }


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


@pytest.fixture
def gallery(run: Callable[..., Result], photographs: Path) -> str:
    run("index", photographs, "-c", "people", "--create")
    return "people"
