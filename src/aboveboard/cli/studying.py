"""The verbs `study`: measure false matches and facial analysis the way published studies did, on any photographs and any endpoint."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aboveboard import settings as configuration
from aboveboard.cli.common import DONE, NOTHING, Data, Json, complain, out, show_json, stop
from aboveboard.cli.evaluating import AMAZON, agree, pace_of
from aboveboard.cli.laboratory import loaded, progressing
from aboveboard.errors import BadRequest

if TYPE_CHECKING:
    from aboveboard.evaluation.attributes import Asked
    from aboveboard.evaluation.protocol import Sample
    from aboveboard.evaluation.searching import Engine
    from aboveboard.evaluation.studies import Written

studies = typer.Typer(help="Studies of false matches and of facial analysis, on any photographs and any endpoint.", no_args_is_help=True)

Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the report, its tables and figures, and what was measured.")]
Published = Annotated[bool, typer.Option("--published", help="Recompute published studies from their counts; asks nobody.")]
Counts = Annotated[Path | None, typer.Option("--counts", metavar="CSV", help="The same from your own counts.")]
Url = Annotated[str, typer.Option("--endpoint", metavar="URL", help="Ask this Rekognition endpoint.")]
Aws = Annotated[bool, typer.Option("--aws", help="Ask Amazon Rekognition, with your own credentials; Amazon bills you.")]
Region = Annotated[str, typer.Option("--region", metavar="NAME", help="The endpoint's region; else your own default.")]
PerSecond = Annotated[
    float | None,
    typer.Option("--per-second", min=0, help="Most calls a second to the endpoint; 0 sets no limit.", show_default="5 at Amazon, else 0"),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask before a paid service is used.")]
Labels = Annotated[Path | None, typer.Option("--labels", metavar="CSV", help="Labels; the first column names the person or photograph.")]


@studies.command("false-matches")
def false_matches(
    folder: Out,
    probes: Annotated[Path | None, typer.Argument(metavar="PROBES", help="People to look up: person/photograph.jpg.")] = None,
    gallery: Annotated[Path | None, typer.Argument(metavar="GALLERY", help="Other people, among whom they are looked up.")] = None,
    labels: Labels = None,
    by: Annotated[list[str] | None, typer.Option("--by", metavar="COLUMN", help="Groups by this column, or several: a+b. Repeat.")] = None,
    at: Annotated[list[float] | None, typer.Option("--at", min=0, max=100, help="Thresholds.", show_default="80, 95, 99")] = None,
    policy: Annotated[str, typer.Option("--policy", metavar="NAME", help="The threshold of this policy pack, too.")] = "",
    errata: Annotated[
        list[str] | None,
        typer.Option("--errata", metavar="CSV", help="Label errors, beside those of LFW; 'none' leaves these out. Repeat."),
    ] = None,
    published: Published = False,
    counts: Counts = None,
    no_pictures: Annotated[bool, typer.Option("--no-pictures", help="Keep no photographs of false matches.")] = False,
    url: Url = "",
    aws: Aws = False,
    region: Region = "",
    per_second: PerSecond = None,
    yes: Yes = False,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """How often people who are not in a gallery bring up somebody in it, and how many enrolled people each threshold misses.

    In process with the pack in use, or at any endpoint. The first photograph of each person is looked up, the second one enrolled.
    """
    from aboveboard.evaluation import studies as study
    from aboveboard.evaluation.searching import protocol_of

    study.check_folder(folder)
    if published or counts:
        return _show(study.make("false-matches-published", {}, _counts(counts, "false-matches"), folder), as_json)
    if probes is None or gallery is None:
        raise BadRequest("name a folder of people to look up and a folder of other people, or recompute studies with --published")
    who = protocol_of(_people(probes, errata), _people(gallery, errata))
    known = _labels(labels, by or [])
    unknown = sorted({sample.subject for sample in who.probes} - set(known)) if labels else []
    if unknown:
        complain(f"{len(unknown)} people have no labels, {unknown[0]} the first of them; they make a group of their own")
    parameters = {
        "thresholds": _thresholds(at or [80.0, 95.0, 99.0], policy, data),
        "by": by or [],
        "data": {"probes": _data(probes, [*who.probes, *who.mates.values()]), "gallery": _data(gallery, who.gallery)},
        "left_out": who.left_out,
    }
    engine = _engine(folder, url, aws, region, per_second, yes, data)
    with progressing("photographs") as progress:
        made = study.false_match_study(engine, who, known, parameters, folder, progress, not no_pictures)
    return _show(made, as_json)


@studies.command("facial-analysis")
def facial_analysis(
    folder: Out,
    photographs: Annotated[Path | None, typer.Argument(metavar="FOLDER", help="Photographs of one person each.")] = None,
    labels: Labels = None,
    truth: Annotated[str, typer.Option("--truth", metavar="COLUMN", help="The column with the gender.")] = "gender",
    by: Annotated[str, typer.Option("--by", metavar="COLUMN", help="Groups by this column, or several: race+gender.")] = "gender",
    published: Published = False,
    counts: Counts = None,
    url: Url = "",
    aws: Aws = False,
    region: Region = "",
    per_second: PerSecond = None,
    yes: Yes = False,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """How often the wrong gender is said, by group, as Gender Shades measured it. No similarity threshold applies to it.

    In process with the packs in use, or at any endpoint.
    """
    from aboveboard.evaluation import attributes
    from aboveboard.evaluation import studies as study

    study.check_folder(folder)
    if published or counts:
        return _show(study.make("facial-analysis", {}, _counts(counts, "facial-analysis"), folder), as_json)
    if photographs is None or labels is None:
        raise BadRequest("name a folder of photographs and --labels CSV, or recompute studies with --published")
    faces = attributes.labelled(photographs, _labels(labels, [truth, by]), truth)
    about, is_remote = attributes.data_of(photographs.name, faces), bool(url or aws)
    if not is_remote and (region or yes or per_second is not None):
        raise BadRequest("--region, --per-second and --yes are about an endpoint; name one with --endpoint URL or --aws")
    asked = attributes.AtEndpoint(*_client(url, aws, region)) if is_remote else _attribute_pack(data)
    pace = pace_of(url, per_second) if is_remote else 0.0
    with closing(attributes.open_journal(folder / study.ANSWERED, asked.about, about)) as journal:
        if is_remote:
            agree(asked.about["endpoint"], url, len(faces) - len(journal.answers), len(journal.answers), pace, yes)
        with progressing("photographs") as progress:
            inputs = attributes.ask(asked, faces, journal, pace, progress)
    return _show(study.make("facial-analysis", {"by": by, "source": asked.about, "data": about}, inputs, folder), as_json)


@studies.command("verify")
def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a study or an evaluation.")], as_json: Json = False
) -> None:
    """Compute every number, table and figure of a study or an evaluation again from what was measured.

    Exit code 1 where something differs.
    """
    from aboveboard.evaluation import outcome
    from aboveboard.evaluation import studies as study
    from aboveboard.evaluation.tables import RUN

    compared, faults = outcome.verify(folder) if (folder / RUN).is_file() else study.verify(folder)
    if as_json:
        show_json({"folder": str(folder), "compared": compared, "faults": faults})
    else:
        for fault in faults:
            complain(fault)
        out().print(f"{compared} files compared: " + (f"{len(faults)} differ" if faults else "each follows from what was measured"))
    raise typer.Exit(NOTHING if faults else DONE)


def _people(folder: Path, errata: list[str] | None) -> list[Sample]:
    from aboveboard.cli.laboratory import errata_named
    from aboveboard.evaluation.protocol import correct, read_folder

    samples, own = read_folder(folder), errata or []
    for named in [*(() if "none" in own else ("",)), *own]:
        samples, _ = correct(samples, errata_named(named))
    return samples


def _labels(file: Path | None, by: list[str]) -> dict[str, dict[str, str]]:
    from aboveboard.evaluation.findings import labels_of

    if file is None:
        if by:
            raise BadRequest("--by needs --labels CSV with that column")
        return {}
    return labels_of(_read(file), file.name, by)


def _counts(file: Path | None, study: str) -> dict[str, bytes]:
    from aboveboard.evaluation.findings import shipped

    return {"counts.csv": _read(file) if file else shipped(study)}


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise BadRequest(f"{file} cannot be read: {error.strerror}") from error


def _thresholds(at: list[float], policy: str, data: Path | None) -> list[dict[str, Any]]:
    """The thresholds of a study, rising; without one comes last, which is also what a pack means that sets none."""
    from aboveboard.accountability.catalogue import Policies

    origins = dict.fromkeys(at, "request")
    if policy:
        rule = Policies(policy, policy, configuration.load(data).policies).get(policy).threshold
        origins |= {value: "policy" for value in (max(rule.absent, rule.floor),) if value}
    rising = [{"similarity": similarity, "origin": origins[similarity]} for similarity in sorted(origins)]
    return [*rising, {"similarity": None, "origin": "none"}]


def _data(folder: Path, samples: Any) -> dict[str, Any]:
    from aboveboard.evaluation.protocol import content_hash

    return {"name": folder.name, "photographs": len(samples), "sha256": content_hash(samples)}


def _engine(folder: Path, url: str, aws: bool, region: str, per_second: float | None, yes: bool, data: Path | None) -> Engine:
    from aboveboard.evaluation import searching
    from aboveboard.evaluation.studies import ANSWERED

    if not url and not aws:
        return searching.InProcess(loaded(data)[1])
    client, name = _client(url, aws, region)
    pace = pace_of(url, per_second)
    return searching.AtEndpoint(client, name, folder / ANSWERED, pace, lambda left, answered: agree(name, url, left, answered, pace, yes))


def _attribute_pack(data: Path | None) -> Asked:
    from aboveboard.evaluation import attributes
    from aboveboard.vision.packs import PackFolder

    settings, models = loaded(data)
    packs = PackFolder(settings.models)
    if not settings.attribute_pack or not packs.is_installed(settings.attribute_pack):
        raise BadRequest(
            f"no attribute pack is installed ({settings.attribute_pack or 'the setting attribute_pack is empty'}); run: aboveboard models "
            "install face-attributes, or name an endpoint: --endpoint URL or --aws"
        )
    return attributes.InProcess(models, packs.load_attributes(settings.attribute_pack), packs.attribute_card(settings.attribute_pack))


def _client(url: str, aws: bool, region: str) -> tuple[Any, str]:
    from aboveboard.evaluation import endpoint

    if bool(url) == aws:
        raise BadRequest("name the endpoint to ask: --endpoint URL, or --aws for Amazon's own")
    return endpoint.connect(url or None, region or None), f"{url or AMAZON}" + (f" ({region})" if region else "")


def _show(made: Written, as_json: bool) -> None:
    from aboveboard.reporting.page import PAGE

    found = made.findings
    if as_json:
        tables = {table.name: table.document()["rows"] for table in found.page.tables}
        show_json({"folder": str(made.folder), "valid": not found.invalid, "invalid_because": list(found.invalid), "tables": tables})
    else:
        for line in found.summary:
            out().print(line)
        if any("]*" in line for line in found.summary):
            out().print("* fewer than 30 errors: insufficient to say how it differs from another rate", style="dim")
        out().print(f"the report is {made.folder / PAGE}", style="dim")
    if found.invalid:
        stop(f"this run is invalid: {'; '.join(found.invalid)}", NOTHING)
