"""How good labels are and what they cost: python benchmarks/labels.py DATA.

DATA holds the folders objects-a (photographs named SYNSET_name, one ImageNet class each) and lfw-a (a folder of photographs a person).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from report import cpu_ms, write
from scipy import optimize

from aboveboard import settings
from aboveboard.accountability.operators import Session
from aboveboard.bootstrap import open_app
from aboveboard.evaluation.rates import wilson
from aboveboard.service import labels
from aboveboard.service.app import App
from aboveboard.vision import media
from aboveboard.vision.labelling import Classifier
from aboveboard.vision.packs import LabelModels

FOLDS, DRAWS, SEED = 5, 2000, 20260101
EDGES = (0.05, 0.2, 0.4, 0.55, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
NO_PERSON = dict.fromkeys(
    ("n01622779", "n02085620", "n02092339", "n02093256", "n02095314", "n02098105", "n02099601", "n02101388", "n02101556", "n02106030",
     "n02120079", "n02494079", "n02790996", "n03759954", "n04525305"), 1,
)  # fmt: skip
"""Of the photographs of objects-a, looked at one by one: in how many of the least sure faces there is no person."""
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


def classes(models: LabelModels, images: Sequence[media.Image], truth: NDArray[np.int64]) -> Array:
    """Top-1 and top-5 of one crop and of several; returns the logits of the one."""
    labeller = models.labeller
    assert isinstance(labeller, Classifier)
    given = labeller.session.get_inputs()[0].name

    def logits(image: media.Image) -> Array:
        return np.asarray(labeller.session.run(None, {given: labeller.prepared(image)})[0][0], np.float64)

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
    rows, first = [], np.empty(0)
    for name, way in ways.items():
        each = [np.array([logits(np.ascontiguousarray(crop)) for crop in way(image)]) for image in images]
        mean = np.array([softmax(one, 1.0).mean(axis=0) for one in each])
        first = first if first.size else np.array([one[0] for one in each])
        order = np.argsort(-mean, axis=1)
        hits = [int((order[:, :k] == truth[:, None]).any(axis=1).sum()) for k in (1, 5)]
        rows.append([name, str(len(each[0])), share(hits[0], len(truth)), share(hits[1], len(truth))])
    note = f"objects-a: {len(truth)} photographs, one of a class; Wilson's 95 % intervals."
    write("labels-classes", ["crops", "runs", "top-1", "top-5"], rows, note, "how-good.md")
    return first


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


def people(app: App, session: Session, objects: Sequence[Path], portraits: Sequence[Path]) -> None:
    """Of the faces that are seen as a person's, how many are; and how many photographs of people lose theirs by the rule for animals."""
    wanted = labels.Wanted(least_confidence=0.0)
    rows = []
    for least in (55, 80):
        raw = right_raw = kept = right = 0
        for file in objects:
            data = file.read_bytes()
            detected = sorted(100 * found.score for found in app.models.detector.detect(media.decode(data, 10**8)))
            wrong = detected[: NO_PERSON.get(file.name.partition("_")[0], 0)]
            found = labels.describe(app, session, data, wanted).labels or ()
            answered = [one.confidence for label in found if label.name == "Face" for one in label.instances]
            raw += sum(one >= least for one in detected)
            right_raw += sum(one >= least for one in detected) - sum(one >= least for one in wrong)
            kept += sum(one >= least for one in answered)
            right += sum(one >= least and min((abs(one - other) for other in wrong), default=1.0) > 1e-6 for one in answered)
        rows.append([str(least), share(right_raw, raw), f"{right_raw} of {raw}", share(right, kept), f"{right} of {kept}"])
    lost = 0
    for file in portraits:
        data = file.read_bytes()
        sure = max((100 * found.score for found in app.models.detector.detect(media.decode(data, 10**8))), default=0.0)
        found = labels.describe(app, session, data, wanted).labels or ()
        lost += sure >= 55 and not any(label.name == "Face" and label.instances for label in found)
    note = (
        f"objects-a, looked at by eye, with Wilson's 95 % intervals; the rule was made on the same photographs. Of {len(portraits)}"
        f" photographs of people (lfw-a) it takes the only face away from {lost}."
    )
    write("labels-people", ["least confidence", "detector alone", "", "as answered", ""], rows, note, "how-good.md")


def cost(app: App, session: Session, file: Path) -> None:
    """CPU of one thread over decoding."""
    data = file.read_bytes()
    image = media.decode(data, 10**8)
    models = app.labels.models()

    decoding = cpu_ms(lambda: media.decode(data, 10**8))

    def over(wanted: labels.Wanted) -> float:
        return cpu_ms(lambda: labels.describe(app, session, data, wanted)) - decoding

    without_faces = labels.Filter(no_labels=frozenset({"Face", "Head", "Person"}))
    rows = [
        ["decoding", decoding],
        ["the network, its input included", cpu_ms(lambda: models.labeller.probabilities(image))],
        ["the face detector", cpu_ms(lambda: app.models.detector.detect(image))],
        ["labels without people, over decoding", over(labels.Wanted(filter=without_faces))],
        ["all labels, over decoding", over(labels.Wanted())],
        ["colours and quality alone, over decoding", over(labels.Wanted(labels=False, properties=True))],
    ]  # fmt: skip
    note = f"Medians of 50 runs, a photograph of {image.shape[1]} x {image.shape[0]} px."
    write("labels", ["DetectLabels, CPU of one thread", "ms"], [[str(name), f"{value:.1f}"] for name, value in rows], note)


def main(data: Path) -> None:
    objects = sorted((data / "objects-a").iterdir())
    portraits = [sorted(person.iterdir())[0] for person in sorted((data / "lfw-a").iterdir())[:600] if person.is_dir()]
    with TemporaryDirectory() as folder:
        app = open_app(settings.load(Path(folder) / "data"))
        made = app.operators.first(app.gate.policy_of(None))
        assert made is not None
        session = Session(made[0], "benchmark", "benchmark", buckets=())
        models = app.labels.models()
        images = [media.decode(file.read_bytes(), 10**8) for file in objects]
        truth = np.array([models.taxonomy.keys[file.name.partition("_")[0]] for file in objects])
        cost(app, session, next(file for file in objects if media.decode(file.read_bytes(), 10**8).shape[:2] == (480, 640)))
        logits = classes(models, images, truth)
        calibration(models, logits, truth)
        people(app, session, objects, portraits)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
