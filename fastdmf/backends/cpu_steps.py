"""Trajectories that move step by step: gradient descent, GroupRMSprop, exact line search."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastdmf._checks import Array
from fastdmf.backends import Event, Halts, thresholds
from fastdmf.backends.cpu_memory import Matrices
from fastdmf.backends.cpu_objective import NEVER, NO_HALTS, CpuObjective, Scratch
from fastdmf.backends.cpu_trajectory import CpuTrajectory
from fastdmf.backends.layout import Layout, aligned_empty
from fastdmf.kernels.cpu import stepping
from fastdmf.kernels.cpu.completion import Entries
from fastdmf.kernels.cpu.line_search import LineSearch
from fastdmf.kernels.cpu.stepping import FixedStep, GroupRMS
from fastdmf.kernels.cpu.verbs import Model, Operator
from fastdmf.kernels.flow_rules import SLOTS_OF_STEPS
from fastdmf.optimizers import ExactLineSearch, GradientDescent, GroupRMSprop, Optimizer


class Held(NamedTuple):
    """What a trajectory holds for the kernels."""

    rule: Any
    model: Model
    operator: Operator
    point: Matrices
    gradient: Matrices
    has_gradient: bool
    velocity: Matrices
    scalars: Array


class StepTrajectory(CpuTrajectory):
    """A point and its gradient, in two sets of matrices that change places as steps are taken."""

    def __init__(
        self,
        objective: CpuObjective,
        optimizer: Optimizer,
        factors: Sequence[Array],
        memory: Mapping[str, Array],
        evaluations: int,
    ) -> None:
        searches = isinstance(optimizer, ExactLineSearch)
        scratch = Scratch(objective, searches)
        scalars = memory.get("scalars", np.zeros(SLOTS_OF_STEPS))
        super().__init__(objective, optimizer, scratch, factors, scalars, evaluations)
        self._support = objective.searched_support if searches else objective.bound_support
        layout, dtype = objective.layout, objective.dtype
        self._current = Matrices.copies(layout.inward(factors), dtype, objective.rows)
        self._gradient = Matrices(layout.shapes, dtype, objective.rows)
        self._velocity = _velocity_of(optimizer, objective, memory)
        self._rule, self._powers = _rule_of(optimizer, objective, self._velocity)
        # Whether the loss and the gradient on the support are known here, and the gradient in the factors.
        self._is_evaluated = self._has_gradient = False
        self._need(gradient=False)
        self.diverged = not np.isfinite(self.loss)

    @property
    def _point(self) -> Matrices:
        return self._current

    def _gradients(self) -> Sequence[Array]:
        self._need(gradient=True)
        return self._gradient.arrays

    @property
    def gradient_norm(self) -> float:
        """Norm of the gradient at the current point, which is found if it is not known."""
        self._need(gradient=True)
        return float(np.sqrt(self._scalars[stepping.GRADIENT_SQUARED]))

    def _need(self, gradient: bool) -> None:
        """Bring the loss, and if asked for the gradient in the factors, up to date where the point is."""
        if self._has_gradient or (self._is_evaluated and not gradient):
            return
        o = self.objective
        with o.holding_threads(), o.launching():
            stepping.advance(
                self._rule, self._scratch.model, self._support, self._scratch.operator,
                self._current.table, self._gradient.table, self._scalars, False, False,
                0, gradient, NO_HALTS, NO_HALTS, np.inf, NEVER,
            )  # fmt: skip
        self._is_evaluated, self._has_gradient = True, gradient

    @property
    def held(self) -> Held:
        """What the kernels work on, until the next steps have been taken."""
        scratch = self._scratch
        return Held(
            self._rule, scratch.model, scratch.operator, self._current, self._gradient,
            self._has_gradient, self._velocity, self._scalars,
        )  # fmt: skip

    def prepare(self) -> None:
        """Make sure that a step can be taken: loss and gradient are up to date and finite."""
        super().prepare()
        self._need(gradient=False)

    def advance(self, steps: int, halts: Halts = (), until: float = np.inf) -> Event:
        """Take up to ``steps`` steps."""
        self.prepare()
        o = self.objective
        norms, loss_below, gradient_below = thresholds(halts)
        with o.holding_threads(), o.launching():
            taken, event, swapped, has_gradient = stepping.advance(
                self._rule, self._scratch.model, self._support, self._scratch.operator,
                self._current.table, self._gradient.table, self._scalars, True, self._has_gradient,
                steps, norms, loss_below, gradient_below, until, self._cancels,
            )  # fmt: skip
        return self.arrive(taken, Event(event), swapped, has_gradient)

    def arrive(self, taken: int, event: Event, swapped: bool, has_gradient: bool) -> Event:
        """Take note of what kernels did: how far they came, why they stopped, and what they left behind."""
        if swapped:
            self._current, self._gradient = self._gradient, self._current
            self._velocity.rotate(self._velocity.table.count // 2)
        self.evaluations += taken + (event == Event.DIVERGED)
        self._is_evaluated = event not in (Event.DIVERGED, Event.CANCELLED)
        self._has_gradient = has_gradient and self._is_evaluated
        self.diverged = event == Event.DIVERGED
        return event

    def memory(self) -> dict[str, Array]:
        """The optimizer's memory: views that the next advance overwrites."""
        velocities = self._velocity.arrays
        velocities = {f"velocity_{j}": v for j, v in enumerate(velocities[: len(velocities) // 2])}
        return {"scalars": self._scalars, **velocities}


def _velocity_of(optimizer: Optimizer, objective: CpuObjective, memory: Mapping[str, Array]) -> Matrices:
    """The velocity, old and new, as it was left or zero; nothing without momentum."""
    has_velocity = isinstance(optimizer, GradientDescent) and optimizer.momentum > 0
    shapes = objective.layout.shapes if has_velocity else []
    velocity = Matrices(shapes * 2, objective.dtype, objective.rows)
    velocity.put([memory.get(f"velocity_{j}", np.zeros(shape)) for j, shape in enumerate(shapes)])
    return velocity


def _rule_of(
    optimizer: Optimizer, objective: CpuObjective, velocity: Matrices
) -> tuple[Any, Matrices | None]:
    """The kernels' description of an optimizer, and what must outlive the table in it beside the velocity."""
    layout, dtype = objective.layout, objective.dtype
    if isinstance(optimizer, GradientDescent):
        return FixedStep(float(optimizer.lr), float(optimizer.momentum), velocity.table), None
    if isinstance(optimizer, GroupRMSprop):
        return GroupRMS(float(optimizer.lr), float(optimizer.alpha), float(optimizer.eps)), None
    if isinstance(optimizer, ExactLineSearch):
        degree = 2 if layout.tied else max(layout.left + layout.right, 1)
        powers = Matrices(_power_shapes(layout), dtype, objective.rows)
        entries = aligned_empty((degree, objective.entries), dtype)
        measured_as_seen = isinstance(objective.operator, Entries)
        rule = LineSearch(
            float(optimizer.max_step or np.inf),
            powers.table,
            entries,
            entries if measured_as_seen else aligned_empty((degree, objective.measured), dtype),
            np.zeros((degree + 1, degree + 1)),
            np.zeros((2 * degree + 4, 2 * degree + 2)),
        )
        return rule, powers
    raise TypeError(f"the CPU backend cannot carry out {optimizer!r}")


def _power_shapes(layout: Layout) -> list[tuple[int, int]]:
    """Memory for the coefficients of each chain's partial products, in the order of `LineSearch.powers`."""
    return [
        (layout.shapes[first][0], layout.shapes[first + i - 1][1])
        for first, size in ((0, layout.left), (layout.left, layout.right))
        for i in range(2, size + 1)
        for _ in range(i)
    ]
