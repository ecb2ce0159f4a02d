"""The loss as a function of the factors, on a CUDA device."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np

from fastdmf._checks import Array
from fastdmf.backends.layout import compressed_rows, layout_of, refuse_overflow
from fastdmf.factorizations import Factorization
from fastdmf.kernels.cuda.sources import SLOTS, WARP, WARPS, share
from fastdmf.problems import Completion, Problem
from fastdmf.problems.base import root_mean_square


class Device(Protocol):
    """What a device offers: memory, dense products and launches, done in the order they are asked for.

    Arrays on the device have shape, size, T, reshape and slices, as NumPy's.
    """

    name: str

    def empty(self, shape: Sequence[int], dtype: np.dtype) -> Any:
        """An uninitialized array."""
        ...

    def put(self, array: Array) -> Any:
        """A copy on the device."""
        ...

    def copy(self, array: Array, into: Any) -> None:
        """Copy an array to one on the device."""
        ...

    def get(self, array: Any) -> Array:
        """A copy in host memory, once everything queued before has been done."""
        ...

    def multiply(self, a: Any, b: Any, out: Any) -> None:
        """out = a b, for C-contiguous matrices of which a and b may be transposed."""
        ...

    def load(self, dtype: np.dtype) -> Callable[..., None]:
        """A function (kernel, grid, *arguments) that queues a launch."""
        ...


class Lists(NamedTuple):
    """Entries by the row that owns their sum: where rows start, the row to gather, and the entry's number."""

    starts: Any
    index: Any
    order: Any


class Sampling(NamedTuple):
    """Entries of W on the device, and how they are shared among blocks."""

    rows: Any
    cols: Any
    values: Any
    per_warp: int
    blocks: int


class Matrices:
    """Matrices that lie one after another in one array, ``flat``."""

    def __init__(self, flat: Any, shapes: Sequence[tuple[int, int]]) -> None:
        ends = np.cumsum([0] + [rows * cols for rows, cols in shapes]).tolist()
        self.flat = flat
        self.each = [flat[a:b].reshape(s) for a, b, s in zip(ends[:-1], ends[1:], shapes, strict=True)]


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
        order = np.argsort(problem.rows.astype(np.int64) * problem.shape[1] + problem.cols)
        rows, cols = (x[order].astype(np.int32) for x in (problem.rows, problem.cols))
        self.layout = layout_of(factorization, problem.shape, (rows, cols), 1)
        if self.layout.left == 0:
            raise ValueError(
                f"device 'cuda' moves two factors or more, not {factorization!r}: use device='cpu'"
            )
        self.problem, self.factorization, self.dtype, self.device = problem, factorization, dtype, device
        self.launch = device.load(dtype)
        self.width = self.layout.shapes[self.layout.left - 1][1]
        self.entries = self._sampling(rows, cols, problem.values[order])
        number = np.arange(rows.size, dtype=np.int32)
        n, p = problem.shape
        if self.layout.tied:  # of (Z + Zᵀ) U
            pairs = [(np.concatenate((rows, cols)), np.concatenate((cols, rows)), np.tile(number, 2), n)]
        else:  # of Z R and of Zᵀ L
            pairs = [(rows, cols, number, n), (cols, rows, number, p)]
        self._lists = [self._list(*pair) for pair in pairs]
        #: A state in which kernels run.
        self.going = device.put(np.zeros(SLOTS))

    def _list(self, owner: Array, other: Array, number: Array, size: int) -> Lists:
        order = np.argsort(owner, kind="stable")
        put = self.device.put
        return Lists(put(compressed_rows(owner, size)), put(other[order]), put(number[order]))

    def _sampling(self, rows: Array, cols: Array, values: Array) -> Sampling:
        with np.errstate(over="ignore"):
            converted = values.astype(self.dtype)
        refuse_overflow(converted, values)
        put = self.device.put
        return Sampling(put(rows), put(cols), put(converted), *share(rows.size, WARPS))

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

    def residual(
        self, ends: tuple[Any, Any], entries: Sampling, scale: float, state: Any, z: Any, sums: Any
    ) -> None:
        """z = ``scale`` (W − y) on the entries, and the partial sums of (W − y)²."""
        self.launch(
            "sampled_residual", (entries.blocks,), *ends, entries.rows, entries.cols, entries.values, scale,
            z.size, self.width, entries.per_warp, state, z, sums,
        )  # fmt: skip

    def sides(self, ends: tuple[Any, Any]) -> list[tuple[tuple[int, int], tuple[Any, ...]]]:
        """The grids and first arguments of the sums that make up the gradient: in L and in R, or in U."""
        others = ends[::-1] if len(self._lists) == 2 else ends[:1]
        return [
            ((-(-rows // WARPS), -(-self.width // WARP)), (*lists, dense, rows))
            for lists, dense, rows in zip(self._lists, others, self.problem.shape, strict=False)
        ]

    def pull_back(self, point: Matrices, z: Any, state: Any, gradient: Matrices, scratch: Scratch) -> None:
        """The gradient in the factors, from that on the support, where W was last composed.

        With P_j = P_{j−1} M_j:  ∂ℓ/∂M_j = P_{j−1}ᵀ Δ_j  and  Δ_{j−1} = Δ_j M_jᵀ.
        """
        multiply = self.device.multiply
        ends = [self._last(point, scratch.prefixes, first, count) for first, count in self._chains]
        sides = self.sides((ends[0], ends[-1]))
        for (first, count), (grid, (*lists, dense, rows)) in zip(self._chains, sides, strict=True):
            out = self._last(gradient, scratch.deltas, first, count)
            self.launch("gather", grid, *lists, z, dense, rows, self.width, state, out)
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
        entries, values = self._held_out
        w = self.device.empty((values.size,), self.dtype)
        sums = self.device.empty((entries.blocks,), np.dtype(np.float64))
        self.residual(self.compose(point, scratch), entries, 1.0, self.going, w, sums)
        return root_mean_square(self.device.get(w) - values)

    @cached_property
    def _held_out(self) -> tuple[Sampling, Array] | None:
        """The entries that are held out, with zeros for values, and their values."""
        test = self.problem.test
        if test is None or test[2].size == 0:
            return None
        rows, cols, values = test
        order = np.lexsort((cols, rows))
        return self._sampling(
            rows[order].astype(np.int32), cols[order].astype(np.int32), np.zeros(values.size)
        ), values[order]
