"""How small a face may be for its attributes to be told: python benchmarks/face_sizes.py DATA.

DATA holds utkface-a (photographs and labels.csv), lfw-a and congress-a, of which `labels/face-attributes.csv` names faces. Each
photograph is brought down until its face is so wide, its landmarks with it, and read by the attribute pack as it ships.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from attributes import LABELS, PACK, share
from report import write

from aboveboard import settings
from aboveboard.biometrics.vocabulary import AttributeName, Attributes
from aboveboard.evaluation.protocol import centre_face
from aboveboard.vision import media
from aboveboard.vision.attributes import AttributeReader
from aboveboard.vision.detector import Detection, Detector
from aboveboard.vision.packs import PackFolder

WIDTHS = (120, 60, 40, 30, 20, 14)
WORN: Sequence[AttributeName] = ("eyeglasses", "beard", "mustache")
MOVED: Sequence[AttributeName] = ("smile", "mouth_open")
Labelled = tuple[media.Image, Detection, Mapping[str, str]]


def found(detector: Detector, files: Sequence[tuple[Path, Mapping[str, str]]]) -> Iterator[Labelled]:
    """Photographs, the face of each that counts, what is known of it."""
    for file, row in files:
        image = media.decode(file.read_bytes(), 10**8)
        if (face := centre_face(detector.detect(image), *image.shape[1::-1])) is not None:
            yield image, face, row


def read(reader: AttributeReader, seen: Sequence[Labelled], width: int, names: Sequence[AttributeName]) -> list[Attributes]:
    """What is said of each face once it is `width` px wide; a narrower one stays as it is."""
    said = []
    for image, face, _ in seen:
        scale = min(1.0, width / float(face.box[2]))
        shape = [max(1, round(side * scale)) for side in image.shape[1::-1]]
        points = (face.points + 0.5) * np.divide(shape, image.shape[1::-1]) - 0.5
        small = Detection(face.box * np.float32(scale), points.astype(np.float32), face.score)
        resized = np.asarray(cv2.resize(image, shape, interpolation=cv2.INTER_AREA), np.uint8)
        said.append(reader.read(resized, [small], names, mesh=False)[0].attributes)
    return said


def people(reader: AttributeReader, seen: Sequence[Labelled]) -> None:
    rows = []
    for width in WIDTHS:
        told = [(one, row) for one, (_, _, row) in zip(read(reader, seen, width, ("gender", "age_range")), seen, strict=True)]
        right = sum(one.gender is not None and one.gender.value.lower() == row["gender"] for one, row in told)
        sure = np.mean([one.gender.confidence for one, _ in told if one.gender])
        held = sum(one.age_range is not None and one.age_range[0] <= float(row["age"]) <= one.age_range[1] for one, row in told)
        rows.append([f"{width} px", share(right, len(told)), f"{sure:.1f}", share(held, len(told))])
    note = f"utkface-a: {len(seen):,} adults, those whom both were fitted on; Wilson's 95 % intervals."
    write("small-faces", ["width of the face", "gender as labelled", "its mean confidence", "age in AgeRange"], rows, note, "how-good.md")


def judged(reader: AttributeReader, seen: Sequence[Labelled]) -> None:
    rows = []
    for width in WIDTHS:
        told = list(zip(read(reader, seen, width, (*WORN, *MOVED)), (row for _, _, row in seen), strict=True))
        each = {name: [(getattr(one, name), row[name] == "yes") for one, row in told if row[name] != "unclear"] for name in (*WORN, *MOVED)}
        worn = {name: [said.value for said, is_so in each[name] if is_so] for name in WORN}
        right = {name: [said.value == is_so for said, is_so in pairs] for name, pairs in each.items()}
        cells = [share(sum(those), len(those)) for those in (*worn.values(), *(right[name] for name in MOVED))]
        all_five = f"{100 * np.mean([one for those in right.values() for one in those]):.1f} %"
        sure = f"{np.mean([said.confidence for pairs in each.values() for said, _ in pairs]):.1f}"
        rows.append([f"{width} px", *cells, all_five, sure])
    heads = [f"{name} found, where there is one" for name in WORN] + [f"{name.replace('_', ' ')}: right" for name in MOVED]
    note = f"{len(seen)} faces drawn and labelled by eye, of those that the models were fitted on; Wilson's 95 % intervals."
    write("small-faces-worn", ["width of the face", *heads, "all five: right", "their mean confidence"], rows, note, "how-good.md")


def main(data: Path) -> None:
    packs = PackFolder(settings.load().models)
    detector, reader = packs.load("yunet-sface").detector, packs.load_attributes(PACK)
    with (data / "utkface-a" / "labels.csv").open() as file:
        adults = list(csv.DictReader(file))
    people(reader, list(found(detector, [(data / "utkface-a" / row["file"], row) for row in adults])))
    with (LABELS / "face-attributes.csv").open() as file:
        labels = [row for row in csv.DictReader(file) if row["sampled"] == "random"]
    judged(reader, list(found(detector, [(data / row["set"] / row["photograph"], row) for row in labels])))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
