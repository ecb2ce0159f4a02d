"""From problems to what the Numba kernels take: a support and an operator on it."""

import math
from collections.abc import Sequence
from functools import singledispatch
from typing import Any, NamedTuple

import numpy as np

from fastdmf._checks import Array
from fastdmf.backends.cpu_memory import RowFormat
from fastdmf.backends.layout import aligned_empty, blocks_of, compressed_rows, refuse_overflow, whole_vectors
from fastdmf.backends.measurements import are_symmetric, touched_entries, triangles
from fastdmf.backends.tiles import blocks_support, tiling_of
from fastdmf.kernels.cpu.blocked import Blocks
from fastdmf.kernels.cpu.completion import Entries, Pattern
from fastdmf.kernels.cpu.dense_rows import MOST_ROWS, ROWS
from fastdmf.kernels.cpu.sensing import DenseRows, SparseRows
from fastdmf.kernels.cpu.tables import VECTOR_BYTES
from fastdmf.kernels.cpu.whole import Masked, Whole
from fastdmf.problems import Completion, Problem, Sensing


class Binding(NamedTuple):
    """A problem as kernels take it.

    ``where`` are the rows and columns of the support, None if it is all of W; ``measured`` is how many
    numbers the operator gives, and ``form`` says in words how W is looked at.
    """

    support: Pattern | Blocks | Whole
    operator: Entries | Masked | DenseRows | SparseRows
    where: tuple[Array, Array] | None
    measured: int
    form: str


#: Blocks of dense measurements: work for as many threads, and each far larger than its gradient.
MOST_BLOCKS, LEAST_ROWS = 8, 96


@singledispatch
def bind_problem(problem: Problem, dtype: np.dtype, width: int, tied: bool, threads: int) -> Binding:
    """The support and the operator of a problem.

    ``width`` is how long rows of factors are, 0 for W itself; ``tied`` stands for UUᵀ.
    """
    raise TypeError(f"the CPU backend cannot measure {problem!r}")


@bind_problem.register
def _(problem: Completion, dtype: np.dtype, width: int, tied: bool, threads: int) -> Binding:
    values = _settled(problem.values, dtype)
    if width and density(problem) > crossover(problem.shape, width, dtype):
        return _bind_masked(problem, values)
    rows, cols = problem.rows, problem.cols
    tiling = tiling_of(problem.shape, values.size, width, dtype)
    if tiling is None:
        order = np.argsort(rows.astype(np.int64) * problem.shape[1] + cols)  # n p may exceed 2³¹
        where = rows[order], cols[order]
        support: Pattern | Blocks = pattern_of(*where, problem.shape, width)
        form = "observed entries"
    else:
        support, order, where = blocks_support(rows, cols, problem.shape, tiling, threads)
        form = "observed entries, in tiles"
    operator = Entries(_settled(values[order], dtype), problem.loss_scale)
    return Binding(support, operator, where, values.size, form)


def _bind_masked(problem: Completion, values: Array) -> Binding:
    n, p = problem.shape
    seen, everywhere = np.zeros((n, p), np.uint8), np.zeros((n, p), values.dtype)
    seen[problem.rows, problem.cols] = 1
    everywhere[problem.rows, problem.cols] = values
    operator = Masked(seen.ravel(), everywhere.ravel(), problem.loss_scale)
    return Binding(Whole(n, p), operator, None, n * p, "whole matrix, masked")


def density(problem: Completion) -> float:
    """The fraction of entries that are observed."""
    return problem.values.size / (problem.shape[0] * problem.shape[1])


def crossover(shape: tuple[int, int], width: int, dtype: np.dtype) -> float:
    """The density above which dense products are faster than sparse ones at depth 2.

    Measured on square matrices of 30 to 1000 rows and widths from 5 up, with AVX-512 and one thread, by
    timing both forms of the step.  Sparse products are bound by loads: what counts is how near the gathered
    factor lies, how much of its vectors is filled, and in short rows what each costs by itself.  Where the
    rule errs, the step it picks takes up to 1.3 times as long as the other; 1.8 for factors of a few columns.
    """
    rows = RowFormat.of(dtype, tails=True)
    length = sum(rows.parts(width))
    size, vectors = max(shape) * width * dtype.itemsize, length / rows.lanes
    if_filled = min(_up_to(size, _BY_BYTES), _up_to(vectors, _BY_VECTORS))
    return max(0.35, width / length * if_filled)


def _up_to(value: float, limits: Sequence[tuple[float, float]]) -> float:
    return next(limit for bound, limit in limits if value <= bound)


#: Bytes of the larger factor, and the density from which dense products win if all vectors are full, …
_BY_BYTES = ((3 << 14, 0.75), (5 << 14, 0.58), (1 << 17, 0.52), (math.inf, 0.45))
#: … and the same for vectors in a row.
_BY_VECTORS = ((1.5, 0.4), (2.5, 0.62), (math.inf, 1.0))


@bind_problem.register
def _(problem: Sensing, dtype: np.dtype, width: int, tied: bool, threads: int) -> Binding:
    values = _settled(problem.values, dtype)
    m = values.size
    if not problem.is_sparse:
        operator = _dense_rows(problem.matrices, values, problem.loss_scale, tied, threads)
        form = "dense measurements, triangles" if operator.order else "dense measurements"
        return Binding(Whole(*problem.shape), operator, None, m, form)
    # Only the entries of W that some measurement touches are ever looked at.
    touched = touched_entries(problem)
    weights = _settled(problem.matrices.data, dtype)
    operator = SparseRows(
        touched.row_starts,
        touched.cols,
        weights,
        touched.col_starts,
        touched.rows,
        _settled(weights[touched.order], dtype),
        values,
        problem.loss_scale,
    )
    support = pattern_of(*touched.where, problem.shape, width)
    return Binding(support, operator, touched.where, m, "sparse measurements")


def work_of(operator: Any, dtype: np.dtype) -> Array:
    """The scratch memory of an operator."""
    if not isinstance(operator, DenseRows):
        return np.empty(0, dtype)
    lanes = VECTOR_BYTES // dtype.itemsize
    slot = whole_vectors(operator.a.shape[1], lanes) + MOST_ROWS * lanes
    return aligned_empty((operator.slots * slot,), dtype)


def _dense_rows(matrices: Array, values: Array, scale: float, tied: bool, threads: int) -> DenseRows:
    """Full rows, or triangles where A only ever sees the symmetric part of W or is symmetric itself."""
    m, n, p = matrices.shape
    height = max(LEAST_ROWS, -(-m // (MOST_BLOCKS * ROWS)) * ROWS)
    blocks = np.append(np.arange(0, m, height), m)
    slots = min(blocks.size - 1, 2) if threads == 1 else blocks.size - 1
    if tied or (n == p and are_symmetric(matrices)):
        lanes = VECTOR_BYTES // values.itemsize
        packed = _settled(triangles(matrices, values.dtype, lanes), values.dtype)
        return DenseRows(packed, n, blocks, slots, values, scale)
    return DenseRows(_settled(matrices.reshape(m, -1), values.dtype), 0, blocks, slots, values, scale)


def _settled(array: Array, dtype: np.dtype) -> Array:
    """The array as the kernels' signatures have it: of their type, C-contiguous, read-only.

    Numba compiles anew for every combination of these.
    """
    if array.dtype == dtype:
        settled = np.ascontiguousarray(array).view()
    else:
        settled = aligned_empty(array.shape, dtype)
        with np.errstate(over="ignore"):
            settled[...] = array
        refuse_overflow(settled, array)
    settled.flags.writeable = False
    return settled


def pattern_of(rows: Array, cols: Array, shape: tuple[int, int], width: int) -> Pattern:
    """A support given by positions sorted row by row; ``width`` is how long rows of factors are."""
    row_starts = compressed_rows(rows, shape[0])
    col_starts = compressed_rows(cols, shape[1])
    order = np.argsort(cols, kind="stable")
    # Loads bind sparse products, and one load brings four indices of 16 bits.
    index = np.uint16 if max(*shape, rows.size) < 2**16 else np.int32
    return Pattern(
        row_starts, cols.astype(index), blocks_of(row_starts, width),
        col_starts, rows[order].astype(index), order.astype(index), blocks_of(col_starts, width),
    )  # fmt: skip
