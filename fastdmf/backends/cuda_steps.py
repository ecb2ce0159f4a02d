"""Trajectories on a CUDA device that move step by step: gradient descent, GroupRMSprop, exact line search."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastdmf._checks import Array
from fastdmf.backends import Event, Halts
from fastdmf.backends.cuda_device import Matrices
from fastdmf.backends.cuda_line_search import LineSearch
from fastdmf.backends.cuda_objective import CudaObjective
from fastdmf.backends.cuda_support import Entries, Itself
from fastdmf.backends.cuda_trajectory import CudaTrajectory
from fastdmf.kernels.cuda.sources import (
    BLOCK,
    EVENT,
    GRADIENT_SQUARED,
    SLOTS,
    SLOTS_KEPT,
    STEP,
    TAKEN,
    UNIT,
    share,
)
from fastdmf.optimizers import ExactLineSearch, GradientDescent, GroupRMSprop

_NUMBER = np.dtype(np.float64)


class StepTrajectory(CudaTrajectory):
    """A point moved by steps that are queued without looking at their results.

    Two points change places as steps are taken; the gradient lies apart, because dense products go on after
    the device has decided to halt.
    """

    def __init__(
        self,
        objective: CudaObjective,
        optimizer: GradientDescent | GroupRMSprop | ExactLineSearch,
        factors: Sequence[Array],
        memory: Mapping[str, Array],
        evaluations: int,
    ) -> None:
        o, device = objective, objective.device
        super().__init__(objective, optimizer, factors, evaluations, now_of(memory))
        self._state = device.put(self._now)
        self._points = [o.matrices(), o.matrices()]
        self._put(o.layout.inward(factors), self._points[0])
        self._gradient, self._scratch = o.matrices(), o.scratch()
        if isinstance(optimizer, ExactLineSearch):
            self._search = LineSearch(o, optimizer, self._gradient)
        self._momentum = optimizer.momentum if isinstance(optimizer, GradientDescent) else 0.0
        self._velocities = [o.matrices(), o.matrices()] if self._momentum else []
        if self._momentum:
            zeros = [np.zeros(shape) for shape in o.layout.shapes]
            self._put([memory.get(f"velocity_{j}", v) for j, v in enumerate(zeros)], self._velocities[0])
        self._work = o.operator.work()
        self._size = self._gradient.flat.size
        self._per_block, blocks = share(self._size, BLOCK)
        self._per_block *= BLOCK
        self._gradient_sums = device.empty((blocks,), _NUMBER)
        self._pairs, self._thresholds = device.put(np.zeros((1, 2))), np.zeros((1, 2))
        # Whether the loss and the gradient on the support are known here, and the gradient in the factors.
        self._is_evaluated = self._has_gradient = False
        self._need(gradient=False)
        self.diverged = not np.isfinite(self.loss)

    @property
    def _point(self) -> Matrices:
        return self._points[0]

    def _gradient_here(self) -> Matrices:
        self._need(gradient=True)
        return self._gradient

    @property
    def gradient_norm(self) -> float:
        """Norm of the gradient at the current point, which is found if it is not known."""
        self._need(gradient=True)
        return float(np.sqrt(self._now[GRADIENT_SQUARED]))

    # --- queueing: nothing here waits for the device -----------------------------------------------------

    def _evaluate(self, gradient: bool, moved: bool, pairs: int = 0, until: float = np.inf) -> None:
        """Loss and gradient on the support at the current point, the gradient if asked for; what follows."""
        o, point, sums = self.objective, self._points[0], self._work.sums
        o.operator.residual(o.compose(point, self._scratch), self._state, self._work)
        if gradient:
            self._find_gradient()
        o.launch(
            "settle", (1,), sums, sums.size, 0.5 * o.problem.loss_scale, self._gradient_sums,
            self._gradient_sums.size if gradient else 0, int(moved), self._pairs, pairs, until, self._state,
        )  # fmt: skip

    def _pull_back(self) -> None:
        """The gradient in the factors."""
        point, z = self._points[0], self._work.z
        self.objective.pull_back(point, z, self._state, self._gradient, self._scratch)

    def _find_gradient(self) -> None:
        """The gradient in the factors, and the partial sums of its squares."""
        o = self.objective
        self._pull_back()
        o.launch(
            "squares", self._gradient_sums.shape, self._gradient.flat, self._size, self._per_block,
            self._state, self._gradient_sums,
        )  # fmt: skip

    def _move(self, has_gradient: bool) -> None:
        """Write the next point over the one before the current one, and let them change places."""
        o, optimizer = self.objective, self._optimizer
        if isinstance(optimizer, GroupRMSprop):
            if not has_gradient:
                self._find_gradient()
            sums = 0 if has_gradient else self._gradient_sums.size
            o.launch(
                "pace", (1,), self._gradient_sums, sums, optimizer.lr, optimizer.alpha, optimizer.eps,
                self._state,
            )  # fmt: skip
            self._descend()
        elif isinstance(optimizer, GradientDescent) and not has_gradient and (entries := o.summed_entries):
            self._descend_at_once(entries)
        else:
            if isinstance(optimizer, ExactLineSearch):
                self._find_step(has_gradient)
            elif not has_gradient:
                self._pull_back()
            self._descend()
        self._points.reverse()
        self._velocities.reverse()

    def _find_step(self, has_gradient: bool) -> None:
        """UNIT times the gradient in its place, and STEP along it."""
        is_deep = len(self._gradient.each) > 2  # a square does not underflow
        if not has_gradient:
            (self._find_gradient if is_deep else self._pull_back)()
        if is_deep:
            sums, blocks = self._gradient_sums, -(-self._gradient_sums.size // 8)
            self.objective.launch(
                "normalize", (blocks,), sums, sums.size, self._gradient.flat, self._size, 8 * self._per_block,
                self._state,
            )  # fmt: skip
        self._search.find_step(self._points[0], self._scratch, self._work, self._state)

    def _descend(self) -> None:
        self._descend_along(self._gradient.flat)

    def _descend_along(self, gradient: Any) -> None:
        old, new = (v.flat for v in self._velocities) if self._momentum else (None, None)
        point, moved = (m.flat for m in self._points)
        self.objective.launch(
            "descend", (-(-self._size // BLOCK),), gradient, self._size, self._state,
            self._momentum, old, new, point, moved,
        )  # fmt: skip

    def _descend_at_once(self, entries: Entries | Itself) -> None:
        if isinstance(entries, Itself):
            self._descend_along(self._work.z)
            return
        o = self.objective
        point, moved = (m.each for m in self._points)
        for k, (grid, (*lists, dense, rows)) in enumerate(entries.sides((point[0], point[-1]))):
            old, new = (v.each[k] for v in self._velocities) if self._momentum else (None, None)
            o.launch(
                "gather_step", grid, *lists, self._work.z, dense, rows, entries.width, self._state,
                self._momentum, old, new, point[k], moved[k],
            )  # fmt: skip

    # --- waiting -----------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Tell the device where it is, that no event has happened, and how long steps are if equally long."""
        self._now[[EVENT, TAKEN]] = 0.0
        if isinstance(self._optimizer, GradientDescent):
            self._now[STEP] = self._optimizer.lr
        self.objective.device.copy(self._now, self._state)

    def _need(self, gradient: bool) -> None:
        """Bring the loss, and if asked for the gradient in the factors, up to date where the point is."""
        if self._has_gradient or (self._is_evaluated and not gradient):
            return
        self._begin()
        self._evaluate(gradient, moved=False)
        self._now = self.objective.device.get(self._state)
        self._is_evaluated, self._has_gradient = True, gradient

    def _set_thresholds(self, halts: Halts) -> None:
        thresholds = np.array(halts, dtype=_NUMBER).reshape(-1, 2)
        if thresholds.size and not np.array_equal(thresholds, self._thresholds):
            self._pairs, self._thresholds = self.objective.device.put(thresholds), thresholds

    def advance(self, steps: int, halts: Halts = (), until: float = np.inf) -> Event:
        """Take up to ``steps`` steps."""
        self.refuse_to_go_on_if_diverged()
        self._need(gradient=False)
        norms = any(np.isfinite(norm) for _, norm in halts)
        self._set_thresholds(halts)
        self._begin()
        queued, has_gradient = 0, self._has_gradient
        while queued < steps and not self.cancel[0]:
            self._move(has_gradient)
            self._evaluate(norms, True, len(halts), until)
            queued, has_gradient = queued + 1, norms
        self._now = self.objective.device.get(self._state)
        taken, event = int(self._now[TAKEN]), Event(int(self._now[EVENT]))
        if (queued - taken) % 2:  # the device stopped before the host did
            self._points.reverse()
            self._velocities.reverse()
        # Products of chains, and after a divergence the gradient on the support, are those of later points.
        self._is_evaluated = taken == queued
        self._has_gradient = has_gradient and self._is_evaluated
        self.evaluations += taken + (event == Event.DIVERGED)
        self.diverged = event == Event.DIVERGED
        return Event.CANCELLED if event == Event.ALL_STEPS and queued < steps else event

    def memory(self) -> dict[str, Array]:
        """The optimizer's memory: copies, in the form that trajectories on the CPU have."""
        velocity = self._fetch(self._velocities[0]) if self._momentum else []
        scalars = {"scalars": self._now[:SLOTS_KEPT].copy()}
        return scalars | {f"velocity_{j}": v for j, v in enumerate(velocity)}

    def test_error(self) -> float:
        """The problem's test error at the current point."""
        return self.objective.test_error(self._point, self._scratch, self.factors())


def now_of(memory: Mapping[str, Array]) -> Array:
    """The state of a trajectory as the host knows it at first."""
    now = np.zeros(SLOTS)
    now[:SLOTS_KEPT] = memory.get("scalars", 0.0)
    now[UNIT] = 1.0
    return now
