"""Every rate of a score file is what counting pair by pair and list by list says; its intervals are those of people drawn one by one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from aboveboard.errors import BadRequest
from aboveboard.evaluation import resampling, tables
from aboveboard.evaluation import scores as score_files
from aboveboard.evaluation.false_matches import findings
from aboveboard.evaluation.identification import DEPTH, Searches, searches
from aboveboard.evaluation.rates import Rate, wilson
from aboveboard.evaluation.resampling import rate_of
from aboveboard.evaluation.scores import FORMAT, Scores
from aboveboard.evaluation.searching import GALLERY, PROBES, SEARCHES
from aboveboard.evaluation.verification import Verification, verification

ABOUT: dict[str, Any] = {
    "format": FORMAT,
    "scale": "any",
    "named": {"80": 0.2},
    "threshold": {"asked": "none", "applied": "none"},
    "data": {"photographs": 60, "sha256": "00"},
    "model": {"pack": "null", "model_version": "1.0"},
}
AT = [-0.1, 0.2, 0.6]


def made(layout: str, n: int = 60, seed: int = 1, people: int = 20) -> Scores:
    """Random scores of 60 photographs of 20 people in two groups; two photographs have no template."""
    rng = np.random.default_rng(seed)
    person, enrolled = rng.integers(0, people, n), n // 2
    towards = rng.normal(size=(people, 6))
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
        subject=np.array([f"person {i:03}" for i in person]),
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
    for threshold, *both in zip(AT, chosen.fmr(AT, weights), chosen.fnmr(AT, weights), strict=True):
        fmr, fnmr = map(rate_of, both)
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
        fpir, fnir = rate_of(found.fpir(threshold, weights)), rate_of(found.fnir(threshold, rank, weights))
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
    rate = rate_of(alone.fnir(0.6, DEPTH, resampling.draw(scores.people.size, 100, 0)))
    assert isinstance(rate, Rate)
    oracle = stats.binomtest(rate.errors, rate.trials).proportion_ci(method="wilson")
    assert (rate.low, rate.high) == pytest.approx((oracle.low, oracle.high), rel=1e-9)


def test_the_interval_of_an_fpir_draws_the_enrolled_people_too() -> None:
    """Counted draw by draw: what rests on one enrolled person comes as often as both are drawn, what several make as the probe is."""
    scores = made("cross", n=160, seed=7, people=80)
    found, weights, at = searches(scores), resampling.draw(scores.people.size, 200, 4), 0.8
    assert found is not None
    assert scores.cross is not None
    enrolled, n = scores.person[scores.enrolled], scores.people.size
    errors, trials, alone, many = np.zeros(200), np.zeros(200), 0, 0
    for row, person in zip(scores.cross, scores.person[~scores.enrolled], strict=True):
        if person in enrolled:
            continue
        trials += weights[:, person]
        reached = sorted(set(enrolled[row >= at]))
        if reached:
            errors += weights[:, person] * (weights[:, reached[0]] * n / (n - 1) if len(reached) == 1 else 1)
            alone, many = alone + (len(reached) == 1), many + (len(reached) > 1)
    rate = rate_of(found.fpir(at, weights))
    assert isinstance(rate, Rate)
    assert alone > 3
    assert many > 3
    assert rate.errors == alone + many
    shares = np.minimum(errors, trials)[trials > 0] / trials[trials > 0]
    assert [rate.low, rate.high] == pytest.approx(np.quantile(shares, [0.025, 0.975]))


def gallery_of_wolves(seed: int, probes: int = 300, enrolled: int = 400) -> Searches:
    """Searches for people who are searched for once and not enrolled, in a gallery of which some people resemble everybody."""
    rng = np.random.default_rng(seed)
    scores = (rng.normal(size=(probes, enrolled)) + rng.normal(0, 0.8, enrolled)).astype(np.float32)
    order = np.argsort(-scores, axis=1)[:, :DEPTH]
    others, number, nothing = np.take_along_axis(scores, order, 1), np.arange(probes), np.full(probes, -np.inf, np.float32)
    return Searches(number, number, np.zeros(probes, np.bool_), nothing, others, order[:, 0] + probes, others[:, 1], enrolled)


def test_another_gallery_has_another_fpir_and_the_interval_knows_it() -> None:
    """Where some enrolled people resemble everybody, an interval of the searches alone misses the FPIR of other galleries."""
    at, weights = 4.2, resampling.draw(700, 200, 1)
    truth = np.mean([np.mean(gallery_of_wolves(seed).others[:, 0] >= at) for seed in range(1000, 1060)])
    rates = [rate for seed in range(60) if isinstance(rate := rate_of(gallery_of_wolves(seed).fpir(at, weights)), Rate)]
    held = np.mean([rate.low <= truth <= rate.high for rate in rates])
    by_wilson = np.mean([low <= truth <= high for low, high in (wilson(rate.errors, rate.trials) for rate in rates)])
    assert len(rates) == 60
    assert held > 0.87
    assert by_wilson < 0.75
    assert all(rate.low <= wilson(rate.errors, rate.trials)[0] and resampling.BOTH_SIDES in rate.method for rate in rates)


def test_how_far_groups_lie_apart_is_what_their_rates_say() -> None:
    scores = made("cross", n=160, seed=3, people=80)
    found, weights = whole(scores), resampling.draw(scores.people.size, 200, 0)
    made_of = tables.tables(scores, 200, 0)
    for false, missed, kind in (("fmr", "fnmr", "verification"), ("fpir", "fnir", "identification")):
        within = [row for row in made_of[f"{kind}_by_group"] if row.get("other", row["group"]) == row["group"]]
        for point in {row["set_for"] for row in made_of[f"{kind}_disparity"]}:
            rates = {rate: {row["group"]: row for row in within if row["set_for"] == point} for rate in (false, missed)}
            figures = {(row["rate"], row["figure"]): row for row in made_of[f"{kind}_disparity"] if row["set_for"] == point}
            for rate in (false, missed):
                by_group = {group: row[rate] for group, row in rates[rate].items() if row[rate] is not None}
                shown, apart = figures[rate.upper(), "MaxMin"], figures[rate.upper(), "difference"]
                assert set(by_group) == {"left", "right"}
                assert apart["value"] == pytest.approx(max(by_group.values()) - min(by_group.values()), rel=1e-4)
                assert shown["fewest_errors"] == min(row[f"{rate}_errors"] for row in rates[rate].values())
                if shown["fewest_errors"]:
                    assert shown["value"] == pytest.approx(max(by_group.values()) / min(by_group.values()), rel=1e-4)
                    assert shown["low"] <= shown["value"] <= shown["high"]
                else:
                    assert shown["without_errors"]
                assert (shown["standing"] == "apart") == (apart["low"] > 0)
                assert shown["standing"] != "not told apart" or shown["fewest_errors"] >= 30
            both = f"{false.upper()} and {missed.upper()}"
            spread = [abs(np.subtract(*(rates[rate][group][rate] for group in ("left", "right")))) for rate in (false, missed)]
            assert figures[both, "FDR"]["value"] == pytest.approx(1 - np.mean(spread), rel=1e-4)
    # One figure's interval, draw by draw; a group without an error in a draw stands with Wilson's bound there too.
    both_groups = [drawn for one in ("left", "right") for drawn in found.group("side", one, one).fnmr([0.2], weights)]
    shares = [
        [errors / trials or wilson(0, trials)[1] for errors, trials in zip(one.errors_drawn, one.trials_drawn, strict=True)]
        for one in both_groups
        if isinstance(one, resampling.Drawn)
    ]
    ratios = np.max(shares, axis=0) / np.min(shares, axis=0)
    (row,) = [
        row
        for row in made_of["verification_disparity"]
        if (row["set_for"], row["rate"], row["figure"]) == ("similarity 80", "FNMR", "MaxMin")
    ]
    assert (row["low"], row["high"]) == pytest.approx(tuple(np.quantile(ratios, [0.025, 0.975])), rel=1e-5)


def test_groups_without_any_error_have_no_figure() -> None:
    scores = made("cross", n=160, seed=3, people=80)
    named = replace(scores, about={**ABOUT, "named": {"99": 5.0}})
    rows = [row for row in tables.tables(named, 100)["identification_disparity"] if row["set_for"] == "similarity 99"]
    false = [row for row in rows if row["rate"] == "FPIR" and row["figure"] != "difference"]
    assert [row["value"] for row in false] == [None, None, None]
    assert {row["standing"] for row in false} == {"insufficient"}


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
    rate = rate_of(*found.whole.fnmr([0.2], resampling.draw(people, 4000, 0)))
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


@pytest.mark.parametrize(
    "about",
    [
        {"named": {"80": True}},
        {"named": {"80": float("nan")}},
        {"named": []},
        {"threshold": {"applied": []}},
        {"threshold": {"applied": None}},
        {"threshold": None},
        {"scale": 1},
        {"data": float("inf")},
        {"data": {"photographs": "60", "sha256": "00"}},
        {"model": None},
        {"model": {"pack": "null"}},
        {"calibration": float("inf")},
    ],
)
def test_a_score_file_that_does_not_say_where_it_comes_from_is_told(tmp_path: Path, about: dict[str, Any]) -> None:
    score_files.save(replace(made("pairs"), about={**ABOUT, **about}), tmp_path / "scores.npz")
    with pytest.raises(BadRequest, match="no score file"):
        score_files.load(tmp_path / "scores.npz")


@pytest.mark.parametrize("layout", ["all", "cross"])
def test_scores_that_do_not_agree_with_the_templates_are_told(tmp_path: Path, layout: str) -> None:
    scores = made(layout)
    score_files.save(replace(scores, template=np.roll(scores.template, 1)), tmp_path / "scores.npz")
    with pytest.raises(BadRequest, match="do not agree"):
        score_files.load(tmp_path / "scores.npz")


@pytest.mark.parametrize("broken", ["text", "pickle", "cut", "form", "length", "index", "format", "infinite"])
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
            "infinite": {"pair_scores": arrays["pair_scores"] + np.float32(np.inf)},
            "format": {"about": np.array('{"format": "other"}')},
        }[broken]
        np.savez(file, **{**arrays, **changed})
    with pytest.raises(BadRequest, match="no score file"):
        score_files.load(file)


def test_a_study_of_a_million_people_draws_those_whom_its_rates_rest_on() -> None:
    """An FPIR's interval is the same whether the others of the gallery are drawn each or as one; in a large gallery only that fits."""
    person, culprit = np.arange(40), np.array([40, 41, 42, 42, 42, resampling.SEVERAL, *[resampling.NOBODY] * 34])
    each = resampling.searched(resampling.draw(900, 4000, 0), person, culprit).rate
    as_one = resampling.searched(resampling.draw(900, 4000, 1, 43), person, culprit, 900).rate
    assert [as_one.low, as_one.high] == pytest.approx([each.low, each.high], rel=0.05)
    gallery = "reference,subject,failure\n" + "".join(f"g/{i},s{i},\n" for i in range(300_000))
    probes = "probe,subject,failure,mate,mate_failure\n" + "".join(f"p/{i},q{i},,,\n" for i in range(40))
    found = "probe,against,rank,reference,similarity\n" + "".join(f"p/{i},gallery,1,g/{i},{99 - i}\n" for i in range(40))
    inputs = {GALLERY: gallery.encode(), PROBES: probes.encode(), SEARCHES: found.encode()}
    source = {"applied": "none", "measured_limit": 1e-6, "why": "", "endpoint": "e"}
    parameters = {"thresholds": [{"similarity": 80.0, "origin": "request"}], "by": [], "left_out": 0, "source": source}
    data = {"name": "n", "photographs": 40, "sha256": "0"}
    report = findings({**parameters, "data": {"probes": data, "gallery": data}}, inputs)
    table = next(block for block in report.page.blocks if getattr(block, "name", "") == "other_galleries")
    assert table.rows[0][-2:] == (20, 1), "enrolled people brought up from 80 on, and most searches by one"
