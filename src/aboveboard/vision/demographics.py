"""Guess the age and the gender that annotators would give a face in a picture: two small networks over one aligned crop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from aboveboard.biometrics.vocabulary import Gender
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

    def ranges(self, faces: NDArray[np.uint8]) -> list[tuple[int, int]]:
        """Of the views of n faces (n, views, 64, 64, 3) whole years that hold the true age of 80 % of people."""
        lows, highs = age_ranges(self.ages(faces), self.age_fit)
        return list(zip(lows.tolist(), highs.tolist(), strict=True))

    def genders(self, faces: NDArray[np.uint8]) -> list[Gender]:
        """Of the views of n faces (n, views, 64, 64, 3) the gender that annotators would see."""
        shares = chance_male(self.logits(faces), self.gender_fit).tolist()
        return [Gender("Male" if share > 0.5 else "Female", 100 * max(share, 1 - share)) for share in shares]

    def ages(self, faces: NDArray[np.uint8]) -> NDArray[np.float64]:
        """The network's own probabilities (n, 81) of AGES, the mean of a face's views."""
        return np.asarray(_over_views(self.age, faces).mean(axis=1))

    def logits(self, faces: NDArray[np.uint8]) -> NDArray[np.float64]:
        """The network's own logits (n,) of male against female, the mean of a face's views."""
        smaller = [cv2.resize(view, (GENDER_SIZE, GENDER_SIZE), interpolation=cv2.INTER_AREA) for face in faces for view in face]
        small = np.array(smaller, np.uint8).reshape(*faces.shape[:2], GENDER_SIZE, GENDER_SIZE, 3)
        shares = np.log(np.clip(_over_views(self.gender, small), 1e-9, 1.0))
        return np.asarray((shares[..., 1] - shares[..., 0]).mean(axis=1))


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


def _over_views(net: onnxruntime.InferenceSession, faces: NDArray[np.uint8]) -> NDArray[np.float64]:
    """What the network answers to each view (n, views, classes), some faces at a time."""
    batches = (faces[first : first + BATCH] for first in range(0, len(faces), BATCH))
    return np.concatenate([_run(net, some.reshape(-1, *some.shape[2:])).reshape(*some.shape[:2], -1) for some in batches])


def _run(net: onnxruntime.InferenceSession, chips: NDArray[np.uint8]) -> NDArray[np.float64]:
    blob = np.ascontiguousarray(((chips[..., ::-1].astype(np.float32) - MEAN) / np.float32(256)).transpose(0, 3, 1, 2))
    return np.asarray(net.run(None, {net.get_inputs()[0].name: blob})[0], np.float64)
