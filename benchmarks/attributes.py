"""How good age, gender and expression are, and the numbers that ship with them: python benchmarks/attributes.py DATA.

DATA holds the folders utkface-a (photographs and labels.csv: file, age, gender, race), lfw-a (a folder of photographs a person) and
congress-a (another, and members.csv: bioguide, gender, birthday). Every figure is of people whom the fit has not seen (five folds); what
ships is fitted on all. Race is read here, for the tables, alone.
"""

from __future__ import annotations

import csv
import json
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from report import cpu_ms, write
from scipy import optimize

from aboveboard import settings
from aboveboard.biometrics.vocabulary import EMOTIONS
from aboveboard.evaluation.protocol import centre_face
from aboveboard.evaluation.rates import wilson
from aboveboard.vision import media, session
from aboveboard.vision.demographics import AgeFit, AgeGender, GenderFit, age_ranges, chance_male, moments, views
from aboveboard.vision.detector import Detector
from aboveboard.vision.emotions import CLASSES, MOVES, EmotionFit, Expressions, confidences, evidence, face_of
from aboveboard.vision.mesh import Mesher
from aboveboard.vision.packs import PackFolder

FOLDS, SEED, COVERAGE = 5, 20260101, 0.8
RIDGE, PRIOR = 3e-4, 2e-3
AGE_EDGES = (18, 30, 40, 50, 60, 70, 120)
CONFIDENCE_EDGES = (50, 70, 80, 90, 95, 97, 98, 99, 100)
FITTED = Path(__file__).parent.parent / "src" / "aboveboard" / "vision" / "fitted" / "face-attributes.json"
LABELS, PACK = Path(__file__).parent / "labels", "face-attributes"
Array = NDArray[np.float64]
Bools = NDArray[np.bool_]


def folds(count: int) -> list[NDArray[np.int64]]:
    return np.array_split(np.random.default_rng(SEED).permutation(count), FOLDS)


def share(good: int, trials: int) -> str:
    low, high = wilson(good, trials)
    return f"{100 * good / trials:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def line(features: Array, truth: Array, weight: Array, quantile: float) -> Array:
    """The weights whose sum with the features has `quantile` of the truths below it: least pinball loss, by linear programming."""
    rows, columns = features.shape
    costs = np.concatenate([np.zeros(columns), quantile * weight, (1 - quantile) * weight])
    equal = np.hstack([features, np.eye(rows), -np.eye(rows)])
    bounds = [(None, None)] * columns + [(0, None)] * (2 * rows)
    return np.asarray(optimize.linprog(costs, A_eq=equal, b_eq=truth, bounds=bounds, method="highs").x[:columns])


def fit_age(ages: Array, truth: Array, provenance: str = "") -> AgeFit:
    """Quantile lines on all, the margin from people that lines of their own have not seen.

    A decade of the true age weighs as the square root of its people: without that the old, who are few, were held least of all.
    """
    features, tails = moments(ages), ((1 - COVERAGE) / 2, (1 + COVERAGE) / 2)
    decade = np.digitize(truth, AGE_EDGES)
    weight = 1 / np.sqrt(np.bincount(decade)[decade])
    outside = np.empty(len(truth))
    for fold in folds(len(truth)):
        rest = np.setdiff1d(np.arange(len(truth)), fold)
        low, high = (features[fold] @ line(features[rest], truth[rest], weight[rest], tail) for tail in tails)
        outside[fold] = np.maximum(low - truth[fold], truth[fold] - high)
    order = np.argsort(outside)
    reached = weight[order].cumsum() / weight.sum()
    least = min(1.0, (1 + 1 / len(truth)) * COVERAGE)
    # Ends are rounded to whole years, which holds half a year more on each side.
    margin = float(outside[order][min(np.searchsorted(reached, least), len(truth) - 1)]) - 0.5
    (a, b, c), (d, e, f) = (np.round(line(features, truth, weight, tail), 4).tolist() for tail in tails)
    return AgeFit((a, b, c), (d, e, f), round(margin, 3), provenance)


def fit_gender(logits: Array, male: Bools, provenance: str = "") -> GenderFit:
    """The slope and the lapse with the greatest likelihood."""

    def loss(weights: Array) -> float:
        chance = chance_male(logits, GenderFit(*weights))
        return -float(np.log(np.where(male, chance, 1 - chance)).mean())

    slope, lapse = optimize.minimize(loss, np.array([1.0, 0.02]), bounds=[(0.01, 10), (1e-4, 0.5)]).x
    return GenderFit(round(float(slope), 4), round(float(lapse), 4), provenance)


def cross_fitted(logits: Array, male: Bools) -> Array:
    """Of every face the chance that it is labelled male, by the fit on the other folds."""
    chance = np.empty(len(male))
    for fold in folds(len(male)):
        rest = np.setdiff1d(np.arange(len(male)), fold)
        chance[fold] = chance_male(logits[fold], fit_gender(logits[rest], male[rest]))
    return chance


def gender_tables(logits: Array, truth: Array, male: Bools, race: NDArray[np.str_]) -> None:
    chance = cross_fitted(logits, male)
    right, scores = (chance > 0.5) == male, 100 * np.maximum(chance, 1 - chance)
    kinds = {"all": np.ones(len(male), bool), "women": ~male, "men": male}
    cells = {f"{name} {who}": each & (race == name) for name in sorted(set(race)) for who, each in (("women", ~male), ("men", male))}
    kinds |= cells
    for low, high in pairwise((18, 40, 60, 120)):
        aged, name = (truth >= low) & (truth < high), f"of {low} to {high - 1}" if high < 120 else f"of {low} and over"
        kinds |= {f"women {name}": ~male & aged, f"men {name}": male & aged}
    rows = [[name, f"{kind.sum():,}", share(int(right[kind].sum()), int(kind.sum()))] for name, kind in kinds.items()]
    shares = [float(right[kind].mean()) for kind in cells.values()]
    note = (
        f"utkface-a, adults, one photograph a person, labels of annotators; Wilson's 95 % intervals. Best and worst of gender and race lie"
        f" {100 * (max(shares) - min(shares)):.1f} points apart."
    )
    write("gender", ["people", "n", "as labelled"], rows, note, "how-good.md")
    rows = []
    for low, high in pairwise(CONFIDENCE_EDGES):
        chosen = (scores >= low) & ((scores < high) | (high == 100))
        if chosen.any():
            rows.append(
                [
                    f"{low:g} to {high:g}",
                    f"{chosen.sum():,}",
                    f"{scores[chosen].mean():.1f}",
                    share(int(right[chosen].sum()), int(chosen.sum())),
                ]
            )
    write("gender-reliability", ["confidence", "faces", "their mean", "as labelled"], rows, "utkface-a, cross-fitted.", "how-good.md")


def age_table(ages: Array, truth: Array, male: Bools, race: NDArray[np.str_]) -> None:
    low, high = np.empty(len(truth), np.int64), np.empty(len(truth), np.int64)
    for fold in folds(len(truth)):
        rest = np.setdiff1d(np.arange(len(truth)), fold)
        low[fold], high[fold] = age_ranges(ages[fold], fit_age(ages[rest], truth[rest]))
    error, held, width = moments(ages)[:, 1] - truth, (low <= truth) & (truth <= high), high - low
    kinds = {"all": np.ones(len(truth), bool), "women": ~male, "men": male}
    kinds |= {str(name): race == name for name in sorted(set(race))}
    kinds |= {
        f"{first} to {end - 1}" if end < 120 else f"{first} and over": (truth >= first) & (truth < end)
        for first, end in pairwise(AGE_EDGES)
    }
    rows = []
    for name, kind in kinds.items():
        count, off = int(kind.sum()), np.abs(error[kind])
        around = 1.96 * float(off.std(ddof=1)) / np.sqrt(count)
        rows.append(
            [name, f"{count:,}", f"{off.mean():.1f} ({off.mean() - around:.1f} to {off.mean() + around:.1f})", f"{error[kind].mean():+.1f}",
             share(int(held[kind].sum()), count), f"{width[kind].mean():.1f}"]
        )  # fmt: skip
    note = (
        f"utkface-a, as above; normal and Wilson's 95 % intervals. Half of the ranges span {np.median(width):.0f} years or less,"
        f" the widest {width.max()}. The raw 10 to 90 % of the network's own probabilities hold {raw_coverage(ages, truth)}."
    )
    write("age", ["people", "n", "mean absolute error, years", "mean error", "age in AgeRange", "mean width"], rows, note, "how-good.md")


def raw_coverage(ages: Array, truth: Array) -> str:
    reached = ages.cumsum(axis=1)
    low, high = (reached < 0.1).sum(axis=1), (reached < 0.9).sum(axis=1)
    return share(int(((low <= truth) & (truth <= high)).sum()), len(truth))


def views_table(nets: AgeGender, seen: NDArray[np.uint8], mirrored: NDArray[np.uint8], truth: Array, male: Bools) -> None:
    """`seen` (n, 2, 64, 64, 3): the views that ship; `mirrored` (n, 64, 64, 3): the first in a mirror."""
    ways = {"as the networks were trained": seen[:, :1], "nearer and mirrored": seen[:, 1:], "the first and its mirror image":
            np.stack([seen[:, 0], mirrored], axis=1), "the first and the second (what ships)": seen}  # fmt: skip
    rows = []
    for name, each in ways.items():
        ages, logits = nets.ages(each), nets.logits(each)
        right, chance = int(((logits > 0) == male).sum()), cross_fitted(logits, male)
        rows.append([name, str(each.shape[1]), share(right, len(male)), f"{-np.log(np.where(male, chance, 1 - chance)).mean():.3f}",
                     f"{np.abs(moments(ages)[:, 1] - truth).mean():.2f}"])  # fmt: skip
    head = ["views", "runs of each network", "gender as labelled", "its log loss", "age: mean absolute error, years"]
    write("age-gender-views", head, rows, f"utkface-a, {len(male)} adults; the log loss cross-fitted.", "how-good.md")


def keep(fits: dict[str, Any]) -> None:
    """Put the fits of these attributes into the file that ships; other attributes' stay."""
    held = json.loads(FITTED.read_text()) if FITTED.exists() else {}
    held |= {name: dict(vars(fit)) for name, fit in fits.items()}
    FITTED.parent.mkdir(exist_ok=True)
    FITTED.write_text(json.dumps(held, indent=1, sort_keys=True) + "\n")


def demographics(data: Path, nets: AgeGender, detector: Detector) -> None:
    with (data / "utkface-a" / "labels.csv").open() as file:
        labels = list(csv.DictReader(file))
    seen, rows, first = [], [], None
    for row in labels:
        image = media.decode((data / "utkface-a" / row["file"]).read_bytes(), 10**8)
        if (face := centre_face(detector.detect(image), *image.shape[1::-1])) is not None:
            seen.append(views(image, face.points))
            rows.append(row)
            first = first or (image, face.points)
    assert first is not None
    ages, logits = nets.ages(np.stack(seen)), nets.logits(np.stack(seen))
    mirrored = np.stack([views[0, :, ::-1] for views in seen])
    truth, male = np.array([float(row["age"]) for row in rows]), np.array([row["gender"] == "male" for row in rows])
    race = np.array([row["race"] for row in rows])
    print(f"{len(labels)} photographs, {len(rows)} with a face")
    views_table(nets, np.stack(seen), mirrored, truth, male)
    gender_tables(logits, truth, male, race)
    age_table(ages, truth, male, race)
    where = f"utkface-a, {len(rows)} adults of 18 and over, python benchmarks/attributes.py, seed {SEED}"
    keep({"age": fit_age(ages, truth, where), "gender": fit_gender(logits, male, where)})
    alone = views(*first)[None]
    for name, work in (("age", nets.ranges), ("gender", nets.genders)):
        print(f"{name} of a face whose views are made: {cpu_ms(partial(work, alone)):.2f} ms of CPU")


def portraits(data: Path, nets: AgeGender, detector: Detector) -> None:
    """Gender on official portraits, one of each member of Congress: people on whom nothing was fitted or chosen."""
    with (data / "congress-a" / "members.csv").open() as file:
        members = list(csv.DictReader(file))
    seen = []
    for member in members:
        image = media.decode(min((data / "congress-a" / member["bioguide"]).glob("*.jpg")).read_bytes(), 10**8)
        face = centre_face(detector.detect(image), *image.shape[1::-1])
        assert face is not None, member["bioguide"]
        seen.append(views(image, face.points))
    male = np.array([member["gender"] == "M" for member in members])
    right = (nets.logits(np.stack(seen)) > 0) == male
    old = np.array([int(member["birthday"][:4]) < 1957 for member in members])
    kinds = {"women": ~male, "men": male, "women born before 1957": ~male & old, "men born before 1957": male & old}
    rows = [[name, str(kind.sum()), share(int(right[kind].sum()), int(kind.sum()))] for name, kind in kinds.items()]
    note = "congress-a: one official portrait of each of 264 members of the 115th Congress; Wilson's 95 % intervals."
    write("gender-portraits", ["people", "n", "as they are listed"], rows, note, "how-good.md")


def fit_emotions(logs: Array, moves: Array, truth: NDArray[np.int64], provenance: str = "") -> EmotionFit:
    """The greatest likelihood, held near the labels' own shares (with one more face of each) and near no movement: the rare are few."""
    count, moving = len(EMOTIONS), [at for at, name in enumerate(EMOTIONS) if name in MOVES]
    prior = np.log((np.bincount(truth, minlength=count) + 1) / (len(truth) + count))

    def own(weights: Array) -> Array:
        each = np.zeros(count)
        each[moving] = weights[count + 1 :]
        return each

    def loss(weights: Array) -> float:
        logits = weights[:count] + weights[count] * logs + own(weights) * moves
        likelihood = (logits[np.arange(len(truth)), truth] - np.logaddexp.reduce(logits, axis=1)).mean()
        return -float(likelihood) + RIDGE * float((own(weights) ** 2).sum()) + PRIOR * float(((weights[:count] - prior) ** 2).sum())

    found = np.round(optimize.minimize(loss, np.concatenate([prior, [0.5], np.ones(len(moving))])).x, 4)
    return EmotionFit(float(found[count]), tuple(found[:count].tolist()), tuple(own(found).tolist()), provenance)


def emotions(data: Path, nets: Expressions, mesher: Mesher, detector: Detector) -> None:
    faces, shapes, first = [], [], None
    with (LABELS / "emotions.csv").open() as file:
        labels = {row["photograph"]: row["expression"] for row in csv.DictReader(line for line in file if not line.startswith("#"))}
    for name in labels:
        image = media.decode((data / "lfw-a" / name.rpartition("_")[0] / name).read_bytes(), 10**8)
        face = centre_face(detector.detect(image), *image.shape[1::-1])
        assert face is not None, name
        faces.append(cv2.cvtColor(face_of(image, face.points), cv2.COLOR_BGR2GRAY))
        shapes.append(mesher.blendshapes(mesher.mesh(image, face.points)))
        first = first or (image, face.points)
    assert first is not None
    truth = np.array([EMOTIONS.index(label) for label in labels.values()])
    shares = nets.shares(np.stack(faces).astype(np.uint8))
    logs, moves = evidence(shares, shapes)
    ways = {"the network and movements (what ships)": (logs, moves), "the network alone, fitted so": (logs, 0 * moves),
            "movements alone, fitted so": (0 * logs, moves)}  # fmt: skip
    held = {name: np.empty((len(truth), len(EMOTIONS))) for name in ways}
    for name, (seen, moved) in ways.items():
        for fold in folds(len(truth)):
            rest = np.setdiff1d(np.arange(len(truth)), fold)
            held[name][fold] = confidences(seen[fold], moved[fold], fit_emotions(seen[rest], moved[rest], truth[rest]))
    own = np.array([EMOTIONS.index(CLASSES[at]) for at in shares.argmax(axis=1)])
    rows = [[name, share(int((each.argmax(axis=1) == truth).sum()), len(truth))] for name, each in held.items()]
    rows.append(["the network as it is", share(int((own == truth).sum()), len(truth))])
    rows += [[f"always {EMOTIONS[at]}", share(int((truth == at).sum()), len(truth))] for at in (EMOTIONS.index("CALM"), 0)]
    note = f"lfw-a, {len(truth)} faces, one a person, drawn at random and labelled by eye; Wilson's 95 % intervals."
    write("emotions", ["the surest expression is the labelled one", ""], rows, note, "how-good.md")
    said = held["the network and movements (what ships)"].argmax(axis=1)
    rows = []
    for at, name in enumerate(EMOTIONS):
        labelled, called = truth == at, said == at
        both = int((labelled & called).sum())
        found = [share(both, int(each.sum())) if each.any() else "-" for each in (labelled, called)]
        rows.append([name, str(labelled.sum()), found[0], str(called.sum()), found[1]])
    head = ["expression", "labelled", "of these said", "said", "of these labelled so"]
    write("emotions-each", head, rows, "As above, cross-fitted.", "how-good.md")
    sure, right = 100 * held["the network and movements (what ships)"].ravel(), np.eye(len(EMOTIONS), dtype=bool)[truth].ravel()
    rows = []
    for low, high in pairwise((0, 2, 5, 10, 20, 40, 60, 80, 90, 95, 100)):
        chosen = (sure >= low) & ((sure < high) | (high == 100))
        good = share(int(right[chosen].sum()), int(chosen.sum()))
        rows.append([f"{low} to {high}", f"{chosen.sum():,}", f"{sure[chosen].mean():.1f}", good])
    head = ["confidence", "expressions", "their mean", "labelled so"]
    write("emotions-reliability", head, rows, "As above: all eight of each face, cross-fitted.", "how-good.md")
    where = f"lfw-a, {len(truth)} faces labelled by eye, python benchmarks/attributes.py, seed {SEED}"
    keep({"emotions": fit_emotions(logs, moves, truth, where)})
    took = cpu_ms(lambda: nets.run(first[0], [first[1]], shapes[:1]))
    print(f"expressions of a face with a mesh: {took:.2f} ms of CPU")


def main(data: Path) -> None:
    packs = PackFolder(settings.load().models)
    detector, card = packs.load("yunet-sface").detector, packs.attribute_card(PACK)
    files = {part.file: session.verified_bytes(packs.folder / PACK / part.file, part.sha256, PACK) for part in card.files}
    nets = {name: files[part.file] for name, part in card.nets.items()}
    nothing = EmotionFit(1, (0.0,) * len(EMOTIONS), (0.0,) * len(EMOTIONS))
    age_gender = AgeGender.opened(nets["age"], nets["gender"], AgeFit((0, 1, 0), (0, 1, 0), 0), GenderFit(1, 0.01))
    demographics(data, age_gender, detector)
    portraits(data, age_gender, detector)
    emotions(data, Expressions.opened(nets["emotions"], nothing), Mesher(files[card.mesh.file]), detector)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
