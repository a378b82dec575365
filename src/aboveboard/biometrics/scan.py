"""The exact scan in two stages: a pass over 8-bit rows that proves which few can be among the best, and their scores in float64.

A template x (d,) is kept as x8 = codes * scale, with its error e >= ||x - x8||; a query q as q8, with ||q - q8|| known. By Cauchy and
Schwarz |x.q - x8.q8| <= e ||q|| + ||x8|| ||q - q8||: no row whose upper bound lies below the k-th best lower bound, or below the
threshold, can be an answer. Sums of products of integers are exact. There is no approximate index: a missed mate is a wrong answer.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aboveboard.biometrics import kernels
from aboveboard.biometrics.gallery import BINS, Counted
from aboveboard.biometrics.kernels import CHUNK, LANES, NUMPY, Kernels
from aboveboard.biometrics.vocabulary import Vector

_LONGEST = 1.0001
"""Unit templates are a little longer or shorter in float32."""
_SLACK = 4e-6
"""More than what a handful of float32 operations on numbers of about 1 err by."""
_SLICE = 2 << 20
"""Bytes of codes that a thread takes at a time."""
_SMALL = 1 << 20
"""Below so many bytes of codes neither threads nor compiled loops pay."""
_BLOCK = 1024
"""Rows that are multiplied with a batch of queries at a time."""
_TALLIED = 1024
"""Faces that are counted with the members of a sample at a time."""
_PROBES = 8
"""Probes of a batch whose best rows are picked at a time."""


class Rows(NamedTuple):
    """Templates as they are scanned: codes (n, w), scales and errors (n,). Row i stands for codes[i] * scales[i]."""

    codes: NDArray[np.int8]
    scales: NDArray[np.float32]
    errors: NDArray[np.float32]

    def part(self, some: slice | NDArray[np.int64]) -> Rows:
        return Rows(self.codes[some], self.scales[some], self.errors[some])

    def copy(self) -> Rows:
        return Rows(self.codes.copy(), self.scales.copy(), self.errors.copy())


def width(dimension: int) -> int:
    """Codes of a row of d numbers: d, filled up with zeros to whole registers."""
    return -(-dimension // LANES) * LANES


def quantise(vectors: NDArray[np.float32]) -> Rows:
    """8-bit rows of templates (n, d) of length 1 at most, each with its own scale, and their exact errors, rounded up.

    A scale of its own for each row needs no clipping, so that one large number costs precision in its row only.
    """
    exact = vectors.astype(np.float64)
    if not np.all(np.isfinite(exact)) or np.any(np.einsum("ij,ij->i", exact, exact) > _LONGEST**2):
        raise ValueError("a template is not finite or longer than 1")
    scales = np.maximum(np.abs(exact).max(axis=1, initial=0.0) / 127, 1e-30).astype(np.float32)
    rounded = np.clip(np.rint(exact / scales[:, None]), -127, 127)
    errors = np.linalg.norm(exact - rounded * scales[:, None].astype(np.float64), axis=1)
    codes = np.zeros((len(vectors), width(vectors.shape[1])), np.int8)
    codes[:, : vectors.shape[1]] = rounded
    return Rows(codes, scales, np.nextafter(errors.astype(np.float32), np.float32(np.inf)))


@dataclass(frozen=True, slots=True)
class _Query:
    """A probe in whole numbers. The true score of a row lies within errors * per_error + constant of its rough score."""

    numbers: NDArray[np.int16]
    factor: np.float32
    per_error: np.float32
    constant: np.float32

    @staticmethod
    def of(probe: Vector) -> _Query:
        """In numbers of two bytes, no larger than that no sum of products with a row's codes leaves 32 bits."""
        exact = probe.astype(np.float64)
        length = float(np.linalg.norm(exact))
        if not length <= _LONGEST:
            raise ValueError("a probe is not finite or longer than 1")
        numbers = np.zeros(width(len(probe)), np.int16)
        most = min(32_767, (2**31 - 1) // (127 * max(len(numbers), 1)))
        factor = np.float32(max(np.abs(exact).max(initial=0.0), 1e-30) / most)
        numbers[: len(probe)] = np.clip(np.rint(exact / factor), -most, most)
        error = float(np.linalg.norm(exact - numbers[: len(probe)] * np.float64(factor)))
        per_error = np.nextafter(np.float32(length + error), np.float32(2))
        return _Query(numbers, factor, per_error, np.float32(_LONGEST * error + _SLACK))


@dataclass(frozen=True, slots=True)
class Rough:
    """What one pass gave: per row a rough score with its bound, per chunk of rows the best of each bound, and a histogram of the scores."""

    scores: NDArray[np.float32]
    errors: NDArray[np.float32]
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    histogram: NDArray[np.int64]
    per_error: np.float32
    constant: np.float32

    def bounds(self, rows: slice | NDArray[np.int64] = slice(None)) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Lower and upper bounds of the true scores of some rows."""
        bound = self.errors[rows] * self.per_error + self.constant
        return self.scores[rows] - bound, self.scores[rows] + bound

    def best(self, limit: int, floor: float) -> NDArray[np.int64]:
        """Rows, ascending, among which are all that are truly among the best `limit` of those at or above the floor, with ties."""
        n, least = len(self.scores), _below(floor)
        if 4 * limit <= len(self.low):
            # Each chunk's best row is another one, so that the k-th of them is no better than the k-th of all.
            least = max(least, _kth(self.low, limit))
        chunks = np.flatnonzero(self.high >= least)
        near = (chunks[:, None] * CHUNK + np.arange(CHUNK)).ravel()
        near = near[: np.searchsorted(near, n)]
        low, high = self.bounds(near)
        if len(near) > limit:
            least = max(least, _kth(low, limit))
        return near[high >= least]


class Scanner:
    """Runs scans on all processors, with compiled loops where there are many rows. Threads may share it."""

    def __init__(self, threads: int | None = None, loops: Kernels | None = None) -> None:
        """`loops`: these for every scan; otherwise numpy for few rows and compiled ones, made when first needed, for many."""
        processors = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self._threads, free = threads or len(processors) or os.cpu_count() or 1, iter(processors)

        def stay() -> None:
            # A thread that is woken anywhere is woken where its waker runs, and waits there for milliseconds beside an idle processor.
            if (own := next(free, None)) is not None:
                os.sched_setaffinity(0, {own})

        self._pool = ThreadPoolExecutor(self._threads, "scan", stay) if self._threads > 1 else None
        self._loops, self._lock = loops, threading.Lock()
        self._compiled: Kernels | None = None

    def scan(self, rows: Rows, probe: Vector) -> Rough:
        """One pass over all rows."""
        loops, query = self._kernels(rows), _Query.of(probe)
        n, chunks = len(rows.codes), -(-len(rows.codes) // CHUNK)
        scores, low, high = np.empty(n, np.float32), np.empty(chunks, np.float32), np.empty(chunks, np.float32)

        def one(some: slice, counts: NDArray[np.int64]) -> None:
            over = slice(some.start // CHUNK, -(-some.stop // CHUNK))
            bound = query.factor, query.per_error, query.constant
            loops.scan(*rows.part(some), query.numbers, *bound, scores[some], low[over], high[over], counts)

        counts = self._each(n, max(_SLICE // rows.codes.shape[1] // CHUNK, 1) * CHUNK, one)
        return Rough(scores, rows.errors, low, high, counts, query.per_error, query.constant)

    def best_of_groups(
        self, rows: Rows, probes: NDArray[np.float32], slots: NDArray[np.int32], groups: int, floor: float
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """Rows, ascending, among which is the best of each group (slots (n,), -1 for none) with any of the probes (p, d), if at the floor.

        And what their scores are at most, and what each group's best score is at least (groups,).
        """
        low, high = self.scan(rows, probes[0]).bounds()
        for probe in probes[1:]:
            lower, upper = self.scan(rows, probe).bounds()
            np.maximum(low, lower, out=low)
            np.maximum(high, upper, out=high)
        best = np.full(groups, -np.inf, np.float32)
        self._kernels(rows).peaks(low, slots, best)
        near = np.flatnonzero((high >= _below(floor)) & (slots >= 0))
        near = near[high[near] >= best[slots[near]]]
        return near, high[near], best

    def best_of_batch(self, rows: Rows, probes: NDArray[np.float32], limit: int, floor: float) -> list[NDArray[np.int64]]:
        """For each of the probes (b, d) what `Rough.best` answers, in one pass over the rows."""
        queries = [_Query.of(probe) for probe in probes]
        numbers = np.stack([query.numbers for query in queries])
        factors, constants = (np.array([getattr(query, name) for query in queries]) for name in ("factor", "constant"))
        per_error = max(query.per_error for query in queries)
        loops, n = self._kernels(rows), len(rows.codes)
        low = np.empty((-(-n // CHUNK), len(probes)), np.float32)
        high = np.empty_like(low)

        def one(some: slice, _: NDArray[np.int64]) -> None:
            over = slice(some.start // CHUNK, -(-some.stop // CHUNK))
            codes, scales, errors = rows.part(some)
            loops.blocks(loops.multiply(codes, numbers), scales, errors, factors, per_error, constants, low[over], high[over])

        self._each(n, _BLOCK, one)
        found = [np.empty(0, np.int64)] * len(queries)

        def two(some: slice, _: NDArray[np.int64]) -> None:
            for j in range(some.start, some.stop):
                query = queries[j]
                least = max(_below(floor), _kth(low[:, j], limit)) if 4 * limit <= len(low) else _below(floor)
                near = (np.flatnonzero(high[:, j] >= least)[:, None] * CHUNK + np.arange(CHUNK)).ravel()
                near = near[: np.searchsorted(near, n)]
                rough = np.empty(len(near), np.float32)
                loops.chosen(rows.codes, rows.scales, near, query.numbers, query.factor, rough)
                bound = rows.errors[near] * query.per_error + query.constant
                if len(near) > limit:
                    least = max(least, _kth(rough - bound, limit))
                found[j] = near[rough + bound >= least]

        self._each(len(queries), _PROBES, two)
        return found

    def near(self, rows: Rows, probes: NDArray[np.float32], floor: float) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Block by block (rows, probes) of all pairs that may be at or above the floor."""
        queries = [_Query.of(probe) for probe in probes]
        numbers = np.stack([query.numbers for query in queries])
        loops = self._kernels(rows)
        factor, constant, per_error = (max(getattr(query, name) for query in queries) for name in ("factor", "constant", "per_error"))
        for start in range(0, len(rows.codes), _BLOCK):
            codes, scales, errors = rows.part(slice(start, start + _BLOCK))
            needed = (_below(floor) - constant - errors * per_error) / scales
            # For the largest factor; where even nothing would do, all pairs may.
            least = np.where(needed > 0, np.floor(needed / factor * np.float32(1 - 1e-6)), -np.inf)
            which, probe = np.nonzero(loops.multiply(codes, numbers) >= least[:, None])
            yield which + start, probe

    def tally(self, faces: Counted, members: Counted, counts: NDArray[np.int32]) -> None:
        """Add to counts (b, BINS) where the scores of b members with m faces of other owners lie."""
        codes, scales, owners = faces
        if not len(counts):
            return
        loops = self._loops_for(codes.size * len(counts))
        factors = members[1] * np.float32(BINS / 2)

        def one(some: slice, _: NDArray[np.int64]) -> None:
            for start in range(0, len(codes), _TALLIED):
                which = slice(start, start + _TALLIED)
                products = loops.multiply(members[0][some], codes[which].astype(np.int16))
                loops.tally(products, factors[some], members[2][some], scales[which], owners[which], counts[some])

        self._each(len(counts), -(-len(counts) // self._threads) if codes.size >= _SMALL else len(counts), one)

    def warm(self) -> None:
        """Compile the loops now."""
        rows = quantise(np.zeros((_SMALL // LANES, LANES), np.float32))
        self.scan(rows, np.zeros(LANES, np.float32))

    def close(self) -> None:
        if self._pool:
            self._pool.shutdown()

    def _kernels(self, rows: Rows) -> Kernels:
        return self._loops_for(rows.codes.size)

    def _loops_for(self, products: int) -> Kernels:
        """The loops for so many products of two numbers."""
        if self._loops:
            return self._loops
        if products < _SMALL:
            return NUMPY
        with self._lock:
            if self._compiled is None:
                try:
                    self._compiled = kernels.compiled()
                except ImportError:
                    self._compiled = NUMPY
            return self._compiled

    def _each(self, n: int, size: int, work: Callable[[slice, NDArray[np.int64]], None]) -> NDArray[np.int64]:
        """Do the work on slices of n rows, in all threads while the caller waits; returns the sum of what it counted.

        Who is free takes the next slice: a thread whose processor has other work takes fewer of them.
        """
        slices = [slice(start, min(start + size, n)) for start in range(0, n, size)]
        turn = itertools.count()

        def take() -> NDArray[np.int64]:
            counts = np.zeros(BINS, np.int64)
            while (i := next(turn)) < len(slices):
                work(slices[i], counts)
            return counts

        if self._pool is None or len(slices) < 2:
            return take()
        takers = [self._pool.submit(take) for _ in range(min(self._threads, len(slices)))]
        total: NDArray[np.int64] = np.sum([taker.result() for taker in takers], axis=0)
        return total


def _below(floor: float) -> np.float32:
    return np.float32(np.nextafter(np.float32(floor), np.float32(-np.inf)))


def _kth(values: NDArray[np.float32], k: int) -> np.float32:
    """The k-th largest, but at most 1: scores are cut there, so that all above are ties."""
    return np.float32(min(np.partition(values, len(values) - k)[len(values) - k], 1))
