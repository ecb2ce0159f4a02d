"""The loss as a function of the factors, on the CPU, and the memory that evaluating it takes."""

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from typing import Any

import numba
import numpy as np
from numba.core import config as numba_config

from fastdmf._blas import blas_threads
from fastdmf._checks import Array
from fastdmf.backends.cpu_binding import bind_problem, pattern_of, work_of
from fastdmf.backends.cpu_memory import Matrices, RowFormat
from fastdmf.backends.layout import Layout, Shape, aligned_empty, layout_of, whole_vectors
from fastdmf.factorizations import Factorization, Symmetric
from fastdmf.kernels.cpu import stepping
from fastdmf.kernels.cpu.compilation import IS_PLAIN
from fastdmf.kernels.cpu.completion import Entries
from fastdmf.kernels.cpu.product import Chains
from fastdmf.kernels.cpu.stepping import FixedStep
from fastdmf.kernels.cpu.symmetric import Tied
from fastdmf.kernels.cpu.tables import Flags, Table
from fastdmf.kernels.cpu.unfactored import Unfactored
from fastdmf.kernels.cpu.verbs import Bound, Model, Operator, Support
from fastdmf.kernels.flow_rules import SLOTS_OF_STEPS
from fastdmf.problems import Completion, Problem
from fastdmf.problems.base import root_mean_square

#: Thresholds and flags of calls that nothing ends early.
NO_HALTS, NEVER = np.empty(0), Flags(0, 0)
#: Any rule will do where no step is taken; this one is compiled for gradient descent anyway.
_NO_RULE = FixedStep(0.0, 0.0, Table(0, 0))

_one_parallel_call = threading.Lock()


def _row_format(layout: Layout, is_sparse: bool, dtype: np.dtype) -> RowFormat:
    """How the rows of the factors lie: with tails where no matrix ever meets BLAS."""
    if layout.left == 0 and not layout.tied:
        return RowFormat()
    has_tails = is_sparse and layout.left == 1 >= layout.right and not IS_PLAIN
    return RowFormat.of(dtype, has_tails)


def _least_width(factorization: Factorization, factor_shapes: Sequence[Shape]) -> int:
    """How long rows of the factors are where the observations may meet them, 0 for W itself."""
    if isinstance(factorization, Symmetric):
        return factor_shapes[0][1]
    return min((rows for rows, _ in factor_shapes[:-1]), default=0)


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
        self._width = _least_width(factorization, factor_shapes)
        self.support, self.operator, where, self.measured, self.form = bind_problem(
            problem, dtype, self._width, tied, threads
        )
        self.entries = problem.shape[0] * problem.shape[1] if where is None else where[0].size
        self.layout = layout_of(factorization, problem.shape, where)
        self.rows = _row_format(self.layout, where is not None, dtype)
        self._support_memory = Bound(self.support, dtype, threads > 1)
        self._operator_memory = Bound(self.operator, dtype, threads > 1)

    @contextmanager
    def holding_threads(self) -> Iterator[None]:
        """Hold BLAS and our kernels, in the calling thread, at the threads of this objective."""
        with blas_threads(self.threads):
            if self.threads == 1:
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
        return nullcontext() if self.threads == 1 else _one_parallel_call

    @cached_property
    def bound_support(self) -> Support:
        """The support as kernels take it, with the verbs that the factorization calls."""
        return self._bind_support(self._support_memory)

    @cached_property
    def searched_support(self) -> Support:
        """The same for exact line searches."""
        return self._bind_support(self._support_memory, searches=True)

    def _bind_support(self, memory: Bound, searches: bool = False) -> Support:
        if self.layout.left == 0 and not self.layout.tied:
            return Support(0, 0, 0, 0, memory.at)  # W itself is never multiplied out
        pull_tied = memory.address_if_any("pull_tied") if self.layout.tied else 0
        return Support(
            look=memory.address("look"),
            look_along=memory.address("look_along") if searches else 0,
            pull=0 if pull_tied else memory.address("pull"),
            pull_tied=pull_tied,
            at=memory.at,
        )

    def bind_operator(self, w: Array, measures: bool = False, linear: bool = False) -> Operator:
        """The operator as kernels take it, with scratch memory for one trajectory.

        ``w`` is the memory for W on the support; ``measures`` asks for the verb of that name, ``linear`` for
        the operator with all values zero, whose residual is linear in w.
        """
        memory = self._linear_memory if linear else self._operator_memory
        # Where A is the identity on the support, c A*(r) is c r.
        r = w if isinstance(self.operator, Entries) else aligned_empty((self.measured,), self.dtype)
        return Operator(
            memory.address("measure") if measures else 0, memory.address("residual"), 0, memory.at,
            self.operator.scale, r, work_of(self.operator, self.dtype),
        )  # fmt: skip

    @cached_property
    def _linear_memory(self) -> Bound:
        nothing = np.zeros_like(self.operator.values)
        nothing.flags.writeable = False  # of the same Numba type as the values
        return Bound(self.operator._replace(values=nothing), self.dtype, self.threads > 1)

    @cached_property
    def residuals_address(self) -> int:
        """The machine code of the operator's ``residuals``, for several trajectories at once."""
        return self._operator_memory.address("residuals")

    def loss_and_gradients(self, factors: Sequence[Array]) -> tuple[float, list[Array]]:
        """Loss and the gradient in each factor."""
        layout = self.layout
        loss, gradient = self.evaluate(Matrices.copies(layout.inward(factors), self.dtype, self.rows))
        return loss, layout.outward(gradient.arrays, None)

    def evaluate(self, point: Matrices) -> tuple[float, Matrices]:
        """Loss and gradient at a point of the kernels."""
        gradient = Matrices(self.layout.shapes, self.dtype, self.rows)
        scratch = Scratch(self)
        scalars = np.zeros(SLOTS_OF_STEPS)
        with self.holding_threads(), self.launching():
            stepping.advance(
                _NO_RULE, scratch.model, self.bound_support, scratch.operator, point.table, gradient.table,
                scalars, False, False, 0, True, NO_HALTS, NO_HALTS, np.inf, NEVER,
            )  # fmt: skip
        return float(scalars[stepping.LOSS]), gradient

    def test_error(self, point: Matrices, scratch: "Scratch", factors: Sequence[Array]) -> float:
        """The problem's test error, without writing out W where entries are held out."""
        if not self.problem.has_test_error:
            return float("nan")
        if self._held_out is None:
            return self.problem.test_error(self.factorization.compose(factors))
        support, values = self._held_out
        w = np.empty(values.size, self.dtype)
        with self.launching():
            stepping.entries_at(scratch.model, self._bind_support(support), point.table, w, NEVER)
        return root_mean_square(w - values)

    @cached_property
    def _held_out(self) -> tuple[Bound, Array] | None:
        """The support of the entries that are held out, and their values."""
        if not isinstance(self.problem, Completion) or self.problem.test is None or self._width == 0:
            return None
        rows, cols, values = self.problem.test
        order = np.lexsort((cols, rows))
        pattern = pattern_of(rows[order], cols[order], self.problem.shape, self._width)
        return Bound(pattern, self.dtype, self.threads > 1), values[order]


class Scratch:
    """Memory that one trajectory's evaluations need, and what kernels take to work in it.

    ``searches`` adds what exact line search asks of factorization and operator, ``curves`` what products with
    the Hessian do.
    """

    def __init__(self, objective: CpuObjective, searches: bool = False, curves: bool = False) -> None:
        layout, dtype = objective.layout, objective.dtype
        shapes = layout.shapes
        products = []
        for first, size in ((0, layout.left), (layout.left, layout.right)):
            # The first prefix of a chain is its first factor, so nothing is stored for it.
            products += [
                (0, 0) if j == first else (shapes[first][0], shapes[j][1]) for j in range(first, first + size)
            ]
        derivatives = products if curves else [(0, 0)] * len(products)
        self._kept_alive = [
            Matrices(shape, dtype, objective.rows) for shape in (products, products, derivatives, derivatives)
        ]
        w = aligned_empty((objective.entries,), dtype)
        if layout.tied:
            kind: Any = Tied(w)
        elif layout.left == 0:
            kind = Unfactored(w)
        else:
            lanes = objective.rows.lanes
            sizes = [math.prod(whole_vectors(length, lanes) for length in shape) for shape in shapes]
            spare = aligned_empty((max(sizes),), dtype)
            prefixes, deltas, tangents, delta_tangents = (m.table for m in self._kept_alive)
            kind = Chains(layout.left, layout.right, prefixes, deltas, tangents, delta_tangents, spare, w)
        self._memory = Bound(kind, dtype)
        address = self._memory.address
        self.model = Model(
            compose=address("compose"),
            pull_back=address("pull_back"),
            step_back=address("step_back") if layout.left + layout.right <= 2 else 0,
            expand=address("expand") if searches else 0,
            push=address("push") if curves else 0,
            curve=address("curve") if curves else 0,
            at=self._memory.at,
            w=w,
        )
        self.operator = objective.bind_operator(w, measures=searches)
