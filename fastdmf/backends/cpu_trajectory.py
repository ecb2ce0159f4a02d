"""What all trajectories on the CPU have in common."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from fastdmf._checks import Array
from fastdmf.backends import Event, Halts
from fastdmf.backends.cpu_memory import Matrices
from fastdmf.backends.cpu_objective import CpuObjective, Scratch
from fastdmf.kernels.cpu import stepping
from fastdmf.kernels.cpu.tables import Flags
from fastdmf.optimizers import Optimizer
from fastdmf.state import State


class CpuTrajectory(ABC):
    """A moving point in the memory of the kernels."""

    def __init__(
        self,
        objective: CpuObjective,
        optimizer: Optimizer,
        scratch: Scratch,
        factors: Sequence[Array],
        scalars: Array,
        evaluations: int,
    ) -> None:
        self.objective, self._optimizer, self._scratch = objective, optimizer, scratch
        self.evaluations = evaluations
        self.cancel = np.zeros(1, dtype=np.uint8)
        self._flags = np.array([self.cancel.ctypes.data])
        self._cancels = Flags(self._flags.ctypes.data, 1)
        self._scalars = np.array(scalars, dtype=np.float64)
        #: At depth 1 the kernels hold the observed entries only; these are all the others.
        self._rest = np.array(factors[0], objective.dtype) if objective.layout.left == 0 else None
        self.diverged = self.stuck = False

    @property
    def loss(self) -> float:
        """Loss at the current point."""
        return float(self._scalars[stepping.LOSS])

    @property
    def step(self) -> int:
        """Steps taken since the start."""
        return int(self._scalars[stepping.STEPS])

    @property
    def is_at_step(self) -> bool:
        """Whether the current point is the end of a step, not one inside it."""
        return True

    @property
    def time(self) -> float:
        """Sum of the step sizes."""
        return float(self._scalars[stepping.TIME])

    @property
    @abstractmethod
    def gradient_norm(self) -> float:
        """Norm of the gradient at the current point, which is found if it is not known."""

    @property
    @abstractmethod
    def _point(self) -> Matrices:
        """Where the current point lies."""

    @abstractmethod
    def _gradients(self) -> Sequence[Array]:
        """The kernels' matrices of the gradient at the current point."""

    @abstractmethod
    def advance(self, steps: int, halts: Halts = (), until: float = np.inf) -> Event:
        """Take up to ``steps`` steps."""

    @abstractmethod
    def memory(self) -> dict[str, Array]:
        """The optimizer's memory: views that the next advance overwrites."""

    def details(self) -> dict[str, float]:
        """What the optimizer counted, beside evaluations."""
        return {}

    def prepare(self) -> None:
        """Refuse to go on from the last finite point."""
        if self.diverged:
            raise ValueError(
                f"the state at step {self.step} is the last finite one and cannot be advanced: use a "
                "smaller learning rate"
            )

    def factors(self) -> list[Array]:
        """[W_1, …, W_N] or [U]: views that the next advance overwrites."""
        return self.objective.layout.outward(self._point.arrays, self._rest)

    def test_error(self) -> float:
        """The problem's test error at the current point."""
        with self.objective.holding_threads():
            return self.objective.test_error(self._point, self._scratch, self.factors())

    def state(self) -> State:
        """The current point as a value."""
        o = self.objective
        gradients = o.layout.outward(self._gradients(), None)
        return State(
            o.problem, o.factorization, self._optimizer, _frozen(self.factors()), _frozen(gradients),
            self.loss, self.step, self.time, self.evaluations, self.diverged, self.stuck,
            {name: array.copy() for name, array in self.memory().items()},
        )  # fmt: skip


def _frozen(arrays: Sequence[Array]) -> list[Array]:
    """Read-only copies that keep the memory order."""
    copies = [a.copy(order="K") for a in arrays]
    for copy in copies:
        copy.flags.writeable = False
    return copies
