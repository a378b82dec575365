"""Reports that a deployment publishes about itself, out of its ledger."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from aboveboard.accountability.gate import actor
from aboveboard.accountability.operators import Session
from aboveboard.accountability.transparency import POLICIES, TITLE, Period, count, document
from aboveboard.errors import BadRequest, Unavailable
from aboveboard.reporting.page import Figure, render, write
from aboveboard.reporting.tables import json_of
from aboveboard.service.app import App
from aboveboard.service.report_page import page
from aboveboard.storage.schema import PACKS

PAGE, REPORT = "index.html", "report.json"


def transparency(
    app: App, session: Session, period: Period, to: Path, *, agency: str = "", operators: bool = False, collections: bool = False
) -> dict[str, Any]:
    """Write a transparency report into a new or empty folder, and that it was made into the ledger; returns what report.json says.

    Raises BadRequest for a folder that holds something, Unavailable where the report cannot be written.
    """
    app.gate.authorise(session, "report")
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise BadRequest(f"{to} is not an empty folder; name one that is, or is not there yet")
    if len(agency) > 200 or not agency.isprintable():
        raise BadRequest("an agency's name is at most 200 printable characters")
    counted = count(app.ledger.entries(), period, operators=operators, collections=collections)
    with app.database.read() as connection:
        texts = {row.sha256: bytes(row.text) for row in connection.execute(sa.select(PACKS.c.sha256, PACKS.c.text))}
    packs = {sha256: texts[sha256] for sha256 in counted.totals["policies"] if sha256 in texts}
    note = app.checkpoints.sign(counted.size, counted.root).decode()
    report = document(counted, period, agency, note, packs, operators=operators, collections=collections)
    made = files(report, packs)
    facts = {"title": TITLE, "from": period.first, "to": period.last, "size": counted.size, "sha256": _sha256(made[REPORT])}
    app.ledger.record("report.made", {**actor(session), **facts})
    try:
        write(made, to)
    except OSError as error:
        raise Unavailable(f"the report in {to} is not whole ({error.strerror}); remove it and name a folder with room") from error
    return report


def files(report: Mapping[str, Any], packs: Mapping[str, bytes]) -> dict[str, bytes]:
    """Every file of a report by its path, out of report.json's document and the policy packs' canonical form by sha256."""
    shown = page(report)
    tables = {f"tables/{one.name}.csv": one.csv() for one in shown.tables}
    figures = {f"figures/{one.name}.svg": one.svg for one in shown.blocks if isinstance(one, Figure)}
    policies = {f"{POLICIES}/{sha256}.json": text for sha256, text in sorted(packs.items())}
    return {PAGE: render(shown), **tables, **figures, **policies, REPORT: json_of(report)}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
