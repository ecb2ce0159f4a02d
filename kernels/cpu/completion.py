"""W on a sparse support: sampled products, their adjoints, and observed entries.

The support Ω is kept twice, row by row and column by column, so that both halves of the gradient are
sums that one row owns: nothing is scattered, and rows can be shared among threads without changing a bit.
"""

from typing import NamedTuple

import numpy as np
from numba import prange

from fastdmf.kernels.cpu.compilation import IS_PLAIN, compile_apart, kernel
from fastdmf.kernels.cpu.loss import misfit
from fastdmf.kernels.cpu.simd import MOST, MOST_MOVED
from fastdmf.kernels.cpu.tables import VECTOR_BYTES, Place, is_set
from fastdmf.kernels.cpu.verbs import implements

if IS_PLAIN:
    from fastdmf.kernels.cpu.plain import dot_moved_rows, dot_rows, sum_rows
else:
    from fastdmf.kernels.cpu.simd import dot_moved_rows, dot_rows, sum_rows


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
def _panels(place, most, like):
    """Vectors of a row, and of each of the panels of at most ``most`` vectors that it is cut into.

    Rows with tails are short: they are one panel.
    """
    vectors = -(-place.cols * like.itemsize // VECTOR_BYTES)
    panels = -(-vectors // most)
    return vectors, -(-vectors // panels)


@kernel
def _from_vector(place, q):
    """A matrix without the first q vectors of its rows; nowhere is nowhere."""
    address = place.address + q * VECTOR_BYTES if place.address != 0 else 0
    return Place(address, place.rows, place.cols, place.stride, place.tails)


@kernel
def sampled_products(left, right, starts, cols, first, last, w, is_added):
    """w_e = [w_e +] ⟨L_i, R_j⟩ for the entries e = (i, j) of rows first … last − 1."""
    compile_apart()
    vectors, panel = _panels(left, MOST, w)
    for q in range(0, vectors, panel):
        dot_rows(
            w, min(panel, vectors - q), _from_vector(left, q), _from_vector(right, q), starts, cols, first,
            last, is_added or q > 0, w.ctypes.data,
        )  # fmt: skip


@kernel
def moved_products(left, right, left_move, right_move, starts, cols, first, last, linear, quadratic):
    """The coefficients of ξ and ξ² of ⟨L_i + ξ L'_i, R_j + ξ R'_j⟩ on the rows first … last − 1."""
    compile_apart()
    vectors, panel = _panels(left, MOST_MOVED, linear)
    for q in range(0, vectors, panel):
        dot_moved_rows(
            linear, min(panel, vectors - q), _from_vector(left, q), _from_vector(left_move, q),
            _from_vector(right, q), _from_vector(right_move, q), starts, cols, first, last, q > 0,
            linear.ctypes.data, quadratic.ctypes.data,
        )  # fmt: skip


@kernel
def gather_rows(starts, cols, order, z, dense, first, last, scale, base, out):
    """out_i = [base_i] + scale Σ_e z_e dense_j over the entries e = (i, j) of rows first … last − 1."""
    compile_apart()
    vectors, panel = _panels(dense, MOST, z)
    for q in range(0, vectors, panel):
        sum_rows(
            z, min(panel, vectors - q), z.ctypes.data, order, _from_vector(dense, q), starts, cols, first,
            last, z.dtype.type(scale), _from_vector(base, q), _from_vector(out, q),
        )  # fmt: skip


# Over all blocks, of which each is the unit of cancellation too.


@implements("look", Pattern)
def _look(at, left, right, w, is_added, cancel):
    starts, cols, blocks = at[0].row_starts, at[0].cols, at[0].row_blocks
    for b in prange(blocks.size - 1):
        if not is_set(cancel):
            sampled_products(left, right, starts, cols, blocks[b], blocks[b + 1], w, is_added)


@implements("look_along", Pattern)
def _look_along(at, left, right, left_move, right_move, linear, quadratic, cancel):
    starts, cols, blocks = at[0].row_starts, at[0].cols, at[0].row_blocks
    for b in prange(blocks.size - 1):
        if not is_set(cancel):
            moved_products(
                left, right, left_move, right_move, starts, cols, blocks[b], blocks[b + 1], linear, quadratic
            )


@kernel
def _gather_along(at, b, z, dense, scale, base, out):
    """The rows of [base] + scale Z D in block b of the rows."""
    s = at[0]
    first, last = s.row_blocks[b], s.row_blocks[b + 1]
    gather_rows(s.row_starts, s.cols, None, z, dense, first, last, scale, base, out)


@kernel
def _gather_down(at, b, z, dense, scale, base, out):
    """The rows of [base] + scale Zᵀ D in block b of the columns."""
    s = at[0]
    first, last = s.col_blocks[b], s.col_blocks[b + 1]
    gather_rows(s.col_starts, s.rows, s.order, z, dense, first, last, scale, base, out)


@implements("pull", Pattern)
def _pull(at, z, left, right, scale, base_left, base_right, out_left, out_right, cancel):
    for b in prange(at[0].row_blocks.size - 1):
        if not is_set(cancel):
            _gather_along(at, b, z, right, scale, base_left, out_left)
    for b in prange(at[0].col_blocks.size - 1):
        if not is_set(cancel):
            _gather_down(at, b, z, left, scale, base_right, out_right)


# A is the identity on Ω: callers pass one array as both w and out, or w and r.


@implements("measure", Entries)
def _measure(at, w, out, work, cancel):
    pass


@implements("residual", Entries)
def _residual(at, w, r, work, cancel):
    return misfit(at[0].values, at[0].scale, w)
