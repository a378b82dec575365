"""A gallery's own scores: counted exactly through any row of comings and goings, and judged beside what a calibration promises."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aboveboard.biometrics.calibration import ANCHORS, Calibration, fmr_at
from aboveboard.biometrics.gallery import BINS, EDGES, SAMPLE, Faces, OwnScores, Sample, histogram
from aboveboard.biometrics.kernels import NUMPY
from aboveboard.biometrics.matching import normalise
from aboveboard.biometrics.scan import Scanner
from aboveboard.evaluation.drawn import cosine_at

DIMENSIONS = 48
TALLY = Scanner(1, NUMPY).tally


def quantised(vectors, numbers=None, subjects=None):
    scales = (np.abs(vectors).max(axis=1) / 127).astype(np.float32)
    rows = np.rint(vectors / scales[:, None]).astype(np.int8)
    numbers = np.arange(1, len(vectors) + 1) if numbers is None else numbers
    subjects = np.zeros(len(vectors), np.int64) if subjects is None else subjects
    return Faces(np.asarray(numbers, np.int64), rows, scales, np.asarray(subjects, np.int64))


def own_scores(vectors, subjects=None, members=SAMPLE):
    faces = quantised(vectors, subjects=subjects)
    sample = Sample(vectors.shape[1], TALLY)
    sample.choose(faces.at(slice(members)), lambda: [faces])
    return sample.scores(len(vectors))


def theory(dimensions):
    """The calibration of random directions: what two of them score is known exactly."""
    rates = sorted({*(10 ** (-step / 8) for step in range(3, 97)), *(rate for _, rate in ANCHORS)}, reverse=True)
    document = {
        "id": "theory", "model_version": "1", "measured_limit": 1e-6, "misses": [{"score": 0, "fnmr": 0}],
        "curve": [{"score": cosine_at(rate, dimensions), "fmr": rate} for rate in rates],
    }  # fmt: skip
    return Calibration.from_json(json.dumps(document))


THEORY = theory(DIMENSIONS)


def people(seed, n, likeness=0.0, dimensions=DIMENSIONS):
    """Random directions; `likeness` draws them all towards one, so that they score higher than promised, some more than others."""
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(n, dimensions))
    return normalise(vectors + likeness * random.exponential(size=(n, 1)) * random.normal(size=dimensions))


steps = st.lists(
    st.tuples(st.sampled_from(["come", "go", "subject", "sample"]), st.integers(0, 10**6), st.integers(1, 30)), min_size=1, max_size=8
)


@given(steps, st.integers(0, 10**6), st.sampled_from([3, 40, 1500]))
@settings(max_examples=60, deadline=None)
def test_any_row_of_comings_and_goings_leaves_what_a_recount_gives(row, seed, dimensions):
    """Faces come and go, change their subject, enter and leave the sample, duplicates among them: the counts are those of a scan in
    float64 of what is there."""
    random = np.random.default_rng(seed)
    sample, there, members, last = Sample(dimensions, TALLY), {}, [], 0

    def rows(numbers):
        parts = [there[one] for one in numbers]
        vectors = np.stack([row for row, _, _ in parts]) if parts else np.empty((0, dimensions), np.int8)
        scales, subjects = (np.array([part[i] for part in parts], kind) for i, kind in ((1, np.float32), (2, np.int64)))
        return Faces(np.array(numbers, np.int64), vectors, scales, subjects)

    for kind, number, count in row:
        gone = came = None
        if kind == "come":
            vectors = normalise(random.normal(size=(count, dimensions)))
            vectors[::3] = vectors[0]
            made = quantised(vectors)
            for i in range(count):
                last += 1
                there[last] = (made.rows[i], made.scales[i], int(random.integers(0, 4)))
            came = rows(range(last - count + 1, last + 1))
        elif kind == "go" and there:
            leaving = sorted(there)[number % len(there) :][:count]
            gone = rows(leaving)
            for one in leaving:
                del there[one]
        elif kind == "subject" and there:
            changing = sorted(there)[number % len(there) :][:count]
            gone = rows(changing)
            for one in changing:
                there[one] = (*there[one][:2], int(random.integers(0, 4)))
            came = rows(changing)
        if kind == "sample":
            members = sorted(random.permutation(sorted(there))[:count].tolist())
        members = [one for one in members if one in there]
        sample.move(gone, came)
        sample.choose(rows(members), lambda: [rows(sorted(there))])
    everything = rows(sorted(there))
    owners = np.where(everything.subjects > 0, everything.subjects, -everything.numbers)
    for i, one in enumerate(members):
        integers = everything.rows.astype(np.int64) @ there[one][0].astype(np.int64)
        others = owners != owners[sorted(there).index(one)]
        scores = (integers * there[one][1] * everything.scales)[others]
        clear = np.abs((scores + 1) * BINS / 2 % 1 - 0.5) < 0.499
        found, expected = sample.counts[i], np.histogram(np.clip(scores, -1, 1), EDGES)[0]
        assert found.sum() == np.count_nonzero(others)
        assert np.abs(np.cumsum(found - expected)).max(initial=0) <= np.count_nonzero(~clear)
    fresh = Sample(dimensions, TALLY)
    fresh.choose(rows(members), lambda: [everything.at([i]) for i in range(len(there))])
    assert np.array_equal(fresh.counts, sample.counts)


def test_what_was_counted_stays_as_it_was_and_can_be_kept():
    faces = quantised(people(1, 600))
    sample = Sample(DIMENSIONS, TALLY)
    sample.choose(faces.at(slice(100)), lambda: [faces.at(slice(500))])
    before = sample.scores(500)
    again = Sample(DIMENSIONS, TALLY)
    again.restore(faces.at(slice(100)), sample.counts)
    for one in (sample, again):
        one.move(None, faces.at(slice(500, 600)))
    assert before.counts.sum() == 100 * 499
    assert np.array_equal(again.counts, sample.counts)
    assert again.counts.sum() == 100 * 599


def test_the_histogram_of_a_search_has_the_same_bins():
    scores = np.array([-1.0, -0.9981, 0.0, 0.0019, 0.0021, 1.0])
    assert np.array_equal(histogram(scores), np.histogram(scores, EDGES)[0])


@pytest.mark.parametrize("known", [True, False])
def test_a_gallery_like_the_calibration_has_a_factor_of_one(known):
    """15 galleries: the ratios that can be told lie around 1, and their intervals hold it about as often as they say."""
    held, told, factors = 0, 0, []
    for seed in range(15):
        own = own_scores(people(seed, 3000), np.arange(1, 3001) if known else None)
        for level in own.levels(THEORY):
            if level.ratio is not None:
                told += 1
                held += level.low <= 1 <= level.high
                assert 0.5 < level.ratio < 1.6
            elif level.lacks == "errors":
                assert level.high > 1
        factors.append(own.factor(THEORY).value)
    assert told >= 15 * (5 if known else 1)
    assert held >= 0.88 * told
    assert np.mean(factors) == pytest.approx(1, abs=0.12)


def test_faces_that_are_more_alike_than_promised_have_a_higher_factor_the_stricter_the_level():
    """The found rates are those of all pairs of the gallery, of which the sample sees a part."""
    vectors = people(3, 3000, likeness=0.25)
    own = own_scores(vectors, np.arange(1, 3001))
    every = np.sort((vectors @ vectors.T)[np.triu_indices(3000, 1)].astype(np.float64))
    told = [level for level in own.levels(THEORY) if level.ratio is not None]
    assert own.factor(THEORY).value > 3
    assert own.factor(THEORY).similarity == told[-1].similarity >= 60
    for level in told:
        truth = (every.size - np.searchsorted(every, level.score)) / every.size
        assert level.low < truth / level.promised < level.high
    assert [level.ratio for level in told] == sorted(level.ratio for level in told)
    assert own.ratio_at(THEORY, 100) == told[-1].ratio
    assert own.ratio_at(THEORY, 35) == told[1].ratio
    assert own.ratio_at(THEORY, 0) == told[0].ratio


def with_mates(seed, n, each):
    """n people with `each` photographs, and whose they are."""
    random = np.random.default_rng(seed)
    base = np.repeat(people(seed, n), each, axis=0)
    order = random.permutation(n * each)
    vectors = normalise(base + 0.06 * random.normal(size=base.shape))
    return vectors[order], np.repeat(np.arange(1, n + 1), each)[order]


def test_known_mates_are_not_counted_and_unknown_ones_move_no_level_that_is_told():
    """1,000 people with four photographs each: with users the whole scale is told, without only where mates cannot matter; both say 1."""
    vectors, subjects = with_mates(5, 1000, 4)
    known, unknown = own_scores(vectors, subjects), own_scores(vectors)
    assert known.knows_mates
    assert not unknown.knows_mates
    assert known.factor(THEORY).similarity >= 60
    assert known.factor(THEORY).low < 1 < known.factor(THEORY).high
    assert unknown.factor(THEORY).similarity <= 40
    assert unknown.factor(THEORY).value == pytest.approx(1, abs=0.1)
    at_80 = next(level for level in unknown.levels(THEORY) if level.similarity == 80)
    assert at_80.lacks == "subjects"
    assert at_80.ratio is None
    assert at_80.high > 100, "an upper bound, and mates are in it"


def test_copies_under_two_ids_are_not_taken_for_false_matches():
    vectors = np.repeat(people(7, 1500), 2, axis=0)
    own = own_scores(vectors, np.arange(1, 3001))
    assert own.factor(THEORY).similarity >= 60
    assert own.factor(THEORY).value < 1.5


def bootstrap(vectors, subjects, members, scores, draws=400, seed=0):
    """Ratios when people are drawn with replacement, on both sides of each comparison."""
    random = np.random.default_rng(seed)
    number = int(subjects.max())
    pairs = vectors[:members] @ vectors.T
    others = subjects[:members, None] != subjects
    weights = random.multinomial(number, np.full(number, 1 / number), size=draws)[:, subjects - 1].astype(np.float64)
    all_of = np.einsum("ki,ij,kj->k", weights[:, :members], others, weights, optimize=True)
    return [np.einsum("ki,ij,kj->k", weights[:, :members], (pairs >= score) & others, weights, optimize=True) / all_of for score in scores]


@pytest.mark.parametrize(("people_", "each", "members"), [(2000, 1, 512), (600, 1, 512), (700, 3, 512)])
def test_intervals_are_as_wide_as_those_of_a_bootstrap_over_people(people_, each, members):
    """An analytic interval, because a search must not wait for a bootstrap; at R close to N, at R well below it, and with several faces."""
    random = np.random.default_rng(11)
    vectors = np.repeat(people(11, people_, likeness=0.25), each, axis=0)
    vectors = normalise(vectors + 0.05 * random.normal(size=vectors.shape))
    order = random.permutation(len(vectors))
    vectors, subjects = vectors[order], (np.repeat(np.arange(1, people_ + 1), each))[order]
    told = [level for level in own_scores(vectors, subjects, members).levels(THEORY) if level.ratio is not None][:5]
    drawn = bootstrap(vectors, subjects, members, [level.score for level in told])
    for level, draws in zip(told, drawn, strict=True):
        spread = float(np.std(np.log(np.maximum(draws, 1e-12))))
        assert np.log(level.high / level.low) / 3.92 == pytest.approx(spread, rel=0.3), level


def test_a_candidates_share_is_that_of_the_gallerys_pairs_or_their_bound():
    own = own_scores(people(13, 1000))
    middle = own.share(0.0)
    assert not middle.is_bound
    assert middle.value == pytest.approx(0.5, abs=0.02)
    shares = [own.share(score / 10) for score in range(-10, 11)]
    assert shares[0].value == 1
    assert [one.value for one in shares if not one.is_bound] == sorted((one.value for one in shares if not one.is_bound), reverse=True)
    assert own.share(0.99).is_bound
    assert own.share(0.99).value == pytest.approx(3 / own.pairs, rel=0.01)
    assert own.pairs == round(512 * 999 - 512 * 511 / 2)


def test_the_distribution_stands_beside_the_promise():
    own = own_scores(people(17, 3000), np.arange(1, 3001))
    points = own.points(THEORY)
    assert [point.similarity for point in points] == list(range(5, 101, 5))
    for point in points[:7]:
        assert point.found == pytest.approx(point.promised, rel=0.15)
    assert points[15].promised == pytest.approx(fmr_at(80), rel=0.2)
    assert isinstance(own, OwnScores)


def test_a_scale_that_is_shorter_than_a_bin_tells_nothing_and_breaks_nothing():
    rates = [rate for _, rate in ANCHORS]
    curve = [{"score": 0.9991 + 1e-4 * i, "fmr": rate} for i, rate in enumerate(rates)]
    document = {"id": "short", "model_version": "1", "measured_limit": 1e-6, "misses": [{"score": 0, "fnmr": 0}], "curve": curve}
    check = own_scores(people(1, 600)).check(Calibration.from_json(json.dumps(document)))
    assert check.factor is None
    assert all(level.ratio is None for level in check.levels)
