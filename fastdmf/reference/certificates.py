"""Bounds that hold whatever the solver did, and what they say about the optimum.

Lower bounds are weak duality: yᵀλ ≤ ‖W‖_* for every W with A(W) = y, once ‖A*(λ)‖ ≤ 1.  Upper bounds are the
norms of matrices that satisfy A(W) = y to rounding.
"""

import numpy as np
from scipy.sparse.linalg import LinearOperator, lsmr

from fastdmf._checks import Array
from fastdmf.problems import Problem
from fastdmf.reference.operators import Measurements
from fastdmf.reference.outcome import Minimum, Status, Uniqueness, relative_gap
from fastdmf.reference.spectral import Penalty, Shrunk

#: A dual vector is shortened by this fraction beyond ‖A*(λ)‖ = 1, so that rounding cannot lengthen it again.
MARGIN = 16 * np.finfo(np.float64).eps
#: Singular values of A*(λ) this close to 1 may belong to the face of optimal matrices …
FACE = 1e-4
#: … and these certainly do.
SURELY_FACE = 1e-6
#: Largest m · r(r+1)/2 for which injectivity on the face is decided.
LARGEST_FACE = 2.5e7


def lower_bound(values: Array, dual: Array, dual_norm: float) -> tuple[float, Array]:
    """yᵀλ after scaling λ to ‖A*(λ)‖ ≤ 1, and the scaled λ; infinite if λ is a ray of infeasibility."""
    product = float(values @ dual)
    if product <= 0.0:
        return 0.0, np.zeros_like(dual)
    if dual_norm <= 0.0:
        return float("inf"), dual
    scaled = dual / (dual_norm * (1.0 + MARGIN))
    return float(values @ scaled), scaled


def feasible_psd(operator: Measurements, point: Shrunk, values: Array, rounds: int = 40) -> Array | None:
    """X = U Uᵀ near ``point`` with Â(X) = ŷ: minimum-norm Gauss–Newton steps on U; None if they fail."""
    u = point.left * np.sqrt(point.values)
    size = max(float(np.linalg.norm(values)), 1e-300)
    before = np.inf
    for _ in range(rounds):
        matrix = u @ u.T
        residual = values - operator.measure(matrix)
        miss = float(np.linalg.norm(residual)) / size
        if miss < 1e-15 or (miss < 1e-12 and miss > 0.1 * before):
            return matrix
        if miss > 0.5 * before:
            return None
        before = miss
        u = u + _gauss_newton_step(operator, u, residual)
    return None


def _gauss_newton_step(operator: Measurements, u: Array, residual: Array) -> Array:
    """The shortest D with Â(U Dᵀ + D Uᵀ) = residual, in the least-squares sense."""

    def forward(d: Array) -> Array:
        product = u @ d.reshape(u.shape).T
        return operator.measure(product + product.T)

    def backward(weights: Array) -> Array:
        return 2.0 * (operator.adjoint(weights) @ u).ravel()

    jacobian = LinearOperator((residual.size, u.size), matvec=forward, rmatvec=backward, dtype=np.float64)  # type: ignore[call-arg]
    return lsmr(jacobian, residual, atol=1e-14, btol=1e-14, conlim=0, maxiter=500)[0].reshape(u.shape)


def certify(
    problem: Problem,
    operator: Measurements,
    penalty: Penalty,
    matrix: Array,
    dual: Array,
    feasible: bool,
    iterations: int,
    status: Status,
) -> Minimum:
    """The result for a primal and a dual point, with everything recomputed from the problem itself.

    ``feasible`` says that the matrix satisfies its measurements to rounding.
    """
    y = problem.values.astype(np.float64)
    adjoint = problem.adjoint(dual).astype(np.float64)
    if penalty.psd:
        adjoint = 0.5 * (adjoint + adjoint.T)
    size = penalty.dual_norm(adjoint)
    sigma = np.linalg.svd(matrix, compute_uv=False)
    if status is Status.INFEASIBLE:
        lower, upper = float("inf"), float("inf")
    else:
        lower, dual = lower_bound(y, dual, size)
        adjoint = adjoint / (size * (1.0 + MARGIN)) if lower > 0 else np.zeros_like(adjoint)
        upper = float(np.trace(matrix) if penalty.psd else sigma.sum()) if feasible else float("inf")
    gap = relative_gap(upper, lower)
    rank = int(np.count_nonzero(sigma > max(min(10.0 * gap, 0.1), 1e-10) * sigma[0]))
    unique = Uniqueness.UNDECIDED
    if upper < np.inf and gap < FACE:
        unique = uniqueness(operator, penalty, matrix, adjoint, upper)
    violation = float(np.max(np.abs(problem.residual(matrix))))
    return Minimum(matrix, dual, upper, lower, violation, rank, iterations, status, unique)


def uniqueness(
    operator: Measurements, penalty: Penalty, matrix: Array, adjoint: Array, upper: float
) -> Uniqueness:
    """Whether W is the only optimum.

    Every optimum is U₁ S V₁ᵀ with S ⪰ 0, where U₁ and V₁ span the singular vectors of A*(λ) for σ = 1: if A
    is injective on symmetric S, there is only one.  If A(U₁ N V₁ᵀ) = 0 and S is definite, W + ε U₁ N V₁ᵀ
    is another one; it is built and checked.
    """
    if upper == 0.0:
        return Uniqueness.UNIQUE  # ‖W‖_* = 0 leaves only W = 0
    left, right, slack = _dual_face(penalty, adjoint)
    r = int(np.count_nonzero(slack <= FACE))
    if operator.values.size * r * (r + 1) / 2 > LARGEST_FACE:
        return Uniqueness.UNDECIDED
    least, _ = _least_singular(operator, left[:, :r], right[:, :r])
    if least > 1e-6:
        return Uniqueness.UNIQUE
    r = int(np.count_nonzero(slack <= SURELY_FACE))
    if r == 0:
        return Uniqueness.UNDECIDED
    least, direction = _least_singular(operator, left[:, :r], right[:, :r])
    if least > 1e-9:
        return Uniqueness.UNDECIDED
    s = left[:, :r].T @ matrix @ right[:, :r]
    definite = float(np.linalg.eigvalsh(0.5 * (s + s.T))[0])
    if definite < 1e-5 * upper:
        return Uniqueness.UNDECIDED
    other = matrix + 0.5 * definite * (left[:, :r] @ direction @ right[:, :r].T)
    kept = np.linalg.norm(operator.measure(other) - operator.values) <= 1e-8 * np.linalg.norm(operator.values)
    as_short = abs(float(np.linalg.svd(other, compute_uv=False).sum()) - upper) <= 1e-6 * upper
    return Uniqueness.NOT_UNIQUE if kept and as_short else Uniqueness.UNDECIDED


def _dual_face(penalty: Penalty, adjoint: Array) -> tuple[Array, Array, Array]:
    """Singular vectors (eigenvectors for ``psd``) of A*(λ), and 1 − σ in ascending order."""
    if penalty.psd:
        values, vectors = np.linalg.eigh(adjoint)
        return vectors[:, ::-1], vectors[:, ::-1], 1.0 - values[::-1]
    left, sigma, right_t = np.linalg.svd(adjoint, full_matrices=False)
    return left, right_t.T, 1.0 - sigma


def _least_singular(operator: Measurements, left: Array, right: Array) -> tuple[float, Array]:
    """The least singular value of S ↦ Â(left S rightᵀ) over symmetric S, relative to the largest, and its S.

    From the Gram matrix, hence good to 1e-8.
    """
    r = left.shape[1]
    if r == 0:
        return float("inf"), np.zeros((0, 0))
    a, b = np.triu_indices(r)
    scale = np.where(a == b, 0.5, 2**-0.5)  # an orthonormal basis of the symmetric matrices
    blocks = operator.compress(left, right)
    columns = (blocks[:, a, b] + blocks[:, b, a]) * scale
    values, vectors = np.linalg.eigh(columns.T @ columns)
    direction = np.zeros((r, r))
    direction[a, b] = vectors[:, 0] * scale
    return float(np.sqrt(max(values[0], 0.0) / max(values[-1], 1e-300))), direction + direction.T
