"""A GPU, through CuPy: memory, matrix products and launches."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from fastdmf.kernels.cuda import sources

_NULL = np.uint64(0)


class CupyDevice:
    """The current device of CuPy, and its current stream.

    Raises
    ------
    ValueError
        If CuPy, a driver or a GPU is missing.
    """

    def __init__(self) -> None:
        try:
            import cupy
        except ImportError:
            raise ValueError(
                "device 'cuda' needs CuPy, which is not installed: pip install cupy-cuda12x, or cupy-cuda13x "
                "for CUDA 13"
            ) from None
        if not cupy.cuda.is_available():
            raise ValueError("device 'cuda' needs an NVIDIA GPU and its driver, but CuPy finds none")
        import cupy.cublas

        self._cupy = cupy
        self.name = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()

    def empty(self, shape: Sequence[int], dtype: np.dtype) -> Any:
        """An uninitialized array."""
        return self._cupy.empty(tuple(shape), dtype)

    def put(self, array: np.ndarray) -> Any:
        """A copy on the device."""
        return self._cupy.array(array, order="C")

    def copy(self, array: np.ndarray, into: Any) -> None:
        """Copy an array to one on the device."""
        into.set(np.ascontiguousarray(array))

    def get(self, array: Any) -> np.ndarray:
        """A copy in host memory, once everything queued before has been done."""
        return self._cupy.asnumpy(array)

    def address(self, array: Any) -> int:
        """Where an array lies."""
        return array.data.ptr

    def multiply(self, a: Any, b: Any, out: Any) -> None:
        """out = a b by cuBLAS, for C-contiguous matrices of which a and b may be transposed: no copies."""
        self._cupy.cublas.gemm("N", "N", a, b, out=out)

    def load(self, dtype: np.dtype) -> Callable[..., None]:
        """A function (kernel, grid, *arguments) that queues a launch, for factors of a type."""
        kernels = _kernels(self._cupy.cuda.Device().id, dtype, sources.source())
        numbers = sources.number_types(dtype)

        def launch(name: str, grid: tuple[int, ...], *arguments: Any) -> None:
            given = tuple(
                numbers[kind](x) if kind in numbers else _NULL if x is None else x
                for kind, x in zip(sources.KERNELS[name], arguments, strict=True)
            )
            kernels[name](grid, (sources.BLOCK,), given)

        return launch


@cache
def _kernels(device: int, dtype: np.dtype, code: str) -> dict[str, Any]:
    """The kernels, compiled for a device when they are first wanted there."""
    import cupy

    module = cupy.RawModule(code=code, options=sources.options(dtype))
    return {name: module.get_function(name) for name in sources.KERNELS}
