"""What the judges return."""

from dataclasses import dataclass
from enum import StrEnum

from fastdmf._checks import Array


class Status(StrEnum):
    """Why a judge ended; ``advice`` says what to do about it."""

    CONVERGED = "converged"
    INFEASIBLE = "infeasible"
    STALLED = "stalled"
    MAX_ITERATIONS = "max_iterations"
    INTERRUPTED = "interrupted"

    @property
    def advice(self) -> str:
        """One sentence on what the status means and what to try."""
        return _ADVICE[self]


_ADVICE = {
    Status.CONVERGED: "The tolerance was reached.",
    Status.INFEASIBLE: "No matrix has these measurements: check the values of dependent measurements; with "
    "psd=True the dual proves that any positive semidefinite one has an enormous trace.",
    Status.STALLED: "The bounds stopped approaching each other; they hold as they are, and a larger tol "
    "accepts them. If upper is infinite, no positive semidefinite matrix with these measurements was found: "
    "there may be none, or none but in the limit of ever larger ones, or only a single one.",
    Status.MAX_ITERATIONS: "The iterations ran out; the bounds hold as they are: raise max_iterations, or "
    "continue with init=.",
    Status.INTERRUPTED: "Ctrl-C came; the bounds hold as they are: continue with init=.",
}


class Uniqueness(StrEnum):
    """Whether another matrix is optimal as well, decided numerically."""

    UNIQUE = "unique"
    NOT_UNIQUE = "not unique"
    UNDECIDED = "undecided"


@dataclass(frozen=True, eq=False)
class Minimum:
    """A matrix of minimum nuclear norm, with the dual that proves it.

    Attributes
    ----------
    matrix : (n, p) ndarray
        The primal point W; positive semidefinite for ``psd=True``.
    dual : (m,) ndarray
        λ with ‖A*(λ)‖ ≤ 1 in operator norm; with λ_max(A*(λ)) ≤ 1 for ``psd=True``.  If the problem is
        infeasible: a ray with A*(λ) = 0, or A*(λ) ⪯ 0, and yᵀλ > 0.
    upper : float
        ‖W‖_*, infinite if no matrix with these measurements was found.
        Exact for a completion without ``psd``; otherwise W fits to ``violation``, and the norm of an exact
        fit may be longer by about ‖λ‖₁ violation.
    lower : float
        yᵀλ less what rounding may have added to it, infinite if the problem is infeasible.
    violation : float
        max_i |A(W)_i − y_i|.
    rank : int
        Number of singular values of the optimum, as far as the bounds tell it: those σ_i of W for which
        σ_i/‖W‖_* exceeds 1 − u_iᵀ A*(λ) v_i.
    iterations : int
        Iterations of the solver.
    status : Status
        Why the solver ended; ``status.advice`` says what to do.
    unique : Uniqueness
        Whether W is the only optimum: "unique", "not unique" or, for one where the gap is above 1e-5,
        "undecided".
    """

    matrix: Array
    dual: Array
    upper: float
    lower: float
    violation: float
    rank: int
    iterations: int
    status: Status
    unique: Uniqueness

    @property
    def gap(self) -> float:
        """(upper − lower)/lower: no matrix with these measurements is shorter by more than this fraction.

        Infinite if there is no such matrix, or none was found.
        """
        return relative_gap(self.upper, self.lower)

    def __repr__(self) -> str:
        n, p = self.matrix.shape
        return (
            f"<Minimum {n}×{p}, nuclear norm {self.upper:.10g}, gap {self.gap:.1e}, rank {self.rank}, "
            f"{self.unique}, {self.status}>"
        )


def relative_gap(upper: float, lower: float) -> float:
    """(upper − lower)/lower, at least 0; infinite while either bound says nothing."""
    if upper <= lower < float("inf"):
        return 0.0
    return (upper - lower) / lower if 0.0 < lower < float("inf") else float("inf")
