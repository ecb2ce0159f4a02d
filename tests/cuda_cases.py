"""Every CUDA kernel on small inputs, with what float64 NumPy has to say about its results.

Run as a program, with a sanitizer loaded before it: SANITIZER SCHEDULE DTYPE SOURCE KERNEL …
"""

import sys
from pathlib import Path

import numpy as np

from fastdmf.kernels.cuda import sources
from fastdmf.kernels.cuda.sources import (
    EVENT,
    GRADIENT_SQUARED,
    LOSS,
    MEAN_SQUARE,
    NEXT_MEAN_SQUARE,
    SLOTS,
    STEP,
    STEPS,
    TAKEN,
    TIME,
    WARP,
    WARPS,
)


def filled(shape, dtype):
    """Memory that must be written: NaN."""
    return np.full(shape, np.nan, dtype)


def going(**slots):
    state = np.zeros(SLOTS)
    for slot, value in slots.items():
        state[getattr(sources, slot)] = value
    return state


class Observed:
    """A support with an empty row and an empty column, factors, values, and residuals."""

    def __init__(self, dtype, n=21, p=19, width=37, entries=150):
        rng = np.random.default_rng(1)
        self.dtype, self.n, self.p, self.width = dtype, n, p, width
        places = rng.choice((n - 1) * (p - 1), entries, replace=False)
        rows, cols = np.divmod(np.sort(places), p - 1)
        self.rows, self.cols = rows.astype(np.int32), cols.astype(np.int32)
        self.left, self.right = (rng.standard_normal((k, width)).astype(dtype) for k in (n, p))
        self.values, self.z = (rng.standard_normal(entries).astype(dtype) for _ in "yz")
        self.dense_z = np.zeros((n, p))
        self.dense_z[rows, cols] = self.z
        self.by_row = starts_of(rows, n), self.cols, np.arange(entries, dtype=np.int32)
        order = np.argsort(cols, kind="stable").astype(np.int32)
        self.by_col = starts_of(cols, p), self.rows[order], order


def starts_of(sorted_or_not, size):
    return np.concatenate(([0], np.cumsum(np.bincount(sorted_or_not, minlength=size)))).astype(np.int64)


def grid_of(rows, width):
    return -(-rows // WARPS), -(-width // WARP)


def sampled_residual(launch, dtype, per_warp=3):
    o = Observed(dtype)
    size = o.values.size
    blocks = -(-size // (WARPS * per_warp))
    z, partials = filled(size, dtype), filled(blocks, float)
    launch(
        "sampled_residual", (blocks,), o.left, o.right, o.rows, o.cols, o.values, 0.25, size, o.width,
        per_warp, going(), z, partials,
    )  # fmt: skip
    w = np.sum(o.left[o.rows].astype(float) * o.right[o.cols], axis=1)
    r = w - o.values
    per_block = np.add.reduceat(r**2, np.arange(0, size, WARPS * per_warp))
    return {"z": (z, 0.25 * r), "partials": (partials, per_block)}


def gather(launch, dtype):
    o = Observed(dtype)
    left, right = filled(o.left.shape, dtype), filled(o.right.shape, dtype)
    launch("gather", grid_of(o.n, o.width), *o.by_row, o.z, o.right, o.n, o.width, going(), left)
    launch("gather", grid_of(o.p, o.width), *o.by_col, o.z, o.left, o.p, o.width, going(), right)
    return {"left": (left, o.dense_z @ o.right), "right": (right, o.dense_z.T @ o.left)}


def gather_step(launch, dtype):
    o = Observed(dtype)
    rng = np.random.default_rng(2)
    base, velocity = (rng.standard_normal(o.left.shape).astype(dtype) for _ in "bv")
    plain, moved, new = (filled(o.left.shape, dtype) for _ in "pmn")
    front = (*o.by_row, o.z, o.right, o.n, o.width, going(STEP=0.5))
    launch("gather_step", grid_of(o.n, o.width), *front, 0.0, None, None, base, plain)
    launch("gather_step", grid_of(o.n, o.width), *front, 0.9, velocity, new, base, moved)
    g = o.dense_z @ o.right
    v = 0.9 * velocity.astype(float) + g
    return {"plain": (plain, base - 0.5 * g), "new": (new, v), "moved": (moved, base - 0.5 * v)}


def descend(launch, dtype, size=777):
    rng = np.random.default_rng(3)
    g, velocity, base = (rng.standard_normal(size).astype(dtype) for _ in "gvb")
    plain, moved, new = (filled(size, dtype) for _ in "pmn")
    grid, state = (-(-size // sources.BLOCK),), going(STEP=0.5)
    launch("descend", grid, g, size, state, 0.0, None, None, base, plain)
    launch("descend", grid, g, size, state, 0.9, velocity, new, base, moved)
    v = 0.9 * velocity.astype(float) + g
    return {"plain": (plain, base - 0.5 * g.astype(float)), "new": (new, v), "moved": (moved, base - 0.5 * v)}


def squares(launch, dtype, size=1000, per_block=300):
    x = np.random.default_rng(4).standard_normal(size).astype(dtype)
    partials = filled(4, float)
    launch("squares", (4,), x, size, per_block, going(), partials)
    expected = np.add.reduceat(x.astype(float) ** 2, np.arange(0, size, per_block))
    return {"partials": (partials, expected)}


def pace(launch, dtype):
    partials = np.random.default_rng(5).random(600)
    fresh, known = (going(STEPS=6.0, MEAN_SQUARE=0.75, GRADIENT_SQUARED=2.5) for _ in "ab")
    launch("pace", (1,), partials, partials.size, 0.01, 0.9, 1e-4, fresh)
    launch("pace", (1,), None, 0, 0.01, 0.9, 1e-4, known)
    out = {}
    for name, state, total in (("fresh", fresh, partials.sum()), ("known", known, 2.5)):
        expected = going(STEPS=6.0, MEAN_SQUARE=0.75, GRADIENT_SQUARED=total)
        v = expected[NEXT_MEAN_SQUARE] = 0.9 * 0.75 + 0.1 * total
        expected[STEP] = 0.01 / (np.sqrt(v / (1 - 0.9**7)) + 1e-4)
        out[name] = state, expected
    return out


def settle(launch, dtype):
    rng = np.random.default_rng(6)
    losses, gradients = rng.random(700), rng.random(300)
    loss, squared = 0.5 * losses.sum(), gradients.sum()
    cases = {  # moved, pairs, until → EVENT
        "evaluated": (0, [(np.inf, np.inf)], 0.0, 0),
        "going": (1, [(0.99 * loss, np.inf), (np.inf, 0.99 * np.sqrt(squared))], np.inf, 0),
        "loss": (1, [(1.01 * loss, np.inf)], np.inf, 1),
        "both": (1, [(0.0, 0.0), (1.01 * loss, 1.01 * np.sqrt(squared))], np.inf, 1),
        "time": (1, [], 3.25, 1),
        "diverged": (1, [(np.inf, np.inf)], 0.0, 2),
    }
    out = {}
    before = {
        "STEPS": 4.0,
        "TAKEN": 2.0,
        "TIME": 3.0,
        "STEP": 0.25,
        "MEAN_SQUARE": 1.0,
        "NEXT_MEAN_SQUARE": 2.0,
    }
    for name, (moved, pairs, until, event) in cases.items():
        state, expected = going(**before), going(**before)
        numbers = losses.copy()
        if name == "diverged":
            numbers[123] = np.nan
        launch(
            "settle", (1,), numbers, numbers.size, 0.5, gradients, gradients.size, moved,
            np.array(pairs or [(0.0, 0.0)]), len(pairs), until, state,
        )  # fmt: skip
        expected[EVENT] = event
        if name != "diverged":
            expected[[LOSS, GRADIENT_SQUARED]] = loss, squared
        if moved and name != "diverged":
            expected[[STEPS, TAKEN, TIME, MEAN_SQUARE]] = 5.0, 3.0, 3.25, 2.0
        out[name] = state, expected
    return out


CASES = {
    case.__name__: case for case in (sampled_residual, gather, gather_step, descend, squares, pace, settle)
}


def deviation(got, expected):
    """The largest error, relative to the largest number; NaN if anything was not written."""
    return np.max(np.abs(got - expected)) / np.max(np.abs(expected))


def check(name, launch, dtype):
    """The results of a kernel, compared with NumPy."""
    tolerance = {"float32": 3e-6, "float64": 1e-14}[dtype.name]
    results = CASES[name](launch, dtype)
    for what, (got, expected) in results.items():
        assert deviation(got, expected) < tolerance, (name, what)
    return {what: got for what, (got, _) in results.items()}


if __name__ == "__main__":
    from tests.cuda_shim import ShimDevice

    sanitizer, schedule, real, file, *kernels = sys.argv[1:]
    kind = np.dtype(real)
    device = ShimDevice(int(schedule), Path(file).read_text(encoding="utf-8"), sanitizer)
    for case in kernels:
        check(case, device.load(kind), kind)
    print(f"{len(kernels)} kernels ran")
