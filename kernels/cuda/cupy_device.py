"""A GPU, through CuPy: memory, matrix products and launches."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

from fastdmf.kernels.cuda import sources

_NULL = np.uint64(0)


class CupyDevice:
    """The current device of CuPy and its current stream, on which all work goes, from whatever thread.

    Raises
    ------
    ValueError
        If CuPy, a library of CUDA, a driver or a GPU is missing.
    """

    def __init__(self) -> None:
        self._cupy = cupy = _cupy_with_a_gpu()
        self._device, self._stream = cupy.cuda.Device(), cupy.cuda.get_current_stream()
        self.name = cupy.cuda.runtime.getDeviceProperties(self._device.id)["name"].decode()

    @contextmanager
    def _here(self) -> Iterator[None]:
        """What is current is a setting of each thread, and stretches of a run may change threads."""
        with self._device, self._stream:
            yield

    @contextmanager
    def _allocating(self, wanted: int) -> Iterator[None]:
        try:
            with self._here():
                yield
        except MemoryError:
            with self._here():
                free, total = self._cupy.cuda.runtime.memGetInfo()
            raise MemoryError(
                f"the memory of {self.name} is full: {wanted} bytes were asked for, and {free} of {total} "
                "are free; use fewer runs at a time, smaller widths or dtype='float32'"
            ) from None

    def empty(self, shape: Sequence[int], dtype: np.dtype) -> Any:
        """An uninitialized array; MemoryError where there is no room for it."""
        with self._allocating(math.prod(shape) * dtype.itemsize):
            return self._cupy.empty(tuple(shape), dtype)

    def put(self, array: np.ndarray) -> Any:
        """A copy on the device; MemoryError where there is no room for it."""
        with self._allocating(array.nbytes):
            return self._cupy.array(array, order="C")

    def copy(self, array: np.ndarray, into: Any) -> None:
        """Copy an array to one on the device."""
        with self._here():
            into.set(np.ascontiguousarray(array))

    def get(self, array: Any) -> np.ndarray:
        """A copy in host memory, once everything queued before has been done."""
        with self._here():
            return self._cupy.asnumpy(array)

    def address(self, array: Any) -> int:
        """Where an array lies."""
        return array.data.ptr

    def multiply(self, a: Any, b: Any, out: Any, adds: bool = False) -> None:
        """out = [out +] a b by cuBLAS, for C-contiguous matrices, a and b perhaps transposed: no copies."""
        with self._here():
            self._cupy.cublas.gemm("N", "N", a, b, out=out, beta=float(adds))

    def load(self, dtype: np.dtype) -> Callable[..., None]:
        """A function (kernel, grid, *arguments) that queues a launch, for factors of a type."""
        with self._here():
            kernels = _kernels(self._device.id, dtype, sources.source())
        numbers = sources.number_types(dtype)

        def launch(name: str, grid: tuple[int, ...], *arguments: Any) -> None:
            given = tuple(
                numbers[kind](x) if kind in numbers else _NULL if x is None else x
                for kind, x in zip(sources.KERNELS[name], arguments, strict=True)
            )
            with self._here():
                kernels[name](grid, (sources.BLOCK,), given)

        return launch


def _cupy_with_a_gpu() -> Any:
    """CuPy, if it and all that it needs is there."""
    try:
        import cupy
    except ImportError:
        raise ValueError(
            "device 'cuda' needs CuPy, which is not installed: pip install 'cupy-cuda13x[ctk]', or "
            "'cupy-cuda12x[ctk]' for a driver of CUDA 12"
        ) from None
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise ValueError(
            f"device 'cuda' needs an NVIDIA GPU and its driver, but CuPy finds none: {error}"
        ) from None
    if count == 0:
        raise ValueError("device 'cuda' needs an NVIDIA GPU, but its driver finds none")
    try:
        import cupy.cublas
    except ImportError as error:
        raise ValueError(
            "device 'cuda' needs CUDA's libraries, which CuPy does not find: pip install "
            "'cupy-cuda13x[ctk]', 'cupy-cuda12x[ctk]' for CUDA 12, or the CUDA toolkit "
            f"({str(error).splitlines()[0]})"
        ) from None
    return cupy


@cache
def _kernels(device: int, dtype: np.dtype, code: str) -> dict[str, Any]:
    """The kernels, compiled for a device when they are first wanted there."""
    import cupy

    module = cupy.RawModule(code=code, options=sources.options(dtype))
    return {name: module.get_function(name) for name in sources.KERNELS}
