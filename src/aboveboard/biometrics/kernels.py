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
CHUNK = 64
"""Rows whose best bounds are kept together, so that most rows are passed over without being looked at singly."""

Scan = Callable[..., None]
"""(codes, scales, errors, query, factor, per_error, constant, rough, low, high, counts): fills the last four; see `scan_numpy`."""
Peaks = Callable[..., None]
"""(lower, slots, best): best[slot] becomes the highest lower bound of its rows; slot -1 is passed over."""


Blocks = Callable[..., None]
"""(products, scales, errors, factors, per_error, constants, low, high): fills the last two; see `blocks_numpy`."""
Multiply = Callable[[NDArray[np.int8], NDArray[np.int8]], NDArray[np.int32]]
"""Sums of products of each row of (m, w) with each of (b, w): (m, b)."""


@dataclass(frozen=True, slots=True)
class Kernels:
    """One way to run the loops."""

    scan: Scan
    peaks: Peaks
    blocks: Blocks
    multiply: Multiply


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
    """Rough scores of codes (n, w) with a query (w,), the best lower and upper bound of each chunk, and a histogram added to counts.

    The query goes in two bytes a number: sums of products of 8-bit integers are exact in float32 up to w = 1,024.
    """
    parts = np.stack([query >> 8, query & 255]).astype(np.float32)
    parts[1] -= 128
    for start in range(0, len(codes), 128 * CHUNK):
        some = slice(start, start + 128 * CHUNK)
        block = codes[some].astype(np.float32)
        sums = (block @ parts.T).astype(np.int64)
        exact = 256 * sums[:, 0] + sums[:, 1] + 128 * codes[some].sum(axis=1, dtype=np.int64)
        rough[some] = exact.astype(np.float32) * (scales[some] * factor)
    bound = errors * per_error + constant
    starts = np.arange(0, len(codes), CHUNK)
    low[:] = np.maximum.reduceat(rough - bound, starts)
    high[:] = np.maximum.reduceat(rough + bound, starts)
    places = ((rough + np.float32(1)) * np.float32(BINS / 2)).astype(np.int64)
    counts += np.bincount(np.clip(places, 0, BINS - 1), minlength=BINS)


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
    starts = np.arange(0, len(products), CHUNK)
    low[:] = np.maximum.reduceat(rough - bound, starts)
    high[:] = np.maximum.reduceat(rough + bound, starts)


def multiply_numpy(rows: NDArray[np.int8], queries: NDArray[np.int8]) -> NDArray[np.int32]:
    """Exact: each sum stays below 2^24 up to w = 1,040."""
    return (rows.astype(np.float32) @ queries.T.astype(np.float32)).astype(np.int32)


NUMPY = Kernels(scan_numpy, peaks_numpy, blocks_numpy, multiply_numpy)


def compiled() -> Kernels:
    """The loops as machine code of this processor; raises ImportError where Numba or NumKong is missing."""
    # Here, because they cost half a second and 60 MB: only large galleries need them.
    import numba
    import numkong
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

    def named(function: Any) -> Any:
        made: Any = intrinsic(function)
        # Else another one in each process, by which Numba would look in vain for the machine code that it kept, and keep it again.
        made._set_uuid(f"{__name__}.{function.__name__}")
        return made

    product = named(dot)

    def scan(codes, scales, errors, query, factor, per_error, constant, rough, low, high, counts):  # type: ignore[no-untyped-def]
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

    def peaks(lower, slots, best):  # type: ignore[no-untyped-def]
        for i in range(slots.shape[0]):
            slot = slots[i]
            if slot >= 0 and lower[i] > best[slot]:
                best[slot] = lower[i]

    def blocks(products, scales, errors, factors, per_error, constants, low, high):  # type: ignore[no-untyped-def]
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

    def multiply(rows: NDArray[np.int8], queries: NDArray[np.int8]) -> NDArray[np.int32]:
        products = np.empty((len(rows), len(queries)), np.int32)
        numkong.dots_packed(rows, numkong.dots_pack(queries, dtype="int8"), out=numkong.from_dlpack(products))
        return products

    def jit(function: Any) -> Any:
        try:
            return numba.njit(nogil=True, cache=True)(function)
        except RuntimeError:  # no folder to keep machine code in
            return numba.njit(nogil=True)(function)

    return Kernels(jit(scan), jit(peaks), jit(blocks), multiply)
