"""Matrices in the memory of the kernels."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fastdmf._checks import Array
from fastdmf.backends.layout import Shape, aligned_empty, whole_vectors
from fastdmf.kernels.cpu.simd import MOST_TAILED
from fastdmf.kernels.cpu.tables import TAIL_BYTES, VECTOR_BYTES, Place, Table


class RowFormat(NamedTuple):
    """How rows lie: filled up with zeros to vectors of so many ``lanes``.

    Of short rows, what whole vectors leave over lies apart if that is at most ``tail`` elements.
    """

    lanes: int = 1
    tail: int = 0

    @classmethod
    def of(cls, dtype: np.dtype, tails: bool) -> "RowFormat":
        """That of the sparse products, with tails or without."""
        return cls(VECTOR_BYTES // dtype.itemsize, TAIL_BYTES // dtype.itemsize if tails else 0)

    def parts(self, cols: int) -> tuple[int, int]:
        """Elements of a row that lie together, and of its tail."""
        whole, rest = cols - cols % self.lanes, cols % self.lanes
        if 0 < rest <= self.tail and whole < MOST_TAILED * self.lanes:
            return whole, self.tail
        return whole_vectors(cols, self.lanes), 0


class Matrices:
    """Matrices of one type and the table by which kernels find them, in the memory of ``lines``.

    Only what rows and tails end in is initialized: with zeros.
    """

    def __init__(self, shapes: Sequence[Shape], dtype: np.dtype, rows: RowFormat) -> None:
        self._parts: list[tuple[Array, Array]] = []
        lines = []
        for n, cols in shapes:
            whole, tail = rows.parts(cols)
            memory = aligned_empty((n * (whole + tail),), dtype)
            together, tails = memory[: n * whole].reshape(n, whole), memory[n * whole :].reshape(n, tail)
            rest = max(cols - whole, 0)
            together[:, cols:] = tails[:, rest:] = 0.0
            self._parts.append((together[:, :cols], tails[:, :rest]))
            lines.append(Place(together.ctypes.data, n, cols, whole, tails.ctypes.data if tail else 0))
        self.lines = np.array(lines, dtype=np.int64).reshape(-1, len(Place._fields))
        self.table = Table(self.lines.ctypes.data, len(lines))

    @classmethod
    def copies(cls, arrays: Sequence[Array], dtype: np.dtype, rows: RowFormat) -> "Matrices":
        """Copies of the given matrices."""
        new = cls([a.shape for a in arrays], dtype, rows)
        new.put(arrays)
        return new

    @property
    def arrays(self) -> list[Array]:
        """The matrices: views, but of those with tails copies."""
        return [np.hstack(parts) if parts[1].size else parts[0] for parts in self._parts]

    def put(self, arrays: Sequence[Array]) -> None:
        """Copy matrices to the first of these."""
        for (together, tails), array in zip(self._parts[: len(arrays)], arrays, strict=True):
            together[...] = array[:, : together.shape[1]]
            tails[...] = array[:, together.shape[1] :]

    def rotate(self, places: int) -> None:
        """Let the matrices change places, in the table as well."""
        self._parts = self._parts[places:] + self._parts[:places]
        self.lines[:] = np.roll(self.lines, -places, axis=0)
