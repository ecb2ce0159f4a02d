"""The gradient flow on a CUDA device.

The host decides, by the rules that all devices share.  It waits once for each step that is tried, whose
stages are queued together, to see its error and the losses of its stages: a few numbers.  It also waits for
the norm of each product of power iteration, and for the loss at each point that it looks at inside a step.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from fastdmf._checks import Array
from fastdmf.backends import Event, Halts, thresholds
from fastdmf.backends.cuda_device import Matrices
from fastdmf.backends.cuda_integrators import explicit_step, stabilized_step
from fastdmf.backends.cuda_objective import CudaObjective
from fastdmf.backends.cuda_sets import DIRECTION, Sets
from fastdmf.backends.cuda_trajectory import CudaTrajectory
from fastdmf.backends.layout import first_direction
from fastdmf.kernels import flow_rules as rules
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
        scalars = np.array(memory.get("scalars", np.zeros(rules.SLOTS)))
        super().__init__(objective, optimizer, factors, evaluations, scalars)
        self._rtol, self._plateau_factor = float(optimizer.rtol), float(optimizer.plateau_factor)
        self._iterates = optimizer.method == "rkc2"  # powers of the Hessian
        self._attempt = stabilized_step if self._iterates else explicit_step
        self._itemsize = objective.dtype.itemsize
        self._sets = Sets(objective, curves=self._iterates)
        if self._iterates:
            shapes = objective.layout.shapes
            kept = [memory[f"direction_{j}"] for j in range(len(shapes))] if memory else []
            self._put(kept or first_direction(shapes), self._sets[DIRECTION])
        if memory and not self.is_at_step:
            self._place(rules.POINT, [memory[f"end_{j}"] for j in range(len(factors))])
            self._place(rules.NEW_POINT, [memory[f"begin_{j}"] for j in range(len(factors))])
            self._place(rules.SHOWN, factors)
        else:
            self._place(rules.POINT, factors)
        counted = self._now[rules.EVALUATIONS]
        self._begin()
        if memory:  # to be taken up again is no part of the path
            self._now[rules.EVALUATIONS] = counted
        self.diverged = not np.isfinite(self.loss)

    def _place(self, role: int, factors: Sequence[Array]) -> None:
        """Copy factors to the set with a role."""
        self._put(self.objective.layout.inward(factors), self._sets[role])

    def _begin(self) -> None:
        """Evaluate the point; at the very start choose the first step."""
        now, sets = self._now, self._sets
        if now[rules.STEP_SIZE] > 0.0 and now[rules.FRACTION] < 1.0:
            # Taken up again inside a step: where that began is evaluated as well.
            sets.evaluate(rules.NEW_POINT, rules.NEW_GRADIENT)
        sets.evaluate(rules.POINT, rules.GRADIENT)
        sets.squares(rules.GRADIENT, rules.POINT)
        squares, losses = sets.read(2, 1)
        now[rules.GRADIENT_SQUARED], size_squared = squares.sum(axis=1)
        now[rules.END_LOSS] = losses[0]
        now[rules.EVALUATIONS] += 1.0
        if now[rules.STEP_SIZE] == 0.0:
            rules.begin(now, np.sqrt(size_squared))

    @property
    def is_at_step(self) -> bool:
        """Whether the current point is the end of a step, not one inside it."""
        return bool(self._now[rules.FRACTION] == 1.0)

    # --- points inside a step ----------------------------------------------------------------------------

    def _loss_inside(self, fraction: float) -> float:
        """The loss at a fraction of the last step, which is then shown."""
        self._sets.combine(
            rules.SHOWN, *zip(rules.ENDS, rules.hermite(fraction, self._now[rules.SEGMENT]), strict=True)
        )
        self._now[rules.EVALUATIONS] += 1.0
        self._now[rules.IS_CURRENT] = 0.0
        self._sets.evaluate(rules.SHOWN)
        return self._sets.read(0, 1)[1][0]

    def _crossing(self, level: float) -> float:
        """The fraction of the last step at which the loss falls to a level between its ends' losses."""
        bracket = rules.bracket_of(self._now, level)
        while rules.is_wide(bracket, level, self._itemsize):
            middle = rules.guess(bracket)
            bracket = rules.narrowed(bracket, middle, self._loss_inside(middle) - level)
        return bracket.high

    def _halts_inside(self, loss_below: Array, gradient_below: Array, until: float) -> bool:
        """Show the next point inside the last step at which to halt; False if there is none."""
        fraction = at_time = rules.fraction_at(self._now, until)
        level = rules.level_inside(self._now, loss_below, gradient_below)
        if level > 0.0:
            fraction = min(self._crossing(level), at_time)
        if fraction < 1.0:
            rules.show_inside(self._now, fraction, self._loss_inside(fraction), at_time, until)
        return fraction < 1.0

    # --- steps -------------------------------------------------------------------------------------------

    def _rests(self) -> bool:
        """Whether the last step did no more than rounding does in all its stages, to factors and loss."""
        if self._now[rules.END_LOSS] < 0.999 * self._now[rules.START_LOSS]:
            return False
        self._sets.combine(rules.STAGE, (rules.POINT, 1.0), (rules.NEW_POINT, -1.0))
        self._sets.squares(rules.STAGE, rules.POINT)
        (moved, size), _ = self._sets.read(2, 0)
        rounding = rules.ROUNDINGS * (rules.ROUNDING if self._itemsize == 8 else rules.ROUNDING_SINGLE)
        return bool(np.all(moved <= rounding**2 * size))

    def _try_step(self) -> bool:
        """Try a step, and set the size of the next one; False if it is not accepted."""
        now = self._now
        factor = self._plateau_factor if rules.is_on_plateau(now) else 1.0
        self._attempt(self._sets, now, self._rtol * factor)
        if not rules.conclude(now, self._itemsize):
            return False
        self._sets.swap(rules.POINT, rules.NEW_POINT)
        self._sets.swap(rules.GRADIENT, rules.NEW_GRADIENT)
        return True

    def _find_norm(self) -> None:
        self._sets.squares(rules.GRADIENT)
        self._now[rules.GRADIENT_SQUARED] = self._sets.read(1, 0)[0].sum()

    def _go(self, steps: int, halts: Halts, until: float) -> Event:
        now, (norms, loss_below, gradient_below) = self._now, thresholds(halts)
        if self.cancel[0]:
            return Event.CANCELLED
        if now[rules.FRACTION] < 1.0 and steps > 0:
            if self._halts_inside(loss_below, gradient_below, until):
                return Event.HALTED
            rules.show_end(now)
            return Event.ALL_STEPS
        taken, rejections = 0, 0
        while taken < steps:
            if rules.is_over(now) or rejections > rules.MOST_REJECTIONS:
                return Event.STUCK
            if self.cancel[0]:
                return Event.CANCELLED
            if not self._try_step():
                rejections += 1
                continue
            taken, rejections = taken + 1, 0
            if norms:
                self._find_norm()
            if self._halts_inside(loss_below, gradient_below, until):
                return Event.HALTED
            rules.show_end(now)
            norm = np.sqrt(now[rules.GRADIENT_SQUARED]) if norms else 0.0
            is_met = any(now[rules.LOSS] <= pair[0] and norm <= pair[1] for pair in halts)
            if is_met or now[rules.TIME] >= until:
                return Event.HALTED
            if now[rules.STEPS] % rules.REST == 0.0 and self._rests():
                return Event.STUCK
        return Event.ALL_STEPS

    @_quiet
    def advance(self, steps: int, halts: Halts = (), until: float = np.inf) -> Event:
        """Take up to ``steps`` accepted steps; one that is being tried is not cancelled."""
        self.refuse_to_go_on_if_diverged()
        event = self._go(steps, halts, until)
        self.evaluations = int(self._now[rules.EVALUATIONS] + 2 * self._now[rules.PRODUCTS])
        self.stuck = event is Event.STUCK
        return event

    # --- what the host may see ---------------------------------------------------------------------------

    @property
    def _shown(self) -> int:
        """The role of the current point."""
        return rules.POINT if self.is_at_step else rules.SHOWN

    @property
    def _point(self) -> Matrices:
        return self._sets[self._shown]

    @property
    def gradient_norm(self) -> float:
        """Norm of the gradient at the current point, which is found if it is not known."""
        if self.is_at_step:
            if self._now[rules.GRADIENT_SQUARED] < 0.0:
                self._find_norm()
            return float(np.sqrt(self._now[rules.GRADIENT_SQUARED]))
        self._sets.evaluate(rules.SHOWN, rules.STAGE + 1)
        self._sets.squares(rules.STAGE + 1)
        return float(np.sqrt(self._sets.read(1, 0)[0].sum()))

    def _gradient_here(self) -> Matrices:
        if self.is_at_step:
            return self._sets[rules.GRADIENT]
        self._sets.evaluate(rules.SHOWN, rules.STAGE + 1)
        return self._sets[rules.STAGE + 1]

    def test_error(self) -> float:
        """The problem's test error at the current point."""
        return self._sets.test_error(self._shown, self.factors())

    def memory(self) -> dict[str, Array]:
        """The flow's memory: copies, in the form that trajectories on the CPU have."""
        memory = {"scalars": self._now.copy()}
        if self._iterates:
            memory |= {f"direction_{j}": v for j, v in enumerate(self._fetch(self._sets[DIRECTION]))}
        if not self.is_at_step:
            for name, role in (("end", rules.POINT), ("begin", rules.NEW_POINT)):
                factors = self.objective.layout.outward(self._fetch(self._sets[role]), self._rest)
                memory |= {f"{name}_{j}": w for j, w in enumerate(factors)}
        return memory

    def details(self) -> dict[str, float]:
        """Stages of all steps, rejected steps, and products with the Hessian."""
        counted = {"stages": rules.STAGES, "rejected": rules.REJECTED, "hessian_products": rules.PRODUCTS}
        return {name: float(self._now[slot]) for name, slot in counted.items()}
