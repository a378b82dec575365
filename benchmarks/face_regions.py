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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from face_judgements import NAMES, RARE, Array, Face, agreement, groups, is_drawn, place, read, reliability, tables
from scipy import optimize

from aboveboard import settings
from aboveboard.evaluation.protocol import centre_face
from aboveboard.vision import media, regions
from aboveboard.vision.mesh import Mesher
from aboveboard.vision.packs import PackFolder

PACK = "face-attributes"
FOLDS, SEED, MARGIN = 5, 20261123, 0.15
PENALTY = {"eyewear": 3e-5, "sunglasses": 3e-5, "beard": 1e-4, "mustache": 1e-4, "covered": 1e-3}
"""Of the squared weights; chosen on the enriched faces, by the likelihood of those left out."""
STRANGERS = 1500
"""Faces without labels on which covers are drawn."""
FITTED = Path(regions.__file__).parent / "fitted" / "face-regions.json"


def looker() -> Callable[[Path], tuple[media.Image, regions.Array, dict[str, float]] | None]:
    """What finds the face that counts in a photograph (as benchmarks of verification do) and lays the mesh on it."""
    packs = PackFolder(settings.load().models)
    detector = packs.load("yunet-sface").detector
    mesher = Mesher((packs.folder / PACK / packs.attribute_card(PACK).mesh.file).read_bytes())

    def look(file: Path) -> tuple[media.Image, regions.Array, dict[str, float]] | None:
        image = media.decode(file.read_bytes(), 10**8)
        found = centre_face(detector.detect(image), *image.shape[1::-1])
        if found is None:
            return None
        meshed = mesher.mesh(image, found.points)
        return meshed.crop, meshed.in_crop, mesher.blendshapes(meshed)

    return look


def labelled(name: str, data: Path, look: Callable[[Path], Any]) -> list[Face]:
    words = {"yes": 1.0, "no": 0.0, "unclear": math.nan}
    faces = []
    for row in read(name):
        truth = {attribute: words[row[attribute]] if attribute in row else math.nan for attribute in NAMES}
        faces.append(Face(row, *look(data / row["set"] / row["photograph"]), truth))
    return faces


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


def covers(spread: media.Image, patches: list[media.Image], rng: np.random.Generator) -> Iterator[tuple[media.Image, int]]:
    """The face as it is (0), with mouth and nose or one half covered (1), and sometimes with something harmless at its edge (0)."""

    def covered(centre: tuple[float, float], half: tuple[float, float]) -> media.Image:
        turns = np.sort(rng.uniform(0, 2 * np.pi, 9))
        outline = np.column_stack([np.cos(turns), np.sin(turns)]) * rng.uniform(0.7, 1.15, (9, 1))
        if rng.random() < 0.6:
            outline = np.column_stack([np.cos(np.linspace(0, 2 * np.pi, 24)), np.sin(np.linspace(0, 2 * np.pi, 24))])
        mask = np.zeros(spread.shape[:2], np.float32)
        cv2.fillPoly(mask, [(outline * half + centre).astype(np.int32)], 1.0)
        mask = cv2.GaussianBlur(mask, (0, 0), rng.uniform(0.4, 1.6))[..., None]
        return np.asarray((spread * (1 - mask) + cover() * mask).clip(0, 255), np.uint8)

    def cover() -> Array:
        kind, side = rng.random(), int(rng.integers(18, 34))
        if kind < 0.4:
            source = patches[rng.integers(len(patches))]
            side = int(min(source.shape[:2]) * rng.uniform(0.2, 0.9))
            top, left = rng.integers(source.shape[0] - side), rng.integers(source.shape[1] - side)
        elif kind < 0.75:  # skin, as of a hand
            source, top, left = spread, int(rng.integers(14, 30)), int(rng.integers(35, 60))
        else:
            source, top, left = np.full((64, 64, 3), rng.integers(0, 255, 3), np.uint8), 0, 0
        piece = cv2.resize(np.ascontiguousarray(source[top : top + side, left : left + side]), spread.shape[1::-1]).astype(np.float64)
        if 0.4 <= kind < 0.7:  # fingers
            down, across = np.mgrid[: spread.shape[0], : spread.shape[1]]
            turn, width = rng.uniform(0, np.pi), rng.uniform(10, 18)
            waves = np.abs(np.sin((across * np.cos(turn) + down * np.sin(turn)) * np.pi / width))
            piece *= (0.6 + 0.4 * np.minimum(1, 3 * waves))[..., None]
        return np.asarray(piece * rng.uniform(0.6, 1.2))

    yield spread, 0
    if rng.random() < 0.75:
        yield covered((64 + rng.normal(0, 6), 109 + rng.normal(0, 8)), (rng.uniform(20, 55), rng.uniform(13, 34))), 1
    else:
        yield covered((rng.choice([18, 110]), 80 + rng.normal(0, 5)), (rng.uniform(30, 48), rng.uniform(40, 75))), 1
    if rng.random() < 0.6:
        edge = [(64 + rng.normal(0, 25), 142), (rng.choice([2, 126]), 90 + rng.normal(0, 20)), (64 + rng.normal(0, 30), 6)]
        yield covered(edge[rng.integers(3)], (rng.uniform(8, 20), rng.uniform(8, 16))), 0


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


def fitted_and_crossed(
    faces: list[Face], seen: Array, strange: tuple[Array, Array], people: int
) -> tuple[dict[str, Any], dict[str, Array]]:
    """The models, fitted on all labels, and every face's probabilities by models fitted without it.

    Probabilities are of the `people` that faces were drawn from: a face that was picked stands for itself alone, one that was drawn for
    many. Otherwise the rare would seem frequent.
    """
    fold = np.random.default_rng(SEED).permutation(len(faces)) % FOLDS
    drawn = np.array([is_drawn(face) for face in faces])
    weight = np.where(drawn, 1.0, drawn.sum() / people)
    strangers = linear("covered", *strange)

    def out_of_fold(fit: Callable[[Array], Callable[[Array], Array]]) -> Array:
        scores = np.empty(len(faces))
        for k in range(FOLDS):
            scores[fold == k] = fit(fold != k)(fold == k)
        return scores

    def probability(raw: Array, y: Array) -> tuple[Array, Array]:
        def fit(train: Array) -> Callable[[Array], Array]:
            a, b = calibrated(raw[train], y[train], weight[train])
            return lambda held: 1 / (1 + np.exp(-(a * raw[held] + b)))

        return out_of_fold(fit), calibrated(raw, y, weight)

    def scored(name: str, y: Array, train: Array) -> tuple[Array, float]:
        known = train & np.isfinite(y)
        return strangers if name == "covered" else linear(name, seen[known], y[known])

    def crosswise(name: str, y: Array) -> Array:
        window = (slice(None), *regions.WINDOWS[name])

        def fit(train: Array) -> Callable[[Array], Array]:
            weights, bias = scored(name, y, train)
            return lambda held: np.asarray((seen[held][window] * weights).sum(axis=(1, 2, 3)) + bias)

        return out_of_fold(fit)

    models, expressions, crossed = {}, {}, {}
    for name, y in truths(faces).items():
        crossed[name], (a, b) = probability(crosswise(name, y), y)
        weights, bias = scored(name, y, np.ones(len(faces), bool))
        models[name] = {"bias": round(float(a * bias + b), 5), "weights": [float(f"{value:.4g}") for value in (a * weights).ravel()]}
    measures = [regions.expressions(face.points, face.blendshapes) for face in faces]
    for name in NAMES[5:]:
        raw, y = np.array([each[name][0] for each in measures]), np.array([face.truth[name] for face in faces])
        crossed[name], (a, b) = probability(raw, y)
        expressions[name] = {"weights": [round(float(a), 4), round(float(b), 4)]}
    crossed |= regions.combined(crossed["eyewear"], crossed["sunglasses"], crossed["covered"])
    return {"models": models, "expressions": expressions}, crossed


def main(data: Path) -> None:
    look = looker()
    faces, scanned = labelled("face-attributes.csv", data, look), labelled("face-covers.csv", data, look)
    print("labelled twice,", agreement())
    shape, rim = mean_shape(np.array([face.points[: regions.SURFACE, :2] for face in faces], np.float64))
    fitted: dict[str, Any] = {"shape": np.round(shape, 2).tolist(), "rim": rim, "margin": MARGIN, "models": {}, "expressions": {}}
    spreader = regions.Regions(fitted | {"not_assessed": []})
    seen = np.array([regions.cells(spreader.spread(face.crop, face.points)) for face in faces])
    rng = np.random.default_rng(SEED)
    files = [sorted(person.iterdir())[0] for person in sorted((data / "lfw-a").iterdir()) if person.is_dir()]
    files += sorted((data / "utkface-a").glob("*.jpg"))
    taken = {data / Path(*place(face.row)) for face in (*faces, *scanned)}
    free = [file for file in files if file not in taken]
    patches = [media.decode(file.read_bytes(), 10**8)[..., ::-1] for file in sorted((data / "objects-a").iterdir())]
    pictures: list[tuple[regions.Array, int]] = []
    for index in rng.permutation(len(free))[:STRANGERS]:
        if (found := look(free[index])) is not None:
            pictures += [(regions.cells(picture), has) for picture, has in covers(spreader.spread(*found[:2]), patches, rng)]
    strange = np.array([one for one, _ in pictures]), np.array([has for _, has in pictures], np.float64)
    models, crossed = fitted_and_crossed(faces, seen, strange, len(files))
    # Of the scanned faces, some were labelled in full too: these are judged without themselves, as there; the others by the whole.
    whole = regions.Regions(fitted | models | {"not_assessed": []})
    index_of = {place(face.row): index for index, face in enumerate(faces)}
    said: dict[str, list[float]] = {name: [] for name in RARE}
    for face in scanned:
        known, found = index_of.get(place(face.row)), whole.probabilities(face.crop, face.points, face.blendshapes, RARE)
        for name in RARE:
            said[name].append(found[name] if known is None else crossed[name][known])
    withheld = tables(faces, crossed, scanned, {name: np.array(values) for name, values in said.items()})
    groups(data, faces, crossed)
    reliability(faces, crossed)
    provenance = (
        f"python benchmarks/face_regions.py: {len(faces)} faces of LFW, UTKFace and official portraits of Congress, labelled by eye"
        f" (benchmarks/labels/README.md), and {len(pictures)} pictures with covers drawn on half of them; seed {SEED}"
    )
    fitted = {"provenance": provenance, "not_assessed": sorted(withheld)} | fitted | models
    FITTED.write_text("{\n" + ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in fitted.items()) + "\n}\n")
    shipped = regions.Regions.shipped()
    start = time.process_time()
    for face in faces[:200]:
        shipped.probabilities(face.crop, face.points, face.blendshapes)
    print(f"{5 * (time.process_time() - start):.2f} ms of CPU a face; not assessed: {sorted(withheld)}")


if __name__ == "__main__":
    cv2.setNumThreads(1)
    main(Path(sys.argv[1]))
