"""Open-set identification from a score file: FPIR and FNIR by threshold and rank, as NIST's FRTE 1:N counts them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from aboveboard.evaluation import metrics, resampling
from aboveboard.evaluation.rates import Found, Rate, Unmeasured
from aboveboard.evaluation.resampling import Weights
from aboveboard.evaluation.scores import Floats, Scores, least

DEPTH = 50
"""How long a list is in NIST's investigation mode."""
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Searches:
    """One search for each probed photograph in a gallery of `size` photographs.

    `is_mated` says whether the person is enrolled; `mate` is the best score of the person's own enrolled photographs, `others`
    (p, DEPTH) those of the best other photographs, highest first. -inf where there is none, also after a failure to enrol.
    """

    probe: Ints
    person: Ints
    is_mated: NDArray[np.bool_]
    mate: Floats
    others: Floats
    size: int

    def fpir(self, threshold: float, weights: Weights) -> Found:
        """The share of searches for people who are not enrolled that bring up a candidate; a failure to enrol brings up none."""
        return self._rate(self.others[:, 0] >= least(threshold), ~self.is_mated, weights, "no non-mated search")

    def fnir(self, threshold: float, rank: int, weights: Weights) -> Found:
        """FNIR(N, R, T): the share of searches for enrolled people whose own photograph is below the threshold or not among the first R.

        A tie counts against the mate. A failure to enrol, of the probe or of the person's enrolled photographs, is a miss.
        """
        return self._rate(~(self.mate >= least(threshold)) | (self.ranks > rank), self.is_mated, weights, "no mated search")

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
        )

    def _rate(self, errors: NDArray[np.bool_], asked: NDArray[np.bool_], weights: Weights, reason: str) -> Found:
        """Wilson's interval where each person is searched for once, else people are resampled; the gallery is what it is.

        Resampling the gallery too would leave out a third of it in each draw and make every FPIR look better.
        """
        person, persons = self.person[asked], weights.shape[1]
        if not person.size:
            return Unmeasured(reason)
        count, searches = int(errors[asked].sum()), np.bincount(person, minlength=persons)
        if searches.max() == 1:
            return Rate.of(count, person.size)
        drawn = weights @ np.bincount(self.person[asked & errors], minlength=persons)
        return resampling.rate(count, person.size, drawn, weights @ searches)


def searches(scores: Scores) -> Searches | None:
    """The searches of a score file, None where nothing was searched for."""
    probed, enrolled = np.flatnonzero(~scores.enrolled), int(scores.enrolled.sum())
    if scores.cross is None and scores.candidates is None:
        return None
    gallery = scores.person[:enrolled]
    mate = np.full(probed.size, -np.inf, np.float32)
    others = np.full((probed.size, DEPTH), -np.inf, np.float32)
    for row, (references, found) in enumerate(_lists(scores, probed)):
        own = gallery[references] == scores.person[probed[row]]
        mate[row] = found[own].max(initial=-np.inf)
        rest = found[~own]
        best = np.sort(np.partition(rest, rest.size - DEPTH)[-DEPTH:] if rest.size > DEPTH else rest)[::-1]
        others[row, : best.size] = best
    return Searches(
        probed, scores.person[probed], np.isin(scores.person[probed], gallery), mate, others, int(scores.template[:enrolled].sum())
    )


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
