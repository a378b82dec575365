"""A thousand mutated photographs: an answer or a documented error, no crash, memory flat; what Pillow reads is refused for a reason."""

from __future__ import annotations

import io
import warnings
from collections import Counter
from collections.abc import Iterator

import pytest
from kit import ServerProcess, b64, picture, process_serving
from mutating import is_sound_png, mutated, seeds
from PIL import Image

from aboveboard import settings

INVALID, TOO_LARGE, BAD = "InvalidImageFormatException", "ImageTooLargeException", "InvalidParameterException"
PIXELS = settings.Settings.max_image_pixels
SEEDS = seeds()
UNDER = "collection"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A process of its own, so that a crash is seen as one."""
    folder = tmp_path_factory.mktemp("mutated")
    with process_serving(folder / "data", log=folder / "log") as running:
        running.post("CreateCollection", {"CollectionId": UNDER})
        yield running


def pillow_reads(data: bytes) -> tuple[int, int] | None:
    """Width and height where Pillow, the second decoder, reads the whole JPEG or PNG."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data), formats=["JPEG", "PNG"]) as image:
                if image.width * image.height > PIXELS:
                    return None
                image.load()
                return image.size
        except Exception:  # it has a dozen kinds of them, and no common parent
            return None


def send(server: ServerProcess, number: int, data: bytes) -> str:
    """Send a photograph to the operations in turn; its error code, empty for an answer. A server that hangs or dies raises."""
    image, good = {"Bytes": b64(data)}, {"Bytes": b64(picture(1))}
    name, document = (
        ("DetectFaces", {"Image": image, "Attributes": ["ALL"]}),
        ("IndexFaces", {"CollectionId": UNDER, "Image": image}),
        ("CompareFaces", {"SourceImage": good, "TargetImage": image}),
        ("SearchFacesByImage", {"CollectionId": UNDER, "Image": image}),
    )[number % 4]
    reply = server.post(name, document)
    no_face = reply.code == BAD and reply.message.startswith("There are no faces")
    assert reply.code in ("", INVALID, TOO_LARGE, BAD), reply.body
    assert reply.code != BAD or no_face or "shorter side must be" in reply.message
    return "" if no_face else reply.code


def refused_without_reason(name: str, data: bytes, code: str) -> bool:
    """Whether Pillow reads what was refused, and it is neither small nor damaged in a way that Pillow overlooks."""
    size = pillow_reads(data) if code else None
    if size is None or (code == BAD and min(size) < 80):
        return False
    return is_sound_png(data, SEEDS[name]) if data.startswith(b"\x89PNG") else True


def withstand(server: ServerProcess, numbers: range) -> Counter[str]:
    """Send mutated images by number. Each failure names the number: `mutated(number, seeds())` makes the file again."""
    outcomes: Counter[str] = Counter()
    for number in numbers:
        name, steps, data = mutated(number, SEEDS)
        try:
            code = send(server, number, data)
            assert not refused_without_reason(name, data, code), code
        except Exception as error:
            raise AssertionError(f"mutated image {number}: {name}, {steps}") from error
        outcomes[code or "answered"] += 1
    return outcomes


def told(capsys: pytest.CaptureFixture[str], outcomes: Counter[str], before: tuple[float, float], after: tuple[float, float]) -> None:
    with capsys.disabled():
        counts = ", ".join(f"{n} {what}" for what, n in outcomes.most_common())
        print(f"\n{outcomes.total()} mutated images: {counts}; memory {before[0]:.0f} -> {after[0]:.0f} MB, at most {after[1]:.0f} MB")


@pytest.mark.parametrize("number", [0, 2])
def test_every_well_formed_jpeg_and_png_is_answered(server, number):
    """All seeds, detected and compared: every colour type, depth, process, orientation and odd but legal file that Pillow reads."""
    for name, data in SEEDS.items():
        assert send(server, number, data) == ("" if name.startswith(("JPEG", "PNG")) else INVALID), name
        assert (pillow_reads(data) is not None) == name.startswith(("JPEG", "PNG")) or "bomb" in name or name == "PNG huge text", name


def test_mutated_images_are_answered_or_refused(server, capsys):
    """Two for every seed and mutation; a chunk that claims 4 GB costs the server nothing."""
    before = server.memory_mb()
    outcomes = withstand(server, range(0, 1000, 5))
    after = server.memory_mb()
    told(capsys, outcomes, before, after)
    assert after[1] < 800
    assert server.is_alive()


@pytest.mark.long
def test_a_thousand_mutated_images_are_answered_or_refused(server, capsys):
    """Every seed under every mutation; afterwards the process is as large as before."""
    withstand(server, range(1000, 1200))
    before = server.memory_mb()
    outcomes = withstand(server, range(1000))
    after = server.memory_mb()
    told(capsys, outcomes, before, after)
    assert after[0] - before[0] < 100
    assert after[1] < 800
    assert server.is_alive()


@pytest.mark.long
def test_mutated_images_do_not_trouble_the_real_models(tmp_path_factory, photographs, capsys):
    """On the default pack: photographs of people, bent and broken."""
    chosen, folder = settings.load(), tmp_path_factory.mktemp("real")
    with process_serving(folder / "data", log=folder / "log", pack=chosen.pack, models=str(chosen.models)) as server:
        server.post("CreateCollection", {"CollectionId": UNDER})
        of = {f"JPEG {name}": data for name, data in photographs.items() if data.startswith(b"\xff\xd8")}
        for number in range(40):
            send(server, number, mutated(number, of)[2])
        before = server.memory_mb()
        outcomes = Counter(send(server, number, mutated(number, of)[2]) or "answered" for number in range(300))
        after = server.memory_mb()
        told(capsys, outcomes, before, after)
        assert outcomes["answered"] > 20
        assert after[0] - before[0] < 150
        assert server.post("DetectFaces", {"Image": {"Bytes": b64(next(iter(of.values())))}}).status == 200
