"""The score file: everything that an evaluation's numbers are computed from, in one NPZ and without a model (docs/evaluate.md).

NPZ, because numpy alone reads it: all pairs of n photographs are one array without their 2 x n(n-1)/2 indices, which a table such
as Parquet would have to spell out, and no further dependency is needed to check somebody's figures in ten years.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aboveboard.errors import BadRequest
from aboveboard.vision.registry import write_whole

FORMAT = "aboveboard-scores-1"
LABEL = "label:"
Names = NDArray[np.str_]
Floats = NDArray[np.float32]
Indices = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Scores:
    """Comparison scores of a protocol. Photographs are numbered 0 to n - 1, the enrolled first.

    Per photograph: `photograph` its name, `subject`, `enrolled` (else probed), `template` (False: failure to enrol), `labels` by column.
    Scores are float32. NaN: one of the two photographs has no template. -inf: compared, but the endpoint withheld the score.

    - `all_pairs` (n(n-1)/2,): every two photographs i < j, in the order (0,1) (0,2) .. (1,2) ..;
    - `cross` (probed, enrolled): every probed photograph with every enrolled one;
    - `pairs` (k, 2) with `pair_scores` (k,): the listed pairs;
    - `candidates` (k, 2), probed and enrolled photograph, with `candidate_scores` (k,): what searches answered, each best first.

    `about` says where all this comes from; `named` are thresholds with a name ("80": the score at similarity 80).
    """

    photograph: Names
    subject: Names
    enrolled: NDArray[np.bool_]
    template: NDArray[np.bool_]
    labels: Mapping[str, Names]
    about: dict[str, Any]
    all_pairs: Floats | None = None
    cross: Floats | None = None
    pairs: Indices | None = None
    pair_scores: Floats | None = None
    candidates: Indices | None = None
    candidate_scores: Floats | None = None
    person: NDArray[np.int64] = field(init=False)
    people: Names = field(init=False)

    def __post_init__(self) -> None:
        people, person = np.unique(self.subject, return_inverse=True)
        object.__setattr__(self, "people", people)
        object.__setattr__(self, "person", person.astype(np.int64))

    @property
    def named(self) -> dict[str, float]:
        """Thresholds with a name, on the scale of the scores."""
        return {str(name): float(score) for name, score in self.about["named"].items()}

    @property
    def is_valid(self) -> bool:
        """Whether the threshold that the scores passed is known: without it no rate means anything."""
        return self.about["threshold"]["applied"] is not None

    @property
    def lowest(self) -> float:
        """The threshold below which no score was answered; -inf where there was none."""
        applied = self.about["threshold"]["applied"]
        return float(applied) if isinstance(applied, float | int) else -np.inf


_ARRAYS = {"all_pairs": 1, "cross": 2, "pairs": 2, "pair_scores": 1, "candidates": 2, "candidate_scores": 1}
_PER_PHOTOGRAPH = ("photograph", "subject", "enrolled", "template")


def least(threshold: float) -> np.float32:
    """The lowest float32 that is not below a threshold: scores are float32, and rounding must not decide a comparison.

    A withheld score (-inf) reaches no threshold, not even -inf.
    """
    near = np.float32(max(threshold, float(np.finfo(np.float32).min)))
    return near if float(near) >= threshold else np.nextafter(near, np.float32(np.inf))


def save(scores: Scores, file: Path) -> None:
    """Write a score file, whole or not at all; equal scores give equal bytes."""
    arrays: dict[str, Any] = {name: getattr(scores, name) for name in (*_PER_PHOTOGRAPH, *_ARRAYS) if getattr(scores, name) is not None}
    arrays |= {f"{LABEL}{column}": values for column, values in scores.labels.items()}
    buffer = io.BytesIO()
    np.savez(buffer, about=np.array(json.dumps(scores.about, sort_keys=True)), **arrays)
    write_whole(file, buffer.getvalue())


def load(file: Path) -> Scores:
    """Read a score file; raises BadRequest where it is none or does not agree with itself."""
    try:
        with np.load(file, allow_pickle=False) as archive:
            found = {name: archive[name] for name in archive.files}
        about = json.loads(str(found.pop("about")))
        if about["format"] != FORMAT:
            raise ValueError(f"its format is {about['format']!r}, not {FORMAT!r}")
        labels = {name.removeprefix(LABEL): found.pop(name) for name in list(found) if name.startswith(LABEL)}
        scores = Scores(labels=labels, about=about, **found)
        _check(scores)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, zipfile.BadZipFile, EOFError) as error:
        raise BadRequest(f"{file} is no score file ({error}); write one with: aboveboard evaluate MANIFEST --out DIR") from error
    return scores


def _check(scores: Scores) -> None:
    n, enrolled = scores.photograph.size, int(scores.enrolled.sum())
    for name, kind in {"photograph": "U", "subject": "U", "enrolled": "b", "template": "b"}.items():
        array = getattr(scores, name)
        if array.shape != (n,) or array.dtype.kind != kind:
            raise ValueError(f"'{name}' must be {n} values")
    if any(values.shape != (n,) or values.dtype.kind != "U" for values in scores.labels.values()):
        raise ValueError("each label column must be a text per photograph")
    if not scores.enrolled[:enrolled].all():
        raise ValueError("the enrolled photographs must come first")
    for name, dimensions in _ARRAYS.items():
        array = getattr(scores, name)
        kind = "i" if name in ("pairs", "candidates") else "f"
        if array is not None and (array.ndim != dimensions or array.dtype.kind != kind):
            raise ValueError(f"'{name}' has another form")
    for indices, values in ((scores.pairs, scores.pair_scores), (scores.candidates, scores.candidate_scores)):
        if (indices is None) != (values is None):
            raise ValueError("indices without scores")
        if indices is not None and values is not None and (indices.shape != (values.size, 2) or not ((indices >= 0) & (indices < n)).all()):
            raise ValueError("indices beyond the photographs")
    if scores.all_pairs is not None and scores.all_pairs.size != n * (n - 1) // 2:
        raise ValueError("'all_pairs' is not every pair once")
    if scores.cross is not None and scores.cross.shape != (n - enrolled, enrolled):
        raise ValueError("'cross' must be probed x enrolled")
    _check_values(scores)
    _check_about(scores.about)


def _check_values(scores: Scores) -> None:
    """Matrices of scores have NaN where a template is missing, and there only; no score is beyond all thresholds."""
    for values in (scores.all_pairs, scores.cross, scores.pair_scores, scores.candidate_scores):
        if values is not None and (values == np.inf).any():
            raise ValueError("a score is infinite")
    template, n = scores.template, scores.photograph.size
    enrolled = int(scores.enrolled.sum())
    fits = True
    if scores.cross is not None:
        fits = bool((np.isnan(scores.cross) == ~np.outer(template[enrolled:], template[:enrolled])).all())
    elif scores.all_pairs is not None:
        ends = np.cumsum(np.arange(n - 1, 0, -1))
        rows = np.split(np.isnan(scores.all_pairs), ends[:-1]) if n > 1 else []
        fits = all(bool((row == ~(template[i] & template[i + 1 :])).all()) for i, row in enumerate(rows))
    if not fits:
        raise ValueError("scores and templates do not agree")


def _check_about(about: Mapping[str, Any]) -> None:
    json.dumps(about, allow_nan=False)  # no number that JSON does not know
    data, threshold, model = about["data"], about["threshold"], about["model"]
    applied = threshold["applied"]
    if not all(_is_number(value) for value in about["named"].values()) or not (applied in (None, "none") or _is_number(applied)):
        raise ValueError("'about' lacks its thresholds")
    if not (applied is not None or isinstance(threshold["why"], str)):
        raise ValueError("'about' does not say why its threshold is unknown")
    if not (isinstance(about["scale"], str) and isinstance(data["sha256"], str) and isinstance(data["photographs"], int)):
        raise ValueError("'about' lacks its scale or its data")
    if not (isinstance(about.get("endpoint"), str) or (isinstance(model["pack"], str) and isinstance(model["model_version"], str))):
        raise ValueError("'about' lacks its model or endpoint")


def _is_number(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool)
