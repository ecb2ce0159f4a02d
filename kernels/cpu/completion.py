"""W on a sparse support: sampled products, their adjoints, and observed entries.

The support Ω is kept twice, row by row and column by column, so that both halves of the gradient are
sums that one row owns: nothing is scattered, and rows can be shared among threads without changing a bit.
"""

from typing import NamedTuple

import numpy as np
from numba import prange, types
from numba.extending import overload

from fastdmf.kernels.cpu.compilation import compile_apart, kernel, parallel_kernel
from fastdmf.kernels.cpu.simd import PANEL_BYTES, dot_rows, sum_rows
from fastdmf.kernels.cpu.verbs import is_a, is_serial, look, measure, pull, pull_tied, residual


class Pattern(NamedTuple):
    """A sparse support Ω of S entries of an n × p matrix, numbered row by row.

    ``row_starts`` (n + 1,) and ``cols`` (S,) are its CSR form.  ``col_starts`` (p + 1,) and ``rows``
    (S,) are the CSC form, and ``order`` (S,) gives the row-by-row number of each entry there.
    ``row_blocks`` and ``col_blocks`` cut rows and columns into blocks of similar work.
    """

    row_starts: np.ndarray
    cols: np.ndarray
    row_blocks: np.ndarray
    col_starts: np.ndarray
    rows: np.ndarray
    order: np.ndarray
    col_blocks: np.ndarray


class Entries(NamedTuple):
    """The measurement W ↦ W on Ω, compared with ``values`` (S,); ``scale`` c: loss = (c/2) Σ r²."""

    values: np.ndarray
    scale: float


def _address(array):
    """Where an array lies; None stays None."""


@overload(_address)
def _address_of(array):
    if isinstance(array, types.NoneType):
        return lambda array: None
    return lambda array: array.ctypes.data


@kernel
def _sampled_products(left, right, starts, cols, first, last, w):
    """w_e = ⟨L_i, R_j⟩ for the entries e = (i, j) of rows first … last − 1."""
    compile_apart()
    width, size = left.shape[1], left.itemsize
    panel = PANEL_BYTES // size
    for q in range(0, width, panel):
        rows, others = left.ctypes.data + q * size, right.ctypes.data + q * size
        for i in range(first, last):
            dot_rows(
                w, min(panel, width - q), rows + i * width * size, others, width * size,
                cols.ctypes.data, starts[i], starts[i + 1], q > 0, w.ctypes.data,
            )  # fmt: skip


@kernel
def _gather_rows(starts, cols, order, z, dense, first, last, accumulate, out):
    """out_i (+)= Σ_e z_e dense_j over the entries e = (i, j) of rows first … last − 1."""
    compile_apart()
    width, size = dense.shape[1], dense.itemsize
    panel = PANEL_BYTES // size
    for q in range(0, width, panel):
        others, totals = dense.ctypes.data + q * size, out.ctypes.data + q * size
        for i in range(first, last):
            sum_rows(
                z, min(panel, width - q), z.ctypes.data, _address(order), others, width * size,
                cols.ctypes.data, starts[i], starts[i + 1], accumulate, totals + i * width * size,
            )  # fmt: skip


# Both over all blocks: serially, and on threads.  A block is the unit of cancellation too.


@kernel
def _look_serial(left, right, starts, cols, blocks, w, cancel):
    for b in range(blocks.size - 1):
        if cancel[0] == 0:
            _sampled_products(left, right, starts, cols, blocks[b], blocks[b + 1], w)


@parallel_kernel
def _look_threaded(left, right, starts, cols, blocks, w, cancel):
    for b in prange(blocks.size - 1):
        if cancel[0] == 0:
            _sampled_products(left, right, starts, cols, blocks[b], blocks[b + 1], w)


@kernel
def _gather_serial(starts, cols, order, blocks, z, dense, accumulate, out, cancel):
    for b in range(blocks.size - 1):
        if cancel[0] == 0:
            _gather_rows(starts, cols, order, z, dense, blocks[b], blocks[b + 1], accumulate, out)


@parallel_kernel
def _gather_threaded(starts, cols, order, blocks, z, dense, accumulate, out, cancel):
    for b in prange(blocks.size - 1):
        if cancel[0] == 0:
            _gather_rows(starts, cols, order, z, dense, blocks[b], blocks[b + 1], accumulate, out)


@overload(look)
def _look(support, left, right, w, cancel, threads):
    if not is_a(support, Pattern):
        return None
    over_blocks = _look_serial if is_serial(threads) else _look_threaded

    def sampled(support, left, right, w, cancel, threads):
        over_blocks(left, right, support.row_starts, support.cols, support.row_blocks, w, cancel)

    return sampled


@overload(pull)
def _pull(support, z, left, right, grad_left, grad_right, cancel, threads):
    if not is_a(support, Pattern):
        return None
    gather = _gather_serial if is_serial(threads) else _gather_threaded

    def both(support, z, left, right, grad_left, grad_right, cancel, threads):
        s = support
        gather(s.row_starts, s.cols, None, s.row_blocks, z, right, False, grad_left, cancel)
        gather(s.col_starts, s.rows, s.order, s.col_blocks, z, left, False, grad_right, cancel)

    return both


@overload(pull_tied)
def _pull_tied(support, z, factor, grad, cancel, threads):
    if not is_a(support, Pattern):
        return None
    gather = _gather_serial if is_serial(threads) else _gather_threaded

    def tied(support, z, factor, grad, cancel, threads):
        s = support
        gather(s.row_starts, s.cols, None, s.row_blocks, z, factor, False, grad, cancel)
        gather(s.col_starts, s.rows, s.order, s.col_blocks, z, factor, True, grad, cancel)

    return tied


@overload(measure)
def _measure(operator, w, out, work, cancel, threads):
    if not is_a(operator, Entries):
        return None

    def copy(operator, w, out, work, cancel, threads):
        out[:] = w

    return copy


@overload(residual)
def _residual(operator, w, r, work, cancel, threads):
    if not is_a(operator, Entries):
        return None

    def observed(operator, w, r, work, cancel, threads):
        # A is the identity on Ω, so c A*(r) is c r: callers pass one array as both w and r.
        c = w.dtype.type(operator.scale)
        squares = 0.0
        for e in range(w.size):
            misfit = w[e] - operator.values[e]
            squares += np.float64(misfit) * np.float64(misfit)
            w[e] = c * misfit
        return 0.5 * operator.scale * squares

    return observed
