"""What the gradient flow is on every device: constants of its methods, roles of the sets of matrices that it
moves, slots of the vector of scalars that it carries, and the rules by which it steps and halts.
"""

import math
from typing import NamedTuple

import numpy as np

# Roles of sets of matrices: where the flow is, where its step leads (afterwards: came from), and memory for
# stages.  Between steps, the first of these shows a point inside the last step.
POINT, GRADIENT, NEW_POINT, NEW_GRADIENT, STAGE = range(5)
SHOWN = STAGE
#: Roles of the ends of a step that is taken, each before its gradient: it led from the first to the third.
ENDS = (NEW_POINT, NEW_GRADIENT, POINT, GRADIENT)

# Slots of every trajectory.
LOSS, GRADIENT_SQUARED, TIME, STEPS, MEAN_SQUARE = range(5)
SLOTS_OF_STEPS = 5

SLOTS = SLOTS_OF_STEPS + 18
# Slots of a flow, beside those of every trajectory:
(
    # the next step size, the error of the last step in units of the tolerance, the spectral radius of the
    # Hessian and the steps since it was found, the first loss;
    STEP_SIZE, LAST_ERROR, RADIUS, RADIUS_AGE, FIRST_LOSS,
    # whether the flow has become stiff, and whether W and the gradient on the support are those of the point;
    IS_STIFF, IS_CURRENT,
    # what was counted;
    EVALUATIONS, STAGES, REJECTED, PRODUCTS,
    # of the last step its size, the losses at its ends, when it ended, and how much of it lies behind the
    # point that is shown;
    SEGMENT, START_LOSS, END_LOSS, END_TIME, FRACTION,
    # of the step that is tried, the error in units of the tolerance and the loss it leads to.
    ERROR, NEW_LOSS,
) = range(SLOTS_OF_STEPS, SLOTS)  # fmt: skip

#: The first step moves the factors by this fraction of their norm.
FIRST_MOVE = 0.01
#: A step is given up after so many rejections.
MOST_REJECTIONS = 60
#: After so many steps it is looked whether the flow has come to rest, but for so many roundings.
REST, ROUNDINGS = 16, 4096
#: A crossing is found when the loss there is below its level by less than this fraction (float64, float32).
LEVEL_ACCURACY, LEVEL_ACCURACY_SINGLE = 1e-9, 1e-5
#: The fraction by which rounding may make the loss seem to rise (float64, float32).
BLUR, BLUR_SINGLE = 1e-12, 2e-6
#: The unit of rounding of factors (float64, float32).
ROUNDING, ROUNDING_SINGLE = 2.3e-16, 1.2e-7
#: The first plateau ends where the loss has fallen to this fraction of the first one.
PLATEAU = 0.9
#: Added to the tolerated norm of a factor's error, for factors that are zero.
ABSOLUTE = 1e-12

#: Damping ε of the Chebyshev stability polynomials, and h ρ ≤ (s² − 1) / STRETCH where they are stable.
DAMPING, STRETCH = 2.0 / 13.0, 1.54
MAX_STAGES = 200
#: Power iteration finds ρ from below; after so many steps it is found again.
SAFETY, REFRESH = 1.15, 25
#: The same for explicit steps, and h ρ from which the flow counts as stiff: they are stable up to 3.3.
REFRESH_EXPLICIT, EXPLICIT_LIMIT = 5, 2.5
#: "As old as it gets": makes the next step look for the spectral radius again.
OLD = 1e9
#: Power iteration ends when two estimates agree to this fraction of them, or after so many products.
AGREEMENT, MOST_PRODUCTS = 0.05, 30

#: Evaluations of an explicit step of order 5(4) (Dormand & Prince 1980), the first being known.
EXPLICIT_STAGES = 7
#: The weights of stage i, a_{i+1,j}; the last line is also that of the new point.
A = np.zeros((EXPLICIT_STAGES, EXPLICIT_STAGES))
A[1, :1] = [1 / 5]
A[2, :2] = [3 / 40, 9 / 40]
A[3, :3] = [44 / 45, -56 / 15, 32 / 9]
A[4, :4] = [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729]
A[5, :5] = [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656]
A[6, :6] = [35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84]
#: The difference to the weights of order 4, in which the gradient at the second stage has no part.
E = np.array([71 / 57600, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40])


# Rules: what a step decides, by numbers alone.  They are compiled one by one for the CPU: none calls another.


def begin(scalars, size):
    """Choose the first step, where loss and gradient are known; ``size`` is the norm of the point."""
    slope = np.sqrt(scalars[GRADIENT_SQUARED])
    scalars[STEP_SIZE] = FIRST_MOVE * size / slope if slope > 0.0 and size > 0.0 else 1.0
    scalars[IS_CURRENT] = scalars[LAST_ERROR] = scalars[FRACTION] = 1.0
    scalars[FIRST_LOSS] = scalars[LOSS] = scalars[END_LOSS]


def is_on_plateau(scalars):
    """Whether the loss has not yet left the first plateau."""
    return scalars[END_LOSS] > PLATEAU * scalars[FIRST_LOSS]


def is_over(scalars):
    """Whether nothing moves: the loss is zero, or the gradient at the start.

    Later the gradient's norm may be known or not, as a run is cut or watched, which must not change its path.
    """
    return scalars[END_LOSS] == 0.0 or (scalars[STEPS] == 0.0 and scalars[GRADIENT_SQUARED] == 0.0)


def conclude(scalars, itemsize):
    """Take the step that was tried, or do not, and set the size of the next one; whether it is taken.

    It is if it is precise enough and the loss rose by no more than rounding may blur it.  The norm of the
    gradient is not known then.  Steps grow by the predictive rule (Gustafsson 1994), which foresees that the
    error goes on growing as it did from the last step to this one: from a saddle the flow accelerates.
    """
    h, error, loss, before = scalars[STEP_SIZE], scalars[ERROR], scalars[NEW_LOSS], scalars[SEGMENT]
    order = 5.0 if scalars[IS_STIFF] == 0.0 else 3.0
    blur = BLUR if itemsize == 8 else BLUR_SINGLE
    is_taken = error <= 1.0 and loss <= scalars[END_LOSS] * (1.0 + blur)
    if is_taken:
        bounded = max(error, 1e-4)
        factor = 0.85 * bounded ** (-1.0 / order)
        if before > 0.0:
            factor *= min(1.0, h / before * (scalars[LAST_ERROR] / bounded) ** (1.0 / order))
        scalars[STEP_SIZE] = h * min(4.0, max(0.2, factor))
        scalars[LAST_ERROR] = bounded
        scalars[SEGMENT], scalars[START_LOSS], scalars[END_LOSS] = h, scalars[END_LOSS], loss
        scalars[END_TIME] += h
        scalars[STEPS] += 1.0
        scalars[IS_CURRENT], scalars[FRACTION], scalars[GRADIENT_SQUARED] = 1.0, 1.0, -1.0
        return True
    if not np.isfinite(error):
        scalars[STEP_SIZE] = 0.25 * h
    else:  # the error was too large, or else the loss rose
        scalars[STEP_SIZE] = h * (max(0.1, 0.8 * error ** (-1.0 / order)) if error > 1.0 else 0.5)
    scalars[REJECTED] += 1.0
    if scalars[IS_STIFF] == 0.0 or not error > 1.0:  # at its stability limit a method rings
        scalars[RADIUS_AGE] = OLD
    return False


# Rules: where inside the last step, or at its end, the flow is shown.


def hermite(fraction, h):
    """Weights of the ``ENDS`` of a step in the cubic interpolant at a fraction of it."""
    x = fraction
    return (
        (1.0 + 2.0 * x) * (1.0 - x) ** 2, -h * x * (1.0 - x) ** 2,
        x**2 * (3.0 - 2.0 * x), -h * x**2 * (x - 1.0),
    )  # fmt: skip


def level_inside(scalars, loss_below, gradient_below):
    """The highest level of the loss alone that lies in what is left of the step; −1 if there is none."""
    current = scalars[LOSS] if scalars[FRACTION] < 1.0 else scalars[START_LOSS]
    highest = -1.0
    for c in range(loss_below.size):
        level = loss_below[c]
        if np.isinf(gradient_below[c]) and scalars[END_LOSS] < level < current and level > highest:
            highest = level
    return highest


def fraction_at(scalars, until):
    """The fraction of the step at which a time lies, if that is in what is left of the step; else 2."""
    now = scalars[TIME] if scalars[FRACTION] < 1.0 else scalars[END_TIME] - scalars[SEGMENT]
    return 1.0 - (scalars[END_TIME] - until) / scalars[SEGMENT] if now < until < scalars[END_TIME] else 2.0


class Bracket(NamedTuple):
    """Fractions of a step between which the loss falls to a level, and how far it is above the level there.

    ``below`` is the same at ``high``, as it was found: by the Illinois rule of regula falsi, ``at_low`` or
    ``at_high`` is halved when the other end has moved twice, in the direction ``side``.
    """

    low: float
    high: float
    at_low: float
    at_high: float
    below: float
    side: float


def bracket_of(scalars, level):
    """The whole step, wherever in it the flow is shown: the crossing is the same."""
    end = scalars[END_LOSS] - level
    return Bracket(0.0, 1.0, scalars[START_LOSS] - level, end, end, 0.0)


def is_wide(bracket, level, itemsize):
    """Whether the crossing is not found yet, at the upper end, which lies below the level."""
    accuracy = LEVEL_ACCURACY if itemsize == 8 else LEVEL_ACCURACY_SINGLE
    return bracket.high - bracket.low > 1e-15 and -bracket.below > accuracy * level


def guess(bracket):
    """A fraction inside a bracket, where the chord crosses the level."""
    low, high, at_low, at_high = bracket.low, bracket.high, bracket.at_low, bracket.at_high
    middle = (low * at_high - high * at_low) / (at_high - at_low)
    return middle if low < middle < high else 0.5 * (low + high)


def narrowed(bracket, middle, value):
    """The part of a bracket that the crossing lies in, from how far the loss is above the level inside it."""
    if value > 0.0:
        at_high = 0.5 * bracket.at_high if bracket.side == 1.0 else bracket.at_high
        return Bracket(middle, bracket.high, value, at_high, bracket.below, 1.0)
    at_low = 0.5 * bracket.at_low if bracket.side == -1.0 else bracket.at_low
    return Bracket(bracket.low, middle, at_low, value, value, -1.0)


def show_inside(scalars, fraction, loss, at_time, until):
    """Note that the flow is shown at a fraction of the step: at the time ``until`` if that is ``at_time``."""
    scalars[TIME] = until if fraction == at_time else scalars[END_TIME] - (1.0 - fraction) * scalars[SEGMENT]
    scalars[LOSS], scalars[FRACTION] = loss, fraction


def show_end(scalars):
    """Note that the flow is shown at the end of the step."""
    scalars[FRACTION], scalars[LOSS], scalars[TIME] = 1.0, scalars[END_LOSS], scalars[END_TIME]


# Methods.


def stages_for(h, radius):
    """The number of Chebyshev stages for a step, and the step that this number allows."""
    wanted = math.sqrt(1.0 + STRETCH * h * radius)
    if wanted > MAX_STAGES:
        return MAX_STAGES, (MAX_STAGES**2 - 1) / (STRETCH * radius)
    return math.ceil(wanted) if wanted > 2.0 else 2, h  # NaN too


def chebyshev_polynomials(polynomials, s):
    """T_j and b_j of the stages j ≤ s, and w₀, w₁: T_j = T_j(w₀), b_j = T_j''(w₀) / T_j'(w₀)²."""
    t, b = polynomials[0], polynomials[1]
    w0 = 1.0 + DAMPING / s**2
    t[0], t[1] = 1.0, w0
    slope_before, slope, bend_before, bend = 0.0, 1.0, 0.0, 0.0
    for j in range(2, s + 1):
        t[j] = 2.0 * w0 * t[j - 1] - t[j - 2]
        slope_before, slope, old = slope, 2.0 * t[j - 1] + 2.0 * w0 * slope - slope_before, slope
        bend_before, bend = bend, 4.0 * old + 2.0 * w0 * bend - bend_before
        b[j] = bend / slope**2
    b[0] = b[1] = b[2]
    return w0, slope / bend
