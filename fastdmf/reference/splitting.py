"""Over-relaxed Douglas–Rachford splitting with Anderson acceleration, for min ‖W‖_* s.t. Â(W) = ŷ.

The iterate is z = W + D with Â(W) = ŷ and D = t Â*(l); at a fixed point W is optimal and l its dual.

    X  = prox_t(z)                        singular values, or eigenvalues, less t
    a  = Â(X) − ŷ
    z⁺ = z + α (X − W − 2 Â*(a)),   D⁺ = D − α Â*(a)

References: Eckstein & Bertsekas (1992); Walker & Ni (2011); for the certificates, `certificates`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from fastdmf._checks import Array
from fastdmf.reference.anderson import Anderson
from fastdmf.reference.certificates import FARKAS, feasible_psd, lower_bound
from fastdmf.reference.operators import Measurements
from fastdmf.reference.outcome import Status, relative_gap
from fastdmf.reference.spectral import Penalty, Shrunk

RELAXATION = 1.8
#: How many numbers acceleration may keep.
LARGEST_MEMORY = 2.5e7
#: Iterations before acceleration starts.
PLAIN = 20
#: Plain iterations after acceleration failed.
REST = 20
#: The bounds are stalled when the gap has not fallen by a tenth over so many iterations.
PATIENCE = 2000


@dataclass
class Start:
    """Where to begin: a matrix, and a dual matrix Y ≈ A*(λ) with ‖Y‖ ≤ 1."""

    matrix: Array
    dual_matrix: Array


@dataclass
class Bracket:
    """The best primal and dual points so far."""

    point: Array
    dual: Array
    upper: float = float("inf")
    lower: float = 0.0

    @property
    def gap(self) -> float:
        """(upper − lower)/lower."""
        return relative_gap(self.upper, self.lower)


@dataclass
class Outcome:
    """Where the splitting ended, in orthonormal coordinates."""

    best: Bracket
    iterations: int
    status: Status


class Splitting(ABC):
    """A state that iterations carry towards the optimum."""

    #: Iterations between looks at the bounds.
    look: int
    #: The current X.
    x: Shrunk

    @abstractmethod
    def advance(self, accelerate: bool) -> None:
        """One iteration."""

    def tune(self) -> None:  # noqa: B027
        """Adapt t; by default it stays."""

    @abstractmethod
    def improve(self, best: Bracket, tol: float, thorough: bool) -> None:
        """Update the bounds from the current iterate; ``thorough`` even if it cannot close the gap."""

    def is_infeasible(self, best: Bracket) -> bool:
        """Whether nothing satisfies the measurements."""
        return False


class DouglasRachford(Splitting):
    """The state z = W + D of the splitting, in units in which ‖Â*(ŷ)‖ = 1."""

    look = 10

    def __init__(self, operator: Measurements, penalty: Penalty, values: Array, start: Start | None) -> None:
        self.operator, self.penalty, self.values = operator, penalty, values
        self.least_squares = operator.adjoint(values)
        n, p = operator.shape
        self.threshold = 0.3
        self.z, self.d = self.least_squares, np.zeros((n, p))
        if start is not None:
            self.d = self.threshold * operator.adjoint(operator.measure(start.dual_matrix))
            feasible = start.matrix - operator.adjoint(operator.measure(start.matrix) - values)
            self.z = feasible + self.d
        memory = min(operator.memory, 5 + int(LARGEST_MEMORY / (3 * n * p)))
        self.anderson = Anderson(memory, n * p)
        self.images = np.zeros((memory, 2, n, p))  # (z⁺, D⁺) of past iterations
        self.fallback = self.z, self.d  # the plain step from where the residual was least
        self.resting = 0
        self.shrink()

    def shrink(self) -> None:
        """X, a = Â(X) − ŷ and Â*(a) at the current z: the only two passes over the measurements."""
        self.x = self.penalty.shrink(self.z, self.threshold)
        self.x_matrix = self.x.matrix
        self.miss = self.operator.measure(self.x_matrix) - self.values
        self.back = self.operator.adjoint(self.miss)

    def advance(self, accelerate: bool) -> None:
        """One iteration."""
        step = RELAXATION * (self.x_matrix - (self.z - self.d) - 2.0 * self.back)
        z, d = self.z + step, self.d - RELAXATION * self.back
        if self.resting:
            self.resting -= 1
        elif accelerate and self.anderson.failed(step):
            z, d = self.fallback
            self.anderson.forget()
            self.resting = REST
        elif accelerate:
            if np.linalg.norm(step) < self.anderson.smallest:
                self.fallback = z, d
            slot, weights = self.anderson.add(step.ravel())
            self.images[slot] = z, d
            z, d = (weights @ self.images[: weights.size].reshape(weights.size, -1)).reshape(2, *z.shape)
        self.z, self.d = z, d
        self.shrink()

    def tune(self) -> None:
        """Set t to three times the geometric mean of the singular values of X.

        The local rate is that of the weights σ_i/(σ_i + t(1 − s_j)) between the singular values σ_i of X and
        s_j < 1 of A*(λ), which spread least when t is of the size of σ.  Near the phase transition most
        σ_i are a hundredth of the first ones, and this t saves two thirds of the iterations.
        """
        if not self.x.values.size:
            return
        wanted = float(np.clip(3.0 * np.exp(np.mean(np.log(self.x.values))), 0.01, 1.0))
        if max(wanted / self.threshold, self.threshold / wanted) < 1.3:
            return
        d = self.d * (wanted / self.threshold)
        self.z, self.d, self.threshold = self.z - self.d + d, d, wanted
        self.anderson.forget()
        self.shrink()

    def improve(self, best: Bracket, tol: float, thorough: bool) -> None:
        """Update the bounds from the current iterate, in one pass over the measurements."""
        dual = self.operator.measure(self.d) / self.threshold
        if thorough:  # D drifts from the range of Â* by rounding; put it back
            d = self.threshold * self.operator.adjoint(dual)
            self.z, self.d = self.z + (d - self.d), d
        lower, scaled = lower_bound(self.values, dual, self.penalty.dual_norm(self.d / self.threshold))
        if lower > best.lower:
            best.lower, best.dual = lower, scaled
        if not self.penalty.psd:
            point: Array | None = self.x_matrix - self.back
        elif thorough or abs(float(self.x.values.sum()) - best.lower) <= 10.0 * tol * best.lower:
            # Gauss–Newton is worth its price when X is nearly feasible and the gap may close.
            point = feasible_psd(self.operator, self.x, self.values)
        else:
            return
        if point is not None:
            upper = self.penalty.value(point)
            if upper < best.upper:
                best.point, best.upper = point, upper  # in this order: an interruption may come between

    def is_infeasible(self, best: Bracket) -> bool:
        """Whether, for ``psd``, the dual or its direction proves any feasible X to be enormous."""
        if not self.penalty.psd or best.upper < np.inf:
            return False
        ray = -self.miss
        bound, _ = lower_bound(self.values, ray, self.penalty.dual_norm(self.operator.adjoint(ray)))
        if bound > best.lower:
            best.lower, best.dual = bound, ray
        return best.lower > FARKAS


def iterate(state: Splitting, nothing: Bracket, tol: float, max_iterations: int) -> Outcome:
    """Iterate from a state until (upper − lower)/lower ≤ tol."""
    best, status, done = nothing, Status.MAX_ITERATIONS, 0
    smallest, at = float("inf"), 0
    try:
        while done < max_iterations:
            if done >= 40 and done % 40 == 0 and (done // 40).bit_count() == 1:  # 40, 80, 160, …
                state.tune()
            state.advance(accelerate=done >= PLAIN)
            done += 1
            if done % state.look and done < max_iterations:
                continue
            state.improve(best, tol, thorough=done % (10 * state.look) == 0 or done == max_iterations)
            if state.is_infeasible(best):
                status = Status.INFEASIBLE
                break
            if best.gap <= tol:
                status = Status.CONVERGED
                break
            if best.gap < 0.9 * smallest:
                smallest, at = best.gap, done
            elif done - at >= PATIENCE:
                status = Status.STALLED
                break
    except KeyboardInterrupt:
        status = Status.INTERRUPTED
    if best.upper == np.inf:
        best.point = state.x.matrix
    return Outcome(best, done, status)


def solve(
    operator: Measurements, penalty: Penalty, tol: float, start: Start | None, max_iterations: int
) -> Outcome:
    """Minimize the norm subject to Â(W) = ŷ."""
    size = float(np.linalg.norm(operator.adjoint(operator.values), 2))
    nothing = Bracket(np.zeros(operator.shape), np.zeros_like(operator.values))
    if size == 0.0:
        nothing.upper = 0.0
        return Outcome(nothing, 0, Status.CONVERGED)
    state = DouglasRachford(operator, penalty, operator.values / size, in_units(start, size))
    return in_original_units(iterate(state, nothing, tol, max_iterations), size)


def in_units(start: Start | None, size: float) -> Start | None:
    """The start for the measurements y/size."""
    return None if start is None else Start(start.matrix / size, start.dual_matrix)


def in_original_units(outcome: Outcome, size: float) -> Outcome:
    """The outcome for y, from that for y/size."""
    best = outcome.best
    best.point = best.point * size
    best.upper *= size
    best.lower *= size
    return outcome
