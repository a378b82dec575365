"""The pipeline's own share over the two models' own time, one thread, one face: python benchmarks/pipeline.py FOLDER."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from report import write

from aboveboard import settings
from aboveboard.vision import measures, media
from aboveboard.vision.detector import YuNet
from aboveboard.vision.packs import PackFolder
from aboveboard.vision.recogniser import Embedder


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main(folder: Path) -> None:
    cv2.setNumThreads(1)
    configured = settings.load()
    models = PackFolder(configured.models).load("yunet-sface")
    assert isinstance(models.detector, YuNet)
    assert isinstance(models.recogniser, Embedder)
    photographs = [file.read_bytes() for file in sorted(folder.rglob("*.jpg"))[:300]]
    image = media.decode(photographs[0], 10**8)
    rows, columns = (-(-side // 32) * 32 for side in image.shape[:2])
    detector_input = np.zeros((1, 3, rows, columns), np.float32)
    recogniser_input = np.zeros((1, 3, 112, 112), np.float32)
    detector, recogniser = models.detector.session, models.recogniser.session

    def whole(data: bytes) -> None:
        picture = media.decode(data, 10**8)
        face = max(models.detector.detect(picture), key=lambda found: found.box[2] * found.box[3])
        models.recogniser.features(picture, face.points)

    def alone() -> None:
        detector.run(None, {"input": detector_input})
        recogniser.run(None, {"data": recogniser_input})

    times = [(seconds(partial(whole, data)), seconds(alone)) for data in photographs]
    both, models_only = (statistics.median(column) * 1e3 for column in zip(*times[20:], strict=True))
    picture = media.decode(photographs[0], 10**8)
    face = models.detector.detect(picture)[0]
    measuring = (
        statistics.median(seconds(lambda: (measures.pose(face.points), measures.quality(picture, face.box))) for _ in range(100)) * 1e3
    )
    share = statistics.median((one - other) / other for one, other in times[20:])
    write(
        "pipeline",
        ["one thread, one face", "ms"],
        [
            ["whole pipeline: decode, detect, align, template", f"{both:.2f}"],
            ["the two models alone", f"{models_only:.2f}"],
            ["the pipeline's own share", f"{100 * share:.1f} %"],
            ["pose, brightness and sharpness of a face, where asked for", f"{measuring:.2f}"],
        ],
        f"Medians of {len(times) - 20} photographs of {image.shape[1]} x {image.shape[0]} px, interleaved.",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
