"""Exact line search on a CUDA device: its memory, and what it queues to find a step."""

from typing import Any

import numpy as np

from fastdmf.backends.cuda_device import Matrices
from fastdmf.backends.cuda_objective import CudaObjective, Scratch
from fastdmf.backends.cuda_operators import Observed, Work
from fastdmf.kernels.cuda.sources import BLOCK, share
from fastdmf.optimizers import ExactLineSearch

_NUMBER = np.dtype(np.float64)


class LineSearch:
    """The step along a gradient to the smallest loss, found on the device: nobody waits for it.

    As all factors move by ξ = −η along the gradient, W on the support is a polynomial in ξ, and so is its
    residual, Σ_t c_t ξᵗ with c_0 = A w − y.
    """

    def __init__(self, objective: CudaObjective, optimizer: ExactLineSearch, gradient: Matrices) -> None:
        o, device, operator, layout = objective, objective.device, objective.operator, objective.layout
        self._objective, self._gradient = o, gradient
        self._max_step = float(optimizer.max_step or np.inf)
        # What the residual was multiplied by is the scale in the precision of the run.
        self._scale = float(o.dtype.type(o.problem.loss_scale))
        self._powers = o.powers(gradient)
        degree = self._degree = 2 if layout.tied else max(layout.left + layout.right, 1)
        self._entries = self._vectors(operator.support.size)
        is_measured = isinstance(operator, Observed)
        self._coefficients = self._entries if is_measured else self._vectors(operator.measured)
        per_thread, self._blocks = share(operator.measured, BLOCK)
        self._per_block, self._pairs = per_thread * BLOCK, (degree + 1) * (degree + 2) // 2
        self._partials = device.empty((self._pairs * self._blocks,), _NUMBER)
        self._sums = device.empty((self._pairs,), _NUMBER)
        self._ladder = device.empty(((2 * degree + 3) * (2 * degree + 2),), _NUMBER)

    def _vectors(self, size: int) -> Matrices:
        """Memory for a vector of each power of ξ."""
        flat = self._objective.device.empty((self._degree * size,), self._objective.dtype)
        return Matrices(flat, [(1, size)] * self._degree)

    def find_step(self, point: Matrices, scratch: Scratch, work: Work, state: Any) -> None:
        """STEP, where W was last composed and measured, and with the gradient there."""
        o, c = self._objective, self._coefficients
        o.expand(point, self._gradient, self._powers, scratch, state, self._entries)
        for w, measured in zip(self._entries.each, c.each, strict=True):
            o.operator.measure(w, measured, state, work)
        o.launch(
            "inner_products", (self._pairs, self._blocks), work.r, c.flat, o.operator.measured,
            self._per_block, self._blocks, state, self._partials,
        )  # fmt: skip
        o.launch("total", (self._pairs,), self._partials, self._blocks, 1.0, state, self._sums)
        o.launch(
            "exact_step", (1,), self._sums, self._degree, self._scale, self._max_step, self._ladder, state
        )
