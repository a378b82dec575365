"""How the scores among a gallery's own faces lie beside what its calibration promises: as a page, and as a file (collection scores)."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from aboveboard.biometrics.gallery import BINS, EDGES, LEAST, LEAST_MATED, LEAST_MATED_PEOPLE, WARN, Factor, GalleryCheck, Level
from aboveboard.cli.common import DONE, NOTHING, Data, Json, OperatorName, columns, existing, listing, number, open_as, out, show_json
from aboveboard.errors import BadRequest

if TYPE_CHECKING:
    from aboveboard.biometrics.vocabulary import GalleryScores

_WIDTH = 48
TOO_SMALL = f"the gallery's own distribution: not measured below {LEAST} faces"


def scores(
    collection: Annotated[str, typer.Argument(metavar="COLLECTION")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A new file, .npz (for each sampled face) or .json (all together).")],
    data: Data = None,
    operator: OperatorName = "",
    as_json: Json = False,
) -> None:
    """Write down how the scores among a collection's own faces lie, as counts, for a laboratory, and show it beside the calibration.

    Counts only: no pair, no face id, no name. It is on record. Exit code 1, and no file, where the collection is too small.
    """
    if file.exists():
        raise BadRequest(f"{file} is there already; name a new file")
    if file.suffix not in (".npz", ".json"):
        raise BadRequest(f"{file}: name a file that ends in .npz or .json")
    app, session = open_as(data, operator)
    measured = app.gate.gallery_scores(session, existing(app, collection, listing(data)))
    about = {"audit_id": measured.audit_id, "collection": collection, "calibration": measured.calibration, "model": measured.model_version}
    if measured.own is not None:
        _write(file, measured, about)
    if as_json:
        show_json({**about, "gallery": document(measured.gallery), "mated_pairs": int(measured.mated.sum())})
    else:
        show(out(), measured.gallery)
        mated = f"{int(measured.mated.sum()):,} mated pairs, of {measured.mated_people:,} people with several faces"
        few = f"mated pairs: none given out, for fewer than {LEAST_MATED} of {LEAST_MATED_PEOPLE} people, copies aside"
        out().print(mated if measured.mated_people else few, style="dim")
        out().print(f"audit id {measured.audit_id}", style="dim")
    raise typer.Exit(DONE if measured.own else NOTHING)


def _write(file: Path, measured: GalleryScores, about: dict[str, Any]) -> None:
    import numpy as np

    own = measured.own
    assert own is not None
    text = json.dumps({**about, "gallery": document(measured.gallery), "bins": BINS})
    mated: dict[str, Any] = {"mated": measured.mated, "mated_people": measured.mated_people}
    with file.open("xb") as target:
        if file.suffix == ".json":
            counts = own.counts.sum(axis=0, dtype=np.int64).tolist()
            target.write(json.dumps({**json.loads(text), "counts": counts, **mated, "mated": measured.mated.tolist()}).encode())
        else:
            # Whose a face is, as a number that says nothing else; sampled faces of one person share it.
            _, person = np.unique(own.owners, return_inverse=True)
            sampled: dict[str, Any] = {"counts": own.counts, "edges": EDGES, "person": person, "has_user": own.owners > 0}
            np.savez_compressed(target, about=np.array(text), **sampled, **mated)


def document(gallery: GalleryCheck | None) -> dict[str, Any] | None:
    """The page as a document."""
    return None if gallery is None else asdict(gallery)


def show(console: Console, gallery: GalleryCheck | None) -> None:
    """The page: the factor, found against promised at several similarities, the distribution."""
    if gallery is None:
        console.print(TOO_SMALL, style="dim")
        return
    table = columns("similarity", "promised", "FMR found", "errors", "found / promised (95 %)")
    for level in gallery.levels:
        star = "*" if level.extrapolated else ""
        table.add_row(str(level.similarity), f"{number(level.promised)}{star}", _found(level), f"{level.errors:,}", _ratio(level))
    console.print(table)
    console.print(_plot(gallery))
    sample = f"{gallery.faces:,} of {gallery.size:,} faces, each with all others: {gallery.pairs:,} pairs"
    mates = (
        "faces of one user are not compared"
        if gallery.knows_mates
        else "faces are of no known users: who has several is compared with himself, so that high similarities cannot be told"
    )
    console.print(f"{sample}; {mates}", style="dim")
    console.print(told(gallery.factor))
    if gallery.factor:
        warn(console, gallery.factor)


def told(factor: Factor | None) -> str:
    """The gallery factor in words."""
    if factor is None:
        return "gallery factor: cannot be told yet; more faces, or users for them, are needed"
    return f"gallery factor {spread(factor)}, counted at similarity {factor.similarity}"


def spread(factor: Factor) -> str:
    """The factor with its interval."""
    return f"{number(factor.value)} (95 % {number(factor.low)} to {number(factor.high)})"


def warn(console: Console, factor: Factor, expected: float | None = None) -> None:
    """Say so where a gallery keeps its calibration's promise badly; `expected`: false candidates a search with the gallery's own FMR."""
    if factor.value > WARN:
        reckon = "" if expected is None else f" Reckon with E = {number(expected)} false candidates per search."
        console.print(
            f"These faces are unlike those of the calibration: two people are taken for one {number(factor.value)} times as often as "
            f"promised at similarity {factor.similarity}, and at higher ones perhaps more.{reckon} Calibrate on photographs like these; "
            "or people are enrolled under two ids: collection check lists the most alike.",
            style="yellow",
        )


def _found(level: Level) -> str:
    return number(level.ratio * level.promised) if level.ratio is not None else f"at most {number(level.high * level.promised)}"


def _ratio(level: Level) -> str:
    if level.ratio is None:
        return f"at most {number(level.high)}{' with mates' if level.lacks == 'subjects' else ''}"
    return f"{number(level.ratio)} ({number(level.low)} to {number(level.high)})"


def _plot(gallery: GalleryCheck) -> Text:
    """A bar for the found rate at each similarity, on a logarithmic scale, light where it is above what is promised, at the mark."""
    least = math.floor(math.log10(1 / max(gallery.pairs, 10)))
    text = Text(f"similarity  FMR among its own faces, 1e{least} to 1 (log); │ promised; ░ above it\n", "bold")
    for point in gallery.points:
        bar, mark = (round(_WIDTH * (1 - math.log10(max(rate, 10.0**least)) / least)) for rate in (point.found, point.promised))
        text.append(f"{point.similarity:>10}  ", "")
        text.append("█" * min(bar, mark), "green")
        text.append(" " * (mark - bar))
        text.append("│")
        text.append("░" * (bar - mark), "yellow")
        text.append(" " * (_WIDTH - max(bar, mark)))
        text.append(f" {number(point.found) if point.found else 'none'}\n", "dim")
    text.rstrip()
    return text
