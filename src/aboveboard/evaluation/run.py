"""Measure a recogniser on labelled photographs: templates and verification rates.

The functions here return documents ready for JSON. They read folders of photographs only, never an operational gallery.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aboveboard.biometrics.calibration import Calibration, similarity_at
from aboveboard.biometrics.matching import normalise
from aboveboard.errors import BadRequest, BadSample
from aboveboard.evaluation import metrics
from aboveboard.evaluation.metrics import Pairs, Resampling
from aboveboard.evaluation.protocol import NO_ERRATA, Errata, Sample, centre_face, correct, read_folder
from aboveboard.evaluation.rates import bound_without_errors, measured_limit, wilson
from aboveboard.evaluation.resampling import up
from aboveboard.vision.media import decode
from aboveboard.vision.packs import Models

Progress = Callable[[int, int], None]

MAX_PIXELS = 64_000_000
RATES = {"1e-3": 1e-3, "1e-4": 1e-4, "1e-5": 1e-5, "2e-6": 2e-6, "1e-6": 1e-6}
ROUND, LOOK_AT = 6, 60


@dataclass(frozen=True)
class TemplateSet:
    """Templates of a protocol: `features` (n, d) unit float32, row i of `samples[i]`; and the samples without one, with the reason."""

    features: NDArray[np.float32]
    samples: tuple[Sample, ...]
    failures_to_enrol: tuple[tuple[Sample, str], ...]


def templates_of(
    samples: Sequence[Sample], models: Models, max_pixels: int = MAX_PIXELS, progress: Progress | None = None, workers: int = 2
) -> TemplateSet:
    """A template of the centre face of each sample; `workers` threads share the work (onnxruntime computes outside the GIL)."""

    def template(sample: Sample) -> NDArray[np.float32] | str:
        try:
            image = decode(sample.path.read_bytes(), max_pixels)
        except BadSample as error:
            return error.message
        face = centre_face(models.detector.detect(image), image.shape[1], image.shape[0])
        if face is None:
            return "no face found"
        try:
            return normalise(models.recogniser.features(image, face.points))
        except ValueError as error:
            return str(error)

    rows, made, failed = [], [], []
    with ThreadPoolExecutor(workers) as pool:
        for done, (sample, result) in enumerate(zip(samples, pool.map(template, samples), strict=True), start=1):
            if isinstance(result, str):
                failed.append((sample, result))
            else:
                rows.append(result)
                made.append(sample)
            if progress:
                progress(done, len(samples))
    features = np.stack(rows) if rows else np.empty((0, models.recogniser.dimensions), np.float32)
    return TemplateSet(features, tuple(made), tuple(failed))


@dataclass(frozen=True)
class Comparison:
    """All comparisons of a template set: `pairs`, whose template i is that of `samples[i]`, and the number of corrections made."""

    pairs: Pairs
    samples: tuple[Sample, ...]
    corrections: dict[str, int]


def compare(templates: TemplateSet, errata: Errata = NO_ERRATA, needs_mated: bool = True) -> Comparison:
    """All comparisons of a template set with its labels corrected.

    A failure to enrol makes every mated comparison with that photograph a missed one. Raises BadRequest where there are no two
    persons or, if that is needed, nobody has two photographs.
    """
    failed = [sample for sample, _ in templates.failures_to_enrol]
    samples, done = correct([*templates.samples, *failed], errata)
    row = {sample.name: i for i, sample in enumerate(templates.samples)}
    person = {subject: i for i, subject in enumerate(sorted({sample.subject for sample in samples}))}
    made = tuple(sample for sample in samples if sample.name in row)
    subjects = [person[sample.subject] for sample in made]
    photographs = np.bincount([person[sample.subject] for sample in samples], minlength=len(person))
    enrolled = np.bincount(subjects, minlength=len(person))
    missed = photographs * (photographs - 1) // 2 - enrolled * (enrolled - 1) // 2
    pairs = metrics.all_pairs(templates.features[[row[sample.name] for sample in made]], subjects, list(missed))
    if (needs_mated and not pairs.mated_size) or not pairs.non_mated_size:
        raise BadRequest("the photographs make no mated or no non-mated comparison; give at least two people, one with two photographs")
    return Comparison(pairs, made, done)


def rates(pairs: Pairs) -> dict[str, Any]:
    """TAR and comparison score at each FMR of `RATES`, over all pairs; rates below 30 / non_mated are not measured but bounded."""
    scores = {name: pairs.threshold_for(rate) for name, rate in RATES.items()}
    return {
        "tar": {name: round(pairs.tar_at(score), ROUND) for name, score in scores.items()},
        "scores": {name: up(score) for name, score in scores.items()},
        "mated": pairs.mated_size,
        "non_mated": pairs.non_mated_size,
    }


def verification(
    folder: Path, models: Models, errata: Errata = NO_ERRATA, progress: Progress | None = None, draws: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Compare every two photographs of a folder of person/photograph: error rates as is and with the errata, 0-1.

    `at_similarity` has what 80 and 99 of the pack's own calibration are worth here, `scale` the FMR found where the calibration
    promises one; both on the corrected labels, with 95 % intervals from resampling people, and null without a calibration.
    `look_at` names the highest non-mated comparisons that the errata leave.
    """
    templates = templates_of(read_folder(folder), models, progress=progress)
    as_is, comparison = compare(templates), compare(templates, errata)
    corrected = comparison.pairs
    return {
        "as_is": rates(as_is.pairs),
        "corrected": rates(corrected),
        "failures_to_enrol": len(templates.failures_to_enrol),
        "failed": {sample.name: reason for sample, reason in templates.failures_to_enrol},
        "subjects": int(np.count_nonzero(corrected.sizes)),
        "photographs": len(templates.samples) + len(templates.failures_to_enrol),
        "errata": comparison.corrections,
        "measured_limit": measured_limit(corrected.non_mated_size),
        **_worth(corrected, models.calibration, draws, seed),
        "look_at": _look_at(comparison),
    }


def _look_at(comparison: Comparison) -> list[dict[str, Any]]:
    """The highest non-mated comparisons, by name: where label errors show first. A person has to look and write the errata."""
    pairs = comparison.pairs
    return [
        {"score": round(float(score), ROUND), "photographs": [comparison.samples[i].name for i in templates]}
        for score, templates in zip(pairs.tail[:LOOK_AT], pairs.tail_templates[:LOOK_AT], strict=True)
    ]


def _worth(pairs: Pairs, calibration: Calibration | None, draws: int, seed: int) -> dict[str, Any]:
    if calibration is None:
        return {"at_similarity": None, "scale": None}
    resampling = Resampling.of(pairs, draws, seed)
    promised = [1e-2, *RATES.values()]
    shares = [_share(pairs, resampling, calibration.score_at(similarity_at(rate))) for rate in promised]
    worth = {}
    for similarity in (80.0, 99.0):
        score = calibration.score_at(similarity)
        tar = metrics.interval(resampling.tar_at([score])[:, 0])
        worth[f"{similarity:g}"] = {
            **_share(pairs, resampling, score),
            "tar": round(pairs.tar_at(score), ROUND),
            "tar_interval": [round(end, ROUND) for end in tar],
            "tar_by_person": round(pairs.tar_by_person_at(score), ROUND),
        }
    return {
        "at_similarity": worth,
        "scale": [{"promised": rate, "factor": found["fmr"] / rate, **found} for rate, found in zip(promised, shares, strict=True)],
    }


def _share(pairs: Pairs, resampling: Resampling, score: float) -> dict[str, Any]:
    """The FMR at a score with its interval: from resampling people, or without any error the rule of 3."""
    errors = pairs.errors_at(score)
    try:
        low, high = metrics.interval(resampling.fmr_at([score])[:, 0])
    except ValueError:
        low, high = wilson(errors, pairs.non_mated_size)
    if not errors:
        high = bound_without_errors(pairs.non_mated_size)
    return {"score": round(score, ROUND), "errors": errors, "fmr": errors / pairs.non_mated_size, "fmr_interval": [low, high]}


def short(rate: float) -> float:
    """A rate to six digits, as it stands in files."""
    return float(f"{rate:.6g}")
