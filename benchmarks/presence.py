"""How likely a detected face is a person's: python benchmarks/presence.py DATA.

DATA holds the folders of benchmarks/labels/faces-found.csv, which has 613 detections as they were judged by eye. Fits the map from the
detector's score and the picture's chance of an animal, checks it on photographs that it has not seen, and writes the shipped file.
"""

from __future__ import annotations

import csv
import json
import sys
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from report import write
from scipy import optimize
from scipy.special import expit, logit

from aboveboard import settings
from aboveboard.biometrics.presence import Presence
from aboveboard.evaluation.rates import wilson
from aboveboard.vision import media, packs
from aboveboard.vision.packs import PackFolder

JUDGED = Path(__file__).parent / "labels" / "faces-found.csv"
FITTED = Path(packs.__file__).parent / "fitted" / "yunet-sface-presence.json"
FOLDS, DRAWS, SEED = 5, 400, 20260101
STRATA = (0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925)
"""Bounds of scores between which photographs of people and of objects count the same: where a face is doubtful, that is their share in
lfw-a and objects-a."""
EDGES = (0.0, 0.2, 0.4, 0.55, 0.7, 0.8, 0.9, 0.95, 1.0)
OBJECTS = "objects-a"
Array = NDArray[np.float64]
Rows = list[dict[str, str]]


def share(good: int, trials: int) -> str:
    low, high = wilson(good, trials)
    return f"{good} of {trials}: {100 * good / trials:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def animals(rows: Rows, data: Path, models: packs.LabelModels, photographs: Path) -> Array:
    """Of each detection how likely its photograph is one of an animal, 0-1."""
    (entry,) = models.taxonomy.of_animals
    frames, video = dict[str, media.Image](), cv2.VideoCapture(str(data / "video-a" / "short_hamilton_clip.mp4"))
    while (read := video.read())[0]:
        frames[f"frame {len(frames)}"] = np.asarray(read[1], np.uint8)
    found = dict[tuple[str, str], float]()
    for row in rows:
        key = row["set"], row["photograph"]
        if key not in found:
            folder = photographs if row["set"] == "demo" else data / row["set"]
            image = frames[row["photograph"]] if row["set"] == "video-a" else media.decode((folder / row["photograph"]).read_bytes(), 10**8)
            found[key] = entry.confidence(models.labeller.probabilities(image)) / 100
    return np.array([found[row["set"], row["photograph"]] for row in rows])


def weights(score: Array, is_object: NDArray[np.bool_]) -> Array:
    """Weights of mean 1, by which both kinds of photographs count the same in every stratum of scores."""
    strata, found = np.digitize(score, STRATA), np.zeros(len(score))
    for stratum in np.unique(strata):
        for kind in (is_object, ~is_object):
            found[(strata == stratum) & kind] = (strata == stratum).sum() / 2 / max((kind & (strata == stratum)).sum(), 1)
    return found


def fit(inputs: Array, is_face: NDArray[np.bool_], weight: Array) -> Array:
    """Logistic regression with Platt's targets (2000), so that what was never wrong is not promised for certain."""
    good, bad = (weight * is_face).sum(), (weight * ~is_face).sum()
    target = np.where(is_face, (good + 1) / (good + 2), 1 / (bad + 2))

    def loss(found: Array) -> float:
        odds = inputs @ found
        return float((weight * (np.logaddexp(0, odds) - target * odds)).sum())

    return np.asarray(optimize.minimize(loss, np.zeros(inputs.shape[1]), method="BFGS").x)


def main(data: Path) -> None:
    folders = settings.load(Path("data"))
    installed = PackFolder(folders.models)
    card = installed.face_card("yunet-sface")
    rows = [row for row in csv.DictReader(JUDGED.open()) if row["face"] != "unclear"]
    score, is_face = np.array([float(row["score"]) for row in rows]), np.array([row["face"] == "yes" for row in rows])
    is_object = np.array([row["set"] == OBJECTS for row in rows])
    animal = animals(rows, data, installed.load_labels("efficientnet-lite0"), folders.photographs)
    inputs, weight = np.column_stack([np.ones(len(rows)), logit(score), -animal]), weights(score, is_object)
    # The frames of one video and the sizes of one photograph hang together.
    names = np.array([row["set"] if row["set"] == "video-a" else row["photograph"] for row in rows])
    different, place = np.unique(names, return_inverse=True)
    rng = np.random.default_rng(SEED)
    fold = (rng.permutation(len(different)) % FOLDS)[place]
    held, raw = np.zeros(len(rows)), score
    for one in range(FOLDS):
        held[fold == one] = expit(inputs[fold == one] @ fit(inputs[fold != one], is_face[fold != one], weight[fold != one]))
    found = fit(inputs, is_face, weight)
    drawn = []
    for _ in range(DRAWS):
        counts = np.bincount(rng.integers(0, len(different), len(different)), minlength=len(different))[place]
        drawn.append(fit(inputs, is_face, weight * counts))
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)

    named = ("intercept", "slope", "animal")
    table = []
    for least, most in pairwise(EDGES):
        chosen = (held >= least) & ((held < most) | (most == 1.0))
        kinds = [f"{(is_face & chosen & kind).sum()} of {(chosen & kind).sum()}" for kind in (~is_object, is_object)]
        mean, right = (100 * float(np.average(values[chosen], weights=weight[chosen])) for values in (held, is_face))
        table.append([f"{100 * least:g} to {100 * most:g}", str(int(chosen.sum())), f"{mean:.1f}", f"{right:.1f} %", *kinds])
    terms = ", ".join(f"{name} {value:.2f} ({a:.2f} to {b:.2f})" for name, value, a, b in zip(named, found, low, high, strict=True))
    note = (
        f"{len(rows)} detections in {len(different)} photographs (a video counts as one), each with the map of the other four fifths;"
        f" mean and share weighted as the fit is. The map of all: {terms}; 95 % intervals by resampling photographs."
    )
    head = ["confidence", "faces", "their mean", "right", "in photographs of people", "of objects"]
    write("labels-presence", head, table, note, "how-good.md")
    table, plain = [], np.array([row["scale"] == "1" for row in rows])
    for name, kind in (("of people", ~is_object), ("of objects, as they are", is_object & plain), ("of objects, at five sizes", is_object)):
        for least in (0.55, 0.8, 0.9):
            shares = [
                share(int((is_face & kind & (values >= least)).sum()), int((kind & (values >= least)).sum())) for values in (raw, held)
            ]
            table.append([name, f"{100 * least:g}", *shares])
    note = "Wilson's 95 % intervals. In photographs of people the doubtful were picked: there are more of them here than one meets."
    write("labels-people", ["photographs", "least confidence", "the score alone", "calibrated"], table, note, "how-good.md")

    document = {
        "id": "2026112304",
        "model_version": card.model_version,
        "intercept": round(float(found[0]), 4),
        "slope": round(float(found[1]), 4),
        "animal": round(float(found[2]), 4),
        "intervals": {name: [round(float(a), 2), round(float(b), 2)] for name, a, b in zip(named, low, high, strict=True)},
        "data": {
            "file": f"benchmarks/labels/{JUDGED.name}",
            "sha256": sha256(JUDGED.read_bytes()).hexdigest(),
            "detections": len(rows),
            "photographs": len(different),
        },
        "seed": SEED,
        "detector": {card.detector.file: card.detector.sha256},
        "label_pack": {"id": "efficientnet-lite0", "model_version": installed.label_card("efficientnet-lite0").model_version},
    }  # fmt: skip
    text = json.dumps(document, indent=1) + "\n"
    Presence.from_json(text)
    FITTED.write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
