"""The flow of the product itself, for balanced factors and every real depth, and for any factors."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy.integrate import solve_ivp

from fastdmf._checks import Array, positive, real_array
from fastdmf.problems import Problem
from fastdmf.theory.closed_form import real_depth
from fastdmf.theory.commuting_trajectory import flow_times


def coupling(sigma: npt.ArrayLike, tau: npt.ArrayLike, depth: float) -> npt.NDArray[np.float64]:
    """K_rs = (σ_r² − τ_s²)/(σ_r^(2/N) − τ_s^(2/N)), and its limit N σ^(2−2/N) where σ_r = τ_s.

    The rate at which the entry u_rᵀ W v_s of the product follows −u_rᵀ ∇ℓ(W) v_s: UᵀẆV = −K ∘ (Uᵀ∇ℓV), which
    is Lemma 3 of Arora et al. (2019) in singular vectors and behind their Corollary 1.  For an integer N it
    is Σ_j σ_r^(2(j−1)/N) τ_s^(2(N−j)/N).

    Parameters
    ----------
    sigma : (n,) array_like
        Singular values of W for its left vectors, zeros for those beyond the rank.
    tau : (p,) array_like
        The same for its right vectors.
    depth : float
        N ≥ 1, not necessarily an integer.

    Returns
    -------
    (n, p) ndarray
        K, accurate to rounding however close σ_r and τ_s are.

    Raises
    ------
    ValueError, TypeError
        For negative singular values or depth < 1.
    """
    depth = real_depth(depth, 1.0)
    rows = _non_negative("sigma", sigma)[:, None]
    columns = _non_negative("tau", tau)[None, :]
    large, small = np.maximum(rows, columns), np.minimum(rows, columns)
    with np.errstate(divide="ignore", invalid="ignore"):
        d = np.where(large > small, np.log1p((large - small) / small), 0.0)  # log(large/small)
        ratio = np.where(d > 0, np.expm1(-2.0 * d) / np.expm1(-2.0 * d / depth), depth)
    return large ** (2.0 - 2.0 / depth) * ratio


def _non_negative(name: str, value: npt.ArrayLike) -> Array:
    array = real_array(name, value, ndim=1).astype(np.float64)
    if np.any(array < 0):
        raise ValueError(f"{name} holds {array.min()}; singular values are not negative")
    return array


def balanced_rate(matrix: npt.ArrayLike, gradient: npt.ArrayLike, depth: float) -> npt.NDArray[np.float64]:
    """Ẇ under gradient flow on balanced factors whose product is W.

    Parameters
    ----------
    matrix : (n, p) array_like
        W.
    gradient : (n, p) array_like
        ∇ℓ(W).
    depth : float
        N ≥ 1, not necessarily an integer.

    Returns
    -------
    (n, p) ndarray
        Ẇ = −Σ_j (WWᵀ)^((j−1)/N) ∇ℓ(W) (WᵀW)^((N−j)/N) (Arora et al. 2019, Lemma 3), written as
        −U (K ∘ Uᵀ∇ℓV) Vᵀ in full singular bases, which extends it to real N.

    Raises
    ------
    ValueError, TypeError
        For shapes that do not fit, values that are not finite, depth < 1.
    """
    w, g = matrix_and_gradient(matrix, gradient)
    return _balanced_rate(w, g, real_depth(depth, 1.0))


def _balanced_rate(w: Array, g: Array, depth: float, rank: int | None = None) -> Array:
    """The rate at w, or at the matrix of that rank next to it."""
    left, sigma, right_t = np.linalg.svd(w)
    sigma[len(sigma) if rank is None else rank :] = 0.0
    n, p = w.shape
    along_rows, along_columns = np.zeros(n), np.zeros(p)
    along_rows[: sigma.size] = along_columns[: sigma.size] = sigma
    k = coupling(along_rows, along_columns, depth)
    return -left @ (k * (left.T @ g @ right_t.T)) @ right_t


def product_rate(
    factors: Sequence[npt.ArrayLike], gradient: npt.ArrayLike, *, symmetric: bool = False
) -> npt.NDArray[np.float64]:
    """Ẇ under gradient flow on any factors, balanced or not.

    Parameters
    ----------
    factors : sequence of arrays
        W_1, …, W_N, with W = W_N ⋯ W_1; or [U] if ``symmetric``.
    gradient : (n, p) array_like
        ∇ℓ(W).
    symmetric : bool
        W = UUᵀ.

    Returns
    -------
    (n, p) ndarray
        Σ_j W_N ⋯ W_{j+1} Ẇ_j W_{j−1} ⋯ W_1 with Ẇ_j = −(W_N ⋯ W_{j+1})ᵀ ∇ℓ (W_{j−1} ⋯ W_1)ᵀ;
        −(∇ℓ + ∇ℓᵀ) W − W (∇ℓ + ∇ℓᵀ) for UUᵀ.

    Raises
    ------
    ValueError, TypeError
        For factors that do not chain, a gradient of another shape than W, more than one U.
    """
    chain = chained(factors, symmetric)
    w, g = matrix_and_gradient(product(chain), gradient)
    if symmetric:
        slope = g + g.T
        return -(slope @ w + w @ slope)
    rate = np.zeros_like(w)
    for j in range(len(chain)):
        above = product(chain[j + 1 :]) if j + 1 < len(chain) else np.eye(w.shape[0])
        below = product(chain[:j]) if j > 0 else np.eye(w.shape[1])
        rate -= above @ above.T @ g @ below.T @ below
    return rate


def chained(factors: Sequence[npt.ArrayLike], symmetric: bool) -> list[Array]:
    """The factors of W from right to left: W_1, …, W_N, or Uᵀ, U."""
    arrays = [real_array(f"factors[{j}]", f, ndim=2).astype(np.float64) for j, f in enumerate(factors)]
    if not arrays or (symmetric and len(arrays) > 1):
        raise ValueError(f"{len(arrays)} factors, but {'UUᵀ has one' if symmetric else 'there must be one'}")
    if symmetric:
        return [arrays[0].T, arrays[0]]
    for j in range(1, len(arrays)):
        if arrays[j].shape[1] != arrays[j - 1].shape[0]:
            raise ValueError(
                f"factors[{j}] of shape {arrays[j].shape} cannot follow factors[{j - 1}] of shape "
                f"{arrays[j - 1].shape}"
            )
    return arrays


def product(chain: Sequence[Array]) -> Array:
    """W_N ⋯ W_1."""
    w = chain[0]
    for factor in chain[1:]:
        w = factor @ w
    return w


def matrix_and_gradient(matrix: npt.ArrayLike, gradient: npt.ArrayLike) -> tuple[Array, Array]:
    """W and ∇ℓ(W), of the same shape."""
    w = real_array("matrix", matrix, ndim=2).astype(np.float64)
    g = real_array("gradient", gradient, ndim=2).astype(np.float64)
    if w.shape != g.shape:
        raise ValueError(f"gradient has shape {g.shape}, but the product has shape {w.shape}")
    return w, g


def product_flow(
    start: npt.ArrayLike,
    gradient: Problem | Callable[[Array], Array],
    depth: float,
    times: npt.ArrayLike,
    *,
    rtol: float = 1e-10,
) -> npt.NDArray[np.float64]:
    """W(t) under the gradient flow on balanced factors, for small matrices and every real depth.

    Parameters
    ----------
    start : (n, p) array_like
        W(0).
    gradient : Problem or callable
        A problem, or the function W ↦ ∇ℓ(W), (n, p) → (n, p).
    depth : float
        N ≥ 1, not necessarily an integer.
    times : (T,) array_like
        Flow times t ≥ 0 in ascending order.
    rtol : float
        Relative tolerance of the integration, by Dormand and Prince's method of order 8; the absolute one is
        that fraction of the largest entry of W(0).

    Returns
    -------
    (T, n, p) ndarray
        W at these times.

    Raises
    ------
    ValueError, TypeError
        For shapes that do not fit, W(0) = 0 or not finite, depth < 1, rtol ≤ 0, times that descend.
    RuntimeError
        If the integration fails, as it does when the flow runs away to infinity.

    Notes
    -----
    Arora et al. (2019), Lemma 3; see :func:`balanced_rate`.  For N ≥ 2 the rank of W(0) is kept.  UUᵀ follows
    the flow of depth 2 at twice the speed.  Every evaluation costs a singular value decomposition.

    Examples
    --------
    >>> import fastdmf as dmf
    >>> problem = dmf.Completion([0], [0], [1.0], shape=(2, 2), loss="half_sum")
    >>> dmf.theory.product_flow([[0.1, 0], [0, 0.1]], problem, depth=2, times=[0, 10])[1].round(6)
    array([[1. , 0. ],
           [0. , 0.1]])
    """
    w = real_array("start", start, ndim=2).astype(np.float64)
    depth, when, rtol = real_depth(depth, 1.0), flow_times(times), positive("rtol", rtol)
    if not w.any():
        raise ValueError("start is zero: the flow of depth 2 and more does not leave it")
    slope = gradient.gradient if isinstance(gradient, Problem) else gradient
    if not callable(slope):
        raise TypeError(f"gradient must be a problem or a function of W, not {gradient!r}")
    if np.shape(slope(w)) != w.shape:
        raise ValueError(f"gradient gives shape {np.shape(slope(w))}, but start has shape {w.shape}")

    # The flow keeps the rank from N = 2 on, but is not smooth at matrices of larger rank close by.
    rank = None if depth < 2 else int(np.linalg.matrix_rank(w))

    def rate(_: float, flat: Array) -> Array:
        here = flat.reshape(w.shape)
        return _balanced_rate(here, np.asarray(slope(here), np.float64), depth, rank).ravel()

    found = solve_ivp(
        rate, (0.0, float(when[-1])), w.ravel(), method="DOP853",
        t_eval=when, rtol=rtol, atol=rtol * float(np.max(np.abs(w))),
    )  # fmt: skip
    if not found.success:
        raise RuntimeError(f"the flow was not integrated to time {when[-1]:g}: {found.message}")
    return found.y.T.reshape(-1, *w.shape)
