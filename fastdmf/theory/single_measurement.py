"""One measurement, where each singular value has a closed form in a single scalar."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fastdmf._checks import Array, real_array
from fastdmf.theory.closed_form import real_depth
from fastdmf.theory.commuting_limit import check_fit, limit_from
from fastdmf.theory.minimum_trace import positive_part


@dataclass(frozen=True, eq=False)
class SingleMeasurement:
    """The flow on ℓ(W) = (c/2)(⟨A, W⟩ − y)² where W(0) has the singular vectors of A.

    Attributes
    ----------
    weights : (k,) ndarray
        ρ_r = u_rᵀ A v_r, with their signs.
    start, end : (k,) ndarray
        σ(0) and σ(∞), with Σ ρ_r σ_r(∞) = y.
    depth : float
        N.
    """

    weights: Array
    start: Array
    end: Array
    depth: float

    def conserved(self, sigma: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """What stays constant along the flow (equation 11 of Arora et al. 2019).

        Parameters
        ----------
        sigma : (…, k) array_like
            Singular values at any times.

        Returns
        -------
        (…, k) ndarray
            f(σ_r) − (ρ_r/ρ_q) f(σ_q), where q has the largest |ρ|, so that entry q is 0; f(σ) is σ for N = 1,
            log σ for N = 2 and σ^(−(N−2)/N) for N > 2.
        """
        sigma = np.asarray(sigma, np.float64)
        if self.depth == 1:
            f = sigma
        elif self.depth == 2:
            f = np.log(sigma)
        else:
            f = sigma ** (-(self.depth - 2.0) / self.depth)
        q = int(np.argmax(np.abs(self.weights)))
        return f - self.weights / self.weights[q] * f[..., q, None]


def single_measurement(
    weights: npt.ArrayLike, value: float, start: npt.ArrayLike, depth: float
) -> SingleMeasurement:
    """Where the flow on one measurement ends, and what it conserves on the way.

    Parameters
    ----------
    weights : (k,) array_like
        ρ_r = u_rᵀ A v_r for the singular vectors that A shares with W(0): singular values of A, up to signs.
    value : float
        The measured value y.
    start : (k,) array_like
        σ(0): positive; any real numbers for N = 1.
    depth : float
        N: 1, or any real number of at least 2.

    Returns
    -------
    SingleMeasurement
        The end point, and its conserved quantities.

    Raises
    ------
    ValueError, TypeError
        For shapes that do not fit, ρ = 0, σ(0) ≤ 0 at N ≥ 2, a depth other than 1 and ≥ 2, or a value that no
        σ ≥ 0 has.

    Notes
    -----
    Equations 10 and 11 of Arora et al. (2019).  In terms of one scalar u, σ_r(u) is σ_r(0) + uρ_r for N = 1,
    σ_r(0) e^(2uρ_r) for N = 2 and [σ_r(0)^(−(N−2)/N) − (N−2) u ρ_r]^(−N/(N−2)) for N > 2; the end is the root
    of Σ ρ_r σ_r(u) = y, which increases with u.

    Examples
    --------
    >>> import fastdmf as dmf
    >>> dmf.theory.single_measurement([2, 1], 1.0, [0.01, 0.01], depth=3).end.round(4)
    array([0.4807, 0.0386])
    """
    rho = real_array("weights", weights, ndim=1).astype(np.float64)
    sigma = real_array("start", start, ndim=1).astype(np.float64)
    y = real_array("value", value, ndim=0).astype(np.float64).reshape(1)
    if sigma.shape != rho.shape:
        raise ValueError(f"start has shape {sigma.shape}, but weights have shape {rho.shape}")
    if not rho.any():
        raise ValueError("weights are zero: nothing is measured")
    depth = real_depth(depth, 1.0)
    if 1 < depth < 2:
        raise ValueError(f"depth must be 1 or at least 2, not {depth}")
    if depth == 1:
        return SingleMeasurement(rho, sigma, sigma + rho * (y - rho @ sigma) / (rho @ rho), depth)
    if np.any(sigma <= 0):
        raise ValueError(
            f"start holds {sigma.min()}; from depth 2 on it must be positive, as 0 does not move"
        )
    end, a = np.zeros_like(sigma), rho[None, :]
    kept = positive_part(a, y)
    if kept.any():
        end[kept] = limit_from(sigma[kept], a[:, kept], y, depth)
    check_fit(a, y, end)
    return SingleMeasurement(rho, sigma, end, depth)
