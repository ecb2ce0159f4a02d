"""The loss as a function of the factors, on a CUDA device."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from fastdmf._checks import Array
from fastdmf.backends.cuda_device import Device, Matrices
from fastdmf.backends.cuda_support import Entries, Sampling, lists_of, row_by_row
from fastdmf.backends.layout import layout_of
from fastdmf.factorizations import Factorization
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
        if not isinstance(problem, Completion):
            raise ValueError(
                f"device 'cuda' measures entries of a Completion, not {problem!r}: use device='cpu'"
            )
        rows, cols, values = row_by_row(problem.rows, problem.cols, problem.values, problem.shape)
        self.layout = layout_of(factorization, problem.shape, (rows, cols), 1)
        if self.layout.left == 0:
            raise ValueError(
                f"device 'cuda' moves two factors or more, not {factorization!r}: use device='cpu'"
            )
        self.problem, self.factorization, self.dtype, self.device = problem, factorization, dtype, device
        self.launch = device.load(dtype)
        self.support = Entries(
            device, self.launch, Sampling.of(device, dtype, rows, cols, values),
            lists_of(rows, cols, problem.shape, self.layout.tied), problem.shape,
            self.layout.shapes[self.layout.left - 1][1],
        )  # fmt: skip
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
        return self.support.form

    @property
    def is_shallow(self) -> bool:
        """Whether no chain has to be multiplied out: a step can be taken as the gradient is summed."""
        return self.layout.left <= 1 and self.layout.right <= 1

    def compose(self, point: Matrices, scratch: Scratch) -> tuple[Any, Any]:
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
        self.support.pull((ends[0], ends[-1]), z, state, out)
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
        sampling, values = self._held_out
        w = self.device.empty((values.size,), self.dtype)
        sums = self.device.empty((sampling.blocks,), np.dtype(np.float64))
        self.support.residual(self.compose(point, scratch), sampling, 1.0, self.going, w, sums)
        return root_mean_square(self.device.get(w) - values)

    @cached_property
    def _held_out(self) -> tuple[Sampling, Array] | None:
        """The entries that are held out, with zeros for values, and their values."""
        test = self.problem.test
        if test is None or test[2].size == 0:
            return None
        rows, cols, values = row_by_row(*test, self.problem.shape)
        return Sampling.of(self.device, self.dtype, rows, cols, np.zeros(values.size)), values
