"""What all trajectories on a CUDA device have in common."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastdmf._checks import Array
from fastdmf.backends import Event, Halts
from fastdmf.backends.cuda_device import Matrices
from fastdmf.kernels.flow_rules import LOSS, STEPS, TIME
from fastdmf.optimizers import Optimizer
from fastdmf.state import State


class CudaTrajectory(ABC):
    """A moving point in the memory of a device.

    ``_now`` is what the host knows of it, and begins with the numbers that trajectories on the CPU carry.
    """

    objective: Any
    evaluations: int
    diverged: bool
    _now: Array
    _optimizer: Optimizer

    def __init__(
        self, objective: Any, optimizer: Optimizer, factors: Sequence[Array], evaluations: int, now: Array
    ) -> None:
        self.objective, self._optimizer, self.evaluations, self._now = objective, optimizer, evaluations, now
        #: At depth 1 the device may hold the observed entries only; these are all the others.
        self._rest = np.array(factors[0], objective.dtype) if objective.layout.left == 0 else None
        self.cancel = np.zeros(1, dtype=np.uint8)
        self.diverged = self.stuck = False

    def _put(self, arrays: Sequence[Array], into: Matrices) -> None:
        for array, place in zip(arrays, into.each, strict=True):
            self.objective.device.copy(np.ascontiguousarray(array, self.objective.dtype), place)

    def _fetch(self, matrices: Matrices) -> list[Array]:
        return [self.objective.device.get(m) for m in matrices.each]

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
    @abstractmethod
    def gradient_norm(self) -> float:
        """Norm of the gradient at the current point, which is found if it is not known."""

    @property
    @abstractmethod
    def _point(self) -> Matrices:
        """Where the current point lies."""

    @abstractmethod
    def _gradient_here(self) -> Matrices:
        """Where the gradient at the current point lies, which is found if it is not known."""

    @abstractmethod
    def advance(self, steps: int, halts: Halts = (), until: float = np.inf) -> Event:
        """Take up to ``steps`` steps."""

    @abstractmethod
    def memory(self) -> dict[str, Array]:
        """The optimizer's memory: copies, in the form that trajectories on the CPU have."""

    @abstractmethod
    def test_error(self) -> float:
        """The problem's test error at the current point."""

    def details(self) -> dict[str, float]:
        """What the optimizer counted, beside evaluations."""
        return {}

    def refuse_to_go_on_if_diverged(self) -> None:
        """Raise ValueError at the last finite point."""
        if self.diverged:
            raise ValueError(
                f"the state at step {self.step} is the last finite one and cannot be advanced: use a "
                "smaller learning rate"
            )

    def factors(self) -> list[Array]:
        """[W_1, …, W_N] or [U]: copies."""
        return self.objective.layout.outward(self._fetch(self._point), self._rest)

    def state(self) -> State:
        """The current point as a value."""
        o = self.objective
        gradients = o.layout.outward(self._fetch(self._gradient_here()), None)
        return State(
            o.problem, o.factorization, self._optimizer, _frozen(self.factors()), _frozen(gradients),
            self.loss, self.step, self.time, self.evaluations, self.diverged, self.stuck,
            self.memory(),
        )  # fmt: skip


def _frozen(arrays: Sequence[Array]) -> list[Array]:
    """The same arrays, read-only."""
    for array in arrays:
        array.flags.writeable = False
    return list(arrays)
