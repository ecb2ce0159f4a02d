"""Newton's method on the dual of min tr X s.t. ⟨A_i, X⟩ = y_i, X ⪰ 0, for many tiny problems in lockstep.

The dual is max yᵀλ s.t. S = I − Σ λ_i A_i ⪰ 0.  Newton's method climbs yᵀλ + μ (log det S + log det(F I − S))
while μ shrinks.  Where some X ≻ 0 has the values, it comes to rest at X = μ S⁻¹.  Where none does, there is
a Z = Σ ζ_i A_i ⪰ 0 with yᵀζ = 0, so that X Z = 0 for every feasible X, and λ runs away along −ζ.  It may, as
far as S ⪯ F I: that moves X onto the face X Z = 0, and weak duality, yᵀλ ≤ tr X, holds at any distance.  So
no face has to be found first; how close the bounds come depends on 1/F, and on rounding, F ε, against μ.
"""

import numpy as np

from fastdmf._checks import Array

EPS = float(np.finfo(np.float64).eps)
#: F: how far λ may run away, in eigenvalues of S.
FARTHEST = 1e7
#: μ ends here (for ‖y‖ = 1), or where rounding in S begins to matter.
LAST_BARRIER = 1e-10
ROUNDING = 100.0 * EPS
#: μ shrinks by this factor where Newton's decrement is below CENTERED; at the end it must be below CENTRAL.
SHRINK = 0.1
CENTERED = 0.9
CENTRAL = 1e-3
#: Fraction of the way to the boundary that a step may go.
BOLDNESS = 0.9
#: Newton steps at most.
MOST_STEPS = 100


def climb(matrices: Array, values: Array) -> tuple[Array, Array, Array]:
    """Solve problems with orthonormal measurement matrices (B, r, n, n) and values (B, r) of norm one.

    Returns
    -------
    dual, matrix, farthest
        λ (B, r), not yet scaled to be feasible beyond rounding; X (B, n, n), which fits the values but may
        have slightly negative eigenvalues; the largest eigenvalue of S, (B,).
    """
    basis = _bases(values)
    turned = np.einsum("bik,bixy->bkxy", basis, matrices)
    problems, r, n = turned.shape[:3]
    dual, mu, farthest = np.zeros((problems, r)), np.ones(problems), np.ones(problems)
    matrix = np.zeros((problems, n, n))
    going = np.arange(problems)
    for _ in range(MOST_STEPS):
        slack = np.eye(n) - np.einsum("bk,bkxy->bxy", dual[going], turned[going])
        eigenvalues, vectors = np.linalg.eigh(slack)
        inside = (eigenvalues[:, 0] > 0.0) & (eigenvalues[:, -1] < FARTHEST)  # rounding may lead outside
        going, eigenvalues, vectors = going[inside], eigenvalues[inside], vectors[inside]
        if not going.size:
            break
        step, decrement, to_boundary, primal = _newton(turned[going], eigenvalues, vectors, mu[going])
        matrix[going], farthest[going] = primal, eigenvalues[:, -1]
        least = np.maximum(LAST_BARRIER, ROUNDING * eigenvalues[:, -1])
        goes_on = (mu[going] > least) | (decrement > CENTRAL)
        dual[going[goes_on]] += (np.minimum(1.0, BOLDNESS * to_boundary)[:, None] * step)[goes_on]
        mu[going] = np.where(decrement < CENTERED, np.maximum(SHRINK * mu[going], least), mu[going])
        going = going[goes_on]
    return np.einsum("bik,bk->bi", basis, dual), matrix, farthest


def _bases(values: Array) -> Array:
    """Orthogonal (B, r, r) with the values as first columns: Householder reflections, up to sign.

    In these bases the objective is the first coordinate of λ: where λ runs away nothing cancels.
    """
    sign = np.where(values[:, 0] >= 0.0, 1.0, -1.0)
    normal = values.copy()
    normal[:, 0] += sign
    square = np.einsum("bi,bi->b", normal, normal)
    basis = np.eye(values.shape[1]) - 2.0 * normal[:, :, None] * normal[:, None, :] / square[:, None, None]
    basis[:, :, 0] *= -sign[:, None]
    return basis


def _newton(
    matrices: Array, eigenvalues: Array, vectors: Array, mu: Array
) -> tuple[Array, Array, Array, Array]:
    """Newton's step from S = Q diag(w) Qᵀ, its decrement, the step size at the boundary, and X.

    With J_k = S^(−1/2) A_k S^(−1/2) for the lower barrier and (F − S)^(−1/2) A_k (F − S)^(−1/2) for the upper
    one, the Hessian is the Gram matrix of all J; a QR factorization sees its condition, not the square of it.
    """
    problems, r, n = matrices.shape[:3]
    low = vectors / np.sqrt(eigenvalues)[:, None, :]
    high = vectors / np.sqrt(FARTHEST - eigenvalues)[:, None, :]
    lower, upper = _between(low, matrices), _between(high, matrices)
    gradient = np.einsum("bkxx->bk", upper) - np.einsum("bkxx->bk", lower)
    gradient[:, 0] += 1.0 / mu
    columns = np.concatenate([lower.reshape(problems, r, -1), upper.reshape(problems, r, -1)], axis=2)
    triangle = np.asarray(np.linalg.qr(columns.transpose(0, 2, 1), mode="r"))
    half = np.linalg.solve(triangle.transpose(0, 2, 1), gradient[:, :, None])
    step = np.linalg.solve(triangle, half)[:, :, 0]
    down, up = np.einsum("bk,bkxy->bxy", step, lower), np.einsum("bk,bkxy->bxy", step, upper)
    decrement = np.linalg.norm(half[:, :, 0], axis=1)
    steepest = np.maximum(np.linalg.eigvalsh(down)[:, -1], -np.linalg.eigvalsh(up)[:, 0])
    # ⟨A_k, X⟩ = y_k where the upper barrier does not push: Newton's equation says so.
    primal = mu[:, None, None] * np.einsum("bxi,bij,byj->bxy", low, np.eye(n) + down, low, optimize=True)
    return step, decrement, 1.0 / np.maximum(steepest, 1e-300), primal


def _between(half: Array, matrices: Array) -> Array:
    """The products halfᵀ A_k half."""
    return half.transpose(0, 2, 1)[:, None] @ matrices @ half[:, None]
