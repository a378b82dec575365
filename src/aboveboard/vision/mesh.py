"""The mesh of a face: 478 points of MediaPipe's face landmarker, its blendshapes, the head's pose and where the eyes look."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray

from aboveboard.biometrics.vocabulary import Pose
from aboveboard.errors import BadRequest
from aboveboard.vision import flatgraphs, session
from aboveboard.vision.media import Image
from aboveboard.vision.recogniser import crop

Points = NDArray[np.float32]

SIZE: Final = 256
"""Side of the upright crop that the net sees."""
SUMMARY: Final = 512
"""How many numbers the net has made of it before it places the points: 2 x 2 places of 128 channels, channels first."""

LANDMARKS: Final = {
    "leftEyeBrowLeft": 70, "leftEyeBrowRight": 107, "leftEyeBrowUp": 105, "rightEyeBrowLeft": 336, "rightEyeBrowRight": 300,
    "rightEyeBrowUp": 334, "leftEyeLeft": 33, "leftEyeRight": 133, "leftEyeUp": 159, "leftEyeDown": 145, "rightEyeLeft": 362,
    "rightEyeRight": 263, "rightEyeUp": 386, "rightEyeDown": 374, "noseLeft": 64, "noseRight": 294, "mouthUp": 0, "mouthDown": 17,
    "leftPupil": 468, "rightPupil": 473, "upperJawlineLeft": 127, "midJawlineLeft": 58, "chinBottom": 152, "midJawlineRight": 288,
    "upperJawlineRight": 356,
}  # fmt: skip
"""Which point of the mesh each of Amazon Rekognition's landmarks beyond the detector's five is; left and right are the viewer's."""

_BLENDSHAPES: Final = (
    "_neutral", "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight", "cheekPuff", "cheekSquintLeft",
    "cheekSquintRight", "eyeBlinkLeft", "eyeBlinkRight", "eyeLookDownLeft", "eyeLookDownRight", "eyeLookInLeft", "eyeLookInRight",
    "eyeLookOutLeft", "eyeLookOutRight", "eyeLookUpLeft", "eyeLookUpRight", "eyeSquintLeft", "eyeSquintRight", "eyeWideLeft",
    "eyeWideRight", "jawForward", "jawLeft", "jawOpen", "jawRight", "mouthClose", "mouthDimpleLeft", "mouthDimpleRight",
    "mouthFrownLeft", "mouthFrownRight", "mouthFunnel", "mouthLeft", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthPressLeft",
    "mouthPressRight", "mouthPucker", "mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper",
    "mouthSmileLeft", "mouthSmileRight", "mouthStretchLeft", "mouthStretchRight", "mouthUpperUpLeft", "mouthUpperUpRight",
    "noseSneerLeft", "noseSneerRight",
)  # fmt: skip
_BLENDSHAPE_POINTS: Final = [
    0, 1, 4, 5, 6, 7, 8, 10, 13, 14, 17, 21, 33, 37, 39, 40, 46, 52, 53, 54, 55, 58, 61, 63, 65, 66, 67, 70, 78, 80, 81, 82, 84, 87,
    88, 91, 93, 95, 103, 105, 107, 109, 127, 132, 133, 136, 144, 145, 146, 148, 149, 150, 152, 153, 154, 155, 157, 158, 159, 160, 161,
    162, 163, 168, 172, 173, 176, 178, 181, 185, 191, 195, 197, 234, 246, 249, 251, 263, 267, 269, 270, 276, 282, 283, 284, 285, 288,
    291, 293, 295, 296, 297, 300, 308, 310, 311, 312, 314, 317, 318, 321, 323, 324, 332, 334, 336, 338, 356, 361, 362, 365, 373, 374,
    375, 377, 378, 379, 380, 381, 382, 384, 385, 386, 387, 388, 389, 390, 397, 398, 400, 402, 405, 409, 415, 454, 466, 468, 469, 470,
    471, 472, 473, 474, 475, 476, 477,
]  # fmt: skip
_HEAD: Final = {
    6: (0.0, 2.473, 5.789), 33: (-4.446, 2.664, 3.173), 133: (-1.856, 2.585, 3.758), 263: (4.446, 2.664, 3.173),
    362: (1.856, 2.585, 3.758), 129: (-1.786, -0.978, 4.850), 358: (1.786, -0.978, 4.850), 4: (0.0, -0.463, 7.587),
    10: (0.0, 8.262, 4.482), 127: (-7.743, 2.365, -2.005), 356: (7.743, 2.365, -2.005),
}  # fmt: skip
"""Points of MediaPipe's canonical face in centimetres, x to the viewer's right, y up, z to the camera; none of them moves with the jaw."""
_EYES: Final = ((33, 133, 468), (362, 263, 473))
"""Corners at the viewer's left and right, and the iris's centre, of both eyes."""
_EYEBALL: Final = 0.42
"""An eyeball's radius (12 mm) to the distance between an eye's corners (28.5 mm, of an iris of 11.7 mm)."""
_RESTING: Final = 0.064
"""How far above the line between its corners an iris rests, to their distance: with it the median gaze of 698 official portraits is level
within a degree (benchmarks/face_mesh.py)."""


@dataclass(frozen=True)
class Meshed:
    """A face with its mesh. `crop`: the upright 256 x 256 RGB picture that the net saw; `in_crop` (478, 3): the points in its pixels, z
    (away from the camera) in the same unit; `presence` 0-1: how sure the net is that it sees a face; `summary` (512,): what it has made
    of the picture before it places the points."""

    crop: Image
    in_crop: Points
    presence: float
    summary: Points
    transform: NDArray[np.float64]

    @cached_property
    def points(self) -> Points:
        """(478, 3) in pixels of the image; z in the same unit, away from the camera."""
        scale = math.hypot(self.transform[0, 0], self.transform[1, 0])
        flat = (self.in_crop[:, :2] - self.transform[:, 2]) @ np.linalg.inv(self.transform[:, :2]).T
        return np.hstack([flat, self.in_crop[:, 2:] / scale]).astype(np.float32)

    @cached_property
    def rotation(self) -> NDArray[np.float64]:
        """The head's rotation (3, 3): what brings a head that looks straight into the camera to where this one is.

        Of x to the viewer's right, y up, z to the camera. By Kabsch's method (1976) from points that do not move with the jaw.
        """
        numbers, model = list(_HEAD), np.array(list(_HEAD.values()))
        seen = self.points[numbers].astype(np.float64) * [1, -1, -1]
        left, _, right = np.linalg.svd((seen - seen.mean(axis=0)).T @ (model - model.mean(axis=0)))
        return np.asarray(left @ np.diag([1, 1, np.sign(np.linalg.det(left @ right))]) @ right, np.float64)

    @property
    def pose(self) -> Pose:
        """Roll, yaw, pitch in degrees, each with the sign of vision.measures.pose."""
        forward, side = self.rotation[:, 2], self.rotation[:, 0]
        yaw, pitch = _angles(forward)
        return Pose(math.degrees(math.atan2(-side[1], side[0])), yaw, pitch)

    @property
    def gaze(self) -> tuple[float, float]:
        """Yaw and pitch in degrees of where the eyes look, against the camera: the mean of both.

        Each iris's place between its eye's corners, in the frame of the head, is taken for a turn of the eyeball.
        """
        points, rotation = self.points.astype(np.float64) * [1, -1, -1], self.rotation
        looks = np.zeros(3)
        for left, right, iris in _EYES:
            corners = points[[left, right]]
            width = float(np.linalg.norm(corners[1] - corners[0])) or 1.0
            # Across and up in the head's own frame, as parts of the eyeball's radius.
            across, up, _ = rotation.T @ (points[iris] - corners.mean(axis=0)) / width
            across, up = across / _EYEBALL, (up - _RESTING) / _EYEBALL
            away = max(1 - across**2 - up**2, 0.0) ** 0.5
            looks += rotation @ np.array([across, up, away])
        return _angles(looks)


class Mesher:
    """Finds the mesh of found faces (Grishchenko et al., "Attention Mesh", 2020; MediaPipe's face landmarker) and reads it.

    `archive`: the bytes of a `face_landmarker.task`. One face at a time: both nets take no less for several together.
    """

    def __init__(self, archive: bytes) -> None:
        try:
            with zipfile.ZipFile(io.BytesIO(archive)) as parts:
                mesh, blendshapes = (parts.read(name) for name in ("face_landmarks_detector.tflite", "face_blendshapes.tflite"))
        except (zipfile.BadZipFile, zlib.error, KeyError, OSError, RuntimeError) as error:  # RuntimeError: encrypted, an unknown method
            raise BadRequest("the mesh's file is no face_landmarker.task") from error
        graph = flatgraphs.onnx_graph(mesh)
        session.rewrite_prelu(graph)
        _answer_with_summary(graph)
        self._mesh = session.open_session(graph)
        self._blendshapes = session.open_session(flatgraphs.onnx_graph(blendshapes))
        # Nets that are not what they should be are found now, not by the first photograph.
        anybody = np.array([[90, 100], [160, 100], [125, 140], [95, 180], [155, 180]], np.float32)
        session.tried(
            lambda: self.blendshapes(self.mesh(np.zeros((SIZE, SIZE, 3), np.uint8), anybody)),
            "the mesh's file is no face_landmarker.task: its nets take or give something else",
        )

    def mesh(self, image: Image, points: Points) -> Meshed:
        """The mesh of the face with these five landmarks in an upright BGR image."""
        picture = np.ascontiguousarray(crop(image, points, SIZE, _region)[:, :, ::-1])
        found, presence, _, summary = self._mesh.run(None, {"input0": picture[None].astype(np.float32) / 255})
        sure = 1 / (1 + math.exp(-float(np.clip(presence.reshape(-1)[0], -50, 50))))
        return Meshed(picture, found.reshape(478, 3), sure, summary.reshape(SUMMARY), _region(points.astype(np.float64)))

    def blendshapes(self, meshed: Meshed) -> dict[str, float]:
        """52 movements of a face, each 0-1, by ARKit's names; there left and right are the face's own."""
        points = meshed.in_crop[_BLENDSHAPE_POINTS, :2]
        found = self._blendshapes.run(None, {"input0": points[None]})[0].reshape(-1)
        return dict(zip(_BLENDSHAPES, (float(value) for value in found), strict=True))


def _answer_with_summary(model: onnx.ModelProto) -> None:
    """The net answers, last, what the convolution takes that gives its first output."""
    made_by = {name: node for node in model.graph.node for name in node.output}
    node = made_by.get(model.graph.output[0].name)
    while node is not None and node.op_type != "Conv":
        node = made_by.get(node.input[0])
    if node is not None:  # without it the first try of the net fails
        model.graph.output.append(onnx.helper.make_tensor_value_info(node.input[0], onnx.TensorProto.FLOAT, None))


def _region(points: NDArray[np.float64]) -> NDArray[np.float64]:
    return upright(points, SIZE, 3.6)


def upright(points: NDArray[np.float64], size: int, reach: float) -> NDArray[np.float64]:
    """The 2 x 3 transform onto a crop of `size` px: a square around eyes and mouth, upright, `reach` times the distance of the eyes wide.

    3.6 leaves room for the whole head, 2.5 shows forehead to chin. Where a head is turned, the distance of eyes and mouth counts.
    """
    eyes, mouth = points[:2].mean(axis=0), points[3:].mean(axis=0)
    across = points[1] - points[0]
    side = reach * max(float(np.hypot(*across)), 0.95 * float(np.hypot(*(mouth - eyes))), 1.0)
    turn, scale = math.atan2(across[1], across[0]), size / side
    linear = scale * np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    return np.hstack([linear, (size / 2 - linear @ ((eyes + mouth) / 2))[:, None]])


def _angles(direction: NDArray[np.float64]) -> tuple[float, float]:
    """Yaw (to the viewer's right) and pitch (up) in degrees of a direction."""
    across, up, towards = (float(part) for part in direction)
    return math.degrees(math.atan2(across, math.hypot(up, towards))), math.degrees(math.atan2(up, towards))
