"""How measurement matrices are laid out for the kernels, whatever the device."""

from typing import NamedTuple

import numpy as np

from fastdmf._checks import Array
from fastdmf.backends.layout import aligned_empty, compressed_rows, refuse_overflow, whole_vectors
from fastdmf.problems import Sensing


class TouchedEntries(NamedTuple):
    """Sparse measurements on the entries that any of them touches, by rows and by columns (the twin).

    ``where`` are the rows and columns of these entries in W.  The stored weights, in ``order``, are those of
    the twin.
    """

    where: tuple[Array, Array]
    row_starts: Array
    cols: Array
    col_starts: Array
    rows: Array
    order: Array


def touched_entries(problem: Sensing) -> TouchedEntries:
    """The places and both orders of sparse measurements."""
    matrices = problem.matrices
    places, compressed = np.unique(matrices.indices, return_inverse=True)
    rows, cols = (x.astype(np.int32) for x in np.divmod(places, problem.shape[1]))
    order = np.argsort(compressed, kind="stable")
    measured_by = np.repeat(np.arange(problem.values.size, dtype=np.int32), np.diff(matrices.indptr))
    return TouchedEntries(
        (rows, cols), matrices.indptr.astype(np.int64), compressed.astype(np.int32),
        compressed_rows(compressed, places.size), measured_by[order], order,
    )  # fmt: skip


def are_symmetric(matrices: Array) -> bool:
    """Whether all are, to the bit."""
    few = max(1, 2**17 // matrices[0].size)  # a few at a time: they stay in the cache, and the first may tell
    return all(
        np.array_equal(part, part.transpose(0, 2, 1))
        for part in (matrices[i : i + few] for i in range(0, len(matrices), few))
    )


def triangles(matrices: Array, dtype: np.dtype, lanes: int) -> Array:
    """The upper triangles, row by row, of the symmetric parts of (m, n, n) matrices: a row each.

    Rows are filled up with zeros to a multiple of ``lanes``.
    """
    m, n, _ = matrices.shape
    size = n * (n + 1) // 2
    packed = aligned_empty((m, whole_vectors(size, lanes)), dtype)
    packed[:, size:] = 0.0
    end = 0
    with np.errstate(over="ignore"):
        for i in range(n):  # no temporary copy is larger than one row of all matrices
            start, end = end, end + n - i
            packed[:, start:end] = 0.5 * matrices[:, i, i:] + 0.5 * matrices[:, i:, i]
    refuse_overflow(packed, matrices)
    return packed
