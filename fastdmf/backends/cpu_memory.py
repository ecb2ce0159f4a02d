"""Matrices in the memory of the kernels."""

from collections.abc import Sequence

import numpy as np

from fastdmf._checks import Array
from fastdmf.backends.layout import aligned_empty, whole_vectors
from fastdmf.kernels.cpu.tables import Table, lines_of


class Matrices:
    """C-contiguous matrices and the table by which kernels find them, in the memory of ``lines``."""

    def __init__(self, arrays: Sequence[Array]) -> None:
        self.arrays = list(arrays)
        self.lines = lines_of(self.arrays)
        self.table = Table(self.lines.ctypes.data, len(self.lines))

    @classmethod
    def empty(cls, shapes: Sequence[tuple[int, int]], dtype: np.dtype, lanes: int = 1) -> "Matrices":
        """Matrices of the given shapes, of which only what rows end in is initialized: with zeros."""
        return cls([_with_filled_rows(shape, dtype, lanes) for shape in shapes])

    @classmethod
    def copies(cls, arrays: Sequence[Array], dtype: np.dtype, lanes: int = 1) -> "Matrices":
        """Copies of the given matrices."""
        new = cls.empty([a.shape for a in arrays], dtype, lanes)
        for copy, array in zip(new.arrays, arrays, strict=True):
            copy[...] = array
        return new

    def rotate(self, places: int) -> None:
        """Let the matrices change places, in the table as well."""
        self.arrays = self.arrays[places:] + self.arrays[:places]
        self.lines[:] = np.roll(self.lines, -places, axis=0)


def _with_filled_rows(shape: tuple[int, int], dtype: np.dtype, lanes: int) -> Array:
    """A matrix whose rows are followed by zeros up to a multiple of ``lanes`` elements."""
    rows, cols = shape
    memory = aligned_empty((rows, whole_vectors(cols, lanes)), dtype)
    memory[:, cols:] = 0.0
    return memory[:, :cols]
