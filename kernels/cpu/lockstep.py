"""Several trajectories that step together, so that one pass over the measurements serves them all."""

from typing import NamedTuple

import numpy as np
from numba.extending import overload

from fastdmf.kernels.cpu.compilation import entry_point, inlined, kernel
from fastdmf.kernels.cpu.sensing import loss_of
from fastdmf.kernels.cpu.stepping import (
    ALL_STEPS,
    CANCELLED,
    DIVERGED,
    HALTED,
    LOSS,
    MEAN_SQUARE,
    STEPS,
    TIME,
    FixedStep,
    GroupRMS,
    is_met,
    move,
    need_gradient,
)
from fastdmf.kernels.cpu.tables import flags_at, is_set, table_in, vector_at
from fastdmf.kernels.cpu.verbs import Model, compose, is_a, residuals
from fastdmf.kernels.flow_rules import SLOTS_OF_STEPS


class Company(NamedTuple):
    """B trajectories of one engine.

    ``points``, ``grads`` and ``velocities`` (B, N, 5) are a table for each; ``models``, ``w``, ``r``,
    ``work``, ``scalars`` and ``cancels`` are the addresses of what each has.  ``has_gradient`` (B,) says
    whose gradient in the factors is known; ``before`` (B, 2) is scratch memory, and in ``events`` (B,) is
    left why each one stopped.
    """

    points: np.ndarray
    grads: np.ndarray
    velocities: np.ndarray
    models: np.ndarray
    w: np.ndarray
    r: np.ndarray
    work: np.ndarray
    scalars: np.ndarray
    cancels: np.ndarray
    has_gradient: np.ndarray
    before: np.ndarray
    events: np.ndarray


@kernel
def _model_of(model, company, b):
    """The factorization of member b, which is that of ``model`` with memory of its own."""
    w = vector_at(company.w[b], model.w.size, model.w)
    return Model(model.compose, model.pull_back, model.step_back, 0, 0, 0, company.models[b], w)


@inlined
def _scalars_of(company, b):
    return vector_at(company.scalars[b], SLOTS_OF_STEPS, company.before)


def _rule_of(rule, company, b):
    """The rule by which member b moves."""


@overload(_rule_of)
def _rule_of_member(rule, company, b):
    if is_a(rule, FixedStep):
        return lambda rule, company, b: FixedStep(rule.lr, rule.momentum, table_in(company.velocities, b))
    if is_a(rule, GroupRMS):
        return lambda rule, company, b: rule
    return None


@kernel
def _move_and_compose(rule, model, support, operator, company, b, point, grad, swapped):
    """Write the next point of member b over its gradient, and the entries of its product to its ``w``."""
    own, scalars, cancels = _model_of(model, company, b), _scalars_of(company, b), flags_at(company.cancels)
    company.before[b, 0], company.before[b, 1] = scalars[TIME], scalars[MEAN_SQUARE]
    move(
        _rule_of(rule, company, b), own, support, operator, point, grad, scalars, company.has_gradient[b],
        swapped, cancels,
    )  # fmt: skip
    company.has_gradient[b] = False
    compose(own, support, grad, own.w, cancels)


@kernel
def _take_back(company, b, event):
    scalars = _scalars_of(company, b)
    scalars[TIME], scalars[MEAN_SQUARE] = company.before[b, 0], company.before[b, 1]
    company.events[b] = event


@kernel
def _arrive(model, support, operator, company, b, point, grad, norms, loss_below, gradient_below, until):
    """The loss of member b at its new point; the step is taken back where that is not finite."""
    own, scalars = _model_of(model, company, b), _scalars_of(company, b)
    loss = loss_of(operator.scale, vector_at(company.r[b], operator.r.size, model.w))
    if not np.isfinite(loss):
        _take_back(company, b, DIVERGED)
        return
    scalars[LOSS] = loss
    if norms:
        need_gradient(own, support, point, grad, scalars, False, flags_at(company.cancels))
        company.has_gradient[b] = True
    scalars[STEPS] += 1.0
    has_arrived = is_met(loss_below, gradient_below, scalars) or scalars[TIME] >= until
    company.events[b] = HALTED if has_arrived else ALL_STEPS


@entry_point
def advance_together(
    rule, model, support, operator, company, steps, norms, halts, loss_below, gradient_below, until
):
    """What ``stepping.advance`` does, for evaluated points, until the first step that is the last for any.

    ``model`` is that of any member.  Member b needs the gradient's norm if ``norms[b]``, and its pairs of
    thresholds are ``loss_below[c]``, ``gradient_below[c]`` with halts[b] ≤ c < halts[b + 1]; ``until[b]`` is
    a time to halt at.

    Returns
    -------
    taken, swapped
        Steps taken, one less by those that diverged, and whether the sets of matrices have changed places,
        which holds the other way round for these.
    """
    members, cancels = company.events.size, flags_at(company.cancels)
    for b in range(members):
        company.events[b] = ALL_STEPS
    points, grads, swapped = company.points, company.grads, False
    for taken in range(steps):
        for b in range(members):
            point, grad = table_in(points, b), table_in(grads, b)
            _move_and_compose(rule, model, support, operator, company, b, point, grad, swapped)
        points, grads, swapped = grads, points, not swapped
        residuals(operator, company.w, company.r, company.work, cancels)
        if is_set(cancels):
            for b in range(members):
                _take_back(company, b, CANCELLED)
            return taken, not swapped
        for b in range(members):
            first, last = halts[b], halts[b + 1]
            _arrive(
                model, support, operator, company, b, table_in(points, b), table_in(grads, b), norms[b],
                loss_below[first:last], gradient_below[first:last], until[b],
            )  # fmt: skip
        is_cancelled, all_go_on = is_set(cancels), True
        for b in range(members):
            if is_cancelled and company.events[b] != DIVERGED:
                company.events[b] = CANCELLED
            all_go_on = all_go_on and company.events[b] == ALL_STEPS
        if not all_go_on:
            return taken + 1, swapped
    return steps, swapped
