"""The loss as a function of the factors, on a CUDA device."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from fastdmf._checks import Array
from fastdmf.backends.cuda_device import Device, Matrices
from fastdmf.backends.cuda_operators import Work, bind_problem
from fastdmf.backends.cuda_support import Ends, Entries, Itself, Sampling, row_by_row
from fastdmf.factorizations import Factorization
from fastdmf.kernels.cuda.sources import SLOTS
from fastdmf.problems import Completion, Problem
from fastdmf.problems.base import root_mean_square


class Scratch(NamedTuple):
    """Products along the chains that one trajectory's evaluations need, P_j and Δ_j, and their derivatives
    for products with the Hessian; None at the head of each chain.
    """

    prefixes: list[Any]
    deltas: list[Any]
    tangents: list[Any]
    delta_tangents: list[Any]


class CudaObjective:
    """The loss as a function of the factors: one problem × factorization × dtype on a device."""

    def __init__(
        self, problem: Problem, factorization: Factorization, dtype: np.dtype, device: Device
    ) -> None:
        self.problem, self.factorization, self.dtype, self.device = problem, factorization, dtype, device
        self.launch = device.load(dtype)
        self.layout, self.operator = bind_problem(problem, factorization, dtype, device, self.launch)
        #: A state in which kernels run.
        self.going = device.put(np.zeros(SLOTS))

    def matrices(self) -> Matrices:
        """Uninitialized memory for a point, a gradient or a velocity."""
        shapes = self.layout.shapes
        size = sum(rows * cols for rows, cols in shapes)
        return Matrices(self.device.empty((size,), self.dtype), shapes)

    def scratch(self, curves: bool = False) -> Scratch:
        """Memory for the products along the chains, and for their derivatives if ``curves``."""
        shapes, products = self.layout.shapes, []
        for first, count in self._chains:
            products += [None, *((shapes[first][0], shapes[j][1]) for j in range(first + 1, first + count))]
        count = 4 if curves else 2
        empty = [[s and self.device.empty(s, self.dtype) for s in products] for _ in range(count)]
        return Scratch(*empty, *[[] for _ in range(4 - count)])

    @property
    def _chains(self) -> tuple[tuple[int, int], ...]:
        """Where the matrices of each chain begin, and how many they are; W itself is a chain of one."""
        left, right = max(self.layout.left, 1), self.layout.right
        return ((0, left), (left, right)) if right else ((0, left),)

    @property
    def form(self) -> str:
        """How the kernels look at W."""
        return self.operator.form

    @property
    def summed_entries(self) -> Entries | Itself | None:
        """The support, if steps can be taken as the gradient is summed: no chain has to be multiplied out."""
        support, is_shallow = self.operator.support, self.layout.left <= 1 and self.layout.right <= 1
        return support if is_shallow and isinstance(support, Entries | Itself) else None

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

    def hessian_times(
        self, point: Matrices, direction: Matrices, work: Work, change: Work, state: Any, out: Matrices,
        scratch: Scratch,
    ) -> None:  # fmt: skip
        """out = H V for a direction V, at the point where loss and gradient were last evaluated.

        With W = W(θ) and z = c A*(A(W) − y):  Ẇ = DW[V],  ż = c A*(A(Ẇ)),  H V = DW*[ż] + D²W*[z, V].
        ``work`` holds z; ``change`` is memory for Ẇ and ż.
        """
        ends = [self._last(point, scratch.prefixes, *chain) for chain in self._chains]
        dots = [self._tangent(point, direction, scratch, *chain) for chain in self._chains]
        both, both_dots = (ends[0], ends[-1]), (dots[0], dots[-1])
        support = self.operator.support
        support.change(both, both_dots, state, change.w)
        self.operator.residual_at(change.w, state, change, linear=True)
        if not all(count == 1 for _, count in self._chains):
            # Δ itself is needed along chains of several factors; of a single one its place is overwritten.
            support.pull(both, work.z, state, [self._last(out, scratch.deltas, *c) for c in self._chains])
        moved = [self._last(out, scratch.delta_tangents, *chain) for chain in self._chains]
        support.pull_change(both, both_dots, work.z, change.z, state, moved)
        for chain in self._chains:
            self._curve(point, direction, out, scratch, *chain)

    def _tangent(self, point: Matrices, direction: Matrices, scratch: Scratch, first: int, count: int) -> Any:
        """Ṗ_j = Ṗ_{j−1} M_j + P_{j−1} V_j along a chain; the last is returned."""
        multiply, product = self.device.multiply, direction.each[first]
        for j in range(first + 1, first + count):
            multiply(product, point.each[j], scratch.tangents[j])
            before = self._last(point, scratch.prefixes, first, j - first)
            multiply(before, direction.each[j], scratch.tangents[j], adds=True)
            product = scratch.tangents[j]
        return product

    def _curve(
        self, point: Matrices, direction: Matrices, out: Matrices, scratch: Scratch, first: int, count: int
    ) -> None:
        """The derivative of what :meth:`pull_back` does along a chain, from Δ and Δ̇ in its product."""
        multiply = self.device.multiply
        for j in range(first + count - 1, first, -1):
            delta, delta_dot = scratch.deltas[j], scratch.delta_tangents[j]
            before = self._last(point, scratch.prefixes, first, j - first)
            before_dot = self._last(direction, scratch.tangents, first, j - first)
            multiply(before_dot.T, delta, out.each[j])
            multiply(before.T, delta_dot, out.each[j], adds=True)
            shorter_dot = self._last(out, scratch.delta_tangents, first, j - first)
            multiply(delta_dot, point.each[j].T, shorter_dot)
            multiply(delta, direction.each[j].T, shorter_dot, adds=True)
            if j > first + 1:
                multiply(delta, point.each[j].T, scratch.deltas[j - 1])

    def powers(self, gradient: Matrices) -> list[list[Matrices]]:
        """Memory for the coefficients of ξ, …, ξⁱ of the product of the first i matrices of each chain, which
        move by ξ along a gradient: for i = 1 that is the gradient.
        """
        shapes, levels = self.layout.shapes, []
        for first, count in self._chains:
            head = gradient.each[first]
            levels.append([Matrices(head.reshape((head.size,)), [head.shape])])
            for i in range(2, count + 1):
                rows, cols = shapes[first][0], shapes[first + i - 1][1]
                flat = self.device.empty((i * rows * cols,), self.dtype)
                levels[-1].append(Matrices(flat, [(rows, cols)] * i))
        return levels

    def expand(
        self, point: Matrices, gradient: Matrices, powers: list[list[Matrices]], scratch: Scratch, state: Any,
        out: Matrices,
    ) -> None:  # fmt: skip
        """The coefficients of ξ, ξ², … of W on the support as all M_j move to M_j + ξ G_j, where W was last
        composed.

        That of ξᵃ in (M₁ + ξ G₁) … (M_i + ξ G_i) is that of ξᵃ⁻¹ in the product before times G_i, and that
        of ξᵃ times M_i.
        """
        multiply = self.device.multiply
        for (first, count), levels in zip(self._chains, powers, strict=True):
            for i in range(1, count):
                before = [self._last(point, scratch.prefixes, first, i), *levels[i - 1].each]
                for a, product in enumerate(levels[i].each, 1):
                    multiply(before[a - 1], gradient.each[first + i], product)
                    if a <= i:
                        multiply(before[a], point.each[first + i], product, adds=True)
        ends = [self._last(point, scratch.prefixes, *chain) for chain in self._chains]
        moved = powers[0][-1], powers[-1][-1]
        self.operator.support.sample_powers((ends[0], ends[-1]), moved, state, out)

    @staticmethod
    def _last(ends: Matrices, products: list[Any], first: int, count: int) -> Any:
        """The last of the products along a chain; of a single matrix, that among ``ends``."""
        return ends.each[first] if count == 1 else products[first + count - 1]

    def test_error(self, point: Matrices, scratch: Scratch, factors: Sequence[Array]) -> float:
        """The problem's test error, without writing out W where entries are held out."""
        if not self.problem.has_test_error:
            return float("nan")
        if self._held_out is None:
            return self.problem.test_error(self.factorization.compose(factors))
        support, sampling, values = self._held_out
        w = self.device.empty((values.size,), self.dtype)
        support.compare(self.compose(point, scratch), None, 1.0, self.going, w, None, sampling)
        return root_mean_square(self.device.get(w) - values)

    @cached_property
    def _held_out(self) -> tuple[Entries, Sampling, Array] | None:
        """What samples entries, those that are held out, and their values."""
        support, problem = self.operator.support, self.problem
        if not isinstance(problem, Completion) or not isinstance(support, Entries) or problem.test is None:
            return None
        rows, cols, values = row_by_row(*problem.test, problem.shape)
        return (support, Sampling.of(self.device, rows, cols), values) if values.size else None
