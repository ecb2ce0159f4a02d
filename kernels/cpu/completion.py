"""W on a sparse support: sampled products, their adjoints, and observed entries.

The support Ω is kept twice, row by row and column by column, so that both halves of the gradient are
sums that one row owns: nothing is scattered, and rows can be shared among threads without changing a bit.
"""

from typing import NamedTuple

import numpy as np
from numba import prange
from numba.extending import overload

from fastdmf.kernels.cpu.compilation import IS_PLAIN, compile_apart, inlined, kernel, parallel_kernel
from fastdmf.kernels.cpu.loss import misfit
from fastdmf.kernels.cpu.simd import MOST
from fastdmf.kernels.cpu.tables import VECTOR_BYTES, is_set
from fastdmf.kernels.cpu.verbs import is_a, is_serial, look, measure, pull, pull_tied, residual

if IS_PLAIN:
    from fastdmf.kernels.cpu.plain import dot_rows, sum_rows
else:
    from fastdmf.kernels.cpu.simd import dot_rows, sum_rows


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


@kernel
def _panels(place, like):
    """Vectors of a row, and of each of the panels of about equal size that long rows are cut into."""
    vectors = -(-place.cols * like.itemsize // VECTOR_BYTES)
    panels = -(-vectors // MOST)
    return vectors, -(-vectors // panels)


@kernel
def _row(place, i, like):
    """Where row i of a matrix starts."""
    return place.address + i * place.stride * like.itemsize


@kernel
def sampled_products(left, right, starts, cols, first, last, w, is_added):
    """w_e = [w_e +] ⟨L_i, R_j⟩ for the entries e = (i, j) of rows first … last − 1."""
    compile_apart()
    vectors, panel = _panels(left, w)
    for q in range(0, vectors, panel):
        offset = q * VECTOR_BYTES
        for i in range(first, last):
            dot_rows(
                w, min(panel, vectors - q), _row(left, i, w) + offset, right.address + offset,
                right.stride * w.itemsize, cols, starts[i], starts[i + 1], is_added or q > 0,
                w.ctypes.data,
            )  # fmt: skip


@kernel
def gather_rows(starts, cols, order, z, dense, first, last, scale, base, out):
    """out_i = [base_i] + scale Σ_e z_e dense_j over the entries e = (i, j) of rows first … last − 1."""
    compile_apart()
    vectors, panel = _panels(dense, z)
    scale = z.dtype.type(scale)
    has_base, in_place = base.address != 0, base.address == out.address
    for q in range(0, vectors, panel):
        offset = q * VECTOR_BYTES
        for i in range(first, last):
            if in_place and starts[i] == starts[i + 1]:
                continue
            here = _row(out, i, z) + offset
            sum_rows(
                z, min(panel, vectors - q), z.ctypes.data, order, dense.address + offset,
                dense.stride * z.itemsize, cols, starts[i], starts[i + 1],
                scale, has_base, _row(base, i, z) + offset if has_base else here, here,
            )  # fmt: skip


# Both over all blocks: serially, and on threads.  A block is the unit of cancellation too.


@inlined
def _look_serial(left, right, starts, cols, blocks, w, is_added, cancel):
    for b in range(blocks.size - 1):
        if not is_set(cancel):
            sampled_products(left, right, starts, cols, blocks[b], blocks[b + 1], w, is_added)


@parallel_kernel
def _look_threaded(left, right, starts, cols, blocks, w, is_added, cancel):
    for b in prange(blocks.size - 1):
        if not is_set(cancel):
            sampled_products(left, right, starts, cols, blocks[b], blocks[b + 1], w, is_added)


@inlined
def _gather_serial(starts, cols, order, blocks, z, dense, scale, base, out, cancel):
    for b in range(blocks.size - 1):
        if not is_set(cancel):
            gather_rows(starts, cols, order, z, dense, blocks[b], blocks[b + 1], scale, base, out)


@parallel_kernel
def _gather_threaded(starts, cols, order, blocks, z, dense, scale, base, out, cancel):
    for b in prange(blocks.size - 1):
        if not is_set(cancel):
            gather_rows(starts, cols, order, z, dense, blocks[b], blocks[b + 1], scale, base, out)


@overload(look, inline="always")
def _look(support, left, right, w, is_added, cancel, threads):
    if not is_a(support, Pattern):
        return None
    over_blocks = _look_serial if is_serial(threads) else _look_threaded

    def sampled(support, left, right, w, is_added, cancel, threads):
        s = support
        over_blocks(left, right, s.row_starts, s.cols, s.row_blocks, w, is_added, cancel)

    return sampled


@overload(pull, inline="always")
def _pull(support, z, left, right, scale, bases, out_left, out_right, cancel, threads):
    if not is_a(support, Pattern):
        return None
    gather = _gather_serial if is_serial(threads) else _gather_threaded

    def both(support, z, left, right, scale, bases, out_left, out_right, cancel, threads):
        s = support
        gather(s.row_starts, s.cols, None, s.row_blocks, z, right, scale, bases[0], out_left, cancel)
        gather(s.col_starts, s.rows, s.order, s.col_blocks, z, left, scale, bases[1], out_right, cancel)

    return both


@overload(pull_tied, inline="always")
def _pull_tied(support, z, factor, scale, base, out, cancel, threads):
    if not is_a(support, Pattern):
        return None
    gather = _gather_serial if is_serial(threads) else _gather_threaded

    def tied(support, z, factor, scale, base, out, cancel, threads):
        s = support
        gather(s.row_starts, s.cols, None, s.row_blocks, z, factor, scale, base, out, cancel)
        gather(s.col_starts, s.rows, s.order, s.col_blocks, z, factor, scale, out, out, cancel)

    return tied


@overload(measure, inline="always")
def _measure(operator, w, out, work, cancel, threads):
    if not is_a(operator, Entries):
        return None

    # A is the identity on Ω: callers pass one array as both w and out.
    return lambda operator, w, out, work, cancel, threads: None


@overload(residual, inline="always")
def _residual(operator, w, r, work, cancel, threads):
    if not is_a(operator, Entries):
        return None

    def observed(operator, w, r, work, cancel, threads):
        # A is the identity on Ω, so c A*(r) is c r: callers pass one array as both w and r.
        return misfit(operator.values, operator.scale, w)

    return observed
