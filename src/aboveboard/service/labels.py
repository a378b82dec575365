"""Say what a photograph shows, and what its colours and its quality are. No look: nothing is compared with anybody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aboveboard.accountability.operators import Session
from aboveboard.biometrics.vocabulary import Box
from aboveboard.service import analyse, samples
from aboveboard.service.app import App
from aboveboard.service.samples import Sample
from aboveboard.vision import colours
from aboveboard.vision.colours import Colour, Measures
from aboveboard.vision.labelling import Entry, Filter
from aboveboard.vision.media import Image
from aboveboard.vision.packs import LabelModels

MOST_LABELS = 1000
LEAST_CONFIDENCE = 55.0
MOST_COLOURS = 10
"""What applies where a request says nothing; of labels it is the limit as well (Amazon Rekognition's)."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked of a photograph; whatever is not asked for is not computed. Confidence 0-100."""

    labels: bool = True
    properties: bool = False
    least_confidence: float = LEAST_CONFIDENCE
    most_labels: int = MOST_LABELS
    filter: Filter = Filter()
    most_colours: int = MOST_COLOURS


@dataclass(frozen=True, slots=True)
class Instance:
    """Where a detector saw what a label names: confidence 0-100; colours where they were asked for."""

    box: Box
    confidence: float
    colours: tuple[Colour, ...]


@dataclass(frozen=True, slots=True)
class Label:
    """What a photograph shows: confidence 0-100, the labels above it, the nearest first, and where a detector saw it."""

    name: str
    confidence: float
    parents: tuple[str, ...]
    category: str
    aliases: tuple[str, ...]
    instances: tuple[Instance, ...]


@dataclass(frozen=True, slots=True)
class Properties:
    """The whole picture's measures and colours."""

    measures: Measures
    colours: tuple[Colour, ...]


@dataclass(frozen=True, slots=True)
class Described:
    """What is said of a photograph; None where it was not asked for. `unknown`: what the filter names and the taxonomy does not have."""

    labels: tuple[Label, ...] | None
    properties: Properties | None
    model_version: str | None
    unknown: Sequence[str]


def describe(app: App, session: Session, sample: Sample, wanted: Wanted) -> Described:
    """What a photograph shows, the surest first. Raises BadSample, or Refused without a role, or where labels are asked for and no label
    pack is installed."""
    app.gate.authorise(session, "detect")
    models = app.labels.models() if wanted.labels else None
    with analyse.opened(app, samples.read(app, session, "detect", sample)) as image:
        labels = _labels(app, image, models, wanted) if models else None
        properties = Properties(colours.measure(image), tuple(colours.dominant(image, wanted.most_colours))) if wanted.properties else None
    return Described(
        labels, properties, models.card.model_version if models else None, wanted.filter.unknown(models.taxonomy) if models else []
    )


def _labels(app: App, image: Image, models: LabelModels, wanted: Wanted) -> tuple[Label, ...]:
    taxonomy, presence = models.taxonomy, app.models.presence
    chosen = wanted.filter.chosen(taxonomy)
    people = [entry.name for entry in taxonomy.of_faces if any(chosen[taxonomy.called[one]] for one in (entry.name, *entry.parents))]
    faces = analyse.found(app, image) if people else []
    is_classified = bool((chosen & taxonomy.has_classes).any()) or bool(faces and presence and taxonomy.of_animals)
    probabilities = models.labeller.probabilities(image) if is_classified else np.zeros(0)
    animal = max((entry.confidence(probabilities) for entry in taxonomy.of_animals), default=0.0) / 100
    sure = [100 * presence.chance(one.detection.score, animal) if presence else one.confidence for one in faces]
    seen = {name: [(one.box, confidence) for one, confidence in zip(faces, sure, strict=True)] for name in people if faces}
    for thing in models.boxes.detect(image) if models.boxes else ():
        seen.setdefault(thing.label, []).append((_ratios(image, thing.box), 100 * thing.score))
    detected = np.zeros(len(taxonomy.entries))
    for name, instances in seen.items():
        entry = taxonomy.entries[taxonomy.called[name]]
        above = [taxonomy.called[one] for one in (name, *entry.parents)]
        detected[above] = np.maximum(detected[above], max(confidence for _, confidence in instances) / 100)
    likeliest = np.maximum(detected, taxonomy.shares(probabilities)) if is_classified else detected
    likely = [
        (taxonomy.entries[place], float(detected[place]))
        for place in np.flatnonzero(chosen & (likeliest >= wanted.least_confidence / 100 - 1e-9))
    ]
    scored = [(entry.confidence(probabilities, confidence), entry) for entry, confidence in likely]
    surest = [(confidence, entry) for confidence, entry in scored if confidence >= wanted.least_confidence and confidence > 0]
    # Of equally sure ones the more particular comes first.
    surest.sort(key=lambda one: (-one[0], -len(one[1].parents), one[1].name))
    return tuple(
        _label(confidence, entry, seen.get(entry.name, []), image, wanted)
        for confidence, entry in surest[: min(wanted.most_labels, MOST_LABELS)]
    )


def _label(confidence: float, entry: Entry, seen: Sequence[tuple[Box, float]], image: Image, wanted: Wanted) -> Label:
    instances = tuple(
        Instance(box, sure, tuple(colours.dominant(_inside(image, box), wanted.most_colours)) if wanted.properties else ())
        for box, sure in seen
        if sure >= wanted.least_confidence
    )
    return Label(entry.name, confidence, entry.parents, entry.category, entry.aliases, instances)


def _ratios(image: Image, box: tuple[float, float, float, float]) -> Box:
    height, width = image.shape[:2]
    return Box(box[0] / width, box[1] / height, box[2] / width, box[3] / height)


def _inside(image: Image, box: Box) -> Image:
    """The pixels in a box, at least one."""
    height, width = image.shape[:2]
    left, top = (min(max(int(start), 0), end - 1) for start, end in ((box.left * width, width), (box.top * height, height)))
    right, bottom = int((box.left + box.width) * width), int((box.top + box.height) * height)
    return image[top : max(bottom, top + 1), left : max(right, left + 1)]
