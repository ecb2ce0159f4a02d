"""From problems to what the Numba kernels take: a support and an operator on it."""

from functools import singledispatch
from typing import Any

import numpy as np

from fastdmf._checks import Array
from fastdmf.backends.layout import VECTOR_BYTES, aligned_empty, blocks_of, compressed_rows
from fastdmf.kernels.cpu.completion import Entries, Pattern
from fastdmf.kernels.cpu.dense_rows import ROWS
from fastdmf.kernels.cpu.sensing import DenseRows, SparseRows, Whole
from fastdmf.problems import Completion, Problem, Sensing

#: support, operator, and the support's rows and columns (None: all of W)
Binding = tuple[Pattern | Whole, Entries | DenseRows | SparseRows, tuple[Array, Array] | None]

#: What each operator is called where a run is described.
FORMS = {Entries: "observed entries", SparseRows: "sparse rows", DenseRows: "dense rows"}
#: Blocks of dense measurements: work for as many threads, and each far larger than its gradient.
MOST_BLOCKS, LEAST_ROWS = 8, 96


@singledispatch
def bind_problem(problem: Problem, dtype: np.dtype, width: int, tied: bool) -> Binding:
    """The support and the operator of a problem, for factors as wide as ``width``; ``tied``: for UUᵀ."""
    raise TypeError(f"the CPU backend cannot measure {problem!r}")


@bind_problem.register
def _(problem: Completion, dtype: np.dtype, width: int, tied: bool) -> Binding:
    order = problem.row_order
    rows, cols = problem.rows[order], problem.cols[order]
    values = _settled(problem.values[order], dtype)
    return pattern_of(rows, cols, problem.shape, width), Entries(values, problem.loss_scale), (rows, cols)


@bind_problem.register
def _(problem: Sensing, dtype: np.dtype, width: int, tied: bool) -> Binding:
    values = _settled(problem.values, dtype)
    m = values.size
    if not problem.is_sparse:
        return Whole(*problem.shape), _dense_rows(problem.matrices, values, problem.loss_scale, tied), None
    # Only the entries of W that some measurement touches are ever looked at.
    matrices = problem.matrices
    places, compressed = np.unique(matrices.indices, return_inverse=True)
    rows, cols = (x.astype(np.int32) for x in np.divmod(places, problem.shape[1]))
    order = np.argsort(compressed, kind="stable")
    weights = _settled(matrices.data, dtype)
    measured_by = np.repeat(np.arange(m, dtype=np.int32), np.diff(matrices.indptr))
    operator = SparseRows(
        matrices.indptr.astype(np.int64),
        compressed.astype(np.int32),
        weights,
        compressed_rows(compressed, places.size),
        measured_by[order],
        _settled(weights[order], dtype),
        values,
        problem.loss_scale,
    )
    return pattern_of(rows, cols, problem.shape, width), operator, (rows, cols)


def form_of(operator: Any) -> str:
    """The name of the form in which an operator is kept."""
    if isinstance(operator, DenseRows) and operator.order > 0:
        return "packed symmetric rows"
    return FORMS[type(operator)]


def work_of(operator: Any, dtype: np.dtype, threads: int) -> Array:
    """The scratch memory of an operator."""
    if not isinstance(operator, DenseRows):
        return np.empty(0, dtype)
    blocks = operator.blocks.size - 1
    lanes = VECTOR_BYTES // dtype.itemsize
    slot = _whole_vectors(operator.a.shape[1], lanes) + ROWS * lanes
    return aligned_empty(((min(blocks, 2) if threads == 1 else blocks) * slot,), dtype)


def _whole_vectors(length: int, lanes: int) -> int:
    return -(-length // lanes) * lanes


def _dense_rows(matrices: Array, values: Array, scale: float, tied: bool) -> DenseRows:
    """Full rows, or triangles where A only ever sees the symmetric part of W or is symmetric itself."""
    m, n, p = matrices.shape
    height = max(LEAST_ROWS, -(-m // (MOST_BLOCKS * ROWS)) * ROWS)
    blocks = np.append(np.arange(0, m, height), m)
    if tied or (n == p and _are_symmetric(matrices)):
        return DenseRows(_triangles(matrices, values.dtype), n, blocks, values, scale)
    return DenseRows(_settled(matrices.reshape(m, -1), values.dtype), 0, blocks, values, scale)


def _are_symmetric(matrices: Array) -> bool:
    """Whether all are, to the bit."""
    few = max(1, 2**17 // matrices[0].size)  # a few at a time: they stay in the cache, and the first may tell
    return all(
        np.array_equal(part, part.transpose(0, 2, 1))
        for part in (matrices[i : i + few] for i in range(0, len(matrices), few))
    )


def _triangles(matrices: Array, dtype: np.dtype) -> Array:
    """The upper triangles, row by row, of the symmetric parts of (m, n, n) matrices: a row each."""
    m, n, _ = matrices.shape
    size = n * (n + 1) // 2
    packed = aligned_empty((m, _whole_vectors(size, VECTOR_BYTES // dtype.itemsize)), dtype)
    packed[:, size:] = 0.0
    end = 0
    with np.errstate(over="ignore"):
        for i in range(n):  # no temporary copy is larger than one row of all matrices
            start, end = end, end + n - i
            packed[:, start:end] = 0.5 * matrices[:, i, i:] + 0.5 * matrices[:, i:, i]
    _refuse_overflow(packed, matrices)
    return _settled(packed, dtype)


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
        _refuse_overflow(settled, array)
    settled.flags.writeable = False
    return settled


def _refuse_overflow(converted: Array, array: Array) -> None:
    if not np.isfinite(converted).all():
        largest = max(array.max(), -array.min())
        raise ValueError(f"{largest} of the problem's numbers is not finite in {converted.dtype}")


def pattern_of(rows: Array, cols: Array, shape: tuple[int, int], width: int) -> Pattern:
    """A support given by positions sorted row by row; ``width`` is how long rows of factors are."""
    row_starts = compressed_rows(rows, shape[0])
    col_starts = compressed_rows(cols, shape[1])
    order = np.argsort(cols, kind="stable").astype(np.int32)
    return Pattern(
        row_starts, cols, blocks_of(row_starts, width),
        col_starts, rows[order], order, blocks_of(col_starts, width),
    )  # fmt: skip
