"""The gradient flow: steps of controlled error, and points inside them.

A step keeps where it came from until the next one begins.  In between, the cubic Hermite interpolant of
both ends and their gradients gives the point where the loss crosses a level, or that of a given time: looking
there does not change the path.
"""

import numpy as np

from fastdmf.kernels import flow_rules
from fastdmf.kernels.cpu.compilation import entry_point, kernel
from fastdmf.kernels.cpu.flow import attempt, combine, evaluate, set_of, swap
from fastdmf.kernels.cpu.stepping import ALL_STEPS, CANCELLED, HALTED, forward, is_met, sum_of_squares
from fastdmf.kernels.cpu.tables import copy_into, flat, is_set
from fastdmf.kernels.flow_rules import (
    END_LOSS,
    END_TIME,
    ERROR,
    EVALUATIONS,
    FIRST_LOSS,
    FIRST_MOVE,
    FRACTION,
    GRADIENT,
    GRADIENT_SQUARED,
    IS_CURRENT,
    IS_STIFF,
    LAST_ERROR,
    LEVEL_ACCURACY,
    LEVEL_ACCURACY_SINGLE,
    LOSS,
    MOST_REJECTIONS,
    NEW_GRADIENT,
    NEW_LOSS,
    NEW_POINT,
    OLD,
    POINT,
    RADIUS_AGE,
    REJECTED,
    REST,
    ROUNDING,
    ROUNDING_SINGLE,
    ROUNDINGS,
    SEGMENT,
    SHOWN,
    START_LOSS,
    STEP_SIZE,
    STEPS,
    TIME,
)

#: Why `flow_on` returned, beside what `stepping.advance` says: steps lead nowhere, or none is accepted.
STUCK = 4
#: A step that is taken led from what has the role of NEW_POINT now to POINT.
_ENDS = np.array([NEW_POINT, NEW_GRADIENT, POINT, GRADIENT])

# The rules that hold on every device, as kernels.
order_of, is_over = kernel(flow_rules.order_of), kernel(flow_rules.is_over)
rises, resize = kernel(flow_rules.rises), kernel(flow_rules.resize)


@kernel
def _begin(flow, model, support, operator, scalars, cancel):
    """Evaluate the point; at the very start choose the first step."""
    point, gradient, like = set_of(flow, POINT), set_of(flow, GRADIENT), model.w
    scalars[END_LOSS] = evaluate(model, support, operator, point, gradient, scalars, cancel)
    scalars[GRADIENT_SQUARED] = sum_of_squares(gradient, like)
    if scalars[STEP_SIZE] == 0.0:
        scalars[IS_CURRENT] = 1.0
        scalars[FIRST_LOSS] = scalars[END_LOSS]
        size, slope = np.sqrt(sum_of_squares(point, like)), np.sqrt(scalars[GRADIENT_SQUARED])
        scalars[STEP_SIZE] = FIRST_MOVE * size / slope if slope > 0.0 and size > 0.0 else 1.0
        scalars[LAST_ERROR] = 1.0
        scalars[FRACTION] = 1.0
        scalars[LOSS] = scalars[END_LOSS]


@kernel
def _interpolate(flow, fraction, h, like):
    """Write the cubic Hermite interpolant at a fraction of the last step to the set that is shown."""
    x, weights = fraction, flow.weights
    weights[0], weights[1] = (1.0 + 2.0 * x) * (1.0 - x) ** 2, -h * x * (1.0 - x) ** 2
    weights[2], weights[3] = x**2 * (3.0 - 2.0 * x), -h * x**2 * (x - 1.0)
    combine(flow, SHOWN, 0.0, _ENDS, like)


@kernel
def _loss_inside(flow, model, support, operator, fraction, scalars, cancel):
    """The loss at a fraction of the last step, which is then shown."""
    _interpolate(flow, fraction, scalars[SEGMENT], model.w)
    scalars[EVALUATIONS] += 1.0
    scalars[IS_CURRENT] = 0.0
    return forward(model, support, operator, set_of(flow, SHOWN), cancel)


@kernel
def _crossing(flow, model, support, operator, level, scalars, cancel):
    """The fraction of the last step at which the loss falls to a level, which lies between its ends' losses.

    Regula falsi on the loss, with the Illinois rule: the bracket never opens, and its lower end is returned.
    """
    low, high = 0.0, 1.0  # of the whole step, wherever in it the flow is shown: the answer is the same
    at_low, at_high = scalars[START_LOSS] - level, scalars[END_LOSS] - level
    below, side = at_high, 0
    accuracy = LEVEL_ACCURACY if model.w.itemsize == 8 else LEVEL_ACCURACY_SINGLE
    while high - low > 1e-15 and -below > accuracy * level and not is_set(cancel):
        middle = (low * at_high - high * at_low) / (at_high - at_low)
        if not low < middle < high:
            middle = 0.5 * (low + high)
        value = _loss_inside(flow, model, support, operator, middle, scalars, cancel) - level
        if value > 0.0:
            if middle <= low:
                break
            low, at_low = middle, value
            at_high = 0.5 * at_high if side == 1 else at_high
            side = 1
        else:
            if middle >= high:
                break
            high, at_high, below = middle, value, value
            at_low = 0.5 * at_low if side == -1 else at_low
            side = -1
    return high


@kernel
def _next_level(loss_below, gradient_below, current, end):
    """The highest level of the loss alone that lies below ``current`` and is reached at ``end``; else −1."""
    highest = -1.0
    for c in range(loss_below.size):
        level = loss_below[c]
        if np.isinf(gradient_below[c]) and end < level < current and level > highest:
            highest = level
    return highest


@kernel
def _halt_inside(flow, model, support, operator, loss_below, gradient_below, until, scalars, cancel):
    """Show the next point inside the last step at which to halt; False if there is none."""
    is_inside = scalars[FRACTION] < 1.0
    current = scalars[LOSS] if is_inside else scalars[START_LOSS]
    now = scalars[TIME] if is_inside else scalars[END_TIME] - scalars[SEGMENT]
    counted, fraction = scalars[EVALUATIONS], 2.0
    level = _next_level(loss_below, gradient_below, current, scalars[END_LOSS])
    if level > 0.0:
        fraction = _crossing(flow, model, support, operator, level, scalars, cancel)
    if now < until < scalars[END_TIME]:
        fraction = min(fraction, 1.0 - (scalars[END_TIME] - until) / scalars[SEGMENT])
    loss = np.nan
    if fraction < 1.0:
        loss = _loss_inside(flow, model, support, operator, fraction, scalars, cancel)
    if is_set(cancel):  # this begins again
        scalars[EVALUATIONS] = counted
        return False
    if not fraction < 1.0:
        return False
    scalars[LOSS], scalars[FRACTION] = loss, fraction
    is_at_time = now < until and fraction == 1.0 - (scalars[END_TIME] - until) / scalars[SEGMENT]
    scalars[TIME] = until if is_at_time else scalars[END_TIME] - (1.0 - fraction) * scalars[SEGMENT]
    return True


@kernel
def _show(flow, fraction, loss, time, scalars, like):
    """Show the point at a fraction of the last step, where loss and time are known."""
    _interpolate(flow, fraction, scalars[SEGMENT], like)
    scalars[FRACTION], scalars[LOSS], scalars[TIME] = fraction, loss, time


@kernel
def _go_to_end(scalars):
    """Show the end of the last step."""
    scalars[FRACTION], scalars[LOSS], scalars[TIME] = 1.0, scalars[END_LOSS], scalars[END_TIME]


@kernel
def _rests(flow, scalars, like):
    """Whether the last step did no more than rounding does in all its stages, to factors and loss."""
    if scalars[END_LOSS] < 0.999 * scalars[START_LOSS]:
        return False
    rounding = ROUNDINGS * (ROUNDING if like.itemsize == 8 else ROUNDING_SINGLE)
    old, new = set_of(flow, NEW_POINT), set_of(flow, POINT)
    for j in range(new.count):
        x, y = flat(old, j, like), flat(new, j, like)
        moved, size = 0.0, 0.0
        for i in range(x.size):
            moved += np.float64(y[i] - x[i]) ** 2
            size += np.float64(y[i]) ** 2
        if moved > rounding**2 * size:
            return False
    return True


@entry_point
def flow_on(
    integrator, flow, model, support, operator, scalars, is_evaluated, steps, norms, loss_below,
    gradient_below, until, cancel,
):  # fmt: skip
    """Take up to ``steps`` accepted steps; what is not evaluated yet is evaluated first.

    The flow halts where the loss crosses a level of its own (an infinite ``gradient_below[c]``), at the end
    of the first step that meets a pair of thresholds, and at the time ``until``.  From a point inside a
    step it goes to the next halt in that step, or to its end: no step is taken then.  Without ``norms`` the
    gradient's norm is not found, and the square of it is left as −1.  A cancelled call leaves the flow where
    an earlier step, or a halt in it, has led; W is not that of the point then: it is to be evaluated again.

    Returns
    -------
    taken, event
    """
    like = model.w
    if not is_evaluated:
        if scalars[STEP_SIZE] > 0.0 and scalars[FRACTION] < 1.0:
            # Taken up again inside a step: where that began is evaluated as well.
            evaluate(
                model, support, operator, set_of(flow, NEW_POINT), set_of(flow, NEW_GRADIENT), scalars, cancel
            )
        _begin(flow, model, support, operator, scalars, cancel)
    if scalars[FRACTION] < 1.0 and steps > 0:
        if _halt_inside(flow, model, support, operator, loss_below, gradient_below, until, scalars, cancel):
            return 0, HALTED
        if is_set(cancel):  # perhaps while looking for a halt: that begins again from here
            _show(flow, scalars[FRACTION], scalars[LOSS], scalars[TIME], scalars, like)
            return 0, CANCELLED
        _go_to_end(scalars)
        return 0, ALL_STEPS
    taken, rejections = 0, 0
    while taken < steps:
        if is_over(scalars) or rejections > MOST_REJECTIONS:
            return taken, STUCK
        copy_into(flow.before, scalars)
        attempt(integrator, flow, model, support, operator, scalars, cancel)
        if is_set(cancel):  # as if it had not been tried
            copy_into(scalars, flow.before)
            return taken, CANCELLED
        h, error, loss = scalars[STEP_SIZE], scalars[ERROR], scalars[NEW_LOSS]
        is_accepted = error <= 1.0 and not rises(loss, scalars[END_LOSS], like.itemsize)
        resize(scalars, error, order_of(scalars), is_accepted)
        if not is_accepted:
            scalars[REJECTED] += 1.0
            if scalars[IS_STIFF] == 0.0 or not error > 1.0:  # at its stability limit a method rings
                scalars[RADIUS_AGE] = OLD
            rejections += 1
            continue
        rejections = 0
        taken += 1
        swap(flow, POINT, NEW_POINT)
        swap(flow, GRADIENT, NEW_GRADIENT)
        scalars[IS_CURRENT] = 1.0
        scalars[STEPS] += 1.0
        scalars[SEGMENT], scalars[START_LOSS], scalars[END_LOSS] = h, scalars[END_LOSS], loss
        scalars[END_TIME] += h
        scalars[GRADIENT_SQUARED] = sum_of_squares(set_of(flow, GRADIENT), like) if norms else -1.0
        scalars[FRACTION] = 1.0
        if _halt_inside(flow, model, support, operator, loss_below, gradient_below, until, scalars, cancel):
            return taken, HALTED
        if is_set(cancel):
            _show(flow, 0.0, scalars[START_LOSS], scalars[END_TIME] - h, scalars, like)
            return taken, CANCELLED
        _go_to_end(scalars)
        if is_met(loss_below, gradient_below, scalars) or scalars[TIME] >= until:
            return taken, HALTED
        if scalars[STEPS] % REST == 0.0 and _rests(flow, scalars, like):
            return taken, STUCK
    return taken, ALL_STEPS
