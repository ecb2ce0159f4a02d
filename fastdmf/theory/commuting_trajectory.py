"""The flow on commuting measurements in time, through m numbers instead of d² N."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.integrate import solve_ivp

from fastdmf._checks import Array, one_of, positive, real_array
from fastdmf.problems.base import LOSS_SCALES
from fastdmf.theory.closed_form import eigenvalue, real_depth
from fastdmf.theory.commuting_limit import leading, scale_of, start_of
from fastdmf.theory.minimum_trace import measurements

#: Largest residual, relative to the values, at which the flow counts as having arrived.
ARRIVED = 1e-14


def commuting_trajectory(
    eigenvalues: npt.ArrayLike,
    values: npt.ArrayLike,
    alpha: float,
    depth: float,
    times: npt.ArrayLike,
    *,
    loss: str = "mean",
    symmetric: bool = False,
) -> npt.NDArray[np.float64]:
    """Eigenvalues of W(t) along the gradient flow, for measurements A_i = Q diag(a_i) Qᵀ.

    Parameters
    ----------
    eigenvalues : (m, d) array_like
        Row i holds the eigenvalues a_i of A_i, in an order common to all.
    values : (m,) array_like
        The measured values y.
    alpha : float
        The start W_j(0) = αI, so that W(0) = α^N I; U(0) = αI for UUᵀ.
    depth : float
        N: 1, or any real number of at least 2.
    times : (T,) array_like
        Flow times t ≥ 0 in ascending order, in the unit in which Σ lr counts.
    loss : {"mean", "half_sum", "half_mean"}
        Normalization (c/2)‖A(W) − y‖² of the loss, which sets the clock: c = 2/m, 1 or 1/m.
    symmetric : bool
        The flow of UUᵀ, which runs twice as fast as that of depth 2; needs ``depth=2``.

    Returns
    -------
    (T, d) ndarray
        x(t), so that W(t) = Q diag(x(t)) Qᵀ.

    Raises
    ------
    ValueError, TypeError
        For shapes that do not fit, values that are not finite, α ≤ 0, depths other than 1 and ≥ 2, times that
        are negative or descend, ``symmetric`` at another depth than 2.
    RuntimeError
        If the integration fails.

    Notes
    -----
    x' = −N g x^(2−2/N) with g = c Σ_i r_i a_i and r = a x − y, −4 g x for UUᵀ (Theorem 1 of Gunasekar et al.
    2017, Theorem 2 of Arora et al. 2019).  In closed form x = α² exp(2cu), or α² exp(4cu) for UUᵀ, and
    x = [α^−(N−2) − (N−2) c u]^(−N/(N−2)) for N > 2, where u = Σ_i s_i a_i and s = ∫ (y − A(W)) dt.  What is
    integrated is s, by Dormand and Prince's method of order 8.  Times themselves are only known to their
    rounding: where x changes fast after a plateau of length T, x(t) is known to about 1e-16 T |x'|.

    Examples
    --------
    >>> import fastdmf as dmf
    >>> dmf.theory.commuting_trajectory([[1.0]], [1.0], 0.1, 2, [0, 5, 50], loss="half_sum").round(6)
    array([[0.01    ],
           [0.995526],
           [1.      ]])
    """
    flow = commuting_flow(eigenvalues, values, alpha, depth, loss, symmetric)
    when = flow_times(times)
    nu = flow.integrate(when, lambda nu: flow.velocity(flow.at(nu)), flow.start)
    return flow.unit * np.array([flow.at(state) for state in nu])


def flow_times(times: npt.ArrayLike) -> Array:
    """``times`` as an ascending vector, (T,)."""
    when = real_array("times", times, ndim=1).astype(np.float64)
    if when.size == 0:
        raise ValueError("times is empty: ask for one time at least")
    if when[0] < 0:
        raise ValueError(f"times[0] = {when[0]} is negative; the flow starts at 0")
    falls = np.flatnonzero(np.diff(when) < 0)
    if falls.size:
        k = int(falls[0])
        raise ValueError(f"times must ascend, but times[{k + 1}] = {when[k + 1]} follows {when[k]}")
    return when


@dataclass(frozen=True, eq=False)
class CommutingFlow:
    """The flow in units in which eigenvalues are of order one.

    Attributes
    ----------
    a, y : (m, d) and (m,) ndarray
        The measurements, and their values in units of ``unit``.
    depth, rate : float
        N, and the scale c of the loss in the rescaled time; twice that for UUᵀ.
    unit, clock : float
        Units of eigenvalues, and of inverse time.
    base : (d,) ndarray
        v at ν = 0.
    start : (m,) ndarray
        ν at t = 0: v = base − aᵀν, in which nothing cancels but at the start, where it does no harm.
    """

    a: Array
    y: Array
    depth: float
    rate: float
    unit: float
    clock: float
    base: Array
    start: Array

    def at(self, nu: Array) -> Array:
        """The eigenvalues x, (d,), in units of ``unit``."""
        return eigenvalue(self.base - self.a.T @ nu, self.depth)

    def residual(self, x: Array) -> Array:
        """R = a x − y, (m,)."""
        return self.a @ x - self.y

    def velocity(self, x: Array) -> Array:
        """dν/dt = −c r, so that v' = c Σ_i r_i a_i."""
        return -self.rate * self.residual(x)

    def integrate(self, times: Array, velocity: Callable[[Array], Array], start: Array) -> Array:
        """The states at ``times``, (T, k), whose first m components are ν; constant once r vanishes."""
        m, size = len(self.y), ARRIVED * float(np.max(np.abs(self.a)))

        def misfit(_: float, state: Array) -> float:
            return float(np.max(np.abs(self.residual(self.at(state[:m]))))) - size

        misfit.terminal, misfit.direction = True, -1.0  # type: ignore[attr-defined]
        states, state, now = [], start, 0.0
        for time in times * self.clock:  # one call for each time: what lies between steps is less accurate
            if time > now:
                found = solve_ivp(
                    lambda _, state: velocity(state),
                    (now, time), state, method="DOP853", rtol=3e-14, atol=1e-15, events=misfit,
                )  # fmt: skip
                if not found.success:
                    raise RuntimeError(f"the flow was not integrated beyond {now}: {found.message}")
                state, now = found.y[:, -1], (time if found.status == 0 else np.inf)
            states.append(state)
        return np.array(states)


def commuting_flow(
    eigenvalues: npt.ArrayLike, values: npt.ArrayLike, alpha: float, depth: float, loss: str, symmetric: bool
) -> CommutingFlow:
    """The flow for checked arguments of :func:`commuting_trajectory`."""
    a, y = measurements(eigenvalues, values)
    alpha, depth = positive("alpha", alpha), real_depth(depth, 1.0)
    if 1 < depth < 2:
        raise ValueError(
            f"depth must be 1 or at least 2, not {depth}: in between eigenvalues reach 0 and stick"
        )
    if symmetric and depth != 2:
        raise ValueError(f"symmetric=True is the flow of UUᵀ, which counts as depth 2, not {depth}")
    x_start = np.full(a.shape[1], alpha**depth)
    unit = scale_of(a, y, x_start)
    base, start = start_of(x_start / unit, depth), np.zeros(len(a))
    if depth > 1:
        try:
            offsets = leading(a, y, base, depth)
        except ValueError:  # y outside the cone: no minimum trace to lean on, and no limit either
            pass
        else:
            base, start = offsets.at(start), -offsets.nu
    rate = LOSS_SCALES[one_of("loss", loss, tuple(LOSS_SCALES))](len(y)) * (2.0 if symmetric else 1.0)
    return CommutingFlow(a, y / unit, depth, rate, unit, unit ** (2.0 - 2.0 / depth), base, start)
