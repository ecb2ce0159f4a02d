"""Loss, gradient, and the compiled multi-step loop."""

from typing import NamedTuple

import numpy as np
from numba.extending import overload

from fastdmf.kernels.cpu import blocked, completion, sensing  # noqa: F401  (they implement the verbs)
from fastdmf.kernels.cpu.compilation import compile_apart, entry_point, kernel
from fastdmf.kernels.cpu.line_search import LineSearch, exact_step
from fastdmf.kernels.cpu.product import chain_end, chain_product, chain_pullback
from fastdmf.kernels.cpu.tables import flat, place
from fastdmf.kernels.cpu.verbs import NOWHERE, is_a, look, pull, pull_tied, residual

# Slots of the vector of scalars that a trajectory carries from step to step.
LOSS, GRADIENT_SQUARED, TIME, STEPS, MEAN_SQUARE = range(5)
SLOTS = 5

# Why `advance` returned.
ALL_STEPS, HALTED, DIVERGED, CANCELLED = range(4)


class Chains(NamedTuple):
    """How the factors stand around the observations, and scratch memory of the sizes that follow.

    ``left`` factors, then ``right`` transposed factors; (1, 0) with ``tied`` is UUᵀ, and (0, 0) is W
    itself, of which only the support moves.  ``prefixes`` and ``deltas`` are tables, ``spare`` has room for
    any factor; ``w`` (S,) is W on the support, then the gradient there; ``r`` (m,) is the scaled residual.
    """

    left: int
    right: int
    tied: bool
    prefixes: np.ndarray
    deltas: np.ndarray
    spare: np.ndarray
    w: np.ndarray
    r: np.ndarray


class FixedStep(NamedTuple):
    """Gradient descent; with momentum μ > 0 the velocity v ← μ v + g takes the gradient's place.

    The table ``velocity`` holds two sets, old and new, which change places as the points do.
    """

    lr: float
    momentum: float
    velocity: np.ndarray


class GroupRMS(NamedTuple):
    """GroupRMSprop of Arora et al. (2019): one running mean square for all factors."""

    lr: float
    alpha: float
    eps: float


@kernel
def _forward(support, operator, chains, factors, cancel, threads):
    """The loss at the factors; ``chains.w`` is left holding the gradient on the support."""
    compile_apart()
    w = chains.w
    if chains.left == 0:
        w[:] = flat(factors, 0, w)
    else:
        left = chain_product(factors, chains.prefixes, 0, chains.left, w)
        if chains.tied:
            right = left
        else:
            right = chain_product(factors, chains.prefixes, chains.left, chains.right, w)
        look(support, left, right, w, cancel, threads)
    return residual(operator, w, chains.r)


@kernel
def _backward(support, chains, factors, grads, cancel, threads):
    """The gradient in the factors, from what :func:`_forward` left behind."""
    compile_apart()
    w = chains.w
    if chains.left == 0:
        flat(grads, 0, w)[:] = w
        return
    left = chain_end(factors, chains.prefixes, 0, chains.left)
    if chains.tied:
        pull_tied(support, w, left, 1.0, NOWHERE, place(grads, 0), cancel, threads)
        return
    right = chain_end(factors, chains.prefixes, chains.left, chains.right)
    grad_left = chain_end(grads, chains.deltas, 0, chains.left)
    grad_right = chain_end(grads, chains.deltas, chains.left, chains.right)
    pull(support, w, left, right, 1.0, (NOWHERE, NOWHERE), grad_left, grad_right, cancel, threads)
    spare = chains.spare
    chain_pullback(factors, chains.prefixes, grads, chains.deltas, spare, 0, chains.left)
    chain_pullback(factors, chains.prefixes, grads, chains.deltas, spare, chains.left, chains.right)


@kernel
def _pull_back_onto(support, chains, factors, step, moved, cancel, threads):
    """Moved = factors − step · gradient at once, where every chain is a single factor."""
    compile_apart()
    left = place(factors, 0)
    if chains.tied:
        pull_tied(support, chains.w, left, -step, left, place(moved, 0), cancel, threads)
        return
    right = place(factors, 1)
    bases, ends = (left, right), (place(moved, 0), place(moved, 1))
    pull(support, chains.w, left, right, -step, bases, ends[0], ends[1], cancel, threads)


@kernel
def _sum_of_squares(table, like):
    compile_apart()
    total = 0.0
    for j in range(table.shape[0]):
        for x in flat(table, j, like):
            total += np.float64(x) * np.float64(x)
    return total


@kernel
def _step_from_gradient(factors, grads, step, like):
    """grads ← factors − step · grads: the new point takes the gradient's memory."""
    step = like.dtype.type(step)
    for j in range(factors.shape[0]):
        theta = flat(factors, j, like)
        g = flat(grads, j, like)
        for i in range(theta.size):
            g[i] = theta[i] - step * g[i]


@kernel
def _need_gradient(support, chains, factors, grads, scalars, has_gradient, cancel, threads):
    """The gradient in the factors and the square of its norm, if they are not known yet."""
    if not has_gradient:
        _backward(support, chains, factors, grads, cancel, threads)
        scalars[GRADIENT_SQUARED] = _sum_of_squares(grads, chains.w)


def _move(rule, support, operator, chains, factors, grads, scalars, has_gradient, swapped, cancel, threads):
    """Write the next point into the memory of ``grads``, by the optimizer that ``rule`` describes.

    The gradient on the support is known, and also that in the factors if ``has_gradient``.
    """


@overload(_move)
def _move_fixed(
    rule, support, operator, chains, factors, grads, scalars, has_gradient, swapped, cancel, threads
):
    if not is_a(rule, FixedStep):
        return None

    def fixed(
        rule, support, operator, chains, factors, grads, scalars, has_gradient, swapped, cancel, threads
    ):
        scalars[TIME] += rule.lr
        if rule.momentum == 0.0 and chains.left == 1 and chains.right <= 1:
            _pull_back_onto(support, chains, factors, rule.lr, grads, cancel, threads)
            return
        if not has_gradient:
            _backward(support, chains, factors, grads, cancel, threads)
        like = chains.w
        if rule.momentum != 0.0:
            momentum = like.dtype.type(rule.momentum)
            count = grads.shape[0]
            for j in range(count):
                old = flat(rule.velocity, j + (count if swapped else 0), like)
                new = flat(rule.velocity, j + (0 if swapped else count), like)
                g = flat(grads, j, like)
                for i in range(g.size):
                    g[i] = momentum * old[i] + g[i]
                    new[i] = g[i]
        _step_from_gradient(factors, grads, rule.lr, like)

    return fixed


@overload(_move)
def _move_group(
    rule, support, operator, chains, factors, grads, scalars, has_gradient, swapped, cancel, threads
):
    if not is_a(rule, GroupRMS):
        return None

    def group(
        rule, support, operator, chains, factors, grads, scalars, has_gradient, swapped, cancel, threads
    ):
        _need_gradient(support, chains, factors, grads, scalars, has_gradient, cancel, threads)
        # v ← α v + (1 − α) Σ_j ‖g_j‖²;  step = lr / (√(v / (1 − αᵗ)) + eps)
        v = rule.alpha * scalars[MEAN_SQUARE] + (1.0 - rule.alpha) * scalars[GRADIENT_SQUARED]
        unbiased = v / (1.0 - rule.alpha ** (scalars[STEPS] + 1.0))
        step = rule.lr / (np.sqrt(unbiased) + rule.eps)
        _step_from_gradient(factors, grads, step, chains.w)
        scalars[MEAN_SQUARE] = v
        scalars[TIME] += step

    return group


@overload(_move)
def _move_exact(
    rule, support, operator, chains, factors, grads, scalars, has_gradient, swapped, cancel, threads
):
    if not is_a(rule, LineSearch):
        return None

    def exact(
        rule, support, operator, chains, factors, grads, scalars, has_gradient, swapped, cancel, threads
    ):
        if not has_gradient:
            _backward(support, chains, factors, grads, cancel, threads)
        step = exact_step(rule, support, operator, chains, factors, grads, cancel, threads)
        _step_from_gradient(factors, grads, step, chains.w)
        scalars[TIME] += step

    return exact


@kernel
def _met(loss_below, gradient_below, scalars):
    """Whether any pair of thresholds is met by the loss and the gradient's norm together."""
    for c in range(loss_below.size):
        if scalars[LOSS] <= loss_below[c] and np.sqrt(scalars[GRADIENT_SQUARED]) <= gradient_below[c]:
            return True
    return False


@entry_point
def entries_at(support, chains, factors, w, cancel, threads):
    """The entries of the product of the factors on a support, written to ``w``."""
    left = chain_product(factors, chains.prefixes, 0, chains.left, w)
    if chains.tied:
        look(support, left, left, w, cancel, threads)
    else:
        right = chain_product(factors, chains.prefixes, chains.left, chains.right, w)
        look(support, left, right, w, cancel, threads)


@entry_point
def advance(
    rule, support, operator, chains, factors, grads, scalars, is_evaluated, has_gradient, steps, norms,
    loss_below, gradient_below, cancel, threads,
):  # fmt: skip
    """Take up to ``steps`` steps; a point that is not evaluated yet is evaluated first.

    To evaluate a point is to find its loss and the gradient on the support, left in ``chains.w``.  The
    gradient in the factors is found when something asks for it: ``norms``, which asks for it and its norm
    at every point, or a rule that needs it to move.

    The point and its gradient lie in two sets of matrices, which change places at every step: the new
    point is written over the gradient.  So the last finite point survives a divergence without ever being
    copied.

    The run halts early at the first new point whose loss and gradient norm lie below some pair
    (``loss_below[c]``, ``gradient_below[c]``).  Another thread ends the call by setting ``cancel[0]``: a
    step whose loss is not known yet is taken back.

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
            _move(
                rule, support, operator, chains, factors, grads, scalars, has_gradient, swapped,
                cancel, threads,
            )  # fmt: skip
            factors, grads, swapped, has_gradient = grads, factors, not swapped, False
        loss = _forward(support, operator, chains, factors, cancel, threads)
        is_cancelled = cancel[0] != 0
        if is_evaluated and (is_cancelled or not np.isfinite(loss)):
            scalars[TIME], scalars[MEAN_SQUARE] = time, mean_square
            return taken, CANCELLED if is_cancelled else DIVERGED, not swapped, False
        scalars[LOSS] = loss
        if norms:
            _need_gradient(support, chains, factors, grads, scalars, has_gradient, cancel, threads)
            has_gradient = True
        if is_evaluated:
            scalars[STEPS] += 1.0
            taken += 1
            if cancel[0] != 0:
                return taken, CANCELLED, swapped, False
            if _met(loss_below, gradient_below, scalars):
                return taken, HALTED, swapped, has_gradient
        is_evaluated = True
