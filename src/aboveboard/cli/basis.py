"""What an answer rests on, in words and as JSON: threshold and origin, gallery size, error rates, calibration, audit id."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from aboveboard.biometrics.calibration import Calibration, fmr_at, similarity_for
from aboveboard.biometrics.vocabulary import Basis, Candidates
from aboveboard.cli import distribution
from aboveboard.cli.common import number, percent

TOO_MANY, FEW = 0.1, 0.01
"""Expected false candidates above which a better threshold is named, and what that one brings."""
ORIGINS = {
    "request": "as you asked",
    "policy": "the policy's own, as you named none",
    "default": "Amazon's default, as you named none",
    "gallery": "from the number of comparisons, as you named none",
    "none": "every face is a candidate",
}


def better_similarity(basis: Basis) -> float | None:
    """The similarity, to 0.01, that brings at most 0.01 false candidates at this gallery size.

    None where the threshold is good enough, or where none was wanted.
    """
    if basis.expected_false <= TOO_MANY or basis.threshold_origin == "none":
        return None
    return min(100.0, math.ceil(100 * similarity_for(FEW, basis.gallery_size)) / 100)


def similarity_text(similarity: float, calibration: Calibration | None) -> str:
    """A similarity with two decimals (never rounded up), and a star where it lies beyond what its calibration measured."""
    star = "*" if calibration is not None and calibration.extrapolated(similarity) else ""
    return f"{math.floor(similarity * 100) / 100:.2f}{star}"


def as_json(candidates: Candidates) -> dict[str, Any]:
    """The basis of an answer as a document."""
    basis = candidates.basis
    document = {"audit_id": candidates.audit_id, **asdict(basis), "identities_withheld": candidates.identities_withheld}
    better = better_similarity(basis)
    if better is not None:
        document["better_threshold"] = {"similarity": better, "expected_false": basis.gallery_size * fmr_at(better)}
    return document


def show(console: Console, answers: Sequence[Candidates], calibration: Calibration | None, notes: Sequence[tuple[str, str]] = ()) -> None:
    """What answers under one threshold rest on, below their table, with `notes`; the audit id where there is one answer."""
    basis = answers[-1].basis
    if basis.banner:
        console.print(basis.banner, style="bold yellow")
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="dim", no_wrap=True)
    rows.add_column(overflow="fold")
    threshold = f"{basis.threshold:g}" if basis.threshold > 0 else "none"
    star = "*" if basis.extrapolated else ""
    rows.add_row("threshold", f"{threshold}{star}, origin {basis.threshold_origin}: {ORIGINS[basis.threshold_origin]}")
    rows.add_row("policy", f"{basis.policy}, floor {basis.floor:g}")
    rows.add_row("gallery", f"N = {basis.gallery_size:,} face{'' if basis.gallery_size == 1 else 's'}")
    rows.add_row(
        "false candidates",
        f"FMR {number(basis.fmr)} per comparison, E = {number(basis.expected_false)} per search, FPIR {percent(basis.fpir)}{star}",
    )
    if basis.gallery_factor is not None:
        own = f", E = {number(basis.expected_false_own)} with its own FMR" if basis.expected_false_own is not None else ""
        counted = f"counted at similarity {basis.gallery_factor.similarity}"
        rows.add_row("gallery factor", f"{distribution.spread(basis.gallery_factor)}, {counted}{own}")
    rows.add_row("misses", f"FNIR {percent(basis.fnir)}{star} of the searches for somebody enrolled")
    for name, words in notes:
        rows.add_row(name, words)
    rows.add_row("calibration", basis.calibration)
    if len(answers) == 1:
        rows.add_row("audit id", answers[0].audit_id)
    console.print(rows)
    if basis.gallery_factor is not None:
        distribution.warn(console, basis.gallery_factor, basis.expected_false_own)
    shown = [basis.threshold, *(candidate.similarity for answer in answers for candidate in answer)]
    better = better_similarity(basis)
    if better is not None:
        shown.append(better)
        expected = number(basis.expected_false)
        console.print(
            f"E is {expected} false candidate{'' if expected == '1' else 's'} per search: "
            f"for at most {FEW:g} at N = {basis.gallery_size:,} send a threshold of {similarity_text(better, calibration)}",
            style="yellow",
        )
    if calibration is not None and any(calibration.extrapolated(similarity) for similarity in shown):
        measured = f"FMR {number(calibration.measured_limit)}"
        console.print(f"* extrapolated: beyond what calibration {calibration.id} measured ({measured})", style="yellow")
