"""Numbers that describe a matrix, its factors, or a state of a run.

All but `entry` take plain arrays.  `fastdmf.recording.NAMED` lists the names under which `Record` knows them.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from fastdmf._checks import Array, positive


def singular_values(matrix: Array) -> Array:
    """Singular values of an (n, p) matrix, in descending order, (min(n, p),); NaN if it is not finite."""
    if not np.isfinite(matrix).all():
        return np.full(min(matrix.shape), np.nan, matrix.dtype)
    return np.linalg.svd(matrix, compute_uv=False)


def nuclear_norm(matrix: Array) -> float:
    """‖W‖_* = Σ σ_i."""
    return float(singular_values(matrix).sum())


def schatten(matrix: Array, p: float) -> float:
    """The Schatten-p quantity (Σ σ_iᵖ)^(1/p), a norm for p ≥ 1 and a quasi-norm for 0 < p < 1.

    ``p = inf`` gives the largest singular value.
    """
    positive("p", p, finite=False)
    sigma = singular_values(matrix)
    if np.isinf(p) or sigma[0] == 0:
        return float(sigma[0])
    return float(sigma[0] * np.sum((sigma / sigma[0]) ** p) ** (1.0 / p))


def effective_rank(matrix: Array) -> float:
    """exp(H(σ/Σσ)), H being the entropy (Roy & Vetterli 2007); 0 log 0 = 0, and W = 0 has rank 0."""
    return effective_rank_of_spectrum(singular_values(matrix))


def effective_rank_of_spectrum(sigma: Array) -> float:
    """The effective rank of a matrix with these singular values, in descending order."""
    if sigma[0] == 0:
        return 0.0
    share = sigma / sigma[0]  # the sum of tiny values would underflow
    share = share[share != 0] / share.sum()
    return float(np.exp(-np.sum(share * np.log(share))))


def numerical_rank(matrix: Array, rtol: float = 1e-3) -> int:
    """How many singular values exceed ``rtol`` times the largest."""
    positive("rtol", rtol, zero=True)
    return numerical_rank_of_spectrum(singular_values(matrix), rtol)


def numerical_rank_of_spectrum(sigma: Array, rtol: float = 1e-3) -> int:
    """The numerical rank of a matrix with these singular values, in descending order."""
    return int(np.count_nonzero(sigma > rtol * sigma[0]))


def alignment(matrix: Array, gradient: Array) -> Array:
    """Uᵀ ∇ℓ V in the singular vectors of W = U S Vᵀ, (r, r) with r = min(n, p).

    By Theorem 3 of Arora et al. (2019) its diagonal drives the singular values; off the diagonal it
    turns the singular vectors (Lemma 2).  UUᵀ is moved by the symmetric part of ∇ℓ alone: pass that, as
    `Record` does.
    """
    if not np.isfinite(matrix).all():
        return np.full((min(matrix.shape),) * 2, np.nan)
    left, _, right_t = np.linalg.svd(matrix, full_matrices=False)
    return left.T @ gradient @ right_t.T


def alignment_on_diagonal(matrix: Array, gradient: Array) -> float:
    """Mean absolute diagonal entry of :func:`alignment`."""
    return float(np.mean(np.abs(np.diag(alignment(matrix, gradient)))))


def alignment_off_diagonal(matrix: Array, gradient: Array) -> float:
    """Mean absolute off-diagonal entry of :func:`alignment`; 0 for a single row or column."""
    turned = np.abs(alignment(matrix, gradient))
    r = len(turned)
    return float((turned.sum() - np.trace(turned)) / max(r * (r - 1), 1))


def balancedness(factors: Sequence[Array]) -> float:
    """max_j ‖W_{j+1}ᵀ W_{j+1} − W_j W_jᵀ‖_F: zero when the factors are balanced, as for a single one."""
    gaps = [float(np.linalg.norm(upper.T @ upper - lower @ lower.T)) for lower, upper in pairwise(factors)]
    return max(gaps, default=0.0)


def determinant(matrix: Array) -> float:
    """Det W of a square matrix."""
    if matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"a matrix of shape {matrix.shape} has no determinant; it must be square")
    return float(np.linalg.det(matrix))


def reconstruction_error(matrix: Array, truth: Array | None) -> float:
    """‖W − truth‖_F / ‖truth‖_F, NaN without a truth or if it is zero."""
    if truth is None or not truth.any():
        return float("nan")
    return float(np.linalg.norm(matrix - truth) / np.linalg.norm(truth))


def entry(i: int, j: int) -> Callable[[Any], float]:
    """A metric for `Record`, a function of a `State`: the entry W[i, j]."""

    def entry_of(state: Any) -> float:
        return float(state.product[i, j])

    entry_of.__name__ = f"entry_{i}_{j}"
    return entry_of
