"""The calibration of the null pack, by theory and checked on drawn faces: for tests and tutorials, never for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from aboveboard.biometrics.calibration import ANCHORS
from aboveboard.evaluation import metrics
from aboveboard.evaluation.calibrating import ratios_document
from aboveboard.evaluation.rates import measured_limit
from aboveboard.evaluation.run import short
from aboveboard.vision import null

TAKES, VARIATION, SIZE = 4, 0.3, 96


def cosine_at(fmr: float, dimensions: float) -> float:
    """The cosine that two random directions reach with probability `fmr`: (1 + cosine) / 2 is Beta((d - 1) / 2, (d - 1) / 2)."""
    half = (dimensions - 1) / 2
    return float(2 * special.betainccinv(half, half, fmr) - 1)


def null_calibration(date: str, subjects: int = 6000) -> dict[str, Any]:
    """The calibration document of the null pack: FMR by theory; its one parameter, misses, ratios and measured limit from drawn faces.

    A board of 64 cells less their mean is a direction in 63 dimensions; cells that are read a little into each other make
    them fewer, 1 / (mean square of the cosines). `check` holds the theory against the drawn faces. Misses come from
    `TAKES` takes at `VARIATION` of every tenth subject.
    """
    singles = np.stack([_features(subject, 0.0, 0) for subject in range(subjects)])
    takes = [_features(subject, VARIATION, take) for subject in range(0, subjects, 10) for take in range(TAKES)]
    non_mated = metrics.all_pairs(singles, range(subjects))
    mated = metrics.all_pairs(np.stack(takes), [i // TAKES for i in range(len(takes))])
    limit = measured_limit(non_mated.non_mated_size)
    dimensions = round(non_mated.non_mated_size / float(non_mated.counts @ metrics.CENTRES**2), 2)
    rates = sorted({0.5, *(10 ** (-step / 4) for step in range(2, 48)), *(rate for _, rate in ANCHORS)}, reverse=True)
    curve = [
        {
            "score": round(cosine_at(rate, dimensions), 6),
            "fmr": short(rate),
            "low": short(rate),
            "high": short(rate),
            "origin": "measured" if rate >= limit else "tail",
        }
        for rate in rates
    ]
    return {
        "id": "0",
        "model_version": "0.1",
        "measured_limit": limit,
        "curve": curve,
        "misses": [{"score": step / 100, "fnmr": round(1 - mated.tar_at(step / 100), 6)} for step in range(-100, 101)],
        "ratios": ratios_document(mated.mated, non_mated.counts, 0, _draws(mated, non_mated)),
        "data_set": "faces drawn by aboveboard.vision.null.draw; the curve is theory (random directions)",
        "check": [
            {"promised": rate, "found": short(non_mated.fmr_at(cosine_at(rate, dimensions)))} for rate in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
        ],
        "dimensions": dimensions,
        "variation": VARIATION,
        "subjects": subjects,
        "mated": mated.mated_size,
        "non_mated": non_mated.non_mated_size,
        "date": date,
        "pack": {"id": "null", "files": {}},
    }


def _draws(mated: metrics.Pairs, non_mated: metrics.Pairs) -> Iterator[tuple[metrics.Scores, metrics.Scores]]:
    """Draws of the people of both, who are drawn for themselves."""
    each = zip(metrics.Resampling.of(mated, 200).mated_binned(), metrics.Resampling.of(non_mated, 200).binned(), strict=True)
    return ((same, other) for same, (_, other) in each)


def _features(subject: int, variation: float, take: int) -> NDArray[np.float32]:
    image = np.full((SIZE + 16, SIZE + 16, 3), 255, np.uint8)
    null.draw(image, 8, 8, SIZE, subject, variation, take)
    return null.NullRecogniser().features(image, null.NullDetector().detect(image)[0].points)
