"""Verbs of the laboratory: measure a pack on labelled photographs, and calibrate it. They never touch an operational gallery."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aboveboard import settings as configuration
from aboveboard.biometrics.calibration import Calibration, fmr_at
from aboveboard.cli.common import Data, Json, check_installed, columns, counted, number, out, percent, show_json
from aboveboard.cli.evidence import rounded
from aboveboard.errors import BadRequest, Unavailable
from aboveboard.vision import registry

if TYPE_CHECKING:
    from aboveboard.evaluation.protocol import Errata
    from aboveboard.vision.packs import Models

_SHOWN = (80.0, 95.0, 99.0)
"""Similarities that a new calibration is shown at."""

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Labelled photographs: a folder for each person, person/photograph.jpg.")]
ErrataFile = Annotated[
    str,
    typer.Option("--errata", metavar="CSV", help="Known label errors, or 'none'.", show_default="those of LFW"),
]


def verification(
    folder: Folder,
    file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write everything that was measured; - for stdout.")] = None,
    errata: ErrataFile = "",
    data: Data = None,
) -> None:
    """Compare every two photographs and print the error rates, with the labels as they are and corrected."""
    from aboveboard.evaluation import run

    _, models = loaded(data)
    known = errata_named(errata)
    with progressing("templates") as progress:
        result = run.verification(folder, models, known, progress=progress)
    text = json.dumps(result, indent=1)
    if str(file) == "-":
        typer.echo(text)
        return
    if file is not None:
        _write(file, text)
    _show_verification(result)
    if file is not None:
        out().print(f"everything is in {file}", style="dim")


def calibrate(
    photographs: Annotated[
        Path,
        typer.Argument(metavar="FOLDER|SCORES.npz", help="Labelled photographs; or what collection scores wrote of a gallery of yours."),
    ],
    file: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write it here instead of into the pack's folder.")] = None,
    errata: ErrataFile = "",
    data_set: Annotated[str, typer.Option("--data-set", metavar="NAME", help="The photographs' name; else the folder's.")] = "",
    check: Annotated[
        Path | None,
        typer.Option("--check", metavar="FOLDER", help="Labelled photographs of other people; the intervals are widened to hold them too."),
    ] = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Make the calibration of the pack in use: what its scores mean, measured on labelled photographs or on a gallery of your own.

    Without --out it is put into the pack's folder and holds from the next start on.
    """
    from aboveboard.evaluation import calibrating, own_gallery

    settings, models = loaded(data)
    if photographs.suffix == ".npz" and (errata or check):
        raise BadRequest("--errata and --check are about photographs; a gallery's scores take neither")
    with progressing("calibrating") as progress:
        if photographs.suffix == ".npz":
            document = own_gallery.calibrate_on(own_gallery.GalleryFile.read(photographs), models, data_set, progress=progress)
        else:
            known = errata_named(errata)
            document = calibrating.calibrate(photographs, models, known, data_set, progress=progress, check=check)
    text = json.dumps(document, indent=1) + "\n"
    try:
        calibration = Calibration.from_json(text)
    except ValueError as error:
        raise BadRequest(f"the photographs make no calibration: {error}") from error
    target = file or settings.models / models.card.id / "calibration.json"
    _write(target, text)
    if as_json:
        show_json(
            {
                **_calibration_json(calibration, document["mated_subjects"]),
                "mated": document["mated"],
                "mated_subjects": document["mated_subjects"],
                "subjects": document["subjects"],
                "photographs": document["photographs"],
                "file": str(target),
            }
        )
        return
    console = out()
    table = columns("similarity", "FMR", "score", "FNIR", "LR", "")
    for similarity in _SHOWN:
        beyond = "extrapolated" if calibration.extrapolated(similarity) else "measured"
        score = f"{calibration.score_at(similarity):.4f}"
        fnir, low, high = _missed(calibration, similarity, document["mated_subjects"])
        missed = f"{percent(fnir)} ({percent(low)} to {percent(high)})"
        worth = _worth(calibration, similarity)
        ends = f"{rounded(worth['value'])} ({rounded(worth['low'])} to {rounded(worth['high'])})"
        ratio = f"{ends}\n{worth['mated_pairs']:,} : {worth['non_mated_pairs']:,} pairs"
        table.add_row(f"{similarity:g}", number(fmr_at(similarity)), score, missed, ratio, beyond)
    console.print(table)
    console.print(
        f"FNIR of {document['mated']:,} comparisons of {document['mated_subjects']:,} people with themselves, with 95 % intervals as if "
        "each person were one trial; LR: likelihood ratio with its 95 % interval by drawing people, and the pairs of one person : of two "
        "people that it rests on",
        style="dim",
    )
    console.print(
        f"calibration {calibration.id} of model version {calibration.model_version}: {document['subjects']:,} people, "
        f"{document['photographs']:,} photographs, measured down to FMR {number(calibration.measured_limit)}",
    )
    if document.get("copies"):
        console.print(
            f"{document['copies']:,} scores of two people lie beyond the end of the present scale: copies, or people under two users. They "
            "make the highest similarities harder to reach. Look at them with collection check, mend the gallery and measure again",
            style="yellow",
        )
    if "checked" in document:
        ratios = ", ".join(f"{number(one['found_to_promised'])} at {number(one['promised'])}" for one in document["checked"]["rates"])
        people = f"{document['checked']['subjects']:,} people of {document['checked']['data_set']}"
        few = f"among {people} there are too few errors to hold the promise against; the intervals are not widened"
        console.print(f"among {people} the FMR is to the promised one as {ratios}; intervals hold that too" if ratios else few)
    console.print(f"it is in {target}" + ("" if file else "; a running server takes it up when it is started again"))


def _missed(calibration: Calibration, similarity: float, people: int) -> tuple[float, float, float]:
    """FNIR at a similarity with its 95 % interval: Wilson's, as if each person were one trial; the rule of 3 where nothing is missed."""
    from aboveboard.evaluation.rates import bound_without_errors, wilson

    fnir = calibration.fnmr(similarity)
    return (fnir, *wilson(fnir * people, people)) if fnir else (0.0, 0.0, bound_without_errors(people))


def _worth(calibration: Calibration, similarity: float) -> dict[str, Any]:
    """The likelihood ratio at a similarity, its interval, and what it rests on."""
    (one,) = calibration.evidence([calibration.score_at(similarity)], similarity, 1, None)
    return {"value": one.ratio, "low": one.low, "high": one.high, "mated_pairs": one.mated, "non_mated_pairs": one.non_mated}


def _calibration_json(calibration: Calibration, people: int) -> dict[str, Any]:
    similarities = {
        f"{similarity:g}": {
            "fmr": fmr_at(similarity),
            "score": calibration.score_at(similarity),
            **dict(zip(("fnir", "fnir_low", "fnir_high"), _missed(calibration, similarity, people), strict=True)),
            "likelihood_ratio": _worth(calibration, similarity),
            "extrapolated": calibration.extrapolated(similarity),
        }
        for similarity in _SHOWN
    }
    return {
        "calibration": calibration.id,
        "model_version": calibration.model_version,
        "measured_limit": calibration.measured_limit,
        "at_similarity": similarities,
    }


def loaded(data: Path | None) -> tuple[configuration.Settings, Models]:
    """The settings and the pack in use, without opening a deployment."""
    settings = configuration.load(data)
    return settings, check_installed(settings, data).load(settings.pack)


def errata_named(named: str) -> Errata:
    """The errata of a file; those of LFW for no name, none for 'none'. Raises BadRequest where the file cannot be read."""
    from aboveboard.evaluation.protocol import NO_ERRATA, read_errata, shipped_errata

    if named in ("", "none"):
        return NO_ERRATA if named else shipped_errata()
    try:
        return read_errata(Path(named).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadRequest(f"the errata file {named} cannot be read: {error}") from error


@contextmanager
def progressing(what: str) -> Iterator[Callable[[int, int], None]]:
    """Progress whose total becomes known with its first step."""
    with ExitStack() as stack:
        show: list[Callable[[int], None]] = []

        def step(done: int, total: int) -> None:
            if not show:
                show.append(stack.enter_context(counted(what, total)))
            show[0](done)

        yield step


def _write(file: Path, text: str) -> None:
    try:
        registry.write_whole(file, text.encode())
    except OSError as error:
        raise Unavailable(f"{file} cannot be written: {error.strerror}") from error


def _show_verification(result: Mapping[str, Any]) -> None:
    console, limit, corrected = out(), result["measured_limit"], result["corrected"]
    table = columns("FMR", "TAR as is", "TAR corrected", "score")
    for rate, tar in result["as_is"]["tar"].items():
        star = "*" if float(rate) < limit else ""
        table.add_row(f"{rate}{star}", percent(tar), percent(corrected["tar"][rate]), f"{corrected['scores'][rate]:.4f}")
    console.print(table)
    counts = f"{corrected['mated']:,} mated and {corrected['non_mated']:,} non-mated comparisons"
    console.print(f"{counts}, {result['failures_to_enrol']:,} failures to enrol")
    console.print(f"* fewer than 30 false matches: these photographs measure down to FMR {number(limit)}", style="dim")
    for similarity, found in (result["at_similarity"] or {}).items():
        low, high = found["tar_interval"]
        console.print(f"at {similarity}: TAR {percent(found['tar'])}, 95 % interval {percent(low)} to {percent(high)}", end="; ")
        low, high = found["fmr_interval"]
        console.print(f"FMR {number(found['fmr'])}, 95 % interval {number(low)} to {number(high)}")
