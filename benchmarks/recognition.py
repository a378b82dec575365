"""How well the default pack tells people apart: python benchmarks/recognition.py DATA.

DATA holds the folders lfw-a (LFW, people of folds 1-5, with pairs.txt of its View 2) and congress-a (a folder of portraits a member).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from report import DOCS, write

from aboveboard import settings
from aboveboard.evaluation import resampling
from aboveboard.evaluation.identification import DEPTH, Searches, searches
from aboveboard.evaluation.measure import NAMED
from aboveboard.evaluation.protocol import Errata, Sample, correct, read_errata, read_folder, shipped_errata
from aboveboard.evaluation.rates import Found, Unmeasured
from aboveboard.evaluation.report import text
from aboveboard.evaluation.resampling import rate_of
from aboveboard.evaluation.run import templates_of
from aboveboard.evaluation.scores import FORMAT, Scores
from aboveboard.evaluation.verification import verification
from aboveboard.reporting.tables import number
from aboveboard.vision.packs import PackFolder

DRAWS, SEED = 1000, 0
CONGRESS = DOCS / "studies" / "congress-in-lfw.csv"
Features = NDArray[np.float64]


class Data:
    """Photographs with their templates, and the thresholds of the pack's similarities."""

    def __init__(self, folders: Sequence[Path]) -> None:
        models = PackFolder(settings.load().models).load("yunet-sface")
        assert models.calibration is not None
        self.named = {f"{similarity:g}": models.calibration.score_at(similarity) for similarity in NAMED}
        self.samples = {folder.name: read_folder(folder) for folder in folders}
        made = templates_of([sample for each in self.samples.values() for sample in each], models)
        print(f"failures to enrol: {len(made.failures_to_enrol)}")
        self._of = {sample.path: feature for sample, feature in zip(made.samples, made.features.astype(np.float64), strict=True)}
        self._none = np.full(made.features.shape[1], np.nan)

    def corrected(self, name: str, *errata: Errata) -> list[Sample]:
        found = self.samples[name]
        for each in errata:
            found, _ = correct(found, each)
        return found

    def scores(self, enrolled: Sequence[Sample], probed: Sequence[Sample] = (), **more: Any) -> Scores:
        """All pairs of the enrolled, or each probed photograph with each enrolled one, or what `more` says."""
        everybody = [*enrolled, *probed]
        features = np.stack([self._of.get(sample.path, self._none) for sample in everybody])
        n = len(enrolled)
        if probed:
            more = {"cross": np.clip(features[n:] @ features[:n].T, -1, 1).astype(np.float32)}
        elif not more:
            rows = (np.clip(features[i + 1 :] @ features[i], -1, 1).astype(np.float32) for i in range(n - 1))
            more = {"all_pairs": np.concatenate(list(rows))}
        return Scores(
            photograph=np.array([sample.name for sample in everybody]),
            subject=np.array([sample.subject for sample in everybody]),
            enrolled=np.arange(len(everybody)) < n,
            template=~np.isnan(features[:, 0]),
            labels={},
            about={"format": FORMAT, "scale": "cosine", "named": self.named, "threshold": {"asked": "none", "applied": "none"}},
            **more,
        )

    def pair_scores(self, samples: Sequence[Sample], pairs: NDArray[np.int32]) -> NDArray[np.float32]:
        features = np.stack([self._of.get(sample.path, self._none) for sample in samples])
        return np.einsum("ij,ij->i", features[pairs[:, 0]], features[pairs[:, 1]]).astype(np.float32)


def said(found: Found) -> str:
    """ "28 of 535: 5.23 % [3.65, 7.46]"; rates too small for per cent as numbers."""
    if isinstance(found, Unmeasured):
        return text(found)
    if found.high >= 1e-3:
        return f"{found.errors:,} of {found.trials:,}: {text(found)}"
    star = "*" if found.is_insufficient else ""
    return f"{found.errors:,} of {found.trials:,}: {number(found.value)} [{number(found.low)}, {number(found.high)}]{star}"


def view_2(data: Data, pairs_file: Path) -> tuple[Scores, NDArray[np.int64]]:
    """LFW's pairs of View 2, folds 1-5, with the labels as they are, and the fold of each."""
    samples = data.samples["lfw-a"]
    number_of = {sample.name: i for i, sample in enumerate(samples)}
    lines = [line.split("\t") for line in pairs_file.read_text().splitlines()]
    folds, each = (int(one) for one in lines[0])
    pairs = []
    for line in lines[1:]:
        ends = [(line[0], line[1]), (line[0] if len(line) == 3 else line[2], line[-1])]
        pairs.append([number_of[f"{person}/{person}_{int(photograph):04}.jpg"] for person, photograph in ends])
    listed = np.array(pairs, np.int32)
    assert len(listed) == folds * 2 * each
    return data.scores(samples, pairs=listed, pair_scores=data.pair_scores(samples, listed)), np.repeat(np.arange(folds), 2 * each)


def accuracy(scores: Scores, fold: NDArray[np.int64]) -> str:
    """LFW's own figure: right decisions at the threshold that is best on the other folds, mean and standard error over the folds."""
    assert scores.pairs is not None
    assert scores.pair_scores is not None
    same, values = scores.person[scores.pairs[:, 0]] == scores.person[scores.pairs[:, 1]], scores.pair_scores
    at = np.unique(values)
    right = []
    for one in range(int(fold.max()) + 1):
        rest = fold != one
        best = at[np.argmax([np.mean((values[rest] >= threshold) == same[rest]) for threshold in at])]
        right.append(np.mean((values[~rest] >= best) == same[~rest]))
    return f"{100 * np.mean(right):.2f} % ± {100 * np.std(right, ddof=1) / np.sqrt(len(right)):.2f}"


def verified(data: Data, pairs_file: Path) -> None:
    """FMR and FNMR at the similarities: the 3,000 pairs, all pairs of LFW, all pairs of portraits."""
    listed, fold = view_2(data, pairs_file)
    sets: Mapping[str, Scores] = {
        "LFW, View 2, the 3,000 pairs of folds 1-5, labels as is": listed,
        "LFW, every two photographs of folds 1-5, corrected": data.scores(data.corrected("lfw-a", shipped_errata())),
        "264 members of Congress, every two of their portraits": data.scores(data.samples["congress-a"]),
    }
    rows = []
    for name, scores in sets.items():
        found = verification(scores, list(data.named.values()))
        assert found is not None
        weights, at = resampling.draw(scores.people.size, DRAWS, SEED), sorted(data.named.items(), key=lambda one: one[1])
        thresholds = [threshold for _, threshold in at]
        for (similarity, _), fmr, fnmr in zip(at, found.whole.fmr(thresholds, weights), found.whole.fnmr(thresholds, weights), strict=True):
            rows.append([name, similarity, said(rate_of(fmr)), said(rate_of(fnmr))])
    note = (
        f"LFW's own figure on its 3,000 pairs, the share of right decisions at the threshold that is best on the other four folds: "
        f"{accuracy(listed, fold)} (standard error over five folds). 95 % intervals from {DRAWS:,} draws of people; * fewer than 30 errors."
    )
    write("recognition-verification", ["pairs", "similarity", "false matches: FMR", "missed: FNMR"], rows, note, "how-good.md")


def joined(*found: Searches | None) -> Searches:
    """Searches of the same gallery, for different people, as one set."""
    known = [one for one in found if one is not None]
    fields = ("probe", "person", "is_mated", "mate", "others", "culprit", "next_other")
    return replace(known[0], **{field: np.concatenate([getattr(one, field) for one in known]) for field in fields})


def congress_in_lfw(data: Data) -> tuple[Searches, Callable[[int], NDArray[np.float64]]]:
    """Each member looked up among LFW, and, who has a second portrait, also with that enrolled."""
    errata = read_errata(CONGRESS.read_text())
    members = data.corrected("congress-a", errata)
    people = {sample.subject for sample in members}
    gallery = [sample for sample in data.corrected("lfw-a", shipped_errata(), errata) if sample.subject not in people]
    by_member: dict[str, list[Sample]] = {}
    for sample in members:
        by_member.setdefault(sample.subject, []).append(sample)
    first = [own[0] for own in by_member.values()]
    second = [own[1] for own in by_member.values() if len(own) > 1]
    mated = [own[0] for own in by_member.values() if len(own) > 1]
    # Persons are numbered by name: the same people in both score files have the same numbers.
    alone = searches(data.scores(gallery, first))
    among = searches(data.scores([*gallery, *second], [*mated, *(one for one in first if one not in mated)]))
    assert among is not None
    among = among.of(among.is_mated)
    subjects = len({sample.subject for sample in (*gallery, *first)})
    return joined(alone, among), lambda draws: resampling.draw(subjects, draws, SEED)


def lfw_in_lfw(data: Data) -> tuple[Searches, Callable[[int], NDArray[np.float64]]]:
    """People of LFW with two photographs or more: the first enrolled, the second looked up; of the others each second one is enrolled."""
    by_person: dict[str, list[Sample]] = {}
    for sample in data.corrected("lfw-a", shipped_errata()):
        by_person.setdefault(sample.subject, []).append(sample)
    several = [own for own in by_person.values() if len(own) > 1]
    single = [own[0] for own in by_person.values() if len(own) == 1]
    gallery = [*(own[0] for own in several), *single[::2]]
    found = searches(data.scores(gallery, [*(own[1] for own in several), *single[1::2]]))
    assert found is not None
    return found, lambda draws: resampling.draw(len(by_person), draws, SEED)


def identified(data: Data) -> None:
    """FPIR and FNIR without a threshold, at thresholds set for an FPIR, and at the similarities."""
    rows = []
    sets = {"members of Congress among LFW": congress_in_lfw, "LFW among LFW": lfw_in_lfw}
    for name, make in sets.items():
        found, draw = make(data)
        weights = draw(DRAWS)
        points: list[tuple[str, float, int]] = [(f"investigation, rank {rank}", -np.inf, rank) for rank in (1, DEPTH)]
        for rate in (0.03, 0.01, 0.003):
            threshold = found.threshold_for(rate)
            if threshold is not None and rate * (~found.is_mated).sum() >= 1:
                points.append((f"identification, set for FPIR {100 * rate:g} %", threshold, DEPTH))
        points += [(f"identification, similarity {similarity}", score, DEPTH) for similarity, score in data.named.items()]
        for point, threshold, rank in points:
            fpir, fnir = rate_of(found.fpir(threshold, weights)), rate_of(found.fnir(threshold, rank, weights))
            rows.append([f"{name}, N = {found.size:,}", point, said(fpir), said(fnir)])
    note = (
        f"95 % intervals from {DRAWS:,} draws of the people searched for and of those enrolled, at least Wilson's; without any error the "
        "upper bound of the rule of 3; * fewer than 30 errors. A threshold set for an FPIR was set on the same searches."
    )
    write("recognition-identification", ["who, and gallery", "mode", "FPIR", "FNIR"], rows, note, "how-good.md")


def main(data: Path) -> None:
    found = Data([data / "lfw-a", data / "congress-a"])
    verified(found, data / "lfw-a" / "pairs.txt")
    identified(found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
