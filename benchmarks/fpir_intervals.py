"""How often does the interval of an FPIR hold the FPIR of other galleries? python benchmarks/fpir_intervals.py

Simulated searches for people who are not enrolled. Beside what ships stand Wilson's interval and a two-way clustered one, with the number
of independent searches that would scatter as much. Writes docs/evaluate.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from report import write
from scipy import stats

from aboveboard.evaluation import resampling
from aboveboard.evaluation.rates import wilson

RUNS, DRAWS = 200, 200
Culprits = NDArray[np.int64]


def searches(random: np.random.Generator, searched: int, enrolled: int, threshold: float, wolves: float, lambs: float) -> Culprits:
    """Who makes each search's error: a number of the gallery, nobody or several; people of the gallery (`wolves`) and those searched for
    (`lambs`) differ, with these standard deviations, in how much they resemble everybody."""
    alike = random.normal(0, wolves, enrolled)[None] + random.normal(0, lambs, searched)[:, None]
    hit = random.normal(size=(searched, enrolled)) + alike >= threshold
    return np.where(hit.sum(axis=1) > 1, resampling.SEVERAL, np.where(hit.any(axis=1), hit.argmax(axis=1), resampling.NOBODY))


def two_way(culprit: Culprits) -> tuple[float, float]:
    """Variance by searches plus that by people enrolled less that by pairs (Cameron, Gelbach and Miller, JBES 29, 2011), with Student's t
    of as many degrees of freedom as the enrolled people's errors allow (Satterthwaite)."""
    size, each = culprit.size, np.bincount(culprit[culprit >= 0], minlength=1).astype(np.float64)
    share = float(np.mean(culprit != resampling.NOBODY))
    ours, theirs = share * (1 - share) / size, float((each**2).sum() - each.sum()) / size**2
    degrees = max(2 * float((each**2).sum()) ** 2 / max(float((each**4).sum()), 1.0), 2.0)
    both = (ours + theirs) ** 2 / (ours**2 / (size - 1) + theirs**2 / degrees)
    wider = stats.t.ppf(0.975, both) / stats.norm.ppf(0.975)
    trials = min(size, share * (1 - share) / ((ours + theirs) * wider**2))
    return wilson(share * trials, trials)


def shipped(culprit: Culprits, enrolled: int) -> tuple[float, float]:
    """As `evaluate` has it."""
    weights = resampling.draw(culprit.size + enrolled, DRAWS, 1)
    rate = resampling.searched(weights, np.arange(culprit.size), np.where(culprit >= 0, culprit + culprit.size, culprit)).rate
    return rate.low, rate.high


def main() -> None:
    random, rows = np.random.default_rng(0), []
    for kind, searched, enrolled, threshold, wolves, lambs in (
        ("nobody resembles many", 300, 500, 3.9, 0.0, 0.0),
        ("nobody resembles many", 300, 500, 3.3, 0.0, 0.0),
        ("some of the gallery do", 300, 500, 5.2, 0.8, 0.0),
        ("some of the gallery do", 300, 500, 4.2, 0.8, 0.0),
        ("some of the gallery do", 1000, 300, 5.0, 0.8, 0.0),
        ("some of both do", 300, 500, 5.6, 0.8, 0.5),
        ("some of both do", 264, 2000, 5.2, 0.8, 0.5),
        ("some of both do, much", 300, 500, 5.0, 1.2, 0.3),
    ):
        setting = (random, searched, enrolled, threshold, wolves, lambs)
        true = float(np.mean([np.mean(searches(*setting) != resampling.NOBODY) for _ in range(RUNS)]))
        found = [one for one in (searches(*setting) for _ in range(RUNS)) if (one != resampling.NOBODY).any()]
        ends = [[wilson(int((one != resampling.NOBODY).sum()), searched), two_way(one), shipped(one, enrolled)] for one in found]
        low, high = np.moveaxis(np.array(ends), 2, 0)
        held, width = ((low <= true) & (true <= high)).mean(axis=0), np.median((high - low) / (high - low)[:, :1], axis=0)
        shown = [f"{100 * held[i]:.0f} %, {width[i]:.1f}" for i in (0, 1, 2)]
        rows.append([kind, f"{searched:,}", f"{enrolled:,}", f"{100 * true:.1f} %", *shown])
    write(
        "fpir-intervals",
        ["people", "searched for", "enrolled", "FPIR", "Wilson", "two-way clustered", "what `evaluate` says"],
        rows,
        f"How many of {RUNS} simulated intervals hold the mean FPIR of {RUNS} other galleries and other searches (aimed at: 95 %), and the "
        "median width, Wilson's being 1; runs without any error are left out.",
        "evaluate.md",
    )


if __name__ == "__main__":
    main()
