"""How good labels are and what they cost: python benchmarks/labels.py DATA.

DATA holds the folder objects-a (photographs named SYNSET_name, one ImageNet class each). How good labels of people are says presence.py.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from report import write
from scipy import optimize

from aboveboard import settings
from aboveboard.accountability.operators import Session
from aboveboard.bootstrap import open_app
from aboveboard.evaluation.rates import wilson
from aboveboard.service import labels
from aboveboard.service.app import App
from aboveboard.vision import conversion, media
from aboveboard.vision.labelling import Classifier
from aboveboard.vision.packs import LabelModels
from aboveboard.vision.session import open_session

FOLDS, DRAWS, SEED, RUNS = 5, 2000, 20260101, 60
EDGES = (0.05, 0.2, 0.4, 0.55, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
Array = NDArray[np.float64]


def softmax(logits: Array, temperature: float) -> Array:
    shares = np.exp((logits - logits.max(axis=1, keepdims=True)) / temperature)
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def best_temperature(logits: Array, truth: NDArray[np.int64]) -> float:
    """The temperature with the greatest likelihood."""

    def loss(log_temperature: float) -> float:
        return -float(np.log(softmax(logits, np.exp(log_temperature))[np.arange(len(truth)), truth]).mean())

    return float(np.exp(optimize.minimize_scalar(loss, bounds=(-2, 2), method="bounded").x))


def share(good: int, trials: int) -> str:
    low, high = wilson(good, trials)
    return f"{100 * good / trials:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def resampled(right: Array, answered: Array) -> tuple[float, float]:
    """95 % interval of the share of labels that are right, over draws of photographs: the labels of one photograph hang together."""
    rng = np.random.default_rng(SEED)
    draws = rng.integers(0, len(right), (DRAWS, len(right)))
    found = right[draws].sum(axis=1) / np.maximum(answered[draws].sum(axis=1), 1)
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def classes(models: LabelModels, floats: onnxruntime.InferenceSession, images: Sequence[media.Image], truth: NDArray[np.int64]) -> Array:
    """Top-1 and top-5 of one crop and of several; returns the logits of the one."""
    labeller = models.labeller
    assert isinstance(labeller, Classifier)
    given = labeller.session.get_inputs()[0].name

    def logits(image: media.Image, session: onnxruntime.InferenceSession = labeller.session) -> Array:
        return np.asarray(session.run(None, {given: labeller.prepared(image)})[0][0], np.float64)

    def corners(image: media.Image) -> list[media.Image]:
        height, width = image.shape[:2]
        side = min(height, width)
        return [image[:side, :side], image[height - side :, width - side :]]

    ways: dict[str, Callable[[media.Image], list[media.Image]]] = {
        "the middle (what ships)": lambda image: [image],
        "the middle and its mirror image": lambda image: [image, image[:, ::-1]],
        "the middle and both ends": lambda image: [image, *corners(image)],
        "the middle, both ends and their mirror images": lambda image: [
            turned for one in [image, *corners(image)] for turned in (one, one[:, ::-1])
        ],
    }
    found = {
        name: [np.array([logits(np.ascontiguousarray(crop)) for crop in way(image)]) for image in images] for name, way in ways.items()
    }
    found["the middle, in 32-bit floats"] = [logits(image, floats)[None] for image in images]
    rows = []
    for name, each in found.items():
        order = np.argsort(-np.array([softmax(one, 1.0).mean(axis=0) for one in each]), axis=1)
        hits = [int((order[:, :k] == truth[:, None]).any(axis=1).sum()) for k in (1, 5)]
        rows.append([name, str(len(each[0])), share(hits[0], len(truth)), share(hits[1], len(truth))])
    note = f"objects-a: {len(truth)} photographs, one of a class; Wilson's 95 % intervals."
    write("labels-classes", ["crops", "runs", "top-1", "top-5"], rows, note, "how-good.md")
    return np.array([one[0] for one in found["the middle (what ships)"]])


def calibration(models: LabelModels, logits: Array, truth: NDArray[np.int64]) -> None:
    """Confidence against the truth, with a temperature fitted on the other folds; and the temperature of the whole."""
    entries = [entry for entry in models.taxonomy.entries if entry.classes]
    means = np.zeros((len(entries), logits.shape[1]))
    for one, entry in enumerate(entries):
        means[one, list(entry.classes)] = 1
    is_right = means[:, truth].T.astype(bool)
    folds = np.array_split(np.random.default_rng(SEED).permutation(len(truth)), FOLDS)
    held, temperatures = np.zeros(is_right.shape), []
    for fold in folds:
        rest = np.setdiff1d(np.arange(len(truth)), fold)
        temperatures.append(best_temperature(logits[rest], truth[rest]))
        held[fold] = softmax(logits[fold], temperatures[-1]) @ means.T
    rows = []
    for low, high in pairwise(EDGES):
        chosen = (held >= low) & ((held < high) | (high == 1.0))
        found, right = int(chosen.sum()), int((chosen & is_right).sum())
        bar = "█" * round(20 * right / found) + "░" * (20 - round(20 * right / found))
        rows.append(
            [f"{100 * low:g} to {100 * high:g}", f"{found:,}", f"{100 * held[chosen].mean():.1f}", f"{100 * right / found:.1f} %", bar]
        )
    note = f"Temperatures of the folds {min(temperatures):.2f} to {max(temperatures):.2f}, of all {best_temperature(logits, truth):.2f}."
    write("labels-reliability", ["confidence", "labels", "their mean", "right", ""], rows, note, "how-good.md")
    rows = []
    for name, kind in (("all labels", np.ones(len(entries), bool)), ("without labels below them", means.sum(axis=1) == 1)):
        for least in (55, 80, 90):
            answered = (held >= least / 100) & kind
            right = answered & is_right
            low, high = resampled(right.sum(axis=1).astype(float), answered.sum(axis=1).astype(float))
            precision = f"{100 * right.sum() / answered.sum():.1f} % ({100 * low:.1f} to {100 * high:.1f})"
            photographs = f"{int(answered.any(axis=1).sum())} of {len(truth)}"
            rows.append([name, str(least), f"{int(answered.sum()):,}", photographs, precision])
    note = "Cross-fitted in five folds; 95 % intervals by resampling photographs."
    write("labels-precision", ["labels", "MinConfidence", "answered", "photographs with any", "right"], rows, note, "how-good.md")


def in_floats(app: App) -> onnxruntime.InferenceSession:
    """The network as its file has it, in 32-bit floats, on a bare onnxruntime."""
    card = app.labels.models().card
    file = app.settings.models / card.id / card.labeller.file
    graph, _ = conversion.efficientnet_lite0(conversion.read_checkpoint(file.read_bytes()), card.labeller.size)
    return open_session(graph)


def cost(app: App, session: Session, file: Path) -> None:
    """CPU of one thread over decoding."""
    data = file.read_bytes()
    image = media.decode(data, 10**8)
    models, floats = app.labels.models(), in_floats(app)
    labeller = models.labeller
    assert isinstance(labeller, Classifier)
    given = {labeller.session.get_inputs()[0].name: labeller.prepared(image)}
    no_people = labels.Wanted(filter=labels.Filter(no_labels=frozenset({"Face", "Head", "Person"})))
    works: dict[str, Callable[[], object]] = {
        "decoding": lambda: media.decode(data, 10**8),
        "the network in 32-bit floats, bare onnxruntime": lambda: floats.run(None, given),
        "the network in 8-bit integers (what ships)": lambda: labeller.session.run(None, given),
        "its input: the square in the middle, brought to size": lambda: labeller.prepared(image),
        "the face detector": lambda: app.models.detector.detect(image),
        "labels without people": lambda: labels.describe(app, session, data, no_people),
        "all labels": lambda: labels.describe(app, session, data, labels.Wanted()),
        "colours and quality alone": lambda: labels.describe(app, session, data, labels.Wanted(labels=False, properties=True)),
    }  # fmt: skip
    found = interleaved(works)
    decoding, floating = found["decoding"], found["the network in 32-bit floats, bare onnxruntime"]
    whole = list(works)[5:]
    rows = [
        [f"{name}, over decoding" if name in whole else name, f"{ms - decoding * (name in whole):.1f}"
         , f"{(ms - decoding * (name in whole)) / floating:.2f}"] for name, ms in found.items()
    ]  # fmt: skip
    note = f"Medians of {RUNS} interleaved runs, a photograph of {image.shape[1]} x {image.shape[0]} px."
    write("labels", ["DetectLabels, CPU of one thread", "ms", "of the network in floats"], rows, note)


def interleaved(works: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median CPU milliseconds of each, run in turns, so that what else the machine does falls on all alike."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(RUNS + 10):
        for name, work in works.items():
            began = time.process_time()
            work()
            times[name].append(1000 * (time.process_time() - began))
    return {name: statistics.median(found[10:]) for name, found in times.items()}


def main(data: Path) -> None:
    objects = sorted((data / "objects-a").iterdir())
    with TemporaryDirectory() as folder:
        app = open_app(settings.load(Path(folder) / "data"))
        made = app.operators.first(app.gate.policy_of(None))
        assert made is not None
        session = Session(made[0], "benchmark", "benchmark", buckets=())
        models = app.labels.models()
        images = [media.decode(file.read_bytes(), 10**8) for file in objects]
        truth = np.array([models.taxonomy.keys[file.name.partition("_")[0]] for file in objects])
        cost(app, session, next(file for file in objects if media.decode(file.read_bytes(), 10**8).shape[:2] == (480, 640)))
        logits = classes(models, in_floats(app), images, truth)
        calibration(models, logits, truth)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
