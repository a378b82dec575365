"""Open-set identification from a score file: FPIR and FNIR by threshold and rank, as NIST's FRTE 1:N counts them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from aboveboard.evaluation import metrics, resampling
from aboveboard.evaluation.rates import Unmeasured
from aboveboard.evaluation.resampling import NOBODY, SEVERAL, Drawn, Weights
from aboveboard.evaluation.scores import Floats, Scores, least

DEPTH = 50
"""How long a list is in NIST's investigation mode."""
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Searches:
    """One search for each probed photograph in a gallery of `size` photographs.

    `is_mated` says whether the person is enrolled; `mate` is the best score of the person's own enrolled photographs, `others`
    (p, DEPTH) those of the best other photographs, highest first. -inf where there is none, also after a failure to enrol. `culprit`
    is the person of the best of these (NOBODY: none), `next_other` the best score among them of somebody else.
    """

    probe: Ints
    person: Ints
    is_mated: NDArray[np.bool_]
    mate: Floats
    others: Floats
    culprit: Ints
    next_other: Floats
    size: int

    def fpir(self, threshold: float, weights: Weights) -> Drawn | Unmeasured:
        """The share of searches for people who are not enrolled that bring up a candidate; a failure to enrol brings up none.

        People are drawn on both sides (`resampling.searched`).
        """
        asked = ~self.is_mated
        if not asked.any():
            return Unmeasured("no non-mated search")
        false = self.others[:, 0] >= least(threshold)
        culprit = np.where(false, np.where(self.next_other >= least(threshold), SEVERAL, self.culprit), NOBODY)
        return resampling.searched(weights, self.person[asked], culprit[asked])

    def fnir(self, threshold: float, rank: int, weights: Weights) -> Drawn | Unmeasured:
        """FNIR(N, R, T): the share of searches for enrolled people whose own photograph is below the threshold or not among the first R.

        A tie counts against the mate. A failure to enrol, of the probe or of the person's enrolled photographs, is a miss. A person is
        drawn with probes and enrolled photographs; who else is enrolled, and stands before the mate, stays.
        """
        if not self.is_mated.any():
            return Unmeasured("no mated search")
        missed = self.is_mated & (~(self.mate >= least(threshold)) | (self.ranks > rank))
        errors, searched = (np.bincount(self.person[chosen], minlength=weights.shape[1]) for chosen in (missed, self.is_mated))
        return Drawn(int(missed.sum()), int(self.is_mated.sum()), weights @ errors, weights @ searched, bool(searched.max() == 1))

    def false_candidates(self, threshold: float, depth: int = DEPTH) -> float:
        """How many candidates a list of `depth` shows on average in a search for somebody who is not enrolled."""
        return float(np.mean(np.sum(self.others[~self.is_mated, :depth] >= least(threshold), axis=1)))

    @property
    def ranks(self) -> Ints:
        """The rank of each search's mate, from 1; DEPTH + 1 where it is not on the list."""
        ranks = 1 + np.sum(self.others >= self.mate[:, None], axis=1)
        return np.where(np.isfinite(self.mate), ranks, DEPTH + 1)

    def threshold_for(self, rate: float) -> float | None:
        """The lowest threshold with an FPIR of at most `rate`, to six digits; None where lists are too short to tell."""
        falling = np.sort(self.others[~self.is_mated, 0])[::-1]
        allowed = int(np.floor(rate * falling.size * (1 + 1e-12)))
        if allowed >= falling.size or not np.isfinite(falling[allowed]):
            return None
        return resampling.up(metrics.threshold_for(falling, rate * falling.size))

    def of(self, chosen: NDArray[np.bool_]) -> Searches:
        """The searches of some probes, in the same gallery."""
        return replace(
            self,
            probe=self.probe[chosen],
            person=self.person[chosen],
            is_mated=self.is_mated[chosen],
            mate=self.mate[chosen],
            others=self.others[chosen],
            culprit=self.culprit[chosen],
            next_other=self.next_other[chosen],
        )


def searches(scores: Scores) -> Searches | None:
    """The searches of a score file, None where nothing was searched for."""
    probed, enrolled = np.flatnonzero(~scores.enrolled), int(scores.enrolled.sum())
    if scores.cross is None and scores.candidates is None:
        return None
    gallery = scores.person[:enrolled]
    mate, next_other = (np.full(probed.size, -np.inf, np.float32) for _ in range(2))
    others = np.full((probed.size, DEPTH), -np.inf, np.float32)
    culprit = np.full(probed.size, NOBODY)
    for row, (references, found) in enumerate(_lists(scores, probed)):
        people = gallery[references]
        own = people == scores.person[probed[row]]
        mate[row] = found[own].max(initial=-np.inf)
        people, rest = people[~own], found[~own]
        best = np.sort(np.partition(rest, rest.size - DEPTH)[-DEPTH:] if rest.size > DEPTH else rest)[::-1]
        others[row, : best.size] = best
        if rest.size and np.isfinite(best[0]):
            culprit[row] = people[rest.argmax()]
            next_other[row] = rest[people != culprit[row]].max(initial=-np.inf)
    is_mated, size = np.isin(scores.person[probed], gallery), int(scores.template[:enrolled].sum())
    return Searches(probed, scores.person[probed], is_mated, mate, others, culprit, next_other, size)


def _lists(scores: Scores, probed: Ints) -> Iterator[tuple[Ints, Floats]]:
    """The enrolled photographs and their scores of each search."""
    if scores.cross is not None:
        everybody = np.arange(scores.cross.shape[1])
        yield from ((everybody, np.nan_to_num(row, nan=-np.inf, neginf=-np.inf)) for row in scores.cross)
        return
    assert scores.candidates is not None
    assert scores.candidate_scores is not None
    order = np.argsort(scores.candidates[:, 0], kind="stable")
    starts = np.searchsorted(scores.candidates[order, 0], [probed, probed + 1])
    for start, end in starts.T:
        rows = order[start:end]
        yield scores.candidates[rows, 1].astype(np.int64), scores.candidate_scores[rows]
