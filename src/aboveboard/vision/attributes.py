"""What is said of a face beyond where it is. One mesh serves all attributes; nothing is computed that was not asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from aboveboard import strict
from aboveboard.biometrics.vocabulary import AttributeName, Attributes, Gaze, Judgement, Landmark, Pose
from aboveboard.errors import BadRequest
from aboveboard.vision.detector import Detection
from aboveboard.vision.media import Image
from aboveboard.vision.mesh import LANDMARKS, Meshed, Mesher

_MOVEMENTS: Final[tuple[AttributeName, ...]] = ("smile", "eyes_open", "mouth_open")


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
class Logistic:
    """A probability out of named movements: 1 / (1 + exp(-(bias + sum of weight x movement)))."""

    movements: tuple[str, ...]
    weights: tuple[float, ...]
    bias: float

    def probability(self, values: Mapping[str, float]) -> float:
        return logistic(self.bias + sum(weight * values[name] for name, weight in zip(self.movements, self.weights, strict=True)))


@dataclass(frozen=True)
class Fitted:
    """What was fitted to the nets' answers, and on what (docs/how-good.md#facial-attributes)."""

    provenance: str
    smile: Logistic
    eyes_open: Logistic
    mouth_open: Logistic


def read_fitted(text: str, where: str) -> Fitted:
    """The fit in a pack's JSON file; raises BadRequest naming what is wrong."""
    try:
        raw: Any = json.loads(text)
    except ValueError as error:
        raise BadRequest(f"{where} is not JSON: {error}") from error
    return strict.table(Fitted, raw, where)


@dataclass
class _Face:
    """One face under way: what has been computed of it so far."""

    detection: Detection
    meshed: Meshed
    said: dict[str, Any] = field(default_factory=dict)


class NetReader:
    """Reads attributes out of the mesh, its movements and the nets of a pack."""

    def __init__(self, mesh: bytes, nets: Mapping[str, bytes], fitted: Fitted) -> None:
        self._mesher, self._nets, self._fitted = Mesher(mesh), nets, fitted

    @property
    def assessed(self) -> frozenset[AttributeName]:
        return frozenset({*_MOVEMENTS, "eye_direction"})

    def read(self, image: Image, found: Sequence[Detection], wanted: Collection[AttributeName], *, mesh: bool) -> list[Reading]:
        asked = self.assessed & set(wanted)
        if not (asked or mesh):
            return [Reading() for _ in found]
        faces = [_Face(one, self._mesher.mesh(image, one.points)) for one in found]
        for face in faces:
            self._movements(face, asked)
        return [Reading(Attributes(**face.said), *((_landmarks(face.meshed, image), face.meshed.pose) if mesh else ())) for face in faces]

    def _movements(self, face: _Face, asked: frozenset[AttributeName]) -> None:
        needed = asked & {*_MOVEMENTS, "eye_direction"}
        if not needed:
            return
        moves = self._mesher.blendshapes(face.meshed)
        for name in _MOVEMENTS:
            if name in needed:
                face.said[name] = judgement(getattr(self._fitted, name).probability(moves))
        if "eye_direction" in needed:
            # Where no open eye is seen, none looks anywhere.
            seen = face.meshed.presence * self._fitted.eyes_open.probability(moves)
            face.said["eye_direction"] = Gaze(*face.meshed.gaze, 100 * seen)


def judgement(probability: float) -> Judgement:
    """The likelier of yes and no."""
    return Judgement(probability >= 0.5, 100 * max(probability, 1 - probability))


def logistic(value: float) -> float:
    return 1 / (1 + math.exp(-max(-500.0, min(500.0, value))))


def _landmarks(meshed: Meshed, image: Image) -> tuple[Landmark, ...]:
    height, width = image.shape[:2]
    points = meshed.points
    return tuple(Landmark(name, float(points[i, 0]) / width, float(points[i, 1]) / height) for name, i in LANDMARKS.items())
