"""Simple measures of a found face: where it looks, how bright and how sharp it is."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from aboveboard.biometrics.vocabulary import Pose, Quality
from aboveboard.vision.media import Image

# Five points of an average head in millimetres, x right, y down, z away from the camera, from the point between the eyes.
# The nose's height is set so that the median photograph of LFW has a pitch of 0 with YuNet's landmarks.
_HEAD = np.array([[-31.5, 0, 0], [31.5, 0, 0], [0, 41.5, -28], [-26, 72, -4], [26, 72, -4]], np.float64)
_FIT = np.linalg.pinv(_HEAD - _HEAD.mean(axis=0))


def pose(points: NDArray[np.float32]) -> Pose:
    """Roll, yaw and pitch in degrees from five landmarks in pixels, by fitting an average head (weak perspective).

    Yaw is positive when the face turns to the viewer's right, pitch when it looks up, roll clockwise. A rough measure: a nose
    that is longer or shorter than the average moves the pitch by several degrees.
    """
    marks = points.astype(np.float64)
    # Weak perspective: scale x the first two rows of the rotation, by least squares; then brought to unit length.
    (ax, ay, az), (bx, by, bz) = ((_FIT @ (marks - marks.mean(axis=0))).T).tolist()
    one, other = math.hypot(ax, ay, az) or 1.0, math.hypot(bx, by, bz) or 1.0
    third = (ax * by - ay * bx) / (one * other)
    yaw = math.asin(max(-1.0, min(1.0, -az / one)))
    pitch = math.atan2(bz / other, third)
    roll = math.atan2(marks[1, 1] - marks[0, 1], marks[1, 0] - marks[0, 0])
    return Pose(math.degrees(roll), math.degrees(yaw), math.degrees(pitch))


def quality(image: Image, box: NDArray[np.float32]) -> Quality:
    """Brightness (mean luma) and sharpness (variance of the Laplacian, squeezed) of a face's box brought to 80 px, each 0-100."""
    height, width = image.shape[:2]
    x, y, w, h = (int(side) for side in box)
    left, top = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
    face = image[top : max(y + h, top + 1), left : max(x + w, left + 1)]
    # By area a small face would get the edges of its pixels, and look sharper than a large one.
    way = cv2.INTER_AREA if face.shape[0] > 104 else cv2.INTER_LINEAR
    grey = cv2.cvtColor(cv2.resize(face, (80, 104), interpolation=way), cv2.COLOR_BGR2GRAY)
    _, deviation = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))
    return Quality(cv2.mean(grey)[0] / 2.55, 100 * (1 - math.exp(-(float(deviation[0, 0]) ** 2) / 400)))
