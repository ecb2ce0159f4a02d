"""What integrators of the gradient flow θ' = −∇ℓ(θ) share.

Points, gradients and stages are *sets* of matrices, shaped like the factors.  Each set has a role, and sets
change roles instead of being copied.
"""

from typing import NamedTuple

import numpy as np

from fastdmf.kernels.cpu.compilation import compile_apart, kernel
from fastdmf.kernels.cpu.stepping import SLOTS as _SLOTS_OF_STEPS
from fastdmf.kernels.cpu.stepping import forward
from fastdmf.kernels.cpu.tables import flat
from fastdmf.kernels.cpu.verbs import pull_back

# Roles: where the flow is, where its step leads (afterwards: came from), and memory for stages.  Between
# steps, the first of these shows a point inside the last step.
POINT, GRADIENT, NEW_POINT, NEW_GRADIENT, STAGE = range(5)
SHOWN = STAGE

# Slots of scalars, beside those of every trajectory: the next step size, the error of the last step in units
# of the tolerance, the spectral radius of the Hessian and the steps since it was found, the first loss;
# what was counted; and of the last step its size, its ends' losses, when it ended, and how much of it is
# behind the point that is shown.
STEP_SIZE, LAST_ERROR, RADIUS, RADIUS_AGE, FIRST_LOSS = range(_SLOTS_OF_STEPS, _SLOTS_OF_STEPS + 5)
EVALUATIONS, REJECTED, PRODUCTS = range(_SLOTS_OF_STEPS + 5, _SLOTS_OF_STEPS + 8)
SEGMENT, START_LOSS, END_LOSS, END_TIME, FRACTION = range(_SLOTS_OF_STEPS + 8, _SLOTS_OF_STEPS + 13)
SLOTS = _SLOTS_OF_STEPS + 13

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
def tolerance(flow, scalars):
    """The relative error that a step may make.

    The directions chosen on the first plateau decide where the flow ends: it is followed more closely there.
    """
    is_on_plateau = scalars[END_LOSS] > 0.9 * scalars[FIRST_LOSS]
    return flow.rtol * flow.plateau_factor if is_on_plateau else flow.rtol


@kernel
def relative_error(error, point, new_point, rtol, like):
    """max_j ‖E_j‖ / (atol + rtol max(‖θ_j‖, ‖θ'_j‖)) over the factors, for the error E of a step."""
    compile_apart()
    worst = 0.0
    for j in range(point.shape[0]):
        e, old, new = flat(error, j, like), flat(point, j, like), flat(new_point, j, like)
        ee, oo, nn = 0.0, 0.0, 0.0
        for i in range(e.size):
            ee += np.float64(e[i]) * np.float64(e[i])
            oo += np.float64(old[i]) * np.float64(old[i])
            nn += np.float64(new[i]) * np.float64(new[i])
        size = np.sqrt(ee) / (_ABSOLUTE + rtol * np.sqrt(max(oo, nn)))
        worst = size if not size <= worst else worst  # NaN counts as worst
    return worst
