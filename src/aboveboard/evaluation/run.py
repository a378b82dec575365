"""Measure a recogniser on labelled photographs: templates, verification rates, and the calibration made from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aboveboard.biometrics.matching import normalise
from aboveboard.errors import BadSample
from aboveboard.evaluation.protocol import Sample, centre_face
from aboveboard.vision.media import decode
from aboveboard.vision.packs import Models

Progress = Callable[[int, int], None]

MAX_PIXELS = 64_000_000


@dataclass(frozen=True)
class TemplateSet:
    """Templates of a protocol: `features` (n, d) unit float32, row i of `samples[i]`; and the samples without one, with the reason."""

    features: NDArray[np.float32]
    samples: tuple[Sample, ...]
    failures_to_enrol: tuple[tuple[Sample, str], ...]


def templates_of(
    samples: Sequence[Sample],
    models: Models,
    max_pixels: int = MAX_PIXELS,
    progress: Progress | None = None,
    workers: int = 2,
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
