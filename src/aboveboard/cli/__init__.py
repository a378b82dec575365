"""The command line: the same services and the same gate as the server's, as a named operator.

What loads models or the database (bootstrap, services, gate, evaluation, the front door, drawing) is imported inside the verbs, its types
under TYPE_CHECKING: help and usage errors take half a second that way, else two. A test holds it.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from aboveboard import __version__, memory
from aboveboard.cli import (
    casework,
    checking,
    common,
    demo,
    deployment,
    detecting,
    distribution,
    evaluating,
    indexing,
    keeping,
    labels,
    laboratory,
    ledger,
    pictures,
    policy,
    reindexing,
    report,
    serve,
    standing,
    studying,
)

_EPILOG = "Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in common.EXIT_CODES.items()) + "."

app = typer.Typer(
    cls=common.Verbs,
    help="Self-hosted face search on the Amazon Rekognition API, with its cards on the table.",
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("demo")(demo.demo)
app.command("serve")(serve.serve)
app.command("detect")(detecting.detect)
app.command("labels")(labels.labels)
app.command("compare")(pictures.compare)
app.command("index")(indexing.index)
app.command("search")(pictures.search)
app.command("calibrate")(laboratory.calibrate)
app.add_typer(evaluating.evaluations, name="evaluate")
app.add_typer(studying.studies, name="study")
deployment.collections.command("check")(checking.check)
deployment.collections.command("scores")(distribution.scores)
deployment.collections.command("reindex")(reindexing.reindex)
app.command("backup")(keeping.backup)
app.command("restore")(keeping.restore)
app.command("doctor")(keeping.doctor)
app.add_typer(deployment.collections, name="collection")
deployment.operators.command("certify")(standing.certify)
deployment.operators.command("uncertify")(standing.uncertify)
app.add_typer(deployment.operators, name="operator")
app.add_typer(standing.suspensions, name="suspension")
app.add_typer(deployment.models, name="models")
app.add_typer(ledger.ledger, name="ledger")
app.add_typer(report.reports, name="report")
app.add_typer(policy.policies, name="policy")
app.add_typer(casework.cases, name="case")


def _version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"aboveboard {__version__}")
        raise typer.Exit


@app.callback()
def _top(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False) -> None:
    pass


def main() -> None:
    """The entry point of the command `aboveboard`."""
    if sys.argv[1:2] == ["serve"]:
        memory.overwrite_freed()
    app(prog_name="aboveboard")
