"""How W is measured on a CUDA device: the gradient on the support, and the sums that make up the loss."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from fastdmf._checks import Array
from fastdmf.backends.cuda_device import Device
from fastdmf.backends.cuda_support import Ends, Entries, Itself, Support, Whole, converted, row_by_row
from fastdmf.backends.layout import Layout, layout_of
from fastdmf.backends.measurements import TouchedEntries, are_symmetric, touched_entries, triangles
from fastdmf.factorizations import Factorization, Symmetric
from fastdmf.kernels.cuda.sources import BLOCK, SHARE, WARP, WARPS, share
from fastdmf.problems import Completion, Problem, Sensing

_NUMBER = np.dtype(np.float64)


class Work(NamedTuple):
    """What evaluating an operator leaves behind, and takes.

    ``z`` is the gradient on the support, c A*(A w − y), ``r`` is c (A w − y), z itself where A is the
    identity, and ``sums`` are partial sums of (A w − y)²; ``w`` is W on the support, and ``rest`` what else
    the operator needs.
    """

    z: Any
    r: Any
    sums: Any
    w: Any = None
    rest: Any = None


class Operator(Protocol):
    """Measurements of W on a support; loss = (c/2) ‖A w − y‖²."""

    form: str
    measured: int  #: How many measurements there are.

    @property
    def support(self) -> Support:
        """The entries of W that are measured."""
        ...

    def work(self) -> Work:
        """Memory for the evaluations of one trajectory."""
        ...

    def residual(self, ends: Ends, state: Any, work: Work) -> None:
        """``work.z`` and ``work.sums`` at W = L Rᵀ."""
        ...

    def residual_at(self, w: Any, state: Any, work: Work, linear: bool = False) -> None:
        """The same at W on the support; if ``linear``, with y = 0: c A*A w, as Hessians need it."""
        ...

    def measure(self, w: Any, out: Any, state: Any, work: Work) -> None:
        """Out = A w, for w on the support.  Where A is the identity they are one, and nothing is done."""
        ...


class Observed:
    """Entries of W themselves: A is the identity on the support."""

    form = "observed entries"

    def __init__(
        self,
        support: Entries | Itself,
        values: Array,
        scale: float,
        device: Device,
        launch: Callable[..., None],
    ) -> None:
        self.support, self._scale, self._device = support, scale, device
        self._values, self._dtype, self.measured = device.put(values), values.dtype, values.size
        self._known = Itself(launch, support.size, support.per_block)

    def work(self) -> Work:
        """Memory for the evaluations of one trajectory."""
        empty, size = self._device.empty, self.support.size
        z = empty((size,), self._dtype)
        return Work(z, z, empty((-(-size // self.support.per_block),), _NUMBER))

    def residual(self, ends: Ends, state: Any, work: Work) -> None:
        """W is compared as it is sampled."""
        self.support.compare(ends, self._values, self._scale, state, work.z, work.sums)

    def residual_at(self, w: Any, state: Any, work: Work, linear: bool = False) -> None:
        """z = c (w − y)."""
        values = None if linear else self._values
        self._known.compare((w, w), values, self._scale, state, work.z, work.sums)

    def measure(self, w: Any, out: Any, state: Any, work: Work) -> None:
        """W is measured as it is seen."""


class SparseRows:
    """Sparse measurements of the entries that any of them touches."""

    form = "sparse measurements"

    def __init__(
        self,
        support: Entries | Itself,
        problem: Sensing,
        touched: TouchedEntries,
        dtype: np.dtype,
        device: Device,
        launch: Callable[..., None],
    ) -> None:
        self.support, self._device, self._launch, self._dtype = support, device, launch, dtype
        self._scale, self.measured = problem.loss_scale, problem.values.size
        put = device.put
        self._values = put(converted(problem.values, dtype))
        weights = converted(problem.matrices.data, dtype)
        self._rows = put(touched.row_starts), put(touched.cols), put(weights)
        self._cols = put(touched.col_starts), put(touched.rows), put(weights[touched.order])
        self._per_warp, self._blocks = share(self.measured, WARPS)

    def work(self) -> Work:
        """Memory for the evaluations of one trajectory."""
        z, w = (self._device.empty((self.support.size,), self._dtype) for _ in "zw")
        sums = self._device.empty((self._blocks,), _NUMBER)
        return Work(z, self._device.empty((self.measured,), self._dtype), sums, w)

    def residual(self, ends: Ends, state: Any, work: Work) -> None:
        """W is sampled where it is touched."""
        self.support.sample(ends, state, work.w)
        self.residual_at(work.w, state, work)

    def residual_at(self, w: Any, state: Any, work: Work, linear: bool = False) -> None:
        """Row by row, and column by column."""
        values = None if linear else self._values
        self._compare(w, values, self._scale, state, work.r, work.sums)
        blocks = -(-w.size * SHARE // BLOCK)
        self._launch("sparse_adjoint", (blocks,), *self._cols, work.r, w.size, state, work.z)

    def measure(self, w: Any, out: Any, state: Any, work: Work) -> None:
        """Row by row."""
        self._compare(w, None, 1.0, state, out, None)

    def _compare(self, w: Any, values: Any, scale: float, state: Any, out: Any, sums: Any) -> None:
        """Out = ``scale`` (A w − y), and partial sums of (A w − y)² if asked for."""
        self._launch(
            "sparse_residual", (self._blocks,), *self._rows, w, values, scale, self.measured, self._per_warp,
            state, out, sums,
        )  # fmt: skip


class DenseRows:
    """Dense measurements of all of W, as triangles where only its symmetric part is seen."""

    #: A block's share of A* z takes as much memory as a row of A; each has a few rows at least.
    MOST_BLOCKS, ROWS = 512, 4

    def __init__(
        self,
        support: Whole | Itself,
        problem: Sensing,
        tied: bool,
        dtype: np.dtype,
        device: Device,
        launch: Callable[..., None],
    ) -> None:
        self.support, self._device, self._launch, self._dtype = support, device, launch, dtype
        m, n, p = problem.matrices.shape
        self._is_packed = tied or (n == p and are_symmetric(problem.matrices))
        self._shape, self._scale, self._factor = (n, p), problem.loss_scale, 2.0 if tied else 1.0
        self.form = "dense measurements, triangles" if self._is_packed else "dense measurements"
        if self._is_packed:
            a = triangles(problem.matrices, dtype, 1)
        else:
            a = converted(problem.matrices.reshape(m, -1), dtype)
        self._a, self._width, self.measured = device.put(a), a.shape[1], m
        self._values = device.put(converted(problem.values, dtype))
        self._per_block = self.ROWS * -(-m // (self.ROWS * self.MOST_BLOCKS))
        self._blocks = -(-m // self._per_block)

    def work(self) -> Work:
        """Memory for the evaluations of one trajectory; ``rest``: shares of A* z, and the triangle of W."""
        empty = self._device.empty
        z, w = (empty((self.support.size,), self._dtype) for _ in "zw")
        slots = empty((self._blocks, self._width), self._dtype)
        packed = empty((self._width,), self._dtype) if self._is_packed else None
        r = empty((self.measured,), self._dtype)
        return Work(z, r, empty((self._blocks,), _NUMBER), w, (slots, packed))

    def residual(self, ends: Ends, state: Any, work: Work) -> None:
        """W is multiplied out."""
        self.support.sample(ends, state, work.w)
        self.residual_at(work.w, state, work)

    def residual_at(self, w: Any, state: Any, work: Work, linear: bool = False) -> None:
        """Every row of A is read once; for UUᵀ z is the gradient and its transpose."""
        (n, p), slots = self._shape, work.rest[0]
        values = None if linear else self._values
        self._compare(w, values, self._scale, state, work, work.r, slots, work.sums)
        self._launch(
            "sum_slots", (-(-p // WARP), n), slots, self._blocks, n, p, int(self._is_packed), self._factor,
            state, work.z,
        )  # fmt: skip

    def measure(self, w: Any, out: Any, state: Any, work: Work) -> None:
        """Every row of A is read once."""
        self._compare(w, None, 1.0, state, work, out, None, None)

    def _compare(
        self, w: Any, values: Any, scale: float, state: Any, work: Work, out: Any, slots: Any, sums: Any
    ) -> None:
        """Out = ``scale`` (A w − y); shares of A* out and partial sums of (A w − y)² if asked for."""
        n, packed = self._shape[0], work.rest[1]
        if self._is_packed:
            self._launch("pack", (-(-n // BLOCK), n), w, n, state, packed)
            w = packed
        self._launch(
            "dense_residual", (self._blocks,), self._a, self._width, w, values, scale, self.measured,
            self._per_block, state, out, slots, sums,
        )  # fmt: skip


def bind_problem(
    problem: Problem,
    factorization: Factorization,
    dtype: np.dtype,
    device: Device,
    launch: Callable[..., None],
) -> tuple[Layout, Operator]:
    """How the factors lie, and how W is measured."""
    shape, tied = problem.shape, isinstance(factorization, Symmetric)

    def entries(rows: Array, cols: Array) -> tuple[Layout, Entries | Itself]:
        layout = layout_of(factorization, shape, (rows, cols))
        if layout.left == 0:
            return layout, Itself(launch, rows.size)
        width = layout.shapes[layout.left - 1][1]
        return layout, Entries(device, launch, rows, cols, shape, width, tied)

    if isinstance(problem, Completion):
        rows, cols, values = row_by_row(problem.rows, problem.cols, problem.values, shape)
        layout, support = entries(rows, cols)
        values = converted(values, dtype)
        return layout, Observed(support, values, problem.loss_scale, device, launch)
    if not isinstance(problem, Sensing):
        raise TypeError(f"the CUDA backend cannot measure {problem!r}")
    if problem.is_sparse:
        touched = touched_entries(problem)
        layout, support = entries(*touched.where)
        return layout, SparseRows(support, problem, touched, dtype, device, launch)
    layout = layout_of(factorization, shape, None)
    whole = Whole(device, shape, tied) if layout.left else Itself(launch, shape[0] * shape[1])
    return layout, DenseRows(whole, problem, tied, dtype, device, launch)
