"""Verbs that compare photographs: compare, search; and what they share with detect and index."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table
from rich.text import Text

from aboveboard.biometrics.vocabulary import Box, Candidate, Candidates, Face
from aboveboard.cli import attributes, basis, casework, evidence
from aboveboard.cli.casework import ProbeEdits, ProbeKind, Reason
from aboveboard.cli.common import (
    DONE,
    NOTHING,
    SAMPLE,
    Data,
    Json,
    OperatorName,
    columns,
    complain,
    counted,
    existing,
    listing,
    number,
    open_as,
    out,
    printable,
    show_json,
    stop,
)
from aboveboard.cli.evidence import Prior, Told
from aboveboard.cli.folders import SUFFIXES, Photograph, gather
from aboveboard.errors import BadRequest, BadSample, NoFace

if TYPE_CHECKING:
    from aboveboard.accountability.operators import Session
    from aboveboard.biometrics.calibration import Calibration
    from aboveboard.service.app import App
    from aboveboard.service.identify import Searched

Bar = Literal["NONE", "AUTO", "LOW", "MEDIUM", "HIGH"]
Pictures = Annotated[
    list[Path], typer.Argument(metavar="IMAGE|FOLDER...", help="Photographs, or folders of them (JPEG, PNG, WebP, HEIC; recursive).")
]
CollectionId = Annotated[str, typer.Option("--collection", "-c", metavar="C", help="The collection.")]
Draw = Annotated[
    Path | None, typer.Option("--draw", metavar="OUT.jpg", help="Draw the faces into a copy; for several photographs a folder.")
]
Threshold = Annotated[
    float | None,
    typer.Option("--threshold", "-t", min=0, max=100, metavar="T", help="Least similarity, 0-100; without one the policy's; 0 for none."),
]
Quality = Annotated[Bar, typer.Option("--quality", help="The least quality of a face.")]

SHORTCOMINGS = {
    "small": "too small",
    "unsure": "perhaps no face",
    "poor": "quality too low",
    "pose": "turned too far",
    "dark": "too dark",
    "blurred": "too blurred",
    "crowded": "more faces than --max-faces",
    "no_template": "no template can be made of it",
    "ambiguous": "two faces of about one size",
    "bystander": "not the largest face",
}
WITHHELD = "withheld until reviewed"


CaseNumber = Annotated[str, typer.Option("--case", metavar="NUMBER", help="The case that this is done in; one of your own.")]


def compare(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="A photograph; its largest face is compared.")],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="The photograph whose faces it is compared with.")],
    threshold: Threshold = None,
    quality: Quality = "NONE",
    prior: Prior = None,
    case: CaseNumber = "",
    probe: ProbeKind = "photograph",
    edit: ProbeEdits = None,
    reason: Reason = "",
    data: Data = None,
    operator: OperatorName = "",
    as_json: Json = False,
    draw: Draw = None,
) -> None:
    """Compare the largest face of one photograph with every face of another.

    Exit code 0 where a face is a candidate, 1 where none is or a photograph shows no face, 4 where one cannot be used.
    """
    one, other = (_single(path) for path in (source, target))
    for photograph in (one, other):
        check_drawing(draw, [photograph])
    app, session = _inside(*open_as(data, operator), case, probe, edit, reason)
    evidence.check(prior, app.models.calibration)
    from aboveboard.service import identify

    contents = one.read(app), other.read(app)
    try:
        compared = identify.compare(app, session, *contents, threshold, quality)
    except NoFace as error:
        if as_json:
            show_json({"source": printable(one.name), "target": printable(other.name), "error": error.message})
        stop(error.message, NOTHING)
    except BadRequest as error:
        raise BadSample(error.message) from error
    candidates, calibration = compared.candidates, app.models.calibration
    said = evidence.told(candidates, calibration, prior)
    names = {candidate.rank: f"{basis.similarity_text(candidate.similarity, calibration)}" for candidate in candidates}
    if as_json:
        similar: list[dict[str, Any]] = [
            {
                "rank": candidate.rank,
                "similarity": candidate.similarity,
                "extrapolated": _beyond(calibration, candidate.similarity),
                **said.of(candidate.rank),
                "face": face_json(face),
            }
            for candidate, face in compared.similar
        ]
        show_json(
            {
                "source": printable(one.name),
                "target": printable(other.name),
                "source_face": face_json(compared.source),
                "basis": basis.as_json(candidates),
                "evidence": said.bounds(),
                "candidates": similar,
                "others": [face_json(face) for face in compared.others],
            }
        )
    else:
        table = columns("rank", "similarity", "face in the target")
        for candidate, face in compared.similar:
            table.add_row(str(candidate.rank), said.under(_similarity(candidate.similarity, calibration), candidate.rank), place(face))
        for face in compared.others:
            table.add_row("-", Text(f"below {candidates.basis.threshold:g}", "dim"), place(face))
        out().print(table)
        basis.show(out(), [candidates], calibration, said.notes())
    if draw:
        from aboveboard.cli import drawing
        from aboveboard.vision import media

        left, right = (media.decode(content, app.settings.max_image_pixels) for content in contents)
        marks = [
            drawing.Mark(face, (f"{candidate.rank}: {names[candidate.rank]}",), drawing.FOUND) for candidate, face in compared.similar
        ] + [drawing.Mark(face, (f"below {candidates.basis.threshold:g}",), drawing.MISSED) for face in compared.others]
        source_side = drawing.draw(left, [drawing.Mark(compared.source, ("source",))])
        drawing.save(drawing.side_by_side(source_side, drawing.draw(right, marks)), draw)
    raise typer.Exit(DONE if candidates else NOTHING)


def search(
    paths: Pictures,
    collection: CollectionId,
    threshold: Threshold = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=4096, metavar="N", help="The longest candidate list.")] = 80,
    quality: Quality = "NONE",
    prior: Prior = None,
    case: CaseNumber = "",
    probe: ProbeKind = "photograph",
    edit: ProbeEdits = None,
    reason: Reason = "",
    data: Data = None,
    operator: OperatorName = "",
    as_json: Json = False,
    draw: Draw = None,
) -> None:
    """Search a collection for the largest face of each photograph. Every search is recorded before it is answered.

    Exit code 0 where there is a candidate, 1 where there is none or no photograph shows a face, 4 where none could be used.
    --json prints one line per photograph.
    """
    photographs, _ = gather(paths)
    check_drawing(draw, photographs)
    app, session = _inside(*open_as(data, operator), case, probe, edit, reason)
    evidence.check(prior, app.models.calibration)
    from aboveboard.accountability.gate import must_agree
    from aboveboard.service import identify

    must_agree(app.models.card, existing(app, collection, listing(data)))
    several = len(photographs) > 1
    overview = columns("photograph and audit id", "rank", "similarity", "candidate")
    searches: list[Candidates] = []
    notes: list[tuple[str, str]] = []
    faceless: list[str] = []
    with counted("searching", len(photographs)) as done:
        for i, photograph in enumerate(photographs, 1):
            with taken(photograph, as_json, faceless) as content:
                searched = identify.by_image(app, session, collection, content(app), threshold, limit, quality)
                searches.append(searched.candidates)
                said = evidence.told(searched.candidates, app.models.calibration, prior)
                notes = notes or said.notes()
                if as_json:
                    show_json(_searched_json(photograph, searched, said, app.models.calibration))
                elif several:
                    _add_rows(overview, photograph, searched, said, app.models.calibration)
                else:
                    _show_search(searched, said, app.models.calibration)
                if draw:
                    _save_search(app, photograph, draw, several, searched)
            done(i)
    if several and searches and not as_json:
        out().print(overview)
        basis.show(out(), searches, app.models.calibration, notes)
    raise typer.Exit(DONE if any(searches) else NOTHING if searches or faceless else SAMPLE)


def _inside(app: App, session: Session, case: str, probe: str, edits: Sequence[str] | None, reason: str) -> tuple[App, Session]:
    """The session, in a case if one is named; what the probe is can only be declared there."""
    from aboveboard.service import cases

    if case:
        return app, cases.enter(app, session, case, casework.declared(probe, edits, reason))
    if edits or reason or probe != "photograph":
        raise BadRequest("--probe, --edit and --reason are declared in a case; name one with --case")
    return app, session


def check_drawing(draw: Path | None, photographs: Sequence[Photograph]) -> None:
    """Raise BadRequest, before any photograph is read, where --draw names what cannot or must not be drawn into."""
    if draw is None:
        return
    several = len(photographs) > 1
    own = {photograph.path.resolve() for photograph in photographs if isinstance(photograph.path, Path)}
    for photograph in photographs:
        if _target(draw, photograph, several).resolve() in own:
            raise BadRequest(f"--draw {draw} would overwrite a photograph, {printable(photograph.name)}; name another place")
    if several and draw.exists() and not draw.is_dir():
        raise BadRequest(f"--draw {draw} is a file; for several photographs name a folder")
    if not several and draw.suffix.lower() not in SUFFIXES:
        raise BadRequest(f"--draw {draw}: pictures are drawn as .jpg or .png; give the file such a name")


@contextmanager
def taken(photograph: Photograph, as_json: bool, faceless: list[str] | None = None) -> Iterator[Callable[[App], bytes]]:
    """Work on one photograph: one that cannot be used is named, and the next one is taken. Refusals and failures go on up.

    `faceless` gets the names of those that can be read and show no face.
    """
    try:
        yield photograph.read
    except (BadSample, BadRequest) as error:
        if faceless is not None and isinstance(error, NoFace):
            faceless.append(photograph.name)
        complain(f"{printable(photograph.name)}: {error.message}")
        if as_json:
            show_json({"photograph": printable(photograph.name), "error": error.message})


def _single(path: Path) -> Photograph:
    if not path.is_file():
        raise BadRequest(f"there is no photograph {path}")
    return Photograph(path, path.name)


def face_json(face: Face) -> dict[str, Any]:
    """A face as a document: positions as ratios of the image's sides."""
    return {
        "box": box_json(face.box),
        "confidence": face.confidence,
        "landmarks": [{"name": mark.name, "x": mark.x, "y": mark.y} for mark in face.landmarks],
        "pose": {"roll": face.pose.roll, "yaw": face.pose.yaw, "pitch": face.pose.pitch},
        "quality": {"brightness": face.quality.brightness, "sharpness": face.quality.sharpness, "unified": face.unified},
        "size_px": face.size_px,
        "attributes": attributes.as_json(face.attributes),
    }


def box_json(box: Box) -> dict[str, float]:
    return {"left": box.left, "top": box.top, "width": box.width, "height": box.height}


def place(face: Face) -> str:
    """Where a face is, in percent of the image's sides."""
    return f"{face.size_px:.0f} px at {100 * face.box.left:.0f} % from the left, {100 * face.box.top:.0f} % from the top"


def short_place(face: Face) -> str:
    """The same in short, for tables with more to show: side of the box; left, top."""
    return f"{face.size_px:.0f} px at {100 * face.box.left:.0f},{100 * face.box.top:.0f} %"


def _beyond(calibration: Calibration | None, similarity: float) -> bool:
    return calibration is not None and calibration.extrapolated(similarity)


def _similarity(similarity: float, calibration: Calibration | None) -> Text:
    return Text(basis.similarity_text(similarity, calibration), "bold green", justify="right")


def _searched_json(photograph: Photograph, searched: Searched, said: Told, calibration: Calibration | None) -> dict[str, Any]:
    assert searched.probe is not None
    candidates = [
        {
            "rank": candidate.rank,
            "face_id": candidate.reference,
            "external_image_id": row.external_image_id,
            "similarity": candidate.similarity,
            "extrapolated": _beyond(calibration, candidate.similarity),
            **said.of(candidate.rank),
            "own_share": asdict(candidate.own_share) if candidate.own_share else None,
            "above_rest": candidate.above_rest,
            "box": box_json(row.box),
        }
        for candidate, row in searched.rows
    ]
    return {
        "photograph": printable(photograph.name),
        "probe": face_json(searched.probe),
        "basis": basis.as_json(searched.candidates),
        "evidence": said.bounds(),
        "candidates": candidates,
    }


def _show_search(searched: Searched, said: Told, calibration: Calibration | None) -> None:
    is_large = any(candidate.own_share for candidate in searched.candidates)
    table = columns("rank", "similarity", *(("own pairs",) if is_large else ()), "ExternalImageId", "FaceId")
    for candidate, row in searched.rows:
        name = Text(WITHHELD, "yellow") if searched.candidates.identities_withheld else row.external_image_id or ""
        stands = (_share(candidate),) if is_large else ()
        similarity = said.under(_similarity(candidate.similarity, calibration), candidate.rank)
        table.add_row(str(candidate.rank), similarity, *stands, name, candidate.reference)
    console = out()
    console.print(table if searched.rows else Text("nobody in the collection is a candidate", "bold"))
    basis.show(console, [searched.candidates], calibration, said.notes())


def _share(candidate: Candidate) -> str:
    """The share of the gallery's own pairs that scores as high as a candidate."""
    share = candidate.own_share
    return "" if share is None else f"{'<' if share.is_bound else ''}{number(share.value)}"


def _add_rows(table: Table, photograph: Photograph, searched: Searched, said: Told, calibration: Calibration | None) -> None:
    first = Text(printable(photograph.name)).append(f"\n{searched.candidates.audit_id}", "dim")
    lines: list[tuple[str, Text, str]] = []
    for candidate, row in searched.rows[:5]:
        who = candidate.reference if searched.candidates.identities_withheld else row.external_image_id or candidate.reference
        lines.append((str(candidate.rank), said.under(_similarity(candidate.similarity, calibration), candidate.rank), who))
    if len(searched.rows) > 5:
        lines.append(("", Text(f"and {len(searched.rows) - 5} more", "dim"), ""))
    rank, similarity, who = lines[0] if lines else ("", Text("nobody", "dim"), "")
    table.add_row(first, rank, similarity, who)
    for line in lines[1:]:
        table.add_row("", *line)


def _save_search(app: App, photograph: Photograph, draw: Path, several: bool, searched: Searched) -> None:
    from aboveboard.cli import drawing

    assert searched.probe is not None
    basis_ = searched.candidates.basis
    lines = []
    for candidate, row in searched.rows[:3]:
        who = candidate.reference[:8] if searched.candidates.identities_withheld else row.external_image_id or candidate.reference[:8]
        lines.append(f"{candidate.rank}: {basis.similarity_text(candidate.similarity, app.models.calibration)} {who}")
    if not lines:
        lines.append(f"nobody at {basis_.threshold:g}")
    colour = drawing.FOUND if searched.rows else drawing.MISSED
    save(app, photograph, draw, several, [(searched.probe, tuple(lines), colour)])


def _target(draw: Path, photograph: Photograph, several: bool) -> Path:
    return draw / f"{photograph.name}.jpg" if several else draw


def save(
    app: App,
    photograph: Photograph,
    draw: Path,
    several: bool,
    marks: Sequence[tuple[Face, tuple[str, ...], tuple[int, int, int] | None]],
    blocks: Sequence[Sequence[str]] = (),
) -> None:
    """Draw into `draw`, or, for several photographs, into the same place below the folder `draw`; blocks of lines beside the picture."""
    from aboveboard.cli import drawing
    from aboveboard.vision import media

    file = _target(draw, photograph, several)
    image = media.decode(photograph.read(app), app.settings.max_image_pixels)
    drawn = drawing.draw(image, [drawing.Mark(face, lines, colour or drawing.PLAIN) for face, lines, colour in marks])
    drawing.save(drawing.beside(drawn, blocks), file)
