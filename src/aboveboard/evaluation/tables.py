"""The tables of an evaluation, computed from its score file alone.

No rate stands without its count, interval and threshold, and no FPIR without the FNIR beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from aboveboard.errors import BadRequest
from aboveboard.evaluation import resampling
from aboveboard.evaluation.disparity import figures
from aboveboard.evaluation.identification import DEPTH, Searches, searches
from aboveboard.evaluation.rates import Found, Rate, Unmeasured, found
from aboveboard.evaluation.resampling import Drawn, Weights, rate_of
from aboveboard.evaluation.scores import Scores, least
from aboveboard.evaluation.verification import Comparisons, Verification, groups, verification

Row = dict[str, Any]
Tables = dict[str, list[Row]]
Drawns = tuple[Sequence[Drawn | Unmeasured], Sequence[Drawn | Unmeasured]]
"""Of one group: the rate of false matches and that of misses at each threshold."""
DRAWS, SEED = 1000, 0
FMRS = ("1e-2", "1e-3", "1e-4", "1e-5", "1e-6")
FPIRS = ("0.1", "0.03", "0.01", "0.003", "0.001")
RANKS = (1, 5, 10, 20, DEPTH)
MOST_GROUPS, LOOK_AT, BINS = 30, 60, 100
INVALID = "threshold unknown"
SCORES, RUN = "scores.npz", "run.json"


def tables(scores: Scores, draws: int = DRAWS, seed: int = SEED) -> Tables:
    """Every table by name, as rows of plain values; the same score file, `draws` and `seed` give the same rows.

    Raises BadRequest where the score file has neither a non-mated nor a mated comparison.
    """
    weights = resampling.draw(scores.people.size, draws, seed)
    named = {name: score for name, score in scores.named.items() if score >= scores.lowest}
    compared, searched = verification(scores, list(named.values())), searches(scores)
    made: Tables = {"failures": list(_failures(scores))}
    if compared is not None:
        points = _points(compared, named)
        at = list(points.values())
        made["verification"] = list(_verification(points, compared.whole.fmr(at, weights), compared.whole.fnmr(at, weights)))
        made["det"] = list(_det(compared, weights))
        made["histogram"] = list(_histogram(compared))
        made["highest_non_mated"] = list(_highest(scores, compared.whole))
        made |= _verification_by_group(compared, points, weights)
    if searched is not None:
        reported = _fpirs(searched, named)
        made["identification"] = list(_identification(searched, reported, scores.lowest, weights))
        made["cmc"] = list(_cmc(searched, scores.lowest, weights))
        made |= _identification_by_group(scores, searched, reported, weights)
    if not scores.is_valid:
        made = {name: [{**row, "invalid": INVALID} for row in rows] for name, rows in made.items()}
    if len(made) == 1:
        raise BadRequest("the score file holds no comparison; write a new one with: aboveboard evaluate MANIFEST --out DIR")
    return made


def _points(compared: Verification, named: Mapping[str, float]) -> dict[str, float]:
    """Where verification is reported: thresholds with a name, and those set for an FMR, from the lowest up."""
    return _rising({f"FMR {name}": compared.threshold_for(float(name)) for name in FMRS}, named)


def _rising(rates: Mapping[str, float | None], named: Mapping[str, float]) -> dict[str, float]:
    """Thresholds set for rates, of equal ones (too few trials to tell the rates apart) the first, and those with a name; rising."""
    points: dict[str, float] = {}
    for name, threshold in rates.items():
        if threshold is not None and threshold not in points.values():
            points[name] = threshold
    points |= {f"similarity {name}": score for name, score in named.items()}
    return dict(sorted(points.items(), key=lambda point: point[1]))


def _verification(
    points: Mapping[str, float], fmrs: Iterable[Drawn | Unmeasured], fnmrs: Iterable[Drawn | Unmeasured], **beside: Any
) -> Iterator[Row]:
    for (name, threshold), fmr, fnmr in zip(points.items(), fmrs, fnmrs, strict=True):
        missed = rate_of(fnmr)
        tar = _short(1 - missed.value) if isinstance(missed, Rate) else None
        yield {
            **beside,
            "set_for": name,
            "threshold": _threshold(threshold),
            **_cells("fmr", rate_of(fmr)),
            **_cells("fnmr", missed),
            "tar": tar,
        }


def _det(compared: Verification, weights: Weights) -> Iterator[Row]:
    """FMR against FNMR, ten points a decade from FMR 0.1 down to a single false match."""
    if not compared.rising.size:
        return
    steps = np.arange(10, int(10 * np.log10(compared.rising.size)) + 1)
    wanted = [compared.threshold_for(float(10 ** (-step / 10))) for step in steps]
    at = sorted({threshold for threshold in wanted if threshold is not None and threshold >= compared.whole.floor})
    for threshold, fmr, fnmr in zip(at, compared.whole.fmr(at, weights), compared.whole.fnmr(at, weights), strict=True):
        yield {"threshold": _threshold(threshold), **_cells("fmr", rate_of(fmr)), **_cells("fnmr", rate_of(fnmr))}


def _histogram(compared: Verification) -> Iterator[Row]:
    """How many comparisons score from `low` to below `high`; withheld scores are in none."""
    mated = compared.whole.mated[np.isfinite(compared.whole.mated)]
    others = compared.rising[np.searchsorted(compared.rising, least(-np.inf)) :]
    both = [values for values in (mated, others) if values.size]
    if not both:
        return
    edges = np.linspace(min(values.min() for values in both), max(values.max() for values in both), BINS + 1)
    counted = zip(edges[:-1], edges[1:], np.histogram(mated, edges)[0], np.histogram(others, edges)[0], strict=True)
    for low, high, is_mated, non_mated in counted:
        yield {"low": round(float(low), 6), "high": round(float(high), 6), "mated": int(is_mated), "non_mated": int(non_mated)}


def _highest(scores: Scores, compared: Comparisons) -> Iterator[Row]:
    """The non-mated comparisons where label errors show first: a person has to look at them."""
    shown = compared.tail[:LOOK_AT][np.isfinite(compared.tail[:LOOK_AT])]
    for score, (first, second) in zip(shown, compared.tail_pairs[: shown.size], strict=True):
        yield {"score": round(float(score), 6), "first": str(scores.photograph[first]), "second": str(scores.photograph[second])}


def _verification_by_group(compared: Verification, points: Mapping[str, float], weights: Weights) -> Tables:
    """Every pair of groups; and how far the groups lie apart, by the pairs within each."""
    rows: list[Row] = []
    apart: list[Row] = []
    at = list(points.values())
    for column, names in _few(groups(compared.scores)):
        within: dict[str, Drawns] = {}
        for i, one in enumerate(names):
            for other in names[i:]:
                chosen = compared.group(column, one, other)
                if chosen.size or chosen.mated.size:
                    drawn = chosen.fmr(at, weights), chosen.fnmr(at, weights)
                    rows += _verification(points, *drawn, column=column, group=one, other=other)
                    within |= {one: drawn} if one == other else {}
        apart += _apart(column, points, ("FMR", "FNMR"), within)
    return {"verification_by_group": rows, "verification_disparity": apart}


def _apart(column: str, points: Mapping[str, float], names: tuple[str, str], groups: Mapping[str, Drawns]) -> Iterator[Row]:
    """How far the groups of a column lie apart in both rates, at each threshold."""
    for k, (point, threshold) in enumerate(points.items()):
        false, missed = ({group: each for group, both in groups.items() if isinstance(each := both[side][k], Drawn)} for side in (0, 1))
        for one in figures((names[0], false), (names[1], missed)):
            yield {
                "column": column,
                "set_for": point,
                "threshold": _threshold(threshold),
                "rate": one.compared.of,
                "figure": one.name,
                **{end: None if (value := getattr(one, end)) is None else _short(value) for end in ("value", "low", "high")},
                "groups": one.compared.groups,
                "fewest_errors": one.compared.fewest,
                "highest": one.compared.highest,
                "lowest": one.compared.lowest,
                "without_errors": ", ".join(one.compared.flagged),
                "standing": one.compared.standing,
            }


def _fpirs(searched: Searches, named: Mapping[str, float]) -> dict[str, float]:
    """Where identification is reported: thresholds set for an FPIR (NIST's identification mode), and those with a name."""
    return _rising({f"FPIR {name}": searched.threshold_for(float(name)) for name in FPIRS} if not searched.is_mated.all() else {}, named)


def _identification(searched: Searches, at: Mapping[str, float], lowest: float, weights: Weights) -> Iterator[Row]:
    """Investigation (no threshold, by rank), then identification (by threshold, candidates of the whole list)."""
    for rank in RANKS:
        yield {"mode": "investigation", "set_for": f"rank {rank}", **_searched(searched, lowest, rank, weights)}
    for name, threshold in at.items():
        yield {"mode": "identification", "set_for": name, **_searched(searched, threshold, DEPTH, weights)}


def _searched(searched: Searches, threshold: float, rank: int, weights: Weights) -> Row:
    some = not searched.is_mated.all()
    return {
        "threshold": _threshold(threshold),
        "rank": rank,
        "gallery": searched.size,
        **_cells("fpir", rate_of(searched.fpir(threshold, weights))),
        **_cells("fnir", rate_of(searched.fnir(threshold, rank, weights))),
        "false_candidates": _short(searched.false_candidates(threshold, rank)) if some else None,
    }


def _cmc(searched: Searches, lowest: float, weights: Weights) -> Iterator[Row]:
    """TPIR, the share of mated searches whose mate is among the first R candidates, by R, without a threshold where that was allowed."""
    fpir = rate_of(searched.fpir(lowest, weights))
    for rank in range(1, DEPTH + 1):
        miss = rate_of(searched.fnir(lowest, rank, weights))
        tpir = round(1 - miss.value, 6) if isinstance(miss, Rate) else None
        yield {
            "rank": rank,
            "threshold": _threshold(lowest),
            "tpir": tpir,
            **_cells("fnir", miss),
            **_cells("fpir", fpir),
            "gallery": searched.size,
        }


def _identification_by_group(scores: Scores, searched: Searches, at: Mapping[str, float], weights: Weights) -> Tables:
    """The same rates for the searches of each group, in the same gallery; and how far the groups lie apart."""
    rows: list[Row] = []
    apart: list[Row] = []
    for column, names in _few(groups(scores)):
        by_name: dict[str, Drawns] = {}
        for name in names:
            chosen = searched.of(scores.labels[column][searched.probe] == name)
            if chosen.probe.size:
                rows += ({"column": column, "group": name, **row} for row in _identification(chosen, at, scores.lowest, weights))
                thresholds = at.values()
                by_name[name] = [chosen.fpir(one, weights) for one in thresholds], [chosen.fnir(one, DEPTH, weights) for one in thresholds]
        apart += _apart(column, at, ("FPIR", "FNIR"), by_name)
    return {"identification_by_group": rows, "identification_disparity": apart}


def _failures(scores: Scores) -> Iterator[Row]:
    """Failures to enrol: of each role, and of each group. They are misses in every FNMR and FNIR above."""
    for role, chosen in (("enrolled", scores.enrolled), ("probed", ~scores.enrolled)):
        if chosen.any():
            yield {"role": role, "column": "", "group": "", **_cells("failure_to_enrol", _failed(scores, chosen))}
            for column, names in _few(groups(scores)):
                for name in names:
                    group = chosen & (scores.labels[column] == name)
                    if group.any():
                        yield {"role": role, "column": column, "group": name, **_cells("failure_to_enrol", _failed(scores, group))}


def _failed(scores: Scores, chosen: Any) -> Found:
    return found(int((~scores.template[chosen]).sum()), int(chosen.sum()))


def _few(known: Mapping[str, list[str]]) -> Iterable[tuple[str, list[str]]]:
    """The label columns that make groups: two to `MOST_GROUPS` different values."""
    return ((column, names) for column, names in known.items() if 1 < len(names) <= MOST_GROUPS)


def left_out(scores: Scores) -> dict[str, int]:
    """The label columns that make no groups, with their number of different values."""
    return {column: len(names) for column, names in groups(scores).items() if not 1 < len(names) <= MOST_GROUPS}


def _cells(name: str, rate: Found) -> Row:
    """A rate as cells: the share, errors, trials, 95 % interval, how that was made; under 30 errors it is `insufficient`."""
    if not isinstance(rate, Rate):
        empty = dict.fromkeys(f"{name}{end}" for end in ("", "_errors", "_trials", "_low", "_high"))
        return {**empty, f"{name}_interval": rate.reason}
    return {
        name: _short(rate.value),
        f"{name}_errors": rate.errors,
        f"{name}_trials": rate.trials,
        f"{name}_low": _short(rate.low),
        f"{name}_high": _short(rate.high),
        f"{name}_interval": rate.method + (", insufficient" if rate.is_insufficient else ""),
    }


def _threshold(value: float) -> float | None:
    """A threshold in a table; None where there is none."""
    return None if value == -np.inf else round(value, 6)


def _short(value: float) -> float:
    return float(f"{value:.6g}")
