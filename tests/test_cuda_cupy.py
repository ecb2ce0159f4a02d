"""What CuPy is asked for, with a stand-in that answers by NumPy and the shim, and what is said without it."""

import contextlib
import sys
import threading
import types

import numpy as np
import pytest

import fastdmf as dmf
from fastdmf.backends import cuda
from fastdmf.kernels.cuda import sources
from tests import cuda_shim
from tests.cuda_shim import ShimDevice
from tests.test_against_naive import assert_same

needs_shim = pytest.mark.skipif(bool(cuda_shim.MISSING), reason=f"the CUDA shim {cuda_shim.MISSING}")


class OnDevice(np.ndarray):
    """An array that host code must not touch but by CuPy's calls."""

    data = property(lambda self: types.SimpleNamespace(ptr=self.ctypes.data))

    def set(self, array):
        assert HERE.is_current and type(array) is np.ndarray and array.flags.c_contiguous
        assert array.dtype == self.dtype and array.shape == self.shape
        self[...] = array


class Current(threading.local):
    """The device and the stream that are current in this thread."""

    device = stream = "another"

    @property
    def is_current(self):
        return (self.device, self.stream) == ("the user's", "the user's")


HERE = Current()


@contextlib.contextmanager
def entered(what):
    before = getattr(HERE, what)
    setattr(HERE, what, "the user's")
    yield
    setattr(HERE, what, before)


class Settable:
    """CuPy's Device or Stream."""

    def __init__(self, what, number):
        self.what, self.id, self._entered = what, number, []

    def __enter__(self):
        self._entered.append(entered(self.what))
        self._entered[-1].__enter__()

    def __exit__(self, *error):
        self._entered.pop().__exit__(None, None, None)


class DriverError(RuntimeError):
    """CuPy's CUDARuntimeError."""


def stand_in(number, shim=None, devices=1):
    """A module that has of CuPy what is asked for; what was compiled is in ``asked``."""
    cupy = types.ModuleType("cupy")
    cupy.cublas = types.ModuleType("cupy.cublas")
    cupy.asked = []

    def gemm(transa, transb, a, b, out, beta):
        assert HERE.is_current
        assert all(isinstance(x, OnDevice) for x in (a, b, out)) and out.flags.c_contiguous
        assert all(x.flags.c_contiguous or x.flags.f_contiguous for x in (a, b)), "it would be copied"
        assert (transa, transb) == ("N", "N")
        out[...] = np.array(a @ b) + (beta * out if beta else 0)

    class RawModule:
        def __init__(self, code, options):
            assert HERE.is_current
            cupy.asked.append((code, options))
            self.dtype = np.dtype({"float": np.float32, "double": np.float64}[options[-1].split("=")[1]])
            self.launch = shim.load(self.dtype)

        def get_function(self, name):
            def kernel(grid, block, arguments):
                assert HERE.is_current and block == (sources.BLOCK,)
                for kind, x in zip(sources.KERNELS[name], arguments, strict=True):
                    is_null = isinstance(x, np.uint64) and x == 0
                    wanted = sources.number_types(self.dtype).get(kind)
                    assert isinstance(x, wanted) if wanted else isinstance(x, OnDevice) or is_null
                nulls = [None if isinstance(x, np.uint64) else x for x in arguments]
                self.launch(name, grid, *nulls)

            return kernel

    def count():
        if devices is None:
            raise DriverError("cudaErrorInsufficientDriver: CUDA driver version is insufficient")
        return devices

    def checked(function):
        def call(*arguments, **named):
            assert HERE.is_current
            return function(*arguments, **named)

        return call

    cupy.cublas.gemm = gemm
    cupy.cuda = types.SimpleNamespace(
        Device=lambda: Settable("device", number),
        get_current_stream=lambda: Settable("stream", None),
        runtime=types.SimpleNamespace(
            getDeviceCount=count,
            getDeviceProperties=lambda device: {"name": b"a stand-in"},
            memGetInfo=checked(lambda: (5, 1000)),
            CUDARuntimeError=DriverError,
        ),
    )
    cupy.RawModule = RawModule
    cupy.empty = checked(lambda shape, dtype: np.full(shape, np.nan, dtype).view(OnDevice))
    cupy.array = checked(lambda array, order: np.array(array, order=order).view(OnDevice))
    cupy.asnumpy = checked(lambda array: np.array(array))
    return cupy


def install(monkeypatch, cupy):
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "cupy.cublas", cupy and cupy.cublas)
    return cupy


def start_on_cuda(depth=2):
    return dmf.Loop(dmf.Completion.random(), dmf.Product(depth), dmf.GradientDescent(1.0), device="cuda")


def test_without_cupy_one_sentence_says_so(monkeypatch):
    install(monkeypatch, None)
    with pytest.raises(ValueError, match=r"^device 'cuda' needs CuPy, which is not installed: pip install"):
        start_on_cuda()


def test_without_a_driver_one_sentence_says_so(monkeypatch):
    install(monkeypatch, stand_in(0, devices=None))
    with pytest.raises(
        ValueError, match=r"^device 'cuda' needs an NVIDIA GPU and its driver, .* none: cudaErrorInsuff"
    ):
        start_on_cuda()


def test_without_a_device_one_sentence_says_so(monkeypatch):
    install(monkeypatch, stand_in(0, devices=0))
    with pytest.raises(ValueError, match=r"^device 'cuda' needs an NVIDIA GPU, but its driver finds none$"):
        start_on_cuda()


def test_without_cublas_one_sentence_says_so(monkeypatch):
    install(monkeypatch, stand_in(0))
    monkeypatch.setitem(sys.modules, "cupy.cublas", None)
    with pytest.raises(ValueError, match=r"^device 'cuda' needs CUDA's libraries, which CuPy does not find"):
        start_on_cuda()


@needs_shim
@pytest.mark.parametrize("call", ["array", "empty"])
def test_when_memory_is_full_one_sentence_says_so(monkeypatch, call):
    cupy = install(monkeypatch, stand_in("full", ShimDevice()))

    def full(*arguments, **named):
        raise MemoryError("out of memory allocating 80,000 bytes")

    loop = start_on_cuda() if call == "empty" else None
    setattr(cupy, call, full)
    with pytest.raises(
        MemoryError, match=r"^the memory of a stand-in is full: \d+ bytes .* 5 of 1000 are free"
    ):
        loop.init() if loop else start_on_cuda()


CASES = {
    "depth 1": (dmf.Product(1), dmf.GradientDescent(30.0)),
    "depth 2": (dmf.Product(2), dmf.GradientDescent(0.5, momentum=0.9)),
    "depth 4": (dmf.Product(4, (30, 26, 33)), dmf.GradientDescent(2.0)),
    "UUᵀ": (dmf.Symmetric(), dmf.GroupRMSprop(0.2)),
    "line search": (dmf.Product(3), dmf.ExactLineSearch()),
}


@needs_shim
@pytest.mark.parametrize("way", ["by launches", "by a block"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_cupy_is_asked_for_what_the_shim_is_asked_for(monkeypatch, way, dtype):
    """A run through `CupyDevice` is that on the shim, and all of it on one device and one stream."""
    if way == "by launches":
        monkeypatch.setattr(cuda, "fits_a_block", lambda *choices: False)
    shim = ShimDevice()
    cupy = install(monkeypatch, stand_in(f"{way} {dtype}", shim))

    def ends(case):
        factorization, optimizer = CASES[case]
        shape = (32, 32) if case == "UUᵀ" else (28, 36)
        problem = dmf.Completion.random(shape, rank=2, observed=300, seed=3)
        loop = dmf.Loop(problem, factorization, optimizer, dtype=dtype, device="cuda")
        start = loop.init(dmf.Gaussian(product_scale=0.3), seed=0)
        states = []
        thread = threading.Thread(target=lambda: states.append(loop.advance(start, 4)))
        thread.start()  # another thread has another current stream
        thread.join()
        return states[0]

    through_cupy = [ends(case) for case in CASES]
    assert cupy.asked == [(sources.source(), sources.options(np.dtype(dtype)))], "compiled more than once"
    monkeypatch.setattr(cuda, "open_device", lambda: shim)
    for case, end in zip(CASES, through_cupy, strict=True):
        assert_same(end, ends(case))


@pytest.mark.gpu
def test_on_a_gpu_another_stream_of_the_user_changes_nothing():
    """Work goes on the stream that was current when the loop was made, whatever is current later."""
    try:
        cuda.open_device()
    except ValueError as missing:
        pytest.skip(str(missing))
    import cupy

    def end(first, later):
        with first:
            loop = start_on_cuda(depth=3)
            trajectory = loop.start(dmf.Gaussian(), 0)
        with later:
            trajectory.advance(20)
            return trajectory.state()

    streams = [cupy.cuda.Stream(non_blocking=True) for _ in range(2)]
    assert_same(end(*streams), end(cupy.cuda.Stream.null, cupy.cuda.Stream.null))
