"""Binds the kernel verbs for one device.

An engine is bound to one problem × factorization × optimizer × dtype.  It starts trajectories; a
trajectory is mutable, owns its memory on the device, and knows how to take steps.  Everything above
(stopping, recording, checkpoints, callbacks, progress) is written once, against the protocols here.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from fastdmf._checks import Array, count
from fastdmf.factorizations import Factorization
from fastdmf.optimizers import Optimizer
from fastdmf.problems import Problem
from fastdmf.state import State

if TYPE_CHECKING:
    from fastdmf.backends.cpu_objective import CpuObjective

DTYPES = ("float64", "float32")
DEVICES = ("cpu", "cuda")


class Event(IntEnum):
    """Why :meth:`Trajectory.advance` returned."""

    ALL_STEPS = 0
    HALTED = 1
    DIVERGED = 2
    CANCELLED = 3
    STUCK = 4


#: Pairs (loss, gradient norm): a step that is at or below both of some pair ends an advance.
Halts = Sequence[tuple[float, float]]


def thresholds(halts: Halts) -> tuple[bool, Array, Array]:
    """Whether norms are needed at every step, and the thresholds for losses and norms."""
    loss_below = np.array([loss for loss, _ in halts], dtype=np.float64)
    gradient_below = np.array([norm for _, norm in halts], dtype=np.float64)
    return bool(np.isfinite(gradient_below).any()), loss_below, gradient_below


class Leg(NamedTuple):
    """How far a trajectory may go before somebody looks at it again."""

    steps: int
    halts: Halts = ()
    until: float = np.inf


class Trajectory(Protocol):
    """A moving point."""

    cancel: Array  #: One byte; when another thread sets it, an advance ends as soon as it can.
    diverged: bool  #: The next step has no finite loss; the point is the last finite one.
    stuck: bool  #: A flow rests to rounding, or no step is small enough for its loss to fall.

    @property
    def loss(self) -> float:
        """Loss at the current point."""
        ...

    @property
    def gradient_norm(self) -> float:
        """Norm of the gradient at the current point; up to date if a halt asked for it."""
        ...

    @property
    def step(self) -> int:
        """Steps taken since the start."""
        ...

    @property
    def is_at_step(self) -> bool:
        """Whether the current point is the end of a step, not one inside it."""
        ...

    @property
    def time(self) -> float:
        """Sum of the step sizes."""
        ...

    @property
    def evaluations(self) -> int:
        """Evaluations of loss and gradient since the start."""
        ...

    def advance(self, steps: int, halts: Halts = (), until: float = np.inf) -> Event:
        """Take up to ``steps`` steps, and none after the time ``until`` is reached.

        Between the steps of a flow lie points at which it halts, too: where the loss crosses a level, and at
        the time ``until``.  From there it goes on to the next halt inside the step or to the step's end,
        without beginning another.
        """
        ...

    def factors(self) -> list[Array]:
        """The factors in host memory, [W_1, …, W_N] or [U]: views that the next advance overwrites."""
        ...

    def memory(self) -> Mapping[str, Array]:
        """The optimizer's memory in host memory: views that the next advance overwrites."""
        ...

    def details(self) -> Mapping[str, float]:
        """What the optimizer counted, beside evaluations."""
        ...

    def test_error(self) -> float:
        """The problem's test error at the current point."""
        ...

    def state(self) -> State:
        """The current point as a value."""
        ...


class Lockstep(Protocol):
    """Trajectories of one engine that move in one call."""

    def advance(self, legs: Sequence[Leg]) -> list[Event]:
        """Advance member b by at most ``legs[b]``, and at least one of them to the end of its leg.

        Members may go side by side, all up to the first step where any of them ends, or each on to its own
        end.  One whose next step has no finite loss takes its step back (event DIVERGED), one that meets its
        halts gets HALTED, the others get ALL_STEPS, wherever they are.  All get CANCELLED if any member's
        ``cancel`` was set.  Every member is left as by an advance of its own that ended there, so.
        """
        ...


class Engine(Protocol):
    """Starts trajectories of one problem × factorization × optimizer × dtype."""

    @property
    def form(self) -> str:
        """How the kernels look at W, in words."""
        ...

    def holding_threads(self) -> AbstractContextManager[None]:
        """Hold BLAS at the threads that were asked for, for host code between advances as well."""
        ...

    def start(self, factors: Sequence[Array]) -> Trajectory:
        """A trajectory at the given factors, evaluated there."""
        ...

    def resume(self, factors: Sequence[Array], memory: Mapping[str, Array], evaluations: int) -> Trajectory:
        """A trajectory at a point reached before, evaluated there again."""
        ...

    def together(self, trajectories: Sequence[Trajectory]) -> Lockstep | None:
        """The trajectories as one; None where that does not pay, and each is to be advanced by itself.

        In between they stay usable by themselves (factors, state, memory, test_error, advance), and when
        members leave, a new lockstep may be formed of any subset.
        """
        ...


def _checked(
    problem: Problem, factorization: Factorization, dtype: npt.DTypeLike, device: str, threads: int
) -> np.dtype:
    """The type of the factors; refuses what does not fit together."""
    if not isinstance(problem, Problem):
        raise TypeError(f"problem must be a Completion or Sensing, not {problem!r}")
    if not isinstance(factorization, Factorization):
        raise TypeError(f"factorization must be a Product or Symmetric, not {factorization!r}")
    try:
        resolved = np.dtype(dtype)
    except TypeError:
        raise TypeError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}") from None
    if resolved.name not in DTYPES or not resolved.isnative:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}")
    if device not in DEVICES:
        raise ValueError(f"device must be one of {', '.join(DEVICES)}, not {device!r}")
    count("threads", threads)
    factorization.factor_shapes(problem.shape)  # refuses a shape that cannot be factorized so
    return resolved


def bind_objective(
    problem: Problem, factorization: Factorization, dtype: npt.DTypeLike = "float64", threads: int = 1
) -> "CpuObjective":
    """The loss as a function of the factors, on the CPU; refuses what does not fit together."""
    resolved = _checked(problem, factorization, dtype, "cpu", threads)

    from fastdmf.backends.cpu_objective import CpuObjective  # loads Numba

    return CpuObjective(problem, factorization, resolved, threads)


def bind(
    problem: Problem,
    factorization: Factorization,
    optimizer: Optimizer,
    dtype: npt.DTypeLike = "float64",
    device: str = "cpu",
    threads: int = 1,
) -> Engine:
    """The engine for a device; refuses what does not fit together before anything runs."""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            "optimizer must be a GradientDescent, GroupRMSprop, ExactLineSearch or GradientFlow, not "
            f"{optimizer!r}"
        )
    resolved = _checked(problem, factorization, dtype, device, threads)
    if device == "cuda":
        from fastdmf.backends.cuda import CudaEngine

        return CudaEngine(problem, factorization, optimizer, resolved, threads)

    from fastdmf.backends.cpu import CpuEngine
    from fastdmf.backends.cpu_objective import CpuObjective

    return CpuEngine(CpuObjective(problem, factorization, resolved, threads), optimizer)
