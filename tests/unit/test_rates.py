"""Rates, groups of them and likelihood ratios against published vectors, scipy, statsmodels, fairlearn, scikit-learn and lir."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from fairlearn.metrics import MetricFrame
from hypothesis import given
from hypothesis import strategies as st
from lir.data.models import LLRData
from lir.metrics import cllr as lir_cllr
from lir.metrics import cllr_min as lir_cllr_min
from scipy import stats
from statsmodels.stats import proportion

from aboveboard.biometrics import evidence
from aboveboard.biometrics.calibration import expected_false, fmr_for_fpir, fpir
from aboveboard.evaluation import disparity, likelihood, rates
from aboveboard.evaluation.disparity import Disparity
from aboveboard.evaluation.rates import Rate, Unmeasured

ACLU_AND_AFTER = [(28, 535, 5.23, 3.65, 7.46), (26, 120, 21.67, 15.24, 29.85), (27, 188, 14.36, 10.06, 20.09), (32, 530, 6.04, 4.31, 8.40),
                  (73, 1429, 5.11, 4.08, 6.38)]  # fmt: skip
NPL = (0.0004, 0.040, 0.055)


@pytest.mark.parametrize(("errors", "trials"), [(0, 10), (1, 10), (28, 535), (535, 535), (37, 18_928_855)])
def test_wilson_equals_scipy_and_statsmodels(errors: int, trials: int) -> None:
    oracle = stats.binomtest(errors, trials).proportion_ci(method="wilson")
    assert rates.wilson(errors, trials) == pytest.approx((oracle.low, oracle.high), rel=1e-9, abs=1e-15)
    assert rates.wilson(errors, trials) == pytest.approx(
        proportion.proportion_confint(errors, trials, method="wilson"), rel=1e-9, abs=1e-15
    )


@pytest.mark.parametrize(("errors", "trials", "value", "low", "high"), ACLU_AND_AFTER)
def test_published_studies_have_the_intervals_that_follow_from_their_counts(errors, trials, value, low, high) -> None:
    found = Rate.of(errors, trials)
    assert [round(100 * share, 2) for share in (found.value, found.low, found.high)] == [value, low, high]
    assert found.method == "Wilson"
    assert found.is_insufficient == (errors < 30)


def test_no_share_is_no_rate() -> None:
    for errors, trials in ((1, 0), (0, 0), (-1, 5), (6, 5)):
        with pytest.raises(ValueError, match="no share"):
            Rate.of(errors, trials)
    assert rates.found(0, 0) == Unmeasured("no trial")


def test_rules_of_3_and_30() -> None:
    assert rates.bound_without_errors(300) == pytest.approx(1 - 0.05 ** (1 / 300))
    assert rates.bound_without_errors(1_000_000) == pytest.approx(3e-6, rel=0.002)
    rerun = Rate.of(0, 535)
    assert (rerun.value, rerun.low, rerun.method) == (0, 0, "rule of 3")
    assert rerun.high == pytest.approx(0.0056, rel=0.005)
    assert rerun.is_insufficient
    for rate, without, thirty in ((0.01, 299, 3000), (0.003, 998, 10_000), (0.001, 2995, 30_000)):
        assert rates.trials_without_errors(rate) == without
        assert rates.measured_limit(thirty) == pytest.approx(rate)


def test_a_rate_is_carried_to_another_size_of_gallery() -> None:
    congress = Rate.of(28, 535)
    implied = rates.implied_fmr(congress, 25_000)
    assert (implied.value, implied.low, implied.high) == pytest.approx((2.15e-6, 1.49e-6, 3.10e-6), rel=4e-3)
    washington = rates.at_size(congress, 25_000, 300_000)
    assert [round(100 * share, 1) for share in (washington.value, washington.low, washington.high)] == [47.5, 36.0, 60.6]
    assert (washington.errors, washington.trials) == (28, 535)
    others = [100 * rates.at_size(Rate.of(e, n), size, 300_000).value for e, n, size in ((26, 120, 25_000), (27, 188, 20_000))]
    assert others == pytest.approx([94.7, 90.2], abs=0.05)


def test_fpir_of_a_gallery_and_its_inverse() -> None:
    for rate, size, promised in ((2.15e-6, 25_000, 5.23), (2.15e-6, 300_000, 47.53), (1e-6, 300_000, 25.92), (1e-8, 300_000, 0.2996)):
        assert 100 * fpir(rate, size) == pytest.approx(promised, abs=0.005)
        assert fmr_for_fpir(fpir(rate, size), size) == pytest.approx(rate, rel=1e-9)
        assert fpir(rate, size) == pytest.approx(1 - stats.binom.pmf(0, size, rate), rel=1e-9)
    assert expected_false(2.15e-6, 300_000) == pytest.approx(0.645)
    assert fmr_for_fpir(0.003, 300_000) == pytest.approx(1.0e-8, rel=2e-3)
    assert fmr_for_fpir(0.001, 300_000) == pytest.approx(3.34e-9, rel=2e-3)
    assert fmr_for_fpir(1.0, 10) == 1
    assert [fpir(1.0, size) for size in (0, 1, 300_000)] == [0, 1, 1]
    assert rates.at_size(Rate.of(535, 535), 25_000, 300_000).value == 1


def test_a_capped_list_shows_fewer() -> None:
    assert rates.expected_shown(1.0, 300_000, 5) == 5
    assert rates.expected_shown(1.0, 3, 5) == 3
    assert rates.expected_shown(1e-4, 1000, 1) == pytest.approx(fpir(1e-4, 1000), rel=1e-9)
    assert rates.expected_shown(1e-3, 1000, 50) == pytest.approx(expected_false(1e-3, 1000), rel=1e-9)
    drawn = np.minimum(np.random.default_rng(0).binomial(1000, 2e-3, 200_000), 3).mean()
    assert rates.expected_shown(2e-3, 1000, 3) == pytest.approx(drawn, abs=0.01)


def test_figures_of_the_national_physical_laboratory() -> None:
    """The three FPIR of the UK's police database, 2025: white, Asian, Black."""
    assert disparity.max_min(NPL) == pytest.approx(137.5)
    assert disparity.max_geo(NPL) == pytest.approx(5.739, abs=5e-4)
    assert disparity.gini(NPL) == pytest.approx(0.5723, abs=5e-5)
    assert disparity.gini(NPL) * 2 / 3 == pytest.approx(0.3816, abs=5e-5)
    assert disparity.max_difference(NPL) == pytest.approx(0.0546)
    assert disparity.mape(NPL) == pytest.approx(65.83, abs=5e-3)
    equal = (0.1, 0.1, 0.1)
    assert disparity.garbe(NPL, equal) == pytest.approx(disparity.gini(NPL) / 2)
    assert disparity.fdr(NPL, equal, alpha=1) == pytest.approx(1 - 0.0546)
    assert disparity.inequity(NPL, equal) == pytest.approx(math.sqrt(137.5))


@given(st.lists(st.floats(1e-6, 1.0), min_size=2, max_size=9))
def test_gini_is_the_mean_difference_and_is_one_for_one_group_alone(values: list[float]) -> None:
    """Against its other definition, over ranks; the corrected value reaches 1 exactly."""
    n, rising = len(values), np.sort(values)
    by_rank = 2 * np.sum(np.arange(1, n + 1) * rising) / (n * rising.sum()) - (n + 1) / n
    assert disparity.gini(values) == pytest.approx(by_rank * n / (n - 1), abs=1e-9)
    assert disparity.gini([*[0.0] * n, values[0]]) == pytest.approx(1)
    assert disparity.max_min(values) == pytest.approx(max(values) / stats.gmean(values) / (min(values) / stats.gmean(values)))


def test_groups_without_an_error_stand_with_their_upper_bound_and_are_flagged() -> None:
    groups = {"a": Rate.of(0, 400), "b": Rate.of(40, 400)}
    values, flagged = disparity.comparable(groups)
    assert flagged == ("a",)
    assert values.tolist() == pytest.approx([rates.wilson(0, 400)[1], 0.1])
    assert Disparity.of(groups).flagged == ("a",)
    assert Disparity.of({"a": Rate.of(0, 400), "b": Rate.of(2, 400)}).standing == "insufficient"
    with pytest.raises(ValueError, match="above 0"):
        disparity.max_min([0.0, 0.1])
    with pytest.raises(ValueError, match="two groups"):
        disparity.gini([0.1])


def test_few_errors_are_never_called_no_difference() -> None:
    apart = Disparity.of({"a": Rate.of(30, 1000), "b": Rate.of(90, 1000)})
    assert (apart.standing, apart.highest, apart.lowest, apart.max_min) == ("apart", "b", "a", pytest.approx(3))
    assert Disparity.of({"a": Rate.of(0, 385), "b": Rate.of(85, 271)}).standing == "apart"
    assert Disparity.of({"a": Rate.of(29, 1000), "b": Rate.of(35, 1000)}).standing == "insufficient"
    assert Disparity.of({"a": Rate.of(50, 1000), "b": Rate.of(52, 1000)}).standing == "not told apart"


@pytest.mark.parametrize(("first", "second"), [((85, 271), (0, 385)), ((56, 70), (48, 80)), ((1, 500), (3, 400)), ((10, 10), (0, 20))])
def test_differences_equal_statsmodels(first: tuple[int, int], second: tuple[int, int]) -> None:
    oracle = proportion.confint_proportions_2indep(*first, *second, method="newcomb", compare="diff")
    gap, low, high = rates.difference(Rate.of(*first), Rate.of(*second))
    assert (low, high) == pytest.approx(oracle, rel=1e-9, abs=1e-12)
    assert low <= gap <= high
    _, wider_low, wider_high = rates.difference(Rate.of(*first), Rate.of(*second), pairs=6)
    oracle = proportion.confint_proportions_2indep(*first, *second, method="newcomb", compare="diff", alpha=0.05 / 6)
    assert (wider_low, wider_high) == pytest.approx(oracle, rel=1e-9, abs=1e-12)


def test_groups_equal_fairlearn() -> None:
    rng = np.random.default_rng(1)
    group, wrong = rng.choice(["DF", "DM", "LF", "LM"], 900), rng.random(900) < 0.1
    frame = MetricFrame(metrics=lambda true, said: float(np.mean(np.asarray(true) != np.asarray(said))),
                        y_true=np.zeros(900), y_pred=wrong.astype(float), sensitive_features=pd.Series(group))  # fmt: skip
    found = {name: Rate.of(int(wrong[group == name].sum()), int((group == name).sum())) for name in np.unique(group)}
    assert {name: rate.value for name, rate in found.items()} == pytest.approx(frame.by_group.to_dict(), rel=1e-9)
    assert Disparity.of(found).difference == pytest.approx(frame.difference(), rel=1e-9)
    assert 1 / Disparity.of(found).max_min == pytest.approx(frame.ratio(), rel=1e-9)


@pytest.fixture
def scores() -> tuple[np.ndarray, np.ndarray]:
    """Mated and non-mated scores with ties, as log likelihood ratios of some system."""
    rng = np.random.default_rng(3)
    return rng.normal(2, 2, 300).round(1), rng.normal(-2, 2, 900).round(1)


def test_cllr_equals_lir(scores: tuple[np.ndarray, np.ndarray]) -> None:
    mated, non_mated = scores
    labels = np.array([1] * mated.size + [0] * non_mated.size)
    data = LLRData(features=np.concatenate(scores)[:, None] / math.log(10), labels=labels)
    assert likelihood.cllr(mated, non_mated) == pytest.approx(lir_cllr(data), rel=1e-9)
    assert likelihood.cllr_min(mated, non_mated) == pytest.approx(lir_cllr_min(data), rel=1e-9)
    assert 0 < likelihood.cllr_cal(mated, non_mated) < likelihood.cllr(mated, non_mated)


def test_cllr_of_what_says_nothing_is_one_and_of_perfect_scores_nought() -> None:
    assert likelihood.cllr([0.0], [0.0, 0.0]) == 1
    assert likelihood.cllr_min([3.0, 4.0], [1.0, 2.0]) == 0
    assert likelihood.cllr_min([1.0], [1.0]) == pytest.approx(1)
    with pytest.raises(ValueError, match="mated"):
        likelihood.cllr([], [1.0])


def test_ratios_rise_and_are_bounded_by_what_was_seen(scores: tuple[np.ndarray, np.ndarray]) -> None:
    mated, non_mated = scores
    ratios = likelihood.ratios_of(mated, non_mated)
    over = ratios.at(np.linspace(-50, 50, 2001))
    assert (np.diff(over) >= 0).all()
    assert math.exp(over[-1]) <= non_mated.size + 2
    assert math.exp(over[0]) >= 1 / (mated.size + 2)
    # Well calibrated on itself: little is left to be spared.
    assert likelihood.cllr(ratios.at(mated), ratios.at(non_mated)) == pytest.approx(likelihood.cllr_min(mated, non_mated), abs=0.02)


def test_what_a_score_must_mean_in_a_gallery_of_300_000() -> None:
    for ratio, promised in ((1e4, 3.2), (1e5, 25.0), (1e6, 76.9), (1e7, 97.1)):
        assert 100 * evidence.posterior(0.5, 300_000, [ratio])[0] == pytest.approx(promised, abs=0.05)
    assert evidence.posterior(0.0, 10, [1e9]).tolist() == [0]
    with pytest.raises(ValueError, match="prior"):
        evidence.posterior(1.1, 10, [1.0])


def test_posteriors_are_what_happens() -> None:
    """4,000 searches of 300 people, half of the persons sought enrolled: of candidates given p, about p are the person."""
    rng = np.random.default_rng(8)
    said, true = [], []
    for _ in range(4000):
        scores, mate = rng.normal(0, 1, 300), rng.integers(0, 600)
        if mate < 300:
            scores[mate] += 3.0
        ratios = np.exp(3.0 * scores - 4.5)  # N(3, 1) over N(0, 1)
        best = int(ratios.argmax())
        said.append(evidence.posterior(0.5, 300, ratios)[best])
        true.append(best == mate)
    for low, high in ((0.0, 0.3), (0.3, 0.6), (0.6, 0.9), (0.9, 1.0)):
        inside = [i for i, p in enumerate(said) if low <= p < high]
        observed = Rate.of(sum(true[i] for i in inside), len(inside))
        assert observed.low - 0.02 <= np.mean([said[i] for i in inside]) <= observed.high + 0.02
