"""Explicit Runge–Kutta steps of order 5(4) (Dormand & Prince 1980): for references."""

from typing import NamedTuple

import numpy as np

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
    combine,
    evaluate,
    relative_error,
    set_of,
    tolerance,
)
from fastdmf.kernels.cpu.flow import STAGES as STAGES_TAKEN
from fastdmf.kernels.cpu.tables import is_set
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
#: The difference to the weights of order 4, in which the gradient at the second stage has no part.
_E = np.array([71 / 57600, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40])
#: Roles of the point and of the gradients at its stages, from one end of the step to the other.
_POINT_AND_GRADIENTS = np.array([POINT, GRADIENT, *range(STAGE, STAGE + STAGES - 2), NEW_GRADIENT])
_GRADIENTS_IN_ERROR = np.array([GRADIENT, *range(STAGE + 1, STAGE + STAGES - 2), NEW_GRADIENT])


class DormandPrince(NamedTuple):
    """Needs no memory beside the sets; ``like`` has the type of the factors."""

    like: np.ndarray


@implements("attempt", DormandPrince)
def _attempt(at, flow, model, support, operator, scalars, cancel):
    like, weights, h = model.w, flow.weights, scalars[STEP_SIZE]
    scalars[IS_CURRENT] = 0.0
    scalars[STAGES_TAKEN] += STAGES - 1
    point = set_of(flow, NEW_POINT)
    weights[0] = 1.0
    for i in range(1, STAGES):
        for j in range(i):
            weights[1 + j] = -h * _A[i, j]
        combine(flow, NEW_POINT, 0.0, _POINT_AND_GRADIENTS[: 1 + i], like)
        gradient = set_of(flow, _POINT_AND_GRADIENTS[1 + i])
        scalars[NEW_LOSS] = evaluate(model, support, operator, point, gradient, scalars, cancel)
        if is_set(cancel) or not np.isfinite(scalars[NEW_LOSS]):
            scalars[ERROR] = np.nan
            return
    for k in range(_E.size):
        weights[k] = h * _E[k]
    combine(flow, STAGE, 0.0, _GRADIENTS_IN_ERROR, like)
    scalars[ERROR] = relative_error(flow, STAGE, tolerance(flow, scalars), like)
