"""Decode photographs safely: JPEG and PNG only, size known before decoding, Exif orientation applied, never a crash."""

from __future__ import annotations

import struct
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from aboveboard.errors import BadSample, SampleTooLarge

Image = NDArray[np.uint8]
"""Height x width x 3, BGR, 0-255, upright."""

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_SCAN: Final = b"\xff\xda"
_MOST_SCANS: Final = 100
"""Progressive JPEGs have about ten; each makes the decoder pass over the whole picture once more."""
_SIZE_MARKERS: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE_MARKERS: Final = frozenset({0x01, *range(0xD0, 0xD8)})


def decode(data: bytes, max_pixels: int) -> Image:
    """The upright image in `data` as BGR, height x width x 3.

    Raises BadSample where the bytes are no whole JPEG or PNG, SampleTooLarge above `max_pixels`. CMYK, grey, palette, 16-bit
    and transparent pictures come out as 8-bit BGR; of an animated PNG the first picture.
    """
    if len(data) == 0:
        raise BadSample("the image is empty (0 bytes)")
    is_png = data.startswith(_PNG)
    if not is_png and data.count(_SCAN) > _MOST_SCANS:
        raise BadSample(f"the JPEG has more than {_MOST_SCANS} scans, which takes minutes to decode; save it anew")
    if not is_png and data.count(_SCAN) > _MOST_SCANS:
        raise BadSample(f"the JPEG has more than {_MOST_SCANS} scans, which takes minutes to decode; save it anew")
    width, height = _png_size(data) if is_png else _jpeg_size(data)
    if width * height > max_pixels:
        raise SampleTooLarge(f"the image has {width} x {height} pixels, above this server's limit of {max_pixels}; send a smaller one")
    flags = cv2.IMREAD_COLOR | (cv2.IMREAD_IGNORE_ORIENTATION if is_png else 0)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise BadSample("the image cannot be decoded; is the file whole?") from error
    if image is None or image.size == 0:
        raise BadSample("the image cannot be decoded; is the file whole?")
    return np.ascontiguousarray(image, dtype=np.uint8)


def _png_size(data: bytes) -> tuple[int, int]:
    if len(data) < 24 or data[12:16] != b"IHDR":
        raise BadSample("the PNG has no header; is the file whole?")
    width, height = struct.unpack(">II", data[16:24])
    return _some(width, height)


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Width and height from the frame header (ISO/IEC 10918-1, B.2.2), without decoding anything."""
    if not data.startswith(b"\xff\xd8\xff"):
        raise BadSample("the bytes are neither a JPEG nor a PNG; convert the image to one of them")
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            break
        marker = data[at + 1]
        if marker == 0:  # no marker: decoders look for the next one in what would be skipped here, and find another size
            break
        if marker == 0xFF:
            at += 1
        elif marker in _BARE_MARKERS:
            at += 2
        elif marker in _SIZE_MARKERS and at + 9 <= len(data):
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return _some(width, height)
        else:
            at += 2 + int(struct.unpack(">H", data[at + 2 : at + 4])[0])
    raise BadSample("the JPEG has no frame header; is the file whole?")


def _some(width: int, height: int) -> tuple[int, int]:
    if width == 0 or height == 0:
        raise BadSample("the image's header says that it has no pixels")
    return width, height
