"""What integrators of the gradient flow θ' = −∇ℓ(θ) share.

Points, gradients and stages are *sets* of matrices, shaped like the factors.  Each set has a role, and sets
change roles instead of being copied.
"""

from typing import NamedTuple

import numba
import numpy as np
from numba import types

from fastdmf.kernels.cpu.compilation import kernel
from fastdmf.kernels.cpu.stepping import SLOTS as _SLOTS_OF_STEPS
from fastdmf.kernels.cpu.stepping import forward
from fastdmf.kernels.cpu.verbs import FLAGS, SUPPORT, Model, Operator, declare, pull_back

# Roles: where the flow is, where its step leads (afterwards: came from), where power iteration begins and
# where it led, and memory for stages.  Between steps, the first of these shows a point inside the last step.
POINT, GRADIENT, NEW_POINT, NEW_GRADIENT, DIRECTION, NEW_DIRECTION, STAGE = range(7)
SHOWN = STAGE

# Slots of scalars, beside those of every trajectory.  The next step size, the error of the last step in units
# of the tolerance, the spectral radius of the Hessian and the steps since it was found, the first loss.
STEP_SIZE, LAST_ERROR, RADIUS, RADIUS_AGE, FIRST_LOSS = range(_SLOTS_OF_STEPS, _SLOTS_OF_STEPS + 5)
# Whether the flow has become stiff, and whether W and the gradient on the support are those of the point.
IS_STIFF, IS_CURRENT = range(_SLOTS_OF_STEPS + 5, _SLOTS_OF_STEPS + 7)
# What was counted.
EVALUATIONS, STAGES, REJECTED, PRODUCTS = range(_SLOTS_OF_STEPS + 7, _SLOTS_OF_STEPS + 11)
# Of the step that is tried, the error in units of the tolerance and the loss it leads to.
ERROR, NEW_LOSS = range(_SLOTS_OF_STEPS + 16, _SLOTS_OF_STEPS + 18)
# Of the last step its size, the losses at its ends, when it ended, and how much of it lies behind the point
# that is shown.
SEGMENT, START_LOSS, END_LOSS, END_TIME, FRACTION = range(_SLOTS_OF_STEPS + 11, _SLOTS_OF_STEPS + 16)
SLOTS = _SLOTS_OF_STEPS + 18

#: "As old as it gets": makes the next step look for the spectral radius again.
OLD = 1e9

#: Squares are summed in the precision of the factors so many at a time, and in float64 beyond that.
SUMMED_AT_ONCE = 1024
#: Added to the tolerated norm of a factor's error, for factors that are zero.
_ABSOLUTE = 1e-12


class Flow(NamedTuple):
    """Memory and tolerances of a flow.

    ``sets`` (K, N, 4) are tables of matrices and ``roles`` (K,) says which of them has which role.  The
    error of a step is held below ``rtol``, and below ``rtol · plateau_factor`` on the first plateau.
    """

    sets: np.ndarray
    roles: np.ndarray
    rtol: float
    plateau_factor: float


class Integrator(NamedTuple):
    """A method: the address of its verb and of what describes it; ``like`` has the type of the factors."""

    attempt: int
    at: int
    like: np.ndarray


def _attempt_signature(t):
    flow = numba.typeof(Flow(np.empty((0, 0, 4), np.int64), np.empty(0, np.int64), 0.0, 0.0))
    model = types.NamedTuple((*[types.int64] * 7, t[::1]), Model)
    operator = types.NamedTuple((*[types.int64] * 4, types.float64, t[::1], t[::1]), Operator)
    return types.void(flow, model, SUPPORT, operator, types.float64[::1], FLAGS)


#: attempt(integrator, flow, model, support, operator, scalars, cancel): try a step of the size in
#: ``scalars``, and leave there its error in units of the tolerance and the loss at the new point.  The sets
#: POINT, GRADIENT and DIRECTION stay as they are, so that an attempt can be made again from old scalars.
attempt = declare("attempt", _attempt_signature)


@kernel
def set_of(flow, role):
    """The table of the matrices that have a role."""
    return flow.sets[flow.roles[role]]


@kernel
def swap(flow, role, other):
    """Let two sets change roles."""
    flow.roles[role], flow.roles[other] = flow.roles[other], flow.roles[role]


@kernel
def evaluate(model, support, operator, point, gradient, scalars, cancel):
    """The loss at a point; its gradient is written to ``gradient``."""
    loss = forward(model, support, operator, point, cancel)
    pull_back(model, support, point, gradient, cancel)
    scalars[EVALUATIONS] += 1.0
    return loss


@kernel
def is_on_plateau(scalars):
    """Whether the loss has not yet left the first plateau."""
    return scalars[END_LOSS] > 0.9 * scalars[FIRST_LOSS]


@kernel
def tolerance(flow, scalars):
    """The relative error that a step may make.

    The directions chosen on the first plateau decide where the flow ends: it is followed more closely there.
    """
    return flow.rtol * flow.plateau_factor if is_on_plateau(scalars) else flow.rtol


@kernel
def relative_error(error, old, new, rtol):
    """‖E‖ / (atol + rtol max(‖θ‖, ‖θ'‖)) for a factor, from the squares of the three norms."""
    return np.sqrt(error) / (_ABSOLUTE + rtol * np.sqrt(max(old, new)))


@kernel
def larger(worst, error):
    """The larger of two errors; NaN is larger than any."""
    return error if not error <= worst else worst
