"""Verbs about cases: open one, work in it from any AWS SDK, see its leads, hand its packet to the defence."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from aboveboard.cli.common import (
    DONE,
    NOTHING,
    Data,
    Json,
    OperatorName,
    advice,
    columns,
    number,
    open_as,
    out,
    printable,
    show_json,
)
from aboveboard.cli.keeping import NO_MODELS
from aboveboard.errors import BadRequest

if TYPE_CHECKING:
    from aboveboard.accountability.cases import Case, Declared
    from aboveboard.service.cases import LeadsOfLook

cases = typer.Typer(help="Open and close cases, and work in them.", no_args_is_help=True)

Number = Annotated[str, typer.Argument(metavar="NUMBER", help="The case's number, the agency's own.")]
ProbeKind = Annotated[
    str, typer.Option("--probe", metavar="KIND", help="What the probe is: photograph, video_still, sketch, look_alike or synthetic.")
]
ProbeEdits = Annotated[
    list[str] | None,
    typer.Option(
        "--edit",
        metavar="EDIT",
        help="How the probe was edited: crop, rotation, exposure, mirror, denoising, upscaling, pose_correction, composite or generated; "
        "may be repeated.",
    ),
]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; kept beside the case, in the record as a commitment alone.")]
_FORM = "KIND:REFERENCE:REQUESTED[:granted|refused:DECIDED]"
LEADS_WARNING = (
    "below the threshold: leads, not candidates and not identifications. Chance alone brings as many as E says; "
    "nobody is to be acted against for being on this list"
)


@cases.command("open")
def open_case(
    case: Number,
    purpose: Annotated[str, typer.Option("--purpose", metavar="P", help="What its searches are for: a word of the list in policies.md.")],
    offence: Annotated[str, typer.Option("--offence", metavar="F", help="The offence, where the purpose is about one.")] = "",
    document: Annotated[
        list[str] | None,
        typer.Option("--document", metavar=_FORM, help="An authority document: written_request, court_order or warrant; may be repeated."),
    ] = None,
    until: Annotated[str, typer.Option("--until", metavar="DATE", help="When the case ends; without it in 30 days.")] = "",
    emergency: Annotated[bool, typer.Option("--emergency", help="There is an emergency, from now on: documents may follow.")] = False,
    collection: Annotated[
        str, typer.Option("--collection", "-c", metavar="C", help="Hold it against this collection's policy, not the deployment's.")
    ] = "",
    data: Data = None,
    operator: OperatorName = "",
    as_json: Json = False,
) -> None:
    """Open a case of your own. A purpose or an offence that the policy would refuse at each search is refused here."""
    app, session = open_as(data, operator, NO_MODELS)
    from aboveboard.accountability.cases import read_document
    from aboveboard.service import cases as service

    documents = [read_document(text) for text in document or []]
    made = service.open_case(
        app,
        session,
        case,
        purpose,
        offence=offence,
        documents=documents,
        until=until,
        is_emergency=emergency,
        collection=collection,
    )
    _show(made, as_json)
    if not as_json:
        name = f"case credentials {shlex.quote(made.number)} --operator {shlex.quote(made.operator)}"
        out().print(
            f"work in it with --case, or from any AWS SDK with the credential_process: {advice(name, data)}", style="dim", soft_wrap=True
        )


@cases.command("document")
def add_document(
    case: Number,
    document: Annotated[str, typer.Argument(metavar=_FORM, help="The document; the same kind and reference again says what became of it.")],
    data: Data = None,
    operator: OperatorName = "",
    as_json: Json = False,
) -> None:
    """Enter an authority document of a case of your own, or what was decided about it."""
    app, session = open_as(data, operator, NO_MODELS)
    from aboveboard.accountability.cases import read_document
    from aboveboard.service import cases as service

    _show(service.add_document(app, session, case, read_document(document)), as_json)


@cases.command("close")
def close(case: Number, data: Data = None, operator: OperatorName = "", as_json: Json = False) -> None:
    """Close a case of your own: searches in it are refused from the next request on."""
    app, session = open_as(data, operator, NO_MODELS)
    from aboveboard.service import cases as service

    _show(service.close(app, session, case), as_json)


@cases.command("show")
def show(case: Number, data: Data = None, operator: OperatorName = "", as_json: Json = False) -> None:
    """Show a case: yours, or as admin, reviewer or auditor anybody's."""
    app, session = open_as(data, operator, NO_MODELS)
    from aboveboard.service import cases as service

    found = service.read(app, session, case)
    looks, keys, reasons = len(app.cases.looks(found)), app.cases.keys(found), app.cases.reasons(found)
    more = {"looks": looks, "keys": keys, "reasons": [{"at": at, "text": text} for at, text in reasons]}
    _show(found, as_json, more)


@cases.command("list")
def list_cases(data: Data = None, operator: OperatorName = "", as_json: Json = False) -> None:
    """List your cases, or as admin, reviewer or auditor all. --json prints one line each."""
    app, session = open_as(data, operator, NO_MODELS)
    from aboveboard.service import cases as service

    table = columns("case", "purpose", "offence", "operator", "opened", "ends", "looks")
    for case in service.all_cases(app, session):
        looks = len(app.cases.looks(case))
        if as_json:
            show_json({**_document(case), "looks": looks})
        ends = Text(f"closed {case.closed_at[:10]}", "yellow") if case.closed_at else Text(case.expires_at[:10])
        table.add_row(printable(case.number), case.purpose, case.offence, case.operator, case.opened_at[:10], ends, str(looks))
    if not as_json:
        out().print(table)


@cases.command("credentials")
def credentials(
    case: Number,
    probe: ProbeKind = "photograph",
    edit: ProbeEdits = None,
    reason: Reason = "",
    seconds: Annotated[int, typer.Option("--seconds", metavar="N", help="How long the key works, 60 to 43200.")] = 3600,
    data: Data = None,
    operator: OperatorName = "",
) -> None:
    """Print a key that works in a case of your own, as AWS's SDKs want it from a `credential_process`.

    Every search with it is the case's, and declares the probe, its edits and the reason. SDKs ask for another before it ends.
    """
    app, session = open_as(data, operator, NO_MODELS)
    from aboveboard.service import cases as service

    key, ends = service.credentials(app, session, case, declared(probe, edit, reason), seconds)
    show_json({"Version": 1, "AccessKeyId": key.id, "SecretAccessKey": key.secret, "Expiration": ends})


@cases.command("leads")
def leads(
    case: Number,
    below_threshold: Annotated[
        bool, typer.Option("--below-threshold", help="Say that you want what lies below the threshold; must be given.")
    ] = False,
    reason: Reason = "",
    data: Data = None,
    operator: OperatorName = "",
    as_json: Json = False,
) -> None:
    """Show what the searches of a case of your own found below their threshold, for a reason, which is recorded first.

    Exit code 0 where there is a lead, 1 where there is none.
    """
    if not below_threshold:
        raise BadRequest("leads lie below the threshold: say that you want them with --below-threshold, and why with --reason")
    app, session = open_as(data, operator, NO_MODELS)
    from aboveboard.service import cases as service

    found = service.leads(app, session, case, reason)
    for one in found.looks:
        _show_leads(one, as_json)
    if found.left_out:
        typer.echo(f"looks left out, because they would be refused now: {found.left_out}; the ledger says by which rules", err=True)
    if not found.looks and not as_json:
        typer.echo("no search of this case found anybody between the policy's floor for leads and its threshold")
    raise typer.Exit(DONE if found.looks else NOTHING)


@cases.command("packet")
def packet(
    case: Number,
    to: Annotated[Path, typer.Option("--out", metavar="DIR", help="A new or empty folder.")],
    face: Annotated[
        str, typer.Option("--face", metavar="FACE_ID", help="The face whose owner this is for: he is named, everybody else is not.")
    ] = "",
    data: Data = None,
    operator: OperatorName = "",
    as_json: Json = False,
) -> None:
    """Write what the defence gets of a case: every search, what it rested on and found, with proofs that it was recorded so."""
    app, session = open_as(data, operator, NO_MODELS)
    from aboveboard.service import packet as service

    made = service.write(app, session, case, to, face)
    document = {"folder": str(to), "looks": made.looks, "entries": made.entries, "size": made.size, "root": made.root.hex()}
    if as_json:
        show_json(document)
        return
    out().print(f"{to} holds the packet of {made.looks} looks, and proofs of {made.entries} entries; read packet.html", soft_wrap=True)
    out().print(f"verify it with: {advice(f'case verify {shlex.quote(str(to))}', None)}", style="dim", soft_wrap=True)


@cases.command("verify")
def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A packet.")],
    verifier_key: Annotated[
        str, typer.Option("--key", metavar="KEY", help="The verifier key that was kept elsewhere, or a file with it.")
    ] = "",
    photograph: Annotated[
        Path | None, typer.Option("--photograph", metavar="FILE", help="Say in which looks this very file was searched for.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Verify a packet: each entry is in the ledger, and the packet says what they say. Needs no deployment; exit code 1 for a fault."""
    from aboveboard.service import packet as service

    key = Path(verifier_key).read_text() if verifier_key and Path(verifier_key).is_file() else verifier_key
    found = service.verify(folder, key.strip(), photograph.read_bytes() if photograph else None)
    if as_json:
        show_json(
            {
                "is_whole": not found.faults,
                "faults": found.faults,
                "notes": found.notes,
                "entries": found.entries,
                "photograph": found.photograph,
            }
        )
    else:
        for fault in found.faults:
            typer.echo(printable(f"fault: {fault}"))
        for note in found.notes:
            typer.echo(f"note: {note}")
        if photograph:
            typer.echo(f"the photograph is {' and '.join(found.photograph) or 'no probe of this packet'}")
        if not key:
            typer.echo("note: checked with the packet's own key; compare it with one that was kept elsewhere, or give that with --key")
        typer.echo("FAULTY: see above" if found.faults else f"whole: {found.entries} entries are in the ledger, and the packet says so")
    raise typer.Exit(NOTHING if found.faults else DONE)


def declared(probe: str, edits: Sequence[str] | None, reason: str) -> Declared:
    """What looks declare; raises BadRequest for a word that is not in its list."""
    from aboveboard import strict
    from aboveboard.accountability import cases as core

    document = {"probe": probe, "edits": list(edits or []), "reason": reason}
    return strict.table(core.Declared, document, "what is declared")


def _document(case: Case) -> dict[str, Any]:
    return {
        "case": case.number,
        "handle": case.handle,
        "purpose": case.purpose,
        "offence": case.offence or None,
        "operator": case.operator,
        "opened_at": case.opened_at,
        "expires_at": case.expires_at,
        "closed_at": case.closed_at or None,
        "emergency_at": case.emergency_at or None,
        "comparisons": case.comparisons,
        "documents": [
            {
                "kind": one.facts.kind,
                "reference": one.reference,
                "requested_at": one.facts.requested_at,
                "decided_at": one.facts.decided_at,
                "granted": one.facts.granted,
            }
            for one in case.documents
        ],
    }


def _show(case: Case, as_json: bool, more: Mapping[str, Any] | None = None) -> None:
    document = {**_document(case), **(more or {})}
    if as_json:
        show_json(document)
        return
    for key, value in document.items():
        if isinstance(value, list):
            for one in value:
                text = ", ".join(f"{name} {part}" for name, part in one.items() if part is not None) if isinstance(one, dict) else one
                typer.echo(f"{key.rstrip('s').replace('_', ' ')}: {printable(text)}")
        elif value is not None:
            typer.echo(f"{key.replace('_', ' ')}: {printable(str(value))}")


def _show_leads(found: LeadsOfLook, as_json: bool) -> None:
    if as_json:
        from dataclasses import asdict

        show_json({"list": "below_threshold", **asdict(found)})
        return
    console = out()
    console.print(f"look {found.look}, {found.time}, {found.duty}{f' in {found.collection}' if found.collection else ''}", style="bold")
    console.print(f"audit id {found.audit_id}", style="dim")
    console.print(LEADS_WARNING, style="yellow")
    band = f"from {found.floor:g} up to, without, the threshold of {found.threshold:g}"
    expected = f"{found.policy}: {band}; N = {found.gallery_size:,}: E = {number(found.expected_false)} false leads by chance"
    console.print(expected)
    table = columns("lead", "similarity", "FMR", "E = N x FMR", "who", "FaceId" if found.duty != "compare" else "face in the target")
    for one in found.leads:
        who = "withheld until reviewed" if found.identities_withheld else one.name or ""
        cut = f"{math.floor(one.similarity * 100) / 100:.2f}"
        table.add_row(str(one.rank), cut, number(one.fmr), number(one.expected_false), printable(who), one.reference)
    console.print(table)
