"""W everywhere, and linear measurements of it, dense or sparse."""

from typing import NamedTuple

import numpy as np
from numba.extending import overload

from fastdmf.kernels.cpu.blas import multiply
from fastdmf.kernels.cpu.compilation import kernel
from fastdmf.kernels.cpu.loss import misfit
from fastdmf.kernels.cpu.tables import place_of, vector_at
from fastdmf.kernels.cpu.verbs import is_a, look, measure, pull, pull_tied, residual


class Whole(NamedTuple):
    """The support of all entries of an n × p matrix, row by row."""

    n: int
    p: int


class DenseRows(NamedTuple):
    """The measurement w ↦ A w with A (m, n p) dense, compared with ``values``; loss = (c/2) Σ r²."""

    a: np.ndarray
    values: np.ndarray
    scale: float


class SparseRows(NamedTuple):
    """The measurement w ↦ A w with A (m, S) sparse, kept by rows and by columns (its transposed twin)."""

    row_starts: np.ndarray
    cols: np.ndarray
    row_weights: np.ndarray
    col_starts: np.ndarray
    rows: np.ndarray
    col_weights: np.ndarray
    values: np.ndarray
    scale: float


@kernel
def _multiply_onto(base, scale, x, x_transposed, y, out, like):
    """Out = [base] + scale X Y."""
    kept = 0.0
    if base.address != 0:
        size = out.rows * out.stride
        vector_at(out.address, size, like)[:] = vector_at(base.address, size, like)
        kept = 1.0
    multiply(x, x_transposed, y, False, scale, kept, out, like)


@overload(look)
def _look(support, left, right, w, cancel, threads):
    if not is_a(support, Whole):
        return None

    def everywhere(support, left, right, w, cancel, threads):
        multiply(left, False, right, True, 1.0, 0.0, place_of(w, support.n, support.p), w)

    return everywhere


@overload(pull)
def _pull(support, z, left, right, scale, bases, out_left, out_right, cancel, threads):
    if not is_a(support, Whole):
        return None

    def both(support, z, left, right, scale, bases, out_left, out_right, cancel, threads):
        gradient = place_of(z, support.n, support.p)
        _multiply_onto(bases[0], scale, gradient, False, right, out_left, z)
        _multiply_onto(bases[1], scale, gradient, True, left, out_right, z)

    return both


@overload(pull_tied)
def _pull_tied(support, z, factor, scale, base, out, cancel, threads):
    if not is_a(support, Whole):
        return None

    def tied(support, z, factor, scale, base, out, cancel, threads):
        gradient = z.reshape(support.n, support.p)
        for i in range(support.n):
            gradient[i, i] *= 2
            for j in range(i):
                both = gradient[i, j] + gradient[j, i]
                gradient[i, j] = both
                gradient[j, i] = both
        _multiply_onto(base, scale, place_of(z, support.n, support.p), False, factor, out, z)

    return tied


@kernel
def _sparse_times_vector(starts, indices, weights, x, out):
    for i in range(out.size):
        total = x.dtype.type(0)
        for e in range(starts[i], starts[i + 1]):
            total += weights[e] * x[indices[e]]
        out[i] = total


@overload(measure)
def _measure(operator, w, out):
    if is_a(operator, DenseRows):

        def dense(operator, w, out):
            np.dot(operator.a, w, out)

        return dense
    if is_a(operator, SparseRows):

        def sparse(operator, w, out):
            _sparse_times_vector(operator.row_starts, operator.cols, operator.row_weights, w, out)

        return sparse
    return None


@overload(residual)
def _residual(operator, w, r):
    if is_a(operator, DenseRows):

        def dense(operator, w, r):
            np.dot(operator.a, w, r)
            loss = misfit(operator.values, operator.scale, r)
            np.dot(operator.a.T, r, w)
            return loss

        return dense
    if is_a(operator, SparseRows):

        def sparse(operator, w, r):
            _sparse_times_vector(operator.row_starts, operator.cols, operator.row_weights, w, r)
            loss = misfit(operator.values, operator.scale, r)
            _sparse_times_vector(operator.col_starts, operator.rows, operator.col_weights, r, w)
            return loss

        return sparse
    return None
