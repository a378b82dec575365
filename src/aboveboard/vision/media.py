"""Decode photographs safely: JPEG and PNG only, size known before decoding, Exif orientation applied, never a crash."""

from __future__ import annotations

import re
import struct
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from aboveboard.errors import BadSample, SampleTooLarge, TooFast, UnsupportedSample

Image = NDArray[np.uint8]
"""Height x width x 3, BGR, 0-255, upright."""

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_SCAN: Final = b"\xff\xda"
_MOST_SCANS: Final = 100
"""Progressive JPEGs have about ten; each makes the decoder pass over the whole picture once more."""
_MARKER: Final = re.compile(rb"\xff[^\x00\xff]")
_SIZE_MARKERS: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE: Final = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_BARE_MARKERS: Final = frozenset({0x01, *range(0xD0, 0xD8)})


class Room:
    """Room for decoded pictures: at most `pictures` at once, of at most `pixels` together; first come, first served.

    A picture takes 6 bytes a pixel while it is decoded (a progressive JPEG 9, and is counted so), 3 afterwards, and the detector up to
    230 MB more. Each takes room of its own, so that a verb with two pictures must let go of the first before it opens the second:
    otherwise two such verbs could wait for each other.
    """

    WAIT_S = 15.0

    def __init__(self, pictures: int, pixels: int) -> None:
        self._pictures, self._pixels = pictures, pixels
        self._taken: list[int] = []
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def decoded(self, data: bytes, max_pixels: int) -> Iterator[Image]:
        """The upright image in `data` (see `decode`) while the block runs. Raises TooFast where no room comes free in time."""
        width, height, weight = _header(data, max_pixels)
        with self.taken(round(weight * width * height)):
            yield decode(data, max_pixels)

    @contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        """Room for one picture of so many pixels while the block runs; raises as `decoded` does."""
        pixels = min(pixels, self._pixels)
        self._enter(pixels)
        try:
            yield
        finally:
            with self._changed:
                self._taken.remove(pixels)
                self._changed.notify_all()

    def in_use(self) -> tuple[int, int]:
        """How many pictures are decoded now, and their pixels."""
        with self._changed:
            return len(self._taken), sum(self._taken)

    def _enter(self, pixels: int) -> None:
        turn = object()
        with self._changed:
            self._waiting.append(turn)

            def has_room() -> bool:
                return self._waiting[0] is turn and len(self._taken) < self._pictures and sum(self._taken) + pixels <= self._pixels

            try:
                if not self._changed.wait_for(has_room, self.WAIT_S):
                    text = f"this server is reading as many photographs as it can, for {self.WAIT_S:g} s now; send the request again later"
                    raise TooFast(text, limit="photographs")
                self._taken.append(pixels)
            finally:
                self._waiting.remove(turn)
                self._changed.notify_all()


def size(data: bytes, max_pixels: int) -> tuple[int, int]:
    """Width and height of a JPEG or PNG out of its header; raises as `decode` does."""
    return _header(data, max_pixels)[:2]


def _header(data: bytes, max_pixels: int) -> tuple[int, int, float]:
    """Width, height, and how many times the usual memory decoding takes."""
    if len(data) == 0:
        raise BadSample("the image is empty (0 bytes)")
    is_png = data.startswith(_PNG)
    if not is_png and data.count(_SCAN) > _MOST_SCANS:
        raise BadSample(f"the JPEG has more than {_MOST_SCANS} scans, which takes minutes to decode; save it anew")
    width, height, weight = (*_png_size(data), 1.0) if is_png else _jpeg_size(data)
    if width * height > max_pixels:
        raise SampleTooLarge(f"the image has {width} x {height} pixels, above this server's limit of {max_pixels}; send a smaller one")
    return width, height, weight


def decode(data: bytes, max_pixels: int) -> Image:
    """The upright image in `data` as BGR, height x width x 3.

    Raises BadSample where the bytes are no whole JPEG or PNG, SampleTooLarge above `max_pixels`. CMYK, grey, palette, 16-bit
    and transparent pictures come out as 8-bit BGR; of an animated PNG the first picture.
    """
    size(data, max_pixels)
    if data.startswith(_PNG) and b"acTL" in data:
        data = _still(data)
    flags = cv2.IMREAD_COLOR | (cv2.IMREAD_IGNORE_ORIENTATION if data.startswith(_PNG) else 0)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise BadSample("the image cannot be decoded; is the file whole?") from error
    if image is None or image.size == 0:
        raise BadSample("the image cannot be decoded; is the file whole?")
    return np.ascontiguousarray(image, dtype=np.uint8)


def shrunk(image: Image, width: int, height: int) -> Image:
    """The image at a smaller size, each pixel the mean of the area that it stands for.

    From far above, first by a whole factor, which takes a fraction of the time, to at least twice the size; what is left over at the edges,
    fewer pixels than the factor, is cut off.
    """
    factor = min(image.shape[0] // height, image.shape[1] // width) // 2
    if factor > 1:
        rows, columns = image.shape[0] // factor, image.shape[1] // factor
        top, left = (image.shape[0] - rows * factor) // 2, (image.shape[1] - columns * factor) // 2
        inner = image[top : top + rows * factor, left : left + columns * factor]
        image = np.asarray(cv2.resize(inner, (columns, rows), interpolation=cv2.INTER_AREA), np.uint8)
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _png_size(data: bytes) -> tuple[int, int]:
    if len(data) < 24 or data[12:16] != b"IHDR":
        raise BadSample("the PNG has no header; is the file whole?")
    # The decoder makes room for the length that a chunk claims, up to 4 GB, before it looks whether the file is that long.
    at, kind = 8, b""
    while kind != b"IEND":
        kind, length = data[at + 4 : at + 8], int.from_bytes(data[at : at + 4], "big")
        at += 12 + length
        if at > len(data):
            raise BadSample("the PNG is cut short: a chunk in it is longer than the file; is the file whole?")
    width, height = struct.unpack(">II", data[16:24])
    return _some(width, height)


def _still(data: bytes) -> bytes:
    """An animated PNG without its animation, which would take the decoder two and a half times the memory; its chunks lie inside."""
    kept, at = [data[:8]], 8
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] not in (b"acTL", b"fcTL", b"fdAT"):
            kept.append(data[at:end])
        at = end
    return b"".join(kept)


def _jpeg_size(data: bytes) -> tuple[int, int, float]:
    """Width, height and weight from the frame header (ISO/IEC 10918-1, B.2.2), without decoding anything."""
    if not data.startswith(b"\xff\xd8\xff"):
        raise UnsupportedSample("the bytes are neither a JPEG nor a PNG; convert the image to one of them")
    at = 2
    # The next marker as libjpeg finds it, past whatever is none: else it could find another size than we do.
    while (found := _MARKER.search(data, at)) and found.end() + 7 <= len(data):
        marker, at = data[found.end() - 1], found.end()
        if marker in _SIZE_MARKERS:
            height, width = struct.unpack(">HH", data[at + 3 : at + 7])
            return *_some(width, height), 1.5 if marker in _PROGRESSIVE else 1.0
        if marker not in _BARE_MARKERS:
            at += max(2, int.from_bytes(data[at : at + 2], "big"))
    raise BadSample("the JPEG has no frame header; is the file whole?")


def _some(width: int, height: int) -> tuple[int, int]:
    if width == 0 or height == 0:
        raise BadSample("the image's header says that it has no pixels")
    return width, height
