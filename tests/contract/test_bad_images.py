"""Photographs that are odd, broken or hostile: an answer or the documented error, never a 500, and the server goes on."""

from __future__ import annotations

import io
import resource
import struct
import zlib

import cv2
import numpy as np
import pytest
from kit import b64, canvas, encoded, picture
from PIL import Image

INVALID, TOO_LARGE, BAD = "InvalidImageFormatException", "ImageTooLargeException", "InvalidParameterException"


@pytest.fixture
def detect(server):
    """Detects; returns the reply. The server is asked again afterwards."""

    def detecting(data: bytes):
        return server.post("DetectFaces", {"Image": {"Bytes": b64(data)}})

    yield detecting
    assert server.is_alive()


def pil(mode: str, form: str, **how) -> bytes:
    """The drawn face as another library writes it."""
    image = Image.fromarray(cv2.cvtColor(canvas(1), cv2.COLOR_BGR2RGB))
    out = io.BytesIO()
    (image if mode == "RGB" else image.convert(mode)).save(out, form, **how)
    return out.getvalue()


def animated() -> bytes:
    frames = [Image.fromarray(cv2.cvtColor(canvas(subject, width=200, height=200), cv2.COLOR_BGR2RGB)) for subject in (1, 2, 3)]
    out = io.BytesIO()
    frames[0].save(out, "PNG", save_all=True, append_images=frames[1:], duration=100)
    assert b"acTL" in out.getvalue()
    return out.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, data: bytes, depth: int = 8, colour: int = 2) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def jpeg_claiming(width: int, height: int) -> bytes:
    data = bytearray(picture(1, suffix=".jpg"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


WELL = {
    "PNG": lambda: picture(1),
    "JPEG": lambda: picture(1, suffix=".jpg"),
    "PNG of another encoder": lambda: pil("RGB", "PNG"),
    "progressive JPEG": lambda: pil("RGB", "JPEG", progressive=True, quality=95),
    "JPEG without subsampling": lambda: pil("RGB", "JPEG", subsampling=0, quality=95),
    "CMYK JPEG": lambda: pil("CMYK", "JPEG", quality=95),
    "16-bit PNG": lambda: encoded(canvas(1).astype(np.uint16) * 257),
    "palette PNG": lambda: pil("P", "PNG"),
    "PNG with alpha": lambda: pil("RGBA", "PNG"),
    "animated PNG": animated,
    "interlaced-like PNG (several IDAT)": lambda: pil("RGB", "PNG", compress_level=0),
    "JPEG with stray bytes between its segments": lambda: (
        picture(1, suffix=".jpg")[:20] + b"stray\xff\x00" + picture(1, suffix=".jpg")[20:]
    ),
    "JPEG with rubbish after its end": lambda: picture(1, suffix=".jpg") + b"rubbish" * 100,
}


@pytest.mark.parametrize("form", WELL)
def test_every_form_of_jpeg_and_png_is_read(detect, form):
    """CMYK, 16-bit, palette, alpha, progressive and animated: the one face is found where it was drawn."""
    reply = detect(WELL[form]())
    assert reply.status == 200
    (face,) = reply.json["FaceDetails"]
    assert face["BoundingBox"]["Left"] == pytest.approx(24 / 160, abs=0.02) or form == "animated PNG"
    assert face["BoundingBox"]["Top"] == pytest.approx(32 / 160, abs=0.05)


@pytest.mark.parametrize("form", [lambda: pil("L", "PNG"), lambda: pil("L", "JPEG"), lambda: pil("1", "PNG"), lambda: pil("LA", "PNG")])
def test_grey_pictures_are_read(detect, form):
    """A grey picture is answered (the null detector sees colour only, so without a face)."""
    reply = detect(form())
    assert (reply.status, reply.json["FaceDetails"]) == (200, [])


NOT_AN_IMAGE = {
    "nothing": lambda: b"",
    "one byte": lambda: b"\xff",
    "zeros": lambda: bytes(1000),
    "HTML named .jpg": lambda: b"<!DOCTYPE html><html><body>404</body></html>",
    "text": lambda: "ä plain text".encode() * 50,
    "GIF": lambda: pil("P", "GIF"),
    "WebP": lambda: pil("RGB", "WEBP"),
    "BMP": lambda: pil("RGB", "BMP"),
    "TIFF": lambda: pil("RGB", "TIFF"),
    "PDF": lambda: b"%PDF-1.7\n" + bytes(500),
    "SVG": lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "JPEG magic alone": lambda: b"\xff\xd8\xff",
    "PNG magic alone": lambda: b"\x89PNG\r\n\x1a\n",
    "PNG without IHDR first": lambda: b"\x89PNG\r\n\x1a\n" + chunk(b"IDAT", b"x"),
    "PNG of 0 x 0": lambda: png(0, 0, zlib.compress(b"")),
    "PNG with a wrong checksum": lambda: picture(1)[:40] + b"\x00\x00\x00\x00" + picture(1)[44:],
    "PNG with rubbish for pixels": lambda: png(160, 160, b"rubbish"),
    "PNG of an impossible depth": lambda: png(160, 160, zlib.compress(bytes(160 * 481)), depth=7),
    "JPEG of height 0": lambda: jpeg_claiming(160, 0),
    "JPEG of segments without end": lambda: b"\xff\xd8\xff\xe0\x00\x00" + bytes(100),
    "half a JPEG": lambda: picture(1, suffix=".jpg")[: len(picture(1, suffix=".jpg")) // 2],
    "nine tenths of a PNG": lambda: picture(1)[: len(picture(1)) * 9 // 10],
    "a JPEG's head": lambda: picture(1, suffix=".jpg")[:300],
}


@pytest.mark.parametrize("form", NOT_AN_IMAGE)
def test_what_is_no_whole_jpeg_or_png_is_refused(detect, form):
    """InvalidImageFormatException; an empty image violates the model's minimum, which is InvalidParameterException."""
    reply = detect(NOT_AN_IMAGE[form]())
    assert reply.code == (BAD if form == "nothing" else INVALID)


def hidden_size() -> bytes:
    """A JPEG of 160 x 160 whose decoder sees another one of 20,000 x 20,000 first, behind FF 00."""
    small = picture(1, suffix=".jpg")
    large = jpeg_claiming(20_000, 20_000)[2:]
    return b"\xff\xd8\xff\x00" + struct.pack(">H", len(large) + 2) + large + small[2:]


BOMBS = {
    "PNG header of 50,000 x 50,000": (lambda: png(50_000, 50_000, zlib.compress(b"")), TOO_LARGE),
    "PNG header of 2^31 x 2^31": (lambda: png(2**31 - 1, 2**31 - 1, zlib.compress(b"")), TOO_LARGE),
    "JPEG header of 65,535 x 65,535": (lambda: jpeg_claiming(65_535, 65_535), TOO_LARGE),
    "a real PNG of 9,000 x 9,000 in 13 KB": (lambda: png(9000, 9000, zlib.compress(bytes(9000 * 1126), 9), 1, 0), TOO_LARGE),
    "a JPEG that hides another size": (hidden_size, TOO_LARGE),
    "a PNG whose chunk claims 2 GB": (lambda: picture(1)[:33] + struct.pack(">I", 2**31 - 1) + picture(1)[37:], INVALID),
    "a PNG whose chunk claims 4 GB": (lambda: picture(1)[:33] + b"\xff\xff\xff\xff" + picture(1)[37:], INVALID),
    "a PNG text chunk that expands": (
        lambda: picture(1)[:33] + chunk(b"zTXt", b"Comment\x00\x00" + zlib.compress(bytes(50_000_000), 9)) + picture(1)[33:],
        "",
    ),
    "an ICC profile that expands": (
        lambda: picture(1)[:33] + chunk(b"iCCP", b"icc\x00\x00" + zlib.compress(bytes(50_000_000), 9)) + picture(1)[33:],
        "",
    ),
}


@pytest.mark.parametrize("form", BOMBS)
def test_a_decompression_bomb_is_refused_before_it_is_decoded(server, detect, form):
    """Small files that claim or hide huge pictures: refused by their header, or read without what expands; memory stays bounded."""
    make, code = BOMBS[form]
    data = make()
    assert len(data) < 100_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert detect(data).code == code
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


def test_a_large_but_allowed_picture_is_read(detect):
    """4,000 x 4,000 pixels in a few KB are a picture like another."""
    image = np.full((4000, 4000, 3), 200, np.uint8)
    image[1000:1160, 2000:2160] = canvas(1)
    (face,) = detect(encoded(image)).json["FaceDetails"]
    assert face["BoundingBox"]["Width"] == pytest.approx(96 / 4000)


def test_the_pixel_limit_is_a_setting(make_server):
    """max_image_pixels of the settings, in the message."""
    server = make_server(max_image_pixels="20000")
    reply = server.post("DetectFaces", {"Image": {"Bytes": b64(picture(1))}})
    assert (reply.code, "20000" in reply.message) == (TOO_LARGE, True)


@pytest.mark.parametrize(
    ("width", "height", "is_read"), [(79, 200, False), (200, 79, False), (80, 80, True), (1, 1, False), (200, 80, True)]
)
def test_pictures_under_80_px_are_refused(detect, width, height, is_read):
    """The shorter side must have 80 px, as Amazon asks."""
    for suffix in (".png", ".jpg"):
        reply = detect(encoded(np.full((height, width, 3), 200, np.uint8), suffix))
        assert reply.code == ("" if is_read else BAD)
        assert is_read or f"{width} x {height} px" in reply.message


def test_5_mib_pass_and_one_byte_more_does_not(detect):
    """Image.Bytes holds at most 5,242,880 bytes decoded."""
    face = picture(1, suffix=".jpg")
    assert detect(face + bytes(5 * 1024 * 1024 - len(face))).status == 200
    reply = detect(face + bytes(5 * 1024 * 1024 - len(face) + 1))
    assert reply.code == TOO_LARGE
    assert "5242881" in reply.message


def test_two_images_of_5_mib_are_compared(server):
    """CompareFaces with 2 x 5 MiB, 14 MB on the wire, through boto3."""
    face = picture(1, suffix=".jpg")
    full = face + bytes(5 * 1024 * 1024 - len(face))
    answer = server.client().compare_faces(SourceImage={"Bytes": full}, TargetImage={"Bytes": full})
    assert answer["FaceMatches"][0]["Similarity"] == 100


def stored_so_that(orientation: int, upright: np.ndarray) -> np.ndarray:
    """The pixels of a file whose Exif orientation turns them into `upright` (Exif 2.3, tag 0x0112)."""
    return {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation](upright)


def with_exif(jpeg: bytes, orientation: int, order: str = "<") -> bytes:
    tiff = (b"II*\x00" if order == "<" else b"MM\x00*") + struct.pack(f"{order}IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(tiff) + 8) + b"Exif\x00\x00" + tiff + jpeg[2:]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(server, detect, orientation, order):
    """All eight orientations: the box lies at the same place of the upright image, and the face is the same person."""
    upright = canvas(1, width=400, height=200)
    stored = np.ascontiguousarray(stored_so_that(orientation, upright))
    data = with_exif(encoded(stored, ".jpg", cv2.IMWRITE_JPEG_QUALITY, 98), orientation, order)
    assert Image.open(io.BytesIO(data)).getexif()[0x0112] == orientation
    (face,) = detect(data).json["FaceDetails"]
    box = face["BoundingBox"]
    assert box["Left"] == pytest.approx(24 / 400, abs=0.01)
    assert box["Top"] == pytest.approx(32 / 200, abs=0.02)
    assert box["Width"] == pytest.approx(96 / 400, abs=0.01)
    assert box["Height"] == pytest.approx(96 / 200, abs=0.02)
    compared = server.client().compare_faces(SourceImage={"Bytes": data}, TargetImage={"Bytes": encoded(upright)})
    assert compared["FaceMatches"][0]["Similarity"] > 99


@pytest.mark.parametrize("exif", [0, 9, 255])
def test_an_orientation_that_does_not_exist_changes_nothing(detect, exif):
    """It is passed over."""
    (face,) = detect(with_exif(picture(1, suffix=".jpg"), exif)).json["FaceDetails"]
    assert face["BoundingBox"]["Left"] == pytest.approx(24 / 160, abs=0.02)


def test_an_orientation_in_a_png_is_not_applied(detect):
    """Amazon applies JPEG's only."""
    tiff = b"II*\x00" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, 3, 0, 0)
    data = picture(1, width=400, height=200)
    (face,) = detect(data[:33] + chunk(b"eXIf", tiff) + data[33:]).json["FaceDetails"]
    assert face["BoundingBox"]["Left"] == pytest.approx(24 / 400)


@pytest.mark.parametrize("tail", [b"", b"II*\x00", b"II*\x00\xff\xff\xff\xff", b"MM\x00*" + b"\xff" * 30, bytes(60)])
def test_broken_exif_does_no_harm(detect, tail):
    """The picture is read as if it had none."""
    face = picture(1, suffix=".jpg")
    data = face[:2] + b"\xff\xe1" + struct.pack(">H", len(tail) + 8) + b"Exif\x00\x00" + tail + face[2:]
    assert len(detect(data).json["FaceDetails"]) == 1


@pytest.mark.parametrize("name", ["CompareFaces", "IndexFaces", "SearchFacesByImage"])
@pytest.mark.parametrize(("form", "code"), [("half a JPEG", INVALID), ("HTML named .jpg", INVALID), ("GIF", INVALID)])
def test_every_operation_that_takes_a_photograph_refuses_the_same(server, collection, name, form, code):
    """And enrols nothing."""
    image = {"Bytes": b64(NOT_AN_IMAGE[form]())}
    document = {"SourceImage": image, "TargetImage": image} if name == "CompareFaces" else {"CollectionId": collection, "Image": image}
    assert server.post(name, document).code == code
    assert server.client().describe_collection(CollectionId=collection)["FaceCount"] == 0
