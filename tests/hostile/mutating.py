"""Photographs that no camera makes: well-formed files of every kind, and number by number what chance makes of them."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator

import cv2
import numpy as np
from kit import canvas, encoded, picture
from PIL import Image, ImageCms

PNG = b"\x89PNG\r\n\x1a\n"
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(400)
Part = tuple[bytes, bytes]
"""Of a JPEG: marker and payload, the entropy-coded data after a scan's header in it. Of a PNG: chunk type and data."""


def drawn(width: int = 160) -> Image.Image:
    """The drawn face as Pillow holds it."""
    return Image.fromarray(cv2.cvtColor(canvas(1, width=width), cv2.COLOR_BGR2RGB))


def pil(mode: str, form: str, **how) -> bytes:
    """The drawn face as Pillow writes it."""
    out = io.BytesIO()
    (drawn() if mode == "RGB" else drawn().convert(mode)).save(out, form, **how)
    return out.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def plain_png(colour: int, depth: int, interlaced: bool, side: int = 96) -> bytes:
    """A PNG of noise, of any colour type and depth (PNG specification, 11.2.2), filter 0 throughout."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    passes = (
        [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)] if interlaced else [(0, 0, 1, 1)]
    )
    noise, lines = random.Random(depth * 8 + colour), []
    for left, top, across, down in passes:
        columns, rows = -(-(side - left) // across), -(-(side - top) // down)
        lines += [b"\0" + noise.randbytes(-(-columns * channels * depth // 8)) for _ in range(rows)]
    palette = chunk(b"PLTE", noise.randbytes(3 << depth)) + chunk(b"tRNS", bytes(range(1 << min(depth, 4)))) if colour == 3 else b""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, interlaced))
    return PNG + head + palette + chunk(b"IDAT", zlib.compress(b"".join(lines))) + chunk(b"IEND", b"")


def in_head(data: bytes, *extra: bytes) -> bytes:
    """A PNG with further chunks behind its header, a JPEG with further segments behind its start."""
    at = 33 if data.startswith(PNG) else 2
    return data[:at] + b"".join(extra) + data[at:]


def segment(marker: int, payload: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload


def exif(order: str, orientation: int, thumbnail: bytes = b"", note: int = 0) -> bytes:
    """An Exif segment: orientation, a maker note of `note` bytes, and a second directory with a thumbnail."""
    entries = [(0x0112, 3, 1, struct.pack(f"{order}HH", orientation, 0))]
    after = 8 + 2 + 12 * (1 + bool(note)) + 4
    second = b""
    if note:
        entries.append((0x927C, 7, note, struct.pack(f"{order}I", after)))
    if thumbnail:
        rows = [(0x0201, 4, 1, after + note + 2 + 24 + 4), (0x0202, 4, 1, len(thumbnail))]
        second = struct.pack(f"{order}H", 2) + b"".join(struct.pack(f"{order}HHII", *row) for row in rows) + bytes(4) + thumbnail
    first = struct.pack(f"{order}H", len(entries)) + b"".join(struct.pack(f"{order}HHI", *row[:3]) + row[3] for row in entries)
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    return segment(0xE1, b"Exif\0\0" + start + first + struct.pack(f"{order}I", after + note if thumbnail else 0) + bytes(note) + second)


def animated() -> bytes:
    out = io.BytesIO()
    frames = [Image.fromarray(cv2.cvtColor(canvas(i, width=200), cv2.COLOR_BGR2RGB)) for i in (1, 2, 3)]
    frames[0].save(out, "PNG", save_all=True, append_images=frames[1:], duration=100, disposal=1, blend=1)
    return out.getvalue()


def seeds() -> dict[str, bytes]:
    """Name -> a well-formed file."""
    jpeg, png, icc = picture(1, suffix=".jpg"), picture(1), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    made = {
        "JPEG": jpeg, "JPEG progressive": pil("RGB", "JPEG", progressive=True), "JPEG CMYK": pil("CMYK", "JPEG"),
        "JPEG grey": pil("L", "JPEG"),
        "JPEG 4:4:4": pil("RGB", "JPEG", subsampling=0), "JPEG 4:2:2": pil("RGB", "JPEG", subsampling=1),
        "JPEG RGB": pil("RGB", "JPEG", keep_rgb=True),
        "JPEG restarts": pil("RGB", "JPEG", restart_marker_blocks=1), "JPEG ICC": pil("RGB", "JPEG", icc_profile=icc),
        "JPEG comment": pil("RGB", "JPEG", comment=b"x" * 60_000), "JPEG optimised": pil("RGB", "JPEG", optimize=True, quality=30),
        "JPEG thumbnail": in_head(jpeg, exif("<", 1, thumbnail=picture(2, suffix=".jpg"))),
        "JPEG huge Exif": in_head(jpeg, exif(">", 6, note=65_000)),
        "JPEG many APPn": in_head(jpeg, *[segment(0xE0 + i % 16, bytes(500)) for i in range(64)]),
        "JPEG fill bytes": in_head(jpeg, b"\xff" * 50),
        "JPEG tail": jpeg + b"rubbish" * 100, "JPEG 2-in-1": jpeg + picture(2, suffix=".jpg"),
        "JPEG grey progressive": pil("L", "JPEG", progressive=True),
        "JPEG CMYK progressive": pil("CMYK", "JPEG", progressive=True),
        "JPEG XMP": in_head(jpeg, segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>")),
        "PNG": png, "PNG animated": animated(), "PNG palette": pil("P", "PNG"), "PNG palette alpha": pil("P", "PNG", transparency=0),
        "PNG ICC": pil("RGB", "PNG", icc_profile=icc),
        "PNG 16 bit": encoded(canvas(1).astype(np.uint16) * 257), "PNG stored": pil("RGB", "PNG", compress_level=0),
        "PNG alpha": pil("RGBA", "PNG"),
        "PNG huge text": in_head(png, chunk(b"tEXt", b"k\0" + b"x" * 4_000_000)),
        "PNG text bomb": in_head(png, chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(60_000_000)))),
        "PNG ICC bomb": in_head(png, chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(60_000_000)))),
        "PNG iTXt bomb": in_head(png, chunk(b"iTXt", b"k\0\1\0\0\0" + zlib.compress(bytes(60_000_000)))),
        "PNG Exif": in_head(png, chunk(b"eXIf", exif("<", 6)[10:])), "PNG unknown chunk": in_head(png, chunk(b"abCd", bytes(5000))),
        "PNG many chunks": in_head(png, *[chunk(b"tEXt", b"k\0v")] * 5000), "PNG tail": png + b"rubbish" * 100,
        "PNG gamma": in_head(png, chunk(b"gAMA", struct.pack(">I", 45455))),
        "GIF": pil("P", "GIF"), "BMP": pil("RGB", "BMP"), "TIFF": pil("RGB", "TIFF"), "WebP": pil("RGB", "WEBP"), "HEIC": HEIC,
        "PPM": pil("RGB", "PPM"), "ICO": pil("RGB", "ICO"),
        "TGA": pil("RGB", "TGA"), "PDF": pil("RGB", "PDF"),
        "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
    }  # fmt: skip
    made |= {f"JPEG Exif {order}{o}": in_head(jpeg, exif(order, o)) for order in "<>" for o in range(1, 9)}
    depths = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
    made |= {f"PNG {c}/{d}{' interlaced' * i}": plain_png(c, d, bool(i)) for c, allowed in depths.items() for d in allowed for i in (0, 1)}
    return made


def parts(data: bytes) -> list[Part]:
    """What a JPEG's markers and a PNG's chunks frame; of another file all of it as one part."""
    if data.startswith(PNG):
        return list(_chunks(data))
    return list(_segments(data)) if data.startswith(b"\xff\xd8") else [(b"", data)]


def _chunks(data: bytes) -> Iterator[Part]:
    at = 8
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        at += 12 + length if data[at + 4 : at + 8] != b"IEND" else len(data)


def _segments(data: bytes) -> Iterator[Part]:
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        if data[at + 1] in (0xFF, 0xD9):
            at += 1 + (data[at + 1] == 0xD9)
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] == 0xDA:
            while end < len(data) - 1 and (data[end] != 0xFF or data[end + 1] == 0 or 0xD0 <= data[end + 1] <= 0xD7):
                end += 1
        yield data[at : at + 2], data[at + 4 : end]
        at = end


def joined(of: bytes, made: list[Part], lie: Callable[[int, int], int] = lambda _, length: length) -> bytes:
    """Parts as a file of the kind of `of`, with right checksums; `lie(i, length)` is the length that part i claims."""
    if of.startswith(PNG):
        return PNG + b"".join(struct.pack(">I", lie(i, len(data)) % 2**32) + chunk(kind, data)[4:] for i, (kind, data) in enumerate(made))
    if not of.startswith(b"\xff\xd8"):
        return b"".join(data for _, data in made)
    body = b""
    for i, (marker, data) in enumerate(made):
        claimed = 2 + (_scan_header(data) if marker == b"\xff\xda" else len(data))
        body += marker + struct.pack(">H", lie(i, claimed) % 2**16) + data
    return b"\xff\xd8" + body + b"\xff\xd9"


def is_sound_png(data: bytes, seed: bytes) -> bool:
    """Every length and checksum is right, and header, palette and animation are still the seed's. Pillow reads more than that."""
    made = parts(data)

    def frame(of: list[Part]) -> list[Part]:
        return [part for part in of if part[0] in (b"IHDR", b"PLTE", b"IEND", b"acTL", b"fcTL", b"fdAT")]

    return data.startswith(joined(data, made)) and frame(made) == frame(parts(seed)) and made[0][0] == b"IHDR"


def _scan_header(data: bytes) -> int:
    return 1 + 2 * data[0] + 3 if data else 0


SIZES = (0, 1, 7, 79, 80, 255, 4000, 8000, 20_000, 65_500, 65_535, 2**16, 2**31 - 1, 2**32 - 1)


def _flip(data: bytes, other: bytes, chance: random.Random) -> bytes:
    made = bytearray(data)
    reach = len(made) if chance.random() < 0.5 else min(len(made), 700)
    for _ in range(chance.choice((1, 1, 2, 8, 64))):
        made[chance.randrange(reach)] ^= 1 << chance.randrange(8)
    return bytes(made)


def _overwrite(data: bytes, other: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data))
    new = chance.choice((b"\0", b"\xff", b"\xff\xd9", b"\xff\xda", b"\xff\xc0", b"\xff\x00", chance.randbytes(4))) * chance.choice(
        (1, 4, 300)
    )
    return data[:at] + new + data[at + len(new) :]


def _truncate(data: bytes, other: bytes, chance: random.Random) -> bytes:
    return data[: 1 + int(len(data) * chance.random() ** chance.choice((0.2, 1, 3)))]


def _splice(data: bytes, other: bytes, chance: random.Random) -> bytes:
    share = chance.random()
    return data[: int(len(data) * share)] + other[int(len(other) * share) :]


def _drop(data: bytes, other: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + data[at + chance.choice((1, 2, 16, 500)) :] or b"x"


def _repeat(data: bytes, other: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + data[at : at + chance.choice((1, 16, 500))] * chance.choice((2, 20)) + data[at:]


def _lie_of_length(data: bytes, other: bytes, chance: random.Random) -> bytes:
    made = parts(data) or [(b"", data)]
    liar, claim = (
        chance.randrange(max(len(made), 1)),
        chance.choice((0, 1, 2, 3, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, None, None)),
    )
    return joined(data, made, lambda i, length: length if i != liar else length + chance.choice((-1, 1, 100)) if claim is None else claim)


def _shuffle_parts(data: bytes, other: bytes, chance: random.Random) -> bytes:
    made = parts(data) or [(b"", data)]
    for _ in range(chance.choice((1, 1, 2))):
        i, j = chance.randrange(max(len(made), 1)), chance.randrange(max(len(made), 1))
        what = chance.choice(("twice", "drop", "swap", "many", "foreign"))
        if what == "twice":
            made.insert(j, made[i])
        elif what == "drop" and len(made) > 1:
            del made[i]
        elif what == "swap" and made:
            j %= len(made)
            i %= len(made)
            made[i], made[j] = made[j], made[i]
        elif what == "many":
            made[i % len(made) : i % len(made)] = [made[i % len(made)]] * chance.choice((20, 110))
        elif what == "foreign" and other[:2] == data[:2]:
            made.insert(j, chance.choice(parts(other)))
    return joined(data, made)


def _edit_part(data: bytes, other: bytes, chance: random.Random) -> bytes:
    """Bytes changed inside a part whose length and checksum are put right again: what a checksum would keep from the decoder."""
    made = parts(data) or [(b"", data)]
    small = [i for i, (_, inside) in enumerate(made) if 0 < len(inside) < 5000] or [0]
    i = chance.choice(small)
    kind, inside = made[i]
    inside = (
        _flip(inside, b"", chance)
        if inside and chance.random() < 0.7
        else inside[: chance.randrange(len(inside) + 1)] + chance.randbytes(chance.choice((0, 1, 40)))
    )
    made[i] = (kind, inside)
    return joined(data, made)


def _resize(data: bytes, other: bytes, chance: random.Random) -> bytes:
    """Another width, height, depth or colour type in the header."""
    made = parts(data) or [(b"", data)]
    for i, (kind, inside) in enumerate(made):
        if kind == b"IHDR" and len(inside) == 13:
            fields = list(struct.unpack(">IIBBBBB", inside))
            at = chance.randrange(7)
            fields[at] = chance.choice(SIZES) if at < 2 else chance.choice((0, 1, 2, 3, 4, 6, 7, 8, 16, 255))
            made[i] = (kind, struct.pack(">IIBBBBB", *fields))
        elif kind[:1] == b"\xff" and kind[1:] in b"\xc0\xc1\xc2" and len(inside) > 6:
            made[i] = _frame(kind, bytearray(inside), chance)
        elif kind == b"fcTL" and len(inside) == 26 and chance.random() < 0.5:
            fields = list(struct.unpack(">IIIIIHHBB", inside))
            fields[chance.randrange(5)] = chance.choice(SIZES)
            made[i] = (kind, struct.pack(">IIIIIHHBB", *fields))
    return joined(data, made)


def _frame(kind: bytes, inside: bytearray, chance: random.Random) -> Part:
    what = chance.choice(("height", "width", "precision", "components", "sampling", "process", "table"))
    if what in ("height", "width"):
        at = 1 if what == "height" else 3
        inside[at : at + 2] = struct.pack(">H", chance.choice(SIZES) % 2**16)
    elif what == "process":
        kind = bytes([0xFF, chance.choice((0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC9, 0xCA, 0xCB, 0xCF))])
    elif what == "precision":
        inside[0] = chance.choice((1, 2, 12, 16, 255))
    elif what == "components":
        inside[5] = chance.choice((0, 1, 2, 4, 255))
    else:
        at = 7 + 3 * chance.randrange(max(1, inside[5])) + (what == "table")
        if at < len(inside):
            inside[at] = chance.choice((0x00, 0x11, 0x12, 0x21, 0x41, 0x14, 0x44, 0x4F, 0xFF))
    return kind, bytes(inside)


MUTATIONS = (_flip, _overwrite, _truncate, _splice, _drop, _repeat, _lie_of_length, _shuffle_parts, _edit_part, _resize)


def mutated(number: int, of: dict[str, bytes]) -> tuple[str, str, bytes]:
    """Mutated image `number`, the same on every machine: its seed's name, what was done to it, and the file."""
    chance = random.Random(number)
    # Every seed and every mutation has its turn.
    name = list(of)[number % len(of)]
    data, steps = of[name], []
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        step = MUTATIONS[number // len(of) % len(MUTATIONS)] if not steps else chance.choice(MUTATIONS)
        data = step(data, of[chance.choice(list(of))], chance) or b"\0"
        steps.append(step.__name__.strip("_"))
    return name, ", ".join(steps), data[: 5 * 1024 * 1024]
