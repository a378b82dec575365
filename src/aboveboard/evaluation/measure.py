"""Carry out a manifest in process, with the model pack in use: photographs in, a score file out."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aboveboard import __version__
from aboveboard.biometrics.matching import pair_scores
from aboveboard.errors import BadRequest
from aboveboard.evaluation.journal import Journal
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
TEMPLATES = "templates.jsonl"
_ROWS, _BATCH = 256, 16


def open_journal(folder: Path, manifest: Manifest, models: Models) -> Journal:
    """The templates that a stopped run has made so far, in its folder; `forget` deletes them."""
    files = {part.file: part.sha256 for part in models.card.files}
    return Journal(folder / TEMPLATES, {"pack": models.card.id, "files": files, "data": about_data(manifest)["data"]})


def forget(folder: Path) -> None:
    """Delete the templates of a run that is finished."""
    (folder / TEMPLATES).unlink(missing_ok=True)


def in_process(manifest: Manifest, models: Models, progress: Progress | None = None, journal: Journal | None = None) -> Scores:
    """Compare the photographs of a manifest: its listed pairs, every probed with every enrolled one, or else every two.

    Templates that are in `journal` are not made again. The face of a photograph is the one nearest its centre
    (`protocol.centre_face`). Raises BadRequest where that are too many scores.
    """
    photographs, enrolled = manifest.photographs, len(manifest.enrolled)
    size = len(manifest.probed) * enrolled if manifest.probed else len(photographs) * (len(photographs) - 1) // 2
    if size > MOST_SCORES and (manifest.probed or manifest.pairs is None):
        raise BadRequest(f"the manifest makes {size:,} comparisons, at most {MOST_SCORES:,} fit one run; list pairs, or divide it")
    features, failed = _templates(samples_of(manifest), models, progress, journal)
    pairs = None if manifest.pairs is None else np.array(manifest.pairs, np.int32)
    calibration, card = models.calibration, models.card
    about = {
        **about_data(manifest),
        "scale": "comparison score (cosine, -1 to 1)",
        "threshold": {"asked": NO_THRESHOLD, "applied": NO_THRESHOLD},
        "named": {f"{similarity:g}": calibration.score_at(similarity) for similarity in NAMED} if calibration else {},
        "model": {"pack": card.id, "model_version": card.model_version, "files": {part.file: part.sha256 for part in card.files}},
        "calibration": {"id": calibration.id, "sha256": calibration.sha256} if calibration else None,
        "failures_to_enrol": {photographs[i].name: reason for i, reason in failed.items()},
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


def _templates(
    samples: Sequence[Sample], models: Models, progress: Progress | None, journal: Journal | None
) -> tuple[NDArray[np.float32], dict[int, str]]:
    """The template of each sample (n, d), NaN where there is none, with the reason."""
    features, failed = np.full((len(samples), models.recogniser.dimensions), np.nan, np.float32), dict[int, str]()
    for (_, i, _), answer in (journal.answers if journal else {}).items():
        if "failed" in answer:
            failed[i] = answer["failed"]
        else:
            features[i] = np.frombuffer(base64.b64decode(answer["template"]), np.float32)
    left = [i for i in range(len(samples)) if i not in failed and np.isnan(features[i, 0])]
    for start in range(0, len(left), _BATCH):
        batch, before = left[start : start + _BATCH], len(samples) - len(left) + start

        def step(done: int, _: int, before: int = before) -> None:
            if progress:
                progress(before + done, len(samples))

        made = templates_of([samples[i] for i in batch], models, progress=step)
        number = {samples[i].name: i for i in batch}
        answers = {number[sample.name]: {"failed": reason} for sample, reason in made.failures_to_enrol}
        failed |= {i: answer["failed"] for i, answer in answers.items()}
        for sample, template in zip(made.samples, made.features, strict=True):
            features[number[sample.name]] = template
            answers[number[sample.name]] = {"template": base64.b64encode(template.tobytes()).decode()}
        if journal:
            for i in batch:
                journal.add(("template", i, -1), answers[i])
    return features, failed


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
