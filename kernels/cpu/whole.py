"""W everywhere, multiplied out, and the measurement of many of its entries."""

from typing import NamedTuple

import numpy as np

from fastdmf.kernels.cpu.blas import multiply
from fastdmf.kernels.cpu.compilation import compile_apart, kernel
from fastdmf.kernels.cpu.tables import copy_into, place_of, vector_at
from fastdmf.kernels.cpu.verbs import implements


class Whole(NamedTuple):
    """The support of all entries of an n × p matrix, row by row."""

    n: int
    p: int


class Masked(NamedTuple):
    """The measurement w ↦ w where ``seen``, 0 elsewhere, compared with ``values``; loss = (c/2) Σ r²."""

    seen: np.ndarray
    values: np.ndarray
    scale: float


@kernel
def _multiply_onto(base, scale, x, x_transposed, y, out, like):
    """Out = [base] + scale X Y."""
    kept = 0.0
    if base.address != 0:
        size = out.rows * out.stride
        copy_into(vector_at(out.address, size, like), vector_at(base.address, size, like))
        kept = 1.0
    multiply(x, x_transposed, y, False, scale, kept, out, like)


@implements("look", Whole)
def _look(at, left, right, w, is_added, cancel):
    out = place_of(w, at[0].n, at[0].p)
    multiply(left, False, right, True, 1.0, 1.0 if is_added else 0.0, out, w)


@implements("look_along", Whole)
def _look_along(at, left, right, left_move, right_move, linear, quadratic, cancel):
    once, twice = place_of(linear, at[0].n, at[0].p), place_of(quadratic, at[0].n, at[0].p)
    multiply(left, False, right_move, True, 1.0, 0.0, once, linear)
    multiply(left_move, False, right, True, 1.0, 1.0, once, linear)
    multiply(left_move, False, right_move, True, 1.0, 0.0, twice, linear)


@implements("pull", Whole)
def _pull(at, z, left, right, scale, base_left, base_right, out_left, out_right, cancel):
    gradient = place_of(z, at[0].n, at[0].p)
    _multiply_onto(base_left, scale, gradient, False, right, out_left, z)
    _multiply_onto(base_right, scale, gradient, True, left, out_right, z)


@implements("pull_tied", Whole)
def _pull_tied(at, z, factor, scale, base, out, cancel):
    # Z + Zᵀ is twice the symmetric part, which takes the place of Z: done again, it changes nothing.
    n = at[0].n
    half = z.dtype.type(0.5)
    for i in range(n):
        for j in range(i):
            mean = half * (z[i * n + j] + z[j * n + i])
            z[i * n + j] = mean
            z[j * n + i] = mean
    _multiply_onto(base, 2.0 * scale, place_of(z, n, n), False, factor, out, z)


@kernel
def _masked_misfit(seen, values, scale, w, r):
    """Turn w into c (w − y) where ``seen``, into 0 elsewhere, copy it to ``r``, and return (c/2) Σ r²."""
    compile_apart()
    c, nothing = w.dtype.type(scale), w.dtype.type(0)
    squares = 0.0
    for e in range(w.size):
        difference = w[e] - values[e] if seen[e] else nothing
        squares += np.float64(difference) * np.float64(difference)
        w[e] = r[e] = c * difference
    return 0.5 * scale * squares


@kernel
def _masked_copy(seen, w, out):
    nothing = w.dtype.type(0)
    for e in range(w.size):
        out[e] = w[e] if seen[e] else nothing


@implements("measure", Masked)
def _measure(at, w, out, work, cancel):
    _masked_copy(at[0].seen, w, out)


@implements("residual", Masked)
def _residual(at, w, r, work, cancel):
    return _masked_misfit(at[0].seen, at[0].values, at[0].scale, w, r)
