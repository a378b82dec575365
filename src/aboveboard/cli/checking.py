"""The verb collection check: every face beside every other, for those who keep a gallery's records."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from aboveboard.cli import basis, distribution
from aboveboard.cli.common import (
    DONE,
    NOTHING,
    Data,
    Json,
    OperatorName,
    columns,
    counted,
    existing,
    listing,
    number,
    open_as,
    out,
    percent,
    printable,
    show_json,
)
from aboveboard.cli.pictures import WITHHELD
from aboveboard.errors import BadRequest

if TYPE_CHECKING:
    from aboveboard.service.check import Checked

COLUMNS = (
    "finding", "similarity", "face_id", "external_id", "subject", "source",
    "other_face_id", "other_external_id", "other_subject", "other_source",
)  # fmt: skip
FINDINGS = {
    "near_duplicate": "copies",
    "two_ids": "two ids",
    "stranger": "stranger",
}
_SHOWN = 20


def check(
    collection: Annotated[str, typer.Argument(metavar="COLLECTION")],
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold",
            "-t",
            min=0,
            max=100,
            metavar="T",
            help="Least similarity of a pair, 0-100; without one so high that chance brings one pair at most.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=4096, metavar="N", help="The longest list of pairs, and of faces.")] = 1000,
    report: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write the findings to a new CSV file.")] = None,
    data: Data = None,
    operator: OperatorName = "",
    as_json: Json = False,
) -> None:
    """Compare every face with every other: copies, one person under two ids, two persons under one subject.

    First it shows whether the calibration's promise holds among these faces: the gallery factor.

    It is a look, recorded like a search and bound by the collection's policy. What it finds are leads for whoever keeps the records.
    Exit code 0 where something was found, 1 where nothing was. --json prints one line per finding and, last, one with the key "summary".
    """  # fmt: skip
    if report and report.exists():
        raise BadRequest(f"{report} is there already; name a new file")
    app, session = open_as(data, operator)
    from aboveboard.accountability.gate import must_agree
    from aboveboard.service import check as checks

    must_agree(app.models.card, found := existing(app, collection, listing(data)))
    total = found.face_count * (found.face_count - 1) // 2
    with counted("comparing", total) as done:
        checked = checks.check(app, session, collection, threshold, limit, lambda now, _: done(now))
    rows = list(_rows(checked))
    if report:
        with report.open("x", encoding="utf-8", newline="") as text:
            writer = csv.DictWriter(text, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
    if as_json:
        for row in rows:
            show_json(row)
        show_json({"summary": {"collection": collection, **_summary(checked)}})
    else:
        _show(checked, rows)
        if report:
            out().print(f"all {len(rows):,} are in {report}")
    raise typer.Exit(DONE if rows else NOTHING)


def _rows(checked: Checked) -> Iterator[dict[str, Any]]:
    findings = checked.findings
    for pair in findings.pairs:
        kind = "near_duplicate" if pair.is_near_duplicate else "two_ids"
        one, other = (_face(checked, face_id) for face_id in pair.face_ids)
        yield {"finding": kind, "similarity": pair.similarity, **one, **{f"other_{key}": value for key, value in other.items()}}
    empty = dict.fromkeys(COLUMNS[6:], "")
    for face in findings.strangers:
        below = "" if face.similarity is None else face.similarity
        yield {"finding": "stranger", "similarity": below, **_face(checked, face.face_id), **empty}


def _face(checked: Checked, face_id: str) -> dict[str, str]:
    row, record = checked.rows.get(face_id), checked.records.get(face_id)
    known = {
        "external_id": row.external_image_id if row else None,
        "subject": row.subject_id if row else None,
        "source": printable(record.source) if record and record.source else None,
    }
    if checked.findings.identities_withheld:
        known = dict.fromkeys(known, WITHHELD)
    return {"face_id": face_id, **{key: value or "" for key, value in known.items()}}


def _summary(checked: Checked) -> dict[str, Any]:
    findings = checked.findings
    return {
        "audit_id": findings.audit_id,
        **asdict(findings.basis),
        "identities_withheld": findings.identities_withheld,
        "comparisons": findings.comparisons,
        "near_duplicates": findings.near_duplicates,
        "under_two_ids": findings.under_two_ids,
        "pairs_listed": len(findings.pairs),
        "subject_threshold": findings.subject_threshold,
        "subject_fnmr": findings.subject_fnmr,
        "subject_faces": findings.subject_faces,
        "strangers": findings.strangers_found,
        "strangers_listed": len(findings.strangers),
        "gallery": distribution.document(findings.gallery),
    }


def _show(checked: Checked, rows: list[dict[str, Any]]) -> None:
    findings, console = checked.findings, out()
    distribution.show(console, findings.gallery)
    console.print()
    if rows:
        table = columns("finding", "similarity", "FaceId")
        for row in rows[:_SHOWN]:
            names = [row[f"{side}subject"] or row[f"{side}external_id"] for side in ("", "other_")]
            faces = [f"{row[f'{side}face_id']}\n  {name}".strip() for side, name in zip(("", "other_"), names, strict=True)]
            table.add_row(FINDINGS[row["finding"]], str(row["similarity"]), "\n".join(filter(None, faces)))
        console.print(table)
        if len(rows) > _SHOWN:
            console.print(f"and {len(rows) - _SHOWN:,} more; --csv FILE or --json gives all")
    grid, rests = Table.grid(padding=(0, 2)), findings.basis
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    star = "*" if rests.extrapolated else ""
    grid.add_row("near-duplicates", f"{findings.near_duplicates:,} pairs")
    grid.add_row("under two ids", f"{findings.under_two_ids:,} other pairs; the most alike {len(findings.pairs):,} of both are listed")
    grid.add_row("under one subject", f"{findings.strangers_found:,} of {findings.subject_faces:,} faces are unlike their subject's others")
    grid.add_row("threshold", f"{rests.threshold:g}{star}, origin {rests.threshold_origin}: {basis.ORIGINS[rests.threshold_origin]}")
    grid.add_row("policy", f"{rests.policy}, floor {rests.floor:g}")
    expected = f"FMR {number(rests.fmr)}{star}, E = {number(rests.expected_false)} pairs of two persons by chance"
    grid.add_row("comparisons", f"{findings.comparisons:,} among {rests.gallery_size:,} faces: {expected}")
    fnmr = f"{percent(findings.subject_fnmr)} of the comparisons of one person lie below"
    grid.add_row("within a subject", f"threshold {findings.subject_threshold:g}: {fnmr}, so that some of these faces are the right ones")
    grid.add_row("calibration", rests.calibration)
    grid.add_row("audit id", findings.audit_id)
    console.print(grid)
    if rests.extrapolated:
        console.print(f"* extrapolated: beyond what calibration {rests.calibration} measured", style="yellow")
