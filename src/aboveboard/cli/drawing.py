"""Draw faces into photographs: boxes, landmarks and a few words, readable at any size of the image and of the faces."""

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
_SCREEN = 1.6
"""Width to height of what pictures are looked at on."""
_FONT = cv2.FONT_HERSHEY_DUPLEX
Frame = tuple[int, int, int, int]
"""Left, top, right, bottom in px."""


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
    # Words after all boxes, so that none is crossed out; those of large faces first, which choose where they stand.
    by_size = sorted(marks, key=lambda mark: -mark.face.box.area)
    frames = [_pixels(mark.face.box, *shape) for mark in by_size]
    for mark, frame in zip(by_size, frames, strict=True):
        _mark(drawn, mark, frame)
    fields: list[Frame] = []
    for mark, frame in zip(by_size, frames, strict=True):
        if mark.lines:
            fields.append(_write(drawn, mark, frame, frames, fields))
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
    """The picture with a dark panel that holds the blocks of lines in columns, to its right or below: where the whole is less stretched."""
    if not any(blocks):
        return image
    height, width = image.shape[:2]
    size = max(0.5, min(0.9, max(height, _LEAST_SIDE) / 1100))
    step = round(34 * size)
    wide = step + max(_long(line, size) for block in blocks for line in block)
    longest = max(map(len, blocks))
    layouts = []
    for rows in range(longest, (longest + 1) * len(blocks) + 1):
        parts = _columns(blocks, rows)
        across, down = wide * len(parts), step * (max(map(len, parts)) + 1)
        layouts.append(((width + across, max(height, down)), (width, 0), parts))
        layouts.append(((max(width, across), height + down), (0, height), parts))
    (across, down), (left, top), parts = min(layouts, key=lambda layout: max(layout[0][0] / _SCREEN, layout[0][1]))
    whole = np.full((down, across, 3), 20, np.uint8)
    whole[:height, :width] = image
    for i, part in enumerate(parts):
        for j, line in enumerate(part, 1):
            colour = PLAIN if line[:1].isdigit() else (235, 235, 235)
            cv2.putText(whole, line, (left + i * wide + step // 2, top + j * step), _FONT, size, colour, 1, cv2.LINE_AA)
    return whole


def _columns(blocks: Sequence[Sequence[str]], rows: int) -> list[list[str]]:
    """The blocks below each other, an empty line between them, in columns of at most so many rows; no block is torn apart."""
    parts: list[list[str]] = [list(blocks[0])]
    for block in blocks[1:]:
        if len(parts[-1]) + 1 + len(block) > rows:
            parts.append(list(block))
        else:
            parts[-1] += ["", *block]
    return parts


def save(image: Image, file: Path) -> None:
    """Write a picture, whole or not at all, in the format of the file's suffix."""
    is_made, data = cv2.imencode(file.suffix.lower(), image)
    if not is_made:
        raise Unavailable(f"the picture {file} cannot be made: {image.shape[1]} x {image.shape[0]} px are too many for its format")
    try:
        registry.write_whole(file, data.tobytes())
    except OSError as error:
        raise Unavailable(f"the picture {file} cannot be written: {error.strerror}") from error


def _mark(image: Image, mark: Mark, frame: Frame) -> None:
    """Box and landmarks, in strokes that leave a small face to be seen."""
    height, width = image.shape[:2]
    left, top, right, bottom = frame
    stroke = max(1, min(round((height * width) ** 0.5 / 280), round((right - left) / 30)))
    cv2.rectangle(image, (left, top), (right, bottom), (0, 0, 0), stroke + 2)
    cv2.rectangle(image, (left, top), (right, bottom), mark.colour, stroke)
    radius = max(1, round((right - left) / 75))
    for point in mark.face.landmarks:
        centre = round(point.x * width), round(point.y * height)
        if radius > 1:
            cv2.circle(image, centre, radius + 1, (0, 0, 0), -1, cv2.LINE_AA)
        cv2.circle(image, centre, radius, mark.colour, -1, cv2.LINE_AA)


def _write(image: Image, mark: Mark, frame: Frame, frames: Sequence[Frame], written: Sequence[Frame]) -> Frame:
    """The lines on a dark field at the box, inside the picture, over as little as can be of other words and of faces; that field."""
    height, width = image.shape[:2]
    left, top, right, bottom = frame
    # Small letters at a small face, so that a crowd's words find room; none below what can be read.
    at_one = max(_long(line, 1) for line in mark.lines)
    side = right - left
    size = max(0.5, min((height * width) ** 0.5 / 900, side / 130, 1.6 * side / at_one))
    size = max(0.5, min(size, (width - 12) / at_one))
    lines = [_cut(line, size, width - 12) for line in mark.lines]
    step = round(34 * size)
    across, down = max(_long(line, size) for line in lines) + 10, step * len(lines) + step // 3
    beyond = right - across
    places = ((left, top - down), (left, bottom), (beyond, top - down), (beyond, bottom), (right, top), (left - across, top), (left, top))
    corners = [(max(0, min(x, width - across)), max(0, min(y, height - down))) for x, y in places]
    fields = [(x, y, x + across, y + down) for x, y in corners]
    field = min(fields, key=lambda one: sum(_shared(one, face) for face in frames) + 9 * sum(_shared(one, words) for words in written))
    cv2.rectangle(image, field[:2], field[2:], (20, 20, 20), -1)
    for i, line in enumerate(lines, 1):
        place = field[0] + 5, field[1] + i * step
        cv2.putText(image, line, place, _FONT, size, mark.colour, max(1, round(size)), cv2.LINE_AA)
    return field


def _long(line: str, size: float) -> int:
    """How many px wide a line of letters of this size is."""
    return int(cv2.getTextSize(line, _FONT, size, 1)[0][0])


def _cut(line: str, size: float, most: int) -> str:
    """The line, or as much of its beginning as fits into so many px."""
    if _long(line, size) <= most:
        return line
    return next((cut for end in range(len(line) - 1, 0, -1) if _long(cut := f"{line[:end]}...", size) <= most), line[:1])


def _shared(one: Frame, other: Frame) -> int:
    """The area in px that two frames have in common."""
    across, down = (min(one[i + 2], other[i + 2]) - max(one[i], other[i]) for i in (0, 1))
    return max(0, across) * max(0, down)


def _pixels(box: Box, width: int, height: int) -> Frame:
    return (
        round(box.left * width),
        round(box.top * height),
        round((box.left + box.width) * width),
        round((box.top + box.height) * height),
    )
