"""The CUDA sources on the CPU: a device that the backend drives just as it drives CuPy's."""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from fastdmf.kernels.cuda import sources

HERE = Path(__file__).parent
CXX = shutil.which(os.environ.get("CXX", "g++"))
#: Why the shim cannot be built here; empty if it can.
MISSING = (
    "needs x86-64" if platform.machine() != "x86_64" else "" if CXX else "needs a C++ compiler, g++ or $CXX"
)
_OWN = tempfile.TemporaryDirectory(prefix="fastdmf-shim-")
#: Where libraries are built; a process may share it with those that it starts.
FOLDER = Path(os.environ.get("FASTDMF_SHIM_FOLDER", _OWN.name))
_FLAGS = ("-std=c++20", "-g1", "-fPIC", "-ffp-contract=off", f"-I{HERE}")
SANITIZERS = {
    "": ("-O2",),
    "asan": ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-DSHIM_ASAN"),
    "tsan": ("-O1", "-fsanitize=thread", "-DSHIM_TSAN"),
}


@functools.cache
def build(code, real, sanitizer=""):
    """A shared library of kernels, in C++, for one type of factors."""
    where = FOLDER / hashlib.sha256(f"{code} {real} {sanitizer}".encode()).hexdigest()[:16]
    flags = [*_FLAGS, *SANITIZERS[sanitizer]]
    exports = "".join(f"SHIM_EXPORT({name})\n" for name in sources.KERNELS)
    where.with_suffix(".cpp").write_text(f'#include "cuda_shim.h"\n#line 1 "kernels"\n{code}\n{exports}')
    made = where.with_suffix(".o")
    compile_with(*flags, "-Wall", "-Werror", f"-DREAL={real}", where.with_suffix(".cpp"), "-c", "-o", made)
    parts = made, _scheduler(sanitizer)
    compile_with(*flags, "-shared", *parts, "-o", where.with_suffix(".so"))
    return where.with_suffix(".so")


def _scheduler(sanitizer):
    """What runs the threads, without sanitizers but told of them."""
    made = FOLDER / f"scheduler-{sanitizer}.o"
    if not made.exists():
        flags = [
            flag for flag in SANITIZERS[sanitizer] if not flag.startswith(("-fsanitize", "-fno-sanitize"))
        ]
        compile_with(*_FLAGS, *flags, "-Wall", "-Werror", HERE / "cuda_shim.cpp", "-c", "-o", made)
    return made


def compile_with(*arguments):
    done = subprocess.run([CXX, *map(str, arguments)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


class ShimDevice:
    """Memory, matrix products and launches as `CupyDevice` has them, on the CPU.

    ``schedule`` seeds the order in which blocks and threads run.  Arguments are looked at more strictly than
    a GPU would: every array must be of the type that the kernel was told, and contiguous.
    """

    name = "CUDA on the CPU"

    def __init__(self, schedule=0, code=None, sanitizer=""):
        self.schedule, self.code, self.sanitizer = schedule, code or sources.source(), sanitizer
        self.launches = 0

    def empty(self, shape, dtype):
        array = np.empty(shape, dtype)
        array.view(np.uint8)[...] = 255  # NaN
        return array

    def put(self, array):
        return np.array(array, order="C")

    def copy(self, array, into):
        assert array.dtype == into.dtype and array.shape == into.shape
        into[...] = array

    def get(self, array):
        return array.copy()

    def address(self, array):
        return array.ctypes.data

    def multiply(self, a, b, out, adds=False):
        with np.errstate(all="ignore"):  # as on a GPU
            out[...] = a @ b + out if adds else a @ b

    def load(self, dtype):
        real = sources.real_name(dtype)
        library = ctypes.CDLL(str(build(self.code, real, self.sanitizer)))
        numbers = sources.number_types(dtype)
        pointers = {"R": dtype, "I": np.dtype(np.int32), "L": np.dtype(np.int64), "D": np.dtype(np.float64)}

        def launch(name, grid, *arguments):
            kernel, kinds = getattr(library, f"launch_{name}"), sources.KERNELS[name]
            kernel.restype = ctypes.c_char_p
            values = []
            for kind, x in zip(kinds, arguments, strict=True):
                if kind in numbers:
                    exact = numbers[kind](x)
                    values.append(np.ctypeslib.as_ctypes_type(exact.dtype)(exact.item()))
                elif x is None:
                    values.append(ctypes.c_void_p(0))
                else:
                    assert x.dtype == pointers[kind] and x.flags.c_contiguous, (name, kind, x.dtype)
                    values.append(ctypes.c_void_p(x.ctypes.data))
            places = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
            extent = (ctypes.c_uint * 2)(*(*grid, 1)[:2])
            self.launches += 1
            error = kernel(places, extent, ctypes.c_uint(sources.BLOCK), ctypes.c_uint(self.schedule))
            if error:
                raise RuntimeError(error.decode())

        return launch
