"""What the candidates of a packet's looks say: likelihood ratios by their similarity, and posteriors for three priors. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from aboveboard.biometrics.calibration import Calibration
from aboveboard.biometrics.evidence import Evidence, Owners

PRIORS = (0.1, 0.5, 0.9)
"""Nobody's: a packet shows what a candidate is worth to who holds it improbable, open and probable that the person is enrolled at all."""
_ONE_EACH = ("compare", "search.image", "search.face")
"""Looks whose similarities are of one comparison; the best of a person's several has another ratio."""


def of_record(record: Mapping[str, Any], calibrations: Mapping[str, Calibration]) -> list[dict[str, Any]]:
    """Of each look with candidates what each of them says, in their order, to three digits, where its calibration has ratios.

    `calibrations` by sha256, as the record names them. The record keeps of a score its similarity: the ratio is that of the score at it.
    """
    return [
        {"look": look["look"], "most": _three(calibration.ratios.most / factor), "divided_by": _three(factor), "candidates": candidates}
        for look in record["looks"]
        if look["candidates"] and look["duty"] in _ONE_EACH
        if (calibration := calibrations.get(look["calibration"]["sha256"])) and calibration.ratios
        for found in [look["gallery_factor"] or {"value": 1.0, "low": 1.0, "high": 1.0}]
        for factor in [max(1.0, found["value"])]
        for candidates in [list(_of_look(look, calibration, factor, (found["low"], found["high"])))]
    ]


def _of_look(look: Mapping[str, Any], calibration: Calibration, factor: float, interval: tuple[float, float]) -> Iterator[dict[str, Any]]:
    similarities = [one["similarity"] for one in look["candidates"]]
    # Of who found no room in a full list no more is known than that he is not above its last.
    beyond = similarities[-1] if len(similarities) == look["limit"] else look["threshold"]["value"]
    scores, size = [calibration.score_at(similarity) for similarity in similarities], look.get("references", look["gallery_size"])
    each, owners = look["candidates"], None
    if "people" in look:
        size = look["people"]
        owners = Owners([one.get("person", rank) for rank, one in enumerate(each, 1)], [one.get("faces", 1) for one in each])
    for one, *said in zip(
        each, *(calibration.evidence(scores, beyond, size, prior, factor, interval, owners) for prior in PRIORS), strict=True
    ):
        yield {
            "name": one["name"],
            "likelihood_ratio": _three(said[0].ratio),
            **_rests(said[0]),
            "is_most": said[0].is_most,
            "is_open": said[0].is_open,
            "posteriors": {f"{prior:g}": _three(each.posterior or 0.0) for prior, each in zip(PRIORS, said, strict=True)},
        }


def _rests(said: Evidence) -> dict[str, Any]:
    """The ratio's interval, and what it rests on; nothing where the calibration does not know."""
    if said.low is None or said.high is None:
        return {}
    return {"low": _three(said.low), "high": _three(said.high), "mated_pairs": said.mated, "non_mated_pairs": said.non_mated}


def _three(value: float) -> float:
    return float(f"{value:.3g}")
