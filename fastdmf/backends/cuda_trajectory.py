"""Trajectories on a CUDA device."""

from collections.abc import Mapping, Sequence

import numpy as np

from fastdmf._checks import Array
from fastdmf.backends import Event, Halts
from fastdmf.backends.cuda_device import Matrices
from fastdmf.backends.cuda_objective import CudaObjective
from fastdmf.backends.cuda_support import Entries
from fastdmf.kernels.cuda.sources import (
    BLOCK,
    EVENT,
    GRADIENT_SQUARED,
    LOSS,
    SLOTS,
    SLOTS_KEPT,
    STEP,
    STEPS,
    TAKEN,
    TIME,
    share,
)
from fastdmf.optimizers import GradientDescent, GroupRMSprop
from fastdmf.state import State

_NUMBER = np.dtype(np.float64)


class CudaTrajectory:
    """A point in the memory of a device, moved by steps that are queued without looking at their results.

    Two points change places as steps are taken; the gradient lies apart, because dense products go on after
    the device has decided to halt.  ``_now`` is what the host knows of the state on the device.
    """

    def __init__(
        self,
        objective: CudaObjective,
        optimizer: GradientDescent | GroupRMSprop,
        factors: Sequence[Array],
        memory: Mapping[str, Array],
        evaluations: int,
    ) -> None:
        o, device = objective, objective.device
        self.objective, self._optimizer, self.evaluations = objective, optimizer, evaluations
        self.cancel = np.zeros(1, dtype=np.uint8)
        self.stuck = False
        self._now = np.zeros(SLOTS)
        self._now[:SLOTS_KEPT] = memory.get("scalars", 0.0)
        self._state = device.put(self._now)
        self._points = [o.matrices(), o.matrices()]
        self._put(o.layout.inward(factors), self._points[0])
        self._gradient, self._scratch = o.matrices(), o.scratch()
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

    def _put(self, arrays: Sequence[Array], into: Matrices) -> None:
        for array, place in zip(arrays, into.each, strict=True):
            self.objective.device.copy(np.ascontiguousarray(array, self.objective.dtype), place)

    @property
    def loss(self) -> float:
        """Loss at the current point."""
        return float(self._now[LOSS])

    @property
    def step(self) -> int:
        """Steps taken since the start."""
        return int(self._now[STEPS])

    @property
    def is_at_step(self) -> bool:
        """Whether the current point is the end of a step, not one inside it."""
        return True

    @property
    def time(self) -> float:
        """Sum of the step sizes."""
        return float(self._now[TIME])

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

    def _find_gradient(self) -> None:
        """The gradient in the factors, and the partial sums of its squares."""
        o = self.objective
        o.pull_back(self._points[0], self._work.z, self._state, self._gradient, self._scratch)
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
        elif has_gradient or (entries := o.summed_entries) is None:
            if not has_gradient:
                o.pull_back(self._points[0], self._work.z, self._state, self._gradient, self._scratch)
            self._descend()
        else:
            self._descend_at_once(entries)
        self._points.reverse()
        self._velocities.reverse()

    def _descend(self) -> None:
        old, new = (v.flat for v in self._velocities) if self._momentum else (None, None)
        point, moved = (m.flat for m in self._points)
        self.objective.launch(
            "descend", (-(-self._size // BLOCK),), self._gradient.flat, self._size, self._state,
            self._momentum, old, new, point, moved,
        )  # fmt: skip

    def _descend_at_once(self, entries: Entries) -> None:
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

    def refuse_to_go_on_if_diverged(self) -> None:
        """Raise ValueError at the last finite point."""
        if self.diverged:
            raise ValueError(
                f"the state at step {self.step} is the last finite one and cannot be advanced: use a "
                "smaller learning rate"
            )

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

    # --- what the host may see ---------------------------------------------------------------------------

    def _fetch(self, matrices: Matrices) -> list[Array]:
        return [self.objective.device.get(m) for m in matrices.each]

    def factors(self) -> list[Array]:
        """[W_1, …, W_N] or [U]: copies."""
        return self.objective.layout.outward(self._fetch(self._points[0]), None)

    def memory(self) -> dict[str, Array]:
        """The optimizer's memory: copies, in the form that trajectories on the CPU have."""
        velocity = self._fetch(self._velocities[0]) if self._momentum else []
        scalars = {"scalars": self._now[:SLOTS_KEPT].copy()}
        return scalars | {f"velocity_{j}": v for j, v in enumerate(velocity)}

    def details(self) -> dict[str, float]:
        """What the optimizer counted, beside evaluations: nothing."""
        return {}

    def test_error(self) -> float:
        """The problem's test error at the current point."""
        if not self.objective.problem.has_test_error:
            return float("nan")
        return self.objective.test_error(self._points[0], self._scratch, self.factors())

    def state(self) -> State:
        """The current point as a value."""
        o = self.objective
        self._need(gradient=True)
        gradients = o.layout.outward(self._fetch(self._gradient), None)
        return State(
            o.problem, o.factorization, self._optimizer, _frozen(self.factors()), _frozen(gradients),
            self.loss, self.step, self.time, self.evaluations, self.diverged, self.memory(),
        )  # fmt: skip


def _frozen(arrays: Sequence[Array]) -> list[Array]:
    """The same arrays, read-only."""
    for array in arrays:
        array.flags.writeable = False
    return list(arrays)
