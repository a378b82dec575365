"""Find things of several classes in a photograph, with boxes: YOLOX and its kin, out of a pack of one's own."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from aboveboard.errors import BadRequest
from aboveboard.vision.media import Image


@dataclass(frozen=True, slots=True)
class Thing:
    """What was found where: its label, the box as x, y, width, height in pixels, the score 0-1."""

    label: str
    box: tuple[float, float, float, float]
    score: float


def _four(row: NDArray[np.float64]) -> tuple[float, float, float, float]:
    x, y, width, height = row.tolist()
    return x, y, width, height


@dataclass(frozen=True)
class BoxDetector:
    """A network that finds things of the classes `labels`.

    Input (1, 3, size, size) float32 in `colour` order, (pixel - mean) / deviation: the image brought to fit, in the upper left, grey (114)
    beside it. Output (1, n, 4 + classes): the middle's x and y, width and height in the input's pixels, then each class's score, 0-1.
    What scores at least `least` stays, less what overlaps a better one of its class by more than `overlap`.
    """

    session: onnxruntime.InferenceSession
    labels: tuple[str, ...]
    size: int
    colour: str
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    least: float
    overlap: float

    def detect(self, image: Image) -> list[Thing]:
        scale = self.size / max(image.shape[:2])
        height, width = (max(1, round(side * scale)) for side in image.shape[:2])
        square = np.full((self.size, self.size, 3), 114, np.uint8)
        square[:height, :width] = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        planes = np.array(cv2.split(square)[:: -1 if self.colour == "RGB" else 1], np.float32)
        planes = (planes - np.array(self.mean, np.float32)[:, None, None]) / np.array(self.deviation, np.float32)[:, None, None]
        raw = np.asarray(self.session.run(None, {self.session.get_inputs()[0].name: planes[None]})[0], np.float64)
        if raw.ndim != 3 or raw.shape[2] != 4 + len(self.labels):
            raise BadRequest(f"the box detector gives {raw.shape}, its card says (1, n, {4 + len(self.labels)})")
        rows = raw[0][np.isfinite(raw[0]).all(axis=1)]
        classes, scores = rows[:, 4:].argmax(axis=1), rows[:, 4:].max(axis=1, initial=0.0)
        rows, classes, scores = (values[scores >= self.least] for values in (rows, classes, scores))
        boxes = np.hstack([rows[:, :2] - rows[:, 2:4] / 2, rows[:, 2:4]]) / scale
        kept = cv2.dnn.NMSBoxesBatched(boxes.tolist(), scores.tolist(), classes.tolist(), self.least, self.overlap) if len(boxes) else ()
        found = [Thing(self.labels[classes[one]], _four(boxes[one]), min(float(scores[one]), 1.0)) for one in kept]
        return sorted(found, key=lambda one: -one.score)
