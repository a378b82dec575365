"""Templates of labelled photographs, kept in a file: making them takes minutes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from aboveboard.evaluation.protocol import PHOTOGRAPHS, Sample, content_hash, correct, read_folder, shipped_errata
from aboveboard.evaluation.run import TemplateSet, templates_of
from aboveboard.vision.packs import Models

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "aboveboard-benchmarks"


def people_of(folder: Path) -> list[Sample]:
    """The samples of a data set, labels corrected; where there are no folders of people, each photograph is a person's."""
    if any(path.suffix in PHOTOGRAPHS for path in folder.iterdir()):
        return [Sample(path.name, path.name, path) for path in sorted(folder.iterdir()) if path.suffix in PHOTOGRAPHS]
    return correct(read_folder(folder), shipped_errata())[0]


def kept(samples: Sequence[Sample], models: Models) -> TemplateSet:
    """The samples' templates, out of the cache if they were made before with this model version from these very photographs."""
    key = hashlib.sha256(
        f"named {models.card.model_version} {content_hash(samples)} {[sample.name for sample in samples]}".encode()
    ).hexdigest()[:16]
    file = CACHE / f"{key}.npz"
    if not file.exists():
        made = templates_of(samples, models, progress=lambda done, of: print(f"\r{done:,} of {of:,} templates", end="", flush=True))
        CACHE.mkdir(parents=True, exist_ok=True)
        failed = {sample.name: reason for sample, reason in made.failures_to_enrol}
        np.savez(
            file,
            features=made.features,
            people=[sample.subject for sample in made.samples],
            names=[sample.name for sample in made.samples],
            failed=list(failed),
            reasons=list(failed.values()),
        )
    with np.load(file) as found:
        why = dict(zip(found["failed"].tolist(), found["reasons"].tolist(), strict=True))
        made = tuple(sample for sample in samples if sample.name not in why)
        return TemplateSet(found["features"], made, tuple((sample, why[sample.name]) for sample in samples if sample.name in why))
