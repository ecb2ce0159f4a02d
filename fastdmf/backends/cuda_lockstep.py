"""Small trials on a CUDA device, each moved by a block of its own, any number of them in one launch."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastdmf._checks import Array
from fastdmf.backends import Event, Halts, Leg
from fastdmf.backends.cuda_device import Device, Matrices
from fastdmf.backends.cuda_steps import StepTrajectory, now_of
from fastdmf.backends.cuda_support import converted, lists_of, row_by_row
from fastdmf.backends.cuda_trajectory import CudaTrajectory
from fastdmf.backends.layout import layout_of
from fastdmf.factorizations import Factorization
from fastdmf.kernels.cuda.sources import EVENT, LARGEST, ORDERS, TAKEN
from fastdmf.optimizers import GradientDescent, GroupRMSprop
from fastdmf.problems import Completion, Problem


def fits_a_block(problem: Problem, factorization: Factorization) -> bool:
    """Whether one block moves a trial: a completion whose factors have at most 64 rows and columns each."""
    shapes = factorization.factor_shapes(problem.shape)
    return (
        isinstance(problem, Completion)
        and layout_of(factorization, problem.shape, (problem.rows, problem.cols)).left > 0
        and max(map(max, shapes)) <= LARGEST
    )


class SmallObjective:
    """A small completion on the device, and what the home of a trial is."""

    form = "observed entries, one block"

    def __init__(
        self,
        problem: Problem,
        factorization: Factorization,
        optimizer: GradientDescent | GroupRMSprop,
        dtype: np.dtype,
        device: Device,
    ) -> None:
        assert isinstance(problem, Completion)
        rows, cols, values = row_by_row(problem.rows, problem.cols, problem.values, problem.shape)
        self.layout = layout_of(factorization, problem.shape, (rows, cols))
        self.problem, self.factorization, self.dtype, self.device = problem, factorization, dtype, device
        self.launch = device.load(dtype)
        self.size = sum(n * p for n, p in self.layout.shapes)
        self.momentum = optimizer.momentum if isinstance(optimizer, GradientDescent) else 0.0
        #: Sets of matrices in a home: point, next point, gradient, and two velocities if there are any.
        self.sets = 5 if self.momentum else 3
        z = self.sets * self.size
        plan, self.home_size = self._plan(z + rows.size)
        put = device.put
        lists = lists_of(rows, cols, problem.shape, self.layout.tied)
        ends = np.cumsum([0] + [one.index.size for one in lists])
        starts = [one.starts[:-1] + end for one, end in zip(lists, ends[:-1], strict=True)]
        joined = [np.concatenate([*starts, ends[-1:]])]
        joined += [np.concatenate(arrays) for arrays in list(zip(*lists, strict=True))[1:]]
        paced = isinstance(optimizer, GroupRMSprop)
        rule = (paced, optimizer.lr, *((optimizer.alpha, optimizer.eps) if paced else (0.0, 0.0)))
        self._arguments = (
            put(plan), self.layout.left, self.layout.right, self.size,
            put(rows), put(cols), put(converted(values, dtype)), rows.size,
            *map(put, joined), joined[0].size - 1, problem.loss_scale, *rule, self.momentum,
        )  # fmt: skip

    def _plan(self, end: int) -> tuple[Array, int]:
        """Rows, columns and places of each matrix, of its P_j and of its Δ_j; and the size of a home."""
        shapes, plan, at = self.layout.shapes, [], 0
        for j, (rows, cols) in enumerate(shapes):
            is_head = j in (0, self.layout.left)
            product = 0 if is_head else shapes[0 if j < self.layout.left else self.layout.left][0] * cols
            plan.append((rows, cols, at, end, end + product))
            at, end = at + rows * cols, end + 2 * product
        return np.array(plan, np.int32), end

    def advance(self, homes: Any, states: Array, orders: Array, pairs: Array) -> Array:
        """Queue the launch that advances each trial as it is told, and wait for the new states."""
        told = self.device.put(np.concatenate([states.ravel(), orders.ravel(), pairs.ravel()]))
        first, second = states.size, states.size + orders.size
        self.launch(
            "advance_each", (len(states),), homes, *self._arguments, told[first:second], told[second:],
            told[:first],
        )  # fmt: skip
        return self.device.get(told[:first]).reshape(states.shape)


class SmallTrajectory(StepTrajectory):
    """A point in a home of its own, moved by one block: by itself as in company, to the bit."""

    objective: SmallObjective

    def __init__(
        self,
        objective: SmallObjective,
        optimizer: GradientDescent | GroupRMSprop,
        factors: Sequence[Array],
        memory: Mapping[str, Array],
        evaluations: int,
    ) -> None:
        o, device = objective, objective.device
        CudaTrajectory.__init__(self, objective, optimizer, factors, evaluations, now_of(memory))
        self._momentum = o.momentum
        self.home = device.empty((o.home_size,), o.dtype)
        sets = [Matrices(self.home[k * o.size :][: o.size], o.layout.shapes) for k in range(o.sets)]
        self._points, self._gradient, self._velocities = sets[:2], sets[2], sets[3:]
        self._put(o.layout.inward(factors), self._points[0])
        if self._momentum:
            zeros = [np.zeros(shape) for shape in o.layout.shapes]
            self._put([memory.get(f"velocity_{j}", v) for j, v in enumerate(zeros)], self._velocities[0])
        self._has_gradient = False
        CudaLockstep([self]).go([Leg(0)])
        self.diverged = not np.isfinite(self.loss)

    @property
    def state_now(self) -> Array:
        """The state to begin an advance with."""
        state = self._now.copy()
        state[[EVENT, TAKEN]] = 0.0
        return state

    def arrive(self, now: Array, has_gradient: bool) -> Event:
        """Take note of where the block has left the trial; its gradient is known if it was asked for."""
        self._now = now
        event = Event(int(now[EVENT]))
        self.diverged = event == Event.DIVERGED
        self.evaluations += int(now[TAKEN]) + self.diverged
        self._has_gradient = has_gradient and not self.diverged
        return event

    def _need(self, gradient: bool) -> None:
        if gradient and not self._has_gradient:
            diverged = self.diverged
            CudaLockstep([self]).go([Leg(0, [(0.0, 0.0)])])
            self.diverged = diverged

    def advance(self, steps: int, halts: Halts = (), until: float = np.inf) -> Event:
        """Take up to ``steps`` steps."""
        return CudaLockstep([self]).advance([Leg(steps, halts, until)])[0]

    def test_error(self) -> float:
        """The problem's test error at the current point, found by the host."""
        if not self.objective.problem.has_test_error:
            return float("nan")
        return self.objective.problem.test_error(self.objective.factorization.compose(self.factors()))


class CudaLockstep:
    """Small trials that are moved by one launch, each on to its own end; two never wait for one another."""

    def __init__(self, members: Sequence[SmallTrajectory]) -> None:
        self._members = list(members)
        self._objective = members[0].objective
        device = self._objective.device
        self._homes = device.put(np.array([device.address(m.home) for m in members], np.int64))

    def advance(self, legs: Sequence[Leg]) -> list[Event]:
        """Advance each member to the end of its leg."""
        for member in self._members:
            member.refuse_to_go_on_if_diverged()
        if any(member.cancel[0] for member in self._members):
            return [Event.CANCELLED] * len(legs)
        return self.go(legs)

    def go(self, legs: Sequence[Leg]) -> list[Event]:
        """The same for points that may have diverged; with no step to take, loss and gradient are found."""
        counts = [len(leg.halts) for leg in legs]
        norms = [any(np.isfinite(norm) for _, norm in leg.halts) for leg in legs]
        orders = np.empty((len(legs), ORDERS))
        orders.T[...] = [
            [leg.steps for leg in legs], [leg.until for leg in legs], np.cumsum([0, *counts[:-1]]), counts,
            norms,
        ]  # fmt: skip
        pairs = np.array([pair for leg in legs for pair in leg.halts], dtype=np.float64)
        states = np.stack([member.state_now for member in self._members])
        after = self._objective.advance(self._homes, states, orders, pairs)
        return [m.arrive(end, norm) for m, end, norm in zip(self._members, after, norms, strict=True)]
