"""The verb labels: what photographs show, with a bar for each label; their colours and quality where asked for."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from aboveboard.cli.common import DONE, NOTHING, SAMPLE, Data, Json, OperatorName, columns, counted, open_as, out, printable, show_json
from aboveboard.cli.folders import gather
from aboveboard.cli.pictures import Pictures, box_json, taken

if TYPE_CHECKING:
    from aboveboard.service.labels import Described, Label, Properties

_BAR = 16


def labels(
    paths: Pictures,
    confidence: Annotated[float, typer.Option("--min-confidence", min=0, max=100, metavar="C", help="The least confidence, 0-100.")] = 55.0,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, metavar="N", help="The most labels of a photograph.")] = 1000,
    properties: Annotated[bool, typer.Option("--properties", help="Tell colours, brightness, sharpness and contrast as well.")] = False,
    data: Data = None,
    operator: OperatorName = "",
    as_json: Json = False,
) -> None:
    """Say what photographs show: labels with their confidence, the surest first.

    Exit code 0 where a label was found, 1 where none was, 4 where no photograph could be used.
    --json prints one line per photograph.
    """
    photographs, _ = gather(paths)
    app, session = open_as(data, operator)
    from aboveboard.service import labels as service

    wanted = service.Wanted(properties=properties, least_confidence=confidence, most_labels=limit)
    labels_found, readable = 0, 0
    with counted("labelling", len(photographs)) as done:
        for i, photograph in enumerate(photographs, 1):
            with taken(photograph, as_json) as content:
                described = service.describe(app, session, content(app), wanted)
                readable += 1
                labels_found += len(described.labels or ())
                if as_json:
                    show_json({"photograph": printable(photograph.name), **_document(described)})
                else:
                    if len(photographs) > 1:
                        out().print(Text(printable(photograph.name), "bold"))
                    _show(described, confidence)
            done(i)
    raise typer.Exit(DONE if labels_found else NOTHING if readable else SAMPLE)


def _document(described: Described) -> dict[str, Any]:
    found = [
        {
            "name": label.name,
            "confidence": label.confidence,
            "parents": list(label.parents),
            "category": label.category,
            "aliases": list(label.aliases),
            "instances": [
                {"box": box_json(one.box), "confidence": one.confidence, "colours": [asdict(colour) for colour in one.colours]}
                for one in label.instances
            ],
        }
        for label in described.labels or ()
    ]
    properties = asdict(described.properties) if described.properties else None
    return {"labels": found, "properties": properties, "model_version": described.model_version}


def _show(described: Described, least: float) -> None:
    found = described.labels or ()
    if found:
        table = columns("label", "confidence", "", "under", "seen")
        table.columns[1].no_wrap = True
        for label in found:
            table.add_row(label.name, _bar(label), f"{label.confidence:.1f}", Text(", ".join(label.parents), "dim"), _seen(label))
        out().print(table)
    else:
        out().print(f"nothing that it knows at a confidence of {least:g} or more")
    if described.properties:
        out().print(_colours(described.properties))
        measures = described.properties.measures
        out().print(f"brightness {measures.brightness:.0f}, sharpness {measures.sharpness:.0f}, contrast {measures.contrast:.0f} of 100\n")


def _bar(label: Label) -> Text:
    full = round(_BAR * label.confidence / 100)
    return Text("█" * full, "green" if label.confidence >= 80 else "yellow").append("░" * (_BAR - full), "dim")


def _seen(label: Label) -> str:
    count = len(label.instances)
    return f"{count} {'box' if count == 1 else 'boxes'}" if count else ""


def _colours(properties: Properties) -> Table:
    table = columns("colour", "share", "nearest of CSS")
    for colour in properties.colours:
        swatch = Text("   ", f"on #{colour.red:02x}{colour.green:02x}{colour.blue:02x}").append(f" {colour.simple}", "default on default")
        table.add_row(swatch, f"{100 * colour.share:.1f} %", colour.css)
    return table
