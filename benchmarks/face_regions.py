"""Fit and measure what regions of the mesh say of a face: python benchmarks/face_regions.py DATA.

DATA holds the folders lfw-a, utkface-a, congress-a and objects-a; the labels are labels/face-attributes.csv (labels/README.md says how
they were made). Writes src/aboveboard/vision/fitted/face-regions.json, fitted on all labels, and the tables of docs/how-good.md, where
each face is judged by models that were fitted without it.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import face_covers
import numpy as np
from face_judgements import NAMES, RARE, Array, Face, agreement, groups, is_drawn, place, read, reliability, tables
from scipy import optimize

from aboveboard import settings
from aboveboard.evaluation.protocol import centre_face
from aboveboard.vision import media, regions
from aboveboard.vision.mesh import SIZE, Meshed, Mesher
from aboveboard.vision.packs import PackFolder

PACK = "face-attributes"
FOLDS, SEED, MARGIN = 5, 20261123, 0.15
PENALTY = {"eyewear": 3e-5, "sunglasses": 3e-5, "beard": 1e-4, "mustache": 1e-4, "covered": 1e-4}
"""Of the squared weights; chosen on the enriched faces, by the likelihood of those left out, that of "covered" on drawn masks
that were left out."""
COVERED, BARE = 50, 5
"""How many drawn pictures a labelled face that is covered counts for, and one that is not."""
STRANGERS = 1500
"""Faces without labels on which covers are drawn."""
FITTED = Path(regions.__file__).parent / "fitted" / "face-regions.json"


@dataclass(frozen=True)
class Look:
    """The face that counts in a photograph (as benchmarks of verification choose it); `five` are the detector's points in its crop."""

    meshed: Meshed
    blendshapes: dict[str, float]
    five: regions.Array


class Looker:
    def __init__(self) -> None:
        packs = PackFolder(settings.load().models)
        self._detector = packs.load("yunet-sface").detector
        self._mesher = Mesher((packs.folder / PACK / packs.attribute_card(PACK).mesh.file).read_bytes())

    def look(self, file: Path) -> Look | None:
        image = media.decode(file.read_bytes(), 10**8)
        found = centre_face(self._detector.detect(image), *image.shape[1::-1])
        if found is None:
            return None
        meshed = self._mesher.mesh(image, found.points)
        five = found.points @ meshed.transform[:, :2].T + meshed.transform[:, 2]
        return Look(meshed, self._mesher.blendshapes(meshed), five.astype(np.float32))

    def summary(self, crop: media.Image, five: regions.Array) -> regions.Array:
        """Of a crop that something was drawn on, in RGB."""
        return self._mesher.mesh(np.ascontiguousarray(crop[..., ::-1]), five).summary


def labelled(name: str, data: Path, looker: Looker) -> list[Face]:
    words = {"yes": 1.0, "no": 0.0, "unclear": math.nan}
    faces = []
    for row in read(name):
        truth = {attribute: words[row[attribute]] if attribute in row else math.nan for attribute in NAMES}
        seen = looker.look(data / row["set"] / row["photograph"])
        assert seen is not None, row
        faces.append(Face(row, seen.meshed.crop, seen.meshed.in_crop, seen.meshed.summary, seen.blendshapes, truth))
    return faces


def drawn_upon(files: list[Path], objects: list[media.Image], looker: Looker) -> tuple[Array, Array]:
    """Summaries of strangers with and without covers drawn on them, every other one in a mirror, and which are covered."""
    rng = np.random.default_rng(SEED)
    found: list[tuple[regions.Array, bool]] = []
    for number, index in enumerate(rng.permutation(len(files))[:STRANGERS]):
        if (seen := looker.look(files[index])) is None:
            continue
        crop, mesh, five = seen.meshed.crop, seen.meshed.in_crop[:, :2].astype(np.float64), seen.five
        if number % 2:
            crop = np.ascontiguousarray(crop[:, ::-1])
            mesh, five = ([SIZE - 1, 0] + points * [-1, 1] for points in (mesh, five[[1, 0, 2, 4, 3]]))
        for picture, covers in face_covers.pictures(crop, mesh, objects, rng):
            found.append((looker.summary(picture, five.astype(np.float32)), covers))
    return np.array([one for one, _ in found], np.float64), np.array([covers for _, covers in found], np.float64)


def mean_shape(points: Array) -> tuple[Array, list[int]]:
    """The symmetrical mean of (faces, 468, 2) meshes, in pixels of the spread, and the indices of its rim."""
    shape = points[0]
    for _ in range(4):
        target = (shape - shape.mean(axis=0)) @ [1, 1j]
        lying = []
        for face in points:
            z = (face - face.mean(axis=0)) @ [1, 1j]
            turned = z * np.vdot(z, target) / np.vdot(z, z).real
            lying.append(np.column_stack([turned.real, turned.imag]))
        shape = np.median(lying, axis=0)
    flipped = shape * [-1, 1]
    _, partner = optimize.linear_sum_assignment(np.linalg.norm(shape[:, None] - flipped[None], axis=-1))
    shape = (shape + shape[partner] * [-1, 1]) / 2
    hull = cv2.convexHull(shape.astype(np.float32), returnPoints=False).ravel()
    rim = sorted({*hull.tolist(), *partner[hull].tolist()})
    outer = np.concatenate([shape, shape[rim] + MARGIN * (shape[rim] - shape.mean(axis=0))])
    low, high = outer.min(axis=0), outer.max(axis=0)
    scale = min((regions.WIDTH - 1) / (high - low)[0], (regions.HEIGHT - 1) / (high - low)[1])
    return (shape - (low + high) / 2) * scale + [(regions.WIDTH - 1) / 2, (regions.HEIGHT - 1) / 2], [int(i) for i in rim]


def logistic(x: Array, y: Array, penalty: float, weight: Array | None = None) -> Array:
    """Weights and bias of the penalised logistic regression."""
    share = np.ones(len(y)) / len(y) if weight is None else weight / weight.sum()

    def loss(w: Array) -> tuple[float, Array]:
        z = x @ w[:-1] + w[-1]
        rest = share * (1 / (1 + np.exp(-z)) - y)
        value = float(share @ (np.logaddexp(0, z) - y * z) + penalty / 2 * w[:-1] @ w[:-1])
        return value, np.append(x.T @ rest + penalty * w[:-1], rest.sum())

    found = optimize.minimize(loss, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B", options={"maxiter": 400})
    return np.asarray(found.x)


def linear(name: str, seen: Array, y: Array) -> tuple[Array, float]:
    """Weights over the model's window and the bias, from faces and their mirror images."""
    window = (slice(None), *regions.WINDOWS[name])
    both = np.concatenate([seen[window], regions.mirrored(seen)[window]])
    middle, spread = both.mean(axis=0), both.std(axis=0) + 0.02
    unit = math.sqrt(middle.size)
    w = logistic(((both - middle) / spread / unit).reshape(len(both), -1), np.concatenate([y, y]), PENALTY[name])
    weights = w[:-1].reshape(middle.shape) / spread / unit
    weights = (weights + regions.mirrored(weights)) / 2
    return weights, float(w[-1] - (weights * middle).sum())


def linear_of_summaries(strange: tuple[Array, Array], seen: Array, y: Array) -> tuple[Array, float]:
    """Weights over the summary and the bias, from drawn covers and labelled faces."""
    x, truth = np.concatenate([strange[0], seen]), np.append(strange[1], y)
    middle, unit = x.mean(axis=0), (x.std(axis=0) + 1e-3) * math.sqrt(x.shape[1])
    weight = np.append(np.ones(len(strange[1])), np.where(y == 1, COVERED, BARE))
    w = logistic((x - middle) / unit, truth, PENALTY["covered"], weight)
    return w[:-1] / unit, float(w[-1] - (w[:-1] / unit) @ middle)


def truths(faces: list[Face]) -> dict[str, Array]:
    """What each linear model is to say of each face; NaN where it learns nothing from it."""
    of = {name: np.array([face.truth[name] for face in faces]) for name in NAMES}
    worn = np.fmax(of["eyeglasses"], of["sunglasses"])
    sure = np.isfinite(of["sunglasses"])
    return {
        "eyewear": worn,
        "sunglasses": of["sunglasses"],
        "beard": of["beard"],
        "mustache": of["mustache"],
        "covered": np.where(sure & (of["sunglasses"] == 0), of["face_occluded"], np.nan),
    }


def calibrated(scores: Array, y: Array, weight: Array) -> Array:
    """Slope and offset that make probabilities of scores (Platt 1999), with his priors against certainty."""
    known = np.isfinite(y)
    s, t, w = scores[known], y[known], weight[known]
    yes, no = t.sum(), (1 - t).sum()
    return logistic(s[:, None], np.where(t == 1, (yes + 1) / (yes + 2), 1 / (no + 2)), 1e-6, w)


def crosswise(fold: Array, fit: Callable[[Array], Callable[[Array], Array]]) -> Array:
    """Of every face what a fit on the other folds says of it; `fit` takes and its result takes which faces."""
    scores = np.empty(len(fold))
    for k in range(FOLDS):
        scores[fold == k] = fit(fold != k)(fold == k)
    return scores


def probabilities(fold: Array, raw: Array, y: Array, weight: Array) -> tuple[Array, Array]:
    """Crosswise probabilities of scores, and slope and offset of them all."""

    def fit(train: Array) -> Callable[[Array], Array]:
        a, b = calibrated(raw[train], y[train], weight[train])
        return lambda held: 1 / (1 + np.exp(-(a * raw[held] + b)))

    return crosswise(fold, fit), calibrated(raw, y, weight)


def model_of(weights: Array, bias: float, slope: float, offset: float) -> dict[str, Any]:
    return {"bias": round(slope * bias + offset, 5), "weights": [float(f"{value:.4g}") for value in (slope * weights).ravel()]}


def covered(faces: list[Face], is_picked: Array, strange: tuple[Array, Array], people: int) -> tuple[dict[str, Any], Array]:
    """The model of covered faces and every face's probability by a model fitted without it."""
    fold = np.random.default_rng(SEED).permutation(len(faces)) % FOLDS
    y, seen = truths(faces)["covered"], np.array([face.summary for face in faces], np.float64)

    def fit(train: Array) -> Callable[[Array], Array]:
        known = train & np.isfinite(y)
        weights, bias = linear_of_summaries(strange, seen[known], y[known])
        return lambda held: np.asarray(seen[held] @ weights + bias)

    weight = np.where(is_picked, (~is_picked).sum() / people, 1.0)
    found, (slope, offset) = probabilities(fold, crosswise(fold, fit), y, weight)
    known = np.isfinite(y)
    return model_of(*linear_of_summaries(strange, seen[known], y[known]), slope, offset), found


def fitted_and_crossed(faces: list[Face], seen: Array, people: int) -> tuple[dict[str, Any], dict[str, Array]]:
    """The models, fitted on all labels, and every face's probabilities by models fitted without it.

    Probabilities are of the `people` that faces were drawn from: a face that was picked stands for itself alone, one that was drawn for
    many. Otherwise the rare would seem frequent.
    """
    fold = np.random.default_rng(SEED).permutation(len(faces)) % FOLDS
    drawn = np.array([is_drawn(face) for face in faces])
    weight = np.where(drawn, 1.0, drawn.sum() / people)

    def scored(name: str, y: Array, train: Array) -> tuple[Array, float]:
        known = train & np.isfinite(y)
        return linear(name, seen[known], y[known])

    def scores(name: str, y: Array) -> Array:
        window = (slice(None), *regions.WINDOWS[name])

        def fit(train: Array) -> Callable[[Array], Array]:
            weights, bias = scored(name, y, train)
            return lambda held: np.asarray((seen[held][window] * weights).sum(axis=(1, 2, 3)) + bias)

        return crosswise(fold, fit)

    models, expressions, crossed = {}, {}, {}
    for name in regions.WINDOWS:
        y = truths(faces)[name]
        crossed[name], (slope, offset) = probabilities(fold, scores(name, y), y, weight)
        models[name] = model_of(*scored(name, y, np.ones(len(faces), bool)), slope, offset)
    measures = [regions.expressions(face.points, face.blendshapes) for face in faces]
    for name in NAMES[5:]:
        raw, y = np.array([each[name][0] for each in measures]), np.array([face.truth[name] for face in faces])
        crossed[name], (a, b) = probabilities(fold, raw, y, weight)
        expressions[name] = {"weights": [round(float(a), 4), round(float(b), 4)]}
    return {"models": models, "expressions": expressions}, crossed


def main(data: Path) -> None:
    looker = Looker()
    faces, scanned = labelled("face-attributes.csv", data, looker), labelled("face-covers.csv", data, looker)
    print("labelled twice,", agreement())
    shape, rim = mean_shape(np.array([face.points[: regions.SURFACE, :2] for face in faces], np.float64))
    fitted: dict[str, Any] = {"shape": np.round(shape, 2).tolist(), "rim": rim, "margin": MARGIN}
    spreader = regions.Regions(fitted | {"models": {}, "expressions": {}, "not_assessed": []})
    seen = np.array([regions.cells(spreader.spread(face.crop, face.points)) for face in faces])
    files = [sorted(person.iterdir())[0] for person in sorted((data / "lfw-a").iterdir()) if person.is_dir()]
    files += sorted((data / "utkface-a").glob("*.jpg"))
    index_of = {place(face.row): index for index, face in enumerate(faces)}
    every = faces + [face for face in scanned if place(face.row) not in index_of]
    taken, drawn = {data / Path(*place(face.row)) for face in every}, {place(face.row) for face in scanned}
    objects = [media.decode(file.read_bytes(), 10**8)[..., ::-1] for file in sorted((data / "objects-a").iterdir())]
    strange = drawn_upon([file for file in files if file not in taken], objects, looker)
    fits, crossed = fitted_and_crossed(faces, seen, len(files))
    is_picked = np.array([place(face.row) not in drawn and not is_drawn(face) for face in every])
    fits["models"]["covered"], covers = covered(every, is_picked, strange, len(files))
    crossed["covered"] = covers[: len(faces)]
    crossed |= regions.combined(*(crossed[name] for name in ("eyewear", "sunglasses", "covered")))
    # Of the scanned faces, some were labelled in full too: these are judged without themselves, as there; the others by the whole, but
    # for what covers them, of which their own labels are learnt.
    whole = regions.Regions(fitted | fits | {"not_assessed": []})
    index_of = {place(face.row): index for index, face in enumerate(every)}
    said: dict[str, list[float]] = {name: [] for name in RARE}
    for face in scanned:
        known = index_of[place(face.row)]
        found = whole.probabilities(face.crop, face.points, face.summary, face.blendshapes, {"sunglasses"})["sunglasses"]
        dark = crossed["sunglasses"][known] if known < len(faces) else found
        said["sunglasses"].append(dark)
        said["face_occluded"].append(1 - (1 - dark) * (1 - covers[known]))
    withheld = tables(faces, crossed, scanned, {name: np.array(values) for name, values in said.items()})
    groups(data, faces, crossed)
    reliability(faces, crossed)
    provenance = (
        f"python benchmarks/face_regions.py: {len(faces)} faces of LFW, UTKFace and official portraits of Congress, labelled by eye"
        f" (benchmarks/labels/README.md); what covers them on {len(every)} and on {len(strange[1])} pictures with covers drawn on half of"
        f" them; seed {SEED}"
    )
    fitted = {"provenance": provenance, "not_assessed": sorted(withheld)} | fitted | fits
    FITTED.write_text("{\n" + ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in fitted.items()) + "\n}\n")
    shipped = regions.Regions.shipped()
    start = time.process_time()
    for face in faces[:200]:
        shipped.probabilities(face.crop, face.points, face.summary, face.blendshapes)
    print(f"{5 * (time.process_time() - start):.2f} ms of CPU a face; not assessed: {sorted(withheld)}")


if __name__ == "__main__":
    cv2.setNumThreads(1)
    main(Path(sys.argv[1]))
