"""The gradient flow on a CUDA device.

The host decides, by the rules that all devices share.  It waits once for each step that is tried, whose
stages are queued together, to see its error and the losses of its stages: a few numbers.  It also waits for
the norm of each product of power iteration, and for the loss at each point that it looks at inside a step.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from fastdmf._checks import Array
from fastdmf.backends import Event, Halts
from fastdmf.backends.cuda_device import Matrices
from fastdmf.backends.cuda_integrators import explicit_step, stabilized_step
from fastdmf.backends.cuda_objective import CudaObjective
from fastdmf.backends.cuda_sets import DIRECTION, Sets
from fastdmf.backends.cuda_trajectory import CudaTrajectory
from fastdmf.backends.layout import first_direction
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
    PRODUCTS,
    RADIUS_AGE,
    REJECTED,
    REST,
    ROUNDING,
    ROUNDING_SINGLE,
    ROUNDINGS,
    SEGMENT,
    SHOWN,
    SLOTS,
    STAGE,
    STAGES,
    START_LOSS,
    STEP_SIZE,
    STEPS,
    TIME,
    is_on_plateau,
    is_over,
    order_of,
    resize,
    rises,
)
from fastdmf.optimizers import GradientFlow

#: What host arithmetic may meet at a divergence, as compiled code does, without a word.
_quiet = np.errstate(all="ignore")


class FlowTrajectory(CudaTrajectory):
    """A point of the gradient flow, at the end of a step or inside one.

    Its memory is that of a flow on the CPU: the scalars and the direction of power iteration, and inside a
    step both of its ends.
    """

    objective: CudaObjective

    @_quiet
    def __init__(
        self,
        objective: CudaObjective,
        optimizer: GradientFlow,
        factors: Sequence[Array],
        memory: Mapping[str, Array],
        evaluations: int,
    ) -> None:
        scalars = np.array(memory.get("scalars", np.zeros(SLOTS)))
        super().__init__(objective, optimizer, factors, evaluations, scalars)
        self._rtol, self._plateau_factor = float(optimizer.rtol), float(optimizer.plateau_factor)
        self._attempt = stabilized_step if optimizer.method == "rkc2" else explicit_step
        self._is_double = objective.dtype.itemsize == 8
        self._sets = Sets(objective, curves=optimizer.method == "rkc2")
        directions = first_direction(objective.layout.shapes)
        self._put([memory.get(f"direction_{j}", v) for j, v in enumerate(directions)], self._sets[DIRECTION])
        if memory and not self.is_at_step:
            self._place(POINT, [memory[f"end_{j}"] for j in range(len(factors))])
            self._place(NEW_POINT, [memory[f"begin_{j}"] for j in range(len(factors))])
            self._place(SHOWN, factors)
        else:
            self._place(POINT, factors)
        counted = self._now[EVALUATIONS]
        self._begin()
        if memory:  # to be taken up again is no part of the path
            self._now[EVALUATIONS] = counted
        self.diverged = not np.isfinite(self.loss)

    def _place(self, role: int, factors: Sequence[Array]) -> None:
        """Copy factors to the set with a role."""
        self._put(self.objective.layout.inward(factors), self._sets[role])

    def _begin(self) -> None:
        """Evaluate the point; at the very start choose the first step."""
        now, sets = self._now, self._sets
        if now[STEP_SIZE] > 0.0 and now[FRACTION] < 1.0:
            # Taken up again inside a step: where that began is evaluated as well.
            sets.evaluate(NEW_POINT, NEW_GRADIENT)
        sets.evaluate(POINT, GRADIENT)
        sets.squares(GRADIENT, POINT)
        squares, losses = sets.read(2, 1)
        now[GRADIENT_SQUARED], size_squared = squares.sum(axis=1)
        now[END_LOSS] = losses[0]
        now[EVALUATIONS] += 1.0
        if now[STEP_SIZE] == 0.0:
            now[IS_CURRENT] = 1.0
            now[FIRST_LOSS] = now[END_LOSS]
            size, slope = np.sqrt(size_squared), np.sqrt(now[GRADIENT_SQUARED])
            now[STEP_SIZE] = FIRST_MOVE * size / slope if slope > 0.0 and size > 0.0 else 1.0
            now[LAST_ERROR] = 1.0
            now[FRACTION] = 1.0
            now[LOSS] = now[END_LOSS]

    @property
    def is_at_step(self) -> bool:
        """Whether the current point is the end of a step, not one inside it."""
        return bool(self._now[FRACTION] == 1.0)

    # --- points inside a step ----------------------------------------------------------------------------

    def _interpolate(self, fraction: float) -> None:
        """Write the cubic Hermite interpolant at a fraction of the last step to the set that is shown."""
        # The step is taken: it led from what has the role of NEW_POINT now to POINT.
        x, h = fraction, self._now[SEGMENT]
        self._sets.combine(
            SHOWN,
            (NEW_POINT, (1.0 + 2.0 * x) * (1.0 - x) ** 2),
            (NEW_GRADIENT, -h * x * (1.0 - x) ** 2),
            (POINT, x**2 * (3.0 - 2.0 * x)),
            (GRADIENT, -h * x**2 * (x - 1.0)),
        )

    def _loss_inside(self, fraction: float) -> float:
        """The loss at a fraction of the last step, which is then shown."""
        self._interpolate(fraction)
        self._now[EVALUATIONS] += 1.0
        self._now[IS_CURRENT] = 0.0
        self._sets.evaluate(SHOWN)
        return self._sets.read(0, 1)[1][0]

    def _crossing(self, level: float) -> float:
        """The fraction of the last step at which the loss falls to a level between its ends' losses.

        Regula falsi on the loss, with the Illinois rule: the bracket never opens, and its lower end is
        returned.
        """
        low, high = 0.0, 1.0  # of the whole step, wherever in it the flow is shown: the answer is the same
        at_low, at_high = self._now[START_LOSS] - level, self._now[END_LOSS] - level
        below, side = at_high, 0
        accuracy = LEVEL_ACCURACY if self._is_double else LEVEL_ACCURACY_SINGLE
        while high - low > 1e-15 and -below > accuracy * level:
            middle = (low * at_high - high * at_low) / (at_high - at_low)
            if not low < middle < high:
                middle = 0.5 * (low + high)
            value = self._loss_inside(middle) - level
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

    def _halts_inside(self, halts: Halts, until: float) -> bool:
        """Show the next point inside the last step at which to halt; False if there is none."""
        now = self._now
        is_inside = now[FRACTION] < 1.0
        current = now[LOSS] if is_inside else now[START_LOSS]
        time = now[TIME] if is_inside else now[END_TIME] - now[SEGMENT]
        # The highest level of the loss alone that lies below the current one and is reached.
        alone = [loss for loss, norm in halts if np.isinf(norm)]
        level = max((loss for loss in alone if now[END_LOSS] < loss < current), default=-1.0)
        fraction = self._crossing(level) if level > 0.0 else 2.0
        at_time = 1.0 - (now[END_TIME] - until) / now[SEGMENT]
        if time < until < now[END_TIME]:
            fraction = min(fraction, at_time)
        if not fraction < 1.0:
            return False
        now[LOSS] = self._loss_inside(fraction)
        now[FRACTION] = fraction
        is_at_time = time < until and fraction == at_time
        now[TIME] = until if is_at_time else now[END_TIME] - (1.0 - fraction) * now[SEGMENT]
        return True

    def _go_to_end(self) -> None:
        """Show the end of the last step."""
        now = self._now
        now[FRACTION], now[LOSS], now[TIME] = 1.0, now[END_LOSS], now[END_TIME]

    # --- steps -------------------------------------------------------------------------------------------

    def _rests(self) -> bool:
        """Whether the last step did no more than rounding does in all its stages, to factors and loss."""
        if self._now[END_LOSS] < 0.999 * self._now[START_LOSS]:
            return False
        self._sets.combine(STAGE, (POINT, 1.0), (NEW_POINT, -1.0))
        self._sets.squares(STAGE, POINT)
        (moved, size), _ = self._sets.read(2, 0)
        rounding = ROUNDINGS * (ROUNDING if self._is_double else ROUNDING_SINGLE)
        return bool(np.all(moved <= rounding**2 * size))

    def _try_step(self) -> bool:
        """Try a step, and set the size of the next one; False if it is not accepted."""
        now = self._now
        self._attempt(self._sets, now, self._rtol * (self._plateau_factor if is_on_plateau(now) else 1.0))
        error = now[ERROR]
        accepted = bool(error <= 1.0) and not rises(
            now[NEW_LOSS], now[END_LOSS], self.objective.dtype.itemsize
        )
        h = now[STEP_SIZE]
        resize(now, error, order_of(now), accepted)
        if not accepted:
            now[REJECTED] += 1.0
            if now[IS_STIFF] == 0.0 or not error > 1.0:  # at its stability limit a method rings
                now[RADIUS_AGE] = OLD
            return False
        self._sets.swap(POINT, NEW_POINT)
        self._sets.swap(GRADIENT, NEW_GRADIENT)
        now[IS_CURRENT] = 1.0
        now[STEPS] += 1.0
        now[SEGMENT], now[START_LOSS], now[END_LOSS] = h, now[END_LOSS], now[NEW_LOSS]
        now[END_TIME] += h
        now[FRACTION] = 1.0
        return True

    def _find_norm(self) -> None:
        self._sets.squares(GRADIENT)
        self._now[GRADIENT_SQUARED] = self._sets.read(1, 0)[0].sum()

    def _go(self, steps: int, halts: Halts, until: float) -> Event:
        now, norms = self._now, any(np.isfinite(norm) for _, norm in halts)
        if self.cancel[0]:
            return Event.CANCELLED
        if now[FRACTION] < 1.0 and steps > 0:
            if self._halts_inside(halts, until):
                return Event.HALTED
            self._go_to_end()
            return Event.ALL_STEPS
        taken, rejections = 0, 0
        while taken < steps:
            if is_over(now) or rejections > MOST_REJECTIONS:
                return Event.STUCK
            if self.cancel[0]:
                return Event.CANCELLED
            if not self._try_step():
                rejections += 1
                continue
            taken, rejections = taken + 1, 0
            now[GRADIENT_SQUARED] = -1.0
            if norms:
                self._find_norm()
            if self._halts_inside(halts, until):
                return Event.HALTED
            self._go_to_end()
            norm = np.sqrt(now[GRADIENT_SQUARED]) if norms else 0.0
            if any(now[LOSS] <= pair[0] and norm <= pair[1] for pair in halts) or now[TIME] >= until:
                return Event.HALTED
            if now[STEPS] % REST == 0.0 and self._rests():
                return Event.STUCK
        return Event.ALL_STEPS

    @_quiet
    def advance(self, steps: int, halts: Halts = (), until: float = np.inf) -> Event:
        """Take up to ``steps`` accepted steps; one that is being tried is not cancelled."""
        self.refuse_to_go_on_if_diverged()
        event = self._go(steps, halts, until)
        self.evaluations = int(self._now[EVALUATIONS] + 2 * self._now[PRODUCTS])
        self.stuck = event is Event.STUCK
        return event

    # --- what the host may see ---------------------------------------------------------------------------

    @property
    def _shown(self) -> int:
        """The role of the current point."""
        return POINT if self.is_at_step else SHOWN

    @property
    def _point(self) -> Matrices:
        return self._sets[self._shown]

    @property
    def gradient_norm(self) -> float:
        """Norm of the gradient at the current point, which is found if it is not known."""
        if self.is_at_step:
            if self._now[GRADIENT_SQUARED] < 0.0:
                self._find_norm()
            return float(np.sqrt(self._now[GRADIENT_SQUARED]))
        self._sets.evaluate(SHOWN, STAGE + 1)
        self._sets.squares(STAGE + 1)
        return float(np.sqrt(self._sets.read(1, 0)[0].sum()))

    def _gradient_here(self) -> Matrices:
        if self.is_at_step:
            return self._sets[GRADIENT]
        self._sets.evaluate(SHOWN, STAGE + 1)
        return self._sets[STAGE + 1]

    def test_error(self) -> float:
        """The problem's test error at the current point."""
        return self._sets.test_error(self._shown, self.factors())

    def memory(self) -> dict[str, Array]:
        """The flow's memory: copies, in the form that trajectories on the CPU have."""
        memory = {"scalars": self._now.copy()}
        memory |= {f"direction_{j}": v for j, v in enumerate(self._fetch(self._sets[DIRECTION]))}
        if not self.is_at_step:
            for name, role in (("end", POINT), ("begin", NEW_POINT)):
                factors = self.objective.layout.outward(self._fetch(self._sets[role]), self._rest)
                memory |= {f"{name}_{j}": w for j, w in enumerate(factors)}
        return memory

    def details(self) -> dict[str, float]:
        """Stages of all steps, rejected steps, and products with the Hessian."""
        counted = {"stages": STAGES, "rejected": REJECTED, "hessian_products": PRODUCTS}
        return {name: float(self._now[slot]) for name, slot in counted.items()}
