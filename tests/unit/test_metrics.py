"""Error rates against written-down vectors, scipy and plain counting."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from aboveboard.evaluation import metrics
from aboveboard.evaluation.metrics import Pairs, Resampling


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def pairs() -> Pairs:
    """30 templates of 12 people, drawn around their person's direction."""
    rng = np.random.default_rng(5)
    subjects = np.sort(rng.integers(0, 12, 30))
    people = rng.normal(size=(12, 16))
    return metrics.all_pairs(unit(people[subjects] + rng.normal(size=(30, 16))), subjects.tolist())


def test_thresholds_are_inclusive() -> None:
    scores = np.array([0.1, 0.5, 0.5, 0.9])
    assert metrics.fmr(scores, 0.5) == 0.75
    assert metrics.fnmr(scores, 0.5) == 0.25
    assert metrics.fnmr(scores, 0.5, missed=1) == 2 / 5


def test_threshold_is_the_lowest_that_keeps_the_promise() -> None:
    falling = np.array([0.9, 0.7, 0.7, 0.2])
    for errors, reached in ((0, 0), (1, 1), (2, 1), (3, 3)):
        threshold = metrics.threshold_for(falling, errors)
        assert np.count_nonzero(falling >= threshold) == reached <= errors
        assert np.count_nonzero(falling >= np.nextafter(threshold, -1)) > errors
    with pytest.raises(ValueError, match="keep more of the tail"):
        metrics.threshold_for(falling, 4)


def test_a_share_of_a_whole_number_is_not_lost_to_rounding() -> None:
    assert metrics.threshold_for(np.linspace(1, 0, 101), 0.29 * 100) == pytest.approx(0.71, abs=1e-9)


def test_all_pairs_is_every_pair_once(pairs: Pairs) -> None:
    rng = np.random.default_rng(5)
    subjects = np.sort(rng.integers(0, 12, 30))
    features = unit(rng.normal(size=(12, 16))[subjects] + rng.normal(size=(30, 16))).astype(np.float64)
    scores = {(i, j): float(features[i] @ features[j]) for i, j in itertools.combinations(range(30), 2)}
    mated = sorted(score for (i, j), score in scores.items() if subjects[i] == subjects[j])
    non_mated = sorted((score for (i, j), score in scores.items() if subjects[i] != subjects[j]), reverse=True)
    assert sorted(pairs.mated) == pytest.approx(mated)
    assert pairs.tail == pytest.approx(non_mated)
    assert (pairs.mated_size, pairs.non_mated_size) == (len(mated), len(non_mated))
    for score, (i, j) in zip(pairs.tail, pairs.tail_templates, strict=True):
        assert scores[i, j] == pytest.approx(score)
    assert pairs.fmr_at(0.3) == metrics.fmr(np.array(non_mated), 0.3)
    assert pairs.tar_at(0.3) == 1 - metrics.fnmr(np.array(mated), 0.3)


def test_what_is_only_counted_is_right_to_a_bin() -> None:
    rng = np.random.default_rng(2)
    features, subjects = unit(rng.normal(size=(120, 8))), list(range(120))
    whole = metrics.all_pairs(features, subjects)
    counted = metrics.all_pairs(features, subjects, keep=1e-2, least=0)
    assert counted.tail.size < whole.tail.size == whole.non_mated_size == 7140
    assert list(counted.tail) == list(whole.tail[: counted.tail.size])
    for rate in (0.5, 0.2, 0.05, 1e-2, 1e-3):
        assert counted.threshold_for(rate) == pytest.approx(whole.threshold_for(rate), abs=2 / metrics.BINS)
        assert counted.fmr_at(counted.threshold_for(rate)) == pytest.approx(rate, abs=2e-3)
        assert whole.fmr_at(whole.threshold_for(rate)) <= rate


def test_failures_to_enrol_are_misses() -> None:
    same = unit(np.ones((2, 4)))
    assert metrics.all_pairs(same, [0, 0]).tar_at(0.5) == 1
    assert metrics.all_pairs(same, [0, 0], missed=[2]).tar_at(0.5) == pytest.approx(1 / 3)
    without_template = metrics.all_pairs(same, [0, 0], missed=[0, 1])
    assert (without_template.mated_size, without_template.sizes.tolist()) == (2, [2, 0])


def test_resampling_weighs_pairs_by_both_people(pairs: Pairs) -> None:
    weights = np.random.default_rng(1).integers(0, 3, (4, pairs.sizes.size))
    resampling = Resampling(pairs, weights)
    threshold, reached = 0.2, pairs.tail >= 0.2
    for draw, weight in enumerate(weights):
        of_pair = weight[pairs.subject[pairs.tail_templates]].prod(axis=1)
        assert resampling.fmr_at([threshold])[draw, 0] == pytest.approx(of_pair[reached].sum() / of_pair.sum())
        of_mated = weight[pairs.mated_subject]
        assert resampling.tar_at([threshold])[draw, 0] == pytest.approx(of_mated[pairs.mated >= threshold].sum() / of_mated.sum())
        at = resampling.thresholds(0.1)[draw]
        assert of_pair[pairs.tail > at].sum() <= 0.1 * of_pair.sum() < of_pair[pairs.tail >= at].sum()


def test_resampling_with_everyone_once_is_the_set_itself(pairs: Pairs) -> None:
    once = Resampling(pairs, np.ones((1, pairs.sizes.size), np.int64))
    assert once.fmr_at([0.2])[0, 0] == pytest.approx(pairs.fmr_at(0.2))
    assert once.tar_at([0.2])[0, 0] == pytest.approx(pairs.tar_at(0.2))


def test_resampling_is_the_same_for_the_same_seed(pairs: Pairs) -> None:
    one, same, other = (Resampling.of(pairs, 50, seed) for seed in (3, 3, 4))
    assert np.array_equal(one.weights, same.weights)
    assert not np.array_equal(one.weights, other.weights)
    assert (one.weights.sum(axis=1) == pairs.sizes.size).all()


def test_resampling_does_not_guess_below_the_tail() -> None:
    rng = np.random.default_rng(2)
    counted = metrics.all_pairs(unit(rng.normal(size=(120, 8))), list(range(120)), keep=1e-2, least=0)
    with pytest.raises(ValueError, match="below the kept tail"):
        Resampling.of(counted, 2).fmr_at([0.0])


@pytest.mark.parametrize("shape", [-0.2, -0.05, 0.0, 0.15])
def test_tail_fit_finds_the_tail_it_was_drawn_from(shape: float) -> None:
    excess = np.sort(stats.genpareto.rvs(shape, scale=0.03, size=20_000, random_state=8))[::-1]
    tail = metrics.fit_tail(np.append(excess, 0.0) + 0.4, 1e-3)
    assert tail.shape == pytest.approx(shape, abs=0.025)
    assert tail.scale == pytest.approx(0.03, rel=0.03)
    assert tail.score_at(1e-5) == pytest.approx(0.4 + stats.genpareto.isf(1e-2, shape, scale=0.03), abs=0.003)
    assert tail.fmr_at(tail.score_at(1e-9)) == pytest.approx(1e-9)


def test_tail_fit_equals_scipy() -> None:
    excess = np.sort(stats.genpareto.rvs(-0.07, scale=0.026, size=3000, random_state=1))[::-1]
    shape, _, scale = stats.genpareto.fit(excess, floc=0)
    tail = metrics.fit_tail(np.append(excess, 0.0), 1e-3)
    assert (tail.shape, tail.scale) == pytest.approx((shape, scale), rel=0.01)


def test_tail_fit_with_weights_is_that_of_repeated_scores() -> None:
    excess = np.sort(stats.genpareto.rvs(-0.07, scale=0.026, size=400, random_state=1))[::-1]
    weight = np.random.default_rng(0).integers(1, 4, 400)
    weighted = metrics.fit_tail(np.append(excess, 0.0), 1e-3, np.append(weight, 1.0))
    repeated = metrics.fit_tail(np.append(np.repeat(excess, weight), 0.0), 1e-3)
    assert (weighted.shape, weighted.scale) == pytest.approx((repeated.shape, repeated.scale), rel=1e-4)


def test_a_tail_with_an_end_has_no_matches_beyond_it() -> None:
    tail = metrics.Tail(floor=0.4, share=1e-3, shape=-0.1, scale=0.03, exceedances=100)
    assert tail.fmr_at(0.4) == 1e-3
    assert tail.fmr_at(0.7 + 1e-9) == 0
    exponential = metrics.Tail(floor=0.4, share=1e-3, shape=0.0, scale=0.03, exceedances=100)
    assert exponential.score_at(1e-6) == pytest.approx(0.4 + 0.03 * math.log(1000))
    assert exponential.fmr_at(exponential.score_at(1e-6)) == pytest.approx(1e-6)
