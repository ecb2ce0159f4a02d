"""What the CUDA backend asks of a device."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from fastdmf._checks import Array


class Device(Protocol):
    """What a device offers: memory, dense products and launches, done in the order they are asked for.

    Arrays on the device have shape, size, T, reshape and slices, as NumPy's.
    """

    name: str

    def empty(self, shape: Sequence[int], dtype: np.dtype) -> Any:
        """An uninitialized array."""
        ...

    def put(self, array: Array) -> Any:
        """A copy on the device."""
        ...

    def copy(self, array: Array, into: Any) -> None:
        """Copy an array to one on the device."""
        ...

    def get(self, array: Any) -> Array:
        """A copy in host memory, once everything queued before has been done."""
        ...

    def address(self, array: Any) -> int:
        """Where an array lies, for kernels that are told so by tables."""
        ...

    def multiply(self, a: Any, b: Any, out: Any) -> None:
        """out = a b, for C-contiguous matrices of which a and b may be transposed."""
        ...

    def load(self, dtype: np.dtype) -> Callable[..., None]:
        """A function (kernel, grid, *arguments) that queues a launch."""
        ...


class Matrices:
    """Matrices that lie one after another in one array, ``flat``."""

    def __init__(self, flat: Any, shapes: Sequence[tuple[int, int]]) -> None:
        ends = np.cumsum([0] + [rows * cols for rows, cols in shapes]).tolist()
        self.flat = flat
        self.each = [flat[a:b].reshape(s) for a, b, s in zip(ends[:-1], ends[1:], shapes, strict=True)]
