"""The verb detect: the faces of photographs, with what is said of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from aboveboard.biometrics.vocabulary import Face
from aboveboard.cli import attributes
from aboveboard.cli.common import DONE, NOTHING, SAMPLE, Data, Json, OperatorName, columns, counted, open_as, out, printable, show_json
from aboveboard.cli.folders import gather
from aboveboard.cli.pictures import SHORTCOMINGS, Draw, Pictures, check_drawing, face_json, save, short_place, taken

if TYPE_CHECKING:
    from aboveboard.service.app import App
    from aboveboard.service.quality import Shortcoming


def detect(
    paths: Pictures,
    names: Annotated[
        str, typer.Option("--attributes", metavar="NAMES", help="Attributes to tell: all, none, or names with commas between them.")
    ] = "all",
    data: Data = None,
    operator: OperatorName = "",
    as_json: Json = False,
    draw: Draw = None,
) -> None:
    """Find the faces of photographs: boxes, landmarks, pose, quality, and attributes where an attribute pack is installed.

    Exit code 0 where a face was found, 1 where none was, 4 where no photograph could be used.
    --json prints one line per photograph.
    """
    photographs, _ = gather(paths)
    check_drawing(draw, photographs)
    details = attributes.wanted(names)
    app, session = open_as(data, operator)
    from aboveboard.service import analyse

    untold = analyse.not_assessed(app, details)
    if untold:
        typer.echo(f"note: not told here: {', '.join(untold)}{_mend(app)}", err=True)
    several = len(photographs) > 1
    overview = columns("photograph", "faces", "largest face", "would enrol")
    faces_found, readable = 0, 0
    with counted("detecting", len(photographs)) as done:
        for i, photograph in enumerate(photographs, 1):
            with taken(photograph, as_json) as content:
                faces = analyse.assess(app, session, content(app), details, "AUTO")
                found = [face for face, _ in faces]
                readable += 1
                faces_found += len(found)
                if as_json:
                    shown: list[dict[str, Any]] = [{**face_json(face), "shortcomings": list(lacks)} for face, lacks in faces]
                    show_json({"photograph": printable(photograph.name), "faces": shown, "not_assessed": untold})
                elif several:
                    good = str(sum(not lacks for _, lacks in faces))
                    overview.add_row(printable(photograph.name), str(len(faces)), f"{faces[0][0].size_px:.0f} px" if faces else "", good)
                else:
                    for table in (_faces_table(faces), *attributes.tables(found, untold)):
                        out().print(table)
                if draw:
                    marks = [(face, (str(i),), None) for i, face in enumerate(found, 1)]
                    save(app, photograph, draw, several, marks, [attributes.lines(i, face, untold) for i, face in enumerate(found, 1)])
            done(i)
    if several and not as_json:
        out().print(overview)
    if not as_json and not faces_found and readable:
        out().print("no face found")
    raise typer.Exit(DONE if faces_found else NOTHING if readable else SAMPLE)


def _mend(app: App) -> str:
    """How to have attributes told, where nothing tells any."""
    pack = app.settings.attribute_pack
    if app.attributes.reader() is not None:
        return ""
    return f"; run: aboveboard models install {pack}" if pack else "; the setting 'attribute_pack' names no pack"


def _faces_table(faces: Sequence[tuple[Face, Sequence[Shortcoming]]]) -> Table:
    table = columns("#", "face", "sure", "yaw/pitch/roll", "light/sharp", "quality", "would enrol")
    table.collapse_padding = True  # seven columns in 80 letters
    for i, (face, lacks) in enumerate(faces, 1):
        pose, quality = face.pose, face.quality
        table.add_row(
            str(i),
            short_place(face),
            f"{face.confidence:.1f}",
            f"{round(pose.yaw)}/{round(pose.pitch)}/{round(pose.roll)}",
            f"{quality.brightness:.0f}/{quality.sharpness:.0f}",
            "-" if face.unified is None else f"{face.unified:.0f}",
            Text(f"no: {', '.join(SHORTCOMINGS[lack] for lack in lacks)}", "yellow") if lacks else Text("yes", "green"),
        )
    return table
