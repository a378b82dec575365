"""Find the faces of a photograph, measure them, make templates of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from aboveboard.accountability.operators import Session
from aboveboard.biometrics.vocabulary import ATTRIBUTES, AttributeName, Box, Face, Landmark, Template
from aboveboard.errors import BadRequest, NoFace
from aboveboard.service import quality, samples
from aboveboard.service.app import App
from aboveboard.service.quality import Shortcoming
from aboveboard.service.samples import Sample
from aboveboard.vision import measures, media
from aboveboard.vision.attributes import Reading
from aboveboard.vision.detector import LANDMARK_NAMES, Detection
from aboveboard.vision.packs import Models
from aboveboard.vision.recogniser import Features

SMALLEST_SIDE = 80
"""An image with a shorter side is refused (Amazon Rekognition's limit)."""
MOST_FACES = 100
"""Faces answered per image, largest first (Amazon Rekognition's limit)."""


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

    `face`, with its measures, and `features`, which costs most, are worked out when somebody asks for them, once.
    """

    image: media.Image
    detection: Detection
    models: Models
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

    @cached_property
    def features(self) -> Features:
        return self.models.recogniser.embed(self.image, self.detection.points)

    @cached_property
    def assessed(self) -> Face:
        """The face with its unified quality, where the pack has a fitted one."""
        fitted = self.models.quality
        return self.face if fitted is None else replace(self.face, unified=fitted.score(self.features.norm))

    def lacks(self, bar: str) -> tuple[Shortcoming, ...]:
        """What it lacks to pass a quality bar, the gravest first; of a face that is perhaps none no features are made."""
        # By the five points' pose, whether or not a better one was asked for: what is enrolled depends on nothing that is asked besides.
        face = replace(self.face, pose=measures.pose(self.detection.points))
        lacking = quality.lacks(face, bar, None)
        is_settled = bar == "NONE" or self.models.quality is None or lacking == ("unsure",)
        return lacking if is_settled else quality.lacks(replace(face, unified=self.assessed.unified), bar, self.models.quality)


def detect(app: App, session: Session, sample: Sample, details: Details = DEFAULT) -> list[Face]:
    """The faces of a photograph, largest first, at most 100. Raises BadSample, or Refused for an operator without a role."""
    app.gate.authorise(session, "detect")
    with faces(app, samples.read(app, session, "detect", sample), details) as seen:
        return [one.face for one in seen]


def assess(app: App, session: Session, sample: Sample, details: Details, bar: str) -> list[tuple[Face, tuple[Shortcoming, ...]]]:
    """As `detect`, each face with its unified quality and with what it lacks to pass a quality bar, as enrolment judges it."""
    app.gate.authorise(session, "detect")
    with faces(app, samples.read(app, session, "detect", sample), details) as seen:
        return [(one.assessed, one.lacks(bar)) for one in seen]


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
        return [Found(image, detection, app.models) for detection in detections]
    readings = reader.read(image, detections, details.attributes, mesh=details.mesh)
    return [Found(image, detection, app.models, reading) for detection, reading in zip(detections, readings, strict=True)]


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
    passing = next(passing_bar(candidates, bar), None)
    if passing is None:
        raise NoFace(f"There are no faces in {whose}. Should be at least 1." if not candidates else
                         f"There are no faces in {whose} that pass the quality filter {bar}. Should be at least 1.")  # fmt: skip
    return passing


def passing_bar(candidates: Iterable[Found], bar: str) -> Iterator[Found]:
    """The faces that pass a quality bar, each looked at when it is asked for; with NONE all."""
    return (found for found in candidates if not found.lacks(bar))


def template(app: App, found: Found) -> Template:
    """The template of a found face; raises BadRequest where the recogniser gives features without a direction."""
    vector = found.features.vector
    if not np.isfinite(vector).all() or not vector.any():
        raise BadRequest("the recogniser makes no template of this face; use another photograph")
    return Template(vector, app.models.card.model_version)
