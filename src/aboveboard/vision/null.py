"""Weightless deterministic stand-ins: they see faces drawn by `draw`, for tests and tutorials. Never for people.

A drawn face is a magenta frame around an 8 x 8 board of grey cells. The frame is the face, the board its identity: the
template is the board's cells less their mean, so that two boards of independent cells have a cosine of about 0 +- 0.13.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from aboveboard.biometrics.vocabulary import (
    ATTRIBUTES,
    EMOTIONS,
    AttributeName,
    Attributes,
    Gaze,
    Gender,
    Judgement,
    Landmark,
    Pose,
    Vector,
)
from aboveboard.vision import colours
from aboveboard.vision.attributes import Reading
from aboveboard.vision.detector import Detection
from aboveboard.vision.media import Image
from aboveboard.vision.mesh import LANDMARKS
from aboveboard.vision.recogniser import Features

CELLS = 8
_POINTS = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]], np.float32)


def draw(image: Image, left: int, top: int, size: int, subject: int, variation: float = 0.0, take: int = 0) -> None:
    """Draw a face of `subject` into a BGR image: a frame of `size` px around its board.

    `variation` 0-1 mixes in noise that differs with `take`: 0 gives the same board each time, 0.5 two takes of cosine about 0.5.
    """
    board = np.random.default_rng([subject, 0]).normal(size=(CELLS, CELLS))
    noise = np.random.default_rng([subject, 1, take]).normal(size=(CELLS, CELLS))
    cells = board * (1 - variation) + noise * variation
    cells = np.clip(128 + 45 * (cells - cells.mean()) / cells.std(), 5, 250).astype(np.uint8)
    edge = max(2, size // 12)
    cv2.rectangle(image, (left, top), (left + size - 1, top + size - 1), (255, 0, 255), -1)
    inner = size - 2 * edge
    face = cv2.resize(cells, (inner, inner), interpolation=cv2.INTER_NEAREST)
    image[top + edge : top + edge + inner, left + edge : left + edge + inner] = face[:, :, None]


class NullDetector:
    """Finds the magenta frames."""

    def detect(self, image: Image) -> list[Detection]:
        blue, green, red = cv2.split(image)
        frame = (cv2.subtract(cv2.min(blue, red), green) > 100).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(frame, connectivity=8)
        faces = []
        for x, y, width, height, _ in stats[1:]:
            if min(width, height) >= 16 and 0.8 < width / height < 1.25:
                box = np.array([x, y, width, height], np.float32)
                faces.append(Detection(box, box[:2] + _POINTS * box[2:], 0.99))
        return faces


class NullRecogniser:
    """Reads the board inside the frame that the five points span."""

    dimensions = CELLS * CELLS

    def features(self, image: Image, points: NDArray[np.float32]) -> Vector:
        return self.embed(image, points).vector

    def embed(self, image: Image, points: NDArray[np.float32]) -> Features:
        span = np.array([points[1, 0] - points[0, 0], points[3, 1] - points[0, 1]]) / 0.4
        corner = points[0] - _POINTS[0] * span
        edge = max(2, int(span[0]) // 12)
        (x, y), (width, height) = np.round(corner).astype(int) + edge, np.round(span).astype(int) - 2 * edge
        grey = image[max(y, 0) : y + height, max(x, 0) : x + width].mean(axis=2)
        cells = cv2.resize(grey, (CELLS, CELLS), interpolation=cv2.INTER_AREA).reshape(-1).astype(np.float64)
        cells -= cells.mean()
        length = float(np.linalg.norm(cells))
        # A plain board has no identity; what remains of it is rounding.
        return Features(np.asarray(cells / length if length > 1e-6 else np.zeros_like(cells), np.float32), length)


class NullAttributes:
    """Reads attributes off the board: each has a row of cells of its own, and is there where that is brighter than the board."""

    assessed = frozenset(ATTRIBUTES)

    def read(self, image: Image, found: Sequence[Detection], wanted: Collection[AttributeName], *, mesh: bool) -> list[Reading]:
        return [self._read(image, one, wanted, mesh=mesh) for one in found]

    def _read(self, image: Image, one: Detection, wanted: Collection[AttributeName], *, mesh: bool) -> Reading:
        rows = NullRecogniser().features(image, one.points).reshape(CELLS, CELLS).mean(axis=1).astype(float) * 10
        said: dict[str, Any] = {}
        for name in wanted:
            level = float(rows[ATTRIBUTES.index(name) % CELLS])
            sure = 50 + 50 * min(abs(level), 1.0)
            match name:
                case "age_range":
                    middle = round(40 + 20 * max(-1.0, min(1.0, level)))
                    said[name] = (middle - 5, middle + 5)
                case "gender":
                    said[name] = Gender("Male" if level > 0 else "Female", sure)
                case "emotions":
                    shares = np.exp(np.clip(rows, -20, 20))
                    said[name] = tuple(sorted(zip(EMOTIONS, (100 * shares / shares.sum()).tolist(), strict=True), key=lambda one: -one[1]))
                case "eye_direction":
                    said[name] = Gaze(30 * max(-1.0, min(1.0, level)), 0.0, sure)
                case _:
                    said[name] = Judgement(level > 0, sure)
        if not mesh:
            return Reading(Attributes(**said))
        height, width = image.shape[:2]
        x, y = (one.box[:2] + one.box[2:] / 2).tolist()
        return Reading(Attributes(**said), tuple(Landmark(name, x / width, y / height) for name in LANDMARKS), Pose(0.0, 0.0, 0.0))


class NullLabeller:
    """Sees colours: which share of the pixels has which, in the order of taxonomies/colours.tsv."""

    NAMES = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "brown", "black", "grey", "white")

    def probabilities(self, image: Image) -> NDArray[np.float64]:
        shares = np.zeros(len(self.NAMES))
        for colour in colours.dominant(image, 20):
            shares[self.NAMES.index(colour.simple)] += colour.share
        return shares
