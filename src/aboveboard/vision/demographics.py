"""Guess the age and the gender that annotators would give a face in a picture: two small networks over one aligned crop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from aboveboard.errors import BadRequest
from aboveboard.vision import session
from aboveboard.vision.media import Image
from aboveboard.vision.recogniser import align_to

DETECTOR_POINTS: Final = np.array([[0.2233, 0.2045], [0.7586, 0.2045], [0.4910, 0.4952], [0.2662, 0.7486], [0.7158, 0.7486]])
"""Where the detector's five landmarks lie in the square of side 1, without padding, in which dlib's get_face_chip_details
(image_transforms/interpolation.h) has the corners of the eyes and the base of the nose at fixed places: their mean over the chips that dlib
20.0.1 makes of utkface-a, made symmetric."""

NEARER: Final = 0.15
MEAN: Final = np.array([122.782, 117.001, 104.298], np.float32)
AGE_SIZE, GENDER_SIZE, BATCH = 64, 32, 8
AGES: Final = np.array([0.25, *range(1, 81)])


@dataclass(frozen=True)
class AgeFit:
    """What makes an interval of the network's 81 probabilities: see `age_ranges`. `margin` in years."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    margin: float
    provenance: str = ""

    def __post_init__(self) -> None:
        if not np.isfinite([*self.low, *self.high, self.margin]).all():
            raise ValueError("of age every number must be finite")


@dataclass(frozen=True)
class GenderFit:
    """One for all people: P(male) = lapse / 2 + (1 - lapse) / (1 + exp(-slope x logit)).

    Platt scaling (Platt 1999) with the network's own threshold, and a share of faces of which the network, however sure, knows nothing.
    """

    slope: float
    lapse: float
    provenance: str = ""

    def __post_init__(self) -> None:
        if not (0 < self.slope < np.inf and 0 <= self.lapse < 1):
            raise ValueError("of gender the slope must be above 0 and the lapse 0 to 1")


@dataclass(frozen=True, slots=True)
class Demographics:
    """Of one face: the expected age in years, a range of whole years fitted to hold the true age of 80 % of people, and the gender that
    annotators would see, with its confidence (50-100)."""

    age: float
    age_range: tuple[int, int]
    is_male: bool
    gender_confidence: float


def chip(image: Image, points: NDArray[np.float32], size: int, padding: float = 0.2) -> Image:
    """The face's square crop of `size` px as dlib's get_face_chip makes it, from the detector's five landmarks (5, 2) in pixels."""
    return align_to(image, points, (padding + DETECTOR_POINTS) / (2 * padding + 1) * size, size)


def views(image: Image, points: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The two crops (2, 64, 64, 3) that the networks look at: as they were trained, and a little nearer and mirrored.

    The mean of two unlike crops is better than either, and than of one crop and its mirror image (docs/how-good.md#which-views-of-a-face).
    """
    return np.stack([chip(image, points, AGE_SIZE), chip(image, points, AGE_SIZE, NEARER)[:, ::-1]])


@dataclass(frozen=True)
class AgeGender:
    """dlib's age predictor (ResNet-10) and gender classifier of Cydral, as ONNX graphs.

    Input of both (N, 3, size, size) float32, (RGB - MEAN) / 256; output of the first (N, 81), probabilities of the years 0-80, of the
    second (N, 2), of female and male. Of the two `views` of a face the mean counts.
    """

    age: onnxruntime.InferenceSession
    gender: onnxruntime.InferenceSession
    age_fit: AgeFit
    gender_fit: GenderFit

    @staticmethod
    def opened(age: bytes, gender: bytes, age_fit: AgeFit, gender_fit: GenderFit) -> AgeGender:
        """Of the bytes of age-v1.onnx and gender-v1.onnx; raises BadRequest for other files."""
        nets = (_opened("age", age, AGE_SIZE, len(AGES)), _opened("gender", gender, GENDER_SIZE, 2))
        return AgeGender(*nets, age_fit, gender_fit)

    def run(self, image: Image, points: Sequence[NDArray[np.float32]]) -> list[Demographics]:
        """What each face says, of the detector's five landmarks (5, 2) in pixels of an upright BGR image."""
        return self.judged(*self.raw(np.stack([views(image, each) for each in points]))) if len(points) else []

    def raw(self, faces: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Of the views of n faces (n, views, 64, 64, 3): ages (n, 81) and logits of male against female (n,), not fitted."""
        ages, logits = [], []
        for first in range(0, len(faces), BATCH):
            some = np.asarray(faces[first : first + BATCH], np.uint8)
            large = some.reshape(-1, AGE_SIZE, AGE_SIZE, 3)
            small = np.array([cv2.resize(each, (GENDER_SIZE, GENDER_SIZE), interpolation=cv2.INTER_AREA) for each in large], np.uint8)
            ages.append(_run(self.age, large).reshape(*some.shape[:2], -1).mean(axis=1))
            shares = np.log(np.clip(_run(self.gender, small), 1e-9, 1.0)).reshape(*some.shape[:2], 2)
            logits.append((shares[..., 1] - shares[..., 0]).mean(axis=1))
        return np.concatenate(ages), np.concatenate(logits)

    def judged(self, ages: NDArray[np.float64], logits: NDArray[np.float64]) -> list[Demographics]:
        """What `raw` means under the two fits."""
        male = chance_male(logits, self.gender_fit)
        lows, highs = age_ranges(ages, self.age_fit)
        return [
            Demographics(float(age), (int(low), int(high)), bool(share > 0.5), float(100 * max(share, 1 - share)))
            for age, low, high, share in zip(ages @ AGES, lows, highs, male, strict=True)
        ]


def chance_male(logits: NDArray[np.float64], fit: GenderFit) -> NDArray[np.float64]:
    """The chance (n,), 0-1, that annotators call a face of this logit male."""
    return np.asarray(fit.lapse / 2 + (1 - fit.lapse) / (1 + np.exp(-fit.slope * logits)))


def age_ranges(ages: NDArray[np.float64], fit: AgeFit) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Lowest and highest whole years (n,) of probabilities (n, 81), 0-100.

    Conformalised quantile regression (Romano et al. 2019): both ends are linear in the mean and the standard deviation of the network's
    ages, fitted as the 10 % and 90 % quantiles of true ages, and moved apart by the margin that holds 80 % of people that the lines were
    not fitted on.
    """
    features = moments(ages)
    low, high = features @ np.array(fit.low) - fit.margin, features @ np.array(fit.high) + fit.margin
    whole_low = np.clip(np.rint(np.minimum(low, high)), 0, 100).astype(np.int64)
    return whole_low, np.clip(np.rint(np.maximum(low, high)), whole_low, 100).astype(np.int64)


def moments(ages: NDArray[np.float64]) -> NDArray[np.float64]:
    """1, mean and standard deviation (n, 3) of the ages that probabilities (n, 81) mean."""
    mean = ages @ AGES
    spread = np.sqrt(np.maximum(ages @ AGES**2 - mean**2, 0))
    return np.stack([np.ones(len(mean)), mean, spread], axis=1)


def _opened(name: str, data: bytes, size: int, classes: int) -> onnxruntime.InferenceSession:
    """A model that is not the one that its name says is found now, not by the first photograph."""
    graph = session.parse(data)
    session.drop_denormals(graph)
    opened = session.open_session(graph)
    text = f"the {name} network does not take a face of {size} x {size} px; name dlib's {name}-v1 in the card"
    found = session.tried(lambda: _run(opened, np.zeros((1, size, size, 3), np.uint8)).shape, text)
    if found != (1, classes):
        raise BadRequest(f"the {name} network answers {found}, not (1, {classes}); name dlib's {name}-v1 in the card")
    return opened


def _run(net: onnxruntime.InferenceSession, chips: NDArray[np.uint8]) -> NDArray[np.float64]:
    blob = np.ascontiguousarray(((chips[..., ::-1].astype(np.float32) - MEAN) / np.float32(256)).transpose(0, 3, 1, 2))
    return np.asarray(net.run(None, {net.get_inputs()[0].name: blob})[0], np.float64)
