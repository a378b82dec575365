"""Make a calibration out of comparisons: curve, tail fit, intervals, likelihood ratios, with where all of it comes from.

The functions here return documents ready for JSON.
"""

from __future__ import annotations

import datetime
import hashlib
import math
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from aboveboard.biometrics.calibration import ANCHORS, fmr_at
from aboveboard.errors import BadRequest
from aboveboard.evaluation import likelihood, metrics
from aboveboard.evaluation.metrics import Counts, Pairs, Resampling, Scores, Tail
from aboveboard.evaluation.protocol import NO_ERRATA, Errata, Sample, content_hash, correct, read_folder
from aboveboard.evaluation.rates import RULE_OF_30, measured_limit
from aboveboard.evaluation.resampling import up
from aboveboard.evaluation.run import RATES, ROUND, Progress, compare, short, templates_of
from aboveboard.vision.packs import Models

TAIL_SHARES = (1e-2, 5e-3, 2e-3, 1e-3, 5e-4, 2e-4, 1e-4)
LEAST_EXCEEDANCES, MANY_EXCEEDANCES = 50, 1000
NOTIONAL_END = 0.99
DRIFT = 1.5
"""By how much the interval of a tail fit is widened, at both ends, with each decade beyond what was counted: what it took to hold what was
found one decade on, among others (docs/how-good.md, "Beyond what was counted")."""


def calibrate(
    folder: Path,
    models: Models,
    errata: Errata = NO_ERRATA,
    data_set: str = "",
    date: datetime.date | None = None,
    identifier: str = "",
    progress: Progress | None = None,
    draws: int = 1000,
    seed: int = 0,
    check: Path | None = None,
) -> dict[str, Any]:
    """The calibration of a pack from a folder of person/photograph, as `biometrics.calibration.Calibration.from_json` reads it.

    `check`: a folder of other people, among whom the promise is held against what is found; the intervals are widened to hold that too.
    `data_set` is the name it goes by (default: the folder's), `identifier` digits (default: the date's). The same photographs,
    pack, errata, `draws` and `seed` give the same numbers. Raises BadRequest where the photographs are too few, or the people no others.
    """
    samples, day = read_folder(folder), date or datetime.datetime.now(datetime.UTC).date()
    others = read_folder(check) if check else []
    _check_others(samples, others, errata)
    steps = len(samples) + draws + len(others)

    def tell(done: int, _: int) -> None:
        if progress:
            progress(done, steps)

    templates = templates_of(samples, models, progress=tell)
    as_is, comparison = compare(templates).pairs, compare(templates, errata)
    pairs = comparison.pairs
    found = calibration_of(pairs, draws, seed, lambda done, _: tell(len(samples) + done, steps))
    if check:
        made = templates_of(others, models, progress=lambda done, _: tell(len(samples) + draws + done, steps))
        _widen(found, compare(made, errata, needs_mated=False).pairs, draws, seed)
        found["checked"] |= {"data_set": check.name, "data_sha256": content_hash(others)}
    return {
        "id": identifier or f"{day:%Y%m%d}",
        "model_version": models.card.model_version,
        **found,
        "curve_as_is": [{"score": up(score), "fmr": short(rate)} for rate, score in _measured(as_is, measured_limit(as_is.non_mated_size))],
        "data_set": data_set or folder.name,
        "data_sha256": content_hash(samples),
        "errata": {"sha256": errata.sha256, **comparison.corrections},
        "subjects": int(np.count_nonzero(pairs.sizes)),
        "photographs": len(samples) - comparison.corrections["dropped"],
        "failures_to_enrol": len(templates.failures_to_enrol),
        "mated": pairs.mated_size,
        "mated_subjects": int(np.count_nonzero(pairs.mated_of_person)),
        "non_mated": pairs.non_mated_size,
        "date": f"{day}",
        "draws": draws,
        "seed": seed,
        "pack": {"id": models.card.id, "files": {part.file: part.sha256 for part in models.card.files}},
        "libraries": {name: metadata.version(name) for name in ("numpy", "scipy", "onnxruntime", "opencv-python-headless")},
    }


def calibration_of(pairs: Pairs, draws: int = 1000, seed: int = 0, progress: Progress | None = None) -> dict[str, Any]:
    """The numbers of a calibration: curve, misses, measured limit, tail fit and anchors, each with its 95 % interval.

    Up to the measured limit (30 errors) the curve is what was counted, beyond it the tail fit. `low` and `high` of a point bound
    the FMR at its score.
    """
    return calibration_from(Resampling.of(pairs, draws, seed), pairs.non_mated_size, progress)


def calibration_from(resampling: Resampling, comparisons: int, progress: Progress | None = None) -> dict[str, Any]:
    """The same where people are drawn in a way of their own; `comparisons`: how many non-mated pairs there are, each counted once."""
    pairs, limit = resampling.pairs, measured_limit(comparisons)
    if pairs.threshold_for(limit) > NOTIONAL_END - 0.01:
        raise BadRequest(
            "the highest non-mated scores are those of identical photographs: some people stand under two names. Look at the pairs "
            "that aboveboard evaluate verification lists, and write errata"
        )
    fits = _fits(pairs, limit)
    refits = _refits(resampling, fits, progress)
    chosen, plateau = _choose(fits, refits)
    tail = fits[chosen]
    # Which tail to believe is itself uncertain: the draws of every tail of the plateau count alike.
    believed = [fit for draw in refits for fit in draw[plateau.start :] if fit]
    measured = _measured(pairs, limit)
    beyond = _beyond(tail, limit, measured[-1][1])
    intervals = _intervals(resampling, [score for _, score in measured])
    curve = [
        {"score": up(score), "fmr": short(rate), "low": short(low * rate), "high": short(high * rate), "origin": "measured"}
        for (rate, score), (low, high) in zip(measured, intervals, strict=True)
    ] + [
        {
            "score": round(score, ROUND),
            "fmr": short(rate),
            **_bounds_at(score, believed, DRIFT ** math.log10(limit / rate)),
            "origin": "tail",
        }
        for rate, score in beyond
    ]
    return {
        "measured_limit": limit,
        "curve": curve,
        "misses": _misses(pairs),
        "ratios": ratios_document(pairs.mated, pairs.counts, comparisons, resampling.binned()),
        "anchors": _anchors(pairs, curve, resampling, believed, limit),
        "tail": {
            "family": "generalised Pareto",
            "floor": round(tail.floor, ROUND),
            "share": short(tail.share),
            "exceedances": tail.exceedances,
            "shape": round(tail.shape, 4),
            "shape_interval": [round(end, 4) for end in metrics.interval(np.array([fit.shape for fit in believed]))],
            "scale": round(tail.scale, ROUND),
            "choice": (
                "the most cautious (highest score at similarity 99) of the tails on the plateau: those from the longest on whose score "
                "at 99 differs from every shorter one's by no more than resampling people explains; intervals pool the whole plateau"
            ),
            "tried": [
                {
                    "share": short(fit.share),
                    "shape": round(fit.shape, 4),
                    "score_99": round(fit.score_at(fmr_at(99)), ROUND),
                    "on_plateau": i in plateau,
                }
                for i, fit in enumerate(fits)
            ],
        },
    }


def _check_others(samples: Sequence[Sample], others: Sequence[Sample], errata: Errata) -> None:
    """Raise BadRequest where people or photographs that a promise is held against are among those that it is made from."""
    people, checked = ({sample.subject for sample in correct(list(some), errata)[0]} for some in (samples, others))
    seen, again = (
        {hashlib.sha256(sample.path.read_bytes()).digest() for sample in some} if others else set() for some in (samples, others)
    )
    if shared := sorted(people & checked):
        raise BadRequest(f"--check takes other people, but {shared[0]} ({len(shared):,} in all) is among those that are calibrated on")
    if seen & again:
        raise BadRequest(f"--check takes other people, but {len(seen & again):,} of its photographs are among those that are calibrated on")


def _widen(document: dict[str, Any], others: Pairs, draws: int, seed: int) -> None:
    """Hold the promise against what is found among other people, and widen each interval of the FMR by the farthest ratio found.

    Resampling people says how far another draw of the same kind of people may differ; people of another kind differ more.
    """
    at = {point["fmr"]: point["score"] for point in document["curve"]}
    rates = [rate for rate in (1e-2, *RATES.values()) if rate in at and others.errors_at(at[rate]) >= RULE_OF_30]
    bounds = [metrics.interval(column) for column in Resampling.of(others, draws, seed).fmr_at([at[rate] for rate in rates]).T]
    ratios = [others.fmr_at(at[rate]) / rate for rate in rates]
    lowest, highest = min([1.0, *ratios]), max([1.0, *ratios])
    for point in document["curve"]:
        point["low"], point["high"] = short(point["low"] * lowest), short(min(point["high"] * highest, 1.0))
    # Who scores so many times as often as two people does so as many times less surely as one.
    most = document["ratios"]["points"][-1]["log10_lr"]
    for point in document["ratios"]["points"]:
        point["log10_low"] = round(point["log10_low"] - math.log10(highest), 4)
        point["log10_high"] = min(round(point["log10_high"] - math.log10(lowest), 4), most)
    document["checked"] = {
        "subjects": int(np.count_nonzero(others.sizes)),
        "non_mated": others.non_mated_size,
        "rates": [
            {"promised": rate, "found_to_promised": short(ratio), "low": short(low / rate), "high": short(high / rate)}
            for rate, ratio, (low, high) in zip(rates, ratios, bounds, strict=True)
        ],
        "widened": [short(lowest), short(highest)],
    }


def _fits(pairs: Pairs, limit: float) -> list[Tail]:
    """The tail fitted from each share of `TAIL_SHARES`, longest first, where it has enough scores and begins before the limit."""
    fits = []
    for share in TAIL_SHARES:
        size = math.floor(share * pairs.non_mated_size)
        if share > limit and LEAST_EXCEEDANCES <= size < pairs.tail.size:
            fits.append(metrics.fit_tail(pairs.tail[: size + 1], size / pairs.non_mated_size))
    if not fits:
        raise BadRequest(
            f"{pairs.non_mated_size} non-mated comparisons are too few to calibrate; {math.ceil(LEAST_EXCEEDANCES / TAIL_SHARES[0])} "
            "or more are needed: add people"
        )
    return fits


def _refits(resampling: Resampling, fits: Sequence[Tail], progress: Progress | None) -> list[list[Tail | None]]:
    """Every tail fitted again in every draw, above the same floor; None where a draw left nothing to fit."""
    refits, draws = [], len(resampling.weights)
    each = zip(resampling.tail_weights(fits[0].exceedances + 1), resampling.totals()[0], strict=True)
    for done, (weight, total) in enumerate(each, start=1):
        refits.append([_refit(resampling.pairs.tail, fit, weight, total) for fit in fits])
        if progress:
            progress(done, draws)
    return refits


def _refit(falling: Scores, fit: Tail, weight: Scores, total: float) -> Tail | None:
    size = fit.exceedances + 1
    share = float(weight[: size - 1].sum()) / total
    drawn = np.flatnonzero(weight[: size - 1])
    if drawn.size < 2 or falling[drawn[0]] == falling[size - 1]:
        return None
    rows = np.append(drawn, size - 1)
    return metrics.fit_tail(falling[rows], share, weight[rows])


def _choose(fits: Sequence[Tail], refits: Sequence[Sequence[Tail | None]]) -> tuple[int, range]:
    """The stability check: which tail to use, and the plateau of tails it stands for, as indices.

    The plateau begins with the longest tail whose score at similarity 99 differs from that of every shorter one by no more than
    resampling people explains (paired differences, 95 %). Of the plateau the most cautious tail is used, the one with the highest
    score at 99, among those of `MANY_EXCEEDANCES`; a small set has none of these, then the longest.
    """
    target = fmr_at(99)
    complete = [draw for draw in refits if all(draw)]
    scores = np.array([[fit.score_at(target) for fit in draw if fit] for draw in complete]).reshape(len(complete), len(fits))
    first = len(fits) - 1
    for i in range(len(fits) - 1):
        differences = [metrics.interval(scores[:, i] - scores[:, j]) for j in range(i + 1, len(fits))] if complete else []
        if differences and all(low <= 0 <= high for low, high in differences):
            first = i
            break
    plateau = range(first, len(fits))
    many = [i for i in plateau if fits[i].exceedances >= MANY_EXCEEDANCES]
    return max(many, key=lambda i: fits[i].score_at(target), default=first), plateau


def _measured(pairs: Pairs, limit: float) -> list[tuple[float, float]]:
    """(FMR, score) from FMR 0.5 down to the measured limit, ten a decade and the anchors, scores strictly rising."""
    steps = [10 ** (-step / 10) for step in range(4, 121)]
    wanted = sorted({0.5, *steps, limit, *(rate for _, rate in ANCHORS)}, reverse=True)
    return _rising((rate, pairs.threshold_for(rate)) for rate in wanted if rate >= limit)


def _beyond(tail: Tail, limit: float, reached: float) -> list[tuple[float, float]]:
    """(FMR, score) of the tail fit from the measured limit to the scale's end, four a decade.

    A tail that would not end below `NOTIONAL_END` is cut there, so that an identical photograph (score 1) still gets 100.
    """
    end = ANCHORS[-1][1]
    steps = [10 ** (-step / 4) for step in range(2, 48)]
    wanted = sorted({*steps, *(rate for _, rate in ANCHORS)}, reverse=True)
    points = [(rate, tail.score_at(rate)) for rate in wanted if end <= rate < limit]
    points = [(rate, score) for rate, score in points if reached < score < NOTIONAL_END or rate == end]
    last = points[-1][1]
    top = min(max(last, reached + 0.01), NOTIONAL_END)
    # The end always stays: points that a bounded tail crowds against it go instead.
    return [*_rising(point for point in points[:-1] if round(point[1], ROUND) < up(top) - 10**-ROUND), (end, top)]


def _rising(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points whose score rises by at least a unit of the last digit kept."""
    kept: list[tuple[float, float]] = []
    for rate, score in points:
        if not kept or round(score, ROUND) > up(kept[-1][1]):
            kept.append((rate, score))
    return kept


def _intervals(resampling: Resampling, scores: Sequence[float]) -> list[tuple[float, float]]:
    """Relative 95 % bounds of the FMR at each score. Below the kept tail those of its first point stand: rarer errors vary more."""
    pairs = resampling.pairs
    kept = [score for score in scores if pairs.errors_at(score) < pairs.tail.size]
    found = [pairs.fmr_at(score) for score in kept]
    bounds = [metrics.interval(draws / rate) for draws, rate in zip(resampling.fmr_at(kept).T, found, strict=True)]
    return [bounds[0]] * (len(scores) - len(kept)) + bounds


def _bounds_at(score: float, fits: Sequence[Tail], wider: float) -> dict[str, float]:
    low, high = metrics.interval(np.array([fit.fmr_at(score) for fit in fits]))
    return {"low": short(low / wider), "high": short(min(high * wider, 1.0))}


def _misses(pairs: Pairs) -> list[dict[str, float]]:
    """(score, fnmr) every hundredth from -1 to 1."""
    return [{"score": step / 100, "fnmr": round(1 - pairs.tar_at(step / 100), ROUND)} for step in range(-100, 101)]


def ratios_document(mated: Scores, counts: Counts, comparisons: int, draws: Iterable[tuple[Scores, Scores]]) -> dict[str, Any]:
    """Likelihood ratios from mated scores (m,) and non-mated `counts` as in `Pairs`: the ends of the steps that PAV makes of them.

    None is above n / 30 of n non-mated (`comparisons` where some were counted twice) or below 30 / m of m mated comparisons. If ratios
    mean what they say, at most one non-mated comparison in x has x or more: beyond n / 30 fewer than 30 could ever show that it has
    (rule of 30). `draws`, as of `Resampling.binned`, give each its percentile interval (95 %); beside it stand the pairs of its step.
    """
    is_mated = metrics.binned(mated)
    used = (is_mated + counts) > 0
    most, least = (comparisons or counts.sum()) / RULE_OF_30, min(RULE_OF_30 / max(mated.size, 1), 1.0)
    scores = metrics.CENTRES[used]
    made = likelihood.ratios_of_counts(scores, is_mated[used].astype(np.float64), counts[used].astype(np.float64))
    llr = np.round(made.bounded(least, max(most, 1.0)).llr / math.log(10), 4)
    # What lies inside a step says nothing that its ends do not say.
    ends = np.flatnonzero(np.diff(llr, prepend=np.inf) + np.diff(llr, append=np.inf))
    drawn = np.stack([_drawn_ratios(scores[ends], *draw, least, max(most, 1.0)) for draw in draws]) / math.log(10)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    low, high = np.round(np.minimum(low, llr[ends]), 4), np.round(np.maximum(high, llr[ends]), 4)
    step = np.cumsum(np.diff(llr, prepend=llr[0]) != 0)
    once = comparisons / counts.sum() if comparisons else 1.0
    pairs = np.bincount(step, is_mated[used])[step], np.round(np.bincount(step, counts[used])[step] * once)
    return {
        "method": "PAV over all comparisons, one of each kind added beyond both ends; bounded by the rule of 30; 95 % percentile "
        "intervals by drawing people; mated and non_mated: the pairs of the step",
        "points": [
            {"score": round(float(scores[i]), ROUND), "log10_lr": float(llr[i]), "log10_low": float(low[n]), "log10_high": float(high[n])}
            | {"mated": int(pairs[0][i]), "non_mated": int(pairs[1][i])}
            for n, i in enumerate(ends)
        ],
    }


def _drawn_ratios(asked: Scores, is_mated: Scores, counts: Scores, least: float, most: float) -> Scores:
    """The log likelihood ratios (n,) that a draw gives at the scores (n,)."""
    used = (is_mated + counts) > 0
    return likelihood.ratios_of_counts(metrics.CENTRES[used], is_mated[used], counts[used]).bounded(least, most).at(asked)


def _anchors(
    pairs: Pairs, curve: Sequence[dict[str, Any]], resampling: Resampling, fits: Sequence[Tail], limit: float
) -> list[dict[str, Any]]:
    """The score of each anchor and of similarity 95, with its interval (null where only counts were kept), and the TAR there."""
    rising, log_fmr = [point["score"] for point in curve], [math.log10(point["fmr"]) for point in curve]
    anchors = []
    for similarity in sorted({95.0, *(similarity for similarity, _ in ANCHORS)}):
        rate = fmr_at(similarity)
        score = float(np.interp(-math.log10(rate), [-value for value in log_fmr], rising))
        extrapolated = [fit.score_at(rate) for fit in fits if rate < limit]
        draws = np.array(extrapolated) if extrapolated else resampling.thresholds(rate)
        low, high = (round(end, ROUND) for end in metrics.interval(draws))
        anchors.append(
            {
                "similarity": similarity,
                "fmr": short(rate),
                "score": round(score, ROUND),
                "score_interval": [low, high] if low < high else None,
                "tar": round(pairs.tar_at(score), ROUND),
                "origin": "measured" if rate >= limit else "tail",
            }
        )
    return anchors
