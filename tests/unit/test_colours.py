"""Colours of pictures, and their measures, on pictures whose answer is plain."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from aboveboard.vision import colours, media


def plain(blue: int, green: int, red: int, width: int = 200, height: int = 100) -> np.ndarray:
    return np.full((height, width, 3), (blue, green, red), np.uint8)


def test_the_colours_of_a_picture_with_their_shares():
    """Three parts red, one part blue."""
    image = plain(0, 0, 255)
    image[:, 150:] = (255, 0, 0)
    red, blue = colours.dominant(image, 10)
    assert (red.red, red.green, red.blue, red.css, red.simple) == (255, 0, 0, "red", "red")
    assert (blue.css, blue.simple) == ("blue", "blue")
    assert red.share == pytest.approx(0.75, abs=0.01)
    assert red.share + blue.share == pytest.approx(1)


def test_what_looks_alike_is_one_colour():
    image = plain(60, 60, 60)
    image[::2] = (62, 61, 60)
    assert len(colours.dominant(image, 10)) == 1


@pytest.mark.parametrize("most", [0, 1, 2, 20])
def test_at_most_so_many_colours(most):
    image = np.random.default_rng(1).integers(0, 256, (90, 120, 3), np.uint8)
    found = colours.dominant(image, most)
    assert len(found) <= most
    assert len(found) >= min(most, 1)
    assert sum(one.share for one in found) == pytest.approx(1 if most else 0)
    assert [one.share for one in found] == sorted((one.share for one in found), reverse=True)


@pytest.mark.parametrize(
    ("name", "rgb"),
    [
        ("red", (200, 20, 20)), ("orange", (250, 140, 10)), ("yellow", (250, 230, 20)), ("green", (30, 150, 40)), ("cyan", (20, 220, 230)),
        ("blue", (30, 60, 200)), ("purple", (120, 30, 160)), ("pink", (250, 120, 180)), ("brown", (110, 70, 30)), ("black", (10, 10, 10)),
        ("grey", (128, 128, 130)), ("white", (250, 250, 250)), ("grey", (47, 79, 79)), ("black", (20, 22, 44)), ("green", (85, 107, 47)),
    ],
)  # fmt: skip
def test_the_twelve_names(name, rgb):
    """Amazon's own example of a dark colour, #2f4f4f, is grey as well."""
    assert colours.simple_name(*rgb) == name


def test_css_names_are_the_nearest():
    assert colours.css_name(253, 165, 2) == "orange"
    assert colours.css_name(70, 130, 180) == "steelblue"


def test_measures_follow_the_picture():
    """Brighter, sharper, richer in contrast, and the same at another size."""
    board = np.kron(np.indices((16, 16)).sum(axis=0) % 2, np.ones((32, 32))).astype(np.uint8)[:, :, None].repeat(3, axis=2) * 255
    measured = colours.measure(board)
    assert measured.contrast == pytest.approx(100)
    assert measured.brightness == pytest.approx(50)
    assert colours.measure(cv2.GaussianBlur(board, (0, 0), 9)).sharpness < measured.sharpness / 2
    assert colours.measure(plain(255, 255, 255)).brightness == pytest.approx(100)
    assert (colours.measure(plain(0, 0, 0)).contrast, colours.measure(plain(9, 9, 9)).sharpness) == (0, 0)
    large = colours.measure(cv2.resize(board, (1024, 1024), interpolation=cv2.INTER_NEAREST))
    assert large.sharpness == pytest.approx(measured.sharpness, abs=1)


@pytest.mark.parametrize(("height", "width"), [(3000, 4001), (449, 700), (224, 224), (4000, 230)])
def test_a_picture_is_shrunk_as_in_one_step(height, width):
    """To the means of areas, whatever is left over; the steps on the way cost less and change next to nothing."""
    rng = np.random.default_rng(2)
    image = cv2.resize(rng.integers(0, 256, (40, 50, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    found, expected = media.shrunk(image, 224, 224), cv2.resize(image, (224, 224), interpolation=cv2.INTER_AREA)
    assert found.shape == (224, 224, 3)
    assert np.abs(found.astype(int) - expected).mean() < 2
