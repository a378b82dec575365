"""The inner loops of the scan: compiled with Numba, and the same in numpy where nothing was compiled. Both give the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aboveboard.biometrics.gallery import BINS

LANES = 32
"""Codes of a row come in multiples of this many: one vector register of 16-bit products."""
TILE = 4
"""Rows and queries of a batch that are multiplied together: 4 x 4 sums fill half of the vector registers, and one of them in the end."""
NEAR = 64
"""Rows of a batch that stay in the processor's nearest cache, with TILE queries."""
CHUNK = 64
"""Rows whose best bounds are kept together, so that most rows are passed over without being looked at singly."""

Scan = Callable[..., None]
"""(codes, scales, errors, query, factor, per_error, constant, rough, low, high, counts): fills the last four; see `scan_numpy`."""
Peaks = Callable[..., None]
"""(lower, slots, best): best[slot] becomes the highest lower bound of its rows; slot -1 is passed over."""


Blocks = Callable[..., None]
"""(products, scales, errors, factors, per_error, constants, low, high): fills the last two; see `blocks_numpy`."""
Multiply = Callable[[NDArray[np.int8], NDArray[np.int16]], NDArray[np.int32]]
"""Sums of products of each row of (m, w) with each of (b, w), none of which leaves 32 bits: (m, b)."""
Chosen = Callable[..., None]
"""(codes, scales, which, query, factor, rough): fills the last with what `Scan` gives for the rows `which`."""
Tally = Callable[..., None]
"""(products, factors, member_owners, scales, owners, counts): adds to the last; see `tally_numpy`."""


@dataclass(frozen=True, slots=True)
class Kernels:
    """One way to run the loops."""

    scan: Scan
    peaks: Peaks
    blocks: Blocks
    multiply: Multiply
    chosen: Chosen
    tally: Tally


def scan_numpy(
    codes: NDArray[np.int8],
    scales: NDArray[np.float32],
    errors: NDArray[np.float32],
    query: NDArray[np.int16],
    factor: np.float32,
    per_error: np.float32,
    constant: np.float32,
    rough: NDArray[np.float32],
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    counts: NDArray[np.int64],
) -> None:
    """Rough scores of codes (n, w) with a query (w,), the best lower and upper bound of each chunk, and a histogram added to counts."""
    for start in range(0, len(codes), 128 * CHUNK):
        some = slice(start, start + 128 * CHUNK)
        rough[some] = multiply_numpy(codes[some], query[None])[:, 0].astype(np.float32) * (scales[some] * factor)
    bound = errors * per_error + constant
    _best_of_chunks(rough, bound, low, high)
    places = ((rough + np.float32(1)) * np.float32(BINS / 2)).astype(np.int64)
    counts += np.bincount(np.clip(places, 0, BINS - 1), minlength=BINS)


def chosen_numpy(
    codes: NDArray[np.int8],
    scales: NDArray[np.float32],
    which: NDArray[np.int64],
    query: NDArray[np.int16],
    factor: np.float32,
    rough: NDArray[np.float32],
) -> None:
    """Rough scores of some rows, as `scan_numpy` gives them."""
    rough[:] = multiply_numpy(codes[which], query[None])[:, 0].astype(np.float32) * (scales[which] * factor)


def peaks_numpy(lower: NDArray[np.float32], slots: NDArray[np.int32], best: NDArray[np.float32]) -> None:
    """best[slot] becomes the highest lower bound of the rows of that slot."""
    owned = slots >= 0
    np.maximum.at(best, slots[owned], lower[owned])


def blocks_numpy(
    products: NDArray[np.int32],
    scales: NDArray[np.float32],
    errors: NDArray[np.float32],
    factors: NDArray[np.float32],
    per_error: np.float32,
    constants: NDArray[np.float32],
    low: NDArray[np.float32],
    high: NDArray[np.float32],
) -> None:
    """The best lower and upper bound of each chunk of rows for each of b queries, from the products (m, b)."""
    rough = products.astype(np.float32) * (scales[:, None] * factors)
    bound = errors[:, None] * per_error + constants
    _best_of_chunks(rough, bound, low, high)


def _best_of_chunks(rough: NDArray[np.float32], bound: NDArray[np.float32], low: NDArray[np.float32], high: NDArray[np.float32]) -> None:
    starts = np.arange(0, len(rough), CHUNK)
    low[:] = np.maximum.reduceat(rough - bound, starts)
    high[:] = np.maximum.reduceat(rough + bound, starts)


def multiply_numpy(rows: NDArray[np.int8], queries: NDArray[np.int16]) -> NDArray[np.int32]:
    """The queries go in two bytes a number: sums of products of 8-bit integers are exact in float32 up to w = 1,024."""
    parts = np.concatenate([queries >> 8, (queries & 255) - 128]).astype(np.float32)
    high, low = np.split((rows.astype(np.float32) @ parts.T).astype(np.int32), 2, axis=1)
    products: NDArray[np.int32] = 256 * high + low + 128 * rows.sum(axis=1, dtype=np.int32)[:, None]
    return products


def tally_numpy(
    products: NDArray[np.int32],
    factors: NDArray[np.float32],
    member_owners: NDArray[np.int64],
    scales: NDArray[np.float32],
    owners: NDArray[np.int64],
    counts: NDArray[np.int32],
) -> None:
    """Add to counts (b, BINS) in which bins the scores of b members with m faces of other owners lie, from their products (b, m)."""
    # An int8 row is a little longer or shorter than 1.
    places = np.clip(products.astype(np.float32) * factors[:, None] * scales + np.float32(BINS / 2), 0, BINS - 1).astype(np.int64)
    places += np.arange(len(counts))[:, None] * BINS
    others = places[member_owners[:, None] != owners]
    counts += np.bincount(others, minlength=counts.size).reshape(counts.shape).astype(np.int32)


NUMPY = Kernels(scan_numpy, peaks_numpy, blocks_numpy, multiply_numpy, chosen_numpy, tally_numpy)


def compiled() -> Kernels:
    """The loops as machine code of this processor; raises ImportError where Numba is missing."""
    # Here, because they cost half a second and 60 MB: only large galleries need them.
    import numba
    from llvmlite import ir
    from numba.core import cgutils, types
    from numba.extending import intrinsic

    def dot(_: Any, codes: Any, row: Any, query: Any) -> Any:
        """The sum of products of one row with the query.

        Numba's own loop is four times slower: LLVM takes it for 32-bit products. Written as vectors of sign-extended 16-bit numbers
        whose neighbours are added, it becomes the one instruction for that (pmaddwd, vpdpwssd) where the processor has it.
        """

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            matrix, vector = (context.make_array(signature.args[i])(context, builder, args[i]) for i in (0, 2))
            i8, i16, i32, i64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
            kinds = (i8, LANES), (i16, LANES), (i32, LANES), (i32, LANES // 2)
            bytes_, shorts, products, sums = (ir.VectorType(kind, count) for kind, count in kinds)
            even, odd = (ir.Constant(ir.VectorType(i32, LANES // 2), list(range(first, LANES, 2))) for first in (0, 1))
            nothing = ir.Constant(products, ir.Undefined)
            total = cgutils.alloca_once_value(builder, ir.Constant(sums, [0] * (LANES // 2)))
            width = cgutils.unpack_tuple(builder, matrix.shape)[1]
            own = builder.gep(builder.bitcast(matrix.data, i8.as_pointer()), [builder.mul(args[1], width)])
            other = builder.bitcast(vector.data, i16.as_pointer())
            with cgutils.for_range_slice(builder, ir.Constant(i64, 0), width, ir.Constant(i64, LANES), i64) as (at, _):
                left = builder.load(builder.bitcast(builder.gep(own, [at]), bytes_.as_pointer()), align=1)
                right = builder.load(builder.bitcast(builder.gep(other, [at]), shorts.as_pointer()), align=2)
                both = builder.mul(builder.sext(left, products), builder.sext(right, products))
                added = builder.add(builder.shuffle_vector(both, nothing, even), builder.shuffle_vector(both, nothing, odd))
                builder.store(builder.add(builder.load(total), added), total)
            name = f"llvm.vector.reduce.add.v{LANES // 2}i32"
            reduce = cgutils.get_or_insert_function(builder.module, ir.FunctionType(i32, [sums]), name)
            return builder.call(reduce, [builder.load(total)])

        return types.int32(codes, row, query), generate

    def dots(_: Any, codes: Any, row: Any, queries: Any, first: Any, out: Any) -> Any:
        """Into out (m, b) the sums of products of TILE rows with TILE queries, from row and first on.

        Each of the rows' and the queries' registers, once loaded, is used TILE times.
        """

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            matrix, others, sums_of = (context.make_array(signature.args[i])(context, builder, args[i]) for i in (0, 2, 4))
            i8, i16, i32, i64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
            kinds = (i8, LANES), (i16, LANES), (i32, LANES), (i32, LANES // 2)
            bytes_, shorts, products, sums = (ir.VectorType(kind, count) for kind, count in kinds)

            def every_other(value: Any, other: Any, start: int, count: int) -> Any:
                return builder.shuffle_vector(value, other, ir.Constant(ir.VectorType(i32, count), list(range(start, 2 * count, 2))))

            def neighbours(value: Any, other: Any, count: int) -> Any:
                return builder.add(every_other(value, other, 0, count), every_other(value, other, 1, count))

            nothing, width = ir.Constant(products, ir.Undefined), cgutils.unpack_tuple(builder, matrix.shape)[1]
            totals = [cgutils.alloca_once_value(builder, ir.Constant(sums, [0] * (LANES // 2))) for _ in range(TILE * TILE)]
            bases = [builder.bitcast(array.data, kind.as_pointer()) for array, kind in ((matrix, i8), (others, i16))]
            starts = [
                [builder.gep(base, [builder.mul(builder.add(at, ir.Constant(i64, i)), width)]) for i in range(TILE)]
                for base, at in zip(bases, (args[1], args[3]), strict=True)
            ]
            with cgutils.for_range_slice(builder, ir.Constant(i64, 0), width, ir.Constant(i64, LANES), i64) as (at, _):
                wide = [
                    [
                        builder.sext(builder.load(builder.bitcast(builder.gep(start, [at]), kind.as_pointer()), align=size), products)
                        for start in some
                    ]
                    for some, kind, size in zip(starts, (bytes_, shorts), (1, 2), strict=True)
                ]
                for i, left in enumerate(wide[0]):
                    for j, right in enumerate(wide[1]):
                        total = totals[TILE * i + j]
                        added = neighbours(builder.mul(left, right), nothing, LANES // 2)
                        builder.store(builder.add(builder.load(total), added), total)
            # Sums of TILE x TILE registers at once, in their order: neighbours are added until each has one number left.
            left = [builder.load(total) for total in totals]
            while len(left) > 1:
                left = [neighbours(a, b, LANES // 2) for a, b in zip(left[::2], left[1::2], strict=True)]
            stride = cgutils.unpack_tuple(builder, sums_of.shape)[1]
            four = ir.VectorType(i32, TILE)
            for i in range(TILE):
                row = builder.mul(builder.add(args[1], ir.Constant(i64, i)), stride)
                place = builder.gep(builder.bitcast(sums_of.data, i32.as_pointer()), [builder.add(row, args[3])])
                own = ir.Constant(ir.VectorType(i32, TILE), list(range(TILE * i, TILE * i + TILE)))
                builder.store(builder.shuffle_vector(left[0], left[0], own), builder.bitcast(place, four.as_pointer()), align=4)
            return context.get_dummy_value()

        return types.void(codes, row, queries, first, out), generate

    def named(function: Any) -> Any:
        made: Any = intrinsic(function)
        # Else another one in each process, by which Numba would look in vain for the machine code that it kept, and keep it again.
        made._set_uuid(f"{__name__}.{function.__name__}")
        return made

    product, tile = named(dot), named(dots)

    def scan(
        codes: Any, scales: Any, errors: Any, query: Any, factor: Any, per_error: Any,
        constant: Any, rough: Any, low: Any, high: Any, counts: Any,
    ) -> None:  # fmt: skip
        half, one, last = np.float32(BINS / 2), np.float32(1), BINS - 1
        n = codes.shape[0]
        # Two tables in turn: neighbours often fall into one bin, and an addition would wait for the one before it.
        tables = np.zeros((2, BINS), np.int64)
        for chunk in range(low.shape[0]):
            start = chunk * CHUNK
            lower = upper = np.float32(-np.inf)
            for i in range(start, min(start + CHUNK, n)):
                score = np.float32(product(codes, i, query)) * (scales[i] * factor)
                bound = errors[i] * per_error + constant
                rough[i] = score
                lower, upper = max(lower, score - bound), max(upper, score + bound)
                place = int((score + one) * half)
                tables[i & 1, min(max(place, 0), last)] += 1
            low[chunk], high[chunk] = lower, upper
        counts += tables[0] + tables[1]

    def peaks(lower: Any, slots: Any, best: Any) -> None:
        for i in range(slots.shape[0]):
            slot = slots[i]
            if slot >= 0 and lower[i] > best[slot]:
                best[slot] = lower[i]

    def blocks(products: Any, scales: Any, errors: Any, factors: Any, per_error: Any, constants: Any, low: Any, high: Any) -> None:
        m, b = products.shape
        for chunk in range(low.shape[0]):
            start = chunk * CHUNK
            low[chunk], high[chunk] = np.float32(-np.inf), np.float32(-np.inf)
            for i in range(start, min(start + CHUNK, m)):
                scale, error = scales[i], errors[i] * per_error
                for j in range(b):
                    score = np.float32(products[i, j]) * (scale * factors[j])
                    bound = error + constants[j]
                    low[chunk, j] = max(low[chunk, j], score - bound)
                    high[chunk, j] = max(high[chunk, j], score + bound)

    def fill(rows: Any, queries: Any, products: Any) -> None:
        m, b = products.shape
        if m < TILE or b < TILE:
            for i in range(m):
                for j in range(b):
                    products[i, j] = product(rows, i, queries[j])
            return
        # A few rows stay near while all queries pass. The last tiles overlap those before them where their number is no multiple.
        for start in range(0, m, NEAR):
            for first in range(0, b, TILE):
                for row in range(start, min(start + NEAR, m), TILE):
                    tile(rows, min(row, m - TILE), queries, min(first, b - TILE), products)

    def chosen(codes: Any, scales: Any, which: Any, query: Any, factor: Any, rough: Any) -> None:
        for i in range(which.shape[0]):
            rough[i] = np.float32(product(codes, which[i], query)) * (scales[which[i]] * factor)

    def tally(products: Any, factors: Any, member_owners: Any, scales: Any, owners: Any, counts: Any) -> None:
        middle, last = np.float32(BINS / 2), np.float32(BINS - 1)
        for j in range(products.shape[0]):
            for i in range(products.shape[1]):
                if owners[i] != member_owners[j]:
                    place = np.float32(products[j, i]) * factors[j] * scales[i] + middle
                    counts[j, int(min(max(place, np.float32(0)), last))] += 1

    def jit(function: Any) -> Any:
        try:
            return numba.njit(nogil=True, cache=True)(function)
        except RuntimeError:  # no folder to keep machine code in
            return numba.njit(nogil=True)(function)

    filled = jit(fill)

    def multiply(rows: NDArray[np.int8], queries: NDArray[np.int16]) -> NDArray[np.int32]:
        products = np.empty((len(rows), len(queries)), np.int32)
        filled(rows, queries, products)
        return products

    return Kernels(jit(scan), jit(peaks), jit(blocks), multiply, jit(chosen), jit(tally))
