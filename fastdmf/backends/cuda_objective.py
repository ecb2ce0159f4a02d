"""The loss as a function of the factors, on a CUDA device."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from fastdmf._checks import Array
from fastdmf.backends.cuda_device import Device, Matrices
from fastdmf.backends.cuda_operators import bind_problem
from fastdmf.backends.cuda_support import Ends, Entries, Sampling, row_by_row
from fastdmf.factorizations import Factorization, Symmetric
from fastdmf.kernels.cuda.sources import SLOTS
from fastdmf.problems import Completion, Problem
from fastdmf.problems.base import root_mean_square


class Scratch(NamedTuple):
    """Products along the chains that one trajectory's evaluations need; None at the head of each chain."""

    prefixes: list[Any]
    deltas: list[Any]


class CudaObjective:
    """The loss as a function of the factors: one problem × factorization × dtype on a device."""

    def __init__(
        self, problem: Problem, factorization: Factorization, dtype: np.dtype, device: Device
    ) -> None:
        self.problem, self.factorization, self.dtype, self.device = problem, factorization, dtype, device
        self.launch = device.load(dtype)
        if len(factorization.factor_shapes(problem.shape)) == 1 and not isinstance(factorization, Symmetric):
            raise ValueError(
                f"device 'cuda' moves two factors or more, not {factorization!r}: use device='cpu'"
            )
        self.layout, self.operator = bind_problem(problem, factorization, dtype, device, self.launch)
        #: A state in which kernels run.
        self.going = device.put(np.zeros(SLOTS))

    def matrices(self) -> Matrices:
        """Uninitialized memory for a point, a gradient or a velocity."""
        shapes = self.layout.shapes
        size = sum(rows * cols for rows, cols in shapes)
        return Matrices(self.device.empty((size,), self.dtype), shapes)

    def scratch(self) -> Scratch:
        """Memory for the products along the chains."""
        shapes, products = self.layout.shapes, []
        for first, count in self._chains:
            products += [None, *((shapes[first][0], shapes[j][1]) for j in range(first + 1, first + count))]
        empty = [[s and self.device.empty(s, self.dtype) for s in products] for _ in range(2)]
        return Scratch(*empty)

    @property
    def _chains(self) -> tuple[tuple[int, int], ...]:
        """Where the matrices of each chain begin, and how many they are."""
        left, right = self.layout.left, self.layout.right
        return ((0, left), (left, right)) if right else ((0, left),)

    @property
    def form(self) -> str:
        """How the kernels look at W."""
        return self.operator.form

    @property
    def summed_entries(self) -> Entries | None:
        """The support, if steps can be taken as the gradient is summed: no chain has to be multiplied out."""
        support, is_shallow = self.operator.support, self.layout.left <= 1 and self.layout.right <= 1
        return support if is_shallow and isinstance(support, Entries) else None

    def compose(self, point: Matrices, scratch: Scratch) -> Ends:
        """L and R of W = L Rᵀ; all prefix products P_j = M₁ … M_j of both chains are left in ``scratch``."""
        ends = []
        for first, count in self._chains:
            product = point.each[first]
            for j in range(first + 1, first + count):
                self.device.multiply(product, point.each[j], scratch.prefixes[j])
                product = scratch.prefixes[j]
            ends.append(product)
        return ends[0], ends[-1]

    def pull_back(self, point: Matrices, z: Any, state: Any, gradient: Matrices, scratch: Scratch) -> None:
        """The gradient in the factors, from that on the support, where W was last composed.

        With P_j = P_{j−1} M_j:  ∂ℓ/∂M_j = P_{j−1}ᵀ Δ_j  and  Δ_{j−1} = Δ_j M_jᵀ.
        """
        multiply = self.device.multiply
        ends = [self._last(point, scratch.prefixes, first, count) for first, count in self._chains]
        out = [self._last(gradient, scratch.deltas, first, count) for first, count in self._chains]
        self.operator.support.pull((ends[0], ends[-1]), z, state, out)
        for first, count in self._chains:
            for j in range(first + count - 1, first, -1):
                delta, before = scratch.deltas[j], self._last(point, scratch.prefixes, first, j - first)
                multiply(before.T, delta, gradient.each[j])
                multiply(delta, point.each[j].T, self._last(gradient, scratch.deltas, first, j - first))

    @staticmethod
    def _last(ends: Matrices, products: list[Any], first: int, count: int) -> Any:
        """The last of the products along a chain; of a single matrix, that among ``ends``."""
        return ends.each[first] if count == 1 else products[first + count - 1]

    def test_error(self, point: Matrices, scratch: Scratch, factors: Sequence[Array]) -> float:
        """The problem's test error, without writing out W where entries are held out."""
        if self._held_out is None:
            return self.problem.test_error(self.factorization.compose(factors))
        support, sampling, values = self._held_out
        w = self.device.empty((values.size,), self.dtype)
        support.compare(self.compose(point, scratch), sampling, None, 1.0, self.going, w, None)
        return root_mean_square(self.device.get(w) - values)

    @cached_property
    def _held_out(self) -> tuple[Entries, Sampling, Array] | None:
        """What samples entries, those that are held out, and their values."""
        support, problem = self.operator.support, self.problem
        if not isinstance(problem, Completion) or not isinstance(support, Entries) or problem.test is None:
            return None
        rows, cols, values = row_by_row(*problem.test, problem.shape)
        return (support, Sampling.of(self.device, rows, cols), values) if values.size else None
