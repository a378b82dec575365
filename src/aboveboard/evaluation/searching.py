"""The searches of a false-match study: people are looked up in a gallery in which they are not, and among second photographs of them.

An `Engine` enrols and searches; what it answered becomes the study's inputs, files from which every number is computed. The two
galleries are searched apart and their lists merged: a similarity does not depend on who else is enrolled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from aboveboard.errors import BadRequest, BadSample
from aboveboard.evaluation import endpoint
from aboveboard.evaluation.identification import DEPTH
from aboveboard.evaluation.manifest import Manifest, Photograph
from aboveboard.evaluation.protocol import Sample
from aboveboard.evaluation.run import MAX_PIXELS, Progress, templates_of
from aboveboard.reporting.tables import Cell, csv_of
from aboveboard.vision.media import decode
from aboveboard.vision.packs import Models

PROBES, GALLERY, SEARCHES, PICTURES = "probes.csv", "gallery.csv", "searches.csv", "pictures"
PROBE_COLUMNS = ("probe", "subject", "failure", "mate", "mate_failure")
MOST_PICTURES, HEIGHT_PX = 300, 180
NO_THRESHOLD = "none"
Named = Mapping[str, Sample]
"""Photographs by the names that they are enrolled and looked up under."""


@dataclass(frozen=True)
class Searched:
    """Searches of one gallery: `failed` photographs with their reasons, and up to `DEPTH` candidates (reference, similarity) of each
    probe, best first. `applied` is the threshold that they passed, "none", or None where it is not known, for the reason `why`."""

    failed: Mapping[str, str]
    candidates: Mapping[str, Sequence[tuple[str, float]]]
    applied: float | str | None
    why: str = ""


class Engine(Protocol):
    """Enrols one set of photographs and searches among them with another."""

    about: dict[str, Any]

    def search(self, what: str, /, enrolled: Named, probed: Named, progress: Progress) -> Searched:
        """Search with each photograph for the first `DEPTH` candidates whatever their similarity; `what` names the gallery."""


class InProcess:
    """The models of a pack, without a server; similarities are those of its calibration."""

    def __init__(self, models: Models) -> None:
        if models.calibration is None:
            raise BadRequest(f"the pack '{models.card.id}' has no calibration and answers no similarity; make one: aboveboard calibrate")
        self._models, self._calibration = models, models.calibration
        self.about = {
            "endpoint": "in process",
            "pack": models.card.id,
            "model_version": models.card.model_version,
            "files": {part.file: part.sha256 for part in models.card.files},
            "calibration": models.calibration.id,
            "calibration_sha256": models.calibration.sha256,
            "measured_limit": models.calibration.measured_limit,
        }

    def search(self, _: str, /, enrolled: Named, probed: Named, progress: Progress) -> Searched:
        """The exact search over templates of the centre faces."""
        names = {id(sample): name for name, sample in (*enrolled.items(), *probed.items())}
        made = templates_of([*enrolled.values(), *probed.values()], self._models, progress=progress)
        features = {names[id(sample)]: feature for sample, feature in zip(made.samples, made.features.astype(np.float64), strict=True)}
        references = [name for name in enrolled if name in features]
        if not references:
            raise BadRequest("of no photograph of the gallery a template could be made")
        gallery = np.stack([features[name] for name in references])
        candidates = {probe: self._best(gallery @ features[probe], references) for probe in probed if probe in features}
        return Searched({names[id(sample)]: reason for sample, reason in made.failures_to_enrol}, candidates, NO_THRESHOLD)

    def _best(self, scores: NDArray[np.float64], references: Sequence[str]) -> list[tuple[str, float]]:
        best = np.argsort(-scores, kind="stable")[:DEPTH]
        return [(references[i], self._calibration.similarity(float(scores[i]))) for i in best]


class AtEndpoint:
    """Any Rekognition endpoint through boto3's `client`; its answers are kept in `folder`, so that a stopped run goes on."""

    def __init__(self, client: Any, name: str, folder: Path, per_second: float, agree: Callable[[int, int], None]) -> None:
        """`agree` is called before each search with how many questions are left and answered; it raises where that is not wanted."""
        self._client, self._folder, self._per_second, self._agree = client, folder, per_second, agree
        self.about: dict[str, Any] = {"endpoint": name}

    def search(self, what: str, /, enrolled: Named, probed: Named, progress: Progress) -> Searched:
        """A collection of its own, which is deleted again; asked for every candidate."""
        manifest = Manifest(_photographs(enrolled), _photographs(probed), None, {})
        asked = endpoint.Endpoint(self._client, self.about["endpoint"], manifest, per_second=self._per_second)
        with closing(asked.journal(self._folder / what)) as journal:
            self._agree(len(endpoint.questions(manifest)) - len(journal.answers), len(journal.answers))
            scores = asked.measure(journal, progress)
        names, found = scores.photograph.tolist(), {probe: list[tuple[str, float]]() for probe in probed}
        assert scores.candidates is not None
        assert scores.candidate_scores is not None
        for (probe, reference), similarity in zip(scores.candidates.tolist(), scores.candidate_scores.tolist(), strict=True):
            found[names[probe]].append((names[reference], similarity))
        best = {probe: sorted(listed, key=lambda one: -one[1]) for probe, listed in found.items()}
        threshold = scores.about["threshold"]
        return Searched(scores.about["failures_to_enrol"], best, threshold["applied"], threshold.get("why", ""))


def _photographs(samples: Named) -> tuple[Photograph, ...]:
    return tuple(Photograph(name, sample.path, sample.subject, {}) for name, sample in samples.items())


@dataclass(frozen=True)
class Protocolled:
    """Who is looked up where: `probes`, a second photograph of those who have one (`mates`, by subject), and the gallery."""

    probes: tuple[Sample, ...]
    mates: Mapping[str, Sample]
    gallery: tuple[Sample, ...]
    left_out: int


def protocol_of(people: Sequence[Sample], gallery: Sequence[Sample]) -> Protocolled:
    """The first photograph of each person is the probe, the second his mate; of the gallery, the people who are probed are left out."""
    by_subject: dict[str, list[Sample]] = {}
    for sample in sorted(people, key=lambda sample: sample.name):
        by_subject.setdefault(sample.subject, []).append(sample)
    kept = tuple(sample for sample in gallery if sample.subject not in by_subject)
    if not kept:
        raise BadRequest("the gallery shows nobody but the people who are probed; name another one")
    return Protocolled(
        probes=tuple(samples[0] for samples in by_subject.values()),
        mates={subject: samples[1] for subject, samples in by_subject.items() if len(samples) > 1},
        gallery=kept,
        left_out=len(gallery) - len(kept),
    )


def gather(
    engine: Engine, who: Protocolled, labels: Mapping[str, Mapping[str, str]], progress: Progress
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Run the searches: the study's inputs (who was probed and enrolled, every candidate that was answered), and what is known of them."""
    gallery = {f"gallery/{sample.name}": sample for sample in who.gallery}
    probes = {f"probes/{sample.name}": sample for sample in who.probes}
    mates = {f"mates/{sample.name}": sample for sample in who.mates.values()}
    mated = {name: sample for name, sample in probes.items() if sample.subject in who.mates}
    total = len(gallery) + len(probes)
    alone = engine.search("gallery", gallery, probes, lambda done, _: progress(done, total + len(mates) + len(mated)))
    among = (
        engine.search("mates", mates, mated, lambda done, _: progress(total + done, total + len(mates) + len(mated)))
        if mates
        else Searched({}, {}, alone.applied)
    )
    columns = sorted({column for one in labels.values() for column in one})
    rows: list[list[Cell]] = []
    searches: list[list[Cell]] = []
    for name, sample in probes.items():
        mate = f"mates/{who.mates[sample.subject].name}" if sample.subject in who.mates else ""
        own = labels.get(sample.subject, {})
        rows.append(
            [
                name,
                sample.subject,
                alone.failed.get(name, ""),
                mate,
                among.failed.get(mate, ""),
                *(own.get(column, "") for column in columns),
            ]
        )
        for against, searched in (("gallery", alone), ("mates", among)):
            listed = enumerate(searched.candidates.get(name, ()), start=1)
            searches += [[name, against, rank, reference, similarity] for rank, (reference, similarity) in listed]
    enrolled: list[list[Cell]] = [[name, sample.subject, alone.failed.get(name, "")] for name, sample in gallery.items()]
    unknown = [searched.why for searched in (alone, among) if searched.applied is None]
    inputs = {
        PROBES: csv_of([*PROBE_COLUMNS, *columns], rows),
        GALLERY: csv_of(["reference", "subject", "failure"], enrolled),
        SEARCHES: csv_of(["probe", "against", "rank", "reference", "similarity"], searches),
    }
    return inputs, {**engine.about, "applied": None if unknown else alone.applied, "why": "; ".join(unknown)}


def pictures_of(pairs: Sequence[tuple[str, str]], who: Protocolled) -> dict[str, bytes]:
    """Each pair (probe, reference) side by side, the probe on the left, as small JPEG files that are numbered like the pairs."""
    probes = {f"probes/{sample.name}": sample for sample in who.probes}
    references = {f"gallery/{sample.name}": sample for sample in who.gallery}
    return {
        f"{PICTURES}/{number:04}.jpg": _side_by_side(probes[probe], references[reference])
        for number, (probe, reference) in enumerate(pairs[:MOST_PICTURES], start=1)
    }


def _side_by_side(*samples: Sample) -> bytes:
    parts = []
    for sample in samples:
        try:
            image = decode(sample.path.read_bytes(), MAX_PIXELS)
        except BadSample as error:
            raise BadRequest(f"{sample.path} has changed while the study ran: {error.message}") from error
        width = max(1, round(image.shape[1] * HEIGHT_PX / image.shape[0]))
        parts += [cv2.resize(image, (width, HEIGHT_PX), interpolation=cv2.INTER_AREA), np.full((HEIGHT_PX, 6, 3), 255, np.uint8)]
    _, data = cv2.imencode(".jpg", np.hstack(parts[:-1]), [cv2.IMWRITE_JPEG_QUALITY, 82])
    return data.tobytes()
