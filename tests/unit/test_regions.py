"""Regions of the mesh: the face lies the same way whatever its pose, a mirror changes nothing, what is drawn on is told."""

from __future__ import annotations

import json
from importlib import resources

import cv2
import numpy as np
import pytest

from aboveboard.vision import regions
from aboveboard.vision.mesh import SUMMARY
from aboveboard.vision.regions import ATTRIBUTES, HEIGHT, NOT_ASSESSED, ON_SPREAD, SURFACE, WIDTH, Regions

FITTED = json.loads((resources.files("aboveboard.vision") / "fitted" / "face-regions.json").read_text(encoding="utf-8"))
STILL = {"mouthSmileLeft": 0.0, "mouthSmileRight": 0.0}
NOTHING = np.zeros(SUMMARY, np.float32)
"""A summary that says nothing."""
LEFT_EYE, RIGHT_EYE, LIPS = (33, 133), (263, 362), (61, 291)


@pytest.fixture(scope="module")
def shipped() -> Regions:
    return Regions.shipped()


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    """The mean shape's mesh in a crop of 256 px; the irises between the corners of the eyes."""
    surface = np.array(FITTED["shape"], np.float32) + np.array([64, 56], np.float32)
    irises = [surface[list(corners)].mean(axis=0) for corners in (LEFT_EYE, RIGHT_EYE) for _ in range(5)]
    return np.concatenate([surface, irises]).astype(np.float32)


@pytest.fixture(scope="module")
def plain(points) -> np.ndarray:
    """Smooth skin with dark brows, eyes and a mouth, in RGB."""
    crop = np.full((256, 256, 3), (205, 160, 135), np.uint8)
    for corners in (LEFT_EYE, RIGHT_EYE):
        x, y = points[list(corners)].mean(axis=0).astype(int).tolist()
        cv2.ellipse(crop, (x, y), (9, 4), 0, 0, 360, (240, 235, 230), -1, cv2.LINE_AA)
        cv2.circle(crop, (x, y), 4, (60, 40, 30), -1, cv2.LINE_AA)
        cv2.line(crop, (x - 13, y - 13), (x + 13, y - 13), (110, 80, 60), 3, cv2.LINE_AA)
    x, y = points[list(LIPS)].mean(axis=0).astype(int).tolist()
    cv2.ellipse(crop, (x, y), (17, 4), 0, 0, 360, (180, 95, 95), -1, cv2.LINE_AA)
    return cv2.GaussianBlur(crop, (0, 0), 1.0)


def with_sunglasses(crop, points):
    worn = crop.copy()
    eyes = [points[list(corners)].mean(axis=0).astype(int).tolist() for corners in (LEFT_EYE, RIGHT_EYE)]
    for x, y in eyes:
        cv2.ellipse(worn, (x, y + 3), (23, 16), 0, 0, 360, (15, 15, 18), -1, cv2.LINE_AA)
    cv2.line(worn, tuple(eyes[0]), tuple(eyes[1]), (15, 15, 18), 3, cv2.LINE_AA)
    cv2.line(worn, (45, eyes[0][1]), (210, eyes[0][1]), (15, 15, 18), 3, cv2.LINE_AA)
    return worn


def test_every_attribute_that_is_asked_for_has_a_probability_and_no_other(shipped, plain, points):
    for wanted in (ATTRIBUTES, {"smile"}, {"beard", "eyes_open"}, set()):
        found = shipped.probabilities(plain, points, NOTHING, STILL, wanted)
        assert set(found) == set(wanted)
        assert all(0 <= value <= 1 for value in found.values())


def test_what_the_rule_keeps_back_is_no_without_confidence(plain, points):
    one = Regions(FITTED | {"not_assessed": ["beard"]}).probabilities(plain, points, NOTHING, STILL)
    assert one["beard"] == NOT_ASSESSED < 0.5
    assert set(FITTED["not_assessed"]) <= ON_SPREAD


def test_dark_lenses_are_sunglasses_and_no_eyeglasses(shipped, plain, points):
    before, after = (shipped.probabilities(crop, points, NOTHING, STILL) for crop in (plain, with_sunglasses(plain, points)))
    assert after["sunglasses"] > 0.5 > before["sunglasses"]
    assert after["eyeglasses"] < 0.5


def test_what_the_nets_summary_shows_covers_a_face_and_changes_nothing_else(shipped, plain, points):
    """A summary along the model's own weights, and one against them."""
    weights = np.array(FITTED["models"]["covered"]["weights"], np.float32)
    along, against = (shipped.probabilities(plain, points, sign * 20 * weights / (weights @ weights), STILL) for sign in (1, -1))
    assert along.pop("face_occluded") > 0.5 > against.pop("face_occluded")
    assert along == against


def test_the_spread_does_not_depend_on_where_the_face_lies(shipped, plain, points):
    """The same picture moved, turned and scaled with its mesh."""
    straight = shipped.spread(plain, points)
    move = np.array([[0.83, -0.26, 48.0], [0.26, 0.83, -10.0]])
    turned = cv2.warpAffine(plain, move, (256, 256), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    moved = (points @ move[:, :2].T + move[:, 2]).astype(np.float32)
    again = shipped.spread(turned, moved)
    assert straight.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(straight.astype(int) - again.astype(int)).mean() < 3


def test_a_mirror_changes_no_answer(shipped, plain, points):
    """The mean shape is symmetrical: a mirrored picture on the mirrored mesh reads the same."""
    lopsided = plain.copy()
    lopsided[140:, :120] //= 2
    seen = regions.cells(shipped.spread(lopsided, points))
    mirrored = regions.cells(np.ascontiguousarray(shipped.spread(lopsided, points)[:, ::-1]))
    assert np.allclose(regions.mirrored(seen), mirrored, atol=1e-3)
    for model, window in regions.WINDOWS.items():
        weights = np.array(FITTED["models"][model]["weights"])
        scores = [float((part[window].ravel() * weights).sum()) for part in (seen, mirrored)]
        assert scores[0] == pytest.approx(scores[1], abs=0.05)


def test_light_and_contrast_change_what_is_seen_little(shipped, plain, points):
    """Everything is measured against the face's own skin."""
    bright, dim = (regions.cells(shipped.spread(crop, points)) for crop in (plain, (plain * 0.7).astype(np.uint8)))
    assert np.abs(bright - dim).mean() < 0.05


@pytest.mark.parametrize("crop", [np.zeros((256, 256, 3), np.uint8), np.full((256, 256, 3), 255, np.uint8)], ids=["black", "white"])
def test_a_picture_with_nothing_on_it_and_a_mesh_that_collapsed_get_numbers(shipped, crop, points):
    for mesh in (points, np.zeros_like(points), points + 1000):
        found = shipped.probabilities(crop, mesh, NOTHING, STILL)
        assert all(np.isfinite(value) and 0 <= value <= 1 for value in found.values())


def test_open_is_told_by_distances_on_the_mesh(shipped, plain, points):
    closed = points.copy()
    for one, other in ((159, 145), (158, 153), (160, 144), (386, 374), (385, 380), (387, 373), (81, 178), (13, 14), (311, 402)):
        closed[[one, other]] = closed[[one, other]].mean(axis=0)
    opened = closed.copy()
    for one, other, apart in ((159, 145, 9), (158, 153, 9), (160, 144, 9), (81, 178, 16), (13, 14, 16), (311, 402, 16)):
        opened[one, 1] -= apart / 2
        opened[other, 1] += apart / 2
    shut, wide = (shipped.probabilities(plain, mesh, NOTHING, STILL, {"eyes_open", "mouth_open"}) for mesh in (closed, opened))
    assert shut["eyes_open"] < 0.5 < wide["eyes_open"], "one open eye is enough"
    assert shut["mouth_open"] < 0.5 < wide["mouth_open"]


def test_corners_drawn_up_are_a_smile(shipped, plain, points):
    smiling = {"mouthSmileLeft": 0.9, "mouthSmileRight": 0.9}
    assert (
        shipped.probabilities(plain, points, NOTHING, STILL, {"smile"})["smile"]
        < 0.5
        < shipped.probabilities(plain, points, NOTHING, smiling, {"smile"})["smile"]
    )


def test_the_fit_has_a_weight_for_every_cell_and_says_where_it_comes_from():
    assert len(FITTED["shape"]) == SURFACE
    assert "labels" in FITTED["provenance"]
    assert set(FITTED["models"]) == {*regions.WINDOWS, "covered"}
    assert len(FITTED["models"]["covered"]["weights"]) == SUMMARY
    assert set(FITTED["expressions"]) == ATTRIBUTES - ON_SPREAD
