"""The entries of W that are looked at, on a CUDA device: W = L Rᵀ there, and back to gradients in L and R.

W that is not factored stands for both L and R.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from fastdmf._checks import Array
from fastdmf.backends.cuda_device import Device, Matrices
from fastdmf.backends.layout import compressed_rows, refuse_overflow
from fastdmf.kernels.cuda.sources import BLOCK, WARP, WARPS, share

#: L and R of W = L Rᵀ; twice U for UUᵀ, and twice W on the support for W itself.
Ends = tuple[Any, Any]
#: X_1, X_2, … and Y_1, Y_2, … of L(ξ) = L + Σ_a ξᵃ X_a and R(ξ) = R + Σ_b ξᵇ Y_b.
Powers = tuple[Matrices, Matrices]


class Support(Protocol):
    """Entries of W, from L and R and back."""

    size: int  #: How many they are.

    def sample(self, ends: Ends, state: Any, w: Any) -> None:
        """W on the support."""
        ...

    def pull(self, ends: Ends, z: Any, state: Any, out: list[Any]) -> None:
        """The gradients in L and R, in U or in W itself, from that on the support."""
        ...

    def change(self, ends: Ends, dots: Ends, state: Any, w_dot: Any) -> None:
        """Ẇ on the support as L and R move along L̇ and Ṙ."""
        ...

    def pull_change(self, ends: Ends, dots: Ends, z: Any, z_dot: Any, state: Any, out: list[Any]) -> None:
        """How the gradients in L and R, in U or in W itself, change as L and R do, and z by ż."""
        ...

    def sample_powers(self, ends: Ends, powers: Powers, state: Any, out: Matrices) -> None:
        """The coefficients of ξ, ξ², … of W on the support, in L(ξ) = L + Σ_a ξᵃ X_a and R(ξ) likewise."""
        ...


class Lists(NamedTuple):
    """Entries by the row that owns their sum: where rows start, the row to gather, and the entry's number."""

    starts: Any
    index: Any
    order: Any


def lists_of(rows: Array, cols: Array, shape: tuple[int, int], tied: bool) -> list[Lists]:
    """The sums that make up the gradient: Z R and Zᵀ L, or the one of (Z + Zᵀ) U."""
    number = np.arange(rows.size, dtype=np.int32)
    if not tied:
        return [_list_of(rows, cols, number, shape[0]), _list_of(cols, rows, number, shape[1])]
    both = np.concatenate((rows, cols)), np.concatenate((cols, rows))
    return [_list_of(*both, np.tile(number, 2), shape[0])]


def _list_of(owner: Array, other: Array, number: Array, size: int) -> Lists:
    order = np.argsort(owner, kind="stable")
    return Lists(compressed_rows(owner, size), other[order], number[order])


def row_by_row(rows: Array, cols: Array, values: Array, shape: tuple[int, int]) -> tuple[Array, Array, Array]:
    """Entries in the order of their places, with places in the type that kernels take."""
    order = np.argsort(rows.astype(np.int64) * shape[1] + cols)  # n p may exceed 2³¹
    return rows[order].astype(np.int32), cols[order].astype(np.int32), values[order]


def converted(values: Array, dtype: np.dtype) -> Array:
    """Numbers of a problem in the type of the factors."""
    with np.errstate(over="ignore"):
        result = values.astype(dtype)
    refuse_overflow(result, values)
    return result


class Sampling(NamedTuple):
    """Places of entries on the device, shared among blocks."""

    rows: Any
    cols: Any
    per_warp: int
    blocks: int

    @classmethod
    def of(cls, device: Device, rows: Array, cols: Array) -> "Sampling":
        """Copies on the device."""
        return cls(device.put(rows), device.put(cols), *share(rows.size, WARPS))


class Entries:
    """Some entries of W, which is never multiplied out."""

    def __init__(
        self,
        device: Device,
        launch: Callable[..., None],
        rows: Array,
        cols: Array,
        shape: tuple[int, int],
        width: int,
        tied: bool,
    ) -> None:
        self.size, self.width, self._shape, self._launch = rows.size, width, shape, launch
        self.sampling = Sampling.of(device, rows, cols)
        self.per_block = self.sampling.per_warp * WARPS
        self._lists = [Lists(*map(device.put, one)) for one in lists_of(rows, cols, shape, tied)]

    def sample(self, ends: Ends, state: Any, w: Any) -> None:
        """W on the support."""
        self.compare(ends, None, 1.0, state, w, None)

    def compare(
        self, ends: Ends, values: Any, scale: float, state: Any, z: Any, sums: Any,
        sampling: Sampling | None = None,
    ) -> None:  # fmt: skip
        """z = ``scale`` (W − y) and partial sums of (W − y)² if asked for, here or on another sampling."""
        sampling = sampling or self.sampling
        self._launch(
            "sampled_residual", (sampling.blocks,), *ends, sampling.rows, sampling.cols, values, scale,
            z.size, self.width, sampling.per_warp, state, z, sums,
        )  # fmt: skip

    def sides(self, ends: Ends) -> list[tuple[tuple[int, int], tuple[Any, ...]]]:
        """The grids and first arguments of the sums that make up the gradient: in L and in R, or in U."""
        others = ends[::-1] if len(self._lists) == 2 else ends[:1]
        return [
            ((-(-rows // WARPS), -(-self.width // WARP)), (*lists, dense, rows))
            for lists, dense, rows in zip(self._lists, others, self._shape, strict=False)
        ]

    def pull(self, ends: Ends, z: Any, state: Any, out: list[Any]) -> None:
        """The gradients in L and R, or in U."""
        for (grid, (*lists, dense, rows)), into in zip(self.sides(ends), out, strict=True):
            self._launch("gather", grid, *lists, z, dense, rows, self.width, state, into)

    def change(self, ends: Ends, dots: Ends, state: Any, w_dot: Any) -> None:
        """⟨L̇_i, R_j⟩ + ⟨L_i, Ṙ_j⟩."""
        sampling = self.sampling
        self._launch(
            "sampled_change", (sampling.blocks,), *ends, *dots, sampling.rows, sampling.cols, w_dot.size,
            self.width, sampling.per_warp, state, w_dot,
        )  # fmt: skip

    def pull_change(self, ends: Ends, dots: Ends, z: Any, z_dot: Any, state: Any, out: list[Any]) -> None:
        """Ż R + Z Ṙ and its twin, or (Ż + Żᵀ) U + (Z + Zᵀ) V."""
        both = zip(self.sides(ends), self.sides(dots), out, strict=True)
        for (grid, (*lists, dense, rows)), (_, (*_, dense_dot, _)), into in both:
            self._launch(
                "gather_change", grid, *lists, z, z_dot, dense, dense_dot, rows, self.width, state, into
            )

    def sample_powers(self, ends: Ends, powers: Powers, state: Any, out: Matrices) -> None:
        """Σ_{a + b = t} ⟨X_a,i, Y_b,j⟩, all of them at once."""
        sampling, (left, right) = self.sampling, powers
        self._launch(
            "sampled_powers", (sampling.blocks,), *ends, left.flat, right.flat, len(left.each),
            len(right.each), ends[0].size, ends[1].size, sampling.rows, sampling.cols, self.size, self.width,
            sampling.per_warp, state, out.flat,
        )  # fmt: skip


class Itself:
    """Entries that are known, or move by themselves: the gradient in W itself is that on the support."""

    def __init__(self, launch: Callable[..., None], size: int, per_block: int | None = None) -> None:
        self.size, self._launch = size, launch
        self.per_block = per_block or BLOCK * share(size, BLOCK)[0]

    def compare(self, ends: Ends, values: Any, scale: float, state: Any, z: Any, sums: Any) -> None:
        """z = ``scale`` (W − y), and partial sums of (W − y)² if asked for."""
        self._launch(
            "entry_residual", (-(-self.size // self.per_block),), ends[0], values, scale, self.size,
            self.per_block, state, z, sums,
        )  # fmt: skip

    def _copy(self, entries: Any, state: Any, into: Any) -> None:
        self.compare((entries, entries), None, 1.0, state, into, None)

    def sample(self, ends: Ends, state: Any, w: Any) -> None:
        """W, copied."""
        self._copy(ends[0], state, w)

    def pull(self, ends: Ends, z: Any, state: Any, out: list[Any]) -> None:
        """The gradient, copied."""
        self._copy(z, state, out[0])

    def change(self, ends: Ends, dots: Ends, state: Any, w_dot: Any) -> None:
        """Ẇ, copied."""
        self._copy(dots[0], state, w_dot)

    def pull_change(self, ends: Ends, dots: Ends, z: Any, z_dot: Any, state: Any, out: list[Any]) -> None:
        """Ż, copied."""
        self._copy(z_dot, state, out[0])

    def sample_powers(self, ends: Ends, powers: Powers, state: Any, out: Matrices) -> None:
        """What W moves along, copied: it is linear in ξ."""
        self._copy(powers[0].flat, state, out.flat)


class Whole:
    """All of W, multiplied out.  For UUᵀ only symmetric gradients are pulled back, and count once."""

    def __init__(self, device: Device, shape: tuple[int, int], tied: bool) -> None:
        self.size, self._shape, self._tied, self._device = shape[0] * shape[1], shape, tied, device

    def sample(self, ends: Ends, state: Any, w: Any) -> None:
        """W, row by row."""
        self._device.multiply(ends[0], ends[1].T, w.reshape(self._shape))

    def pull(self, ends: Ends, z: Any, state: Any, out: list[Any]) -> None:
        """Z R and Zᵀ L, or Z U with the Z + Zᵀ of a gradient for Z."""
        z = z.reshape(self._shape)
        self._device.multiply(z, ends[1], out[0])
        if not self._tied:
            self._device.multiply(z.T, ends[0], out[1])

    def change(self, ends: Ends, dots: Ends, state: Any, w_dot: Any) -> None:
        """Ẇ = L̇ Rᵀ + L Ṙᵀ, row by row."""
        out = w_dot.reshape(self._shape)
        self._device.multiply(dots[0], ends[1].T, out)
        self._device.multiply(ends[0], dots[1].T, out, adds=True)

    def pull_change(self, ends: Ends, dots: Ends, z: Any, z_dot: Any, state: Any, out: list[Any]) -> None:
        """Ż R + Z Ṙ and its twin, or Ż U + Z V for the Z of UUᵀ."""
        z, z_dot = z.reshape(self._shape), z_dot.reshape(self._shape)
        self._device.multiply(z_dot, ends[1], out[0])
        self._device.multiply(z, dots[1], out[0], adds=True)
        if not self._tied:
            self._device.multiply(z_dot.T, ends[0], out[1])
            self._device.multiply(z.T, dots[0], out[1], adds=True)

    def sample_powers(self, ends: Ends, powers: Powers, state: Any, out: Matrices) -> None:
        """Σ_{a + b = t} X_a Y_bᵀ, row by row."""
        left, right = ([end, *moved.each] for end, moved in zip(ends, powers, strict=True))
        for t, w in enumerate(out.each, 1):
            least, most = max(0, t - len(right) + 1), min(t, len(left) - 1)
            for a in range(least, most + 1):
                self._device.multiply(left[a], right[t - a].T, w.reshape(self._shape), adds=a > least)
