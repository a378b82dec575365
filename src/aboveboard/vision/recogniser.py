"""Make a template of a face: align it by five points, run the recogniser, normalise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from aboveboard.biometrics.vocabulary import Vector
from aboveboard.vision.media import Image

ARCFACE_POINTS = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float64)
"""Where the five landmarks lie in a 112 x 112 crop (Deng et al., "ArcFace", 2019)."""


@dataclass(frozen=True, slots=True)
class Features:
    """Unit features (d,) of a face, and the length that they had before: short where the network cannot make much of the face."""

    vector: Vector
    norm: float


class Recogniser(Protocol):
    """What turns a face of an upright BGR image into features."""

    @property
    def dimensions(self) -> int: ...

    def embed(self, image: Image, points: NDArray[np.float32]) -> Features: ...

    def features(self, image: Image, points: NDArray[np.float32]) -> Vector: ...


@dataclass(frozen=True)
class Embedder:
    """A network that takes an aligned square crop and gives features: SFace, ArcFace and their kin.

    Input (1, 3, size, size) float32 in `colour` order, (pixel - mean) x scale; output (1, dimensions), normalised here.
    """

    session: onnxruntime.InferenceSession
    input: str
    dimensions: int
    size: int
    colour: str
    mean: float
    scale: float

    def features(self, image: Image, points: NDArray[np.float32]) -> Vector:
        return self.embed(image, points).vector

    def embed(self, image: Image, points: NDArray[np.float32]) -> Features:
        crop = align(image, points, self.size)
        planes = cv2.split(crop)[:: -1 if self.colour == "RGB" else 1]
        blob = np.array([planes], np.float32)
        if self.mean or self.scale != 1:
            blob = (blob - np.float32(self.mean)) * np.float32(self.scale)
        output = self.session.run(None, {self.input: blob})[0]
        vector = np.asarray(output, np.float64).reshape(-1)
        norm = float(np.linalg.norm(vector))
        return Features((vector / max(norm, 1e-12)).astype(np.float32), norm)


def align(image: Image, points: NDArray[np.float32], size: int) -> Image:
    """The face as an upright square crop of `size` px: similarity transform of the five landmarks onto ARCFACE_POINTS, bilinear."""
    return align_to(image, points, ARCFACE_POINTS * (size / 112), size)


def align_to(image: Image, points: NDArray[np.float32], target: NDArray[np.float64], size: int) -> Image:
    """A square crop of `size` px in which n points of the image (n, 2) lie as near to `target` (n, 2) as a similarity brings them."""
    return crop(image, points, size, lambda exact: similarity_transform(exact, target))


def crop(image: Image, points: NDArray[np.float32], size: int, transform_of: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Image:
    """A square of `size` px around a face, by the 2 x 3 transform that its points ask for, bilinear.

    A face much larger than the crop is first brought down by area averaging, or bilinear sampling would skip most of its pixels.
    """
    exact = points.astype(np.float64)
    transform = transform_of(exact)
    scale = float(np.hypot(transform[0, 0], transform[1, 0]))
    if scale < 0.5:
        image, exact = _shrunk(image, exact, scale)
        transform = transform_of(exact)
    return np.asarray(cv2.warpAffine(image, transform, (size, size), flags=cv2.INTER_LINEAR), np.uint8)


def _shrunk(image: Image, points: NDArray[np.float64], scale: float) -> tuple[Image, NDArray[np.float64]]:
    """The face's surroundings at `scale` (of their size) and the points therein.

    Half pixels are left out, so that the points lie up to half a pixel of the result aside. Mended, it would make another template of
    every large face (cosine 0.99) and no better one: of 637 mated comparisons of congress-a 614 instead of 613 reach similarity 80.
    """
    reach = 2.5 * float(np.ptp(points, axis=0).max())
    middle = points.mean(axis=0)
    low = np.clip(np.floor(middle - reach), 0, None).astype(int)
    high = np.minimum(np.ceil(middle + reach).astype(int), [image.shape[1], image.shape[0]])
    region = image[low[1] : max(high[1], low[1] + 1), low[0] : max(high[0], low[0] + 1)]
    if region.size == 0:
        return image, points
    width, height = (max(1, round(side * scale)) for side in (region.shape[1], region.shape[0]))
    small = cv2.resize(region, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8), (points - low) * [width / region.shape[1], height / region.shape[0]]


def similarity_transform(source: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """The 2 x 3 rotation, uniform scale and shift that brings n points closest to n others in least squares (Umeyama 1991)."""
    mean_s, mean_t = source.mean(axis=0), target.mean(axis=0)
    centred_s, centred_t = source - mean_s, target - mean_t
    # In the plane the optimum has a closed form: a complex number times each centred point.
    z_s, z_t = centred_s @ np.array([1, 1j]), centred_t @ np.array([1, 1j])
    turn = np.vdot(z_s, z_t) / max(float(np.vdot(z_s, z_s).real), 1e-12)
    linear = np.array([[turn.real, -turn.imag], [turn.imag, turn.real]])
    return np.hstack([linear, (mean_t - linear @ mean_s)[:, None]])
