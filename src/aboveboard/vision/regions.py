"""What regions of the face mesh show: glasses, beard, moustache, something before the face; smile, open eyes and mouth.

The face is spread out on the mesh's mean shape, so that each part of every face lies at the same place whatever its pose. Small linear
models look at gradients and colours there, relative to the face's own skin; one more looks at the mesh net's summary of the picture,
which knows of things before a face. Their weights are data, `fitted/face-regions.json`, made and measured by benchmarks/face_regions.py.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from aboveboard.biometrics.vocabulary import AttributeName
from aboveboard.vision.media import Image
from aboveboard.vision.mesh import SUMMARY

if TYPE_CHECKING:
    from scipy import sparse

Array = NDArray[np.float32]

WIDTH, HEIGHT, CELL, BINS = 128, 144, 8, 8
ROWS, COLUMNS, CHANNELS = HEIGHT // CELL, WIDTH // CELL, BINS + 5
SURFACE: Final = 468
"""The mesh's points on the skin; the last ten of 478 are those of the irises."""
WINDOWS: Final = {
    "eyewear": (slice(3, 9), slice(1, 15)),
    "sunglasses": (slice(3, 9), slice(1, 15)),
    "beard": (slice(9, 18), slice(2, 14)),
    "mustache": (slice(9, 18), slice(2, 14)),
}
"""Rows and columns of cells that each of these linear models looks at; "covered" looks at the summary."""
ON_SPREAD: Final[frozenset[AttributeName]] = frozenset({"eyeglasses", "sunglasses", "face_occluded", "beard", "mustache"})
ATTRIBUTES: Final[frozenset[AttributeName]] = ON_SPREAD | {"smile", "eyes_open", "mouth_open"}
NOT_ASSESSED: Final = 0.49
"""What is said of an attribute that no method here tells: no, with hardly any confidence."""
_SKIN: Final = (slice(8, 12), slice(3, 13))
_OUTER_EYES, _INNER_LIPS = (33, 263), ((81, 178), (13, 14), (311, 402))
_LIDS = ((((159, 145), (158, 153), (160, 144)), (33, 133)), (((386, 374), (385, 380), (387, 373)), (263, 362)))


class Regions:
    """Judges one face after another by fitted models: `shape` (468 x 2, px of the spread), `rim`, `margin`, `weights`, `expressions`."""

    def __init__(self, fitted: Mapping[str, Any]) -> None:
        self.not_assessed: frozenset[AttributeName] = frozenset(fitted["not_assessed"])
        self._rim, self._margin = np.array(fitted["rim"]), np.float32(fitted["margin"])
        self._sources = _interpolation(self._with_margin(np.array(fitted["shape"], np.float32)))
        self._models = {
            name: (np.array(model["weights"], np.float32).reshape(_shape(name) if name in WINDOWS else SUMMARY), float(model["bias"]))
            for name, model in fitted["models"].items()
        }
        self._expressions = {name: np.array(model["weights"]) for name, model in fitted["expressions"].items()}

    @staticmethod
    def shipped() -> Regions:
        """The models that the package carries."""
        file = resources.files("aboveboard.vision") / "fitted" / "face-regions.json"
        return Regions(json.loads(file.read_text(encoding="utf-8")))

    def probabilities(
        self, crop: Image, points: Array, summary: Array, blendshapes: Mapping[str, float], wanted: Collection[str] = ATTRIBUTES
    ) -> dict[str, float]:
        """The calibrated probability (0-1) of each attribute in `wanted`; NOT_ASSESSED where none can be given.

        `crop` is the upright RGB crop that the mesh was made of, `points` (478, 2 or more) lie in its pixels, `summary` is the net's.
        """
        found: dict[str, float] = {}
        if not ON_SPREAD.isdisjoint(wanted):
            seen = cells(self.spread(crop, points))
            found = {name: self._probability(name, seen[window]) for name, window in WINDOWS.items()}
            found["covered"] = self._probability("covered", summary)
            found |= combined(found["eyewear"], found["sunglasses"], found["covered"])
            found |= dict.fromkeys(self.not_assessed, NOT_ASSESSED)
        for name, measures in expressions(points, blendshapes, wanted).items():
            weights = self._expressions[name]
            found[name] = _logistic(float(weights[:-1] @ measures + weights[-1]))
        return {name: found[name] for name in wanted}

    def spread(self, crop: Image, points: Array) -> Image:
        """The face on the mesh's mean shape, with a margin around it, its border drawn on outwards: (HEIGHT, WIDTH, 3)."""
        sources = self._sources @ self._with_margin(np.asarray(points[:SURFACE, :2], np.float32))
        across, down = cv2.split(np.asarray(sources, np.float32).reshape(HEIGHT, WIDTH, 2))
        return np.asarray(cv2.remap(crop, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.uint8)

    def _with_margin(self, points: Array) -> Array:
        rim = points[self._rim]
        return np.concatenate([points, rim + self._margin * (rim - points.mean(axis=0))])

    def _probability(self, name: str, seen: Array) -> float:
        weights, bias = self._models[name]
        return _logistic(float((seen * weights).sum()) + bias)


def combined(eyewear: Any, sunglasses: Any, covered: Any) -> dict[str, Any]:
    """Eyeglasses are eyewear but sunglasses; what occludes a face are sunglasses or anything else that covers it."""
    return {"eyeglasses": eyewear * (1 - sunglasses), "face_occluded": 1 - (1 - sunglasses) * (1 - covered)}


def cells(spread: Image) -> Array:
    """Gradients and colours of each cell: (ROWS, COLUMNS, CHANNELS).

    Channels: the square roots of BINS orientations' gradient, over that of the neighbourhood (after Dalal and Triggs, "Histograms of
    oriented gradients", 2005); log of the gradient; lightness, red-green and yellow-blue (CIELAB) against the skin's; deviation of
    the lightness. Lightness counts in parts of the skin's own.
    """
    lab = cv2.cvtColor(spread, cv2.COLOR_RGB2LAB).astype(np.float32)
    mean = _pooled(lab)
    deviation = np.sqrt(np.maximum(_pooled(lab[..., :1] ** 2)[..., 0] - mean[..., 0] ** 2, 0))
    skin = np.median(mean[_SKIN].reshape(-1, 3), axis=0)
    unit = max(float(skin[0]), 30.0)
    light = lab[..., 0] / np.float32(unit)
    across, down = (cv2.Sobel(light, cv2.CV_32F, *step, ksize=3, scale=1 / 8) for step in ((1, 0), (0, 1)))
    size, turn = cv2.cartToPolar(across, down)
    place = np.mod(turn, np.float32(np.pi)) * np.float32(BINS / np.pi)
    lower = np.floor(place)
    upper_share = (place - lower) * size
    first = lower.astype(np.intp) % BINS + _CELL_OF * BINS
    second = (lower.astype(np.intp) + 1) % BINS + _CELL_OF * BINS
    summed = np.bincount(first.ravel(), (size - upper_share).ravel(), ROWS * COLUMNS * BINS)
    summed += np.bincount(second.ravel(), upper_share.ravel(), ROWS * COLUMNS * BINS)
    gradients = (summed / CELL**2).astype(np.float32).reshape(ROWS, COLUMNS, BINS)
    around = np.sqrt(cv2.blur((gradients**2).sum(axis=-1), (3, 3)) + np.float32(1e-4))
    strength = np.log(gradients.sum(axis=-1, keepdims=True) + np.float32(0.01))
    colour = (mean - skin) / np.array([unit, 20, 20], np.float32)
    return np.concatenate(
        [np.sqrt(gradients / around[..., None]), strength, colour, (deviation / unit)[..., None]], axis=-1, dtype=np.float32
    )


def mirrored(seen: NDArray[Any]) -> NDArray[Any]:
    """What `cells` would say of the mirror image; any leading dimensions."""
    turned = [(BINS - k) % BINS for k in range(BINS)] + list(range(BINS, CHANNELS))
    return seen[..., :, ::-1, :][..., turned]


def expressions(points: Array, blendshapes: Mapping[str, float], wanted: Collection[str] = ATTRIBUTES) -> dict[str, NDArray[np.float64]]:
    """The measures that smile, open eyes and open mouth are judged by.

    Smile: the mean of both blendshapes. Eyes: the wider one's opening over its width. Mouth: the lips' distance over the outer eyes'.
    """

    def distance(one: int, other: int) -> float:
        return float(np.hypot(*(points[one, :2] - points[other, :2])))

    eyes = [sum(distance(*pair) for pair in lids) / 3 / max(distance(*corners), 1e-6) for lids, corners in _LIDS]
    lips = sum(distance(*pair) for pair in _INNER_LIPS) / 3 / max(distance(*_OUTER_EYES), 1e-6)
    found = {"eyes_open": np.array([max(eyes)]), "mouth_open": np.array([lips])}
    if "smile" in wanted:
        found["smile"] = np.array([(blendshapes["mouthSmileLeft"] + blendshapes["mouthSmileRight"]) / 2])
    return found


def _shape(name: str) -> tuple[int, int, int]:
    rows, columns = WINDOWS[name]
    return rows.stop - rows.start, columns.stop - columns.start, CHANNELS


_CELL_OF: Final = np.arange(HEIGHT)[:, None] // CELL * COLUMNS + np.arange(WIDTH) // CELL


def _pooled(image: Array) -> Array:
    """Means of cells: (ROWS, COLUMNS, planes)."""
    pooled = cv2.resize(image, (COLUMNS, ROWS), interpolation=cv2.INTER_AREA)
    return np.asarray(pooled, np.float32).reshape(ROWS, COLUMNS, -1)


def _logistic(score: float) -> float:
    return float(1 / (1 + np.exp(-score)))


def _interpolation(vertices: Array) -> sparse.csr_array:
    """The matrix that makes of the vertices' places in a crop those of all pixels of the spread."""
    # Here, because they cost every start of the program half a second, and only an attribute pack needs them.
    from scipy import ndimage, sparse
    from scipy.spatial import Delaunay

    triangles = Delaunay(vertices.astype(np.float64))
    pixels = np.stack(np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT)), axis=-1).reshape(-1, 2).astype(np.float64)
    inside = triangles.find_simplex(pixels)
    affine = triangles.transform[inside]
    two = np.einsum("nij,nj->ni", affine[:, :2], pixels - affine[:, 2])
    shares = np.column_stack([two, 1 - two.sum(axis=1)]).astype(np.float32)
    # Beyond the mesh: what the nearest pixel on it shows.
    row, column = ndimage.distance_transform_edt((inside < 0).reshape(HEIGHT, WIDTH), return_distances=False, return_indices=True)
    nearest = (row * WIDTH + column).ravel()
    rows = np.repeat(np.arange(len(pixels)), 3)
    return sparse.csr_array(
        (shares[nearest].ravel(), (rows, triangles.simplices[inside[nearest]].ravel())), shape=(len(pixels), len(vertices))
    )
