"""How perturbations grow that leave the commuting trajectory, predicted and measured."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fastdmf._checks import Array, positive
from fastdmf.theory.closed_form import real_depth, speed
from fastdmf.theory.commuting_trajectory import commuting_flow, flow_times
from fastdmf.theory.product_flow import coupling, product_flow


@dataclass(frozen=True, eq=False)
class Instability:
    """Growth of off-diagonal perturbations δ of W(t) = Q (diag x(t) + δ(t)) Qᵀ.

    Attributes
    ----------
    times : (T,) ndarray
        Flow times.
    eigenvalues : (T, d) ndarray
        x(t) of the unperturbed trajectory.
    predicted_symmetric, predicted_skew : (T, d, d) ndarray
        log |s_kl(t)/s_kl(0)| for s = (δ + δᵀ)/2, and the same for (δ − δᵀ)/2, from the linearized flow.  The
        diagonal is 0.
    measured_symmetric, measured_skew : (T, d, d) ndarray
        The same from integrating the flow of the perturbed product; −∞ or meaningless where it has
        decayed below rounding, and less than predicted once the perturbation is not small any more.
    """

    times: Array
    eigenvalues: Array
    predicted_symmetric: Array
    predicted_skew: Array
    measured_symmetric: Array
    measured_skew: Array


def commuting_instability(
    eigenvalues: npt.ArrayLike,
    values: npt.ArrayLike,
    alpha: float,
    depth: float,
    times: npt.ArrayLike,
    *,
    loss: str = "mean",
    perturbation: float = 1e-6,
) -> Instability:
    """Perturb the product of a commuting flow off its diagonal, and compare the growth with that predicted.

    Parameters
    ----------
    eigenvalues, values, alpha, times, loss
        As in :func:`commuting_trajectory`.
    depth : float
        N ≥ 2, not necessarily an integer; the factors are balanced.
    perturbation : float
        δ_kl(0)/α^N for k < l; the entries below the diagonal start at 0, so that the symmetric and the skew
        part of δ are half as large.

    Returns
    -------
    Instability
        Logarithms of the growth of every entry, predicted and measured.

    Raises
    ------
    ValueError, TypeError
        As :func:`commuting_trajectory`; for a perturbation that is not positive.
    RuntimeError
        If the perturbed flow cannot be integrated.

    Notes
    -----
    Off-diagonal entries are not measured, so that to first order the residual does not change.  Then every
    pair (k, l) has its own linear equation, s' = μ s for the symmetric part and w' = ω w for the skew one:

        μ = [x_k' − x_l' + K_kl (g_k − g_l)]/(x_k − x_l),    ω = [x_k' + x_l' + K_kl (g_k + g_l)]/(x_k + x_l),

    with g = c Σ_i r_i a_i, x' = −N g x^(2−2/N) and K of :func:`coupling`: the derivative of Lemma 3 of Arora
    et al. (2019), by divided differences of matrix powers.  For N = 2, μ = −(g_k + g_l), so that s follows
    √(x_k x_l).  For N > 2, an eigenvalue l that waits while x_k is of order one, and g_k ≈ 0, has
    μ ≈ −g_l x_k^(1−2/N) > 0 for a time of order α^−(N−2): growth is exp(const · α^−(N−2)), and rounding
    errors of a rotated basis Q are enough to leave the trajectory.

    Examples
    --------
    >>> import fastdmf as dmf
    >>> a, y = [[1.0, 0.1, 0.0], [0.0, 0.5, 0.3]], [1.0, 1.0]
    >>> grown = dmf.theory.commuting_instability(a, y, 0.1, 3, [0, 50], loss="half_sum")
    >>> bool(grown.predicted_symmetric[-1, 0, 1] > 5)
    True
    """
    depth = real_depth(depth)
    flow, when = commuting_flow(eigenvalues, values, alpha, depth, loss, symmetric=False), flow_times(times)
    size = positive("perturbation", perturbation)
    d, m = flow.a.shape[1], len(flow.y)

    def velocity(state: Array) -> Array:
        x = flow.at(state[:m])
        g = flow.rate * flow.a.T @ flow.residual(x)
        rates = growth_rates(x, g, depth)
        return np.concatenate([flow.velocity(x), rates[0].ravel(), rates[1].ravel()])

    states = flow.integrate(when, velocity, np.concatenate([flow.start, np.zeros(2 * d * d)]))
    x = np.array([flow.at(state[:m]) for state in states]) * flow.unit
    predicted = states[:, m:].reshape(-1, 2, d, d)

    def gradient(w: Array) -> Array:  # ∇ℓ, for A_i = diag(a_i)
        r = flow.a @ np.diag(w) - flow.y
        return np.diag(flow.rate * flow.a.T @ r)

    start = (x_start := float(alpha) ** depth / flow.unit) * (np.eye(d) + size * np.triu(np.ones((d, d)), 1))
    w = product_flow(start, gradient, depth, when * flow.clock)
    transposed = np.swapaxes(w, 1, 2)
    measured = []
    for part in (w + transposed, w - transposed):
        with np.errstate(divide="ignore"):
            growth = np.log(np.abs(part) / (size * x_start))
        growth[:, np.arange(d), np.arange(d)] = 0.0
        measured.append(growth)
    return Instability(when, x, predicted[:, 0], predicted[:, 1], measured[0], measured[1])


def growth_rates(x: Array, g: Array, depth: float) -> tuple[Array, Array]:
    """The rates μ and ω of the notes of :func:`commuting_instability`, (d, d) each, with zero diagonals.

    μ is written as −g_k E_kl − g_l E_lk with E_kl = (N x_k^(2−2/N) − K_kl)/(x_k − x_l), which has a limit at
    x_k = x_l, where every trajectory starts.
    """
    z = (2.0 / depth) * np.log(x[:, None] / x[None, :])
    e = x[:, None] ** (1.0 - 2.0 / depth) * _divided_difference(z, depth)
    symmetric = -(g[:, None] * e + g[None, :] * e.T)
    x_rate = -speed(x, depth) * g
    k = coupling(x, x, depth)
    skew = (x_rate[:, None] + x_rate[None, :] + k * (g[:, None] + g[None, :])) / (x[:, None] + x[None, :])
    for rates in (symmetric, skew):
        np.fill_diagonal(rates, 0.0)
    return symmetric, skew


def _divided_difference(z: Array, depth: float) -> Array:
    """E_kl/x_k^(1−2/N) = (N − (1 − e^(−Nz))/(1 − e^(−z)))/(1 − e^(−Nz/2)) at z = (2/N) log(x_k/x_l)."""
    near = np.abs(z) < 1e-5
    far = np.where(near, 1.0, z)
    with np.errstate(over="ignore", invalid="ignore"):
        phi = (depth - np.expm1(-depth * far) / np.expm1(-far)) / -np.expm1(-0.5 * depth * far)
    return np.where(near, (depth - 1.0) * (1.0 - (depth - 2.0) * z / 12.0), phi)
