"""The colours of a picture, and how bright, sharp and rich in contrast it is: measured on its pixels, no model."""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageColor

from aboveboard.vision.media import Image, shrunk

_SIDE = 96
_ALIKE = 9.0
"""Colours this near in CIELAB (CIE76) are taken as one."""


@dataclass(frozen=True, slots=True)
class Colour:
    """One of a picture's colours: red, green, blue 0-255; the nearest of CSS's named colours; a simple name; its share of pixels, 0-1."""

    red: int
    green: int
    blue: int
    css: str
    simple: str
    share: float


@dataclass(frozen=True, slots=True)
class Measures:
    """Of a picture, each 0-100: brightness (mean luma), sharpness (variance of the Laplacian, squeezed), contrast (luma's deviation)."""

    brightness: float
    sharpness: float
    contrast: float


def dominant(image: Image, most: int) -> list[Colour]:
    """The picture's colours, at most `most` of them, the commonest first: median cut over a copy of 96 px."""
    if most == 0:
        return []
    small = _shrunk(image, _SIDE)
    palette = Pillow.fromarray(np.ascontiguousarray(small[:, :, ::-1])).quantize(most, Pillow.Quantize.MEDIANCUT, dither=Pillow.Dither.NONE)
    counts = np.bincount(np.asarray(palette).reshape(-1))
    values = np.array(palette.getpalette(), np.uint8).reshape(-1, 3)[: len(counts)]
    places, kept = _lab(values), list[int]()
    # What is nearly the same to the eye counts as the commoner one.
    for one in np.argsort(-counts, kind="stable").tolist():
        like = next((other for other in kept if np.square(places[one] - places[other]).sum() < _ALIKE**2), None)
        if like is None and counts[one]:
            kept.append(one)
        elif like is not None:
            counts[like] += counts[one]
    ordered = sorted(kept, key=lambda one: -int(counts[one]))
    total = int(counts[kept].sum())
    return [_colour(values[one].tolist(), int(counts[one]) / total) for one in ordered]


def _colour(rgb: tuple[int, int, int], share: float) -> Colour:
    red, green, blue = rgb
    return Colour(red, green, blue, css_name(red, green, blue), simple_name(red, green, blue), share)


def measure(image: Image) -> Measures:
    """How bright, sharp and rich in contrast a picture is, brought to 512 px so that its size does not matter."""
    grey = cv2.cvtColor(_shrunk(image, 512), cv2.COLOR_BGR2GRAY)
    mean, deviation = (float(value[0, 0]) for value in cv2.meanStdDev(grey))
    _, edges = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))
    return Measures(mean / 2.55, 100 * (1 - math.exp(-(float(edges[0, 0]) ** 2) / 400)), min(deviation / 1.275, 100.0))


def _shrunk(image: Image, side: int) -> Image:
    scale = side / max(image.shape[:2])
    if scale >= 1:
        return image
    height, width = (max(1, round(length * scale)) for length in image.shape[:2])
    return shrunk(image, width, height)


def css_name(red: int, green: int, blue: int) -> str:
    """The nearest of CSS's named colours, in CIELAB (CIE76)."""
    names, places = _named()
    return names[int(np.square(places - _lab(np.array([[red, green, blue]], np.uint8))).sum(axis=1).argmin())]


@cache
def _named() -> tuple[list[str], NDArray[np.float32]]:
    names = [name for name in ImageColor.colormap if "gray" not in name and name not in ("aqua", "fuchsia")]
    return names, _lab(np.array([ImageColor.getrgb(name)[:3] for name in names], np.uint8))


def _lab(colours: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.asarray(cv2.cvtColor(colours[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0], np.float32)


_HUES = (
    (15, "red"),
    (42, "orange"),
    (68, "yellow"),
    (165, "green"),
    (198, "cyan"),
    (255, "blue"),
    (290, "purple"),
    (345, "pink"),
    (360, "red"),
)


def simple_name(red: int, green: int, blue: int) -> str:
    """One of twelve names of colours: by CIELAB what is too dark or too dull for a hue to be seen, else by hue, saturation, value."""
    hue, saturation, value = colorsys.rgb_to_hsv(red / 255, green / 255, blue / 255)
    lightness, *hues = _lab(np.array([[red, green, blue]], np.uint8))[0].tolist()
    if value < 0.2 or lightness < 20:
        return "black"
    if saturation < 0.12 or math.hypot(*hues) < 13:
        return "white" if value > 0.88 else "grey"
    name = next(name for end, name in _HUES if 360 * hue <= end)
    is_dull = {
        "red": value < 0.6 and saturation < 0.75,
        "orange": value < 0.7 or saturation < 0.5,
        "yellow": value < 0.62 or saturation < 0.35,
    }
    if is_dull.get(name):
        return "brown"
    if name == "red" and value > 0.75 and saturation < 0.5:
        return "pink"
    return "purple" if name == "pink" and value < 0.5 else name
