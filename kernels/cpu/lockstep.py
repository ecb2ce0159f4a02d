"""Several trajectories that step together, so that one pass over the measurements serves them all."""

from typing import NamedTuple

import numpy as np
from numba.extending import overload

from fastdmf.kernels.cpu.compilation import entry_point, kernel
from fastdmf.kernels.cpu.sensing import loss_of
from fastdmf.kernels.cpu.stepping import (
    ALL_STEPS,
    CANCELLED,
    DIVERGED,
    GRADIENT_SQUARED,
    HALTED,
    LOSS,
    MEAN_SQUARE,
    SLOTS,
    STEPS,
    TIME,
    Chains,
    FixedStep,
    GroupRMS,
    backward,
    compose,
    is_met,
    move,
    sum_of_squares,
)
from fastdmf.kernels.cpu.tables import is_set, vector_at
from fastdmf.kernels.cpu.verbs import is_a, residuals


class Company(NamedTuple):
    """B trajectories of one engine.

    ``points``, ``grads``, ``prefixes``, ``deltas`` and ``velocities`` are a table for each; ``w``, ``r``,
    ``work``, ``scalars`` and ``cancels`` are the addresses of what each has.  ``before`` (B, 2) is scratch
    memory, and in ``events`` (B,) is left why each one stopped.
    """

    points: np.ndarray
    grads: np.ndarray
    prefixes: np.ndarray
    deltas: np.ndarray
    velocities: np.ndarray
    w: np.ndarray
    r: np.ndarray
    work: np.ndarray
    scalars: np.ndarray
    cancels: np.ndarray
    before: np.ndarray
    events: np.ndarray


@kernel
def _chains_of(company, chains, b):
    """The chains of member b, which are of the shape of ``chains``."""
    return Chains(
        chains.left, chains.right, chains.tied, company.prefixes[b], company.deltas[b],
        vector_at(company.w[b], chains.w.size, chains.w),
        vector_at(company.r[b], chains.r.size, chains.w),
        vector_at(company.work[b], chains.work.size, chains.w),
    )  # fmt: skip


@kernel
def _scalars_of(company, b):
    return vector_at(company.scalars[b], SLOTS, company.before)


def _rule_of(rule, company, b):
    """The rule by which member b moves."""


@overload(_rule_of)
def _rule_of_member(rule, company, b):
    if is_a(rule, FixedStep):
        return lambda rule, company, b: FixedStep(rule.lr, rule.momentum, company.velocities[b])
    if is_a(rule, GroupRMS):
        return lambda rule, company, b: rule
    return None


@kernel
def _move_and_compose(rule, support, operator, chains, company, b, points, grads, swapped, threads):
    """Write the next point of member b over its gradient, and the entries of its product to its ``w``."""
    own, scalars = _chains_of(company, chains, b), _scalars_of(company, b)
    company.before[b, 0], company.before[b, 1] = scalars[TIME], scalars[MEAN_SQUARE]
    rule = _rule_of(rule, company, b)
    cancels = company.cancels
    move(rule, support, operator, own, points[b], grads[b], scalars, swapped, cancels, threads)
    compose(support, own, grads[b], cancels, threads)


@kernel
def _take_back(company, b, event):
    scalars = _scalars_of(company, b)
    scalars[TIME], scalars[MEAN_SQUARE] = company.before[b, 0], company.before[b, 1]
    company.events[b] = event


@kernel
def _arrive(support, operator, chains, company, b, point, grad, norms, loss_below, gradient_below, threads):
    """Loss and gradient of member b at its new point; the step is taken back where the loss is not finite."""
    own, scalars = _chains_of(company, chains, b), _scalars_of(company, b)
    loss = loss_of(operator, own.r)
    if not np.isfinite(loss):
        _take_back(company, b, DIVERGED)
        return
    scalars[LOSS] = loss
    backward(support, own, point, grad, company.cancels, threads)
    scalars[STEPS] += 1.0
    if norms:
        scalars[GRADIENT_SQUARED] = sum_of_squares(grad, own.w)
    company.events[b] = HALTED if is_met(loss_below, gradient_below, scalars) else ALL_STEPS


@entry_point
def advance_together(
    rule, support, operator, chains, company, steps, norms, halts, loss_below, gradient_below, threads
):
    """What ``stepping.advance`` does, for evaluated points, until the first step that is the last for any.

    ``chains`` are those of any member.  Member b needs the gradient's norm if ``norms[b]``, and its pairs of
    thresholds are ``loss_below[c]``, ``gradient_below[c]`` with halts[b] ≤ c < halts[b + 1].

    Returns
    -------
    taken, swapped
        Steps taken, one less by those that diverged, and whether the sets of matrices have changed places,
        which holds the other way round for these.
    """
    members = company.events.size
    company.events[:] = ALL_STEPS
    points, grads, swapped = company.points, company.grads, False
    for taken in range(steps):
        for b in range(members):
            _move_and_compose(rule, support, operator, chains, company, b, points, grads, swapped, threads)
        points, grads, swapped = grads, points, not swapped
        residuals(operator, company.w, company.r, company.work, company.cancels, threads)
        if is_set(company.cancels):
            for b in range(members):
                _take_back(company, b, CANCELLED)
            return taken, not swapped
        for b in range(members):
            first, last = halts[b], halts[b + 1]
            _arrive(
                support, operator, chains, company, b, points[b], grads[b], norms[b],
                loss_below[first:last], gradient_below[first:last], threads,
            )  # fmt: skip
        is_cancelled, all_go_on = is_set(company.cancels), True
        for b in range(members):
            if is_cancelled and company.events[b] != DIVERGED:
                company.events[b] = CANCELLED
            all_go_on = all_go_on and company.events[b] == ALL_STEPS
        if not all_go_on:
            return taken + 1, swapped
    return steps, swapped
