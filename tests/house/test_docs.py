"""The documents are complete and true: what they name exists, what exists is in the reference, links resolve, generated parts are fresh."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
import tomllib
from dataclasses import fields
from functools import lru_cache
from pathlib import Path

import pytest
import typer
from judge import HANDSHAKE_CODES

from aboveboard.accountability import rules
from aboveboard.accountability.packs import Pack
from aboveboard.cli import app
from aboveboard.rekognition.codec import service_model
from aboveboard.rekognition.errors import CODES
from aboveboard.rekognition.operations import offered
from aboveboard.settings import Settings
from aboveboard.vision import model_cards, registry

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
SOURCES = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "src" / "aboveboard").rglob("*.py"))
NEVER = r"watchlists?|impostors?|genuine (pair|comparison)s?|suspects?|hits?|FAR|FRR|embeddings?|accuracy|accurate|skipped"
"""Words that the glossary rules out, as far as they can be told from their ordinary use."""


def name(file: Path) -> str:
    return str(file.relative_to(ROOT))


each_document = pytest.mark.parametrize("file", DOCUMENTS, ids=name)


def read(file: Path | str) -> str:
    return (ROOT / file).read_text(encoding="utf-8")


def prose(text: str) -> str:
    """A document without code, in blocks or in lines."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M))


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.S | re.M)


@lru_cache(maxsize=1)
def reference() -> str:
    return read("docs/reference.md")


@lru_cache(maxsize=1)
def verbs() -> dict[tuple[str, ...], set[str]]:
    """Every verb with its options."""
    found: dict[tuple[str, ...], set[str]] = {}

    def walk(command, path):
        found[path] = {option for parameter in command.params for option in parameter.opts if option.startswith("-")} | {"--help"}
        for child, inner in getattr(command, "commands", {}).items():
            walk(inner, (*path, child))

    walk(typer.main.get_command(app), ())
    return found


def commands(text: str) -> list[list[str]]:
    """Every `aboveboard ...` line of console blocks and of inline code, as words."""
    lines = [line.removeprefix("$ ") for block in blocks(text, "console") for line in block.splitlines()]
    lines += re.findall(r"`((?:[A-Z_]+=\S+ )?aboveboard [^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M))
    words = (shlex.split(line.partition(" #")[0].replace("\\|", "|")) for line in lines)
    rest = ([word for word in one if not re.fullmatch(r"[A-Z_]+=\S*", word)] for one in words)
    return [one[1:] for one in rest if one and Path(one[0]).name == "aboveboard"]


def anchors(file: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", file.read_text(encoding="utf-8"), flags=re.S | re.M), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def generator():
    spec = importlib.util.spec_from_file_location("generate_reference", ROOT / "tools" / "generate_reference.py")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module


@each_document
def test_every_command_in_a_document_is_a_real_one(file):
    """Verb and options of each `aboveboard ...` line exist."""
    for words in commands(file.read_text(encoding="utf-8")):
        verb: tuple[str, ...] = ()
        while words and (*verb, words[0]) in verbs():
            verb, words = (*verb, words[0]), words[1:]
        if verb == ("evaluate",) and words:
            verb = ("evaluate", "run")  # the verb that may be left out
        given = {word.partition("=")[0] for word in words if word.startswith("-") and word != "-"}
        assert verb or not words or given, f"{name(file)}: there is no verb '{words[0]}'"
        assert given <= verbs()[verb], f"{name(file)}: aboveboard {' '.join(verb)} has no option {sorted(given - verbs()[verb])}"
        is_group = any(other[: len(verb)] == verb and len(other) > len(verb) for other in verbs())
        assert not (is_group and verb and words and not given), f"{name(file)}: aboveboard {' '.join(verb)} has no verb '{words[0]}'"


@each_document
def test_every_link_between_documents_resolves(file):
    """The file is there, and the heading in it."""
    text = re.sub(r"^```.*?^```", "", file.read_text(encoding="utf-8"), flags=re.S | re.M)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = (file.parent / path).resolve() if path else file
        assert there.exists(), f"{name(file)}: there is no {target}"
        assert not anchor or anchor in anchors(there), f"{name(file)}: {path or name(file)} has no heading '{anchor}'"


@each_document
def test_no_document_uses_a_word_that_the_glossary_rules_out(file):
    """Neither outside nor inside the tables; code and the glossary itself are spared."""
    if file.name != "glossary.md":
        assert re.findall(rf"\b(?:{NEVER})\b", prose(file.read_text(encoding="utf-8"))) == []


@each_document
def test_no_document_names_a_place_of_somebodys_machine(file):
    """No absolute path of a home or a workplace, no address of an index."""
    assert re.findall(r"/(?:work|root|home|Users)/\S*|https?://\S*(?:simple|pypi)\S*", file.read_text(encoding="utf-8")) == []


@each_document
def test_no_python_block_is_written_so_that_it_would_not_run(file):
    """Fences of Python are written ```python, at the beginning of a line: only these are run."""
    assert re.findall(r"^[ \t]*```(?:py|python3|pycon|Python)\b|^[ \t]+```python", file.read_text(encoding="utf-8"), flags=re.M) == []


def test_generated_parts_are_fresh():
    """`python tools/generate_reference.py` would change nothing."""
    stale = [name(file) for file, wanted in generator().files().items() if file.read_text(encoding="utf-8") != wanted]
    assert stale == [], "run: python tools/generate_reference.py"


def test_the_reference_has_every_setting_with_its_help():
    """A setting that nobody can read about does not exist."""
    for setting in fields(Settings):
        assert f"| `{setting.name}` |" in reference()
        assert setting.metadata["help"] in reference()


def test_the_reference_has_every_error_code():
    """Those of the table, and those of the handshake."""
    for code in {code for _, code, _ in CODES} | HANDSHAKE_CODES:
        assert f"`{code}`" in reference()


def test_the_reference_has_every_header():
    """Every x-aboveboard header that the code writes."""
    for header in set(re.findall(r"x-aboveboard-[a-z-]+", SOURCES)):
        assert f"`{header}`" in reference()


def test_the_reference_has_every_verb_with_its_options():
    """And every option."""
    for verb, options in verbs().items():
        if any(other[: len(verb)] == verb and other != verb for other in verbs()):
            continue
        (row,) = [line for line in reference().splitlines() if re.match(rf"\| `aboveboard {' '.join(verb)}[ `]", line)]
        missing = {option for option in options if option.startswith("--") and option != "--help" and f"`{option}`" not in row}
        assert missing == set()


def test_the_reference_has_every_operation():
    """Offered or not offered; the page for those who come from Amazon lists the offered ones as well."""
    assert set(re.findall(r"[A-Z]\w+", reference().partition("## Operations")[2].partition("##")[0])) >= set(
        service_model().operation_names
    )
    listed = read("docs/migrate-from-aws.md").partition("## Operations")[2].partition("Everything else")[0]
    assert set(re.findall(r"\b(?:[A-Z][a-z]+){2,}\b", listed)) == set(offered())


def test_the_reference_has_every_policy_key_and_card_key():
    """Each with its table's name."""
    keys = {
        "": [Pack, model_cards.Card, model_cards.AttributeCard], "detector.": [model_cards.DetectorCard],
        "recogniser.": [model_cards.RecogniserCard], "labeller.": [model_cards.LabellerCard], "boxes.": [model_cards.BoxesCard],
        "mesh.": [model_cards.MeshCard], "sources.": [registry.Source],
        "threshold.floors.": [rules.Floor], **{f"{name}.": [kind] for name, kind in generator().PACK_TABLES},
    }  # fmt: skip
    assert len(keys) > 15
    tables = {prefix.rstrip(".") for prefix in keys}
    for prefix, kinds in keys.items():
        for key in (field.name for kind in kinds for field in fields(kind)):
            assert key in tables or f"| `{prefix}{key}` |" in reference(), f"{prefix}{key}"


def test_the_reference_has_every_word_of_a_policy():
    """Purposes, offences, documents, probes and edits."""
    for word in (*rules.PURPOSES, *rules.OFFENCES, *rules.KINDS, *rules.PROBES, *rules.EDITS):
        assert f"`{word}`" in reference().partition("## Words of policies")[2], word


def test_the_ledger_page_has_every_type_of_entry():
    """Every type that the code writes is explained, and no other."""
    written = set(re.findall(r"(?:append\(connection, |record\(|record, |\"type\": )\"([a-z.]+)\"", SOURCES))
    assert set(re.findall(r"^\| `([a-z.]+)` \|", read("docs/ledger.md"), flags=re.M)) == written
    assert len(written) >= 13


def test_the_card_in_the_page_on_own_models_has_every_key():
    """It is a card that the program reads, with nothing left out."""
    text, labels = blocks(read("docs/bring-your-own-model.md"), "toml")
    raw = tomllib.loads(labels)
    assert isinstance(model_cards.read_card(labels, "the page"), model_cards.LabelCard)
    assert set(raw["labeller"]) == {field.name for field in fields(model_cards.LabellerCard)} - {"sources"}
    assert set(raw["boxes"]) == {field.name for field in fields(model_cards.BoxesCard)} - {"sources"}
    card = model_cards.read_card(text, "the page")
    raw = tomllib.loads(text)
    assert set(raw) == {field.name for field in fields(model_cards.Card)}
    assert set(raw["recogniser"]) == {field.name for field in fields(model_cards.RecogniserCard)}
    assert {key for source in raw["recogniser"]["sources"] for key in source} == {field.name for field in fields(registry.Source)}
    assert card.id == "mine"


def test_the_reasons_of_decisions_are_listed():
    """Each ADR is in the list, numbered without gaps, and short."""
    decisions = sorted(file for file in (ROOT / "docs" / "adr").glob("[0-9]*.md"))
    assert [int(file.name[:4]) for file in decisions] == list(range(1, len(decisions) + 1))
    for file in decisions:
        assert f"({file.name})" in read("docs/adr/README.md")
        assert len(file.read_text(encoding="utf-8").splitlines()) <= 25
        assert all(f"**{part}.**" in file.read_text(encoding="utf-8") for part in ("Context", "Decision", "Consequence"))


def test_the_changelog_has_this_version():
    """The version of pyproject.toml has its heading."""
    version = tomllib.loads(read("pyproject.toml"))["project"]["version"]
    assert f"## [{version}]" in read("CHANGELOG.md")


def test_the_tree_in_the_house_is_the_tree():
    """Every module and folder of the package occurs in the page on how it is built."""
    house = read("docs/house.md")
    tree = house.partition("```text")[2].partition("```")[0]
    for file in (ROOT / "src" / "aboveboard").rglob("*.py"):
        parts = file.relative_to(ROOT / "src" / "aboveboard").parts
        if parts[0] == "cli" or file.name == "__init__.py":
            continue
        assert file.name in tree, "/".join(parts)


def test_the_licence_is_whole():
    """Apache-2.0 from head to appendix, and a notice for the weights."""
    licence = read("LICENSE")
    assert "Apache License" in licence
    assert "9. Accepting Warranty or Additional Liability." in licence
    assert all(word in read("NOTICE") for word in ("YuNet", "SFace", "botocore", "public domain"))
