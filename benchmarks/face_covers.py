"""Things drawn before faces, since real ones are rare: hands, microphones, masks, sheets, patches; what is learnt of them is told of real
ones, which are labelled. Lengths are in px of the mesh's crop of 256 px, in which the eyes are some 70 apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from aboveboard.vision.media import Image
from aboveboard.vision.mesh import SIZE

Array = NDArray[np.float64]
Drawn = tuple[Array, NDArray[np.uint8]]
"""A picture and where it lies before the face (255)."""
FEATURES = [0, 17, 13, 14, 61, 291, 37, 267, 84, 314, 40, 270, 4, 1, 2, 98, 327, 33, 133, 159, 145, 362, 263, 386, 374]
"""Points of the mesh on lips, nose and eyes: a face with two of them behind something is covered, one with none of them is not."""
JAW = [234, 93, 132, 58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397, 288, 361, 323, 454]
CHEEKS, EDGES, JAWS, EYES = (50, 280, 205, 425, 151, 9), (234, 454, 127, 356, 10, 109, 338), (58, 288, 172, 397), (468, 473)


def pictures(crop: Image, mesh: Array, objects: list[Image], rng: np.random.Generator) -> Iterator[tuple[Image, bool]]:
    """The face as it is, covered twice, and with something harmless at its edge; `mesh` (478, 2) in the RGB crop."""
    draw = _Draw(crop, mesh, objects, rng)
    yield crop, False
    for make, is_right, covers in ((draw.cover, 2, True), (draw.cover, 2, True), (draw.harmless, 0, False)):
        for _ in range(20):
            picture, where = make()
            behind = int((where[tuple(mesh[FEATURES].clip(0, SIZE - 1).astype(int).T[::-1])] > 0).sum())
            if (behind >= is_right) if covers else (behind == 0):
                share = cv2.GaussianBlur(where / 255, (0, 0), rng.uniform(0.5, 1.8))[..., None]
                yield np.asarray(crop * (1 - share) + picture.clip(0, 255) * share, np.uint8), covers
                break


class _Draw:
    def __init__(self, crop: Image, mesh: Array, objects: list[Image], rng: np.random.Generator) -> None:
        self._crop, self._mesh, self._objects, self._rng = crop, mesh, objects, rng
        self._mouth, self._nose, self._chin = mesh[[13, 14]].mean(axis=0), mesh[4], mesh[152]

    def cover(self) -> Drawn:
        rng, mouth, nose = self._rng, self._mouth, self._nose
        kind = rng.random()
        if kind < 0.4:
            places = [mouth, nose, np.add(mouth, (0, 8)), *self._mesh[list(EYES)]]
            return self._hand(places[rng.choice(5, p=[0.35, 0.2, 0.25, 0.1, 0.1])] + rng.normal(0, 7, 2))
        if kind < 0.65:
            return self._microphone(mouth + rng.normal(0, 7, 2) + [0, rng.uniform(0, 10)])
        if kind < 0.8:
            return self._mask()
        if kind < 0.85:
            return self._sheet()
        places = [mouth, nose, np.add(mouth, (rng.choice([-15, 15]), 0)), *self._mesh[list(EYES)]]
        centre = places[rng.choice(5, p=[0.4, 0.2, 0.2, 0.1, 0.1])] + rng.normal(0, 6, 2)
        return self._texture(), self._blob(centre, rng.uniform(12, 40), rng.uniform(10, 34))

    def harmless(self) -> Drawn:
        rng, kind = self._rng, self._rng.random()
        if kind < 0.35:
            return self._hand(np.add(self._chin, (rng.normal(0, 20), rng.uniform(2, 14))))
        if kind < 0.65:
            return self._microphone(np.add(self._chin, (rng.normal(0, 25), rng.uniform(18, 45))))
        if kind < 0.8:
            return self._texture(), self._blob(self._beyond(EDGES, rng.uniform(0.1, 0.4)), rng.uniform(8, 18), rng.uniform(8, 18))
        return self._hand(self._beyond(JAWS, 0.1))

    def _beyond(self, points: tuple[int, ...], share: float) -> Array:
        edge = self._mesh[self._rng.choice(points)]
        return np.asarray(edge + share * (edge - self._nose))

    def _hand(self, tip: Array) -> Drawn:
        """An arm, a palm and up to four fingers that end at `tip`, darker at their borders, with skin from the face."""
        rng = self._rng
        turn = np.pi / 2 + rng.uniform(-0.9, 0.9) if rng.random() < 0.7 else rng.choice([0, np.pi]) + rng.uniform(-0.5, 0.5)
        along = np.array([np.cos(turn), np.sin(turn)])
        palm, width, fingers = tip + rng.uniform(30, 70) * along, rng.uniform(9, 15), int(rng.integers(1, 5))
        arm = np.zeros((SIZE, SIZE), np.uint8)
        cv2.ellipse(arm, _px(palm), (int(rng.uniform(22, 40)), int(rng.uniform(20, 34))), np.degrees(turn), 0, 360, 255, -1)
        cv2.line(arm, _px(palm), _px(palm + 90 * along + rng.normal(0, 20, 2)), 255, int(rng.uniform(28, 50)))
        parts = [arm]
        for number in range(fingers):
            aside = (number - (fingers - 1) / 2) * width * np.array([-along[1], along[0]])
            parts.append(np.zeros_like(arm))
            cv2.line(parts[-1], _px(tip + 1.05 * aside + rng.uniform(-6, 12) * along), _px(palm + 0.8 * aside), 255, int(width))
        picture = skin = self._skin()
        for part in parts:
            light = 0.55 + 0.45 * np.minimum(1, cv2.distanceTransform(part, cv2.DIST_L2, 3) / rng.uniform(4, 8))
            picture = np.where(part[..., None] > 0, skin * light[..., None], picture)
        return picture, np.max(parts, axis=0)

    def _skin(self) -> Array:
        rng, side = self._rng, int(self._rng.integers(9, 16))
        left, top = (self._mesh[rng.choice(CHEEKS)] - side / 2).clip(0, SIZE - 1 - side).astype(int)
        tint = rng.uniform(0.7, 1.2) * (1 + rng.normal(0, [0.045, 0.075, 0.09]))
        return _filling(self._crop[top : top + side, left : left + side]) * tint

    def _microphone(self, centre: Array) -> Drawn:
        rng, radius = self._rng, self._rng.uniform(10, 22)
        where = np.zeros((SIZE, SIZE), np.uint8)
        cv2.ellipse(where, _px(centre), (int(radius), int(radius * rng.uniform(1, 1.5))), rng.uniform(-40, 40), 0, 360, 255, -1)
        cv2.line(where, _px(centre), _px(np.add(centre, (rng.uniform(-30, 30), 120))), 255, int(radius * rng.uniform(0.7, 1.4)))
        down, across = np.mgrid[:SIZE, :SIZE]
        shine = np.exp(-(np.hypot(across - centre[0] + 0.35 * radius, down - centre[1] + 0.35 * radius) ** 2) / (1.28 * radius**2))
        colour = np.full(3, rng.uniform(15, 70)) if rng.random() < 0.7 else rng.uniform(40, 220, 3)
        net = 0.25 * np.sign(np.sin(1.7 * across) * np.sin(1.7 * down)) if rng.random() < 0.5 else np.zeros((SIZE, SIZE))
        return colour * ((0.5 + 0.9 * shine) * (1 + net))[..., None], where

    def _mask(self) -> Drawn:
        """Along the jaw, or a smaller one over nose, mouth and chin."""
        rng, cut = self._rng, int(self._rng.integers(0, 5))
        where, tip = np.zeros((SIZE, SIZE), np.uint8), self._mesh[[rng.choice([6, 4, 2], p=[0.4, 0.36, 0.24])]]
        if rng.random() < 0.5:
            rim = np.concatenate([self._mesh[JAW[cut : len(JAW) - cut]], tip])
        else:
            across = self._mesh[263] - self._mesh[33]
            above, below = rng.uniform(0.3, 0.5) * across, rng.uniform(0.15, 0.32) * across
            rim = np.array([self._nose - above, tip[0], self._nose + above, self._chin + below, self._chin - below])
        cv2.fillPoly(where, [rim.astype(np.int32)], 255)
        if rng.random() < 0.4:
            return self._texture(), where
        shade = np.linspace(rng.uniform(0.7, 1.1), rng.uniform(0.7, 1.1), SIZE)[:, None, None]
        return np.ones((SIZE, SIZE, 3)) * rng.uniform(30, 240, 3) * shade, where

    def _sheet(self) -> Drawn:
        """From below up to the mouth, or from one side up to an eye."""
        rng, where = self._rng, np.zeros((SIZE, SIZE), np.uint8)
        if rng.random() < 0.6:
            where[int(self._mouth[1] + rng.uniform(-25, 4)) :] = 255
        else:
            x = int(self._mesh[rng.choice(EYES), 0] + rng.uniform(-6, 6))
            where[:, slice(None, x) if x < SIZE / 2 else slice(x, None)] = 255
        turn = cv2.getRotationMatrix2D((SIZE / 2, SIZE / 2), rng.uniform(-15, 15), 1)
        return self._texture(), np.asarray(cv2.warpAffine(where, turn, (SIZE, SIZE), borderMode=cv2.BORDER_REPLICATE), np.uint8)

    def _texture(self) -> Array:
        """A piece of a photograph of something else, or one colour."""
        rng = self._rng
        if rng.random() < 0.4:
            return rng.uniform(0, 255, 3) + rng.normal(0, 4, (SIZE, SIZE, 3))
        source = self._objects[rng.integers(len(self._objects))]
        side = int(min(source.shape[:2]) * rng.uniform(0.2, 0.9))
        top, left = rng.integers(source.shape[0] - side), rng.integers(source.shape[1] - side)
        return _filling(source[top : top + side, left : left + side]) * rng.uniform(0.5, 1.2)

    def _blob(self, centre: Array, across: float, down: float) -> NDArray[np.uint8]:
        rng, where = self._rng, np.zeros((SIZE, SIZE), np.uint8)
        turns, far = np.sort(rng.uniform(0, 2 * np.pi, 9)), rng.uniform(0.7, 1.15, (9, 1))
        outlines: list[Callable[[], Array]] = [
            lambda: np.asarray(cv2.ellipse2Poly(_px(centre), (int(across), int(down)), int(rng.uniform(0, 180)), 0, 360, 10), float),
            lambda: np.asarray(cv2.boxPoints((centre.tolist(), (2 * across, 2 * down), rng.uniform(-40, 40))), float),
            lambda: np.asarray(centre + far * np.column_stack([across * np.cos(turns), down * np.sin(turns)])),
        ]
        cv2.fillPoly(where, [outlines[rng.integers(3)]().astype(np.int32)], 255)
        return where


def _px(point: Array) -> tuple[int, int]:
    return int(point[0]), int(point[1])


def _filling(piece: Image) -> Array:
    return np.asarray(cv2.resize(np.ascontiguousarray(piece), (SIZE, SIZE)), float)
