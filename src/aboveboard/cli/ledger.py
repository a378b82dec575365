"""Verbs about the ledger: read it, sign checkpoints, hand it out, verify what was handed out."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from aboveboard.cli.common import DONE, NOTHING, Data, Json, OperatorName, advice, open_as, printable, show_json
from aboveboard.errors import BadRequest

ledger = typer.Typer(help="Read the record of what was done, and let others check it.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(metavar="DIR")]


@ledger.command("show")
def show(
    last: Annotated[int, typer.Option("--last", min=0, metavar="N", help="Only the last N entries; 0 for all.")] = 0,
    data: Data = None,
    operator: OperatorName = "",
) -> None:
    """Print the entries as they were hashed: one canonical JSON document per line."""
    app, session = open_as(data, operator)
    app.gate.authorise(session, "ledger.read")
    size, _ = app.ledger.checkpoint()
    for entry in app.ledger.entries(max(0, size - last) if last else 0):
        typer.echo(entry)


@ledger.command("root")
def root(data: Data = None, operator: OperatorName = "", as_json: Json = False) -> None:
    """Print the number of entries and the Merkle root over them (RFC 9162)."""
    app, session = open_as(data, operator)
    app.gate.authorise(session, "ledger.read")
    size, found = app.ledger.checkpoint()
    if as_json:
        show_json({"size": size, "root": found.hex()})
    else:
        typer.echo(f"size: {size}\nroot: {found.hex()}")


@ledger.command("key")
def key(data: Data = None, operator: OperatorName = "") -> None:
    """Print the verifier key of this deployment's checkpoints; outsiders should keep it."""
    app, session = open_as(data, operator)
    app.gate.authorise(session, "ledger.read")
    typer.echo(app.checkpoints.verifier_key)


@ledger.command("checkpoint")
def checkpoint(data: Data = None, operator: OperatorName = "", as_json: Json = False) -> None:
    """Sign the ledger as it is now, keep that in the folder of checkpoints, and print it."""
    from aboveboard.service import record

    app, session = open_as(data, operator)
    made = record.checkpoint(app, session)
    if as_json:
        show_json({"size": made.size, "root": made.root.hex(), "file": str(made.file), "note": made.note.decode()})
    else:
        typer.echo(made.note, nl=False)


@ledger.command("export")
def export(to: Folder, data: Data = None, operator: OperatorName = "", as_json: Json = False) -> None:
    """Write a bundle for an outsider: entries, checkpoints, policy packs, keys, manifest, and the program that verifies it offline."""
    from aboveboard.service import record

    app, session = open_as(data, operator)
    made = record.export(app, session, to)
    if as_json:
        show_json({"folder": str(to), "size": made.size, "root": made.root.hex()})
    else:
        typer.echo(
            f"{made.size:,} entries, root {made.root.hex()}, are in {printable(to)}; verify with: aboveboard ledger verify {printable(to)}"
        )


@ledger.command("verify")
def verify(
    folder: Folder,
    checkpoints: Annotated[Path | None, typer.Option("--checkpoints", metavar="DIR", help="Checkpoints that were kept elsewhere.")] = None,
    verifier_key: Annotated[
        str, typer.Option("--key", metavar="KEY", help="The verifier key that was kept elsewhere, or a file with it.")
    ] = "",
    recounted: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="A transparency report's report.json: count each number of it again.")
    ] = None,
    authorities: Annotated[
        Path | None, typer.Option("--authorities", metavar="FILE", help="Verifier keys, one a line, of who may sign policy packs.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Verify a bundle, with this program and not with the one inside it, and make each of its decisions again.

    Needs no deployment; exit code 1 where there is a fault.
    """
    from aboveboard.accountability import replay, verify_ledger

    try:
        found = Path(verifier_key).read_text().strip() if verifier_key and Path(verifier_key).is_file() else verifier_key
        report = verify_ledger.check(folder, checkpoints, found)
        for difference in _recount(folder, recounted, found) if recounted else ():
            report.tell("report", difference)
        made = replay.replay(folder, report, authorities.read_text().split() if authorities else ())
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise BadRequest(
            f"{folder} is no bundle that can be verified: {error}; make one with: {advice('ledger export DIR', None)}"
        ) from error
    if as_json:
        kinds = ("grade", "kind", "text")
        findings = [dict(zip(kinds, finding, strict=True)) for finding in report.findings]
        counts = {"size": report.size, "root": report.root, "checkpoints": report.checkpoints, "looks": report.looks, "key": report.key}
        show_json({"is_whole": not report.faults(), "findings": findings, **counts, "decisions": asdict(made)})
    else:
        typer.echo(f"decisions made again: {made.looks:,} to allow a look, {made.refusals:,} to refuse")
        typer.echo("\n".join(map(printable, report.lines())))
    raise typer.Exit(NOTHING if report.faults() else DONE)


def _recount(folder: Path, file: Path, key: str) -> list[str]:
    """Where a report differs from a bundle's entries."""
    from aboveboard.accountability import recount, verify_ledger

    text, packs = file.read_bytes(), recount.published(file.parent)
    with (folder / verify_ledger.ENTRIES).open("rb") as lines:
        entries = (line.removesuffix(b"\n") for line in lines)
        try:
            return recount.recount(entries, text, packs, key or (folder / verify_ledger.KEY).read_text())
        except (ValueError, LookupError, TypeError) as error:
            raise BadRequest(f"{file} is no report that can be counted again: {error}") from error


@ledger.command("prove")
def prove(
    seq: Annotated[int, typer.Argument(metavar="SEQ", min=0, help="The entry's number.")],
    against: Annotated[
        Path | None,
        typer.Option("--against", metavar="CHECKPOINT", help="A file with an older checkpoint: prove that the log begins with it."),
    ] = None,
    data: Data = None,
    operator: OperatorName = "",
) -> None:
    """Print a proof, as JSON, that an entry is in the ledger; it is checked with: python verify_ledger.py --proof FILE."""
    from aboveboard.service import record

    app, session = open_as(data, operator)
    typer.echo(json.dumps(record.prove(app, session, seq, against.read_bytes() if against else b""), ensure_ascii=False))
