"""Expressions without photographs: eight that sum to 100, moved by the network and by the mesh; fits that do not fit are refused."""

from __future__ import annotations

import numpy as np
import pytest

from aboveboard.biometrics.vocabulary import EMOTIONS
from aboveboard.errors import BadRequest
from aboveboard.vision import mesh
from aboveboard.vision.emotions import CLASSES, EmotionFit, Expressions, confidences, evidence

FIT = EmotionFit(0.6, (-2.0, -2.6, -3.2, -5.2, -3.9, -3.1, 0.0, -4.7), (1.6, 0, 2.9, 0, 0, 1.6, 0, 0))
STILL = dict.fromkeys(mesh._BLENDSHAPES, 0.0)
POINTS = np.array([[70, 80], [130, 80], [100, 110], [75, 140], [125, 140]], np.float32)


class Seeing:
    """A session of a network that sees one expression on every face, with a share of 0.7."""

    def __init__(self, name: str) -> None:
        self.shares = np.full(len(CLASSES), 0.05, np.float32)
        self.shares[CLASSES.index(name)] = 0.7

    def run(self, _, given):
        (faces,) = given.values()
        assert faces.shape[1:] == (64, 64, 1)
        assert -1 <= faces.min() <= faces.max() <= 1
        return [np.tile(self.shares, (len(faces), 1))]


def said(name: str, moves: dict[str, float], count: int = 1):
    image = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    return Expressions(Seeing(name), FIT).run(image, [POINTS] * count, [STILL | moves] * count)


@pytest.mark.parametrize("name", CLASSES)
def test_all_eight_are_said_of_each_face_the_surest_first_and_sum_to_100(name):
    found = said(name, {"mouthSmileLeft": 0.2}, count=11)
    assert len(found) == 11
    for each in found:
        assert {one for one, _ in each} == set(EMOTIONS)
        sure = [value for _, value in each]
        assert sure == sorted(sure, reverse=True)
        assert sum(sure) == pytest.approx(100)
    assert said(name, {}, count=0) == []


@pytest.mark.parametrize(("name", "moves"), [
    ("HAPPY", {"mouthSmileLeft": 1.0, "mouthSmileRight": 1.0}),
    ("ANGRY", {"browDownLeft": 1.0, "browDownRight": 1.0}),
    ("SURPRISED", {"browInnerUp": 1.0, "jawOpen": 1.0, "eyeWideLeft": 1.0}),
])  # fmt: skip
def test_network_and_mesh_both_speak_for_an_expression(name, moves):
    """A smile makes HAPPY surer, whatever the network sees; and so does a network that sees it, whatever moves."""
    for seen in CLASSES:
        assert dict(said(seen, moves)[0])[name] > dict(said(seen, {})[0])[name]
    assert dict(said(name, {})[0])[name] == max(dict(said(seen, {})[0])[name] for seen in CLASSES)
    assert said(name, moves)[0][0][0] == name


def test_nothing_is_certain_of_a_network_that_is():
    """Shares of 0 and 1 give no 0 and no 100."""
    found = confidences(*evidence(np.eye(len(CLASSES)), [STILL] * len(CLASSES)), FIT)
    assert np.isfinite(found).all()
    assert found.min() > 0
    assert found.max() < 1


@pytest.mark.parametrize("numbers", [(0.0,) * 7, (0.0,) * 9, ()])
def test_a_fit_of_other_expressions_is_refused(numbers):
    with pytest.raises(BadRequest, match="8 finite numbers each in bias and moves"):
        EmotionFit(1.0, numbers, (0.0,) * 8)
    with pytest.raises(BadRequest, match="HAPPY"):
        EmotionFit(1.0, (0.0,) * 8, numbers)


@pytest.mark.parametrize("data", [b"", b"TFL3", b"\x18\x00\x00\x00TFL3" + bytes(40)])
def test_a_damaged_network_is_refused(data):
    with pytest.raises(BadRequest, match="TensorFlow Lite"):
        Expressions.opened(data, FIT)
