"""Compare the faces of a collection with each other: copies, one person under two ids, two persons under one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from aboveboard.accountability.operators import Session
from aboveboard.biometrics.vocabulary import Findings
from aboveboard.service.app import App
from aboveboard.storage.collections import FaceRow, Record

MOST_PAIRS = 4096
"""The longest list of pairs, and of faces."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found, and by face id the rows and records of the faces in it; withheld where the findings say so."""

    findings: Findings
    rows: Mapping[str, FaceRow]
    records: Mapping[str, Record]


def check(
    app: App,
    session: Session,
    collection_id: str,
    threshold: float | None,
    limit: int,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Checked:
    """Compare every face of a collection with every other; `progress` is told how many comparisons of how many are done."""
    collection = app.collections.get(collection_id)
    with app.gate.check(session, collection, threshold, min(limit, MOST_PAIRS)) as look:
        findings = look.findings(progress)
    named = dict.fromkeys([face_id for pair in findings.pairs for face_id in pair.face_ids] + [one.face_id for one in findings.strangers])
    rows = app.collections.faces(collection, list(named))
    if findings.identities_withheld:
        return Checked(findings, {row.face_id: row.withheld() for row in rows}, {})
    records = app.collections.records(collection, [row.image_id for row in rows])
    return Checked(findings, {row.face_id: row for row in rows}, {row.face_id: records.get(row.image_id, Record()) for row in rows})
