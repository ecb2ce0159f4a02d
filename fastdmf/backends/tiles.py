"""Large sparse supports, cut into tiles for the blocked kernels."""

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

from fastdmf._checks import Array
from fastdmf.backends.layout import compressed_rows
from fastdmf.kernels.cpu.blocked import Blocks
from fastdmf.kernels.cpu.simd import MOST
from fastdmf.kernels.cpu.tables import VECTOR_BYTES

#: Bytes of a factor that stay near while a tile is handled: a quarter of a second level of cache of 1 MiB,
#: where 256 to 512 KiB were best.  A choice, not a detection: it decides the order of sums.
NEAR = 2**18
#: Entries that a row of a tile should have at least, so that taking it up is worth while.
RUN = 8
#: Multiply-adds after which kernels look whether they are to stop: a few milliseconds of work.
STRETCH = 2**24
#: Shares of the columns that threads are given.
_SHARES = 64


class Tiling(NamedTuple):
    """How to cut a support: about so many blocks of rows and of columns, each of similar work.

    None has more than about ``tallest`` rows or ``widest`` columns.
    """

    down: int
    across: int
    tallest: int
    widest: int


def tiling_of(shape: tuple[int, int], entries: int, width: int, dtype: np.dtype) -> Tiling | None:
    """How to cut a support on which rows of ``width`` elements meet; None if it should stay whole.

    It pays where a factor, or the panel of it that is handled at once, is larger than what stays near, unless
    there are so few entries that most rows of the tiles would be empty.
    """
    n, p = shape
    row = min(-(-width * dtype.itemsize // VECTOR_BYTES), MOST) * VECTOR_BYTES
    near = NEAR // max(row, VECTOR_BYTES)
    if width == 0 or max(n, p) <= 2 * near:
        return None
    # At least two blocks of rows, for threads; 2¹⁵ lines at most, so that local indices have 16 bits.
    down = max(min(-(-n // near), max(entries // (RUN * p), 2)), entries * width // STRETCH, -(-n >> 15))
    across = max(min(-(-p // near), max(entries // (RUN * n), 1)), -(-p >> 15))
    if n * across + p * down > entries:
        return None
    return Tiling(down, across, max(near, -(-n // down)), max(near, -(-p // across)))


def blocks_support(
    rows: Array, cols: Array, shape: tuple[int, int], tiling: Tiling, threads: int = 1
) -> tuple[Blocks, Array, tuple[Array, Array]]:
    """A support in tiles, the permutation that numbers its entries so, and their places in that order."""
    n, p = shape
    col_starts = compressed_rows(cols, p)
    row_cuts = _cuts(compressed_rows(rows, n), tiling.down, tiling.tallest)
    col_cuts = _cuts(col_starts, tiling.across, tiling.widest)
    row_block, local_row, heights = _in_blocks(row_cuts)
    col_block, local_col, _ = _in_blocks(col_cuts)
    number = np.arange(rows.size, dtype=np.int32 if rows.size < 2**31 else np.int64)

    # The rows of tiles are numbered tile by tile, along one block of rows after the other.  SciPy sorts in
    # linear time, and within lines too.
    down, across = row_cuts.size - 1, col_cuts.size - 1
    line = (row_cuts[row_block] * across + local_row)[rows] + heights[row_block][rows] * col_block[cols]
    along: Any = scipy.sparse.csr_array((number, (line, cols)), shape=(n * across, p))
    order = along.data
    where = rows[order], along.indices
    # Every column of a block of rows is one line.
    line = row_block[where[0]] * p + where[1]
    columns: Any = scipy.sparse.csr_array((number, (line, where[0])), shape=(down * p, n))
    return (
        Blocks(
            row_cuts, col_cuts, along.indptr.astype(np.int64), local_col[along.indices],
            columns.indptr.astype(np.int64), local_row[columns.indices], columns.data,
            _cuts(col_starts, _SHARES, p), threads,
        ),
        order,
        where,
    )  # fmt: skip


def _cuts(starts: Array, pieces: int, longest: int) -> Array:
    """Cut compressed lines into pieces of similar work, and these where they are longer than about that."""
    lines = starts.size - 1
    equal = np.searchsorted(starts, np.linspace(0, starts[-1], pieces + 1)[1:-1])
    cuts = np.unique(np.concatenate(([0], equal, [lines])))
    parts = np.maximum(1, np.rint(np.diff(cuts) / longest).astype(np.int64))
    ends = zip(cuts[:-1], cuts[1:], parts, strict=True)
    finer = [np.linspace(first, last, k, endpoint=False) for first, last, k in ends]
    return np.concatenate([*finer, [lines]]).astype(np.int64)


def _in_blocks(cuts: Array) -> tuple[Array, Array, Array]:
    """For every line its block and its place there; the size of every block."""
    sizes = np.diff(cuts)
    block = np.repeat(np.arange(sizes.size), sizes)
    return block, (np.arange(cuts[-1]) - cuts[block]).astype(np.uint16), sizes
