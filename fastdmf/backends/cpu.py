"""The CPU backend: binds the Numba kernels."""

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple, cast

import numba
import numpy as np
from numba.core import config as numba_config

from fastdmf._checks import Array
from fastdmf.backends import Event, Halts, Lockstep, Trajectory
from fastdmf.backends.blas import blas_threads
from fastdmf.backends.cpu_binding import bind_problem, pattern_of, work_of
from fastdmf.backends.layout import Layout, aligned_empty, layout_of, whole_vectors
from fastdmf.factorizations import Factorization, Symmetric
from fastdmf.kernels.cpu import stepping
from fastdmf.kernels.cpu.compilation import IS_PLAIN, source_digest
from fastdmf.kernels.cpu.completion import Entries, Pattern
from fastdmf.kernels.cpu.line_search import LineSearch
from fastdmf.kernels.cpu.product import Chains
from fastdmf.kernels.cpu.sensing import DenseRows
from fastdmf.kernels.cpu.stepping import FixedStep, GroupRMS
from fastdmf.kernels.cpu.symmetric import Tied
from fastdmf.kernels.cpu.tables import VECTOR_BYTES, table_of
from fastdmf.kernels.cpu.unfactored import Unfactored
from fastdmf.optimizers import ExactLineSearch, GradientDescent, GroupRMSprop, Optimizer
from fastdmf.problems import Completion, Problem
from fastdmf.problems.base import root_mean_square
from fastdmf.state import State

_NO_HALTS = np.empty(0)
#: Any rule will do where no step is taken; this one is compiled for gradient descent anyway.
_NO_RULE = FixedStep(0.0, 0.0, table_of([]))


def kernel_build() -> tuple[str, str | None, str]:
    """What kernels are made of, the folder of their machine code (None: there is none), and their digest."""
    made_of = "plain loops (FASTDMF_PLAIN_KERNELS is set)" if IS_PLAIN else "explicit vectors"
    return made_of, stepping.advance.stats.cache_path, source_digest()


_one_parallel_call = threading.Lock()


class Matrices:
    """C-contiguous matrices and the table by which kernels find them."""

    def __init__(self, arrays: Sequence[Array]) -> None:
        self.arrays = list(arrays)
        self.table = table_of(self.arrays)

    @classmethod
    def empty(cls, shapes: Sequence[tuple[int, int]], dtype: np.dtype, lanes: int = 1) -> "Matrices":
        """Matrices of the given shapes, of which only what rows end in is initialized: with zeros."""
        return cls([_with_filled_rows(shape, dtype, lanes) for shape in shapes])

    @classmethod
    def copies(cls, arrays: Sequence[Array], dtype: np.dtype, lanes: int = 1) -> "Matrices":
        """Copies of the given matrices."""
        new = cls.empty([a.shape for a in arrays], dtype, lanes)
        for copy, array in zip(new.arrays, arrays, strict=True):
            copy[...] = array
        return new

    def rotate(self, places: int) -> None:
        """Let the matrices change places, in the table as well."""
        self.arrays = self.arrays[places:] + self.arrays[:places]
        self.table[:] = np.roll(self.table, -places, axis=0)


def _with_filled_rows(shape: tuple[int, int], dtype: np.dtype, lanes: int) -> Array:
    """A matrix whose rows are followed by zeros up to a multiple of ``lanes`` elements."""
    rows, cols = shape
    memory = aligned_empty((rows, whole_vectors(cols, lanes)), dtype)
    memory[:, cols:] = 0.0
    return memory[:, :cols]


class CpuObjective:
    """The loss as a function of the factors: one problem × factorization × dtype.

    ``support`` says which entries of W the kernels look at, ``operator`` how these are measured.
    """

    def __init__(self, problem: Problem, factorization: Factorization, dtype: np.dtype, threads: int) -> None:
        available: int = numba_config.NUMBA_NUM_THREADS  # pyright: ignore[reportAttributeAccessIssue]
        if threads > available:
            raise ValueError(
                f"threads must be at most {available} here, not {threads}; "
                "the environment variable NUMBA_NUM_THREADS raises the limit"
            )
        self.problem, self.factorization = problem, factorization
        self.dtype, self.threads = dtype, threads
        factor_shapes = factorization.factor_shapes(problem.shape)
        tied = isinstance(factorization, Symmetric)
        self._width = 0 if len(factor_shapes) == 1 and not tied else min(map(min, factor_shapes))
        self.support, self.operator, where, self.measured, self.form = bind_problem(
            problem, dtype, self._width, tied
        )
        self.entries = problem.shape[0] * problem.shape[1] if where is None else where[0].size
        lanes = VECTOR_BYTES // dtype.itemsize
        self.layout = layout_of(factorization, problem.shape, where, lanes)
        #: What kernels take as ``threads``: None compiles no parallel loop.
        self.thread_argument = None if threads == 1 else threads
        self._held_out = self._bind_held_out()

    @contextmanager
    def holding_threads(self) -> Iterator[None]:
        """Hold BLAS and our kernels, in the calling thread, at the threads of this objective."""
        with blas_threads(self.threads):
            if self.thread_argument is None:
                yield
                return
            before = numba.get_num_threads()
            numba.set_num_threads(self.threads)  # a setting of the calling thread
            try:
                yield
            finally:
                numba.set_num_threads(before)

    def launching(self) -> AbstractContextManager[Any]:
        """Around every kernel call: not all of Numba's threading layers bear two parallel calls at once."""
        return nullcontext() if self.thread_argument is None else _one_parallel_call

    def loss_and_gradients(self, factors: Sequence[Array]) -> tuple[float, list[Array]]:
        """Loss and the gradient in each factor."""
        layout = self.layout
        point = Matrices.copies(layout.inward(factors), self.dtype, layout.lanes)
        gradient = Matrices.empty(layout.shapes, self.dtype, layout.lanes)
        scratch = Scratch(self)
        scalars = np.zeros(stepping.SLOTS)
        with self.holding_threads(), self.launching():
            stepping.advance(
                _NO_RULE, scratch.model, self.support, self.operator, point.table, gradient.table, scalars,
                False, False, 0, True, _NO_HALTS, _NO_HALTS, _never_set(), self.thread_argument,
            )  # fmt: skip
        return float(scalars[stepping.LOSS]), layout.outward(gradient.arrays, None)

    def test_error(self, point: Matrices, scratch: "Scratch", factors: Sequence[Array]) -> float:
        """The problem's test error, without writing out W where entries are held out."""
        if not self.problem.has_test_error:
            return float("nan")
        if self._held_out is None:
            return self.problem.test_error(self.factorization.compose(factors))
        pattern, values = self._held_out
        w = np.empty(values.size, self.dtype)
        with self.launching():
            stepping.entries_at(scratch.model, pattern, point.table, w, _never_set(), self.thread_argument)
        return root_mean_square(w - values)

    def _bind_held_out(self) -> tuple[Pattern, Array] | None:
        if not isinstance(self.problem, Completion) or self.problem.test is None or self.layout.left == 0:
            return None
        rows, cols, values = self.problem.test
        order = np.lexsort((cols, rows))
        pattern = pattern_of(rows[order], cols[order], self.problem.shape, self._width)
        return pattern, values[order]


class Scratch:
    """Memory that one evaluation at a time needs."""

    def __init__(self, objective: CpuObjective) -> None:
        layout, dtype = objective.layout, objective.dtype
        shapes = layout.shapes
        products = []
        for first, size in ((0, layout.left), (layout.left, layout.right)):
            # The first prefix of a chain is its first factor, so nothing is stored for it.
            products += [
                (0, 0) if j == first else (shapes[first][0], shapes[j][1]) for j in range(first, first + size)
            ]
        self.prefixes = Matrices.empty(products, dtype, layout.lanes)
        self.deltas = Matrices.empty(products, dtype, layout.lanes)
        w = aligned_empty((objective.entries,), dtype)
        measured_as_seen = isinstance(objective.operator, Entries)
        r = w if measured_as_seen else aligned_empty((objective.measured,), dtype)
        memory = w, r, work_of(objective.operator, dtype, objective.threads)
        if layout.tied:
            self.model: Chains | Tied | Unfactored = Tied(*memory)
        elif layout.left == 0:
            self.model = Unfactored(*memory)
        else:
            sizes = [math.prod(whole_vectors(length, layout.lanes) for length in shape) for shape in shapes]
            spare = aligned_empty((max(sizes),), dtype)
            self.model = Chains(
                layout.left, layout.right, self.prefixes.table, self.deltas.table, spare, *memory
            )


class CpuEngine:
    """Starts trajectories of one problem × factorization × optimizer × dtype on the CPU."""

    def __init__(self, objective: CpuObjective, optimizer: Optimizer) -> None:
        self.objective, self.optimizer = objective, optimizer

    @property
    def form(self) -> str:
        """How the kernels look at W."""
        return self.objective.form

    def holding_threads(self) -> AbstractContextManager[None]:
        """Hold BLAS and our kernels at the threads that were asked for."""
        return self.objective.holding_threads()

    def start(self, factors: Sequence[Array]) -> "CpuTrajectory":
        """A trajectory at the given factors, evaluated there."""
        return CpuTrajectory(self.objective, self.optimizer, factors, {}, evaluations=1)

    def resume(
        self, factors: Sequence[Array], memory: Mapping[str, Array], evaluations: int
    ) -> "CpuTrajectory":
        """A trajectory at a point reached before, evaluated there again."""
        return CpuTrajectory(self.objective, self.optimizer, factors, memory, evaluations)

    def together(self, trajectories: Sequence[Trajectory]) -> Lockstep | None:
        """The trajectories in lockstep, if they are several and share passes over dense measurements.

        None for exact line searches too: most of their passes measure a direction of one trajectory.
        """
        is_dense = isinstance(self.objective.operator, DenseRows)
        if len(trajectories) < 2 or not is_dense or isinstance(self.optimizer, ExactLineSearch):
            return None
        from fastdmf.backends.cpu_lockstep import CpuLockstep

        return CpuLockstep(cast(Sequence[CpuTrajectory], trajectories))


class Held(NamedTuple):
    """What a trajectory holds for the kernels."""

    rule: Any
    model: Chains | Tied | Unfactored
    prefixes: Matrices
    deltas: Matrices
    point: Matrices
    gradient: Matrices
    has_gradient: bool
    velocity: Matrices
    scalars: Array


class CpuTrajectory:
    """A moving point in the memory of the kernels.

    The point and its gradient lie in two sets of matrices that change places as steps are taken.
    """

    def __init__(
        self,
        objective: CpuObjective,
        optimizer: Optimizer,
        factors: Sequence[Array],
        memory: Mapping[str, Array],
        evaluations: int,
    ) -> None:
        self.objective, self._optimizer = objective, optimizer
        self.cancel = np.zeros(1, dtype=np.uint8)
        self.evaluations = evaluations
        layout, dtype = objective.layout, objective.dtype
        #: At depth 1 the kernels hold the observed entries only; these are all the others.
        self._rest = np.array(factors[0], dtype) if layout.left == 0 else None
        self._point = Matrices.copies(layout.inward(factors), dtype, layout.lanes)
        self._gradient = Matrices.empty(layout.shapes, dtype, layout.lanes)
        self._scratch = Scratch(objective)
        self._scalars = np.array(memory.get("scalars", np.zeros(stepping.SLOTS)), dtype=np.float64)
        self._rule, self._velocity, self._kept_alive = _rule_of(optimizer, objective, memory)
        # Whether the loss and the gradient on the support are known here, and the gradient in the factors.
        self._is_evaluated = self._has_gradient = False
        self._need(gradient=False)
        self.diverged = not np.isfinite(self.loss)

    @property
    def loss(self) -> float:
        """Loss at the current point."""
        return float(self._scalars[stepping.LOSS])

    @property
    def gradient_norm(self) -> float:
        """Norm of the gradient at the current point, which is found if it is not known."""
        self._need(gradient=True)
        return float(np.sqrt(self._scalars[stepping.GRADIENT_SQUARED]))

    @property
    def step(self) -> int:
        """Steps taken since the start."""
        return int(self._scalars[stepping.STEPS])

    @property
    def time(self) -> float:
        """Sum of the step sizes."""
        return float(self._scalars[stepping.TIME])

    def _need(self, gradient: bool) -> None:
        """Bring the loss, and if asked for the gradient in the factors, up to date where the point is."""
        if self._has_gradient or (self._is_evaluated and not gradient):
            return
        o = self.objective
        with o.holding_threads(), o.launching():
            stepping.advance(
                self._rule, self._scratch.model, o.support, o.operator,
                self._point.table, self._gradient.table, self._scalars, False, False,
                0, gradient, _NO_HALTS, _NO_HALTS, _never_set(), o.thread_argument,
            )  # fmt: skip
        self._is_evaluated, self._has_gradient = True, gradient

    @property
    def held(self) -> Held:
        """What the kernels work on, until the next steps have been taken."""
        scratch = self._scratch
        return Held(
            self._rule, scratch.model, scratch.prefixes, scratch.deltas, self._point, self._gradient,
            self._has_gradient, self._velocity, self._scalars,
        )  # fmt: skip

    def prepare(self) -> None:
        """Make sure that a step can be taken: loss and gradient are up to date and finite."""
        if self.diverged:
            raise ValueError(
                f"the state at step {self.step} is the last finite one and cannot be advanced: use a "
                "smaller learning rate"
            )
        self._need(gradient=False)

    def thresholds(self, halts: Halts) -> tuple[bool, Array, Array]:
        """Whether norms are needed at every step, and the thresholds for losses and norms."""
        loss_below = np.array([loss for loss, _ in halts], dtype=np.float64)
        gradient_below = np.array([norm for _, norm in halts], dtype=np.float64)
        return bool(np.isfinite(gradient_below).any()), loss_below, gradient_below

    def advance(self, steps: int, halts: Halts = ()) -> Event:
        """Take up to ``steps`` steps."""
        self.prepare()
        o = self.objective
        norms, loss_below, gradient_below = self.thresholds(halts)
        with o.holding_threads(), o.launching():
            taken, event, swapped, has_gradient = stepping.advance(
                self._rule, self._scratch.model, o.support, o.operator,
                self._point.table, self._gradient.table, self._scalars, True, self._has_gradient,
                steps, norms, loss_below, gradient_below, self.cancel, o.thread_argument,
            )  # fmt: skip
        return self.arrive(taken, Event(event), swapped, has_gradient)

    def arrive(self, taken: int, event: Event, swapped: bool, has_gradient: bool) -> Event:
        """Take note of what kernels did: how far they came, why they stopped, and what they left behind."""
        if swapped:
            self._point, self._gradient = self._gradient, self._point
            self._velocity.rotate(len(self._velocity.arrays) // 2)
        self.evaluations += taken + (event == Event.DIVERGED)
        self._is_evaluated = event not in (Event.DIVERGED, Event.CANCELLED)
        self._has_gradient = has_gradient and self._is_evaluated
        self.diverged = event == Event.DIVERGED
        return event

    def factors(self) -> list[Array]:
        """[W_1, …, W_N] or [U]: views that the next advance overwrites."""
        return self.objective.layout.outward(self._point.arrays, self._rest)

    def memory(self) -> dict[str, Array]:
        """The optimizer's memory: views that the next advance overwrites."""
        current = self._velocity.arrays[: len(self._velocity.arrays) // 2]
        velocities = {f"velocity_{j}": v for j, v in enumerate(current)}
        return {"scalars": self._scalars, **velocities}

    def test_error(self) -> float:
        """The problem's test error at the current point."""
        with self.objective.holding_threads():
            return self.objective.test_error(self._point, self._scratch, self.factors())

    def state(self) -> State:
        """The current point as a value."""
        self._need(gradient=True)
        o = self.objective
        gradients = o.layout.outward(self._gradient.arrays, None)
        return State(
            o.problem, o.factorization, self._optimizer, _frozen(self.factors()), _frozen(gradients),
            self.loss, self.step, self.time, self.evaluations, self.diverged,
            {name: array.copy() for name, array in self.memory().items()},
        )  # fmt: skip


def _never_set() -> Array:
    """A flag for calls that are not to be cancelled."""
    return np.zeros(1, dtype=np.uint8)


def _frozen(arrays: Sequence[Array]) -> list[Array]:
    """Read-only copies that keep the memory order."""
    copies = [a.copy(order="K") for a in arrays]
    for copy in copies:
        copy.flags.writeable = False
    return copies


def _rule_of(
    optimizer: Optimizer, objective: CpuObjective, memory: Mapping[str, Array]
) -> tuple[Any, Matrices, list[Matrices]]:
    """The kernels' description of an optimizer, its velocity, and what must outlive the tables in it."""
    layout, dtype = objective.layout, objective.dtype
    if isinstance(optimizer, GradientDescent):
        has_velocity = optimizer.momentum > 0
        velocity = Matrices.empty(layout.shapes * 2 if has_velocity else [], dtype, layout.lanes)
        for j, v in enumerate(velocity.arrays[: len(layout.shapes)]):
            v[...] = memory.get(f"velocity_{j}", 0.0)
        return (
            FixedStep(float(optimizer.lr), float(optimizer.momentum), velocity.table),
            velocity,
            [velocity],
        )
    if isinstance(optimizer, GroupRMSprop):
        return GroupRMS(float(optimizer.lr), float(optimizer.alpha), float(optimizer.eps)), Matrices([]), []
    if isinstance(optimizer, ExactLineSearch):
        degree = 2 if layout.tied else max(layout.left + layout.right, 1)
        powers = Matrices.empty(_power_shapes(layout), dtype, layout.lanes)
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
        return rule, Matrices([]), [powers]
    raise TypeError(f"the CPU backend cannot carry out {optimizer!r}")


def _power_shapes(layout: Layout) -> list[tuple[int, int]]:
    """Memory for the coefficients of each chain's partial products, in the order of `LineSearch.powers`."""
    return [
        (layout.shapes[first][0], layout.shapes[first + i - 1][1])
        for first, size in ((0, layout.left), (layout.left, layout.right))
        for i in range(2, size + 1)
        for _ in range(i)
    ]
