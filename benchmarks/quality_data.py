"""The faces that benchmarks/quality.py judges by: photographs as they are and made worse, each with its measures and features."""

from __future__ import annotations

import hashlib
import zlib
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from functools import lru_cache, partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from aboveboard import settings
from aboveboard.evaluation.protocol import Sample, centre_face, content_hash, correct, read_folder, shipped_errata
from aboveboard.vision import measures
from aboveboard.vision.media import Image, decode
from aboveboard.vision.packs import Models, PackFolder
from aboveboard.vision.recogniser import ARCFACE_POINTS, align, similarity_transform

Array = NDArray[np.float64]
MOST_PHOTOGRAPHS, WORSENED, SEED, WORKERS = 6, 4, 20260101, 4


def blurred(image: Image, box: Array, rng: np.random.Generator) -> Image:
    return cv2.GaussianBlur(image, (0, 0), float(np.exp(rng.uniform(np.log(0.01), np.log(0.07))) * box[2]))


def darkened(image: Image, _box: Array, rng: np.random.Generator) -> Image:
    """Less light, and the noise of a sensor that gets none."""
    light = float(np.exp(rng.uniform(np.log(0.01), np.log(0.4))))
    return np.clip(image * light + rng.normal(0, 1.5, image.shape), 0, 255).round().astype(np.uint8)


def glaring(image: Image, _box: Array, rng: np.random.Generator) -> Image:
    return np.clip(image.astype(float) * rng.uniform(1.5, 5) + rng.uniform(0, 60), 0, 255).round().astype(np.uint8)


def compressed(image: Image, _box: Array, rng: np.random.Generator) -> Image:
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(2, 25))])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def small(image: Image, box: Array, rng: np.random.Generator) -> Image:
    """The face brought to 8 to 50 px."""
    scale = float(np.exp(rng.uniform(np.log(8), np.log(50)))) / box[2]
    return np.asarray(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)


def noisy(image: Image, _box: Array, rng: np.random.Generator) -> Image:
    return np.clip(image + rng.normal(0, rng.uniform(8, 60), image.shape), 0, 255).round().astype(np.uint8)


def covered(image: Image, box: Array, rng: np.random.Generator) -> Image:
    """A block of one colour over a part of the face, from one of its sides."""
    x, y, w, h = (float(side) for side in box)
    part, side = rng.uniform(0.15, 0.55), rng.integers(4)
    left, top, right, bottom = x, y, x + w, y + h
    if side == 0:
        bottom = y + part * h
    elif side == 1:
        top = y + (1 - part) * h
    elif side == 2:
        right = x + part * w
    else:
        left = x + (1 - part) * w
    covered = image.copy()
    corners = (round(left), round(top)), (round(right), round(bottom))
    cv2.rectangle(covered, *corners, [int(value) for value in rng.integers(0, 256, 3)], -1)
    return covered


WORSE: dict[str, Callable[[Image, Array, np.random.Generator], Image]] = {
    "blur": blurred, "dark": darkened, "glare": glaring, "JPEG": compressed, "small": small, "noise": noisy, "covered": covered,
}  # fmt: skip


NAMES = ("confidence", "norm", "flip", "size_px", "yaw", "pitch", "brightness", "sharpness", "contrast", "residual")
"""What is measured of each face: detector confidence 0-100; length of the features; cosine of the features of the face and its mirror
image; box side in px; degrees; brightness and sharpness 0-100; standard deviation of luma in the aligned crop; how far, in its px, the five
points lie from where they belong."""


@dataclass(frozen=True)
class Faces:
    """Faces of one data set, a row each. `photograph` tells photographs apart, `kind` what was done to it ("" for nothing).

    `missed` has the kind of each photograph in which no face was found.
    """

    person: NDArray[np.str_]
    photograph: NDArray[np.str_]
    kind: NDArray[np.str_]
    measures: Array
    features: NDArray[np.float32]
    missed: NDArray[np.str_]


Row = tuple[str, str, str, list[float], NDArray[np.float32]]


def looked_at(image: Image, models: Models) -> tuple[list[float], NDArray[np.float32]] | None:
    """The measures of a photograph's face, in the order of NAMES, and its unit features."""
    face = centre_face(models.detector.detect(image), image.shape[1], image.shape[0])
    if face is None:
        return None
    made = models.recogniser.embed(image, face.points)
    mirror = face.points[[1, 0, 2, 4, 3]].copy()
    mirror[:, 0] = image.shape[1] - 1 - mirror[:, 0]
    mirrored = models.recogniser.features(np.ascontiguousarray(image[:, ::-1]), mirror)
    pose, quality = measures.pose(face.points), measures.quality(image, face.box)
    points = face.points.astype(np.float64)
    turn = similarity_transform(points, ARCFACE_POINTS)
    residual = np.linalg.norm(points @ turn[:, :2].T + turn[:, 2] - ARCFACE_POINTS, axis=1).mean()
    grey = cv2.cvtColor(align(image, face.points, 112), cv2.COLOR_BGR2GRAY)
    values = [
        100 * min(face.score, 1.0), made.norm, float(made.vector @ mirrored), face.box[2:].min(), pose.yaw, pose.pitch,
        quality.brightness, quality.sharpness, grey[16:104, 16:96].std(), residual,
    ]  # fmt: skip
    return [float(value) for value in values], made.vector


@lru_cache(maxsize=1)
def models(pack: str) -> Models:
    """The pack, opened once in each process."""
    cv2.setNumThreads(1)
    return PackFolder(settings.load().models).load(pack)


def of_person(pack: str, own: list[Sample]) -> tuple[list[Row], list[str]]:
    """A person's photographs as they are, and the first of them in some of the ways of WORSE; and the kinds of those without a face."""
    rng = np.random.default_rng([SEED, zlib.crc32(own[0].subject.encode())])
    rows, missed = list[Row](), list[str]()
    for place, one in enumerate(rng.permutation(len(own))[:MOST_PHOTOGRAPHS]):
        image = decode(own[one].path.read_bytes(), 10**8)
        found = centre_face(models(pack).detector.detect(image), image.shape[1], image.shape[0])
        if found is None:
            missed.append("")
            continue
        pictures = {"": image}
        if place == 0:
            for kind in rng.permutation(list(WORSE))[:WORSENED]:
                pictures[kind] = WORSE[kind](image, found.box.astype(np.float64), rng)
        for kind, picture in pictures.items():
            seen = looked_at(picture, models(pack))
            if seen is None:
                missed.append(kind)
            else:
                rows.append((own[0].subject, own[one].name, kind, *seen))
    return rows, missed


def faces(folder: Path, cache: Path | None, pack: str) -> Faces:
    """The faces of a folder of person/photograph, of those people who have two or more.

    Kept in a file of the cache folder, whose name has a hash of the photographs, of the pack and of what is measured.
    """
    card, samples = models(pack).card, read_folder(folder)
    measured = NAMES, tuple(WORSE), MOST_PHOTOGRAPHS, WORSENED, SEED, shipped_errata().sha256
    key = hashlib.sha256(repr((content_hash(samples), [part.sha256 for part in card.files], measured)).encode()).hexdigest()
    file = cache / f"{folder.name}-{key[:16]}.npz" if cache else None
    if file and file.is_file():
        with np.load(file) as kept:
            return Faces(**kept)
    by_person = defaultdict[str, list[Sample]](list)
    for sample in correct(samples, shipped_errata())[0]:
        by_person[sample.subject].append(sample)
    with ProcessPoolExecutor(WORKERS) as pool:
        done = list(pool.map(partial(of_person, pack), [own for own in by_person.values() if len(own) > 1], chunksize=4))
    columns = zip(*(row for rows, _ in done for row in rows), strict=True)
    made = Faces(*(np.array(column) for column in columns), np.array([kind for _, missed in done for kind in missed]))
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, **{one.name: getattr(made, one.name) for one in fields(made)})
    return made
