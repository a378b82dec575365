"""The scale is monotone, and its two directions are each other's inverse, whatever the calibration."""

from __future__ import annotations

import json
from importlib import resources

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from aboveboard.biometrics import calibration as scale
from aboveboard.biometrics.calibration import Calibration

similarities = st.floats(0, 100)
scores = st.floats(-1, 1)
rates = st.floats(1e-12, 0.5)


@st.composite
def calibrations(draw: st.DrawFn) -> Calibration:
    """Any valid calibration: a strictly falling FMR from 0.5 to 1e-12 over strictly rising scores."""
    steps = sorted(draw(st.lists(st.integers(-900, 980), min_size=2, max_size=12, unique=True)))
    exponents = sorted(draw(st.lists(st.integers(31, 1199), min_size=len(steps) - 2, max_size=len(steps) - 2, unique=True)))
    fmrs = [0.5, *(10 ** (-exponent / 100) for exponent in exponents), 1e-12]
    document = {
        "id": "1",
        "model_version": "1.0",
        "measured_limit": draw(rates),
        "curve": [{"score": step / 1000, "fmr": fmr} for step, fmr in zip(steps, fmrs, strict=True)],
        "misses": [{"score": -1, "fnmr": 0}, {"score": 1, "fnmr": 1}],
    }
    return Calibration.from_json(json.dumps(document))


@pytest.fixture(scope="module", params=["yunet-sface.json", "null.json"])
def shipped(request: pytest.FixtureRequest) -> Calibration:
    return Calibration.from_json((resources.files("aboveboard") / "calibrations" / request.param).read_text())


@given(similarities, similarities)
def test_a_higher_similarity_is_a_lower_rate(one: float, other: float) -> None:
    assume(one < other)
    assert scale.fmr_at(one) >= scale.fmr_at(other)


@given(similarities)
def test_similarity_and_rate_are_inverse(similarity: float) -> None:
    assert scale.similarity_at(scale.fmr_at(similarity)) == pytest.approx(similarity, abs=1e-6)


@given(calibrations(), scores, scores)
def test_a_higher_score_is_no_lower_similarity(calibration: Calibration, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert 0 <= calibration.similarity(low) <= calibration.similarity(high) <= 100


@given(calibrations(), similarities)
def test_score_and_similarity_are_inverse(calibration: Calibration, similarity: float) -> None:
    assume(similarity > 1e-6)
    score = calibration.score_at(similarity)
    assert calibration.similarity(score) == pytest.approx(similarity, abs=1e-4)


@given(calibrations(), scores, similarities)
def test_a_threshold_in_similarity_is_the_threshold_in_score(calibration: Calibration, score: float, threshold: float) -> None:
    floor = calibration.score_at(threshold)
    assume(abs(score - floor) > 1e-6)
    if score > floor:
        assert calibration.similarity(score) >= threshold - 1e-6
    else:
        assert calibration.similarity(score) <= threshold + 1e-6


@given(calibrations(), similarities, similarities)
def test_more_is_missed_at_a_higher_similarity(calibration: Calibration, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert 0 <= calibration.fnmr(low) <= calibration.fnmr(high) <= 1


@given(similarity=similarities)
def test_shipped_scales_invert(shipped: Calibration, similarity: float) -> None:
    assume(similarity > 1e-6)
    assert shipped.similarity(shipped.score_at(similarity)) == pytest.approx(similarity, abs=1e-4)


@given(rates, st.integers(0, 10_000_000))
def test_fpir_is_a_chance_bounded_by_the_expected_number(fmr: float, gallery_size: int) -> None:
    chance = scale.fpir(fmr, gallery_size)
    assert 0 <= chance <= 1
    assert chance <= scale.expected_false(fmr, gallery_size) * (1 + 1e-12)
    assert chance == pytest.approx(1 - (1 - fmr) ** gallery_size, abs=1e-9 * max(1, gallery_size * 1e-6))


@given(st.floats(1e-6, 10), st.integers(1, 10_000_000))
def test_the_similarity_for_an_expected_number_keeps_it(expected: float, gallery_size: int) -> None:
    similarity = scale.similarity_for(expected, gallery_size)
    if 0 < similarity < 100:
        assert scale.expected_false(scale.fmr_at(similarity), gallery_size) == pytest.approx(expected, rel=1e-6)
