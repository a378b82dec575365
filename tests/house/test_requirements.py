"""docs/requirements.md is true: fifty rows, tests that exist, and as many open ones as it says."""

from __future__ import annotations

import ast
import re
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "requirements.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if re.match(r"\| R\d", line)]
OPEN = "**not yet**: "


@lru_cache
def functions_in(file: str) -> set[str]:
    """The test functions of a file under tests/."""
    path = ROOT / "tests" / file
    tree = ast.parse(path.read_text(encoding="utf-8")) if path.is_file() else ast.Module([], [])
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_every_requirement_has_one_row():
    """R01 to R50, in order; four cells each, the second of them said."""
    assert [row[0] for row in ROWS] == [f"R{n:02d}" for n in range(1, 51)]
    for row in ROWS:
        assert len(row) == 4, row[0]
        assert row[1], row[0]


def test_every_named_test_exists():
    """By file and name; and nothing else stands in the column."""
    named = [(row[0], name) for row in ROWS for name in re.findall(r"`([^`]+)`", row[2])]
    assert len(named) > 50
    missing = [f"{id_}: {name}" for id_, name in named if name.partition("::")[2] not in functions_in(name.partition("::")[0])]
    assert missing == []
    assert [row[0] for row in ROWS if re.sub(r"`[^`]+`", "", row[2]).strip()] == []


def test_what_is_open_is_said_and_counted():
    """A row without a test is open; what is open says what is missing; the number at the top is theirs."""
    is_open = {row[0] for row in ROWS if row[3].startswith(OPEN) and len(row[3]) > len(OPEN) + 5}
    assert is_open == {row[0] for row in ROWS if "not yet" in row[3]}
    assert {row[0] for row in ROWS if not row[2]} <= is_open
    (said,) = re.findall(r"\*\*(\d+) of 50 are not yet proved\.\*\*", TEXT)
    assert int(said) == len(is_open)
