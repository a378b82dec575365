"""The locks that lie in the structure of the code: who may make a permit, read templates, speak AWS, read the environment."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import aboveboard

ROOT = Path(aboveboard.__file__).parent
MODULES = {
    ".".join(("aboveboard", *file.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): file for file in ROOT.rglob("*.py")
}
TREES = {name: ast.parse(file.read_text()) for name, file in MODULES.items()}


def imports(name: str) -> Iterator[str]:
    """Every module that a module imports, anywhere in it, relative ones included."""
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = (
                    name.split(".")[: -node.level] if MODULES[name].name != "__init__.py" else name.split(".")[: 1 - node.level or None]
                )
                base = ".".join([*parents, base]).rstrip(".")
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def importers(wanted: str) -> set[str]:
    return {name for name in TREES if any(found == wanted or found.startswith(f"{wanted}.") for found in imports(name))}


def callers(called: str) -> set[str]:
    """Modules that call a name, bare or as an attribute."""
    found = set()
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                function = node.func
                if getattr(function, "id", None) == called or getattr(function, "attr", None) == called:
                    found.add(name)
    return found


def under(names: set[str], *roots: str) -> bool:
    return all(any(name == root or name.startswith(f"{root}.") for root in roots) for name in names)


GATE, LOOKS = "aboveboard.accountability.gate", "aboveboard.accountability.looks"


@pytest.mark.parametrize(
    ("name", "maker"),
    [
        ("Permit", GATE),
        ("SearchLook", GATE),
        ("CheckLook", GATE),
        ("Candidates", LOOKS),
        ("Association", LOOKS),
        ("Findings", LOOKS),
        ("GalleryScores", LOOKS),
    ],
)
def test_permits_are_made_by_the_gate_and_candidates_by_its_looks_only(name, maker):
    """Locks 2 and 4: no other module constructs one, nor copies one with other values."""
    assert callers(name) == {maker}
    replacing = {module for module in callers("replace") if re.search(r"\b(Permit|Candidates)\b", MODULES[module].read_text())}
    assert not replacing


def test_the_template_store_is_imported_by_the_gate_its_looks_and_the_wiring_only():
    """Lock 1: who does not import it cannot search it. Who examines a deployment asks it for counts, and for nothing else."""
    examiner = "aboveboard.service.examine"
    assert importers("aboveboard.storage.templates") == {GATE, LOOKS, "aboveboard.bootstrap", examiner}
    used = {
        node.attr for node in ast.walk(TREES[examiner]) if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "templates"
    }
    assert used == {"examine"}


@pytest.mark.parametrize("method", ["pairs", "apart", "scores", "search", "search_subjects", "of_faces"])
def test_templates_are_searched_by_looks_only(method):
    """Whatever else holds the store adds to it or forgets."""
    found = set()
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Attribute)
                and node.attr == method
                and getattr(node.value, "attr", getattr(node.value, "id", "")) == "templates"
            ):
                found.add(name)
    assert found == {LOOKS}


def test_the_table_of_templates_is_read_by_the_template_store_only():
    """The store and its galleries; two other modules name it, and only write to it; templates on their way to another model are
    read by nobody."""
    named = {name for name in TREES if "TEMPLATES" in (part.rsplit(".", 1)[-1] for part in imports(name))}
    store = {"aboveboard.storage.templates", "aboveboard.storage.galleries"}
    assert named == store | {"aboveboard.storage.reindexings"}
    assert importers("aboveboard.storage.gallery") | importers("aboveboard.storage.galleries") == store
    text = MODULES["aboveboard.storage.reindexings"].read_text()
    assert "select(TEMPLATES" not in text
    assert "select(SHADOW_TEMPLATES)" not in text
    # The one place that names a vector is a subquery of the update: SQLite moves it, the program never holds it.
    assert text.count("c.vector") == text.count("sa.select(SHADOW_TEMPLATES.c.vector)") == text.count(".scalar_subquery()") == 1
    assert {name for name in TREES if "SHADOW_TEMPLATES" in (part.rsplit(".", 1)[-1] for part in imports(name))} == {
        "aboveboard.storage.reindexings"
    }
    statements = {
        (name, node.value)
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and re.match(r"(SELECT|INSERT|UPDATE|DELETE)\b.*\btemplates\b", str(node.value))
    }
    assert statements == {("aboveboard.storage.collections", "INSERT INTO templates (face, vector) VALUES (?, ?)")}


def test_comparison_scores_are_computed_by_looks_the_store_and_the_laboratory_only():
    """Contract 3 of the house."""
    assert under(
        importers("aboveboard.biometrics.matching"),
        LOOKS,
        "aboveboard.storage.templates",
        "aboveboard.evaluation",
    )


def test_the_laboratory_sees_no_operational_data():
    """Contract 4: evaluation imports neither storage nor accountability nor service."""
    for room in ("storage", "accountability", "service"):
        assert not {name for name in importers(f"aboveboard.{room}") if name.startswith("aboveboard.evaluation")}


@pytest.mark.parametrize(
    ("library", "rooms"),
    [
        (
            "botocore",
            ["aboveboard.rekognition", "aboveboard.storage.objects", "aboveboard.evaluation.endpoint", "aboveboard.evaluation.attributes"],
        ),
        ("starlette", ["aboveboard.rekognition"]),
        ("anyio", ["aboveboard.rekognition"]),
        ("uvicorn", ["aboveboard.cli", "aboveboard.rekognition.protocol"]),
        ("boto3", ["aboveboard.cli.demo", "aboveboard.storage.objects", "aboveboard.evaluation.endpoint"]),
        ("matplotlib", ["aboveboard.reporting", "aboveboard.evaluation.plots"]),
        ("typer", ["aboveboard.cli"]),
        ("rich", ["aboveboard.cli"]),
        ("onnxruntime", ["aboveboard.vision"]),
        ("sqlite3", ["aboveboard.storage"]),
        ("aboveboard.rekognition", ["aboveboard.rekognition", "aboveboard.cli"]),
    ],
)
def test_a_library_stays_in_its_room(library, rooms):
    """Contract 5: AWS words and frameworks live where they belong."""
    assert under(importers(library), *rooms), importers(library)


def test_biometrics_is_pure():
    """Contract 6: numpy and the standard library, for the scan also compilers and threads; no models, images, databases or files."""
    pure = {
        "numpy",
        "__future__",
        "collections",
        "dataclasses",
        "functools",
        "hashlib",
        "json",
        "math",
        "operator",
        "re",
        "typing",
        "aboveboard",
    }
    more = {"kernels": {"numba", "llvmlite"}, "scan": {"concurrent", "itertools", "os", "threading"}}
    for name in TREES:
        if name.startswith("aboveboard.biometrics"):
            assert {found.split(".")[0] for found in imports(name)} <= pure | more.get(name.rsplit(".", 1)[-1], set())


def test_only_the_settings_read_the_environment():
    """Nobody else looks at os.environ or calls getenv; the demo hands its own on to the server and the programs that it starts, and
    vision/ sets one variable, which forbids onnxruntime to send usage data, memory one for the C library."""
    found = set()
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            word = getattr(node, "attr", getattr(node, "id", ""))
            if word in ("environ", "getenv", "environb"):
                found.add(name)
    assert found - {"aboveboard.cli.demo"} == {"aboveboard.settings", "aboveboard.vision", "aboveboard.memory"}
    assert MODULES["aboveboard.vision"].read_text().count("os.environ") == 1


def test_no_module_keeps_state():
    """No `global`, and no mutable literal assigned at module level in lower case."""
    for name, tree in TREES.items():
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.Global)], name
        for node in tree.body:
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, (ast.List, ast.Dict, ast.Set)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names = [target.id for target in targets if isinstance(target, ast.Name)]
                assert all(target.isupper() or target == "__all__" for target in names), (name, names)


def test_nothing_is_evaluated_or_unpickled():
    """No eval, exec, pickle or marshal anywhere in the program."""
    for name, tree in TREES.items():
        called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
        assert not called & {"eval", "exec", "__import__"}, name
        assert not {found.split(".")[0] for found in imports(name)} & {"pickle", "marshal", "shelve", "dill"}, name
