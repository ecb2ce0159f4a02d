"""W on a large sparse support, cut into tiles so that what is gathered stays in cache.

A gathered row is used again while it is near: a tile is a block of rows by a block of columns whose rows of
the factors fit into the second level of cache.  Indices are local to their block and have 16 bits.

Each thread owns rows in one half of the gradient and columns in the other.  Sums run over the tiles in the
order of their numbers, whoever owns them: the number of threads does not change a bit.
"""

from typing import NamedTuple

import numpy as np
from numba import prange

from fastdmf.kernels.cpu.compilation import kernel
from fastdmf.kernels.cpu.completion import gather_rows, moved_products, sampled_products
from fastdmf.kernels.cpu.tables import TAIL_BYTES, Place, is_set
from fastdmf.kernels.cpu.verbs import implements


class Blocks(NamedTuple):
    """A sparse support Ω of S entries of an n × p matrix, numbered tile by tile.

    ``row_cuts`` (B + 1,) and ``col_cuts`` (C + 1,) cut rows and columns into blocks of at most 2¹⁶.  Tiles
    are numbered along a block of rows, and entries row by row inside a tile.  ``row_starts`` (n C + 1,)
    tells where the rows of the tiles start, and ``cols`` (S,) the columns, counted inside the block.

    ``col_starts`` (B p + 1,) and ``rows`` (S,) are the same column by column inside a whole block of
    rows; ``order`` (S,) gives the number of each entry there.  ``col_shares`` cuts the columns into pieces of
    similar work, of which each of ``threads`` threads takes a share.
    """

    row_cuts: np.ndarray
    col_cuts: np.ndarray
    row_starts: np.ndarray
    cols: np.ndarray
    col_starts: np.ndarray
    rows: np.ndarray
    order: np.ndarray
    col_shares: np.ndarray
    threads: int


@kernel
def _from_row(place, first, like):
    """A matrix without its first rows."""
    address = place.address + first * place.stride * like.itemsize
    tails = place.tails + first * TAIL_BYTES if place.tails != 0 else 0
    return Place(address, place.rows - first, place.cols, place.stride, tails)


@kernel
def _tile(support, b, c):
    """The rows of tile (b, c), and where row i of all rows starts in it: [i]."""
    first, last = support.row_cuts[b], support.row_cuts[b + 1]
    blocks = support.col_cuts.size - 1
    return first, last, support.row_starts[first * (blocks - 1) + c * (last - first) :]


@kernel
def _look_at_block(at, left, right, b, w, is_added):
    """The sampled products of a block of rows."""
    support = at[0]
    for c in range(support.col_cuts.size - 1):
        first, last, starts = _tile(support, b, c)
        dense = _from_row(right, support.col_cuts[c], w)
        sampled_products(left, dense, starts, support.cols, first, last, w, is_added)


@kernel
def _gather_along(at, b, z, dense, scale, base, out):
    """The rows of [base] + scale Z D in a block of rows."""
    support = at[0]
    for c in range(support.col_cuts.size - 1):
        first, last, starts = _tile(support, b, c)
        block = _from_row(dense, support.col_cuts[c], z)
        start = base if c == 0 else out
        gather_rows(starts, support.cols, None, z, block, first, last, scale, start, out)


@kernel
def _gather_down(at, share, z, dense, scale, base, out, cancel):
    """The rows of [base] + scale Zᵀ D that belong to one of the equal shares of the columns."""
    support = at[0]
    pieces = support.col_shares.size - 1
    first = support.col_shares[share * pieces // support.threads]
    last = support.col_shares[(share + 1) * pieces // support.threads]
    p = support.col_cuts[-1]
    for b in range(support.row_cuts.size - 1):
        if not is_set(cancel):
            block = _from_row(dense, support.row_cuts[b], z)
            start = base if b == 0 else out
            starts = support.col_starts[b * p :]
            gather_rows(starts, support.rows, support.order, z, block, first, last, scale, start, out)


@implements("look", Blocks)
def _look(at, left, right, w, is_added, cancel):
    for b in prange(at[0].row_cuts.size - 1):
        if not is_set(cancel):
            _look_at_block(at, left, right, b, w, is_added)


@kernel
def _look_along_block(at, left, right, left_move, right_move, b, linear, quadratic):
    """The coefficients of ξ and ξ² in a block of rows."""
    support = at[0]
    for c in range(support.col_cuts.size - 1):
        first, last, starts = _tile(support, b, c)
        dense = _from_row(right, support.col_cuts[c], linear)
        dense_move = _from_row(right_move, support.col_cuts[c], linear)
        moved_products(
            left, dense, left_move, dense_move, starts, support.cols, first, last, linear, quadratic
        )


@implements("look_along", Blocks)
def _look_along(at, left, right, left_move, right_move, linear, quadratic, cancel):
    for b in prange(at[0].row_cuts.size - 1):
        if not is_set(cancel):
            _look_along_block(at, left, right, left_move, right_move, b, linear, quadratic)


@implements("pull", Blocks)
def _pull(at, z, left, right, scale, base_left, base_right, out_left, out_right, cancel):
    for b in prange(at[0].row_cuts.size - 1):
        if not is_set(cancel):
            _gather_along(at, b, z, right, scale, base_left, out_left)
    for share in prange(at[0].threads):
        _gather_down(at, share, z, left, scale, base_right, out_right, cancel)
