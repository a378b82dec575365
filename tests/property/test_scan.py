"""The two-stage scan answers what float64 says, for any rows: the bound never loses a row that belongs to the answer."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aboveboard.biometrics import kernels
from aboveboard.biometrics.gallery import BINS
from aboveboard.biometrics.kernels import NUMPY
from aboveboard.biometrics.matching import comparison_scores
from aboveboard.biometrics.scan import Rows, Scanner, quantise

COMPILED = kernels.compiled()
LOOPS = {"numpy": NUMPY, "compiled": COMPILED}


def rows(seed, n, d, kind):
    """Templates of length 1 at most, hard to quantise in the way that `kind` names."""
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((n, d))
    if kind == "giant coordinate":
        vectors[np.arange(n), random.integers(0, d, n)] = 1000
    elif kind == "heavy tails":
        vectors = random.standard_t(1.5, (n, d))
    elif kind == "duplicates":
        vectors = vectors[random.integers(0, max(n // 5, 1), n)]
    elif kind == "nearly equal":
        vectors = vectors[:1] + 1e-6 * vectors
    elif kind == "few numbers":
        vectors = np.sign(vectors)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    if kind == "zeros":
        vectors[random.random(n) < 0.3] = 0
    return vectors.astype(np.float32)


KINDS = ["plain", "giant coordinate", "heavy tails", "duplicates", "nearly equal", "few numbers", "zeros"]
galleries = st.tuples(
    st.integers(0, 10**6),
    st.sampled_from([0, 1, 2, 63, 64, 65, 300, 1500]),
    st.sampled_from([1, 8, 31, 32, 33, 128, 512]),
    st.sampled_from(KINDS),
)


def probe_of(vectors, seed, kind):
    d = vectors.shape[1]
    if len(vectors) and seed % 3:
        return vectors[seed % len(vectors)]
    return rows(seed, 1, d, "plain" if kind == "zeros" else kind)[0]


def answer(near, vectors, probe, limit, floor):
    """What is answered once the rows that are near are scored exactly; ties by row."""
    scores = comparison_scores(probe, vectors[near]) if len(near) else np.empty(0)
    kept = [(-score, row) for row, score in zip(near.tolist(), scores.tolist(), strict=True) if score >= floor]
    return sorted(kept)[:limit]


def truth(vectors, probe, limit, floor):
    return answer(np.arange(len(vectors)), vectors, probe, limit, floor)


@given(galleries, st.sampled_from([1, 10, 100, 4096]), st.one_of(st.just(-1.0), st.floats(-1, 1.01)), st.sampled_from(list(LOOPS)))
@settings(max_examples=150, deadline=None)
def test_nothing_that_belongs_to_the_answer_is_lost(gallery, limit, floor, loops):
    seed, n, d, kind = gallery
    vectors = rows(seed, n, d, kind)
    probe = probe_of(vectors, seed, kind)
    scan = Scanner(1, LOOPS[loops]).scan(quantise(vectors), probe)
    if seed % 5 == 0 and n:  # a threshold that is one of the scores
        floor = comparison_scores(probe, vectors)[seed % n]
    assert answer(scan.best(limit, floor), vectors, probe, limit, floor) == truth(vectors, probe, limit, floor)
    low, high = scan.bounds()
    exact = np.einsum("ij,j->i", vectors.astype(np.float64), probe.astype(np.float64))
    assert np.all(low <= exact)
    assert np.all(exact <= high)
    assert int(scan.histogram.sum()) == n


@given(galleries, st.integers(1, 7), st.sampled_from([1, 10, 100]), st.floats(-1, 1), st.sampled_from(list(LOOPS)))
@settings(max_examples=60, deadline=None)
def test_a_batch_answers_as_its_probes_alone_do(gallery, count, limit, floor, loops):
    seed, n, d, kind = gallery
    vectors = rows(seed, n, d, kind)
    probes = np.stack([probe_of(vectors, seed + i, kind) for i in range(count)])
    scanner, quantised = Scanner(2, LOOPS[loops]), quantise(vectors)
    for probe, near in zip(probes, scanner.best_of_batch(quantised, probes, limit, floor), strict=True):
        assert answer(near, vectors, probe, limit, floor) == truth(vectors, probe, limit, floor)
    pairs = {pair for a, b in scanner.near(quantised, probes, floor) for pair in zip(a.tolist(), b.tolist(), strict=True)}
    for j, probe in enumerate(probes):
        assert {(row, j) for _, row in truth(vectors, probe, n, floor)} <= pairs
    scanner.close()


@given(galleries, st.integers(1, 3), st.integers(1, 40), st.floats(-1, 1), st.sampled_from(list(LOOPS)))
@settings(max_examples=60, deadline=None)
def test_the_best_of_each_group_is_among_the_rows_that_are_named(gallery, count, groups, floor, loops):
    seed, n, d, kind = gallery
    vectors = rows(seed, n, d, kind)
    probes = np.stack([probe_of(vectors, seed + i, kind) for i in range(count)])
    slots = np.random.default_rng(seed).integers(-1, groups, n).astype(np.int32)
    near, high, least = Scanner(1, LOOPS[loops]).best_of_groups(quantise(vectors), probes, slots, groups, floor)
    scores = np.max([comparison_scores(probe, vectors) for probe in probes], axis=0)
    for group in range(groups):
        own = np.flatnonzero(slots == group)
        if len(own):
            best = scores[own].max()
            assert least[group] <= best
            if best >= floor:
                chosen = near[slots[near] == group]
                assert scores[chosen].max() == best
                assert high[np.flatnonzero(near == chosen[scores[chosen].argmax()])[0]] >= best
    assert not np.any(slots[near] < 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 1), (130, 33), (5000, 128), (700, 512)])
def test_compiled_loops_and_numpy_give_the_same_numbers(kind, shape):
    vectors = rows(1, *shape, kind)
    quantised = quantise(vectors)
    one, other = (Scanner(1, loops).scan(quantised, vectors[0]) for loops in LOOPS.values())
    for left, right in zip(
        (one.scores, one.low, one.high, one.histogram), (other.scores, other.low, other.high, other.histogram), strict=True
    ):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("kind", KINDS)
def test_compiled_loops_and_numpy_count_the_same_scores(kind):
    """Of 70 members with 600 faces of 50 owners: each score of two owners once, in the bin where it lies."""
    quantised = quantise(rows(3, 600, 40, kind))
    owners = np.random.default_rng(4).integers(0, 50, 600)
    counts = [np.zeros((70, BINS), np.int32) for _ in LOOPS]
    members = quantised.codes[:70], quantised.scales[:70], owners[:70]
    for one, loops in zip(counts, LOOPS.values(), strict=True):
        Scanner(1, loops).tally((quantised.codes, quantised.scales, owners), members, one)
    np.testing.assert_array_equal(*counts)
    assert counts[0].sum(axis=1).tolist() == [int(np.count_nonzero(owners != owner)) for owner in owners[:70]]
    exact = (quantised.codes * quantised.scales[:, None].astype(np.float64)) @ (quantised.codes[0] * np.float64(quantised.scales[0]))
    places = np.clip(((exact[owners != owners[0]] + 1) * BINS / 2).astype(int), 0, BINS - 1)
    found = np.repeat(np.arange(BINS), counts[0][0])
    assert np.abs(np.sort(places) - found).max() <= 1


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_share_the_rows_without_a_gap(threads):
    vectors = rows(2, 70_000, 32, "plain")
    scanner = Scanner(threads)
    scan = scanner.scan(quantise(vectors), vectors[7])
    assert answer(scan.best(50, -1), vectors, vectors[7], 50, -1) == truth(vectors, vectors[7], 50, -1)
    assert int(scan.histogram.sum()) == len(vectors)
    scanner.close()


def test_a_histogram_counts_scores_where_they_lie():
    scan = Scanner(1).scan(quantise(np.array([[1, 0], [0, 1], [-1, 0]], np.float32)), np.array([1, 0], np.float32))
    assert [int(place) for place in np.flatnonzero(scan.histogram)] == [0, BINS // 2, BINS - 1]


@pytest.mark.parametrize("vector", [[np.nan, 0], [np.inf, 0], [2, 0]])
def test_what_is_no_template_is_refused(vector):
    with pytest.raises(ValueError):
        quantise(np.array([vector], np.float32))
    with pytest.raises(ValueError):
        Scanner(1).scan(quantise(np.zeros((1, 2), np.float32)), np.array(vector, np.float32))


@pytest.mark.long
def test_machine_code_is_kept_from_one_process_to_the_next(tmp_path):
    script = (
        "import numpy as np; from aboveboard.biometrics import kernels; from aboveboard.biometrics.scan import Scanner, quantise\n"
        "loops, one = kernels.compiled(), np.eye(4, 32, dtype=np.float32)\n"
        "Scanner(1, loops).scan(quantise(one), one[0]); print(sum(loops.scan.stats.cache_hits.values()))"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    said = [subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=True).stdout for _ in range(2)]
    assert said == [b"0\n", b"1\n"]


@pytest.mark.long
@pytest.mark.parametrize(("n", "d"), [(1_000_000, 128), (300_000, 512)])
def test_a_million_rows_are_searched_exactly(n, d):
    """With mates, near-ties and heavy tails among them; every k and thresholds, single and in a batch."""
    random = np.random.default_rng(5)
    vectors = random.standard_normal((n, d), dtype=np.float32)
    vectors[: n // 10] = random.standard_t(2, (n // 10, d))
    vectors[n // 2 : n // 2 + 5000] = vectors[:1] + 0.3 * vectors[n // 2 : n // 2 + 5000]
    vectors[-3000:] = vectors[5]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    parts = [quantise(vectors[i : i + 8192]) for i in range(0, n, 8192)]
    quantised = Rows(*(np.concatenate(part) for part in zip(*parts, strict=True)))
    probes = vectors[[0, 5, 77, n // 2 + 3, n // 3]]
    scanner = Scanner()
    batches = scanner.best_of_batch(quantised, probes, 10, -1)
    for j, probe in enumerate(probes):
        scores, scan = comparison_scores(probe, vectors), scanner.scan(quantised, probe)
        order = np.lexsort((np.arange(n), -scores))
        for limit in (1, 10, 100, 4096):
            wanted = [(-scores[row], row) for row in order[:limit].tolist()]
            assert answer(scan.best(limit, -1), vectors, probe, limit, -1) == wanted
        assert answer(batches[j], vectors, probe, 10, -1) == [(-scores[row], row) for row in order[:10].tolist()]
        for floor in (float(scores[order[20]]), 0.3, 0.99):
            wanted_rows = {row for row in order[:10_000].tolist() if scores[row] >= floor}
            assert {row for _, row in answer(scan.best(n, floor), vectors, probe, n, floor)} == wanted_rows
    scanner.close()
