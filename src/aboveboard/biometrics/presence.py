"""What a detector's score is worth: how likely what it found is a person's face, fitted to detections that were looked at."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Presence:
    """The chance that a detection is a person's face, for one model version, with provenance. Build it with `from_json`.

    It is the logistic function of intercept + slope x (log-odds of the score) - animal x (how likely the picture is one of an animal,
    0-1): a detector of faces takes those of dogs and monkeys for people's.
    """

    id: str
    model_version: str
    intercept: float
    slope: float
    animal: float
    provenance: dict[str, Any]

    @staticmethod
    def from_json(text: str) -> Presence:
        """Read a file of a fitted presence; raises ValueError for another form."""
        try:
            document = json.loads(text)
            fitted = Presence(
                id=str(document["id"]),
                model_version=str(document["model_version"]),
                intercept=float(document["intercept"]),
                slope=float(document["slope"]),
                animal=float(document["animal"]),
                provenance={key: value for key, value in document.items() if key not in ("intercept", "slope", "animal")},
            )
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"not a file of a fitted presence ({error!r}); benchmarks/presence.py makes one") from error
        if not (math.isfinite(fitted.intercept) and 0 < fitted.slope < math.inf and 0 <= fitted.animal < math.inf):
            raise ValueError("not a file of a fitted presence: intercept must be finite, slope above 0, animal at least 0")
        return fitted

    def chance(self, score: float, animal: float) -> float:
        """0-1, for a detector's score and the picture's chance of an animal, both 0-1."""
        score = min(max(score, 1e-6), 1 - 1e-6)
        return (1 + math.tanh((self.intercept + self.slope * math.log(score / (1 - score)) - self.animal * animal) / 2)) / 2
