"""Every rate of a score file is what counting pair by pair and list by list says; its intervals are those of people drawn one by one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from aboveboard.errors import BadRequest
from aboveboard.evaluation import resampling, tables
from aboveboard.evaluation import scores as score_files
from aboveboard.evaluation.identification import DEPTH, searches
from aboveboard.evaluation.rates import Rate
from aboveboard.evaluation.scores import FORMAT, Scores
from aboveboard.evaluation.verification import Verification, verification

ABOUT = {"format": FORMAT, "scale": "any", "named": {"80": 0.2}, "threshold": {"asked": "none", "applied": "none"}}
AT = [-0.1, 0.2, 0.6]


def made(layout: str, n: int = 60, seed: int = 1) -> Scores:
    """Random scores of 60 photographs of 20 people in two groups; two photographs have no template."""
    rng = np.random.default_rng(seed)
    person, enrolled = rng.integers(0, 20, n), n // 2
    towards = rng.normal(size=(20, 6))
    features = towards[person] + rng.normal(size=(n, 6))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    template = ~np.isin(np.arange(n), [3, n - 4])
    features[~template] = np.nan
    whole = (features @ features.T).astype(np.float32)
    pairs = rng.permutation(np.stack(np.triu_indices(n, 1), axis=1))[:700].astype(np.int32)
    found: dict[str, Any] = {
        "all": {"all_pairs": whole[np.triu_indices(n, 1)]},
        "cross": {"cross": whole[enrolled:, :enrolled]},
        "pairs": {"pairs": pairs, "pair_scores": whole[pairs[:, 0], pairs[:, 1]]},
    }[layout]
    return Scores(
        photograph=np.array([f"{i}.png" for i in range(n)]),
        subject=np.array([f"person {i:02}" for i in person]),
        enrolled=np.arange(n) < enrolled,
        template=template,
        labels={"side": np.array(["left" if i % 3 else "right" for i in person])},
        about=ABOUT,
        **found,
    )


def compared(scores: Scores) -> Iterator[tuple[int, int, float]]:
    """Every comparison of a score file, one by one."""
    n, enrolled = scores.photograph.size, int(scores.enrolled.sum())
    if scores.pairs is not None and scores.pair_scores is not None:
        yield from ((int(i), int(j), float(score)) for (i, j), score in zip(scores.pairs, scores.pair_scores, strict=True))
    elif scores.cross is not None:
        yield from ((i + enrolled, j, float(scores.cross[i, j])) for i in range(n - enrolled) for j in range(enrolled))
    else:
        assert scores.all_pairs is not None
        yield from ((i, j, float(s)) for (i, j), s in zip(itertools.combinations(range(n), 2), scores.all_pairs, strict=True))


def whole(scores: Scores) -> Verification:
    found = verification(scores, AT)
    assert found is not None
    return found


@pytest.mark.parametrize("layout", ["all", "cross", "pairs"])
@pytest.mark.parametrize("groups", [None, ("left", "left"), ("left", "right"), ("right", "left")])
def test_verification_is_what_counting_pairs_says(layout: str, groups: tuple[str, str] | None) -> None:
    scores = made(layout)
    chosen = whole(scores).group("side", *groups) if groups else whole(scores).whole
    weights = resampling.draw(scores.people.size, 300, 4)
    label = scores.labels["side"]
    rows = [row for row in compared(scores) if not groups or {str(label[row[0]]), str(label[row[1]])} == set(groups)]
    person = scores.person
    mated = [(person[i], score) for i, j, score in rows if person[i] == person[j]]
    others = [(person[i], person[j], score) for i, j, score in rows if person[i] != person[j] and not np.isnan(score)]
    for threshold, fmr, fnmr in zip(AT, chosen.fmr(AT, weights), chosen.fnmr(AT, weights), strict=True):
        assert isinstance(fmr, Rate)
        reached = [(i, j) for i, j, score in others if score >= threshold]
        assert (fmr.errors, fmr.trials) == (len(reached), len(others))
        drawn = [sum(w[i] * w[j] for i, j in reached) / sum(w[i] * w[j] for i, j, _ in others) for w in weights]
        assert [fmr.low, fmr.high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]))
        if not mated:
            assert not isinstance(fnmr, Rate)
            continue
        assert isinstance(fnmr, Rate)
        missed = [i for i, score in mated if not score >= threshold]
        assert (fnmr.errors, fnmr.trials) == (len(missed), len(mated))
        both = [(sum(w[i] for i in missed), sum(w[i] for i, _ in mated)) for w in weights]
        assert [fnmr.low, fnmr.high] == pytest.approx(np.quantile([a / b for a, b in both if b], [0.025, 0.975]))


@pytest.mark.parametrize("layout", ["all", "cross", "pairs"])
def test_a_threshold_set_for_an_fmr_keeps_it_and_no_lower_one_does(layout: str) -> None:
    found = whole(made(layout))
    for rate in (0.5, 0.1, 0.01, 1e-9):
        threshold = found.threshold_for(rate)
        assert threshold is not None
        reached = np.mean(found.rising >= threshold)
        assert reached <= rate < np.mean(found.rising >= threshold - 2e-6) or rate * found.rising.size < 1


def test_identification_is_what_walking_down_the_lists_says() -> None:
    scores = made("cross")
    assert scores.cross is not None
    found, weights = searches(scores), resampling.draw(scores.people.size, 300, 4)
    assert found is not None
    gallery = scores.person[scores.enrolled]
    lists = []
    for row, person in zip(scores.cross, scores.person[~scores.enrolled], strict=True):
        listed = [(score, gallery[j] == person) for j, score in enumerate(row) if not np.isnan(score)]
        # A tie counts against the mate: others first.
        lists.append((person, person in gallery, sorted(listed, key=lambda one: (-one[0], one[1]))))
    for threshold, rank in ((-np.inf, 1), (-np.inf, 5), (0.2, DEPTH), (0.6, 3), (0.99, 1)):
        fpir, fnir = found.fpir(threshold, weights), found.fnir(threshold, rank, weights)
        assert isinstance(fpir, Rate)
        assert isinstance(fnir, Rate)
        non_mated = [listed for _, is_enrolled, listed in lists if not is_enrolled]
        mated = [listed for _, is_enrolled, listed in lists if is_enrolled]
        assert (fpir.errors, fpir.trials) == (sum(any(s >= threshold for s, _ in one) for one in non_mated), len(non_mated))
        hits = sum(any(is_mate and s >= threshold for s, is_mate in one[:rank]) for one in mated)
        assert (fnir.errors, fnir.trials) == (len(mated) - hits, len(mated))
        shown = np.mean([sum(s >= threshold for s, _ in one[:rank]) for one in non_mated])
        assert found.false_candidates(threshold, rank) == pytest.approx(shown)


def test_one_search_a_person_has_wilsons_interval() -> None:
    scores = made("cross")
    _, first = np.unique(scores.person[30:], return_index=True)
    found = searches(scores)
    assert found is not None
    alone = found.of(np.isin(np.arange(30), first))
    rate = alone.fnir(0.6, DEPTH, resampling.draw(scores.people.size, 100, 0))
    assert isinstance(rate, Rate)
    oracle = stats.binomtest(rate.errors, rate.trials).proportion_ci(method="wilson")
    assert (rate.low, rate.high) == pytest.approx((oracle.low, oracle.high), rel=1e-9)


def test_resampling_people_with_a_pair_each_is_the_bootstrap() -> None:
    """scipy as the oracle: two photographs a person, so that people drawn are comparisons drawn."""
    rng = np.random.default_rng(3)
    people = 400
    mated = rng.random(people).astype(np.float32)
    scores = Scores(
        photograph=np.array([f"{i}.png" for i in range(2 * people)]),
        subject=np.array([f"{i % people:03}" for i in range(2 * people)]),
        enrolled=np.arange(2 * people) < people,
        template=np.ones(2 * people, np.bool_),
        labels={},
        about=ABOUT,
        pairs=np.array([(i + people, i) for i in range(people)], np.int32),
        pair_scores=mated,
    )
    found = verification(scores)
    assert found is not None
    (rate,) = found.whole.fnmr([0.2], resampling.draw(people, 4000, 0))
    assert isinstance(rate, Rate)
    oracle = stats.bootstrap((mated < np.float32(0.2),), np.mean, n_resamples=4000, method="percentile", rng=1).confidence_interval
    assert (rate.low, rate.high) == pytest.approx((oracle.low, oracle.high), abs=0.006)


def test_a_score_file_comes_back_as_it_was_and_equal_scores_are_equal_bytes(tmp_path: Path) -> None:
    for layout in ("all", "cross", "pairs"):
        scores = made(layout)
        score_files.save(scores, tmp_path / "one.npz")
        again = score_files.load(tmp_path / "one.npz")
        score_files.save(again, tmp_path / "two.npz")
        assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
        assert tables.tables(again, 100) == tables.tables(scores, 100)


def test_no_rate_without_count_interval_and_threshold_and_no_fpir_without_fnir() -> None:
    for name, rows in tables.tables(made("cross"), 100).items():
        for row in rows:
            for rate in ("fmr", "fnmr", "fpir", "fnir"):
                if rate in row:
                    assert {f"{rate}_errors", f"{rate}_trials", f"{rate}_low", f"{rate}_high", f"{rate}_interval", "threshold"} <= set(
                        row
                    ), name
                    assert row[rate] is None or ("insufficient" in row[f"{rate}_interval"]) == (row[f"{rate}_errors"] < 30)
            assert ("fpir" in row) == ("fnir" in row)


def test_tables_depend_on_the_seed_and_on_nothing_else() -> None:
    scores = made("all")
    one, same, other = (tables.tables(scores, 100, seed) for seed in (1, 1, 2))
    assert one == same
    assert one != other
    assert tables.tables(made("all", seed=2), 100, 1) != one


@pytest.mark.parametrize("broken", ["text", "pickle", "cut", "form", "length", "index", "format"])
def test_what_is_no_score_file_is_told(tmp_path: Path, broken: str) -> None:
    file = tmp_path / "scores.npz"
    score_files.save(made("pairs"), file)
    arrays = dict(np.load(file))
    if broken == "text":
        file.write_text("no archive")
    elif broken == "cut":
        file.write_bytes(file.read_bytes()[:-1000])
    else:
        changed: dict[str, Any] = {
            "pickle": {"subject": np.array([{}, 1], dtype=object)},
            "form": {"pair_scores": arrays["pair_scores"].reshape(-1, 1)},
            "length": {"template": arrays["template"][1:]},
            "index": {"pairs": arrays["pairs"] + 59},
            "format": {"about": np.array('{"format": "other"}')},
        }[broken]
        np.savez(file, **{**arrays, **changed})
    with pytest.raises(BadRequest, match="no score file"):
        score_files.load(file)
