"""Loss, gradient, and the compiled multi-step loop."""

from typing import NamedTuple

import numpy as np
from numba.extending import overload

from fastdmf.kernels.cpu import (  # noqa: F401  (they implement the verbs)
    blocked,
    completion,
    product,
    sensing,
    symmetric,
    unfactored,
    whole,
)
from fastdmf.kernels.cpu.compilation import compile_apart, entry_point, kernel
from fastdmf.kernels.cpu.line_search import LineSearch, exact_step, normalize
from fastdmf.kernels.cpu.tables import Table, flat, is_set
from fastdmf.kernels.cpu.verbs import compose, is_a, pull_back, residual, step_back
from fastdmf.kernels.flow_rules import GRADIENT_SQUARED, LOSS, MEAN_SQUARE, STEPS, TIME

# Why `advance` returned.
ALL_STEPS, HALTED, DIVERGED, CANCELLED = range(4)


class FixedStep(NamedTuple):
    """Gradient descent; with momentum μ > 0 the velocity v ← μ v + g takes the gradient's place.

    The table ``velocity`` holds two sets, old and new, which change places as the points do.
    """

    lr: float
    momentum: float
    velocity: Table


class GroupRMS(NamedTuple):
    """GroupRMSprop of Arora et al. (2019): one running mean square for all factors."""

    lr: float
    alpha: float
    eps: float


@kernel
def forward(model, support, operator, factors, cancel):
    """The loss at the factors; ``model.w`` is left holding the gradient on the support."""
    compose(model, support, factors, model.w, cancel)
    return residual(operator, model.w, operator.r, operator.work, cancel)


@kernel
def sum_of_squares(table, like):
    """The sum of the squares of all elements of the matrices of a table, in float64."""
    compile_apart()
    total = 0.0
    for j in range(table.count):
        for x in flat(table, j, like):
            total += np.float64(x) * np.float64(x)
    return total


@kernel
def _step_from_gradient(factors, grads, step, like):
    """grads ← factors − step · grads: the new point takes the gradient's memory."""
    step = like.dtype.type(step)
    for j in range(factors.count):
        theta = flat(factors, j, like)
        g = flat(grads, j, like)
        for i in range(theta.size):
            g[i] = theta[i] - step * g[i]


@kernel
def _add_momentum(momentum, velocity, grads, swapped, like):
    """v ← μ v + g, written to the other set of velocities and in the place of g."""
    momentum, count = like.dtype.type(momentum), grads.count
    for j in range(count):
        old = flat(velocity, j + (count if swapped else 0), like)
        new = flat(velocity, j + (0 if swapped else count), like)
        g = flat(grads, j, like)
        for i in range(g.size):
            g[i] = momentum * old[i] + g[i]
            new[i] = g[i]


@kernel
def need_gradient(model, support, factors, grads, scalars, has_gradient, cancel):
    """The gradient in the factors and the square of its norm, if they are not known yet."""
    if not has_gradient:
        pull_back(model, support, factors, grads, cancel)
        scalars[GRADIENT_SQUARED] = sum_of_squares(grads, model.w)


def move(rule, model, support, operator, factors, grads, scalars, has_gradient, swapped, cancel):
    """Write the next point into the memory of ``grads``, by the optimizer that ``rule`` describes.

    The gradient on the support is known, and also that in the factors if ``has_gradient``.
    """


@overload(move)
def _move_fixed(rule, model, support, operator, factors, grads, scalars, has_gradient, swapped, cancel):
    if not is_a(rule, FixedStep):
        return None

    def fixed(rule, model, support, operator, factors, grads, scalars, has_gradient, swapped, cancel):
        scalars[TIME] += rule.lr
        if rule.momentum == 0.0 and model.step_back != 0:
            step_back(model, support, factors, factors, rule.lr, grads, cancel)
        else:
            if not has_gradient:
                pull_back(model, support, factors, grads, cancel)
            if rule.momentum != 0.0:
                _add_momentum(rule.momentum, rule.velocity, grads, swapped, model.w)
            _step_from_gradient(factors, grads, rule.lr, model.w)

    return fixed


@overload(move)
def _move_group(rule, model, support, operator, factors, grads, scalars, has_gradient, swapped, cancel):
    if not is_a(rule, GroupRMS):
        return None

    def group(rule, model, support, operator, factors, grads, scalars, has_gradient, swapped, cancel):
        need_gradient(model, support, factors, grads, scalars, has_gradient, cancel)
        # v ← α v + (1 − α) Σ_j ‖g_j‖²;  step = lr / (√(v / (1 − αᵗ)) + eps)
        v = rule.alpha * scalars[MEAN_SQUARE] + (1.0 - rule.alpha) * scalars[GRADIENT_SQUARED]
        unbiased = v / (1.0 - rule.alpha ** (scalars[STEPS] + 1.0))
        step = rule.lr / (np.sqrt(unbiased) + rule.eps)
        _step_from_gradient(factors, grads, step, model.w)
        scalars[MEAN_SQUARE] = v
        scalars[TIME] += step

    return group


@overload(move)
def _move_exact(rule, model, support, operator, factors, grads, scalars, has_gradient, swapped, cancel):
    if not is_a(rule, LineSearch):
        return None

    def exact(rule, model, support, operator, factors, grads, scalars, has_gradient, swapped, cancel):
        unit = 1.0
        if grads.count > 2:  # a square does not underflow
            need_gradient(model, support, factors, grads, scalars, has_gradient, cancel)
            unit = normalize(grads, scalars[GRADIENT_SQUARED], model.w)
        elif not has_gradient:
            pull_back(model, support, factors, grads, cancel)
        step = exact_step(rule, model, support, operator, factors, grads, unit, cancel)
        _step_from_gradient(factors, grads, step, model.w)
        scalars[TIME] += step * unit

    return exact


@kernel
def is_met(loss_below, gradient_below, scalars):
    """Whether any pair of thresholds is met by the loss and the gradient's norm together.

    The norm may not be known where no threshold is for it.
    """
    for c in range(loss_below.size):
        is_small = np.isinf(gradient_below[c]) or np.sqrt(scalars[GRADIENT_SQUARED]) <= gradient_below[c]
        if is_small and scalars[LOSS] <= loss_below[c]:
            return True
    return False


@entry_point
def entries_at(model, support, factors, w, cancel):
    """The entries of the product of the factors on a support, written to ``w``."""
    compose(model, support, factors, w, cancel)


@entry_point
def advance(
    rule, model, support, operator, factors, grads, scalars, is_evaluated, has_gradient, steps, norms,
    loss_below, gradient_below, until, cancel,
):  # fmt: skip
    """Take up to ``steps`` steps; a point that is not evaluated yet is evaluated first.

    To evaluate a point is to find its loss and the gradient on the support, left in ``model.w``.  The
    gradient in the factors is found when something asks for it: ``norms``, which asks for it and its norm
    at every point, or a rule that needs it to move.

    The point and its gradient lie in two sets of matrices, which change places at every step: the new
    point is written over the gradient.  So the last finite point survives a divergence without ever being
    copied.

    The run halts early at the first new point whose loss and gradient norm lie below some pair
    (``loss_below[c]``, ``gradient_below[c]``), or that is reached at the time ``until``.  Another thread
    ends the call by setting a byte whose address is in ``cancel``: a step whose loss is not known yet is
    taken back.

    Returns
    -------
    taken, event, swapped, has_gradient
        Steps taken, why it returned, whether the two sets have changed places, and whether the gradient in
        the factors is there.  If cancelled or diverged, the point has to be evaluated again.
    """
    taken, swapped = 0, False
    time, mean_square = scalars[TIME], scalars[MEAN_SQUARE]
    while True:
        if is_evaluated:
            if taken == steps:
                return taken, ALL_STEPS, swapped, has_gradient
            time, mean_square = scalars[TIME], scalars[MEAN_SQUARE]
            move(
                rule, model, support, operator, factors, grads, scalars, has_gradient, swapped,
                cancel,
            )  # fmt: skip
            factors, grads, swapped, has_gradient = grads, factors, not swapped, False
        loss = forward(model, support, operator, factors, cancel)
        is_cancelled = is_set(cancel)
        if is_evaluated and (is_cancelled or not np.isfinite(loss)):
            scalars[TIME], scalars[MEAN_SQUARE] = time, mean_square
            return taken, CANCELLED if is_cancelled else DIVERGED, not swapped, False
        scalars[LOSS] = loss
        if norms:
            need_gradient(model, support, factors, grads, scalars, has_gradient, cancel)
            has_gradient = True
        if is_evaluated:
            scalars[STEPS] += 1.0
            taken += 1
            if is_set(cancel):
                return taken, CANCELLED, swapped, False
            if is_met(loss_below, gradient_below, scalars) or scalars[TIME] >= until:
                return taken, HALTED, swapped, has_gradient
        is_evaluated = True
