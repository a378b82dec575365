"""What must not be forgotten: help, docstrings, codes, fresh generated files, words that the house does not use."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

import aboveboard
from aboveboard import errors
from aboveboard.accountability import policy
from aboveboard.accountability.catalogue import Policies
from aboveboard.accountability.packs import check_roles
from aboveboard.rekognition.errors import CODES, code_of
from aboveboard.rekognition.operations import offered
from aboveboard.settings import Settings

ROOT = Path(aboveboard.__file__).parent
PROJECT = ROOT.parent.parent
SOURCES = sorted(file for file in ROOT.rglob("*.py") if file.name != "shapes.py")
FAMILY = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, errors.Error)]


@pytest.mark.parametrize("setting", dataclasses.fields(Settings), ids=lambda field: field.name)
def test_every_setting_has_its_help(setting):
    """One sentence that ends with a full stop."""
    text = setting.metadata["help"]
    assert len(text) > 20
    assert text.endswith(".")


@pytest.mark.parametrize("kind", FAMILY, ids=lambda kind: kind.__name__)
def test_every_error_has_a_docstring_and_a_code(kind):
    """One family; each of it leaves the server as a code of AWS's, chosen on purpose."""
    assert inspect.getdoc(kind)
    assert kind.__doc__ != errors.Error.__doc__ or kind is errors.Error
    if kind in (errors.Error, errors.Unauthenticated):
        return
    extra = {"rule": "r"} if issubclass(kind, errors.Refused) else {}
    code, status = code_of(kind("text", **extra))
    assert re.fullmatch(r"[A-Z]\w+(Exception|Error)", code)
    assert status == (500 if code == "InternalServerError" else 400)
    assert any(kind is known for known, _, _ in CODES), "list it in the table, even where its parent's code is right"


def test_an_error_that_is_nobodys_is_an_internal_one():
    """The bare Error has no row: 500."""
    assert code_of(errors.Error("x")) == ("InternalServerError", 500)


def test_a_subclass_stands_before_its_parent_in_the_table():
    """First match wins."""
    for i, (kind, _, _) in enumerate(CODES):
        assert not any(issubclass(kind, earlier) for earlier, _, _ in CODES[:i])


def test_the_generated_shapes_are_fresh():
    """shapes.py is what tools/generate_shapes.py writes from the botocore that is installed."""
    done = subprocess.run([sys.executable, str(PROJECT / "tools" / "generate_shapes.py"), "--check"], check=False)
    assert done.returncode == 0, "run: .venv/bin/python tools/generate_shapes.py"


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_public_things_say_what_they_are(file):
    """Modules, public classes and public functions of more than a few lines have a docstring; an operation's is Amazon's."""
    tree = ast.parse(file.read_text())
    assert ast.get_docstring(tree), "the module"
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            is_operation = any(isinstance(d, ast.Call) and getattr(d.func, "id", "") == "operation" for d in node.decorator_list)
            lines = (node.end_lineno or 0) - node.lineno
            assert ast.get_docstring(node) or is_operation or lines <= 4, node.name


NEVER = re.compile(
    r"\b(watch ?-?lists?|impostors?|suspects?|hits?|genuine|accurac(y|ies)|enrollees?|match(es)? ?%)\b|\bFAR\b|\bFRR\b", re.IGNORECASE
)
OUTSIDE_VISION = re.compile(r"\b(embeddings?|face encodings?)\b", re.IGNORECASE)


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_words_that_the_house_does_not_use(file):
    """ISO/IEC 2382-37 inside: no watchlist, hit, suspect, impostor, FAR; 'embedding' in vision/ alone. Names, texts and comments.

    What a case is for is said in the words of the laws: 'suspect' is one of them.
    """
    where, laws = file.relative_to(ROOT).parts[0], "suspect" if file.name == "rules.py" else ""
    for token in tokenize.generate_tokens(io.StringIO(file.read_text()).readline):
        if token.type in (tokenize.NAME, tokenize.STRING, tokenize.COMMENT):
            text = token.string.replace("_", " ").replace(laws, "") if laws else token.string.replace("_", " ")
            found = NEVER.search(text.replace("far", "")) or (where != "vision" and OUTSIDE_VISION.search(text))
            assert not found, f"line {token.start[0]}: {token.string[:80]}"


def cites(citation: str) -> bool:
    """A template's citation names a section of its law, or says that none was found."""
    return bool(re.search(r"§ 2-5\d\d|RCW 43\.386|\.0[1-8]0\b|Article \d+|that were read|[Nn]ot found", citation))


def test_every_policy_pack_is_whole():
    """Each shipped pack names its authority and cites every rule; its floor is not above what an absent threshold means."""
    for pack in Policies("general", "general").all():
        assert pack.authority
        parts = (getattr(pack, field.name) for field in dataclasses.fields(pack))
        tables = [rule for part in parts for rule in (part if isinstance(part, tuple) else [part]) if dataclasses.is_dataclass(rule)]
        assert len(tables) >= 12
        for rule in (*tables, *pack.threshold.floors):
            assert len(rule.citation) > 10, (pack.id, rule)
            assert pack.status == "published" or cites(rule.citation), (pack.id, rule)
        assert pack.threshold.floor <= pack.threshold.absent or pack.threshold.absent == 0


def test_every_duty_names_roles_that_exist():
    """And no duty is open to nobody."""
    for duty, roles in policy.DUTIES.items():
        assert roles, duty
        check_roles(roles)


def test_every_offered_operation_is_typed_by_the_model():
    """A handler takes the TypedDict of its own operation."""
    for name, handler in offered().items():
        annotation = inspect.signature(handler).parameters["request"].annotation
        assert annotation == f"shapes.{name}Request"


def test_the_locks_name_no_registry():
    """Neither Python's nor the JavaScript client's: packages come from wherever the machine has its registry, by hash."""
    for lock in (PROJECT / "requirements.lock", PROJECT / "tests" / "contract" / "node" / "package-lock.json"):
        assert "://" not in lock.read_text(), lock
