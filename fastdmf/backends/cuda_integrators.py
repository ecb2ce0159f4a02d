"""The methods of the gradient flow on a CUDA device: what a step queues, and its one wait.

``now`` are the scalars of a flow (see ``flow_rules``).
"""

import numpy as np

from fastdmf._checks import Array
from fastdmf.backends.cuda_sets import DIRECTION, Sets
from fastdmf.kernels.flow_rules import (
    ABSOLUTE,
    AGREEMENT,
    ERROR,
    EVALUATIONS,
    EXPLICIT_LIMIT,
    EXPLICIT_STAGES,
    GRADIENT,
    IS_CURRENT,
    IS_STIFF,
    LAST_ERROR,
    MAX_STAGES,
    MOST_PRODUCTS,
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
    A,
    E,
    chebyshev_polynomials,
    is_on_plateau,
    stages_for,
)

#: Roles of the gradients at the stages of an explicit step, and of those that have a part in its error.
_GRADIENTS = (GRADIENT, *range(STAGE, STAGE + EXPLICIT_STAGES - 2), NEW_GRADIENT)
_GRADIENTS_IN_ERROR = (GRADIENT, *_GRADIENTS[2:])


def explicit_step(sets: Sets, now: Array, rtol: float) -> None:
    """Try a step of order 5(4) (Dormand & Prince 1980)."""
    h = now[STEP_SIZE]
    now[IS_CURRENT] = 0.0
    now[STAGES] += EXPLICIT_STAGES - 1
    for i in range(1, EXPLICIT_STAGES):
        slopes = [(role, -h * a) for role, a in zip(_GRADIENTS[:i], A[i], strict=False) if a != 0.0]
        sets.combine(NEW_POINT, (POINT, 1.0), *slopes)
        sets.evaluate(NEW_POINT, _GRADIENTS[i], stage=i - 1)
    sets.combine(STAGE, *((role, h * e) for role, e in zip(_GRADIENTS_IN_ERROR, E, strict=True)))
    _await_outcome(sets, now, rtol, EXPLICIT_STAGES - 1, EXPLICIT_STAGES - 1)


def chebyshev_step(sets: Sets, now: Array, rtol: float) -> None:
    """Try a step of order 2 with as many stages as stability asks for (Sommeijer, Shampine & Verwer 1998).

    Y_1 = Y_0 − μ̃_1 h g_0;  Y_j = (1 − μ_j − ν_j) Y_0 + μ_j Y_{j−1} + ν_j Y_{j−2} − μ̃_j h g_{j−1} − γ̃_j h g_0.
    """
    s, h = stages_for(now[STEP_SIZE], now[RADIUS])
    now[STEP_SIZE] = h
    t, b = polynomials = np.zeros((2, MAX_STAGES + 1))
    w0, w1 = chebyshev_polynomials(polynomials, s)
    now[IS_CURRENT] = 0.0
    now[STAGES] += s
    sets.combine(NEW_POINT, (POINT, 1.0), (GRADIENT, -b[1] * w1 * h))
    for j in range(2, s + 1):
        mu, nu = 2.0 * b[j] * w0 / b[j - 1], -b[j] / b[j - 2]
        slope = 2.0 * b[j] * w1 / b[j - 1]
        gamma = -(1.0 - b[j - 1] * t[j - 1]) * slope
        sets.evaluate(NEW_POINT, NEW_GRADIENT, stage=j - 2)
        rest = 1.0 - mu - nu
        # Y_{j−2} gives its place to Y_j; at j = 2 it is Y_0.
        earlier = [(STAGE, nu), (POINT, rest)] if j > 2 else [(POINT, rest + nu)]
        sets.combine(STAGE, *earlier, (NEW_POINT, mu), (GRADIENT, -gamma * h), (NEW_GRADIENT, -slope * h))
        sets.swap(NEW_POINT, STAGE)
    sets.evaluate(NEW_POINT, NEW_GRADIENT, stage=s - 1)
    # E = 0.8 (Y_0 − Y_s) − 0.4 h (g_0 + g_s)
    sets.combine(STAGE, (POINT, 0.8), (NEW_POINT, -0.8), (GRADIENT, -0.4 * h), (NEW_GRADIENT, -0.4 * h))
    _await_outcome(sets, now, rtol, s, s - 1)


def _await_outcome(sets: Sets, now: Array, rtol: float, evaluations: int, needed: int) -> None:
    """Find the error of the step, in the set STAGE, and the loss it leads to.

    The step ends at the first of the ``needed`` stages that has no finite loss, as if the others had not
    been evaluated.
    """
    sets.squares(STAGE, POINT, NEW_POINT)
    (errors, olds, news), losses = sets.read(3, evaluations)
    wrong = np.flatnonzero(~np.isfinite(losses[:needed]))
    now[EVALUATIONS] += wrong[0] + 1 if wrong.size else evaluations
    now[NEW_LOSS] = losses[wrong[0] if wrong.size else -1]
    # The largest ‖E_j‖ / (atol + rtol max(‖θ_j‖, ‖θ'_j‖)) over the factors, NaN being larger than any.
    relative = np.sqrt(errors) / (ABSOLUTE + rtol * np.sqrt(np.maximum(olds, news)))
    now[ERROR] = np.nan if wrong.size else relative.max()


def stabilized_step(sets: Sets, now: Array, rtol: float) -> None:
    """Try an explicit step until stability limits these, and one of order 2 from then on."""
    # Explicit steps do not need the radius, but to tell when stability begins to limit them.  On the first
    # plateau that is asked only after a step was rejected.
    refresh = REFRESH
    if now[IS_STIFF] == 0.0:
        refresh = OLD if is_on_plateau(now) else REFRESH_EXPLICIT
    if now[RADIUS_AGE] >= refresh:
        _find_radius(sets, now)
    if now[IS_STIFF] == 0.0 and now[STEP_SIZE] * now[RADIUS] > EXPLICIT_LIMIT:
        now[IS_STIFF], now[LAST_ERROR] = 1.0, 1.0
    now[RADIUS_AGE] += 1.0
    (explicit_step if now[IS_STIFF] == 0.0 else chebyshev_step)(sets, now, rtol)


def _find_radius(sets: Sets, now: Array) -> None:
    """Find the spectral radius at the point, with some room; waits once for each product."""
    if now[IS_CURRENT] == 0.0:
        sets.evaluate(POINT)
        now[EVALUATIONS] += 1.0
    radius, products = _power_iteration(sets, now[RADIUS] / SAFETY)
    now[RADIUS], now[RADIUS_AGE] = SAFETY * radius, 0.0
    now[PRODUCTS] += products


def _power_iteration(sets: Sets, before: float) -> tuple[float, int]:
    """The largest absolute eigenvalue of H, and the products that it took; ``before`` is an estimate."""
    radius = before
    for products in range(1, MOST_PRODUCTS + 1):
        sets.hessian_times(DIRECTION, STAGE)
        sets.squares(STAGE)
        norm = np.sqrt(sets.read(1, 0)[0].sum())
        if not (norm > 0.0 and np.isfinite(norm)):
            return norm, products
        sets.combine(DIRECTION, (STAGE, 1.0 / norm))
        if abs(norm - radius) < AGREEMENT * norm:
            return norm, products
        radius = norm
    return radius, MOST_PRODUCTS
