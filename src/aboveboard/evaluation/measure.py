"""Carry out a manifest in process, with the model pack in use: photographs in, a score file out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aboveboard import __version__
from aboveboard.biometrics.matching import pair_scores
from aboveboard.errors import BadRequest
from aboveboard.evaluation.manifest import Manifest
from aboveboard.evaluation.protocol import Sample, content_hash
from aboveboard.evaluation.run import Progress, templates_of
from aboveboard.evaluation.scores import FORMAT, Floats, Scores
from aboveboard.vision.packs import Models

MOST_SCORES = 500_000_000
"""Comparisons of one run: 2 GB of scores."""
NAMED = (80.0, 95.0, 99.0)
"""Similarities that every evaluation reports on."""
NO_THRESHOLD = "none"
_ROWS = 256


def in_process(manifest: Manifest, models: Models, progress: Progress | None = None) -> Scores:
    """Compare the photographs of a manifest: its listed pairs, every probed with every enrolled one, or else every two.

    The face of a photograph is the one nearest its centre (`protocol.centre_face`). Raises BadRequest where that are too many scores.
    """
    photographs, enrolled = manifest.photographs, len(manifest.enrolled)
    size = len(manifest.probed) * enrolled if manifest.probed else len(photographs) * (len(photographs) - 1) // 2
    if size > MOST_SCORES and (manifest.probed or manifest.pairs is None):
        raise BadRequest(f"the manifest makes {size:,} comparisons, at most {MOST_SCORES:,} fit one run; list pairs, or divide it")
    made = templates_of(samples_of(manifest), models, progress=progress)
    features = np.full((len(photographs), models.recogniser.dimensions), np.nan, np.float32)
    row = {photograph.name: i for i, photograph in enumerate(photographs)}
    features[[row[sample.name] for sample in made.samples]] = made.features
    pairs = None if manifest.pairs is None else np.array(manifest.pairs, np.int32)
    calibration, card = models.calibration, models.card
    about = {
        **about_data(manifest),
        "scale": "comparison score (cosine, -1 to 1)",
        "threshold": {"asked": NO_THRESHOLD, "applied": NO_THRESHOLD},
        "named": {f"{similarity:g}": calibration.score_at(similarity) for similarity in NAMED} if calibration else {},
        "model": {"pack": card.id, "model_version": card.model_version, "files": {part.file: part.sha256 for part in card.files}},
        "calibration": {"id": calibration.id, "sha256": calibration.sha256} if calibration else None,
        "failures_to_enrol": {sample.name: reason for sample, reason in made.failures_to_enrol},
    }
    return Scores(
        **columns_of(manifest),
        template=~np.isnan(features[:, 0]),
        about=about,
        all_pairs=_all_pairs(features) if not manifest.probed and pairs is None else None,
        cross=_cross(features[enrolled:], features[:enrolled]) if manifest.probed else None,
        pairs=pairs,
        pair_scores=None if pairs is None else pair_scores(features[pairs[:, 0]], features[pairs[:, 1]]).astype(np.float32),
    )


def samples_of(manifest: Manifest) -> list[Sample]:
    """The photographs of a manifest as samples."""
    return [Sample(photograph.subject, photograph.name, photograph.path) for photograph in manifest.photographs]


def columns_of(manifest: Manifest) -> dict[str, Any]:
    """What a score file says of each photograph, but for its template."""
    photographs = manifest.photographs
    return {
        "photograph": np.array([photograph.name for photograph in photographs]),
        "subject": np.array([photograph.subject for photograph in photographs]),
        "enrolled": np.arange(len(photographs)) < len(manifest.enrolled),
        "labels": {column: np.array([each.labels.get(column, "") for each in photographs]) for column in manifest.columns},
    }


def about_data(manifest: Manifest) -> dict[str, Any]:
    """What a score file says of where its photographs come from; the hash is that of names and contents."""
    files: Mapping[str, str] = manifest.sha256
    data = {"manifest": dict(files), "photographs": len(manifest.photographs), "sha256": content_hash(samples_of(manifest))}
    return {"format": FORMAT, "code": {"aboveboard": __version__, "numpy": np.__version__}, "data": data}


def _all_pairs(features: NDArray[np.float32]) -> Floats:
    exact, n = features.astype(np.float64), len(features)
    flat, at = np.empty(n * (n - 1) // 2, np.float32), 0
    for start in range(0, n, _ROWS):
        block = np.clip(exact[start : start + _ROWS] @ exact[start:].T, -1.0, 1.0)
        for i, row in enumerate(block):
            count = n - start - i - 1
            flat[at : at + count] = row[i + 1 :]
            at += count
    return flat


def _cross(probed: NDArray[np.float32], enrolled: NDArray[np.float32]) -> Floats:
    references, scores = enrolled.astype(np.float64).T, np.empty((len(probed), len(enrolled)), np.float32)
    for start in range(0, len(probed), _ROWS):
        scores[start : start + _ROWS] = np.clip(probed[start : start + _ROWS].astype(np.float64) @ references, -1.0, 1.0)
    return scores
