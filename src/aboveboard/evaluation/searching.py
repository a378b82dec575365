"""The searches of a false-match study: people who are not in a gallery are looked up in it, then again with a second photograph of each.

An `Engine` enrols and searches; what it answered becomes the study's inputs, files from which every number is computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from aboveboard.errors import BadRequest, BadSample
from aboveboard.evaluation.protocol import Sample
from aboveboard.evaluation.run import MAX_PIXELS, Progress, templates_of
from aboveboard.reporting.tables import Cell, csv_of
from aboveboard.vision.media import decode
from aboveboard.vision.packs import Models

Found = Sequence[tuple[str, float]] | str
"""The candidates of a search, (reference, similarity) best first, or why there was no search."""
PROBES, GALLERY, SEARCHES, PICTURES = "probes.csv", "gallery.csv", "searches.csv", "pictures"
PROBE_COLUMNS = ("probe", "subject", "failure", "mate", "mate_failure")
MOST_PICTURES, HEIGHT_PX = 300, 180


class Engine(Protocol):
    """Enrols photographs under a reference name each and searches among all that were enrolled so far."""

    about: dict[str, Any]

    def enrol(self, samples: Mapping[str, Sample], progress: Progress) -> dict[str, str]:
        """Enrol photographs by reference name; gives the names of those that could not be, with the reason."""

    def search(self, samples: Sequence[Sample], limit: int, progress: Progress) -> list[Found]:
        """Search with each photograph, asking for up to `limit` candidates whatever their similarity."""


class InProcess:
    """The models of a pack, without a server; similarities are those of its calibration."""

    def __init__(self, models: Models) -> None:
        if models.calibration is None:
            raise BadRequest(
                f"the pack '{models.card.id}' has no calibration, so that it answers no similarity; make one: aboveboard calibrate"
            )
        self._models, self._calibration = models, models.calibration
        self._references: list[str] = []
        self._features = np.empty((0, models.recogniser.dimensions))
        self._probes: dict[str, NDArray[np.float64] | str] = {}
        self.about = {
            "engine": "in process",
            "pack": models.card.id,
            "model_version": models.card.model_version,
            "files": {part.file: part.sha256 for part in models.card.files},
            "calibration": models.calibration.id,
            "calibration_sha256": models.calibration.sha256,
            "measured_limit": models.calibration.measured_limit,
        }

    def enrol(self, samples: Mapping[str, Sample], progress: Progress) -> dict[str, str]:
        """Templates of the centre faces."""
        made = templates_of(list(samples.values()), self._models, progress=progress)
        failed = {id(sample): reason for sample, reason in made.failures_to_enrol}
        self._references += [reference for reference, sample in samples.items() if id(sample) not in failed]
        self._features = np.vstack([self._features, made.features.astype(np.float64)])
        return {reference: failed[id(sample)] for reference, sample in samples.items() if id(sample) in failed}

    def search(self, samples: Sequence[Sample], limit: int, progress: Progress) -> list[Found]:
        """The exact search, best first; a photograph that was looked up before is not read again."""
        new = [sample for sample in samples if sample.name not in self._probes]
        made = templates_of(new, self._models, progress=progress)
        self._probes |= {sample.name: feature.astype(np.float64) for sample, feature in zip(made.samples, made.features, strict=True)}
        self._probes |= {sample.name: reason for sample, reason in made.failures_to_enrol}
        return [self._candidates(self._probes[sample.name], limit) for sample in samples]

    def _candidates(self, probe: NDArray[np.float64] | str, limit: int) -> Found:
        if isinstance(probe, str):
            return probe
        scores = self._features @ probe
        best = np.argsort(-scores, kind="stable")[:limit]
        return [(self._references[i], self._calibration.similarity(float(scores[i]))) for i in best]


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


def gather(engine: Engine, who: Protocolled, labels: Mapping[str, Mapping[str, str]], limit: int, progress: Progress) -> dict[str, bytes]:
    """Run the searches and give the study's inputs: who was probed and enrolled, and every candidate that was answered.

    First the gallery alone is searched, in which nobody probed is (`alone`), then the gallery with the mates (`with mates`).
    """
    total, done = len(who.gallery) + len(who.probes) + len(who.mates), 0

    def step(at: int, _: int) -> None:
        progress(done + at, total)

    references = {f"gallery/{sample.name}": sample for sample in who.gallery}
    mates = {f"mates/{sample.name}": sample for sample in who.mates.values()}
    failed = engine.enrol(references, step)
    done += len(references)
    alone = engine.search(who.probes, limit, step)
    done += len(who.probes)
    failed |= engine.enrol(mates, step)
    mated = [probe for probe in who.probes if probe.subject in who.mates]
    found = dict(zip((probe.name for probe in mated), engine.search(mated, limit, lambda *_: None), strict=True))
    columns = sorted({column for one in labels.values() for column in one})
    probes: list[list[Cell]] = []
    searches: list[list[Cell]] = []
    for probe, answer in zip(who.probes, alone, strict=True):
        mate = f"mates/{who.mates[probe.subject].name}" if probe.subject in who.mates else ""
        own = labels.get(probe.subject, {})
        failure = answer if isinstance(answer, str) else ""
        probes.append([probe.name, probe.subject, failure, mate, failed.get(mate, ""), *(own.get(column, "") for column in columns)])
        for against, candidates in (("alone", answer), ("with mates", found.get(probe.name, ""))):
            if not isinstance(candidates, str):
                searches += [[probe.name, against, rank, *candidate] for rank, candidate in enumerate(candidates, start=1)]
    enrolled: list[list[Cell]] = [[reference, sample.subject, failed.get(reference, "")] for reference, sample in references.items()]
    return {
        PROBES: csv_of([*PROBE_COLUMNS, *columns], probes),
        GALLERY: csv_of(["reference", "subject", "failure"], enrolled),
        SEARCHES: csv_of(["probe", "against", "rank", "reference", "similarity"], searches),
    }


def pictures_of(pairs: Sequence[tuple[str, str]], who: Protocolled) -> dict[str, bytes]:
    """Each pair (probe, reference) side by side, the probe on the left, as small JPEG files that are numbered like the pairs."""
    probes = {sample.name: sample for sample in who.probes}
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
