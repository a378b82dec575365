"""Ways to search one matrix of unit templates: Aboveboard's, and its peers. Each answers rows, best first."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import usearch.index
from numpy.typing import NDArray
from search_data import Vectors

from aboveboard.biometrics.matching import comparison_scores
from aboveboard.biometrics.scan import Rows, Scanner

K, CHUNK, PAUSE_S = 10, 32, 0.03
Found = NDArray[np.int64]


@dataclass(frozen=True)
class Engine:
    """`search` takes one probe (d,), `batch` many (b, d); `bytes` are those that it reads of each template."""

    bytes: int
    search: Callable[[Vectors], Found] | None = None
    batch: Callable[[Vectors], Sequence[Found]] | None = None


def best(scores: NDArray[Any], k: int = K) -> Found:
    """The k highest, best first: the faster for looking at the highest of each 32 first."""
    whole = len(scores) // CHUNK * CHUNK
    peaks = scores[:whole].reshape(-1, CHUNK).max(axis=1)
    least = np.partition(peaks, -k)[-k] if len(peaks) >= k else -np.inf
    near = np.flatnonzero(scores >= least)
    return near[np.lexsort((near, -scores[near]))][:k]


def exact(matrix: Vectors, probe: Vectors, near: Found) -> Found:
    """The k best of a few rows by their scores in float64."""
    scores = comparison_scores(probe, matrix[near])
    return near[np.lexsort((near, -scores))][:K]


def truth(matrix: Vectors, probes: Vectors) -> list[Found]:
    """The k best rows by float64 scores over all rows, ties by row."""
    kept: list[list[tuple[float, int]]] = [[] for _ in probes]
    for start in range(0, len(matrix), 20_000):
        scores = matrix[start : start + 20_000].astype(np.float64) @ probes.T.astype(np.float64)
        for one, column in zip(kept, scores.T, strict=True):
            one += [(float(column[i]), start + int(i)) for i in np.argpartition(-column, min(2 * K, len(column) - 1))[: 2 * K]]
    return [exact(matrix, probe, np.array(sorted(row for _, row in one))) for probe, one in zip(probes, kept, strict=True)]


def ours(matrix: Vectors, rows: Rows, scanner: Scanner) -> Engine:
    def search(probe: Vectors) -> Found:
        return exact(matrix, probe, scanner.scan(rows, probe).best(K, -1))

    def batch(probes: Vectors) -> list[Found]:
        return [exact(matrix, probe, near) for probe, near in zip(probes, scanner.best_of_batch(rows, probes, K, -1), strict=True)]

    return Engine(rows.codes.shape[1] + 8, search, batch)


def in_numpy(matrix: Vectors) -> Engine:
    return Engine(
        4 * matrix.shape[1],
        lambda probe: best(matrix @ probe),
        lambda probes: [best(scores) for scores in np.ascontiguousarray(probes @ matrix.T)],
    )


def in_faiss(matrix: Vectors) -> Engine:
    index = faiss.IndexFlatIP(matrix.shape[1])
    index.add(matrix)
    return Engine(4 * matrix.shape[1], lambda probe: index.search(probe[None], K)[1][0], lambda probes: list(index.search(probes, K)[1]))


def in_faiss_8bit(matrix: Vectors) -> Engine:
    index = faiss.IndexScalarQuantizer(matrix.shape[1], faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
    index.train(matrix[:50_000])
    index.add(matrix)
    return Engine(matrix.shape[1], lambda probe: index.search(probe[None], K)[1][0])


def in_usearch(matrix: Vectors) -> Engine:
    """Its exact search of 8-bit rows, which are given the finest scale that cuts only numbers beyond 4.5 standard deviations."""
    scale = np.float32(127 * matrix.shape[1] ** 0.5 / 4.5)
    codes = np.empty(matrix.shape, np.int8)
    for start in range(0, len(matrix), 20_000):
        codes[start : start + 20_000] = np.clip(np.rint(matrix[start : start + 20_000] * scale), -127, 127)

    def search(probe: Vectors) -> Found:
        query = np.clip(np.rint(probe * scale), -127, 127).astype(np.int8)
        metric = usearch.index.MetricKind.IP
        return usearch.index.search(codes, query, K, metric, exact=True, threads=0).keys.astype(np.int64)

    return Engine(matrix.shape[1], search)


PEERS: dict[str, Callable[[Vectors], Engine]] = {
    "numpy float32": in_numpy,
    "faiss IndexFlatIP": in_faiss,
    "faiss SQ8": in_faiss_8bit,
    "usearch exact i8": in_usearch,
}


def groups_ours(matrix: Vectors, rows: Rows, slots: NDArray[np.int32], groups: int, scanner: Scanner) -> Callable[[Vectors], Found]:
    """The k groups whose best row scores highest, by that row's float64 score."""

    def search(probe: Vectors) -> Found:
        near, reach, peaks = scanner.best_of_groups(rows, probe[None], slots, groups, -1)
        near = near[reach >= np.partition(peaks, -K)[-K]]
        order = near[np.argsort(-comparison_scores(probe, matrix[near]), kind="stable")]
        _, first = np.unique(slots[order], return_index=True)
        return slots[order[np.sort(first)]][:K].astype(np.int64)

    return search


def groups_numpy(matrix: Vectors, slots: NDArray[np.int32], groups: int) -> Callable[[Vectors], Found]:
    def search(probe: Vectors) -> Found:
        peaks = np.full(groups, -2, np.float32)
        np.maximum.at(peaks, slots, matrix @ probe)
        return best(peaks)

    return search


def interleaved(
    works: Mapping[str, Callable[[Any], Any]], probes: Sequence[Any], pause_s: float = 0
) -> tuple[dict[str, list[float]], dict[str, list[Any]]]:
    """Seconds and answers of each work for each probe, the works in an order drawn anew for each; `pause_s` before each call."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    answers: dict[str, list[Any]] = {name: [] for name in works}
    draw = random.Random(0)
    for work in works.values():
        work(probes[0])
    for probe in probes:
        for name in draw.sample(list(works), len(works)):
            time.sleep(pause_s)
            start = time.perf_counter()
            answer = works[name](probe)
            seconds[name].append(time.perf_counter() - start)
            answers[name].append(answer)
    return seconds, answers


def figures(seconds: Sequence[float], size: int = 1) -> dict[str, float]:
    """Median and best in ms, and GB/s where `size` bytes were read."""
    median = statistics.median(seconds)
    return {"ms": 1e3 * median, "best_ms": 1e3 * min(seconds), "gb_s": size / median / 1e9}


def identical(found: Sequence[Found], true: Sequence[Found]) -> dict[str, float]:
    """Shares of the queries with the same set of rows as the truth, and with the same order."""
    pairs = list(zip(found, true, strict=True))
    return {
        "same_set": sum(set(a.tolist()) == set(b.tolist()) for a, b in pairs) / len(pairs),
        "same_order": sum(a.tolist() == b.tolist() for a, b in pairs) / len(pairs),
    }
