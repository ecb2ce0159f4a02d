"""What fastdmf runs on, for reports of bugs and of timings."""

import importlib.metadata
import os
import platform

from fastdmf._version import __version__
from fastdmf.backends import DEVICES

_PACKAGES = (
    "numpy",
    "scipy",
    "numba",
    "llvmlite",
    "cvxpy",
    "xarray",
    "h5netcdf",
    "matplotlib",
    "threadpoolctl",
)

#: Instruction sets that decide how fast the kernels are.
_INSTRUCTION_SETS = ("sse4.2", "avx", "avx2", "fma", "avx512f", "avx512bw", "avx512vl", "neon", "sve", "sve2")


def gather() -> dict[str, str]:
    """Versions, processor, devices, BLAS libraries, threads and the kernel cache, as labelled lines.

    Loads Numba and the BLAS libraries, without compiling anything.
    """
    name, features = _processor()
    return {
        "fastdmf": __version__,
        "Python": f"{platform.python_version()} ({platform.python_implementation()})",
        "system": f"{platform.system()} {platform.machine()}",
        **{package: _version(package) for package in _PACKAGES},
        "processor": name,
        "instructions": features,
        "devices": ", ".join(DEVICES),
        "CuPy": _cupy(),
        **_blas(),
        "threads": _threads(),
        **_kernels(),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> tuple[str, str]:
    """Name and instruction sets of the processor that Numba compiles for."""
    from numba.core.registry import cpu_target

    library = cpu_target.target_context.codegen()  # pyright: ignore[reportAttributeAccessIssue]
    _, name, features = library.magic_tuple()
    enabled = {f.removeprefix("+") for f in features.split(",") if f.startswith("+")}
    return name, " ".join(s for s in _INSTRUCTION_SETS if s in enabled) or "none of note"


def _cupy() -> str:
    """Which CuPy distribution there is; they have one name for each version of CUDA."""
    for package in ("cupy", "cupy-cuda13x", "cupy-cuda12x", "cupy-cuda11x"):
        version = _version(package)
        if version != "not installed":
            return f"{version} ({package})"
    return "not installed, and no CUDA device can be used without it"


def _blas() -> dict[str, str]:
    """The BLAS libraries of this process, one line each, with the threads they use outside of a run."""
    import scipy.linalg.cython_blas  # noqa: F401  (the BLAS that compiled kernels call)
    from threadpoolctl import threadpool_info

    libraries = [lib for lib in threadpool_info() if lib["user_api"] == "blas"]
    return {
        f"BLAS {k}": f"{lib['internal_api']} {lib['version']} ({os.path.basename(lib['filepath'])}), "
        f"{lib['num_threads']} threads"
        for k, lib in enumerate(libraries, start=1)
    }


def _threads() -> str:
    from numba.core import config

    most = config.NUMBA_NUM_THREADS  # pyright: ignore[reportAttributeAccessIssue]
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{most} at most in a run, on {usable} usable processors"


def _kernels() -> dict[str, str]:
    """What kernels are made of, where their machine code lies, and the digest of their sources."""
    from fastdmf.backends.cpu import kernel_build

    made_of, folder, digest = kernel_build()
    return {
        "kernels": made_of,
        "kernel cache": folder or "none: no writable folder was found, so every process compiles anew",
        "kernel sources": f"SHA-256 {digest}",
    }
