"""What the candidates of a packet's looks say: likelihood ratios by their similarity, and posteriors for three priors. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from aboveboard.biometrics.calibration import Calibration
from aboveboard.biometrics.evidence import posterior

PRIORS = (0.1, 0.5, 0.9)
"""Nobody's: a packet shows what a candidate is worth to who holds it improbable, open and probable that the person is enrolled at all."""
_ONE_EACH = ("compare", "search.image", "search.face")
"""Looks whose similarities are of one comparison; the best of a person's several has another ratio."""


def of_calibration(calibration: Calibration) -> dict[str, Any]:
    """A calibration's ratios as a packet has them: by similarity, which is all that the record keeps of a score."""
    ratios = calibration.ratios
    if ratios is None:
        return {}
    by = {calibration.similarity(score): llr / np.log(10) for score, llr in zip(ratios.scores, ratios.llr, strict=True)}
    return {"ratios": [{"similarity": round(similarity, 4), "log10_lr": round(llr, 4)} for similarity, llr in sorted(by.items())]}


def of_record(record: Mapping[str, Any], calibrations: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each look with candidates what each of them says, in their order, to three digits, where its calibration has ratios."""
    return [
        {"look": look["look"], "most": _three(10 ** points[-1]["log10_lr"]), "candidates": list(_of_look(look, points))}
        for look in record["looks"]
        if look["candidates"] and look["duty"] in _ONE_EACH
        if (points := calibrations.get(look["calibration"]["sha256"], {}).get("ratios"))
    ]


def _of_look(look: Mapping[str, Any], points: Sequence[Mapping[str, float]]) -> Iterator[dict[str, Any]]:
    similarities, logs = [point["similarity"] for point in points], [point["log10_lr"] for point in points]
    ratios = 10 ** np.interp([one["similarity"] for one in look["candidates"]], similarities, logs)
    # A full list says nothing of those who did not find room in it, so that their share is unknown.
    is_full = len(ratios) == look["limit"]
    chances = [posterior(prior, look["gallery_size"], ratios, look["fnir"]) for prior in PRIORS if not is_full]
    for i, (one, ratio) in enumerate(zip(look["candidates"], ratios, strict=True)):
        is_most = bool(ratio >= 10 ** logs[-1] * (1 - 1e-9))
        yield {
            "name": one["name"],
            "likelihood_ratio": _three(ratio),
            "is_most": is_most,
            "posteriors": {f"{prior:g}": _three(chance[i]) for prior, chance in zip(PRIORS, chances, strict=False)},
        }


def _three(value: float) -> float:
    return float(f"{value:.3g}")
