"""Name the expression of a face in Amazon's eight words: a small network's guess and the movements of the mesh. Not what anybody feels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from aboveboard.biometrics.vocabulary import EMOTIONS
from aboveboard.errors import BadRequest
from aboveboard.vision import flatgraphs, session
from aboveboard.vision.media import Image
from aboveboard.vision.mesh import upright
from aboveboard.vision.recogniser import crop

SIZE, REACH, BATCH = 64, 2.5, 8
CLASSES: Final = ("ANGRY", "DISGUSTED", "FEAR", "HAPPY", "SAD", "SURPRISED", "CALM")
"""What the network tells apart, in its order; it knows no CONFUSED."""

MOVES: Final[Mapping[str, Mapping[str, float]]] = {
    "HAPPY": {"mouthSmileLeft": 0.5, "mouthSmileRight": 0.5},
    "ANGRY": {"browDownLeft": 0.5, "browDownRight": 0.5},
    "SURPRISED": {
        "browOuterUpLeft": 0.25, "browOuterUpRight": 0.25, "browInnerUp": 0.5, "eyeWideLeft": 0.5, "eyeWideRight": 0.5, "jawOpen": 1.0,
    },
}  # fmt: skip
"""Which blendshapes, with which shares, speak for an expression beside the network."""


@dataclass(frozen=True)
class EmotionFit:
    """One number for each of EMOTIONS: `bias` and `moves`; `sharpness` is the inverse of the network's temperature. See `evidence`."""

    sharpness: float
    bias: tuple[float, ...]
    moves: tuple[float, ...]
    provenance: str = ""

    def __post_init__(self) -> None:
        if {len(self.bias), len(self.moves)} != {len(EMOTIONS)} or not np.isfinite([self.sharpness, *self.bias, *self.moves]).all():
            raise BadRequest(f"a fit of emotions has {len(EMOTIONS)} finite numbers each in bias and moves: of {', '.join(EMOTIONS)}")


@dataclass(frozen=True)
class Expressions:
    """The fer project's network (mini-Xception, trained on FER-2013) and blendshapes.

    Input (N, 64, 64, 1) float32, grey -1 to 1; output (N, 7), probabilities of CLASSES. Each face is looked at as it is and mirrored.
    """

    session: onnxruntime.InferenceSession
    fit: EmotionFit

    @staticmethod
    def opened(net: bytes, fit: EmotionFit) -> Expressions:
        """Of the bytes of fer's emotion_model_quantized.tflite; raises BadRequest for another file."""
        expressions = Expressions(session.open_session(flatgraphs.onnx_graph(net)), fit)
        text = f"the emotions network does not take a face of {SIZE} x {SIZE} grey px; name fer's in the card"
        found = session.tried(lambda: expressions.shares(np.zeros((1, SIZE, SIZE), np.uint8)).shape, text)
        if found != (1, len(CLASSES)):
            raise BadRequest(f"the emotions network answers {found}, not (1, {len(CLASSES)}); name fer's in the card")
        return expressions

    def run(
        self, image: Image, points: Sequence[NDArray[np.float32]], blendshapes: Sequence[Mapping[str, float]]
    ) -> list[tuple[tuple[str, float], ...]]:
        """Of each face its expressions with their confidences, the surest first, together 100.

        Faces by the detector's five landmarks (5, 2) in pixels of an upright BGR image and their blendshapes, 0-1.
        """
        if not points:
            return []
        grey = np.array([cv2.cvtColor(face_of(image, each), cv2.COLOR_BGR2GRAY) for each in points], np.uint8)
        found = 100 * confidences(*evidence(self.shares(grey), blendshapes), self.fit)
        return [tuple((EMOTIONS[i], float(row[i])) for i in np.argsort(-row, kind="stable")) for row in found]

    def shares(self, grey: NDArray[np.uint8]) -> NDArray[np.float64]:
        """The network's own probabilities (n, 7) of CLASSES, of grey faces (n, 64, 64)."""
        found = []
        for first in range(0, len(grey), BATCH):
            values = (grey[first : first + BATCH, :, :, None].astype(np.float32) / 255 - 0.5) * 2
            ways = [self.session.run(None, {"input0": each})[0] for each in (values, np.ascontiguousarray(values[:, :, ::-1]))]
            found.append(np.mean(ways, axis=0, dtype=np.float64))
        return np.concatenate(found)


def face_of(image: Image, points: NDArray[np.float32]) -> Image:
    """The face's upright square crop of 64 px, forehead to chin, BGR."""
    return crop(image, points, SIZE, lambda exact: upright(exact, SIZE, REACH))


def evidence(shares: NDArray[np.float64], blendshapes: Sequence[Mapping[str, float]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of n faces, by EMOTIONS (n, 8): the logarithms of the network's probabilities, 0 where it knows no such class; and the movements."""
    logs, moves = np.zeros((2, len(shares), len(EMOTIONS)))
    for at, name in enumerate(EMOTIONS):
        if name in CLASSES:
            logs[:, at] = np.log(np.clip(shares[:, CLASSES.index(name)], 1e-4, 1))
        moves[:, at] = [sum(share * each[move] for move, share in MOVES.get(name, {}).items()) for each in blendshapes]
    return logs, moves


def confidences(logs: NDArray[np.float64], moves: NDArray[np.float64], fit: EmotionFit) -> NDArray[np.float64]:
    """(n, 8), each row sums to 1: softmax(bias + sharpness x logs + weights x moves).

    The bias corrects the network's prior (it was trained on as many angry and sad faces as calm ones), the sharpness its certainty.
    """
    logits = np.array(fit.bias) + fit.sharpness * logs + np.array(fit.moves) * moves
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))
