"""What is said of a face beyond where it is. One mesh serves all attributes; nothing is computed that was not asked for."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from aboveboard import strict
from aboveboard.biometrics.vocabulary import AttributeName, Attributes, Gaze, Judgement, Landmark, Pose
from aboveboard.errors import BadRequest
from aboveboard.vision.demographics import AgeFit, AgeGender, GenderFit, views
from aboveboard.vision.detector import Detection
from aboveboard.vision.emotions import EmotionFit, Expressions
from aboveboard.vision.media import Image
from aboveboard.vision.mesh import LANDMARKS, Meshed, Mesher
from aboveboard.vision.regions import ATTRIBUTES as REGIONAL
from aboveboard.vision.regions import NOT_ASSESSED, Regions

LEGIBLE_PX = 40
"""Of a face of this width or more the confidences of what is worn and of smiles hold as they were fitted."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What is said of one face. `landmarks` beyond the detector's five and the `pose` of the mesh where they were asked for."""

    attributes: Attributes = Attributes()
    landmarks: tuple[Landmark, ...] = ()
    pose: Pose | None = None


class AttributeReader(Protocol):
    """What reads the attributes of found faces."""

    @property
    def assessed(self) -> frozenset[AttributeName]:
        """The attributes that it can tell at all."""
        ...

    def read(self, image: Image, found: Sequence[Detection], wanted: Collection[AttributeName], *, mesh: bool) -> list[Reading]:
        """The wanted attributes of each face of an upright BGR image; with `mesh` its landmarks and pose too."""
        ...


@dataclass(frozen=True)
class Fitted:
    """What was fitted to the nets' answers, and on what (docs/how-good.md#facial-attributes)."""

    age: AgeFit | None = None
    gender: GenderFit | None = None
    emotions: EmotionFit | None = None


def read_fitted(text: str, where: str) -> Fitted:
    """The fit in a pack's JSON file; raises BadRequest naming what is wrong."""
    try:
        return strict.table(Fitted, json.loads(text), where)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"{where} is no fit: {error}") from error


class NetReader:
    """Reads attributes out of the mesh, its movements and regions, and the nets of a pack that has them.

    `mesh`: the bytes of a face_landmarker.task; `nets`: those of `age`, `gender`, `emotions`. Raises BadRequest for a file that is none.
    """

    def __init__(self, mesh: bytes, nets: Mapping[str, bytes], fitted: Fitted) -> None:
        self._mesher, self._regions = Mesher(mesh), Regions.shipped()
        self._demographics: AgeGender | None = None
        self._expressions: Expressions | None = None
        if lacking := [name for name in nets if getattr(fitted, name) is None]:
            raise BadRequest(f"the pack has a net for {lacking[0]} and no fit of what it answers; name a file with one in the card")
        if fitted.age and fitted.gender and "age" in nets:
            self._demographics = AgeGender.opened(nets["age"], nets["gender"], fitted.age, fitted.gender)
        if fitted.emotions and "emotions" in nets:
            self._expressions = Expressions.opened(nets["emotions"], fitted.emotions)

    @property
    def assessed(self) -> frozenset[AttributeName]:
        told: set[AttributeName] = {"eye_direction", *(REGIONAL - self._regions.not_assessed)}
        if self._demographics:
            told |= {"age_range", "gender"}
        if self._expressions:
            told |= {"emotions"}
        return frozenset(told)

    def read(self, image: Image, found: Sequence[Detection], wanted: Collection[AttributeName], *, mesh: bool) -> list[Reading]:
        if not found:
            return []
        asked, points = self.assessed & set(wanted), [face.points for face in found]
        untold = self._regions.not_assessed & set(wanted)
        said: list[dict[str, Any]] = [{name: judgement(NOT_ASSESSED) for name in untold} for _ in found]
        if self._demographics and asked & {"age_range", "gender"}:
            seen = np.stack([views(image, each) for each in points])
            if "age_range" in asked:
                for one, ages in zip(said, self._demographics.ranges(seen), strict=True):
                    one["age_range"] = ages
            if "gender" in asked:
                for one, gender in zip(said, self._demographics.genders(seen), strict=True):
                    one["gender"] = gender
        if not (mesh or asked & {"emotions", "eye_direction", *REGIONAL}):
            return [Reading(Attributes(**one)) for one in said]
        meshes = [self._mesher.mesh(image, each) for each in points]
        movements = [self._mesher.blendshapes(one) if asked & {"emotions", "smile"} else {} for one in meshes]
        if self._expressions and "emotions" in asked:
            for one, emotions in zip(said, self._expressions.run(image, points, movements), strict=True):
                one["emotions"] = emotions
        for one, face, meshed, moves in zip(said, found, meshes, movements, strict=True):
            one |= self._of_regions(meshed, moves, asked, legible(float(face.box[2])))
        # What is no face to the mesh's net has a mesh all the same.
        details = [(_landmarks(one, image), one.pose) if mesh and one.presence >= 0.5 else () for one in meshes]
        return [Reading(Attributes(**one), *detail) for one, detail in zip(said, details, strict=True)]

    def _of_regions(self, meshed: Meshed, moves: Mapping[str, float], asked: frozenset[AttributeName], legible: float) -> dict[str, Any]:
        names = {*(asked & REGIONAL), *({"eyes_open"} if "eye_direction" in asked else ())}
        if not names:
            return {}
        chances = self._regions.probabilities(meshed.crop, meshed.in_crop, meshed.summary, moves, names)
        # Where there is perhaps no face, nothing said of it is sure; nor is much of a small one, but whether its eyes are open.
        trust = {name: meshed.presence * (1 if name == "eyes_open" else legible) for name in names & asked}
        said: dict[str, Any] = {name: judgement(0.5 + share * (chances[name] - 0.5)) for name, share in trust.items()}
        if "eye_direction" in asked:
            # Where no open eye is seen, none looks anywhere.
            said["eye_direction"] = Gaze(*meshed.gaze, 100 * meshed.presence * chances["eyes_open"])
        return said


def legible(width_px: float) -> float:
    """How much of a confidence above one half is left of a face so narrow, 0-1: as much as is right (benchmarks/face_sizes.py)."""
    return 1 - max(0.0, 1 - width_px / LEGIBLE_PX) ** 2 / 2


def judgement(probability: float) -> Judgement:
    """The likelier of yes and no."""
    return Judgement(probability >= 0.5, 100 * max(probability, 1 - probability))


def _landmarks(meshed: Meshed, image: Image) -> tuple[Landmark, ...]:
    height, width = image.shape[:2]
    points = meshed.points
    return tuple(Landmark(name, float(points[i, 0]) / width, float(points[i, 1]) / height) for name, i in LANDMARKS.items())
