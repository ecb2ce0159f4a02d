"""Linear measurements of W, dense or sparse."""

from typing import NamedTuple

import numpy as np
from numba import prange

from fastdmf.kernels.cpu.compilation import compile_apart, kernel
from fastdmf.kernels.cpu.dense_rows import (
    MOST_ROWS,
    address_of,
    count_of,
    measure_rows,
    padded,
    residual_rows,
)
from fastdmf.kernels.cpu.loss import misfit
from fastdmf.kernels.cpu.tables import VECTOR_BYTES, is_set, vector_at
from fastdmf.kernels.cpu.verbs import implements


class DenseRows(NamedTuple):
    """The measurement w ↦ A w with A (m, n p) dense, compared with ``values``; loss = (c/2) Σ r².

    With ``order`` n > 0 the A_i are symmetric, n × n, and the rows of ``a`` hold their upper triangles row
    by row.  ``blocks`` cuts the measurements into blocks.  The gradient is summed block by block and the
    sums are added up in order, so that the number of threads changes no bit.

    Scratch memory ``work`` has ``slots`` slots, one for each block, or 2 that serve all blocks in turn: room
    for a row of A in whole vectors and for ``dense_rows.MOST_ROWS`` vectors.
    """

    a: np.ndarray
    order: int
    blocks: np.ndarray
    slots: int
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
def loss_of(scale, r):
    """The loss (c/2) Σ r², given c r."""
    compile_apart()
    c = np.float64(r.dtype.type(scale))
    total = 0.0
    for x in r:
        misfit = np.float64(x) / c
        total += misfit * misfit
    return 0.5 * scale * total


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
    return min(k, operator.slots - 1) * (padded(width, operator.a) + MOST_ROWS * VECTOR_BYTES)


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


# Over all blocks, of which each is the unit of cancellation too.


@kernel
def _measure_block(at, k, x, work, out):
    o = at[0]
    width = _row_length(o)
    measure_rows(o.a, width, o.blocks[k], o.blocks[k + 1], x, work, _slot(o, width, k), out)


@kernel
def _residuals_of_block(at, k, w, r, work):
    o = at[0]
    width = _row_length(o)
    slot = _slot(o, width, k)
    residual_rows(o.a, width, o.blocks[k], o.blocks[k + 1], w, o.values, o.scale, work, slot, r)
    if k > 0 and o.slots < o.blocks.size - 1:  # blocks take turns
        _add_slot(o, width, work, slot)


@kernel
def _gather_slots(at, w, work):
    """Add up the slots of blocks that have one each, and write the gradients to lines w."""
    o = at[0]
    width = _row_length(o)
    if o.slots == o.blocks.size - 1:
        for k in range(1, o.slots):
            _add_slot(o, width, work, _slot(o, width, k))
    _unpack_lines(o, width, work, w)


@implements("measure", DenseRows)
def _measure(at, w, out, work, cancel):
    x = w
    if at[0].order > 0:
        x = work
        _pack(w, at[0].order, x)
    for k in prange(at[0].blocks.size - 1):
        if not is_set(cancel):
            _measure_block(at, k, x, work, out)


@implements("residual", DenseRows)
def _residual(at, w, r, work, cancel):
    _pack_lines(at[0], w)
    for k in prange(at[0].blocks.size - 1):
        if not is_set(cancel):
            _residuals_of_block(at, k, w, r, work)
    _gather_slots(at, w, work)
    return loss_of(at[0].scale, r)


@implements("residuals", DenseRows)
def _residuals(at, w, r, work, cancel):
    _pack_lines(at[0], w)
    for k in prange(at[0].blocks.size - 1):
        if not is_set(cancel):
            _residuals_of_block(at, k, w, r, work)
    _gather_slots(at, w, work)


@implements("measure", SparseRows)
def _measure_sparse(at, w, out, work, cancel):
    o = at[0]
    _sparse_times_vector(o.row_starts, o.cols, o.row_weights, w, out)


@implements("residual", SparseRows)
def _residual_sparse(at, w, r, work, cancel):
    o = at[0]
    _sparse_times_vector(o.row_starts, o.cols, o.row_weights, w, r)
    loss = misfit(o.values, o.scale, r)
    _sparse_times_vector(o.col_starts, o.rows, o.col_weights, r, w)
    return loss
