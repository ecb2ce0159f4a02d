"""What the gradient flow is on every device: constants of its methods, roles of the sets of matrices that it
moves, and slots of the vector of scalars that it carries.
"""

import numpy as np

# Roles of sets of matrices: where the flow is, where its step leads (afterwards: came from), and memory for
# stages.  Between steps, the first of these shows a point inside the last step.
POINT, GRADIENT, NEW_POINT, NEW_GRADIENT, STAGE = range(5)
SHOWN = STAGE

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
