"""The CUDA sources, the arguments of each kernel, and how many blocks it takes."""

from functools import cache
from pathlib import Path

import numpy as np

from fastdmf.kernels.flow_rules import (  # noqa: F401  (the first slots)
    GRADIENT_SQUARED,
    LOSS,
    MEAN_SQUARE,
    SLOTS_OF_STEPS,
    STEPS,
    TIME,
)

#: Threads of a block and lanes of a warp, as in ``common.cuh``.
BLOCK, WARP, SHARE = 256, 32, 8
WARPS = BLOCK // WARP

#: Slots of a trajectory's state on the device, as in ``common.cuh``; the first five are those of the CPU.
SLOTS, SLOTS_KEPT = 10, SLOTS_OF_STEPS
STEP, UNIT, NEXT_MEAN_SQUARE, EVENT, TAKEN = range(SLOTS_KEPT, SLOTS)

#: Most rows and columns of a trial that a block can move, and how much it is told of each matrix and of each
#: trial, as in ``lockstep.cu``.
LARGEST, PLANNED, ORDERS = 64, 5, 5

#: Most terms of a combination of sets, as in ``flow.cu``.
COMBINED = 6

#: Kernels by name, with the types of what they take: R, I, L, D point to real, int, long long, double, and
#: r, i, l, d are such numbers.  ``real`` is the type of the factors.
KERNELS = {
    "sampled_residual": "RRIIRrliiDRD",
    "gather": "LIIRRiiDR",
    "gather_step": "LIIRRiiDrRRRR",
    "descend": "RlDrRRRR",
    "squares": "RllDD",
    "pace": "DidddD",
    "settle": "DidDiiDidD",
    "entry_residual": "RRrllDRD",
    "sparse_residual": "LIRRRriiDRD",
    "sparse_adjoint": "LIRRlDR",
    "pack": "RiDR",
    "dense_residual": "RlRRriiDRRD",
    "sum_slots": "RiiiirDR",
    "combine": "RliiiiiiiirrrrrrD",
    "set_squares": "RlLiiiiliDD",
    "total": "DidDD",
    "sampled_change": "RRRRIIliiDR",
    "gather_change": "LIIRRRRiiDR",
    "sampled_powers": "RRRRiillIIliiDR",
    "inner_products": "RRlliDD",
    "normalize": "DiRllD",
    "exact_step": "DiddDD",
    "advance_each": "LIiiiIIRiLIIididddrDDD",
}

_FILES = (
    "common.cuh",
    "completion.cu",
    "sensing.cu",
    "stepping.cu",
    "flow.cu",
    "line_search.cu",
    "lockstep.cu",
)
_INCLUDE = '#include "common.cuh"\n'

#: Partial sums that one block has to add up afterwards: enough blocks for any device, and no more.
_MOST_PARTIALS = 4096


@cache
def source() -> str:
    """All kernels as one source, which includes nothing: caches of compiled code do not look into headers."""
    folder = Path(__file__).parent
    return "\n".join((folder / name).read_text(encoding="utf-8").replace(_INCLUDE, "") for name in _FILES)


def options(dtype: np.dtype) -> tuple[str, ...]:
    """What the compiler is told, for factors of a type."""
    return ("-std=c++17", f"-DREAL={real_name(dtype)}")


def real_name(dtype: np.dtype) -> str:
    """The type of the factors in C."""
    return {"float32": "float", "float64": "double"}[dtype.name]


def number_types(dtype: np.dtype) -> dict[str, type[np.number]]:
    """The NumPy types of the numbers that kernels take."""
    return {"r": dtype.type, "i": np.int32, "l": np.int64, "d": np.float64}


def share(size: int, unit: int = 1) -> tuple[int, int]:
    """How ``size`` items are shared among blocks of ``unit`` workers: items per worker, blocks.

    It depends on the size alone, so that sums are the same bits on every device.
    """
    per_worker = max(1, -(-size // (unit * _MOST_PARTIALS)))
    return per_worker, -(-size // (unit * per_worker))
