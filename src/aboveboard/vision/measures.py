"""Simple measures of a found face: where it looks, how bright and how sharp it is."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from aboveboard.biometrics.vocabulary import Pose, Quality
from aboveboard.vision.media import Image
from aboveboard.vision.recogniser import align

# Five points of an average head in millimetres, x right, y down, z away from the camera, from the point between the eyes.
# The nose's height is set so that the median photograph of LFW has a pitch of 0 with YuNet's landmarks.
_HEAD = np.array([[-31.5, 0, 0], [31.5, 0, 0], [0, 41.5, -28], [-26, 72, -4], [26, 72, -4]], np.float64)


def pose(points: NDArray[np.float32]) -> Pose:
    """Roll, yaw and pitch in degrees from five landmarks in pixels, by fitting an average head (weak perspective).

    Yaw is positive when the face turns to the viewer's right, pitch when it looks up, roll clockwise. A rough measure: a nose
    that is longer or shorter than the average moves the pitch by several degrees.
    """
    marks = points.astype(np.float64)
    centred, head = marks - marks.mean(axis=0), _HEAD - _HEAD.mean(axis=0)
    # Weak perspective: the two rows of scale x rotation by least squares, then made orthonormal.
    rows, *_ = np.linalg.lstsq(head, centred, rcond=None)
    first, second = rows[:, 0], rows[:, 1]
    scale = max((np.linalg.norm(first) + np.linalg.norm(second)) / 2, 1e-9)
    u, _, vt = np.linalg.svd(np.vstack([first, second, np.cross(first, second) / scale]))
    rotation = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
    yaw = np.degrees(np.arcsin(np.clip(-rotation[0, 2], -1, 1)))
    pitch = np.degrees(np.arctan2(-rotation[1, 2], rotation[2, 2]))
    eyes = marks[1] - marks[0]
    roll = np.degrees(np.arctan2(eyes[1], eyes[0]))
    return Pose(float(roll), float(yaw), float(-pitch))


def quality(image: Image, points: NDArray[np.float32]) -> Quality:
    """Brightness (mean luma) and sharpness (variance of the Laplacian, squeezed) of the face aligned to 112 px, each 0-100."""
    grey = cv2.cvtColor(align(image, points, 112)[16:, 16:-16], cv2.COLOR_BGR2GRAY)
    variance = float(cv2.Laplacian(grey, cv2.CV_32F).var())
    return Quality(float(grey.mean()) / 2.55, float(100 * (1 - np.exp(-variance / 400))))
