"""The gradient flow."""

from collections.abc import Mapping, Sequence

import numpy as np

from fastdmf._checks import Array
from fastdmf.backends import Event, Halts, thresholds
from fastdmf.backends.cpu_memory import Matrices
from fastdmf.backends.cpu_objective import NEVER, CpuObjective, Scratch
from fastdmf.backends.cpu_trajectory import CpuTrajectory
from fastdmf.backends.layout import aligned_empty, first_direction
from fastdmf.kernels import flow_rules as rules
from fastdmf.kernels.cpu.chebyshev import Chebyshev
from fastdmf.kernels.cpu.dormand_prince import DormandPrince
from fastdmf.kernels.cpu.flow import Flow, Integrator
from fastdmf.kernels.cpu.flowing import flow_on
from fastdmf.kernels.cpu.tables import Flags
from fastdmf.kernels.cpu.verbs import Bound
from fastdmf.optimizers import GradientFlow

#: Sets of matrices: point and gradient, before and after a step, and the gradients at the stages between.
_SETS = 4 + rules.EXPLICIT_STAGES - 2


class FlowTrajectory(CpuTrajectory):
    """A point of the gradient flow, at the end of a step or inside one.

    Its memory, from which it is taken up to the bit, holds the scalars, the direction of power iteration if
    the method asks for the Hessian's spectral radius, and inside a step both of its ends.
    """

    def __init__(
        self,
        objective: CpuObjective,
        optimizer: GradientFlow,
        factors: Sequence[Array],
        memory: Mapping[str, Array],
        evaluations: int,
    ) -> None:
        scratch = Scratch(objective, curves=optimizer.method == "rkc2")
        scalars = memory.get("scalars", np.zeros(rules.SLOTS))
        super().__init__(objective, optimizer, scratch, factors, scalars, evaluations)
        layout, dtype = objective.layout, objective.dtype
        self._sets = [Matrices(layout.shapes, dtype, objective.rows) for _ in range(_SETS)]
        tables = np.stack([matrices.lines for matrices in self._sets])
        self._flow = Flow(
            tables, np.arange(_SETS), float(optimizer.rtol), float(optimizer.plateau_factor),
            np.zeros(_SETS), np.zeros(rules.SLOTS),
        )  # fmt: skip
        iterates = optimizer.method == "rkc2"
        self._direction = self._direction_in(memory) if iterates else Matrices([], dtype, objective.rows)
        self._integrator = self._bind_integrator(optimizer.method)
        inside = not self.is_at_step and bool(memory)
        if inside:
            self._place(rules.POINT, [memory[f"end_{j}"] for j in range(len(factors))])
            self._place(rules.NEW_POINT, [memory[f"begin_{j}"] for j in range(len(factors))])
            self._place(rules.SHOWN, factors)
        else:
            self._place(rules.POINT, factors)
        self._is_evaluated = False
        self._evaluate(counts=not memory)
        self.evaluations = evaluations
        self.diverged = not np.isfinite(self.loss)

    def _evaluate(self, counts: bool) -> None:
        """Loss and gradient at the ends of the step where the flow is; to take it up again does not count."""
        counted = self._scalars[rules.EVALUATIONS]
        self._call(0, (), np.inf, NEVER)
        if not counts:
            self._scalars[rules.EVALUATIONS] = counted

    def _place(self, role: int, factors: Sequence[Array]) -> None:
        """Copy factors to the set with a role."""
        self._set(role).put(self.objective.layout.inward(factors))

    def _set(self, role: int) -> Matrices:
        return self._sets[self._flow.roles[role]]

    def _direction_in(self, memory: Mapping[str, Array]) -> Matrices:
        """Where power iteration starts: as it was left, or a direction that is the same for every run."""
        o = self.objective
        if memory:
            direction = [memory[f"direction_{j}"] for j in range(len(o.layout.shapes))]
        else:
            direction = first_direction(o.layout.shapes)
        return Matrices.copies(direction, o.dtype, o.rows)

    def _bind_integrator(self, method: str) -> Integrator:
        o, like = self.objective, np.empty(0, self.objective.dtype)
        explicit = Bound(DormandPrince(like), o.dtype)
        integrator = Integrator(explicit.address("attempt"), explicit.at, like)
        self._methods = [explicit]  # whose memory the integrator points to
        if method == "rkc2":
            w_dot, polynomials = aligned_empty((o.entries,), o.dtype), np.zeros((2, rules.MAX_STAGES + 1))
            linear = o.bind_operator(w_dot, linear=True)
            kind = Chebyshev(integrator, self._direction.table, w_dot, linear, polynomials)
            stabilized = Bound(kind, o.dtype)
            self._methods.append(stabilized)
            integrator = Integrator(stabilized.address("attempt"), stabilized.at, like)
        return integrator

    @property
    def is_at_step(self) -> bool:
        """Whether the current point is the end of a step, not one inside it."""
        return bool(self._scalars[rules.FRACTION] == 1.0)

    @property
    def _point(self) -> Matrices:
        return self._set(rules.POINT if self.is_at_step else rules.SHOWN)

    def _gradients(self) -> Sequence[Array]:
        if self.is_at_step:
            return self._set(rules.GRADIENT).arrays
        _, gradient = self.objective.evaluate(self._point)
        return gradient.arrays

    @property
    def gradient_norm(self) -> float:
        """Norm of the gradient at the current point, which is found if it is not known."""
        if self.is_at_step and self._scalars[rules.GRADIENT_SQUARED] >= 0.0:
            return float(np.sqrt(self._scalars[rules.GRADIENT_SQUARED]))
        return float(np.sqrt(sum(float(np.linalg.norm(g)) ** 2 for g in self._gradients())))

    def _call(self, steps: int, halts: Halts, until: float, cancels: Flags) -> Event:
        o = self.objective
        norms, loss_below, gradient_below = thresholds(halts)
        with o.holding_threads(), o.launching():
            _, event = flow_on(
                self._integrator, self._flow, self._scratch.model, o.bound_support, self._scratch.operator,
                self._scalars, self._is_evaluated, steps, norms, loss_below, gradient_below, until, cancels,
            )  # fmt: skip
        self._is_evaluated = event != Event.CANCELLED
        return Event(event)

    def advance(self, steps: int, halts: Halts = (), until: float = np.inf) -> Event:
        """Take up to ``steps`` accepted steps."""
        self.prepare()
        if not self._is_evaluated:
            self._evaluate(counts=False)
        event = self._call(steps, halts, until, self._cancels)
        self.evaluations = int(self._scalars[rules.EVALUATIONS] + 2 * self._scalars[rules.PRODUCTS])
        self.stuck = event is Event.STUCK
        return event

    def memory(self) -> dict[str, Array]:
        """The flow's memory: views that the next advance overwrites."""
        memory = {"scalars": self._scalars}
        memory |= {f"direction_{j}": v for j, v in enumerate(self._direction.arrays)}
        if not self.is_at_step:
            outward = self.objective.layout.outward
            memory |= {
                f"end_{j}": w for j, w in enumerate(outward(self._set(rules.POINT).arrays, self._rest))
            }
            begin = outward(self._set(rules.NEW_POINT).arrays, self._rest)
            memory |= {f"begin_{j}": w for j, w in enumerate(begin)}
        return memory

    def details(self) -> dict[str, float]:
        """Stages of all steps, rejected steps, and products with the Hessian."""
        counted = {"stages": rules.STAGES, "rejected": rules.REJECTED, "hessian_products": rules.PRODUCTS}
        return {name: float(self._scalars[slot]) for name, slot in counted.items()}
