"""Write docs/reference.md out of the code, and the table N -> threshold into docs/migrate-from-aws.md. A test compares both.

The reference has settings, verbs, operations, errors, headers, log, metrics, policy packs and model packs.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args, get_type_hints

import typer
from reference_texts import CARD, CITATION, DEFAULTS, HANDSHAKE, HEADERS, LOG, MODE, POLICY

from aboveboard.accountability import rules
from aboveboard.accountability.catalogue import Policies
from aboveboard.accountability.packs import Pack
from aboveboard.accountability.policy import DUTIES
from aboveboard.accountability.rules import ROLES
from aboveboard.biometrics.calibration import similarity_at, similarity_for
from aboveboard.biometrics.vocabulary import Basis
from aboveboard.bootstrap import open_app
from aboveboard.cli import app
from aboveboard.cli.common import EXIT_CODES
from aboveboard.rekognition.codec import service_model
from aboveboard.rekognition.errors import CODES
from aboveboard.rekognition.limits import Shares
from aboveboard.rekognition.operations import basis_headers, offered
from aboveboard.rekognition.telemetry import Exchange, Metrics, facts, of_deployment
from aboveboard.settings import Settings, load
from aboveboard.vision.model_cards import AttributeCard, BoxesCard, Card, DetectorCard, LabellerCard, MeshCard, RecogniserCard
from aboveboard.vision.packs import PackFolder
from aboveboard.vision.registry import Source

FILE = Path(__file__).parent.parent / "docs" / "reference.md"
MIGRATION = FILE.with_name("migrate-from-aws.md")
HEAD = """# Reference

Generated from the code by `python tools/generate_reference.py`; do not edit. A test compares it with the code.
"""


def rows(head: Iterable[str], body: Iterable[Iterable[Any]]) -> str:
    """A Markdown table."""
    names = list(head)
    lines = [names, ["---"] * len(names), *([str(cell).replace("|", "\\|") for cell in row] for row in body)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def code(value: Any) -> str:
    """A value as code, empty where there is none."""
    return f"`{value}`" if str(value) else ""


def settings() -> str:
    """Every setting with its variable, default and help text."""
    body = []
    for field in fields(Settings):
        variable = "`ABOVEBOARD_DATA` or `--data`" if field.name == "data" else f"`ABOVEBOARD_{field.name.upper()}`"
        body.append((code(field.name), variable, DEFAULTS.get(field.name) or code(field.default), field.metadata["help"]))
    return rows(("setting", "variable", "default", "what it is"), body)


def verbs(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every verb with its command object, in the order of the help page."""
    children = getattr(command, "commands", None)
    if children is None:
        yield " ".join(path), command
        return
    for name, child in children.items():
        yield from verbs(child, (*path, name))


def verb_rows() -> str:
    """Every verb with arguments and options."""
    body = []
    for name, command in verbs(typer.main.get_command(app)):
        arguments = " ".join(one.metavar or one.name.upper() for one in command.params if one.param_type_name == "argument")
        options = " ".join(f"`{one.opts[0]}`" for one in command.params if one.param_type_name == "option")
        first = " ".join(command.help.partition("\n\n")[0].split())
        body.append((code(f"aboveboard {name} {arguments}".strip()), options, first))
    return rows(("verb", "options", "what it does"), body)


def header_rows() -> str:
    """Every header of a scored answer, and the others."""
    basis = Basis("", 0, "none", 0, 0, 0, 0, 0, 0, "", False)
    scored = list(basis_headers("", basis))
    names = [*scored, *(name for name in HEADERS if name not in scored)]
    searches = "SearchFaces, SearchFacesByImage, SearchUsers, SearchUsersByImage"
    where = "AssociateFaces, CompareFaces, SearchFaces, SearchFacesByImage, SearchUsers, SearchUsersByImage"
    places = {
        "x-aboveboard-policy": f"{where}, CreateCollection, DescribeCollection",
        "x-aboveboard-gallery-factor": searches,
        "x-aboveboard-own-shares": searches,
        "x-aboveboard-not-assessed": "DetectFaces, IndexFaces",
        "x-aboveboard-unknown-labels": "DetectLabels",
    }
    return rows(("header", "on", "what it says"), ((code(name), places.get(name, where), HEADERS[name]) for name in names))


def error_rows() -> str:
    """Our errors, AWS's codes."""
    body: list[tuple[str, str, int, str]] = [
        (code(kind.__name__), code(name), status, (kind.__doc__ or "").strip()) for kind, name, status in CODES
    ]
    body += [
        (code("Unauthenticated"), code(name), 400, f"Who calls could not be told, or what he calls: {text}.")
        for name, text in HANDSHAKE.items()
    ]
    body.append(("anything else", code("InternalServerError"), 500, "A defect: logged under the request id, its text not sent."))
    return rows(("error in the code", "AWS code", "HTTP", "meaning"), body)


def operation_lists() -> str:
    """What is offered, and what is not."""
    names = set(service_model().operation_names)
    lines = []
    for title, chosen in (("Offered", sorted(offered())), ("Not offered (`AccessDeniedException`)", sorted(names - set(offered())))):
        lines.append(f"{title}, {len(chosen)} of {len(names)}: {', '.join(chosen)}.")
    return "\n\n".join(lines)


PACK_TABLES = tuple(
    (name, kind if isinstance(kind, type) else get_args(kind)[0])
    for name, kind in get_type_hints(Pack).items()
    if is_dataclass(kind) or (get_args(kind) and is_dataclass(get_args(kind)[0]))
)
LISTED = (rules.DocumentRule, rules.ReportRule)


def key_rows(kinds: Iterable[tuple[str, type]], texts: dict[str, str]) -> str:
    """Every key of a TOML file with its explanation; a key without one raises KeyError."""
    body = []
    for prefix, kind in kinds:
        for field in fields(kind):
            name = f"{prefix}{field.name}"
            shared = {"mode": MODE, "citation": CITATION}.get(field.name, "")
            if prefix and shared and name not in texts:
                body.append((code(name), shared))
            elif prefix or texts.get(name) or name not in ("detector", "recogniser", *(table for table, _ in PACK_TABLES)):
                body.append((code(name), texts[name]))
    return rows(("key", "meaning"), body)


def policy_values() -> str:
    """The shipped packs side by side."""
    packs = sorted(Policies("general", "general").all(), key=lambda pack: pack.id)
    body = [(code(name), *(_shown(getattr(pack, name)) for pack in packs)) for name in ("status", "effective_from", "effective_to")]
    for table in (name for name, kind in PACK_TABLES if kind not in LISTED):
        for field in fields(type(getattr(packs[0], table))):
            if field.name != "citation":
                values = (getattr(getattr(pack, table), field.name) for pack in packs)
                body.append((code(f"{table}.{field.name}"), *(_shown(value) for value in values)))
    body += [(code(table), *(str(len(getattr(pack, table))) for pack in packs)) for table in ("documents", "reports")]
    return rows(("key", *(code(pack.id) for pack in packs)), body)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(_part(part) for part in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def _part(value: Any) -> str:
    if isinstance(value, rules.Floor):
        fpir = f", FPIR {value.fpir:g}" if value.fpir else ""
        return f"{value.similarity:g}{fpir} for {_shown(value.purposes)} x {_shown(value.offences)}"
    return " + ".join(map(code, value)) if isinstance(value, tuple) else "any" if value == rules.ANY else code(value)


def words() -> str:
    """The closed lists of purposes and offences."""
    purposes = rows(("purpose", "what it is"), ((code(word), text) for word, text in rules.PURPOSES.items()))
    offences = rows(("offence", "what it is, attempts included"), ((code(word), text) for word, text in rules.OFFENCES.items()))
    kinds = f"Authority documents, the weakest first: {', '.join(map(code, rules.KINDS))}."
    probes = f"Probes: {', '.join(map(code, rules.PROBES))}. Edits: {', '.join(map(code, rules.EDITS))}."
    return f"{purposes}\n\n{offences}\n\n{kinds} {probes}"


def duty_rows() -> str:
    """Which role may do what."""
    marks = ((code(duty), *("yes" if role in roles else "" for role in ROLES)) for duty, roles in DUTIES.items())
    return rows(("duty", *ROLES), marks)


def pack_cards() -> str:
    """The shipped model packs."""
    parts = []
    packs = PackFolder(Path("/nonexistent"))
    for name in packs.ids():
        card = packs.card(name)
        calibration = packs.calibration(name)
        lines = [
            ("name", card.name),
            ("model version", code(card.model_version)),
            ("licence", card.licence),
            ("training data", card.training_data),
            *(("limit", text) for text in card.limits),
            *((code(part.file), f"sha256 `{part.sha256}`") for part in card.files),
            ("calibration", f"{code(calibration.id)}: {calibration.provenance['data_set']}" if calibration else "none"),
        ]
        parts.append(f"### `{name}`\n\n{rows(('', ''), lines)}")
    return "\n\n".join(parts)


def metric_rows() -> str:
    """Every metric, as a server with one request behind it shows them."""
    exchange = Exchange("", "DetectFaces", "", 0, rule="r", limit="l", policy="p")
    with TemporaryDirectory() as folder:
        app = open_app(load(Path(folder), {"ABOVEBOARD_PACK": "null"}))
        metrics = Metrics(Shares("", 1, 1), Shares("", 1, 1))
        metrics.count(exchange)
        families = [family for family in (*metrics.collect(), *of_deployment(app).collect()) if family.name.startswith("aboveboard")]
        app.database.close()
    body = []
    for family in families:
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        name = family.name + ("_total" if family.type == "counter" else "")
        body.append((code(name), family.type, ", ".join(code(label) for label in sorted(labels)), family.documentation))
    return rows(("metric", "type", "labels", "what it is"), body)


def log_rows() -> str:
    """Every member of a request's line in the log."""
    names = ["time", "level", "logger", "pid", "message", *facts(Exchange("", "", "", 0))]
    return rows(("member", "what it is"), ((code(name), LOG[name]) for name in names))


def text() -> str:
    """The whole file."""
    packs = (("", Pack), *((f"{name}.", kind) for name, kind in PACK_TABLES), ("threshold.floors.", rules.Floor))
    cards = (
        ("", Card),
        ("detector.", DetectorCard),
        ("recogniser.", RecogniserCard),
        ("labeller.", LabellerCard),
        ("boxes.", BoxesCard),
        ("", AttributeCard),
        ("mesh.", MeshCard),
        ("sources.", Source),
    )
    known = ", ".join(map(code, Policies("general", "general").ids()))
    sections = {
        "Settings": "`settings.toml` in the data folder, overridden by variables. An unknown key or variable refuses to start.\n\n"
        + settings(),
        "Verbs": verb_rows()
        + "\n\nExit codes: "
        + "; ".join(f"{number} {meaning.replace(';', ',')}" for number, meaning in EXIT_CODES.items())
        + ".",
        "Operations": "Member by member: [reference-operations.md](reference-operations.md).\n\n" + operation_lists(),
        "Errors": error_rows(),
        "Headers": "Every answer carries `x-amzn-RequestId`, every error `x-amzn-ErrorType` as well. "
        "boto3 shows headers in `answer['ResponseMetadata']['HTTPHeaders']`.\n\n" + header_rows(),
        "Log": "`--log` writes a line of JSON for each request to stderr; warnings and errors are such lines too, with `exception` and "
        "`places` where something broke. [operate.md](operate.md#logs) shows one.\n\n" + log_rows(),
        "Metrics": "Of `--metrics-port`, beside those of the process (`process_...`). With `--workers` all but images, pixels and ledger "
        "entries have the label `worker` as well.\n\n" + metric_rows(),
        "Policy packs": f"Shipped: {known}. [policies.md](policies.md) explains them.\n\n"
        + key_rows(packs, POLICY)
        + "\n\nTheir values:\n\n"
        + policy_values(),
        "Words of policies": "The closed lists, so that records of two agencies can be compared.\n\n" + words(),
        "Roles": "One of the roles marked suffices.\n\n" + duty_rows(),
        "Model packs": "Keys of a card; [bring-your-own-model.md](bring-your-own-model.md) shows one.\n\n"
        + key_rows(cards, CARD)
        + "\n\n"
        + pack_cards(),
    }
    return HEAD + "".join(f"\n## {title}\n\n{body}\n" for title, body in sections.items())


def thresholds() -> str:
    """N -> the threshold to send, with what it misses under the default pack."""
    calibration = PackFolder(Path("/nonexistent")).calibration("yunet-sface")
    assert calibration is not None
    body = []
    for n in (100, 1_000, 10_000, 25_000, 100_000, 300_000, 1_000_000, 10_000_000):
        row = [f"{n:,}"]
        for exact in (similarity_for(0.01, n), similarity_at(-math.expm1(math.log1p(-0.003) / n))):
            similarity = math.ceil(10 * exact) / 10
            star = "*" if calibration.extrapolated(similarity) else ""
            row += [f"{similarity}{star}", f"{100 * calibration.fnmr(similarity):.1f} %{star}"]
        body.append(row)
    return rows(("N", "E <= 0.01: send", "missed", "FPIR <= 0.3 %: send", "missed"), body)


def migration(written: str) -> str:
    """The text of docs/migrate-from-aws.md with its table as it must be."""
    return re.sub(
        r"(<!-- thresholds[^>]*-->\n).*?(<!-- /thresholds -->)", lambda found: f"{found[1]}{thresholds()}\n{found[2]}", written, flags=re.S
    )


def files() -> dict[Path, str]:
    """Every file that this program writes, with the text it must have."""
    return {FILE: text(), MIGRATION: migration(MIGRATION.read_text(encoding="utf-8"))}


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        sys.exit(any(file.read_text(encoding="utf-8") != wanted for file, wanted in files().items()))
    for file, wanted in files().items():
        file.write_text(wanted, encoding="utf-8")
