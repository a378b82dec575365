"""The unified quality, its file, and the measures of brightness and sharpness."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from scipy.special import expit

from aboveboard.biometrics.quality import UnifiedQuality
from aboveboard.vision import measures
from aboveboard.vision.media import Image
from aboveboard.vision.packs import PackFolder

DOCUMENT: dict[str, Any] = {
    "id": "made", "model_version": "9.1", "similarity": 80, "middle": 10, "slope": 1.2,
    "bars": {"AUTO": 20, "LOW": 20, "MEDIUM": 50, "HIGH": 80},
}  # fmt: skip


def test_the_score_is_a_chance_in_per_cent() -> None:
    fitted = UnifiedQuality.from_json(json.dumps(DOCUMENT))
    lengths = [0, 5, 9.5, 10, 11, 20, 1e9]
    assert [fitted.score(length) for length in lengths] == pytest.approx([100 * expit(1.2 * (length - 10)) for length in lengths], abs=1e-9)
    assert [fitted.score(length) for length in (float("nan"), float("inf"))] == [0, 0]


@pytest.mark.parametrize(
    "change",
    [{"slope": -1}, {"slope": None}, {"bars": {"LOW": 20, "MEDIUM": 50, "HIGH": 80}}, {"middle": "wide"}, {"middle": float("nan")},
     {"bars": {"AUTO": 20, "LOW": 60, "MEDIUM": 50, "HIGH": 80}}, {"bars": {"AUTO": 20, "LOW": 20, "MEDIUM": 50, "HIGH": 101}}],
)  # fmt: skip
def test_a_file_of_another_form_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not a file of a fitted quality"):
        UnifiedQuality.from_json(json.dumps({**DOCUMENT, **change}))


def test_the_shipped_one_belongs_to_the_default_pack(tmp_path: Path) -> None:
    """It is of the card's model version, made with the calibration that ships, and says on what data."""
    folder = PackFolder(tmp_path)
    card = folder.face_card("yunet-sface")
    fitted, calibration = folder.quality(card), folder.calibration("yunet-sface")
    assert fitted is not None
    assert calibration is not None
    assert fitted.model_version == card.model_version
    assert fitted.provenance["calibration"] == {"id": calibration.id, "sha256": calibration.sha256}
    assert set(fitted.provenance["data_sets"]) == {"lfw-a", "congress-a"}
    assert fitted.score(25) > 99 > 1 > fitted.score(3)


def texture(size: int = 240) -> Image:
    """Blotches of every size."""
    rng = np.random.default_rng(0)
    layers = [cv2.resize(rng.normal(size=(n, n)), (size, size), interpolation=cv2.INTER_CUBIC) for n in (4, 8, 16, 32, 64)]
    grey = np.clip(128 + 25 * sum(layers), 0, 255).astype(np.uint8)
    return np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR), np.uint8)


def measured(image: Image) -> tuple[float, float]:
    height, width = image.shape[:2]
    quality = measures.quality(image, np.array([0, 0, width, height], np.float32))
    assert 0 <= quality.brightness <= 100
    assert 0 <= quality.sharpness <= 100
    return quality.brightness, quality.sharpness


def test_brightness_falls_with_the_light() -> None:
    found = [measured(np.asarray(texture() * light, np.uint8))[0] for light in (1, 0.7, 0.4, 0.2, 0.1, 0.02, 0)]
    assert all(more > less for more, less in pairwise(found))


@pytest.mark.parametrize("fault", ["blur", "size"])
def test_sharpness_falls_with_blur_and_with_size(fault: str) -> None:
    """A face of few pixels is not sharp, whatever the enlargement makes of their edges."""
    image = texture()
    if fault == "blur":
        worse = [cv2.GaussianBlur(image, (0, 0), sigma) for sigma in (0.5, 2, 4, 8, 16)]
    else:
        worse = [cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA) for side in (80, 60, 40, 25, 15)]
    found = [measured(np.asarray(one, np.uint8))[1] for one in worse]
    assert all(more >= less for more, less in pairwise(found))
    assert found[-1] < found[0] / 2
