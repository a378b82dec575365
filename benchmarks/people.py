"""Does the best of m faces keep the promise of the scale? python benchmarks/people.py FOLDER (of person/photograph.jpg)."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from report import write

from aboveboard import settings
from aboveboard.biometrics.calibration import fmr_at, similarity_at
from aboveboard.evaluation.protocol import correct, read_folder, shipped_errata
from aboveboard.evaluation.run import templates_of
from aboveboard.vision.packs import PackFolder

SIMILARITIES = (20, 40, 60, 80)


def rate(errors: int, trials: int) -> str:
    return f"{errors / trials:.2g} ({errors:,})"


def main(folder: Path) -> None:
    models = PackFolder(settings.load().models).load("yunet-sface")
    samples, _ = correct(read_folder(folder), shipped_errata())
    made = templates_of(samples, models)
    subject = np.array([sample.subject for sample in made.samples])
    people, counts = np.unique(subject, return_counts=True)
    random = np.random.default_rng(0)
    rows = []
    for m in (1, 2, 5, 10):
        enrolled = people[counts >= m]
        best = []
        for person in enrolled:
            own = random.choice(np.flatnonzero(subject == person), m, replace=False)
            scores = made.features[subject != person] @ made.features[own].T
            best.append(scores.max(axis=1))
        scores = np.concatenate(best)
        for similarity in SIMILARITIES:
            # The highest similarity of a single face that still stands for this one as the best of m.
            single = similarity_at(-np.expm1(np.log1p(-fmr_at(similarity)) / m))
            alone = int(np.count_nonzero(scores >= models.calibration.score_at(similarity)))
            corrected = int(np.count_nonzero(scores >= models.calibration.score_at(single)))
            promised = f"{fmr_at(similarity):.2g}"
            rows.append([str(m), f"{len(enrolled):,}", str(similarity), promised, rate(corrected, scores.size), rate(alone, scores.size)])
    write(
        "people",
        ["faces m", "people", "similarity", "FMR promised", "found (errors)", "found without the correction for m"],
        rows,
        f"{len(made.samples):,} photographs of {len(people):,} people, corrected; each person with m faces or more is enrolled with m of "
        "them, drawn once, and searched for with every photograph of everybody else.",
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
