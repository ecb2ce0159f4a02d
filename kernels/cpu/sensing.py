"""W everywhere, and linear measurements of it, dense or sparse."""

from typing import NamedTuple

import numpy as np
from numba.extending import overload

from fastdmf.kernels.cpu.compilation import kernel
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


@overload(look)
def _look(support, left, right, w, cancel, threads):
    if not is_a(support, Whole):
        return None

    def everywhere(support, left, right, w, cancel, threads):
        np.dot(left, right.T, w.reshape(support.n, support.p))

    return everywhere


@overload(pull)
def _pull(support, z, left, right, grad_left, grad_right, cancel, threads):
    if not is_a(support, Whole):
        return None

    def both(support, z, left, right, grad_left, grad_right, cancel, threads):
        gradient = z.reshape(support.n, support.p)
        np.dot(gradient, right, grad_left)
        np.dot(gradient.T, left, grad_right)

    return both


@overload(pull_tied)
def _pull_tied(support, z, factor, grad, cancel, threads):
    if not is_a(support, Whole):
        return None

    def tied(support, z, factor, grad, cancel, threads):
        gradient = z.reshape(support.n, support.p)
        for i in range(support.n):
            gradient[i, i] *= 2
            for j in range(i):
                both = gradient[i, j] + gradient[j, i]
                gradient[i, j] = both
                gradient[j, i] = both
        np.dot(gradient, factor, grad)

    return tied


@kernel
def _sparse_times_vector(starts, indices, weights, x, out):
    for i in range(out.size):
        total = x.dtype.type(0)
        for e in range(starts[i], starts[i + 1]):
            total += weights[e] * x[indices[e]]
        out[i] = total


@kernel
def _misfit(values, scale, r):
    """Turn A(w) into c (A(w) − y) in place and return the loss (c/2) Σ r²."""
    total = 0.0
    for i in range(r.size):
        misfit = r[i] - values[i]
        total += np.float64(misfit) * np.float64(misfit)
        r[i] = misfit * r.dtype.type(scale)
    return 0.5 * scale * total


@overload(measure)
def _measure(operator, w, out, work, cancel, threads):
    if is_a(operator, DenseRows):

        def dense(operator, w, out, work, cancel, threads):
            np.dot(operator.a, w, out)

        return dense
    if is_a(operator, SparseRows):

        def sparse(operator, w, out, work, cancel, threads):
            _sparse_times_vector(operator.row_starts, operator.cols, operator.row_weights, w, out)

        return sparse
    return None


@overload(residual)
def _residual(operator, w, r, work, cancel, threads):
    if is_a(operator, DenseRows):

        def dense(operator, w, r, work, cancel, threads):
            np.dot(operator.a, w, r)
            loss = _misfit(operator.values, operator.scale, r)
            np.dot(operator.a.T, r, w)
            return loss

        return dense
    if is_a(operator, SparseRows):

        def sparse(operator, w, r, work, cancel, threads):
            _sparse_times_vector(operator.row_starts, operator.cols, operator.row_weights, w, r)
            loss = _misfit(operator.values, operator.scale, r)
            _sparse_times_vector(operator.col_starts, operator.rows, operator.col_weights, r, w)
            return loss

        return sparse
    return None
