"""From problems to what the Numba kernels take: a support and an operator on it."""

from functools import singledispatch

import numpy as np

from fastdmf._checks import Array
from fastdmf.backends.layout import blocks_of, compressed_rows
from fastdmf.backends.tiles import blocks_support, tiling_of
from fastdmf.kernels.cpu.blocked import Blocks
from fastdmf.kernels.cpu.completion import Entries, Pattern
from fastdmf.kernels.cpu.sensing import DenseRows, SparseRows, Whole
from fastdmf.problems import Completion, Problem, Sensing

#: support, operator, and the support's rows and columns (None: all of W)
Binding = tuple[Pattern | Blocks | Whole, Entries | DenseRows | SparseRows, tuple[Array, Array] | None]


@singledispatch
def bind_problem(problem: Problem, dtype: np.dtype, width: int) -> Binding:
    """The support and the operator of a problem; rows of ``width`` elements are gathered, 0 if none are."""
    raise TypeError(f"the CPU backend cannot measure {problem!r}")


@bind_problem.register
def _(problem: Completion, dtype: np.dtype, width: int) -> Binding:
    rows, cols, values = problem.rows, problem.cols, problem.values
    tiling = tiling_of(problem.shape, values.size, width, dtype)
    if tiling is None:
        order = np.argsort(rows.astype(np.int64) * problem.shape[1] + cols)  # n p may exceed 2³¹
        where = rows[order], cols[order]
        support = pattern_of(*where, problem.shape, width)
    else:
        support, order, where = blocks_support(rows, cols, problem.shape, tiling)
    return support, Entries(_settled(values[order], dtype), problem.loss_scale), where


@bind_problem.register
def _(problem: Sensing, dtype: np.dtype, width: int) -> Binding:
    values = _settled(problem.values, dtype)
    m = values.size
    if not problem.is_sparse:
        a = _settled(problem.matrices.reshape(m, -1), dtype)
        return Whole(*problem.shape), DenseRows(a, values, problem.loss_scale), None
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


def _settled(array: Array, dtype: np.dtype) -> Array:
    """The array as the kernels' signatures have it: of their type, C-contiguous, read-only.

    Numba compiles anew for every combination of these.
    """
    with np.errstate(over="ignore"):
        settled = np.ascontiguousarray(array, dtype).view()
    if not np.isfinite(settled).all():
        raise ValueError(f"{np.abs(array).max()} of the problem's numbers is not finite in {dtype}")
    settled.flags.writeable = False
    return settled


def pattern_of(rows: Array, cols: Array, shape: tuple[int, int], width: int) -> Pattern:
    """A support given by positions sorted row by row; ``width`` is how long rows of factors are."""
    row_starts = compressed_rows(rows, shape[0])
    col_starts = compressed_rows(cols, shape[1])
    order = np.argsort(cols, kind="stable").astype(np.int32)
    return Pattern(
        row_starts, cols, blocks_of(row_starts, width),
        col_starts, rows[order], order, blocks_of(col_starts, width),
    )  # fmt: skip
