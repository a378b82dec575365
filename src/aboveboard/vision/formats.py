"""Photographs in other formats than the API takes, made into PNGs: WebP, and HEIC where the extra `heic` is installed."""

from __future__ import annotations

import io
import warnings

from PIL import Image, ImageOps

from aboveboard.errors import BadSample, SampleTooLarge, UnsupportedSample

_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def readable(data: bytes, max_pixels: int) -> bytes:
    """The photograph as bytes that vision.media decodes: a WebP or HEIC, told by its content, as an upright PNG; others as they are.

    Raises UnsupportedSample for a HEIC that cannot be read here, BadSample where the bytes are damaged, SampleTooLarge above `max_pixels`.
    """
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _png(data, "WEBP", max_pixels)
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        try:
            import pi_heif
        except ImportError as error:
            text = "it is a HEIC, which needs an extra: pip install 'aboveboard[heic]'; or convert it to JPEG"
            raise UnsupportedSample(text) from error
        pi_heif.register_heif_opener(thumbnails=False)
        return _png(data, "HEIF", max_pixels)
    return data


def _png(data: bytes, kind: str, max_pixels: int) -> bytes:
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data), formats=(kind,)) as image:
            if image.width * image.height > max_pixels:
                raise SampleTooLarge(f"the image has {image.width} x {image.height} pixels, more than {max_pixels}; use a smaller one")
            upright, out = ImageOps.exif_transpose(image).convert("RGB"), io.BytesIO()
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise BadSample(f"the {kind} cannot be decoded; is the file whole?") from error
    # Uncompressed: it is decoded at once and never kept.
    upright.save(out, "PNG", compress_level=0)
    return out.getvalue()
