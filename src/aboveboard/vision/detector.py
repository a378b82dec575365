"""Find faces: YuNet over a pyramid of two scales, decoded as OpenCV's FaceDetectorYN decodes it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from aboveboard.vision.media import Image

LANDMARK_NAMES = ("eyeLeft", "eyeRight", "nose", "mouthLeft", "mouthRight")


@dataclass(frozen=True, slots=True)
class Detection:
    """A face in pixels of the upright image: `box` is x, y, width, height; `points` 5 x 2 in the order of LANDMARK_NAMES; score 0-1."""

    box: NDArray[np.float32]
    points: NDArray[np.float32]
    score: float


class Detector(Protocol):
    """What finds faces in an upright BGR image, best score first."""

    def detect(self, image: Image) -> list[Detection]: ...


class YuNet:
    """The YuNet face detector (Wu et al., "YuNet: A Tiny Millisecond-level Face Detector", 2023).

    Trained on faces of about 10 to 300 px, so that an image is looked at twice: at its own size (at most `LARGEST` px) for the small
    faces, and, if it is larger than `CLOSE_UP`, at `CLOSE_UP` px for those that fill it.
    """

    SCORE, OVERLAP, STRIDES = 0.6, 0.3, (8, 16, 32)
    LARGEST, CLOSE_UP, TRUSTED = 2048, 320, 400
    CANDIDATES = 5000

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self.session = session
        self._outputs = [f"{kind}_{stride}" for stride in self.STRIDES for kind in ("cls", "obj", "bbox", "kps")]

    def detect(self, image: Image) -> list[Detection]:
        longest = max(image.shape[:2])
        scale = min(longest, self.LARGEST) / longest
        faces = self.detect_at(image, scale)
        if longest <= self.CLOSE_UP * 1.25:
            return faces
        close = self.detect_at(image, self.CLOSE_UP / longest)
        # Beyond the size that YuNet was trained for, and inside a close-up, it takes texture for faces.
        faces = [face for face in faces if face.box[2:].max() * scale <= self.TRUSTED and not any(_is_detail(face, of) for of in close)]
        return suppress(faces + close, self.OVERLAP)

    def detect_at(self, image: Image, scale: float) -> list[Detection]:
        """Faces at one scale (1 = the image's own size), in pixels of `image`: what OpenCV's FaceDetectorYN.detect gives."""
        if scale != 1:
            height, width = (max(1, round(side * scale)) for side in image.shape[:2])
            small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
            ratio = np.array([image.shape[1] / width, image.shape[0] / height], np.float32)
        else:
            small, ratio = image, np.ones(2, np.float32)
        height, width = small.shape[:2]
        rows, columns = -(-height // 32) * 32, -(-width // 32) * 32
        blob = np.zeros((1, 3, rows, columns), np.float32)
        for plane, colour in zip(blob[0], cv2.split(small), strict=True):
            plane[:height, :width] = colour
        found = self.session.run(self._outputs, {"input": blob})
        # The outputs come stride by stride; laid end to end, one pass decodes them all.
        classes, objects, boxes, points = (np.concatenate(found[kind::4], axis=1)[0] for kind in range(4))
        product = classes[:, 0] * objects[:, 0]
        keep = np.flatnonzero(product >= self.SCORE**2)
        keep = keep[np.argsort(-product[keep], kind="stable")[: self.CANDIDATES]]
        cells, strides = _grid(rows, columns, self.STRIDES)
        cell, stride = cells[keep], strides[keep, None]
        centre, size = (cell + boxes[keep, :2]) * stride, np.exp(boxes[keep, 2:]) * stride
        corners = np.concatenate([centre - size / 2, size], axis=1)
        marks = (points[keep].reshape(-1, 5, 2) + cell[:, None, :]) * stride[:, None]
        scores = np.sqrt(product[keep])
        kept = _suppressed(corners, self.OVERLAP)
        if scale != 1:
            corners, marks = corners * np.tile(ratio, 2), marks * ratio
        return [Detection(corners[i], marks[i], float(scores[i])) for i in kept]


@lru_cache(maxsize=16)
def _grid(rows: int, columns: int, strides: tuple[int, ...]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Column and row (n, 2) and stride (n,) of every cell that a network input of this size has an output for."""
    cells = [np.stack(np.meshgrid(np.arange(columns // s), np.arange(rows // s)), axis=-1).reshape(-1, 2) for s in strides]
    return np.concatenate(cells).astype(np.float32), np.repeat(np.array(strides, np.float32), [len(part) for part in cells])


def _is_detail(face: Detection, of: Detection) -> bool:
    centre = face.box[:2] + face.box[2:] / 2
    inside = np.all(centre > of.box[:2]) and np.all(centre < of.box[:2] + of.box[2:])
    return bool(inside and face.box[2] * face.box[3] < of.box[2] * of.box[3] / 4)


def suppress(faces: list[Detection], overlap: float) -> list[Detection]:
    """Greedy non-maximum suppression: of boxes that overlap (intersection over union) by more than `overlap`, the best score stays."""
    faces = sorted(faces, key=lambda face: -face.score)
    return [faces[i] for i in _suppressed(np.array([face.box for face in faces], np.float32).reshape(-1, 4), overlap)]


def _suppressed(boxes: NDArray[np.float32], overlap: float) -> list[int]:
    """Which rows of (n, 4) boxes, best first, remain."""
    if len(boxes) < 2:
        return list(range(len(boxes)))
    low, high, area = boxes[:, :2], boxes[:, :2] + boxes[:, 2:], boxes[:, 2] * boxes[:, 3]
    alive, kept = np.ones(len(boxes), bool), []
    for i in range(len(boxes)):
        if alive[i]:
            kept.append(i)
            side = np.clip(np.minimum(high[i], high) - np.maximum(low[i], low), 0, None)
            shared = side[:, 0] * side[:, 1]
            alive &= shared <= overlap * (area[i] + area - shared)
    return kept
