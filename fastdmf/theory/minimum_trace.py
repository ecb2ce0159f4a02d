"""The linear program that commuting flows solve as the start shrinks."""

from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import OptimizeResult, linprog

from fastdmf._checks import Array, real_array

#: Tolerance of the linear programs, on measurements and values scaled to one.
TOLERANCE = 1e-9


@dataclass(frozen=True, eq=False)
class MinimumTrace:
    """An optimum of min Σ x s.t. a x = y, x ≥ 0, with the dual that proves it.

    Attributes
    ----------
    eigenvalues : (d,) ndarray
        x, a vertex of the feasible set.
    value : float
        Σ x, the minimum trace.
    dual : (m,) ndarray
        λ with aᵀλ ≤ 1 up to rounding, and yᵀλ = Σ x.
    support : (d,) ndarray of bool
        Which eigenvalues are positive in some optimum.
    unique : bool
        Whether x is the only optimum.
    """

    eigenvalues: Array
    value: float
    dual: Array
    support: Array
    unique: bool


def minimum_trace(eigenvalues: npt.ArrayLike, values: npt.ArrayLike) -> MinimumTrace:
    """Solve min Σ x s.t. a x = y, x ≥ 0: where commuting flows end as α → 0.

    Parameters
    ----------
    eigenvalues : (m, d) array_like
        Row i holds the eigenvalues a_i of A_i = Q diag(a_i) Qᵀ.
    values : (m,) array_like
        The measured values y.

    Returns
    -------
    MinimumTrace
        A vertex, its dual, and whether it is the only optimum.

    Raises
    ------
    ValueError, TypeError
        For shapes that do not fit, values that are not finite, or y outside the cone {a x : x ≥ 0}.

    Notes
    -----
    Theorem 1 of Gunasekar et al. (2017) and Theorem 2 of Arora et al. (2019).  Where the optimum is not
    unique, :func:`commuting_limit` with ``alpha=0`` tells which one the flow of each depth chooses.

    Examples
    --------
    >>> import fastdmf as dmf
    >>> best = dmf.theory.minimum_trace([[1, 0, 0.5], [0, 1, 0.25]], [1, 1])
    >>> best.eigenvalues.tolist(), best.value, best.dual.tolist(), best.unique
    ([1.0, 1.0, 0.0], 2.0, [1.0, 1.0], True)
    """
    a, y = measurements(eigenvalues, values)
    return solve(a, y)


def measurements(eigenvalues: npt.ArrayLike, values: npt.ArrayLike) -> tuple[Array, Array]:
    """The checked arrays a, (m, d), and y, (m,), in float64."""
    a = real_array("eigenvalues", eigenvalues, ndim=2).astype(np.float64)
    y = real_array("values", values, ndim=1).astype(np.float64)
    if a.size == 0:
        raise ValueError(f"eigenvalues is empty, of shape {a.shape}: one measurement at least is needed")
    if y.size != len(a):
        raise ValueError(f"{len(a)} rows of eigenvalues, but {y.size} values")
    return a, y


def solve(a: Array, y: Array) -> MinimumTrace:
    """The minimum-trace program for checked arrays."""
    rows, unit = _scales(a, y)
    found = _program(np.ones(a.shape[1]), a / rows, y / rows[:, 0] / unit)
    # The solver drops tiny numbers, so both vectors are computed anew from the columns it chose.
    x = np.asarray(found.x) * unit
    basic = x > TOLERANCE * unit
    x[~basic] = 0.0
    x[basic] = np.linalg.lstsq(a[:, basic], y)[0]
    dual = np.asarray(found.eqlin.marginals) / rows[:, 0]
    tight = np.abs(1.0 - a.T @ dual) < 100.0 * TOLERANCE
    dual += np.linalg.lstsq(a[:, tight].T, 1.0 - a[:, tight].T @ dual)[0]
    support = np.zeros(a.shape[1], bool)
    support[tight] = positive_part(a[:, tight], y)
    unique = int(np.linalg.matrix_rank(a[:, support])) == int(support.sum())
    return MinimumTrace(x, float(x.sum()), dual, support, unique)


def positive_part(a: Array, y: Array) -> Array:
    """Which x_k are positive for some x ≥ 0 with a x = y, (d,) of bool; a ValueError if there is no such x.

    One program finds all: max Σ t s.t. a x = τ y, t ≤ x, 0 ≤ t ≤ 1, τ ≥ 1.  Large τ make room for small x.
    """
    d = a.shape[1]
    rows, unit = _scales(a, y)
    scaled = a / rows
    columns = np.hstack([scaled, scaled, -(y[:, None] / rows / unit)])  # x = t + (x − t)
    cost = np.concatenate([-np.ones(d), np.zeros(d + 1)])

    def found(largest: float) -> Array:
        bounds = [(0.0, 1.0)] * d + [(0.0, None)] * d + [(1.0, largest)]
        return np.asarray(_program(cost, columns, np.zeros(len(y)), bounds).x[:d]) > 1e-3

    for largest in (1e9, 1e6):  # where rounding has put y beside the cone, large τ show it
        with suppress(ValueError, RuntimeError):
            return found(largest)
    return found(1e3)


def _scales(a: Array, y: Array) -> tuple[Array, float]:
    """The largest entry of each row of a, (m, 1), and then of y; 1 instead of 0."""
    rows = np.max(np.abs(a), axis=1, keepdims=True, initial=0.0)
    rows[rows == 0] = 1.0
    return rows, float(np.max(np.abs(y / rows[:, 0]))) or 1.0


def _program(cost: Array, a: Array, y: Array, bounds: object = (0.0, None)) -> OptimizeResult:
    """The optimum of a linear program with equalities; a ValueError if nothing is feasible."""
    for tolerance in (TOLERANCE, 100.0 * TOLERANCE):
        limits = {"primal_feasibility_tolerance": tolerance, "dual_feasibility_tolerance": tolerance}
        found = linprog(cost, A_eq=a, b_eq=y, bounds=bounds, method="highs", options=limits)
        if found.status == 0:
            break  # otherwise the solver may have lost its way, which it does where y is beside the cone
    if found.status == 2:
        raise ValueError(
            "values lie outside the cone {a x : x ≥ 0}: no positive semidefinite matrix with these "
            "eigenvectors has them, and the flow ends at a misfit"
        )
    if found.status != 0:
        raise RuntimeError(f"the linear program was not solved: {found.message}")
    return found
