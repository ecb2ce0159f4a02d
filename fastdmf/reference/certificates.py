"""Bounds that hold whatever the solver did, and what they say about the optimum.

Lower bounds are weak duality: yᵀλ ≤ ‖W‖_* for every W with A(W) = y, once ‖A*(λ)‖ ≤ 1.  Upper bounds are the
norms of matrices that satisfy A(W) = y to rounding.  While a solver runs they are taken as computed;
`certify` recomputes them from the problem, and there the lower bound allows for every rounding error.
"""

import math

import numpy as np
import scipy.linalg
from scipy.linalg.lapack import dpotrf  # type: ignore[attr-defined]
from scipy.sparse.linalg import LinearOperator, lsmr

from fastdmf._checks import Array
from fastdmf.problems import Problem, Sensing
from fastdmf.reference.operators import Measurements, as_rows, row_norms
from fastdmf.reference.outcome import Minimum, Status, Uniqueness, relative_gap
from fastdmf.reference.spectral import Penalty, Shrunk

EPS = float(np.finfo(np.float64).eps)
#: With a lower bound so many times the norm of the least-squares solution nothing is taken for feasible.
FARKAS = 1e8
#: Singular values of W below this fraction of the largest count as zero.
LEAST = 1e-10
#: Gap below which uniqueness is decided.
CLOSE = 1e-5
#: Singular values of A*(λ) this close to 1 may belong to the face of optimal matrices, …
FACE = 1e-4
#: … and singular values of W above this fraction of ‖W‖_* surely do.
INTERIOR = 1e-5
#: A singular value of A on the face below this fraction of the largest may be zero.
INJECTIVE = 1e-6
#: Largest r(r+1)/2 for which injectivity on an r × r face is decided.
LARGEST_FACE = 3500


def lower_bound(values: Array, dual: Array, dual_norm: float) -> tuple[float, Array]:
    """yᵀλ after scaling λ to ‖A*(λ)‖ ≤ 1, and the scaled λ; infinite if λ is a ray of infeasibility."""
    product = float(values @ dual)
    if product <= 0.0:
        return 0.0, np.zeros_like(dual)
    if dual_norm <= 0.0:
        return float("inf"), dual
    scaled = dual / dual_norm
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
    tol: float,
) -> Minimum:
    """The result for a primal and a dual point, with everything recomputed from the problem itself.

    ``feasible`` says that the matrix satisfies its measurements to rounding.  A status that claims more than
    the recomputed bounds show becomes "stalled"; where they prove infeasibility, that is the status.
    """
    y = problem.values.astype(np.float64)
    adjoint, error = _adjoint(problem, dual, penalty.psd)
    lower, scaled = lower_bound(y, dual, penalty.dual_norm(adjoint) + error)
    left, sigma, right_t = np.linalg.svd(matrix, full_matrices=False)
    violation = float(np.max(np.abs(problem.residual(matrix))))
    upper = float(np.trace(matrix) if penalty.psd else sigma.sum()) if feasible else math.inf
    if not feasible and lower > FARKAS * float(np.linalg.norm(operator.adjoint(operator.values), 2)):
        rank = int(np.count_nonzero(sigma > LEAST * sigma[0]))
        return Minimum(
            matrix, dual, math.inf, math.inf, violation, rank, iterations, Status.INFEASIBLE,
            Uniqueness.UNDECIDED,
        )  # fmt: skip
    if status is Status.INFEASIBLE:
        status = Status.STALLED
    if lower > 0.0:
        adjoint = adjoint * (lower / float(y @ dual))
        products = y * scaled
        lower = math.fsum(products) - EPS * float(np.abs(products).sum())
    gap = relative_gap(upper, lower)
    if status is Status.CONVERGED and gap > tol:
        status = Status.STALLED
    rank = _rank(left, sigma, right_t, adjoint)
    unique = Uniqueness.UNDECIDED
    if upper < math.inf and gap < CLOSE:
        unique = uniqueness(operator, penalty, matrix, adjoint, upper)
    return Minimum(matrix, scaled, upper, lower, violation, rank, iterations, status, unique)


def _adjoint(problem: Problem, dual: Array, psd: bool) -> tuple[Array, float]:
    """A*(λ), or its symmetric part, and what rounding may have done to its norm, now and when λ is scaled.

    Where A*(λ) is a small difference of large λ_i A_i, double precision would blur it, so Σ λ_i A_i is summed
    in the longest one, and in blocks of √m: each entry then passes through 2√m roundings at most.  An entry
    of a completion is λ_i itself.  The norm of an n × p matrix is computed to (n + p) ε of its largest
    singular value (LAPACK Users' Guide, section 4.9).
    """
    n, p = problem.shape
    if isinstance(problem, Sensing):
        block = math.isqrt(dual.size - 1) + 1
        total = np.zeros(n * p, np.longdouble)
        terms = 0.0  # Σ |λ_i| ‖A_i‖_F
        for first in range(0, dual.size, block):
            part = slice(first, first + block)
            rows = as_rows(problem, psd=False, part=part)
            total += rows.T.astype(np.longdouble) @ dual[part]
            terms += float(np.abs(dual[part]) @ row_norms(rows))
        adjoint = total.astype(np.float64).reshape(n, p)
        error = ((block + 2) * float(np.finfo(np.longdouble).eps) + EPS) * terms
    else:
        adjoint = problem.adjoint(dual).astype(np.float64)
        error = EPS * float(np.linalg.norm(adjoint))
    if psd:
        adjoint = 0.5 * (adjoint + adjoint.T)
    return adjoint, error + (n + p) * EPS * float(np.linalg.norm(adjoint, 2))


def _rank(left: Array, sigma: Array, right_t: Array, adjoint: Array) -> int:
    """How many of the singular values of W an optimum has, as far as the bounds tell.

    upper − lower = Σ σ_i c_i with c_i = 1 − u_iᵀ A*(λ) v_i ≥ 0: of σ_i/‖W‖_* and c_i the product is below the
    gap, and one of them vanishes in the limit.  That is taken to be the smaller one.
    """
    size = float(sigma.sum())
    slack = 1.0 - np.einsum("ir,ir->r", left, adjoint @ right_t.T)
    needed = slack * size if np.any(adjoint) else 0.0
    return int(np.count_nonzero(sigma > np.maximum(needed, LEAST * sigma[0])))


def uniqueness(
    operator: Measurements, penalty: Penalty, matrix: Array, adjoint: Array, upper: float
) -> Uniqueness:
    """Whether W is the only optimum.

    Every optimum is U₁ S V₁ᵀ with S ⪰ 0, where U₁ and V₁ span the singular vectors of A*(λ) for σ = 1: if A
    is injective on symmetric S, there is only one.  If A(U N Vᵀ) = 0 for singular vectors U, V of W itself,
    W + ε U N Vᵀ is another one; it is built and checked.
    """
    if upper == 0.0:
        return Uniqueness.UNIQUE  # ‖W‖_* = 0 leaves only W = 0
    left, right, slack = _dual_face(penalty, adjoint)
    r = int(np.count_nonzero(slack <= FACE))
    if r * (r + 1) / 2 <= LARGEST_FACE and _is_definite(_gram(operator, left[:, :r], right[:, :r])):
        return Uniqueness.UNIQUE
    left, sigma, right_t = np.linalg.svd(matrix, full_matrices=False)
    r = int(np.count_nonzero(sigma >= INTERIOR * upper))
    if r == 0 or r * (r + 1) / 2 > LARGEST_FACE:
        return Uniqueness.UNDECIDED
    left, right = left[:, :r], right_t[:r].T
    gram = _gram(operator, left, right)
    square, vector = scipy.linalg.eigh(gram, subset_by_index=(0, 0), check_finite=False)
    if square[0] > len(gram) * EPS * np.trace(gram):
        return Uniqueness.UNDECIDED
    change = left @ _symmetric(vector[:, 0], r) @ right.T
    other = matrix + 0.5 * sigma[r - 1] * change
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


def _gram(operator: Measurements, left: Array, right: Array) -> Array:
    """The Gram matrix of S ↦ Â(left S rightᵀ) in an orthonormal basis of the symmetric S."""
    r = left.shape[1]
    a, b = np.triu_indices(r)
    scale = np.where(a == b, 0.5, 2**-0.5)
    gram = np.zeros((a.size, a.size))
    for blocks in operator.compress(left, right):
        columns = (blocks[:, a, b] + blocks[:, b, a]) * scale
        gram += columns.T @ columns
    return gram


def _symmetric(coordinates: Array, r: int) -> Array:
    """The r × r matrix with these coordinates in the basis of `_gram`."""
    a, b = np.triu_indices(r)
    half = np.zeros((r, r))
    half[a, b] = coordinates * np.where(a == b, 0.5, 2**-0.5)
    return half + half.T


def _is_definite(gram: Array) -> bool:
    """Whether its least eigenvalue exceeds INJECTIVE² times the largest, and rounding."""
    shift = max(INJECTIVE**2, 4.0 * EPS * len(gram)) * float(np.abs(gram).sum(axis=0).max())
    gram[np.diag_indices_from(gram)] -= shift
    _, failed = dpotrf(gram.T, overwrite_a=True)
    return not failed
