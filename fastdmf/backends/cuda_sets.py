"""What a flow moves on a CUDA device: sets of matrices that have roles."""

from collections.abc import Sequence

import numpy as np

from fastdmf._checks import Array
from fastdmf.backends.cuda_device import Matrices
from fastdmf.backends.cuda_objective import CudaObjective
from fastdmf.kernels.cuda.sources import BLOCK, COMBINED, share
from fastdmf.kernels.flow_rules import EXPLICIT_STAGES, MAX_STAGES, POINT

#: Sets of matrices: point and gradient, before and after a step, the gradients at the stages between, and the
#: direction of power iteration.
_SETS = 4 + EXPLICIT_STAGES - 2 + 1
DIRECTION = _SETS - 1

_NUMBER = np.dtype(np.float64)


class Sets:
    """Points, gradients and stages on the device, which change roles instead of being copied.

    All is queued, but for :meth:`read`, which waits for the numbers that were asked for before.
    """

    def __init__(self, objective: CudaObjective, curves: bool) -> None:
        self._objective, device = objective, objective.device
        shapes = objective.layout.shapes
        sizes = [rows * cols for rows, cols in shapes]
        self._count, self._size = len(shapes), sum(sizes)
        self._memory = device.empty((_SETS * self._size,), objective.dtype)
        flat = [self._memory[k * self._size :][: self._size] for k in range(_SETS)]
        self._sets, self._roles = [Matrices(one, shapes) for one in flat], list(range(_SETS))
        self._ends = device.put(np.cumsum(sizes, dtype=np.int64))
        per_thread, self._blocks = share(max(sizes), BLOCK)
        self._per_block = per_thread * BLOCK
        self._partials = device.empty((3 * self._count * self._blocks,), _NUMBER)
        # Squares of up to three sets, factor by factor, and then the losses of stages.
        self._results = device.empty((3 * self._count + MAX_STAGES,), _NUMBER)
        self._scratch, self._work = objective.scratch(curves), objective.operator.work()
        if curves:
            entries = objective.operator.support.size
            z, w = (device.empty((entries,), objective.dtype) for _ in "zw")
            self._change = self._work._replace(z=z, w=w)

    def __getitem__(self, role: int) -> Matrices:
        """The set that has a role."""
        return self._sets[self._roles[role]]

    def swap(self, role: int, other: int) -> None:
        """Let two sets change roles."""
        self._roles[role], self._roles[other] = self._roles[other], self._roles[role]

    def combine(self, out: int, *terms: tuple[int, float]) -> None:
        """Out ← Σ weight · (the set with a role), which may be ``out`` itself."""
        numbers = [self._roles[role] for role, _ in terms]
        spare = COMBINED - len(terms)
        self._objective.launch(
            "combine", (-(-self._size // BLOCK),), self._memory, self._size, self._roles[out], len(terms),
            *numbers, *numbers[:1] * spare, *(weight for _, weight in terms), *[0.0] * spare,
            self._objective.going,
        )  # fmt: skip

    def evaluate(self, point: int, gradient: int | None = None, stage: int = 0) -> None:
        """The loss at a point, to be read as that of a stage, and the gradient if it has a place."""
        o = self._objective
        ends, sums = o.compose(self[point], self._scratch), self._work.sums
        o.operator.residual(ends, o.going, self._work)
        loss = self._results[3 * self._count + stage :][:1]
        o.launch("total", (1,), sums, sums.size, 0.5 * o.problem.loss_scale, o.going, loss)
        if gradient is not None:
            o.pull_back(self[point], self._work.z, o.going, self[gradient], self._scratch)

    def hessian_times(self, direction: int, out: int) -> None:
        """Out ← H V, at the point of the flow, where it was last evaluated."""
        o = self._objective
        o.hessian_times(
            self[POINT], self[direction], self._work, self._change, o.going, self[out], self._scratch
        )

    def squares(self, *roles: int) -> None:
        """The sums of squares of up to three sets, factor by factor."""
        o, rows = self._objective, self._count * len(roles)
        numbers = [self._roles[role] for role in roles]
        o.launch(
            "set_squares", (self._blocks, rows), self._memory, self._size, self._ends, self._count, *numbers,
            *numbers[:1] * (3 - len(roles)), self._per_block, self._blocks, o.going, self._partials,
        )  # fmt: skip
        o.launch("total", (rows,), self._partials, self._blocks, 1.0, o.going, self._results)

    def read(self, sets: int, losses: int) -> tuple[Array, Array]:
        """Wait for the last squares of some sets (sets, N), and for the losses of so many stages."""
        norms = 3 * self._count
        numbers = self._objective.device.get(self._results[0 if sets else norms : norms + losses])
        if not sets:
            return np.empty((0, self._count)), numbers
        return numbers[: sets * self._count].reshape(sets, self._count), numbers[norms:]

    def test_error(self, role: int, factors: Sequence[Array]) -> float:
        """The problem's test error at a point."""
        return self._objective.test_error(self[role], self._scratch, factors)
