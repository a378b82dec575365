"""Comparison scores and their order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aboveboard.biometrics.matching import best_first, comparison_scores, normalise


def unit(seed, n, d=16):
    return normalise(np.random.default_rng(seed).normal(size=(n, d)))


@given(st.integers(0, 1000), st.integers(1, 20))
def test_a_score_is_the_cosine(seed, n):
    """As numpy's float64 says it, within [-1, 1]; of a template with itself 1 within float32's grain."""
    references = unit(seed, n)
    scores = comparison_scores(references[0], references)
    truth = [min(1.0, max(-1.0, float(np.dot(row.astype(float), references[0].astype(float))))) for row in references]
    assert scores == pytest.approx(truth, abs=1e-12)
    assert np.abs(scores).max() <= 1
    assert scores[0] == pytest.approx(1, abs=1e-6)


@given(st.integers(0, 1000))
def test_scores_do_not_depend_on_the_side(seed):
    """Comparing a with b is comparing b with a."""
    a, b = unit(seed, 2)
    assert comparison_scores(a, b[None])[0] == comparison_scores(b, a[None])[0]


@given(
    st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.3]), st.uuids().map(str)), max_size=30, unique_by=lambda pair: pair[1]),
    st.integers(0, 40),
)
def test_the_best_come_first_and_ties_by_face_id(pairs, limit):
    """The order does not depend on the order of the gallery."""
    scores, ids = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    chosen = [pairs[i] for i in best_first(scores, ids, limit)]
    assert chosen == sorted(pairs, key=lambda pair: (-pair[0], pair[1]))[:limit]


@pytest.mark.parametrize("features", [np.zeros(4), np.array([1, np.nan, 0, 0]), np.array([np.inf, 0, 0, 0]), np.zeros((2, 4))])
def test_features_without_a_direction_are_refused(features):
    """Zero or not finite: ValueError."""
    with pytest.raises(ValueError, match="without a direction"):
        normalise(features)
