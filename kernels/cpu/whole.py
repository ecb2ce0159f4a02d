"""W everywhere, multiplied out, and the measurement of many of its entries."""

from typing import NamedTuple

import numpy as np
from numba.extending import overload

from fastdmf.kernels.cpu.blas import multiply
from fastdmf.kernels.cpu.compilation import compile_apart, kernel
from fastdmf.kernels.cpu.tables import copy_into, place_of, vector_at
from fastdmf.kernels.cpu.verbs import is_a, look, measure, pull, pull_tied, residual


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


@overload(look)
def _look(support, left, right, w, is_added, cancel, threads):
    if not is_a(support, Whole):
        return None

    def everywhere(support, left, right, w, is_added, cancel, threads):
        out = place_of(w, support.n, support.p)
        multiply(left, False, right, True, 1.0, 1.0 if is_added else 0.0, out, w)

    return everywhere


@overload(pull)
def _pull(support, z, left, right, scale, bases, out_left, out_right, cancel, threads):
    if not is_a(support, Whole):
        return None

    def both(support, z, left, right, scale, bases, out_left, out_right, cancel, threads):
        gradient = place_of(z, support.n, support.p)
        _multiply_onto(bases[0], scale, gradient, False, right, out_left, z)
        _multiply_onto(bases[1], scale, gradient, True, left, out_right, z)

    return both


@overload(pull_tied)
def _pull_tied(support, z, factor, scale, base, out, cancel, threads):
    if not is_a(support, Whole):
        return None

    def tied(support, z, factor, scale, base, out, cancel, threads):
        # Z + Zᵀ is twice the symmetric part, which takes the place of Z: done again, it changes nothing.
        gradient = z.reshape(support.n, support.p)
        half = z.dtype.type(0.5)
        for i in range(support.n):
            for j in range(i):
                mean = half * (gradient[i, j] + gradient[j, i])
                gradient[i, j] = mean
                gradient[j, i] = mean
        _multiply_onto(base, 2.0 * scale, place_of(z, support.n, support.p), False, factor, out, z)

    return tied


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


@overload(measure)
def _measure(operator, w, out, work, cancel, threads):
    if not is_a(operator, Masked):
        return None

    def masked(operator, w, out, work, cancel, threads):
        _masked_copy(operator.seen, w, out)

    return masked


@overload(residual)
def _residual(operator, w, r, work, cancel, threads):
    if not is_a(operator, Masked):
        return None

    def masked(operator, w, r, work, cancel, threads):
        return _masked_misfit(operator.seen, operator.values, operator.scale, w, r)

    return masked
