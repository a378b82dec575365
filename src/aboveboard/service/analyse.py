"""Find the faces of a photograph, measure them, make templates of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from aboveboard.accountability.operators import Session
from aboveboard.biometrics.vocabulary import ATTRIBUTES, AttributeName, Box, Face, Landmark, Template
from aboveboard.errors import BadRequest, NoFace
from aboveboard.service import samples
from aboveboard.service.app import App
from aboveboard.service.samples import Sample
from aboveboard.vision import measures, media
from aboveboard.vision.attributes import Reading
from aboveboard.vision.detector import LANDMARK_NAMES, Detection

SMALLEST_SIDE = 80
"""An image with a shorter side is refused (Amazon Rekognition's limit)."""
MOST_FACES = 100
"""Faces answered per image, largest first (Amazon Rekognition's limit)."""

Shortcoming = Literal["small", "unsure", "pose", "dark", "blurred", "crowded", "no_template", "ambiguous", "bystander"]
"""Why a face is not enrolled or not searched."""


@dataclass(frozen=True, slots=True)
class Bar:
    """The least that a face must have: box side in px, detector confidence 0-100, degrees of yaw or pitch, brightness, sharpness."""

    size_px: float
    confidence: float
    turn_degrees: float
    brightness: float
    sharpness: float


BARS = {
    "LOW": Bar(20, 65, 75, 8, 3),
    "MEDIUM": Bar(36, 75, 55, 15, 10),
    "HIGH": Bar(60, 85, 40, 20, 25),
}
BARS["AUTO"] = BARS["LOW"]


@dataclass(frozen=True, slots=True)
class Details:
    """What is wanted of each face beside box, five landmarks, pose and quality. `mesh`: all landmarks, and the pose of all of them."""

    attributes: frozenset[AttributeName] = frozenset()
    mesh: bool = False


DEFAULT = Details()
ALL = Details(frozenset(ATTRIBUTES), mesh=True)


@dataclass(frozen=True)
class Found:
    """A detected face and the upright image it lies in, both to be left behind with the block of `faces`: keep `face`.

    `face`, with its measures, is worked out when somebody asks for it.
    """

    image: media.Image
    detection: Detection
    reading: Reading = Reading()

    @property
    def box(self) -> Box:
        height, width = self.image.shape[:2]
        x, y, w, h = (float(value) for value in self.detection.box)
        return Box(x / width, y / height, w / width, h / height)

    @property
    def confidence(self) -> float:
        return 100 * min(self.detection.score, 1.0)

    @cached_property
    def face(self) -> Face:
        height, width = self.image.shape[:2]
        points = self.detection.points
        return Face(
            box=self.box,
            confidence=self.confidence,
            landmarks=(
                *(Landmark(name, float(px) / width, float(py) / height) for name, (px, py) in zip(LANDMARK_NAMES, points, strict=True)),
                *self.reading.landmarks,
            ),
            pose=self.reading.pose or measures.pose(points),
            quality=measures.quality(self.image, self.detection.box),
            size_px=float(self.detection.box[2:].min()),
            attributes=self.reading.attributes,
        )


def detect(app: App, session: Session, sample: Sample, details: Details = DEFAULT) -> list[Face]:
    """The faces of a photograph, largest first, at most 100. Raises BadSample, or Refused for an operator without a role."""
    app.gate.authorise(session, "detect")
    with faces(app, samples.read(app, session, "detect", sample), details) as seen:
        return [one.face for one in seen]


@contextmanager
def faces(app: App, data: bytes, details: Details = DEFAULT) -> Iterator[list[Found]]:
    """The faces of a photograph, largest first, at most 100: the first step of every verb that takes an image.

    The photograph takes room while the block runs (`media.Room`): leave it before the next one is opened and before waiting for anything.
    """
    with opened(app, data) as image:
        yield found(app, image, details)


@contextmanager
def opened(app: App, data: bytes) -> Iterator[media.Image]:
    """A photograph's upright pixels while the block runs; raises BadRequest below Amazon's least size."""
    with app.room.decoded(data, app.settings.max_image_pixels) as image:
        height, width = image.shape[:2]
        if min(height, width) < SMALLEST_SIDE:
            raise BadRequest(f"the image is {width} x {height} px; its shorter side must be at least {SMALLEST_SIDE} px")
        yield image


def found(app: App, image: media.Image, details: Details = DEFAULT) -> list[Found]:
    """The faces of an opened photograph, largest first, at most 100, each with the wanted details that this deployment can tell."""
    detections = sorted(app.models.detector.detect(image), key=lambda one: -float(one.box[2] * one.box[3]))[:MOST_FACES]
    reader = app.attributes.reader() if details != DEFAULT else None
    if reader is None:
        return [Found(image, detection) for detection in detections]
    readings = reader.read(image, detections, details.attributes, mesh=details.mesh)
    return [Found(image, detection, reading) for detection, reading in zip(detections, readings, strict=True)]


def not_assessed(app: App, details: Details) -> list[AttributeName]:
    """Which of the wanted attributes this deployment cannot tell, in the order of ATTRIBUTES."""
    reader = app.attributes.reader() if details.attributes else None
    return [name for name in ATTRIBUTES if name in details.attributes and (reader is None or name not in reader.assessed)]


def probe(app: App, data: bytes, bar: str, whose: str) -> tuple[Face, Template]:
    """The largest face of a photograph that passes the bar (NONE for any), and its template; raises NoFace where there is none."""
    with faces(app, data) as seen:
        one = largest(seen, bar, whose)
        return one.face, template(app, one)


def largest(candidates: Sequence[Found], bar: str, whose: str) -> Found:
    """The largest face that passes the bar (NONE for any); raises NoFace where there is none."""
    passing = passing_bar(candidates, bar)
    if not passing:
        raise NoFace(f"There are no faces in {whose}. Should be at least 1." if not candidates else
                         f"There are no faces in {whose} that pass the quality filter {bar}. Should be at least 1.")  # fmt: skip
    return passing[0]


def passing_bar(candidates: Sequence[Found], bar: str) -> list[Found]:
    """The faces that pass a quality bar; with NONE all, without measuring them."""
    return [found for found in candidates if bar == "NONE" or shortcoming(found.face, bar) is None]


def shortcoming(face: Face, bar: str) -> Shortcoming | None:
    """What a face lacks to pass a quality bar (NONE, AUTO, LOW, MEDIUM or HIGH), the gravest first."""
    if bar == "NONE":
        return None
    least = bounds(bar)
    return next((lack for lack, value in measured(face).items() if (value > least[lack] if lack == "pose" else value < least[lack])), None)


def measured(face: Face) -> dict[Shortcoming, float]:
    """What each bound of a quality bar is held against, in the units of Bar, the gravest first."""
    return {
        "unsure": face.confidence,
        "small": face.size_px,
        "pose": max(abs(face.pose.yaw), abs(face.pose.pitch)),
        "dark": face.quality.brightness,
        "blurred": face.quality.sharpness,
    }


def bounds(bar: str) -> dict[Shortcoming, float]:
    """The bounds of a quality bar: the most for the pose, the least for everything else."""
    least = BARS[bar]
    return {
        "unsure": least.confidence,
        "small": least.size_px,
        "pose": least.turn_degrees,
        "dark": least.brightness,
        "blurred": least.sharpness,
    }


def template(app: App, found: Found) -> Template:
    """The template of a found face; raises BadRequest where the recogniser gives features without a direction."""
    vector = app.models.recogniser.features(found.image, found.detection.points)
    if not np.isfinite(vector).all() or not vector.any():
        raise BadRequest("the recogniser makes no template of this face; use another photograph")
    return Template(vector, app.models.card.model_version)
