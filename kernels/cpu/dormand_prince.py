"""Explicit Runge–Kutta steps of order 5(4) (Dormand & Prince 1980): for references."""

from typing import NamedTuple

import numpy as np

from fastdmf.kernels.cpu.compilation import compile_apart, kernel
from fastdmf.kernels.cpu.flow import (
    ERROR,
    GRADIENT,
    IS_CURRENT,
    NEW_GRADIENT,
    NEW_LOSS,
    NEW_POINT,
    POINT,
    STAGE,
    STEP_SIZE,
    evaluate,
    larger,
    relative_error,
    set_of,
    tolerance,
)
from fastdmf.kernels.cpu.flow import STAGES as STAGES_TAKEN
from fastdmf.kernels.cpu.stepping import sum_of_squares
from fastdmf.kernels.cpu.tables import flat, is_set
from fastdmf.kernels.cpu.verbs import implements

STAGES = 7
#: The weights of stage i, a_{i+1,j}; the last line is also that of the new point.
_A = np.zeros((STAGES, STAGES))
_A[1, :1] = [1 / 5]
_A[2, :2] = [3 / 40, 9 / 40]
_A[3, :3] = [44 / 45, -56 / 15, 32 / 9]
_A[4, :4] = [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729]
_A[5, :5] = [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656]
_A[6, :6] = [35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84]
#: The difference to the weights of order 4.
_E = np.array([71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40])


class DormandPrince(NamedTuple):
    """Needs no memory beside the sets; ``like`` has the type of the factors."""

    like: np.ndarray


@kernel
def _role(i):
    """The role of the gradient at stage i, 0 ≤ i ≤ 6."""
    return GRADIENT if i == 0 else NEW_GRADIENT if i == STAGES - 1 else STAGE + i - 1


@kernel
def _add(out, weight, g, like):
    """out ← out + weight · G, for sets of matrices."""
    compile_apart()
    weight = like.dtype.type(weight)
    for j in range(out.shape[0]):
        o, q = flat(out, j, like), flat(g, j, like)
        for i in range(o.size):
            o[i] += weight * q[i]


@kernel
def _fill(out, scale, x, like):
    """out ← scale · X, for sets of matrices."""
    scale = like.dtype.type(scale)
    for j in range(out.shape[0]):
        o, p = flat(out, j, like), flat(x, j, like)
        for i in range(o.size):
            o[i] = scale * p[i]


@implements("attempt", DormandPrince)
def _attempt(at, flow, model, support, operator, scalars, cancel):
    like, h = model.w, scalars[STEP_SIZE]
    scalars[IS_CURRENT] = 0.0
    scalars[STAGES_TAKEN] += STAGES - 1
    start, point = set_of(flow, POINT), set_of(flow, NEW_POINT)
    loss = np.nan
    for i in range(1, STAGES):
        _fill(point, 1.0, start, like)
        for j in range(i):
            if _A[i, j] != 0.0:
                _add(point, -h * _A[i, j], set_of(flow, _role(j)), like)
        loss = evaluate(model, support, operator, point, set_of(flow, _role(i)), scalars, cancel)
        if is_set(cancel) or not np.isfinite(loss):
            scalars[ERROR], scalars[NEW_LOSS] = np.nan, loss
            return
    error = set_of(flow, _role(1))  # which has no part in the error
    _fill(error, h * _E[0], set_of(flow, GRADIENT), like)
    for i in range(2, STAGES):
        _add(error, h * _E[i], set_of(flow, _role(i)), like)
    worst = 0.0
    for j in range(point.shape[0]):
        size = sum_of_squares(error[j : j + 1], like)
        old, new = sum_of_squares(start[j : j + 1], like), sum_of_squares(point[j : j + 1], like)
        worst = larger(worst, relative_error(size, old, new, tolerance(flow, scalars)))
    scalars[ERROR], scalars[NEW_LOSS] = worst, loss
