"""Second-order Runge–Kutta–Chebyshev steps (Sommeijer, Shampine & Verwer 1998).

A step of s stages is stable for h ρ ≤ 0.65 s², ρ the spectral radius of the Hessian: the quadratic growth
is what carries the flow over its stiff stretches at the cost of few evaluations.

Before the flow becomes stiff, while it leaves the saddle near zero, accuracy is what limits the steps, and
those of Dormand and Prince go twice as far for their evaluations: they are taken until h ρ is at their limit.
"""

from typing import NamedTuple

import numpy as np

from fastdmf.kernels import flow_rules
from fastdmf.kernels.cpu.compilation import kernel
from fastdmf.kernels.cpu.flow import (
    Integrator,
    attempt,
    combine,
    copy_set,
    evaluate,
    is_on_plateau,
    relative_error,
    set_of,
    swap,
    tolerance,
)
from fastdmf.kernels.cpu.hessian import spectral_radius
from fastdmf.kernels.cpu.stepping import forward
from fastdmf.kernels.cpu.tables import Table, copy_into, is_set
from fastdmf.kernels.cpu.verbs import Operator, implements, pull_back, step_back
from fastdmf.kernels.flow_rules import (
    ERROR,
    EVALUATIONS,
    EXPLICIT_LIMIT,
    GRADIENT,
    IS_CURRENT,
    IS_STIFF,
    LAST_ERROR,
    NEW_GRADIENT,
    NEW_LOSS,
    NEW_POINT,
    OLD,
    POINT,
    PRODUCTS,
    RADIUS,
    RADIUS_AGE,
    REFRESH,
    REFRESH_EXPLICIT,
    SAFETY,
    STAGE,
    STAGES,
    STEP_SIZE,
)

#: The sets whose combinations are the first stage, and the later ones and the error.
_FIRST = np.array([POINT, GRADIENT])
_ALL = np.array([POINT, NEW_POINT, GRADIENT, NEW_GRADIENT])

# The rules that hold on every device, as kernels.
stages_for = kernel(flow_rules.stages_for)
chebyshev_polynomials = kernel(flow_rules.chebyshev_polynomials)


class Chebyshev(NamedTuple):
    """The method for explicit steps, and scratch memory.

    ``direction`` is that of power iteration, ``w_dot`` (S,) and ``linear``, the operator with y = 0, are for
    products with the Hessian, and ``polynomials`` (2, MAX_STAGES + 1) for those of Chebyshev.
    """

    explicit: Integrator
    direction: Table
    w_dot: np.ndarray
    linear: Operator
    polynomials: np.ndarray


@kernel
def _find_radius(method, flow, model, support, operator, scalars, cancel):
    """Find the spectral radius at the point, with some room."""
    if scalars[IS_CURRENT] == 0.0:
        forward(model, support, operator, set_of(flow, POINT), cancel)
        scalars[EVALUATIONS] += 1.0
    direction = set_of(flow, STAGE + 1)
    copy_set(direction, method.direction, method.w_dot)
    radius, products = spectral_radius(
        model, support, method.linear, set_of(flow, POINT), direction, set_of(flow, STAGE), method.w_dot,
        scalars[RADIUS] / SAFETY, cancel,
    )  # fmt: skip
    if is_set(cancel):  # the next attempt begins from the same direction
        return
    copy_set(method.direction, direction, method.w_dot)
    scalars[RADIUS], scalars[RADIUS_AGE] = SAFETY * radius, 0.0
    scalars[PRODUCTS] += products
    copy_into(flow.before, scalars)  # what was found stays, whatever becomes of the step


@kernel
def _chebyshev_step(method, flow, model, support, operator, scalars, cancel):
    """Try a step of this method.

    Y_1 = Y_0 − μ̃_1 h g_0;  Y_j = (1 − μ_j − ν_j) Y_0 + μ_j Y_{j−1} + ν_j Y_{j−2} − μ̃_j h g_{j−1} − γ̃_j h g_0.
    """
    like, weights = model.w, flow.weights
    s, h = stages_for(scalars[STEP_SIZE], scalars[RADIUS])
    scalars[STEP_SIZE] = h
    w0, w1 = chebyshev_polynomials(method.polynomials, s)
    t, b = method.polynomials[0], method.polynomials[1]
    scalars[IS_CURRENT] = 0.0
    scalars[STAGES] += s
    weights[0], weights[1] = 1.0, -b[1] * w1 * h
    combine(flow, NEW_POINT, 0.0, _FIRST, like)
    for j in range(2, s + 1):
        mu, nu = 2.0 * b[j] * w0 / b[j - 1], -b[j] / b[j - 2]
        slope = 2.0 * b[j] * w1 / b[j - 1]
        gamma = -(1.0 - b[j - 1] * t[j - 1]) * slope
        latest = set_of(flow, NEW_POINT)
        loss = forward(model, support, operator, latest, cancel)
        scalars[EVALUATIONS] += 1.0
        if is_set(cancel) or not np.isfinite(loss):
            scalars[ERROR], scalars[NEW_LOSS] = np.nan, loss
            return
        # Y_{j−2} gives its place to Y_j; at j = 2 it is Y_0.
        weights[0], weights[1], weights[2] = 1.0 - mu - nu, mu, -gamma * h
        if j == 2:
            weights[0], nu = weights[0] + nu, 0.0
        if model.step_back != 0:
            combine(flow, STAGE, nu, _ALL[:3], like)
            earlier = set_of(flow, STAGE)
            step_back(model, support, latest, earlier, slope * h, earlier, cancel)
        else:
            pull_back(model, support, latest, set_of(flow, NEW_GRADIENT), cancel)
            weights[3] = -slope * h
            combine(flow, STAGE, nu, _ALL, like)
        swap(flow, NEW_POINT, STAGE)
    end, last = set_of(flow, NEW_POINT), set_of(flow, NEW_GRADIENT)
    scalars[NEW_LOSS] = evaluate(model, support, operator, end, last, scalars, cancel)
    # E = 0.8 (Y_0 − Y_s) − 0.4 h (g_0 + g_s)
    weights[0], weights[1], weights[2], weights[3] = 0.8, -0.8, -0.4 * h, -0.4 * h
    combine(flow, STAGE, 0.0, _ALL, like)
    scalars[ERROR] = relative_error(flow, STAGE, tolerance(flow, scalars), like)


@implements("attempt", Chebyshev)
def _attempt(at, flow, model, support, operator, scalars, cancel):
    method = at[0]
    # Explicit steps do not need the radius, but to tell when stability begins to limit them.  On the first
    # plateau that is asked only after a step was rejected.
    refresh = REFRESH
    if scalars[IS_STIFF] == 0.0:
        refresh = OLD if is_on_plateau(scalars) else REFRESH_EXPLICIT
    if scalars[RADIUS_AGE] >= refresh:
        _find_radius(method, flow, model, support, operator, scalars, cancel)
        if is_set(cancel):
            return
    if scalars[IS_STIFF] == 0.0 and scalars[STEP_SIZE] * scalars[RADIUS] > EXPLICIT_LIMIT:
        scalars[IS_STIFF], scalars[LAST_ERROR] = 1.0, 1.0
    scalars[RADIUS_AGE] += 1.0
    if scalars[IS_STIFF] == 0.0:
        attempt(method.explicit, flow, model, support, operator, scalars, cancel)
    else:
        _chebyshev_step(method, flow, model, support, operator, scalars, cancel)
