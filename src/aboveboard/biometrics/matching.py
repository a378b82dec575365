"""Comparison scores: the cosine of two templates, in float64. Used by the gate, the template store and the laboratory only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aboveboard.biometrics.vocabulary import Vector


def normalise(features: NDArray[np.floating]) -> NDArray[np.float32]:
    """Scale each row of (n, d) or one (d,) to unit length. A row of zeros or of non-finite numbers raises ValueError."""
    exact = np.asarray(features, dtype=np.float64)
    length = np.linalg.norm(exact, axis=-1, keepdims=True)
    if not np.all(np.isfinite(length)) or np.any(length == 0):
        raise ValueError("the recogniser gave features without a direction (zero or not finite)")
    return np.asarray(exact / length, np.float32)


def comparison_scores(probe: Vector, references: NDArray[np.float32]) -> NDArray[np.float64]:
    """The cosine of one unit template (d,) with each row of (n, d), as float64 in [-1, 1]."""
    # Row by row in one fixed order: BLAS would give equal rows different last digits, and ties would not be ties.
    scores = np.einsum("ij,j->i", references.astype(np.float64), probe.astype(np.float64))
    return np.asarray(np.clip(scores, -1.0, 1.0))


def pair_scores(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float64]:
    """The cosine of each row of (n, d) with the same row of another (n, d), as float64 in [-1, 1]."""
    scores = np.einsum("ij,ij->i", left.astype(np.float64), right.astype(np.float64))
    return np.asarray(np.clip(scores, -1.0, 1.0))


def best_first(scores: Sequence[float], face_ids: Sequence[str], limit: int) -> list[int]:
    """Indices of the best `limit` scores in the order (-score, face id), so that ties are answered the same every time."""
    return sorted(range(len(scores)), key=lambda i: (-scores[i], face_ids[i]))[:limit]
