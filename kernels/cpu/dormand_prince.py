"""Explicit Runge–Kutta steps of order 5(4) (Dormand & Prince 1980): for references."""

from typing import NamedTuple

import numpy as np

from fastdmf.kernels.cpu.flow import combine, evaluate, relative_error, set_of, tolerance
from fastdmf.kernels.cpu.tables import is_set
from fastdmf.kernels.cpu.verbs import implements
from fastdmf.kernels.flow_rules import (
    ERROR,
    EXPLICIT_STAGES,
    GRADIENT,
    IS_CURRENT,
    NEW_GRADIENT,
    NEW_LOSS,
    NEW_POINT,
    POINT,
    STAGE,
    STAGES,
    STEP_SIZE,
    A,
    E,
)

#: Roles of the point and of the gradients at its stages, from one end of the step to the other.
_POINT_AND_GRADIENTS = np.array([POINT, GRADIENT, *range(STAGE, STAGE + EXPLICIT_STAGES - 2), NEW_GRADIENT])
_GRADIENTS_IN_ERROR = np.array([GRADIENT, *range(STAGE + 1, STAGE + EXPLICIT_STAGES - 2), NEW_GRADIENT])


class DormandPrince(NamedTuple):
    """Needs no memory beside the sets; ``like`` has the type of the factors."""

    like: np.ndarray


@implements("attempt", DormandPrince)
def _attempt(at, flow, model, support, operator, scalars, cancel):
    like, weights, h = model.w, flow.weights, scalars[STEP_SIZE]
    scalars[IS_CURRENT] = 0.0
    scalars[STAGES] += EXPLICIT_STAGES - 1
    point = set_of(flow, NEW_POINT)
    weights[0] = 1.0
    for i in range(1, EXPLICIT_STAGES):
        for j in range(i):
            weights[1 + j] = -h * A[i, j]
        combine(flow, NEW_POINT, 0.0, _POINT_AND_GRADIENTS[: 1 + i], like)
        gradient = set_of(flow, _POINT_AND_GRADIENTS[1 + i])
        scalars[NEW_LOSS] = evaluate(model, support, operator, point, gradient, scalars, cancel)
        if is_set(cancel) or not np.isfinite(scalars[NEW_LOSS]):
            scalars[ERROR] = np.nan
            return
    for k in range(E.size):
        weights[k] = h * E[k]
    combine(flow, STAGE, 0.0, _GRADIENTS_IN_ERROR, like)
    scalars[ERROR] = relative_error(flow, STAGE, tolerance(flow, scalars), like)
