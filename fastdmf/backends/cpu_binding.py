"""From problems to what the Numba kernels take: a support and an operator on it."""

import math
from functools import singledispatch
from typing import NamedTuple

import numpy as np

from fastdmf._checks import Array
from fastdmf.backends.layout import blocks_of, compressed_rows
from fastdmf.kernels.cpu.completion import Entries, Pattern
from fastdmf.kernels.cpu.sensing import DenseRows, Masked, SparseRows, Whole
from fastdmf.kernels.cpu.tables import VECTOR_BYTES
from fastdmf.problems import Completion, Problem, Sensing


class Binding(NamedTuple):
    """A problem as kernels take it.

    ``where`` are the rows and columns of the support, None if it is all of W; ``measured`` is how many
    numbers the operator gives, and ``form`` says in words how W is looked at.
    """

    support: Pattern | Whole
    operator: Entries | Masked | DenseRows | SparseRows
    where: tuple[Array, Array] | None
    measured: int
    form: str


@singledispatch
def bind_problem(problem: Problem, dtype: np.dtype, width: int) -> Binding:
    """The support and the operator of a problem; ``width`` is how long rows of factors are, 0 at depth 1."""
    raise TypeError(f"the CPU backend cannot measure {problem!r}")


@bind_problem.register
def _(problem: Completion, dtype: np.dtype, width: int) -> Binding:
    values = _settled(problem.values, dtype)
    if width and density(problem) > crossover(problem.shape, width, dtype):
        return _bind_masked(problem, values)
    order = problem.row_order
    rows, cols = problem.rows[order], problem.cols[order]
    operator = Entries(_settled(values[order], dtype), problem.loss_scale)
    support = pattern_of(rows, cols, problem.shape, width)
    return Binding(support, operator, (rows, cols), values.size, "observed entries")


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

    Measured on matrices of 30 to 3000 rows and widths from 3 up, with AVX-512 and one thread, by timing
    both forms of the step.  Sparse products are bound by loads: what counts is how near the gathered factor
    lies, and how much of its vectors is filled.  Where the rule errs, the step it picks takes up to 1.2
    times as long as the other; 1.5 for factors of a few columns.
    """
    lanes = VECTOR_BYTES // dtype.itemsize
    filled = width / (-(-width // lanes) * lanes)
    size = max(shape) * width * dtype.itemsize
    return max(0.35, filled * next(limit for bound, limit in _CROSSOVERS if size <= bound))


#: Bytes of the larger factor, and the density from which dense products win if all vectors are full.
_CROSSOVERS = ((1 << 14, 0.8), (1 << 17, 0.65), (1 << 20, 0.55), (math.inf, 0.4))


@bind_problem.register
def _(problem: Sensing, dtype: np.dtype, width: int) -> Binding:
    values = _settled(problem.values, dtype)
    m = values.size
    if not problem.is_sparse:
        a = _settled(problem.matrices.reshape(m, -1), dtype)
        operator = DenseRows(a, values, problem.loss_scale)
        return Binding(Whole(*problem.shape), operator, None, m, "dense measurements")
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
    support = pattern_of(rows, cols, problem.shape, width)
    return Binding(support, operator, (rows, cols), m, "sparse measurements")


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
