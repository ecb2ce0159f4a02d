"""Linear measurements of W, dense or sparse."""

from typing import NamedTuple

import numpy as np
from numba import prange
from numba.extending import overload

from fastdmf.kernels.cpu.compilation import compile_apart, kernel, parallel_kernel
from fastdmf.kernels.cpu.dense_rows import (
    ROWS,
    address_of,
    count_of,
    measure_rows,
    padded,
    residual_rows,
)
from fastdmf.kernels.cpu.loss import misfit
from fastdmf.kernels.cpu.tables import VECTOR_BYTES, is_set, vector_at
from fastdmf.kernels.cpu.verbs import is_a, is_serial, measure, residual, residuals


class DenseRows(NamedTuple):
    """The measurement w ↦ A w with A (m, n p) dense, compared with ``values``; loss = (c/2) Σ r².

    With ``order`` n > 0 the A_i are symmetric, n × n, and the rows of ``a`` hold their upper triangles row
    by row.  ``blocks`` cuts the measurements into blocks.  The gradient is summed block by block and the
    sums are added up in order, so that the number of threads changes no bit.

    Scratch memory ``work`` has a slot for each block, but at most 2 where no threads are compiled: room
    for a row of A in whole vectors and for ``dense_rows.ROWS`` vectors.
    """

    a: np.ndarray
    order: int
    blocks: np.ndarray
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
def _sparse_times_vector(starts, indices, weights, x, out):
    for i in range(out.size):
        total = x.dtype.type(0)
        for e in range(starts[i], starts[i + 1]):
            total += weights[e] * x[indices[e]]
        out[i] = total


@kernel
def loss_of(operator, r):
    """The loss (c/2) Σ r², given c r."""
    compile_apart()
    c = np.float64(r.dtype.type(operator.scale))
    total = 0.0
    for x in r:
        misfit = np.float64(x) / c
        total += misfit * misfit
    return 0.5 * operator.scale * total


@kernel
def _row_length(operator):
    """Elements of a row of A."""
    if operator.order > 0:
        return operator.order * (operator.order + 1) // 2
    return operator.a.shape[1]


@kernel
def _pack(w, n, packed):
    """⟨A, W⟩ = Σ_i a_ii w_ii + Σ_{i<j} a_ij (w_ij + w_ji) for symmetric A: what meets its packed triangle.

    ``packed`` may be the memory of ``w``: nothing is needed any more when it is overwritten.
    """
    k = 0
    for i in range(n):
        packed[k] = w[i * n + i]
        k += 1
        for j in range(i + 1, n):
            packed[k] = w[i * n + j] + w[j * n + i]
            k += 1


@kernel
def _unpack(packed, n, w):
    """Write out the symmetric matrix of a packed triangle."""
    k = 0
    for i in range(n):
        for j in range(i, n):
            w[i * n + j] = packed[k]
            w[j * n + i] = packed[k]
            k += 1


@kernel
def _slot(operator, width, k):
    """Where the scratch memory of block k begins."""
    return k * (padded(width, operator.a) + ROWS * VECTOR_BYTES)


@kernel
def _pack_lines(o, w):
    """Turn lines w into what meets the rows of A."""
    if o.order > 0:
        for b in range(count_of(w)):
            line = vector_at(address_of(w, b), o.order * o.order, o.a)
            _pack(line, o.order, line)


@kernel
def _add_slot(o, width, work, slot):
    """Add the sums of a later block to those of the first."""
    for b in range(count_of(work)):
        total = vector_at(address_of(work, b), width, o.a)
        part = vector_at(address_of(work, b) + slot, width, o.a)
        for k in range(width):
            total[k] += part[k]


@kernel
def _unpack_lines(o, width, work, w):
    """Write the gradients in W, summed in ``work``, to lines w."""
    for b in range(count_of(w)):
        total = vector_at(address_of(work, b), width, o.a)
        if o.order > 0:
            _unpack(total, o.order, vector_at(address_of(w, b), o.order * o.order, o.a))
        else:
            gradient = vector_at(address_of(w, b), width, o.a)
            for k in range(width):
                gradient[k] = total[k]


# Over all blocks: serially, and on threads.  A block is the unit of cancellation too.


@kernel
def _measure_serial(o, width, x, work, out, cancel):
    for k in range(o.blocks.size - 1):
        if not is_set(cancel):
            measure_rows(o.a, width, o.blocks[k], o.blocks[k + 1], x, work, 0, out)


@parallel_kernel
def _measure_threaded(o, width, x, work, out, cancel):
    for k in prange(o.blocks.size - 1):
        if not is_set(cancel):
            measure_rows(o.a, width, o.blocks[k], o.blocks[k + 1], x, work, _slot(o, width, k), out)


@kernel
def _residual_of_block(o, width, k, w, r, work, slot, cancel):
    if not is_set(cancel):
        residual_rows(o.a, width, o.blocks[k], o.blocks[k + 1], w, o.values, o.scale, work, slot, r)


@kernel
def _residuals_serial(o, w, r, work, cancel):
    width = _row_length(o)
    _pack_lines(o, w)
    for k in range(o.blocks.size - 1):
        slot = _slot(o, width, min(k, 1))
        _residual_of_block(o, width, k, w, r, work, slot, cancel)
        if k > 0:
            _add_slot(o, width, work, slot)
    _unpack_lines(o, width, work, w)


@parallel_kernel
def _residuals_threaded(o, w, r, work, cancel):
    width = _row_length(o)
    _pack_lines(o, w)
    for k in prange(o.blocks.size - 1):
        _residual_of_block(o, width, k, w, r, work, _slot(o, width, k), cancel)
    for k in range(1, o.blocks.size - 1):
        _add_slot(o, width, work, _slot(o, width, k))
    _unpack_lines(o, width, work, w)


@overload(measure)
def _measure(operator, w, out, work, cancel, threads):
    if is_a(operator, DenseRows):
        over_blocks = _measure_serial if is_serial(threads) else _measure_threaded

        def dense(operator, w, out, work, cancel, threads):
            x = w
            if operator.order > 0:
                x = work
                _pack(w, operator.order, x)
            over_blocks(operator, _row_length(operator), x, work, out, cancel)

        return dense
    if is_a(operator, SparseRows):

        def sparse(operator, w, out, work, cancel, threads):
            _sparse_times_vector(operator.row_starts, operator.cols, operator.row_weights, w, out)

        return sparse
    return None


@overload(residuals)
def _residuals(operator, w, r, work, cancel, threads):
    if not is_a(operator, DenseRows):
        return None
    over_blocks = _residuals_serial if is_serial(threads) else _residuals_threaded

    def dense(operator, w, r, work, cancel, threads):
        over_blocks(operator, w, r, work, cancel)

    return dense


@overload(residual)
def _residual(operator, w, r, work, cancel, threads):
    if is_a(operator, DenseRows):
        over_blocks = _residuals_serial if is_serial(threads) else _residuals_threaded

        def dense(operator, w, r, work, cancel, threads):
            over_blocks(operator, w, r, work, cancel)
            return loss_of(operator, r)

        return dense
    if is_a(operator, SparseRows):

        def sparse(operator, w, r, work, cancel, threads):
            _sparse_times_vector(operator.row_starts, operator.cols, operator.row_weights, w, r)
            loss = misfit(operator.values, operator.scale, r)
            _sparse_times_vector(operator.col_starts, operator.rows, operator.col_weights, r, w)
            return loss

        return sparse
    return None
