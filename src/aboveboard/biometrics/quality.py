"""What a face is worth for recognition: one number, fitted to how often comparisons with such a face fail."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LEVELS = ("AUTO", "LOW", "MEDIUM", "HIGH")


@dataclass(frozen=True)
class UnifiedQuality:
    """The unified quality score (ISO/IEC 29794-1) of one model version, with provenance. Build it with `from_json`.

    It is the logistic function of the length that the features have before they are brought to unit length: 0-100, the chance that a
    comparison with an ordinary photograph of the same person reaches `similarity`. `bars`: the least that each filter lets pass.
    """

    id: str
    model_version: str
    similarity: float
    middle: float
    slope: float
    bars: Mapping[str, float]
    provenance: dict[str, Any]

    @staticmethod
    def from_json(text: str) -> UnifiedQuality:
        """Read a file of a fitted quality; raises ValueError for another form."""
        try:
            document = json.loads(text)
            fitted = UnifiedQuality(
                id=str(document["id"]),
                model_version=str(document["model_version"]),
                similarity=float(document["similarity"]),
                middle=float(document["middle"]),
                slope=float(document["slope"]),
                bars={level: float(document["bars"][level]) for level in LEVELS},
                provenance={key: value for key, value in document.items() if key not in ("middle", "slope", "bars")},
            )
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"not a file of a fitted quality ({error!r}); benchmarks/quality.py makes one") from error
        bars = [fitted.bars[level] for level in LEVELS]
        is_finite = all(map(math.isfinite, (fitted.slope, fitted.middle, fitted.similarity, *bars)))
        if not (is_finite and fitted.slope > 0 and min(bars) >= 0 and max(bars) <= 100 and bars[1:] == sorted(bars[1:])):
            raise ValueError("not a file of a fitted quality: slope must be above 0, the bars 0 to 100, rising from LOW to HIGH")
        return fitted

    def score(self, norm: float) -> float:
        """The unified quality 0-100 of features of this length; 0 for features that are no numbers."""
        if not math.isfinite(norm):
            return 0.0
        return 50 * (1 + math.tanh(self.slope * (norm - self.middle) / 2))
