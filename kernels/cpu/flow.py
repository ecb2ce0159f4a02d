"""What integrators of the gradient flow θ' = −∇ℓ(θ) share.

Points, gradients and stages are *sets* of matrices, shaped like the factors.  Each set has a role, and sets
change roles instead of being copied.
"""

from typing import NamedTuple

import numba
import numpy as np
from numba import types

from fastdmf.kernels import flow_rules
from fastdmf.kernels.cpu.compilation import compile_apart, kernel
from fastdmf.kernels.cpu.stepping import forward
from fastdmf.kernels.cpu.tables import copy_into, flat, table_in
from fastdmf.kernels.cpu.verbs import FLAGS, SUPPORT, Model, Operator, declare, pull_back
from fastdmf.kernels.flow_rules import (
    ABSOLUTE,
    EVALUATIONS,
    NEW_POINT,
    POINT,
)

#: Elements that are handled at a time, so that they stay in the nearest cache.
_PART = 1024

#: A rule that holds on every device, as a kernel.
is_on_plateau = kernel(flow_rules.is_on_plateau)


class Flow(NamedTuple):
    """Memory and tolerances of a flow.

    ``sets`` (K, N, 5) are tables of matrices and ``roles`` (K,) says which of them has which role.  The
    error of a step is held below ``rtol``, and below ``rtol · plateau_factor`` on the first plateau.
    ``weights`` (K,) are for :func:`combine`; ``before`` (SLOTS,) keeps the scalars while a step is tried.
    """

    sets: np.ndarray
    roles: np.ndarray
    rtol: float
    plateau_factor: float
    weights: np.ndarray
    before: np.ndarray


class Integrator(NamedTuple):
    """A method: the address of its verb and of what describes it; ``like`` has the type of the factors."""

    attempt: int
    at: int
    like: np.ndarray


def _attempt_signature(t):
    empty = np.empty(0)
    flow = numba.typeof(Flow(np.empty((0, 0, 5), np.int64), np.empty(0, np.int64), 0.0, 0.0, empty, empty))
    model = types.NamedTuple((*[types.int64] * 7, t[::1]), Model)
    operator = types.NamedTuple((*[types.int64] * 4, types.float64, t[::1], t[::1]), Operator)
    return types.void(flow, model, SUPPORT, operator, types.float64[::1], FLAGS)


#: attempt(integrator, flow, model, support, operator, scalars, cancel): try a step of the size in
#: ``scalars``, and leave there its error in units of the tolerance and the loss at the new point.
attempt = declare("attempt", _attempt_signature)


@kernel
def set_of(flow, role):
    """The table of the matrices that have a role."""
    return table_in(flow.sets, flow.roles[role])


@kernel
def swap(flow, role, other):
    """Let two sets change roles."""
    flow.roles[role], flow.roles[other] = flow.roles[other], flow.roles[role]


@kernel
def copy_set(target, source, like):
    """Copy the matrices of a table to those of another."""
    for j in range(target.count):
        copy_into(flat(target, j, like), flat(source, j, like))


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
    return flow.rtol * flow.plateau_factor if is_on_plateau(scalars) else flow.rtol


@kernel
def _scale_and_add(o, kept, a, x):
    if kept == 0:
        for i in range(o.size):
            o[i] = a * x[i]
    else:
        for i in range(o.size):
            o[i] = kept * o[i] + a * x[i]


@kernel
def _add_two(o, a, x, b, y):
    for i in range(o.size):
        o[i] += a * x[i] + b * y[i]


@kernel
def _add_one(o, a, x):
    for i in range(o.size):
        o[i] += a * x[i]


@kernel
def combine(flow, out, kept, roles, like):
    """Out ← kept · out + Σ_k weights[k] · (the set with ``roles[k]``); with kept = 0, out is not read.

    A few elements at a time, so that ``out`` is in the nearest cache until all sets have been added to it.
    """
    compile_apart()
    real, weights, target = like.dtype.type, flow.weights, set_of(flow, out)
    for j in range(target.count):
        o = flat(target, j, like)
        for i in range(0, o.size, _PART):
            part = slice(i, i + _PART)
            first = flat(set_of(flow, roles[0]), j, like)
            _scale_and_add(o[part], real(kept), real(weights[0]), first[part])
            for k in range(1, roles.size - 1, 2):
                x, y = flat(set_of(flow, roles[k]), j, like), flat(set_of(flow, roles[k + 1]), j, like)
                _add_two(o[part], real(weights[k]), x[part], real(weights[k + 1]), y[part])
            if roles.size % 2 == 0:
                last = flat(set_of(flow, roles[-1]), j, like)
                _add_one(o[part], real(weights[roles.size - 1]), last[part])


@kernel
def _squares(e, x, y):
    """Σ e², Σ x² and Σ y² of a few elements, in the precision of the factors."""
    ee = xx = yy = e.dtype.type(0)
    for i in range(e.size):
        ee += e[i] * e[i]
        xx += x[i] * x[i]
        yy += y[i] * y[i]
    return np.float64(ee), np.float64(xx), np.float64(yy)


@kernel
def relative_error(flow, error, rtol, like):
    """The largest ‖E_j‖ / (atol + rtol max(‖θ_j‖, ‖θ'_j‖)) over the factors, E being the set of a role.

    NaN is larger than any.
    """
    compile_apart()
    worst = 0.0
    for j in range(flow.sets.shape[1]):
        e = flat(set_of(flow, error), j, like)
        old, new = flat(set_of(flow, POINT), j, like), flat(set_of(flow, NEW_POINT), j, like)
        errors, olds, news = 0.0, 0.0, 0.0
        for i in range(0, e.size, _PART):
            part = slice(i, i + _PART)
            ee, xx, yy = _squares(e[part], old[part], new[part])
            errors, olds, news = errors + ee, olds + xx, news + yy
        relative = np.sqrt(errors) / (ABSOLUTE + rtol * np.sqrt(max(olds, news)))
        if not relative <= worst and worst == worst:  # NaN stays
            worst = relative
    return worst
