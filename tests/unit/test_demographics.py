"""Age and gender without photographs: the crop is dlib's, ranges hold what they promise, what does not fit is refused."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from aboveboard.biometrics.vocabulary import Gender
from aboveboard.errors import BadRequest
from aboveboard.vision.demographics import DETECTOR_POINTS, AgeFit, AgeGender, GenderFit, age_ranges, chance_male, chip, views

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import attributes as benchmark

DLIB = ((0.8595674595992, 0.2134981538014), (0.6460604764104, 0.2289674387677), (0.1205750620789, 0.2137274526848),
        (0.3340850613712, 0.2290642403242), (0.4901123135679, 0.6277975316475))  # fmt: skip
"""Corners of the eyes and base of the nose in dlib's get_face_chip_details."""
AGE_FIT, GENDER_FIT = AgeFit((0, 0.8, 0), (5, 1.1, 0), 1.0), GenderFit(1.0, 0.03)


@pytest.mark.parametrize(("scale", "turn", "size"), [(120, 0, 64), (60, 25, 64), (400, -40, 64), (90, 170, 32)])
def test_the_crop_has_eyes_and_nose_where_dlibs_formula_puts_them(scale, turn, size):
    """A face of any size and turn: its mark comes to lie at (padding + p) / (2 padding + 1) x size."""
    cosine, sine = scale * math.cos(math.radians(turn)), scale * math.sin(math.radians(turn))
    place = np.array([[cosine, -sine], [sine, cosine]])
    shift = np.array([500, 500]) - place @ [0.5, 0.5]
    for mark in DLIB:
        image = np.zeros((1000, 1000, 3), np.uint8)
        x, y = place @ mark + shift
        cv2.circle(image, (round(x * 16), round(y * 16)), round(scale / 15 * 16), (255, 255, 255), -1, cv2.LINE_AA, 4)
        found = chip(image, (DETECTOR_POINTS @ place.T + shift).astype(np.float32), size)[:, :, 0].astype(float)
        rows, columns = np.indices(found.shape)
        centre = np.array([(columns * found).sum(), (rows * found).sum()]) / found.sum()
        np.testing.assert_allclose(centre, (0.2 + np.array(mark)) / 1.4 * size, atol=0.8)


def people(count: int, seed: int):
    """Ages, and what a network that is sure of itself, and wrong by more for the old, says of them."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(18, 80, count).astype(float)
    guess = truth * 0.8 + 6 + rng.normal(0, 2 + truth / 12)
    shares = np.exp(-0.5 * ((np.arange(81) - guess[:, None]) / 3) ** 2)
    return shares / shares.sum(axis=1, keepdims=True), truth


def test_ranges_hold_the_age_of_four_in_five_of_people_that_were_not_fitted_on():
    """However sure and biased the network is."""
    fit = benchmark.fit_age(*people(600, 1))
    shares, truth = people(4000, 2)
    low, high = age_ranges(shares, fit)
    assert 0.77 <= ((low <= truth) & (truth <= high)).mean() <= 0.83
    assert (high - low).mean() < 30
    below, above = (truth < low).mean(), (truth > high).mean()
    assert max(below, above) < 0.14


@pytest.mark.parametrize("fit", [AGE_FIT, AgeFit((200, 0, 0), (-50, 0, 0), 3), AgeFit((-90, 0, 0), (500, 0, 0), 0)])
def test_a_range_is_whole_years_from_0_to_100_in_order(fit):
    low, high = age_ranges(people(50, 3)[0], fit)
    assert low.dtype == high.dtype == np.int64
    assert ((low >= 0) & (low <= high) & (high <= 100)).all()


def test_a_confidence_is_the_share_that_is_right():
    """Of a network that is twice as sure as it should be, and knows nothing of one face in twenty."""
    rng = np.random.default_rng(5)
    logits = rng.normal(0, 4, 40_000)
    truth = np.where(rng.random(40_000) < 0.05, rng.random(40_000) < 0.5, rng.random(40_000) < 1 / (1 + np.exp(-logits / 2)))
    fit = benchmark.fit_gender(logits[:20_000], truth[:20_000])
    chance, held = chance_male(logits[20_000:], fit), truth[20_000:]
    for low in np.arange(0, 1, 0.1):
        chosen = (chance >= low) & (chance < low + 0.1)
        assert held[chosen].mean() == pytest.approx(chance[chosen].mean(), abs=0.04)


def net(size: int, shares: list[float]) -> bytes:
    """A network that answers these shares whatever it sees."""
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Unsqueeze", ["nothing", "one"], ["column"]),
        helper.make_node("Add", ["column", "shares"], ["probabilities"]),
    ]
    given = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, size, size])
    made = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", len(shares)])
    constants = [helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]), helper.make_tensor("one", TensorProto.INT64, [1], [1]),
                 helper.make_tensor("shares", TensorProto.FLOAT, [1, len(shares)], shares)]  # fmt: skip
    graph = helper.make_graph(nodes, "net", [given], [made], constants)
    made_model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(made_model.SerializeToString())


FORTY = [float(age == 40) for age in range(81)]


def test_each_face_is_told_its_age_and_gender():
    """Nineteen faces, beyond one batch; a network that sees women of forty everywhere."""
    nets = AgeGender.opened(net(64, FORTY), net(32, [0.9, 0.1]), AGE_FIT, GENDER_FIT)
    points = (DETECTOR_POINTS * 100 + 50).astype(np.float32)
    seen = np.stack([views(np.zeros((200, 200, 3), np.uint8), points)] * 19)
    assert nets.ranges(seen) == [(31, 50)] * 19
    assert nets.genders(seen) == [Gender("Female", pytest.approx(100 * (0.015 + 0.97 * 0.9)))] * 19


@pytest.mark.parametrize(("age", "gender", "text"), [
    (net(64, FORTY), net(64, [0.5, 0.5]), "gender network does not take"),
    (net(32, FORTY), net(32, [0.5, 0.5]), "age network does not take"),
    (net(64, FORTY[:80]), net(32, [0.5, 0.5]), "age network answers"),
    (net(64, FORTY), net(32, [0.2, 0.3, 0.5]), "gender network answers"),
    (b"no network", net(32, [0.5, 0.5]), "not an ONNX graph"),
])  # fmt: skip
def test_another_model_in_its_place_is_refused_when_it_is_opened(age, gender, text):
    with pytest.raises(BadRequest, match=text):
        AgeGender.opened(age, gender, AGE_FIT, GENDER_FIT)
