"""How singular values and vectors of the product move under gradient flow (Arora et al. 2019)."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fastdmf._checks import Array
from fastdmf.theory.product_flow import chained, matrix_and_gradient, product

#: Singular values closer than this, relative to the largest, count as equal.
EQUAL = 1e-13


def singular_value_rates(
    factors: Sequence[npt.ArrayLike], gradient: npt.ArrayLike, *, symmetric: bool = False
) -> npt.NDArray[np.float64]:
    """σ̇_r for balanced factors (Theorem 3).

    Parameters
    ----------
    factors : sequence of arrays
        W_1, …, W_N, with W = W_N ⋯ W_1 of shape (n, p); or [U] if ``symmetric``.
    gradient : (n, p) array_like
        ∇ℓ(W).
    symmetric : bool
        W = UUᵀ, which moves twice as fast as depth 2.

    Returns
    -------
    (min(n, p),) ndarray
        σ̇_r = −N (σ_r²)^(1−1/N) ⟨∇ℓ(W), u_r v_rᵀ⟩, for σ in descending order; −4 σ_r u_rᵀ ∇ℓ u_r for UUᵀ.

    Raises
    ------
    ValueError, TypeError
        For factors that do not chain, a gradient of another shape than W, values that are not finite.

    Notes
    -----
    Exact if the factors are balanced, W_{j+1}ᵀW_{j+1} = W_jW_jᵀ, as they stay if they start so.  At other
    factors, such as independent Gaussian ones, it is an approximation; compare u_rᵀẆv_r with Ẇ from
    :func:`product_rate`.

    Examples
    --------
    >>> import numpy as np, fastdmf as dmf
    >>> dmf.theory.singular_value_rates([np.eye(2), np.diag([3.0, 2.0])], np.diag([-1.0, 0.5]))
    array([ 6., -2.])
    """
    left, sigma, right, g, depth, clock = _decomposed(factors, gradient, symmetric)
    return -clock * depth * sigma ** (2.0 - 2.0 / depth) * np.einsum("ir,ij,jr->r", left, g, right)


def singular_vector_rates(
    factors: Sequence[npt.ArrayLike], gradient: npt.ArrayLike, *, symmetric: bool = False
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """U̇ and V̇ for balanced factors (Lemma 2, equations 8 and 9).

    Parameters
    ----------
    factors, gradient, symmetric
        As in :func:`singular_value_rates`.

    Returns
    -------
    (n, k) and (p, k) ndarray
        Rates of the left and right singular vectors, k = min(n, p), of W = U S Vᵀ as NumPy decomposes it:

        U̇ = −U (F ∘ [Uᵀ∇ℓ V S + S Vᵀ∇ℓᵀ U]) − (I − UUᵀ) ∇ℓ V (S²)^(1/2−1/N),
        V̇ = −V (F ∘ [S Uᵀ∇ℓ V + Vᵀ∇ℓᵀ U S]) − (I − VVᵀ) ∇ℓᵀ U (S²)^(1/2−1/N),

        where F_rs = 1/((σ_s²)^(1/N) − (σ_r²)^(1/N)), and 0 on the diagonal.

    Raises
    ------
    ValueError, TypeError
        As in :func:`singular_value_rates`; and if singular values are zero or equal, where vectors are not
        functions of W.
    """
    left, sigma, right, g, depth, clock = _decomposed(factors, gradient, symmetric)
    gaps = -np.diff(sigma, append=0.0)
    if np.any(gaps <= EQUAL * sigma[0]):
        r = int(np.argmin(gaps))
        what = f"equal: σ_{r} = {sigma[r]} and σ_{r + 1} = {sigma[r + 1]}" if r + 1 < sigma.size else "zero"
        raise ValueError(f"singular values are {what}, so their vectors have no rate")
    power = sigma ** (2.0 / depth)
    difference = power[None, :] - power[:, None]
    np.fill_diagonal(difference, np.inf)
    f = 1.0 / difference
    m = left.T @ g @ right  # Uᵀ∇ℓV
    stretch = sigma ** (1.0 - 2.0 / depth)
    beyond_left = g @ right - left @ m
    beyond_right = g.T @ left - right @ m.T
    u_rate = -left @ (f * (m * sigma + sigma[:, None] * m.T)) - beyond_left * stretch
    v_rate = -right @ (f * (sigma[:, None] * m + m.T * sigma)) - beyond_right * stretch
    return clock * u_rate, clock * v_rate


def _decomposed(
    factors: Sequence[npt.ArrayLike], gradient: npt.ArrayLike, symmetric: bool
) -> tuple[Array, Array, Array, Array, int, float]:
    """U, σ, V of the product, the gradient that acts, the depth N, and how fast the clock runs."""
    chain = chained(factors, symmetric)
    w, g = matrix_and_gradient(product(chain), gradient)
    left, sigma, right_t = np.linalg.svd(w, full_matrices=False)
    if symmetric:
        g = 0.5 * (g + g.T)
    return left, sigma, right_t.T, g, len(chain), 2.0 if symmetric else 1.0
