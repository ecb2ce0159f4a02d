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
    ENDS,
    EVALUATIONS,
    FRACTION,
    GRADIENT,
    GRADIENT_SQUARED,
    IS_CURRENT,
    LOSS,
    MOST_REJECTIONS,
    NEW_GRADIENT,
    NEW_POINT,
    POINT,
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
_ENDS = np.array(ENDS)

# The rules that hold on every device, as kernels.
begin, is_over, conclude = map(kernel, (flow_rules.begin, flow_rules.is_over, flow_rules.conclude))
hermite, fraction_at = kernel(flow_rules.hermite), kernel(flow_rules.fraction_at)
level_inside, bracket_of = kernel(flow_rules.level_inside), kernel(flow_rules.bracket_of)
is_wide, guess, narrowed = map(kernel, (flow_rules.is_wide, flow_rules.guess, flow_rules.narrowed))
show_inside, show_end = kernel(flow_rules.show_inside), kernel(flow_rules.show_end)


@kernel
def _begin(flow, model, support, operator, scalars, cancel):
    """Evaluate the point; at the very start choose the first step."""
    point, gradient, like = set_of(flow, POINT), set_of(flow, GRADIENT), model.w
    scalars[END_LOSS] = evaluate(model, support, operator, point, gradient, scalars, cancel)
    scalars[GRADIENT_SQUARED] = sum_of_squares(gradient, like)
    if scalars[STEP_SIZE] == 0.0:
        begin(scalars, np.sqrt(sum_of_squares(point, like)))


@kernel
def _interpolate(flow, fraction, h, like):
    """Write the cubic Hermite interpolant at a fraction of the last step to the set that is shown."""
    weights = flow.weights
    weights[0], weights[1], weights[2], weights[3] = hermite(fraction, h)
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

    Regula falsi on the loss: the bracket never opens, and its lower end is returned.
    """
    bracket = bracket_of(scalars, level)
    while is_wide(bracket, level, model.w.itemsize) and not is_set(cancel):
        middle = guess(bracket)
        loss = _loss_inside(flow, model, support, operator, middle, scalars, cancel)
        bracket = narrowed(bracket, middle, loss - level)
    return bracket.high


@kernel
def _halt_inside(flow, model, support, operator, loss_below, gradient_below, until, scalars, cancel):
    """Show the next point inside the last step at which to halt; False if there is none."""
    counted, at_time = scalars[EVALUATIONS], fraction_at(scalars, until)
    level = level_inside(scalars, loss_below, gradient_below)
    fraction, loss = at_time, np.nan
    if level > 0.0:
        fraction = min(_crossing(flow, model, support, operator, level, scalars, cancel), at_time)
    if fraction < 1.0:
        loss = _loss_inside(flow, model, support, operator, fraction, scalars, cancel)
    if is_set(cancel):  # this begins again
        scalars[EVALUATIONS] = counted
        return False
    if fraction < 1.0:
        show_inside(scalars, fraction, loss, at_time, until)
    return fraction < 1.0


@kernel
def _show(flow, fraction, loss, time, scalars, like):
    """Show the point at a fraction of the last step, where loss and time are known."""
    _interpolate(flow, fraction, scalars[SEGMENT], like)
    scalars[FRACTION], scalars[LOSS], scalars[TIME] = fraction, loss, time


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
        show_end(scalars)
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
        if not conclude(scalars, like.itemsize):
            rejections += 1
            continue
        rejections = 0
        taken += 1
        swap(flow, POINT, NEW_POINT)
        swap(flow, GRADIENT, NEW_GRADIENT)
        if norms:
            scalars[GRADIENT_SQUARED] = sum_of_squares(set_of(flow, GRADIENT), like)
        if _halt_inside(flow, model, support, operator, loss_below, gradient_below, until, scalars, cancel):
            return taken, HALTED
        if is_set(cancel):
            _show(flow, 0.0, scalars[START_LOSS], scalars[END_TIME] - scalars[SEGMENT], scalars, like)
            return taken, CANCELLED
        show_end(scalars)
        if is_met(loss_below, gradient_below, scalars) or scalars[TIME] >= until:
            return taken, HALTED
        if scalars[STEPS] % REST == 0.0 and _rests(flow, scalars, like):
            return taken, STUCK
    return taken, ALL_STEPS
