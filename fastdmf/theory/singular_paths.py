"""Singular values followed in time through crossings and zeros, as analytic functions with a sign."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from fastdmf._checks import Array, positive, real_array


@dataclass(frozen=True, eq=False)
class SingularPaths:
    """W(t_k) = Σ_r values[k, r] left[k, :, r] right[k, :, r]ᵀ, each r followed from sample to sample.

    Attributes
    ----------
    values : (T, k) ndarray
        Signed singular values, k = min(n, p); those of the first sample are not negative and descend.
    left, right : (T, n, k) and (T, p, k) ndarray
        Singular vectors that turn as little as they can between samples.
    overlap : (T − 1,) ndarray
        The smallest |uᵀu'| |vᵀv'| of any path between two samples.  Matches are certain above ½; where it is
        less, the samples are too far apart to tell which value became which.
    """

    values: Array
    left: Array
    right: Array
    overlap: Array


def singular_paths(products: Iterable[npt.ArrayLike], *, rtol: float = 1e-8) -> SingularPaths:
    """Follow each singular value of W(t_1), W(t_2), … by its vectors (Arora et al. 2019, Lemma 1).

    Singular values of an analytic W(t) are analytic if they may change sign and cross each other; sorted ones
    swap identities instead.

    Parameters
    ----------
    products : iterable of (n, p) array_like
        W at successive times, dense enough for vectors to be recognized.
    rtol : float
        Singular values closer than this to each other, or to zero, relative to the largest of the sample,
        share a space in which the vectors are chosen to continue those of the neighbouring sample.

    Returns
    -------
    SingularPaths
        Values, vectors, and how certain the matching is.

    Raises
    ------
    ValueError, TypeError
        For no matrices at all, shapes that differ, values that are not finite.

    Examples
    --------
    >>> import numpy as np, fastdmf as dmf
    >>> times = np.linspace(0, 1, 5)
    >>> dmf.theory.singular_paths([np.diag([1 - t, 0.1 + t]) for t in times]).values[-1].round(12)
    array([0. , 1.1])
    """
    matrices = [real_array(f"products[{k}]", w, ndim=2).astype(np.float64) for k, w in enumerate(products)]
    positive("rtol", rtol)
    if not matrices:
        raise ValueError("products is empty: there is nothing to follow")
    for k, w in enumerate(matrices):
        if w.shape != matrices[0].shape or w.size == 0:
            raise ValueError(f"products[{k}] has shape {w.shape}, but products[0] {matrices[0].shape}")
    samples = [_decompose(w) for w in matrices]
    # A sample with well separated values fixes the vectors; from there forwards and backwards.
    first = int(np.argmax([_separation(sigma) for _, sigma, _ in samples]))
    for k in range(first + 1, len(samples)):
        samples[k] = _continued(samples[k - 1], samples[k], rtol)
    for k in range(first - 1, -1, -1):
        samples[k] = _continued(samples[k + 1], samples[k], rtol)
    left, values, right = (np.array(part) for part in zip(*samples, strict=True))
    signs = np.where(values[0] < 0, -1.0, 1.0)
    order = np.argsort(-np.abs(values[0]), kind="stable")
    left, values, right = (left * signs)[:, :, order], (values * signs)[:, order], right[:, :, order]
    turns = np.einsum("tir,tir->tr", left[1:], left[:-1]) * np.einsum("tir,tir->tr", right[1:], right[:-1])
    return SingularPaths(values, left, right, np.abs(turns).min(axis=1))


Sample = tuple[Array, Array, Array]  # U, signed σ, V


def _decompose(w: Array) -> Sample:
    left, sigma, right_t = np.linalg.svd(w, full_matrices=False)
    return left, sigma, right_t.T


def _separation(sigma: Array) -> float:
    """The smallest distance between singular values, and from zero, relative to the largest."""
    return float(-np.diff(sigma, append=0.0).max(initial=-np.inf) / sigma[0]) if sigma[0] > 0 else 0.0


def _continued(before: Sample, now: Sample, rtol: float) -> Sample:
    """``now`` in the order, with the signs and, where values coincide, with the vectors of ``before``."""
    u_before, _, v_before = before
    u, sigma, v = now
    groups = np.cumsum(np.diff(sigma, prepend=sigma[0]) < -rtol * sigma[0])  # equal numbers share a space
    rank = int(np.count_nonzero(sigma > rtol * sigma[0]))
    u, v = _completed(u[:, :rank], u_before), _completed(v[:, :rank], v_before)
    # |Uᵀu| |Vᵀv| of each earlier pair with each space, so that it does not depend on bases within spaces.
    same = groups[:, None] == groups[None, :]
    match = np.sqrt((same @ (u.T @ u_before) ** 2) * (same @ (v.T @ v_before) ** 2))
    chosen, path = linear_sum_assignment(-match)
    column = np.empty(len(path), int)
    column[path] = chosen  # path r goes on in column[r]
    u_new, s_new, v_new = u[:, column], sigma[column], v[:, column]
    for g in np.unique(groups):
        of = np.flatnonzero(groups[column] == g)
        here = np.flatnonzero(groups == g)
        zero = sigma[here[0]] <= rtol * sigma[0]
        u_new[:, of], signs, v_new[:, of] = _turned(
            u_before[:, of], v_before[:, of], u[:, here], v[:, here], zero
        )
        s_new[of] *= signs
    return u_new, s_new, v_new


def _completed(vectors: Array, before: Array) -> Array:
    """``vectors``, and as many from their complement as there were before, as near to those as can be."""
    rest = before - vectors @ (vectors.T @ before)
    beyond = np.linalg.svd(rest, full_matrices=False)[0]
    return np.hstack([vectors, beyond[:, : before.shape[1] - vectors.shape[1]]])


def _turned(u_before: Array, v_before: Array, u: Array, v: Array, zero: bool) -> tuple[Array, Array, Array]:
    """Bases of the spaces of u and v nearest to the earlier vectors, and signs.

    In the space of one σ > 0, W maps v to σ u: bases turn together, v → v R and u → ± u R.  Where σ = 0 they
    turn freely.
    """
    to_u, to_v = u.T @ u_before, v.T @ v_before
    if zero:
        return u @ _orthogonal(to_u), np.ones(u.shape[1]), v @ _orthogonal(to_v)
    signs = np.where(np.einsum("ar,ar->r", to_u, to_v) < 0, -1.0, 1.0)
    turn = _orthogonal(to_v + signs * to_u)
    return signs * (u @ turn), signs, v @ turn


def _orthogonal(matrix: Array) -> Array:
    """The orthogonal matrix nearest to a square one."""
    left, _, right_t = np.linalg.svd(matrix)
    return left @ right_t
