"""Where flows on commuting measurements end, from every finite start αI, and for α → 0."""

import numpy as np
import numpy.typing as npt
import scipy.linalg

from fastdmf._checks import Array, positive
from fastdmf.theory.closed_form import coordinate, eigenvalue, real_depth
from fastdmf.theory.dual import Offsets, descend, pivoted_qr
from fastdmf.theory.minimum_trace import measurements, positive_part, solve

#: Rows of a this close to the span of others, relative to the largest, are dependent.
DEPENDENT = 1e-11
#: Misfit of a limit, relative to the values, above which the values contradict each other.
CONTRADICTION = 1e-9


def commuting_limit(
    eigenvalues: npt.ArrayLike, values: npt.ArrayLike, alpha: float, depth: float
) -> npt.NDArray[np.float64]:
    """Eigenvalues of the limit of the gradient flow for measurements A_i = Q diag(a_i) Qᵀ.

    Parameters
    ----------
    eigenvalues : (m, d) array_like
        Row i holds the eigenvalues a_i of A_i, in an order common to all.
    values : (m,) array_like
        The measured values y.
    alpha : float
        The start: every factor is αI, or α times orthogonal matrices whose product is I, so that
        W(0) = α^N I; for UUᵀ, U(0) = αO with any orthogonal O.  0 gives the limit of the limits.
    depth : float
        N ≥ 2, not necessarily an integer; UUᵀ has the limits of N = 2.

    Returns
    -------
    (d,) ndarray
        The eigenvalues x of the limit W = Q diag(x) Qᵀ.

    Raises
    ------
    ValueError, TypeError
        For shapes that do not fit, values that are not finite, α < 0, depth < 2, a start α^−(N−2) that
        overflows, or y outside the cone {a x : x ≥ 0}, where the flow does not reach zero loss.

    Notes
    -----
    The limit minimizes Σ x log(x/α²) − x for N = 2 and Σ x − (N/2) α^(N−2) x^(2/N) for N > 2, subject to
    a x = y and x ≥ 0.  It does not depend on the normalization of the loss.  The dual is solved by Newton's
    method, and eigenvalues of order one are exact to a few units of rounding, times the condition of a.

    Both objectives tend to Σ x as α → 0: Theorem 1 of Gunasekar et al. (2017) and Theorem 2 of Arora et al.
    (2019).  If several x share the minimum trace, ``alpha=0`` gives the one of maximum entropy for N = 2, and
    that of maximum Σ x^(2/N) for N > 2.

    Eigenvalues that vanish for every feasible x are returned as 0.  The flow approaches such a limit
    only algebraically in time: choose y with as many positive eigenvalues as measurements to avoid it.

    Examples
    --------
    >>> import fastdmf as dmf
    >>> a, y = [[1, 0, 0.5], [0, 1, 0.25]], [1, 1]
    >>> dmf.theory.commuting_limit(a, y, alpha=1e-4, depth=2).round(4)
    array([0.995 , 0.9975, 0.01  ])
    >>> dmf.theory.commuting_limit(a, y, alpha=0, depth=3)
    array([1., 1., 0.])
    """
    a, y = measurements(eigenvalues, values)
    alpha, depth = positive("alpha", alpha, zero=True), real_depth(depth)
    x = np.zeros(a.shape[1])
    if alpha == 0.0:
        # On the face of optima Σ x = λᵀy is constant, so every α selects what α → 0 does.
        kept, unit = solve(a, y).support, float(np.max(np.abs(y)))
        start = np.full(a.shape[1], unit)
    else:
        kept = positive_part(a, y)
        start = np.full(a.shape[1], alpha**depth)
    if kept.any():
        x[kept] = limit_from(start[kept], a[:, kept], y, depth)
    check_fit(a, y, x)
    return x


def check_fit(a: Array, y: Array, x: Array) -> None:
    """A ValueError if x does not have its measurements."""
    misfit = np.abs(a @ x - y)
    allowed = CONTRADICTION * (np.abs(y) + np.max(np.abs(a), axis=1) * float(x.max()))
    k = int(np.argmax(misfit - allowed))
    if not misfit[k] <= allowed[k]:
        raise ValueError(
            f"values[{k}] = {y[k]} is missed by {misfit[k]:.1e}: the values contradict each other, or lie "
            "too close to the boundary of the cone {a x : x ≥ 0}"
        )


def limit_from(x_start: Array, a: Array, y: Array, depth: float) -> Array:
    """The limit of the flow from positive eigenvalues x_start, (d,), given that a x = y for some x > 0."""
    a, y = _independent(a, y)
    rows = np.ldexp(1.0, np.frexp(np.max(np.abs(a), axis=1))[1])  # powers of two: nothing is rounded
    a, y = a / rows[:, None], y / rows
    if len(a) == 0:
        return x_start  # nothing is measured, so nothing moves
    unit = scale_of(a, y, x_start)
    v_start = start_of(x_start / unit, depth)
    offsets = leading(a, y, v_start, depth) if np.ptp(v_start) == 0.0 else Offsets(a, v_start)
    return descend(offsets, a, y / unit, depth) * unit


def scale_of(a: Array, y: Array, x_start: Array) -> float:
    """A size of eigenvalues, in units of which the coordinates v of the limit are of order one."""
    largest = np.max(np.abs(a), axis=1)
    sizes = np.abs(y[largest > 0]) / largest[largest > 0]
    return max(float(x_start.max()), float(sizes.max(initial=0.0)))


def start_of(x_start: Array, depth: float) -> Array:
    """The coordinates v(0) of a start; a ValueError if it is too small for them."""
    least = float(x_start.min())
    if least >= np.finfo(float).tiny:
        with np.errstate(over="ignore"):
            v = coordinate(x_start, depth)
        if np.isfinite(v).all():
            return v
    raise ValueError(
        f"the start is too small for depth {depth:g}: eigenvalues of W(0) are {least:.1e} times those of the "
        "limit, and α^N or α^−(N−2) leaves the range of numbers"
    )


def leading(a: Array, y: Array, v_start: Array, depth: float) -> Offsets:
    """ν where the eigenvalues that lead as α → 0 are one and all others smaller, from equal v(0).

    That is ν = v(0) λ with λ the dual of the minimum trace, so that v = v(0) (1 − aᵀλ).  It is found by
    refinement on as many independent columns as there are rows; if it cannot be, ν = 0, a slower start.
    """
    offsets, still = Offsets(a, v_start), np.zeros(len(a))
    tight = np.flatnonzero(np.abs(1.0 - a.T @ solve(a, y).dual) < 1e-8)
    if tight.size < len(a):
        return offsets
    r, order = pivoted_qr(a[:, tight])
    if abs(r[-1, len(a) - 1]) < 1e-8 * abs(r[0, 0]):
        return offsets
    chosen = tight[order[: len(a)]]
    factors = scipy.linalg.lu_factor(a[:, chosen].T)
    for _ in range(100):  # each round gains what one solution is accurate to
        v = offsets.at(still)
        if np.max(np.abs(v[chosen])) < 1e-3:
            return offsets if np.isfinite(eigenvalue(v, depth)).all() else Offsets(a, v_start)
        offsets.move(scipy.linalg.lu_solve(factors, v[chosen]))
    return Offsets(a, v_start)


def _independent(a: Array, y: Array) -> tuple[Array, Array]:
    """Rows of a that span all of them, and their values."""
    sizes = np.max(np.abs(a), axis=1, keepdims=True)
    sizes[sizes == 0] = 1.0
    r, order = pivoted_qr((a / sizes).T)
    pivots = np.abs(np.diag(r))
    kept = np.sort(order[: pivots.size][pivots > DEPENDENT * pivots[0]])
    return a[kept], y[kept]
