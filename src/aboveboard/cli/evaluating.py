"""The verb `evaluate MANIFEST`: measure this recogniser, or any Rekognition endpoint, by a protocol as CSV; compute tables again."""

from __future__ import annotations

import datetime
import hashlib
import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer
from typer.core import TyperGroup

from aboveboard.cli.common import INTERRUPTED, NOTHING, Data, Json, columns, number, out, percent, show_json, stop
from aboveboard.cli.laboratory import loaded, progressing, verification
from aboveboard.errors import BadRequest

if TYPE_CHECKING:
    from aboveboard.evaluation.manifest import Manifest
    from aboveboard.evaluation.scores import Scores
    from aboveboard.evaluation.tables import Row, Tables

AMAZON = "Amazon Rekognition"
_AMAZONS = (
    ".amazonaws.com",
    ".amazonaws.com.cn",
    ".amazonaws.eu",
    ".api.aws",
    ".api.amazonwebservices.com.cn",
    ".api.amazonwebservices.eu",
)
"""Ends of the names of Amazon's hosts, dual-stack ones too, as botocore's partitions.json has them; closed regions are left out."""


class Evaluate(TyperGroup):
    """`evaluate MANIFEST` is `evaluate run MANIFEST`: what is no verb of this group is what `run` is to work on."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["run", *args]
        return super().parse_args(ctx, args)


evaluations = typer.Typer(cls=Evaluate, help="Measure the models, or an endpoint, on labelled photographs.", no_args_is_help=True)
evaluations.command("verification")(verification)


@evaluations.command("run")
def run(
    manifest: Annotated[
        Path,
        typer.Argument(metavar="MANIFEST", help="Folder with enrolled.csv, probed.csv, pairs.csv; or a score file, to compute its tables."),
    ],
    folder: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the score file, the tables and run.json.")],
    url: Annotated[str, typer.Option("--endpoint", metavar="URL", help="Ask this Rekognition endpoint instead of the pack in use.")] = "",
    aws: Annotated[bool, typer.Option("--aws", help="Ask Amazon Rekognition, with your own credentials; Amazon bills you.")] = False,
    region: Annotated[str, typer.Option("--region", metavar="NAME", help="The endpoint's region; else your own default.")] = "",
    threshold: Annotated[float, typer.Option("--threshold", min=0, max=100, help="Sent to the endpoint; 0 asks for everything.")] = 0.0,
    per_second: Annotated[
        float | None, typer.Option("--per-second", min=0, help="Most calls a second; 0 sets no limit.", show_default="5 to Amazon, else 0")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before a paid service is used.")] = False,
    draws: Annotated[int, typer.Option("--draws", min=100, help="Resamplings of people for the intervals.")] = 1000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the resampling: the same seed gives the same tables.")] = 0,
    tables_only: Annotated[bool, typer.Option("--tables-only", help="Neither page nor figures: quicker.")] = False,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Measure verification and identification by a protocol as CSV; the word `run` may be left out.

    In process with the pack in use, or at any Rekognition endpoint. What was stopped goes on when the same line is typed again.
    """
    from aboveboard.evaluation import manifest as manifests
    from aboveboard.evaluation import measure, outcome, tables
    from aboveboard.evaluation import scores as score_files
    from aboveboard.reporting import page
    from aboveboard.reporting.tables import json_of

    if not math.isfinite(threshold + (per_second or 0)):
        raise BadRequest("--threshold and --per-second must be numbers")
    if url and aws:
        raise BadRequest("--endpoint and --aws exclude each other; name one of them")
    if manifest.is_dir():
        protocol = manifests.read(manifest)
        scores = _asked(protocol, folder, url, region, threshold, per_second, yes) if url or aws else _in_process(protocol, folder, data)
        score_files.save(scores, folder / tables.SCORES)
        measure.forget(folder)
        file = folder / tables.SCORES
    elif url or aws:
        raise BadRequest(f"{manifest} is no folder with a manifest; a score file needs no endpoint")
    else:
        file, scores = manifest, score_files.load(manifest)
    made = tables.tables(scores, draws, seed)
    origin = _origin(scores, file, draws, seed)
    page.write({**outcome.files(made, origin, with_page=not tables_only), tables.RUN: json_of(origin)}, folder)
    if as_json:
        show_json({"run": origin, "tables": made})
    else:
        _show(scores, made, folder)
    if not scores.is_valid:
        stop(f"this run is invalid, its threshold is unknown: {scores.about['threshold']['why']}", NOTHING)


def _in_process(protocol: Manifest, folder: Path, data: Path | None) -> Scores:
    from aboveboard.evaluation import measure

    _, models = loaded(data)
    try:
        with closing(measure.open_journal(folder, protocol, models)) as journal, progressing("templates") as progress:
            return measure.in_process(protocol, models, progress, journal)
    except KeyboardInterrupt:
        stop("stopped; run the same line again to go on", INTERRUPTED)


def _asked(protocol: Manifest, folder: Path, url: str, region: str, threshold: float, per_second: float | None, yes: bool) -> Scores:
    """The score file of an endpoint; before a paid one the price is told and agreed to."""
    from aboveboard.evaluation import endpoint

    name = f"{url or AMAZON}" + (f" ({region})" if region else "")
    pace = pace_of(url, per_second)
    asked = endpoint.Endpoint(endpoint.connect(url or None, region or None), name, protocol, threshold, pace)
    total = len(endpoint.questions(protocol))
    with closing(asked.journal(folder)) as journal:
        agree(name, url, total - len(journal.answers), len(journal.answers), pace, yes)
        try:
            with progressing("answers") as progress:
                return asked.measure(journal, progress)
        except KeyboardInterrupt:
            kept = f"{len(journal.answers):,} answers are kept"
            stop(f"stopped; {kept}, and so is the endpoint's collection: run the same line again to go on", INTERRUPTED)


def is_paid(url: str) -> bool:
    """Whether an endpoint, or Amazon itself for none, sends a bill."""
    return not url or f".{urlsplit(url).hostname or ''}".rstrip(".").endswith(_AMAZONS)


def pace_of(url: str, per_second: float | None) -> float:
    """Calls a second to an endpoint: as many as were wanted, else Amazon's own limit there and any number elsewhere (0)."""
    from aboveboard.evaluation.endpoint import AMAZONS_PACE

    return AMAZONS_PACE * is_paid(url) if per_second is None else per_second


def agree(name: str, url: str, left: int, answered: int, per_second: float, yes: bool) -> None:
    """Say how many questions are `left` for an endpoint; before a paid one tell the price and ask, or raise BadRequest."""
    from aboveboard.evaluation.endpoint import USD_PER_1000

    if not left:
        return
    price = f", some {left * USD_PER_1000 / 1000:,.2f} US dollars at {USD_PER_1000:g} per 1,000" if is_paid(url) else ""
    seconds = left / per_second if per_second else 0
    time = "" if not seconds else f", {seconds / 60:,.0f} minutes or more" if seconds > 120 else f", {seconds:,.0f} s or more"
    typer.echo(f"{name} is asked {left:,} questions, {answered:,} are answered{price}{time}", err=True)
    if is_paid(url) and not yes:
        if not sys.stdin.isatty():
            raise BadRequest("this costs money and nobody is there to agree; add --yes")
        typer.confirm("Amazon bills you for them. Go on?", abort=True, err=True)


def _origin(scores: Scores, file: Path, draws: int, seed: int) -> dict[str, Any]:
    """The run manifest: what the tables were computed from, with what, and whether they mean anything."""
    return {
        "valid": scores.is_valid,
        **{name: value for name, value in scores.about.items() if name != "failures_to_enrol"},
        "scores": {"file": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()},
        "tables": {"draws": draws, "seed": seed, **{name: metadata.version(name) for name in ("numpy", "scipy", "matplotlib")}},
        "aboveboard": metadata.version("aboveboard"),
        "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
    }


def _show(scores: Scores, made: Tables, folder: Path) -> None:
    from aboveboard.evaluation import tables

    console = out()
    for row in made["failures"]:
        if not row["column"]:
            console.print(
                f"{row['role']}: {row['failure_to_enrol_trials']:,} photographs, {row['failure_to_enrol_errors']:,} failures to enrol"
            )
    if made.get("verification"):
        console.print(f"\nverification, {scores.about['scale']}")
        console.print(_table(made["verification"], ("set_for", "threshold"), ("fmr", "fnmr")))
    if made.get("identification"):
        console.print(f"identification in a gallery of {made['identification'][0]['gallery']:,}")
        console.print(_table(made["identification"], ("set_for", "threshold"), ("fpir", "fnir")))
    for column, count in tables.left_out(scores).items():
        console.print(f"column {column} makes no groups: values in it: {count:,}, 2 to {tables.MOST_GROUPS} would")
    console.print(
        "in brackets the errors; below each rate its 95 % interval; * fewer than 30 errors: too few to tell it from another rate",
        style="dim",
    )
    console.print(f"everything is in {folder}: report.html, tables, figures, scores", style="dim")


def _table(rows: Sequence[Row], names: Sequence[str], rates: Sequence[str]) -> Any:
    trials = {rate: next((row[f"{rate}_trials"] for row in rows if row[f"{rate}_trials"]), 0) for rate in rates}
    table = columns(*(name.replace("_", " ") for name in names), *(f"{rate.upper()} of {trials[rate]:,}" for rate in rates))
    for row in rows:
        fixed = [f"{row[name]:.4f}" if isinstance(row[name], float) else "none" if row[name] is None else str(row[name]) for name in names]
        table.add_row(*fixed, *(_cell(row, rate) for rate in rates))
    return table


def _cell(row: Mapping[str, Any], rate: str) -> str:
    """A rate as people read it: share and errors, and below them the interval."""
    if row[rate] is None:
        return str(row[f"{rate}_interval"])
    few, show = "*" if "insufficient" in row[f"{rate}_interval"] else "", number if rate == "fmr" else percent
    return f"{show(row[rate])} ({row[f'{rate}_errors']:,}{few})\n{show(row[f'{rate}_low'])} to {show(row[f'{rate}_high'])}"
