"""How factors and observations are laid out for the kernels, whatever the device.

W = L Rᵀ is split where the observations meet it.  L is the product of the factors left of the split,
outside in: W_N, W_{N−1}, …; R that of the transposed factors right of it, outside in: W_1ᵀ, W_2ᵀ, ….
"""

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from fastdmf._checks import Array
from fastdmf.factorizations import Factorization, Symmetric

Shape = tuple[int, int]


class Layout(Protocol):
    """Between the factors of the papers, [W_1, …, W_N], and the matrices that kernels walk."""

    left: int  #: How many matrices form the left chain.
    right: int  #: How many form the right chain.
    tied: bool  #: Whether one factor stands on both sides.
    shapes: list[Shape]  #: Shapes of the matrices, left chain first.

    def inward(self, factors: Sequence[Array]) -> list[Array]:
        """The kernels' matrices of some factors: views where possible."""
        ...

    def outward(self, matrices: Sequence[Array], rest: Array | None) -> list[Array]:
        """The factors of the kernels' matrices: views where possible."""
        ...


class ChainLayout:
    """Two chains that meet at the observations."""

    def __init__(self, factor_shapes: Sequence[Shape], entries: int) -> None:
        depth = len(factor_shapes)
        # How many factors stand right of the split: the cheapest way to take a gradient step.
        self.right = min(range(1, depth), key=lambda split: _flops(factor_shapes, split, entries))
        self.left = depth - self.right
        self.tied = False
        upper = list(factor_shapes[: self.right - 1 : -1])
        lower = [(cols, rows) for rows, cols in factor_shapes[: self.right]]
        self.shapes = upper + lower

    def inward(self, factors: Sequence[Array]) -> list[Array]:
        return [*factors[: self.right - 1 : -1], *(w.T for w in factors[: self.right])]

    def outward(self, matrices: Sequence[Array], rest: Array | None) -> list[Array]:
        return [*(m.T for m in matrices[self.left :]), *matrices[: self.left][::-1]]


def _flops(factor_shapes: Sequence[Shape], split: int, entries: int) -> int:
    """Multiply-adds of a gradient step when ``split`` factors stand right of the observations."""
    n, p = factor_shapes[-1][0], factor_shapes[0][1]
    # L = W_N … W_{split+1} is multiplied out from W_N inward, R = W_1ᵀ … W_splitᵀ from W_1ᵀ inward.
    upper = sum(n * rows * cols for rows, cols in factor_shapes[split:-1])
    lower = sum(p * rows * cols for rows, cols in factor_shapes[1:split])
    return 3 * (upper + lower + entries * factor_shapes[split][1])


class TiedLayout:
    """UUᵀ: one factor on both sides."""

    left, right, tied = 1, 0, True

    def __init__(self, shape: Shape) -> None:
        self.shapes = [shape]

    def inward(self, factors: Sequence[Array]) -> list[Array]:
        return list(factors)

    def outward(self, matrices: Sequence[Array], rest: Array | None) -> list[Array]:
        return list(matrices)


class DirectLayout:
    """W itself, measured everywhere."""

    left, right, tied = 0, 0, False

    def __init__(self, shape: Shape) -> None:
        self.shapes = [shape]

    def inward(self, factors: Sequence[Array]) -> list[Array]:
        return list(factors)

    def outward(self, matrices: Sequence[Array], rest: Array | None) -> list[Array]:
        return list(matrices)


class SupportLayout:
    """W itself, of which only the entries of a sparse support ever move."""

    left, right, tied = 0, 0, False

    def __init__(self, shape: Shape, rows: Array, cols: Array) -> None:
        self.shape, self.rows, self.cols = shape, rows, cols
        self.shapes = [(1, rows.size)]

    def inward(self, factors: Sequence[Array]) -> list[Array]:
        return [factors[0][self.rows, self.cols][np.newaxis]]

    def outward(self, matrices: Sequence[Array], rest: Array | None) -> list[Array]:
        """``rest`` is W at the start, or None for the zeros that a gradient has there."""
        w = np.zeros(self.shape, matrices[0].dtype) if rest is None else rest.copy()
        w[self.rows, self.cols] = matrices[0][0]
        return [w]


def layout_of(factorization: Factorization, shape: Shape, support: tuple[Array, Array] | None) -> Layout:
    """The layout of a factorization around a support, given as (rows, cols), or None for all of W."""
    factor_shapes = factorization.factor_shapes(shape)
    if isinstance(factorization, Symmetric):
        return TiedLayout(factor_shapes[0])
    if len(factor_shapes) > 1:
        return ChainLayout(factor_shapes, support[0].size if support else shape[0] * shape[1])
    return SupportLayout(shape, *support) if support else DirectLayout(shape)


def first_direction(shapes: Sequence[Shape]) -> list[Array]:
    """Where power iteration starts on every device and in every run: matrices of a norm of about 1."""
    rng, bound = np.random.default_rng(0), np.sqrt(3.0 / sum(rows * cols for rows, cols in shapes))
    return [rng.uniform(-bound, bound, shape) for shape in shapes]


def whole_vectors(length: int, lanes: int) -> int:
    """A number of elements, rounded up to vectors of so many lanes."""
    return -(-length // lanes) * lanes


def compressed_rows(rows: Array, n: int) -> Array:
    """Where each of n rows starts among ascending row indices: (n + 1,) int64."""
    starts = np.zeros(n + 1, dtype=np.int64)
    np.cumsum(np.bincount(rows, minlength=n), out=starts[1:])
    return starts


def blocks_of(starts: Array, width: int) -> Array:
    """Cut compressed rows into blocks of about 2²⁰ multiply-adds: (blocks + 1,) row numbers.

    They depend on the support and the width alone, so that results do not depend on the number of threads.
    """
    total = int(starts[-1])
    pieces = -(-total * width >> 20)
    cuts = np.searchsorted(starts, np.linspace(0, total, pieces + 1)[1:-1])
    return np.unique(np.concatenate(([0], cuts, [starts.size - 1]))).astype(np.int64)


def aligned_empty(shape: Sequence[int], dtype: np.dtype) -> Array:
    """An uninitialized C-contiguous array that starts on a cache line, so that results of vectorized
    kernels and of BLAS do not depend on where memory happens to lie.
    """
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + 64, dtype=np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype).reshape(shape)


def refuse_overflow(converted: Array, array: Array) -> None:
    """Refuse numbers of a problem that are not finite any more in the type that they were converted to."""
    if not np.isfinite(converted).all():
        largest = max(array.max(), -array.min())
        raise ValueError(f"{largest} of the problem's numbers is not finite in {converted.dtype}")
