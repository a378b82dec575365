"""The recogniser: equal to OpenCV's own, and people are told apart."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from aboveboard.biometrics.matching import comparison_scores
from aboveboard.vision import media
from aboveboard.vision.detector import Detection
from aboveboard.vision.packs import Models, PackFolder


def largest(models: Models, image: media.Image) -> Detection:
    return max(models.detector.detect(image), key=lambda face: face.box[2] * face.box[3])


@pytest.fixture(scope="module")
def opencv(pack_folder: PackFolder) -> cv2.FaceRecognizerSF:
    card = pack_folder.card("yunet-sface")
    return cv2.FaceRecognizerSF.create(str(pack_folder.folder / card.id / card.recogniser.file), "")


def score_differences(models: Models, opencv: cv2.FaceRecognizerSF, images: list[media.Image]) -> np.ndarray:
    ours, theirs = [], []
    for image in images:
        face = largest(models, image)
        ours.append(models.recogniser.features(image, face.points))
        row = np.concatenate([face.box, face.points.ravel(), [face.score]]).astype(np.float32)
        features = opencv.feature(opencv.alignCrop(image, row[None])).ravel()
        theirs.append(features / np.linalg.norm(features))
    return np.abs(np.array(ours) @ np.array(ours).T - np.array(theirs) @ np.array(theirs).T)


def test_scores_equal_opencvs(models, opencv, photographs):
    """Comparison scores of all pairs lie within 1e-3 of cv2.FaceRecognizerSF's, for faces about as large as the network's input."""
    images = []
    for name in ("obama", "obama2", "obama3", "biden", "astronaut", "grace_hopper"):
        image = photographs[name]
        scale = 110 / float(largest(models, image).box[2])
        images.append(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
    assert score_differences(models, opencv, images).max() < 1e-3


def test_scores_equal_opencvs_on_a_hundred_photographs(models, opencv, measuring: Path):
    """The same on 100 photographs of LFW: 4,950 pairs."""
    images = [media.decode(file.read_bytes(), 10**8) for file in sorted(measuring.glob("lfw-a/*/*.jpg"))[::61]]
    assert len(images) > 100
    assert score_differences(models, opencv, images).max() < 1e-3


def test_the_same_person_scores_above_others(models, photographs):
    """Three photographs of one man score higher with each other than any of them with three other people's."""
    features = {name: models.recogniser.features(image, largest(models, image).points) for name, image in photographs.items()}
    mated = [features["obama"] @ features["obama2"], features["obama"] @ features["obama3"], features["obama2"] @ features["obama3"]]
    others = [features[mine] @ features[name] for mine in ("obama", "obama2", "obama3") for name in ("biden", "astronaut", "grace_hopper")]
    assert min(mated) > max(others) + 0.2


@pytest.mark.parametrize("factor", [2, 5, 12])
def test_a_large_photograph_gives_the_same_template_as_a_small_one(models, photographs, factor):
    """Enlarging a photograph changes its template little: large faces are averaged down, not sampled here and there."""
    image = photographs["grace_hopper"]
    big = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    noisy = np.clip(big + np.random.default_rng(0).normal(0, 25, big.shape), 0, 255).astype(np.uint8)
    one, other = (models.recogniser.features(picture, largest(models, picture).points) for picture in (image, noisy))
    assert comparison_scores(one, other[None])[0] > 0.93
