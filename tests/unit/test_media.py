"""The size that is read from a file's header before it is decoded."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from aboveboard.errors import BadSample, SampleTooLarge
from aboveboard.vision import media


def written(width, height, form, **how):
    out = io.BytesIO()
    Image.effect_noise((width, height), 50).convert("RGB").save(out, form, **how)
    return out.getvalue()


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from(["PNG", "JPEG"]), st.booleans())
@settings(max_examples=60)
def test_the_header_tells_the_size_that_is_decoded(width, height, form, is_progressive):
    """Whatever another library wrote: an image of exactly as many pixels as allowed passes, with one fewer allowed it does not."""
    how = {"progressive": is_progressive, "comment": b"x" * 70, "exif": Image.Exif()} if form == "JPEG" else {}
    data = written(width, height, form, **how)
    assert media.decode(data, width * height).shape == (height, width, 3)
    with pytest.raises(SampleTooLarge, match=f"{width} x {height}"):
        media.decode(data, width * height - 1)


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_pixels_are_those_of_another_decoder(form):
    """BGR, 8 bit, in order."""
    data = written(90, 70, form)
    theirs = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))[:, :, ::-1].astype(int)
    ours = media.decode(data, 10_000).astype(int)
    assert np.abs(theirs - ours).max() <= (0 if form == "PNG" else 3)


@given(st.binary(max_size=200), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR"]))
@settings(max_examples=300)
def test_rubbish_is_a_bad_sample(data, magic):
    """No other exception, and no image out of nothing."""
    with pytest.raises(BadSample):
        media.decode(magic + data, 10**6)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "I;16", "CMYK"])
def test_every_mode_comes_out_as_three_channels_of_8_bit(mode):
    """Grey, palette, transparent, 16-bit and CMYK."""
    out = io.BytesIO()
    grey = np.linspace(0, 255, 100 * 90).reshape(90, 100)
    image = Image.fromarray((grey * 257).astype(np.uint16)) if mode == "I;16" else Image.fromarray(grey.astype(np.uint8)).convert(mode)
    image.save(out, "JPEG" if mode == "CMYK" else "PNG")
    decoded = media.decode(out.getvalue(), 10**6)
    assert (decoded.shape, decoded.dtype) == ((90, 100, 3), np.uint8)
    assert decoded.flags.c_contiguous
    assert decoded[-1].mean() > 200
    assert decoded[0].mean() < 60


def test_cv2_is_not_asked_about_a_picture_that_is_too_large(monkeypatch):
    """The limit is applied before anything is decoded."""
    data = written(100, 100, "PNG")
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(SampleTooLarge):
        media.decode(data, 9999)


def test_the_animation_of_a_png_is_not_decoded(monkeypatch):
    """The decoder would take memory for all of it: it gets the first picture alone, which comes out as it is."""
    frames = [Image.new("RGB", (120, 90), colour) for colour in ("red", "green", "blue")]
    out = io.BytesIO()
    frames[0].save(out, "PNG", save_all=True, append_images=frames[1:], duration=100)
    seen = []
    real = cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda data, flags: seen.append(bytes(data)) or real(data, flags))
    image = media.decode(out.getvalue(), 10**6)
    assert (image == (0, 0, 255)).all()
    assert not any(kind in seen[0] for kind in (b"acTL", b"fcTL", b"fdAT"))
    assert Image.open(io.BytesIO(seen[0])).size == (120, 90)


def test_a_progressive_jpeg_takes_half_as_much_room_again():
    """It takes 9 bytes a pixel instead of 6 while it is decoded."""
    room = media.Room(4, 10**6)
    used = {}
    for is_progressive in (False, True):
        out = io.BytesIO()
        Image.new("RGB", (200, 100)).save(out, "JPEG", progressive=is_progressive)
        with room.decoded(out.getvalue(), 10**6):
            used[is_progressive] = room.in_use()
    assert used == {False: (1, 20_000), True: (1, 30_000)}
    assert room.in_use() == (0, 0)
