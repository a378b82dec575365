"""Draw faces into photographs: boxes, landmarks and a few words, readable at any size of the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from aboveboard.biometrics.vocabulary import Box, Face
from aboveboard.errors import Unavailable
from aboveboard.vision import registry
from aboveboard.vision.media import Image

FOUND, MISSED, PLAIN = (80, 200, 60), (60, 140, 255), (230, 180, 60)
"""Colours (BGR): a candidate, a face that is none or is not enrolled, any other face."""
_LEAST_SIDE, _MOST_SIDE = 720, 2400
_FONT = cv2.FONT_HERSHEY_DUPLEX


@dataclass(frozen=True, slots=True)
class Mark:
    """A face with the lines of text that belong to it."""

    face: Face
    lines: tuple[str, ...]
    colour: tuple[int, int, int] = PLAIN


def draw(image: Image, marks: Sequence[Mark]) -> Image:
    """A copy with the marks, enlarged or reduced where its shorter side is under 720 px or its longer one over 2,400 px."""
    height, width = image.shape[:2]
    scale = min(max(1.0, _LEAST_SIDE / min(height, width)), _MOST_SIDE / max(height, width))
    shape = max(1, round(width * scale)), max(1, round(height * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    drawn = np.ascontiguousarray(cv2.resize(image, shape, interpolation=method), np.uint8)
    # Small faces first, so that the text of the large ones stays on top.
    for mark in sorted(marks, key=lambda mark: mark.face.box.area):
        _mark(drawn, mark)
    return drawn


def side_by_side(left: Image, right: Image) -> Image:
    """Two pictures beside each other at one height, a white line between them."""
    height = max(left.shape[0], right.shape[0])
    parts = [
        cv2.resize(picture, (max(1, round(picture.shape[1] * height / picture.shape[0])), height))
        if picture.shape[0] != height
        else picture
        for picture in (left, right)
    ]
    line = np.full((height, 8, 3), 255, np.uint8)
    return np.ascontiguousarray(np.hstack([parts[0], line, parts[1]]), np.uint8)


def beside(image: Image, blocks: Sequence[Sequence[str]]) -> Image:
    """The picture with a dark panel on its right that holds the blocks of lines, in as many columns as they need."""
    if not any(blocks):
        return image
    height = max(image.shape[0], _LEAST_SIDE)
    size = max(0.5, min(0.9, height / 1100))
    step = round(34 * size)
    rows = max(1, (height - step) // step)
    parts: list[list[str]] = [[]]
    for block in blocks:
        if parts[-1] and len(parts[-1]) + len(block) > rows:
            parts.append([])  # a block begins a column of its own rather than being torn apart
        for line in (*block, ""):
            if len(parts[-1]) == rows:
                parts.append([])
            parts[-1].append(line)
    parts = [part for part in parts if any(part)]
    widths = [max(cv2.getTextSize(line, _FONT, size, 1)[0][0] for line in part) + step for part in parts]
    panel = np.full((height, sum(widths), 3), 20, np.uint8)
    for left, part in zip(np.cumsum([0, *widths]).tolist(), parts, strict=False):
        for i, line in enumerate(part, 1):
            colour = PLAIN if line[:1].isdigit() else (235, 235, 235)
            cv2.putText(panel, line, (left + step // 2, i * step), _FONT, size, colour, 1, cv2.LINE_AA)
    below = np.full((height - image.shape[0], image.shape[1], 3), 20, np.uint8)
    return np.ascontiguousarray(np.hstack([np.vstack([image, below]), panel]), np.uint8)


def save(image: Image, file: Path) -> None:
    """Write a picture, whole or not at all, in the format of the file's suffix."""
    is_made, data = cv2.imencode(file.suffix.lower(), image)
    if not is_made:
        raise Unavailable(f"the picture {file} cannot be made: {image.shape[1]} x {image.shape[0]} px are too many for its format")
    try:
        registry.write_whole(file, data.tobytes())
    except OSError as error:
        raise Unavailable(f"the picture {file} cannot be written: {error.strerror}") from error


def _mark(image: Image, mark: Mark) -> None:
    height, width = image.shape[:2]
    stroke = max(2, round((height * width) ** 0.5 / 280))
    left, top, right, bottom = _pixels(mark.face.box, width, height)
    cv2.rectangle(image, (left, top), (right, bottom), (0, 0, 0), stroke + 2)
    cv2.rectangle(image, (left, top), (right, bottom), mark.colour, stroke)
    radius = max(2, round((right - left) / 60))
    for point in mark.face.landmarks:
        centre = round(point.x * width), round(point.y * height)
        cv2.circle(image, centre, radius + 1, (0, 0, 0), -1, cv2.LINE_AA)
        cv2.circle(image, centre, radius, mark.colour, -1, cv2.LINE_AA)
    _write(image, mark, left, top, bottom)


def _write(image: Image, mark: Mark, left: int, top: int, bottom: int) -> None:
    """The lines on a dark field above the box, or below it, always inside the picture."""
    height, width = image.shape[:2]
    size = (height * width) ** 0.5 / 900
    sizes = [cv2.getTextSize(line, _FONT, size, 1)[0] for line in mark.lines]
    if not sizes:
        return
    widest = max(one[0] for one in sizes)
    if widest > width - 12:
        size *= (width - 12) / widest
        widest = width - 12
    step = round(34 * size)
    tall = step * len(mark.lines) + step // 3
    x = max(0, min(left, width - widest - 10))
    y = top - tall if top >= tall else bottom if bottom + tall <= height else max(0, min(top, height - tall))
    y = max(0, min(y, height - tall))
    cv2.rectangle(image, (x, y), (x + widest + 10, y + tall), (20, 20, 20), -1)
    for i, line in enumerate(mark.lines, 1):
        cv2.putText(image, line, (x + 5, y + i * step), _FONT, size, mark.colour, max(1, round(size)), cv2.LINE_AA)


def _pixels(box: Box, width: int, height: int) -> tuple[int, int, int, int]:
    return (
        round(box.left * width),
        round(box.top * height),
        round((box.left + box.width) * width),
        round((box.top + box.height) * height),
    )
