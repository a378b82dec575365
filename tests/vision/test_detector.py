"""The detector: equal to OpenCV's own decoder, and faces of every size are found."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from aboveboard.vision import media
from aboveboard.vision.packs import Models, PackFolder

PORTRAITS = ["obama", "obama2", "obama3", "biden", "astronaut", "grace_hopper"]


@pytest.fixture(scope="module")
def opencv(pack_folder: PackFolder) -> cv2.FaceDetectorYN:
    card = pack_folder.card("yunet-sface")
    return cv2.FaceDetectorYN.create(str(pack_folder.folder / card.id / card.detector.file), "", (320, 320), 0.6, 0.3, 5000)


def same_as_opencv(models: Models, opencv: cv2.FaceDetectorYN, image: media.Image) -> int:
    opencv.setInputSize((image.shape[1], image.shape[0]))
    _, rows = opencv.detect(image)
    expected = sorted(rows if rows is not None else [], key=lambda row: -row[14])
    found = models.detector.detect_at(image, 1.0)
    assert len(found) == len(expected)
    for one, row in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.concatenate([one.box, one.points.ravel(), [one.score]]), row, atol=2e-3)
    return len(found)


@pytest.mark.parametrize("name", PORTRAITS)
def test_one_pass_gives_what_opencvs_decoder_gives(models, opencv, photographs, name):
    """Boxes, landmarks and scores of one pass equal cv2.FaceDetectorYN's, whatever the image's size."""
    for side in (250, 333, 640):
        image = photographs[name]
        scale = side / max(image.shape[:2])
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        assert same_as_opencv(models, opencv, small) >= 1


def test_one_pass_equals_opencv_on_hundreds_of_photographs(models, opencv, measuring: Path):
    """The same on 300 photographs of LFW, faces in the background included."""
    files = sorted(measuring.glob("lfw-a/*/*.jpg"))[::20]
    assert len(files) > 300
    assert sum(same_as_opencv(models, opencv, media.decode(file.read_bytes(), 10**8)) for file in files) >= len(files)


@pytest.mark.parametrize("side", [20, 40, 120, 300, 450, 800, 1400, 2000])
@pytest.mark.parametrize("name", ["obama", "biden", "grace_hopper"])
def test_faces_from_20_px_to_close_ups_of_2000_px_are_found_once(models, photographs, name, side):
    """A portrait scaled so that its face is `side` px wide gives that face, where it is, and no second one on top of it."""
    image = photographs[name]
    whole = max(models.detector.detect(image), key=lambda face: face.box[2] * face.box[3])
    scale = side / float(min(whole.box[2:]))
    scaled = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    canvas = np.full((max(120, scaled.shape[0]), max(120, scaled.shape[1]), 3), 128, np.uint8)
    canvas[: scaled.shape[0], : scaled.shape[1]] = scaled
    found = models.detector.detect(canvas)
    near = [face for face in found if np.hypot(*(face.points.mean(axis=0) - whole.points.mean(axis=0) * scale)) < 0.5 * side]
    assert len(near) == 1
    np.testing.assert_allclose(near[0].points, whole.points * scale, atol=0.2 * side + 1)


def test_an_image_without_a_face_has_none(models):
    """Grey, noise and a gradient hold no face."""
    noise = np.random.default_rng(1).integers(0, 255, (300, 400, 3)).astype(np.uint8)
    gradient = np.repeat(np.linspace(0, 255, 400).astype(np.uint8)[None, :, None], 300, axis=0).repeat(3, axis=2)
    for image in (np.full((300, 400, 3), 128, np.uint8), noise, np.ascontiguousarray(gradient)):
        assert models.detector.detect(image) == []
