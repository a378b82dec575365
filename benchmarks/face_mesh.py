"""How steady the mesh of a face is, where portraits are said to look, and what attributes cost: python benchmarks/face_mesh.py DATA.

DATA holds the folder congress-a: official portraits of members of Congress, a folder for each. Nearly all of them look into the camera:
so a gaze should be 0, whichever way the head is turned.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from report import cpu_ms, write

from aboveboard import settings
from aboveboard.biometrics.vocabulary import ATTRIBUTES
from aboveboard.evaluation.rates import wilson
from aboveboard.vision import measures, media
from aboveboard.vision.attributes import AttributeReader
from aboveboard.vision.detector import Detection, Detector
from aboveboard.vision.mesh import Mesher
from aboveboard.vision.packs import PackFolder

PACK = "face-attributes"
Array = NDArray[np.float64]


def spread(values: Array) -> tuple[str, str]:
    """Median of the magnitudes and their 90th percentile."""
    found = np.abs(values)
    return f"{np.median(found):.1f}", f"{np.percentile(found, 90):.1f}"


def steadiness(mesher: Mesher, portraits: Sequence[tuple[media.Image, Detection]]) -> None:
    """The same portrait as it is and mirrored; where its eyes are said to look."""
    rows = []
    for image, face in portraits:
        mirrored, width = np.ascontiguousarray(image[:, ::-1]), image.shape[1]
        points = (face.points * [-1, 1] + [width - 1, 0])[[1, 0, 2, 4, 3]].astype(np.float32)
        one, other = mesher.mesh(image, face.points), mesher.mesh(mirrored, points)
        crude = measures.pose(face.points)
        rows.append([one.pose.roll, one.pose.yaw, one.pose.pitch, other.pose.roll, other.pose.yaw, other.pose.pitch, *one.gaze, *other.gaze,
                     crude.yaw, crude.pitch])  # fmt: skip
    found = np.array(rows)
    mirror = (("roll", 0, 3, -1), ("yaw", 1, 4, -1), ("pitch", 2, 5, 1), ("gaze, yaw", 6, 8, -1), ("gaze, pitch", 7, 9, 1))
    turned = np.abs(found[:, 1]) >= 15
    table = [[f"{name}: as is against mirrored", *spread(found[:, at] - sign * found[:, other])] for name, at, other, sign in mirror]
    table.append(["yaw: mesh against five points", *spread(found[:, 1] - found[:, 10])])
    table.append(["pitch: mesh against five points", *spread(found[:, 2] - found[:, 11])])
    table += [[f"gaze, {name}: from the camera", *spread(found[:, at])] for name, at in (("yaw", 6), ("pitch", 7))]
    table.append([f"gaze, yaw: the same of {int(turned.sum())} with the head turned by 15 or more", *spread(found[turned, 6])])
    near = int((np.hypot(found[:, 6], found[:, 7]) <= 15).sum())
    low, high = wilson(near, len(found))
    share = f"{100 * near / len(found):.1f} % ({100 * low:.1f} to {100 * high:.1f})"
    note = f"congress-a: {len(found)} portraits; of {share} the gaze is within 15 degrees of the camera. "
    note += f"The median gaze has a pitch of {np.median(found[:, 7]):.1f}."
    write("face-mesh", ["degrees", "median", "90 % within"], table, note, "how-good.md")


def cost(reader: AttributeReader, detector: Detector, portrait: media.Image) -> None:
    """CPU milliseconds of one thread over the detection alone, of the one face of a 640 x 480 image."""
    image = np.full((480, 640, 3), 128, np.uint8)
    fitting = cv2.resize(portrait, (round(480 * portrait.shape[1] / portrait.shape[0]), 480), interpolation=cv2.INTER_AREA)
    image[:, : fitting.shape[1]] = fitting[:, :640]
    (face,) = detector.detect(image)
    rows = []
    for names in ([], *([name] for name in ATTRIBUTES if name in reader.assessed), sorted(reader.assessed)):
        label = "ALL" if len(names) > 1 else names[0].upper() if names else "landmarks and pose alone"
        rows.append([label, f"{cpu_ms(partial(reader.read, image, [face], frozenset(names), mesh=len(names) != 1), 36):.1f}"])
    note = f"Over DetectFaces with DEFAULT, the one face of a 640 x 480 image, {face.box[2]:.0f} px wide; median of 30, one thread."
    write("face-attributes-cost", ["asked for", "CPU ms a face"], rows, note)


def main(data: Path) -> None:
    packs = PackFolder(settings.load().models)
    detector = packs.load("yunet-sface").detector
    card = packs.attribute_card(PACK)
    mesher = Mesher((packs.folder / PACK / card.mesh.file).read_bytes())
    portraits = []
    for file in sorted((data / "congress-a").glob("*/*.jpg")):
        image = media.decode(file.read_bytes(), 10**8)
        if found := detector.detect(image):
            portraits.append((image, max(found, key=lambda one: float(one.box[2] * one.box[3]))))
    steadiness(mesher, portraits)
    cost(packs.load_attributes(PACK), detector, portraits[0][0])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
