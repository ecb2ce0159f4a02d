"""Minimum traces of very many tiny problems at once, each with proof."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from fastdmf._checks import Array, positive, small_problems
from fastdmf.reference.outcome import Status
from fastdmf.reference.small_barrier import EPS, FARTHEST, climb
from fastdmf.reference.small_faces import faces

#: Combinations of measurements with singular values below this fraction of the largest depend on the others.
DEPENDENT = 1e-10
#: Eigenvalues of X below this fraction of the largest are zero …
ZERO = 1e-6
#: … and so are singular values of the derivative of U ↦ A(UUᵀ).
FLAT = 1e-7
#: Gauss–Newton rounds that make X fit its values.
ROUNDS = 8
#: X fits if no value is missed by more than this fraction of ‖y‖.
FITS = 1e-12
#: With a lower bound so many times that of ‖X‖_F, and no X that fits, nothing is taken for feasible.
FARKAS = 1e5
#: Problems that are solved at a time: their arrays stay in cache.
AT_ONCE = 2048


@dataclass(frozen=True, eq=False)
class SmallMinima:
    """Positive semidefinite matrices of minimum trace, with the duals that prove it, for B problems.

    Attributes
    ----------
    matrix : (B, n, n) ndarray
        X, positive semidefinite.
    dual : (B, m) ndarray
        λ with λ_max(P (Σ λ_i A_i) P) ≤ 1, P the ``face``.  Where the problem is infeasible, a ray:
        Σ λ_i A_i ⪯ 1e-5 yᵀλ or zero.
    upper : (B,) ndarray
        tr X + Σ |λ_i| |⟨A_i, X⟩ − y_i|; infinite if no positive semidefinite matrix was found that fits to
        1e-12.
    lower : (B,) ndarray
        yᵀλ less what rounding may have added to it: no positive semidefinite matrix with these values has a
        smaller trace.  Infinite if the problem is infeasible.
    violation : (B,) ndarray
        max_i |⟨A_i, X⟩ − y_i|.
    interior : (B,) ndarray of bool
        Whether λ stayed bounded.  If not, no positive definite matrix has these values, or hardly one.
    face : (B, n, n) ndarray
        The projection P onto the range in which all X with these values live, as far as it had to be found: I
        for most.  Then the proof rests on a Σ ζ_i A_i ⪰ 0 with kernel P and yᵀζ = 0 to rounding.
    status : (B,) ndarray of str
        "converged" (gap ≤ tol); "stalled" (the bounds hold as they are); or "infeasible".
    """

    matrix: Array
    dual: Array
    upper: Array
    lower: Array
    violation: Array
    interior: Array
    face: Array
    status: Array

    @property
    def gap(self) -> Array:
        """(upper − lower)/lower, at least 0; zero if both bounds are, infinite without an upper bound."""
        gap = np.full(self.upper.shape, np.inf)
        some = np.isfinite(self.upper)
        scale = np.where(self.lower[some] > 0.0, self.lower[some], 1.0)
        gap[some] = np.maximum(self.upper[some] - self.lower[some], 0.0) / scale
        return gap


def min_trace_small(matrices: npt.ArrayLike, values: npt.ArrayLike, tol: float = 1e-6) -> SmallMinima:
    """Solve min tr X s.t. ⟨A_i, X⟩ = y_i, X ⪰ 0 for B tiny problems at once.

    Parameters
    ----------
    matrices : (B, m, n, n) array_like
        Measurement matrices A_i of every problem; they act through their symmetric parts.
    values : (B, m) array_like
        Values y_i.
    tol : float
        Relative gap below which a solution counts as converged.

    Returns
    -------
    SmallMinima
        X with an upper bound, and λ with a lower bound that holds whatever the solver did.

    Raises
    ------
    ValueError, TypeError
        For arrays that are empty, not finite or do not fit together.

    Notes
    -----
    The problem of Gunasekar et al. (2017), equation (4), over positive semidefinite matrices.  A barrier
    method on the dual; where no positive definite X has the values, λ has no limit but the bound has, and the
    gap ends near 1e-7.  Where the face of feasible matrices itself is only touched by the values, that
    converges too slowly, and the problem is solved again on that face.

    Examples
    --------
    >>> import fastdmf as dmf, numpy as np
    >>> corner = np.array([[[[1.0, 0.0], [0.0, 0.0]]]])  # one problem, one measurement: X₀₀ = 2
    >>> best = dmf.reference.min_trace_small(corner, [[2.0]])
    >>> str(best.status[0]), best.lower.round(6).tolist(), best.dual.round(6).tolist()
    ('converged', [2.0], [[1.0]])
    """
    a, y = small_problems(matrices, values)
    positive("tol", tol)
    parts = [_solve(a[k : k + AT_ONCE], y[k : k + AT_ONCE], tol) for k in range(0, len(y), AT_ONCE)]
    return SmallMinima(*(np.concatenate([getattr(p, name) for p in parts]) for name in _FIELDS))


_FIELDS = tuple(SmallMinima.__dataclass_fields__)


def _solve(a: Array, y: Array, tol: float) -> SmallMinima:
    problems, m, n = a.shape[:3]
    left, sigma, right = np.linalg.svd(a.reshape(problems, m, n * n), full_matrices=False)
    rank = np.count_nonzero(sigma > DEPENDENT * sigma[:, :1], axis=1)
    size = np.linalg.norm(y, axis=1)
    # What dependent measurements contradict, (I − L Lᵀ) y: with it as λ, Σ λ_i A_i = 0 and yᵀλ > 0.
    range_ = left * (np.arange(left.shape[2]) < rank[:, None])[:, None, :]
    ray = y - np.einsum("bik,bjk,bj->bi", range_, range_, y, optimize=True)
    contradicts = np.linalg.norm(ray, axis=1) > FITS * size
    matrix, dual = np.zeros((problems, n, n)), np.where(contradicts[:, None], ray, 0.0)
    shortest, farthest = np.zeros(problems), np.ones(problems)  # the norm of the least-squares solution
    for r in range(1, int(rank.max()) + 1):
        k = np.flatnonzero((rank == r) & (size > 0.0) & ~contradicts)
        coordinates = np.einsum("bik,bi->bk", left[k, :, :r], y[k]) / sigma[k, :r]
        shortest[k] = np.linalg.norm(coordinates, axis=1)
        unit = right[k, :r].reshape(-1, r, n, n)
        weights, found, farthest[k] = climb(unit, coordinates / shortest[k, None])
        dual[k] = np.einsum("bik,bk->bi", left[k, :, :r], weights / sigma[k, :r])
        matrix[k] = found * shortest[k, None, None]
    matrix = _fitted(a, y, matrix)
    minima = _certified(a, y, matrix, dual, contradicts, shortest, farthest <= FARTHEST**0.5, tol)
    left_over = np.flatnonzero((minima.status == str(Status.STALLED)) & ~minima.interior)
    for which, basis in faces(a[left_over], y[left_over], minima.dual[left_over]):
        _solve_on_faces(a, y, minima, left_over[which], basis, tol)
    return minima


def _solve_on_faces(a: Array, y: Array, minima: SmallMinima, which: Array, basis: Array, tol: float) -> None:
    """Replace the minima of these problems by those on faces Q X' Qᵀ, where that settles them."""
    turned = basis.transpose(0, 2, 1)
    on_face = _solve(turned[:, None] @ a[which] @ basis[:, None], y[which], tol)
    settled = on_face.status == str(Status.CONVERGED)
    which, basis, turned = which[settled], basis[settled], turned[settled]
    for name in ("dual", "upper", "lower", "violation", "status"):
        getattr(minima, name)[which] = getattr(on_face, name)[settled]
    for name in ("matrix", "face"):
        getattr(minima, name)[which] = basis @ getattr(on_face, name)[settled] @ turned


def _fitted(a: Array, y: Array, matrix: Array) -> Array:
    """X = UUᵀ near the given ones with ⟨A_i, X⟩ = y_i, by shortest Gauss–Newton steps on U."""
    problems, m = y.shape
    eigenvalues, vectors = np.linalg.eigh(matrix)
    kept = np.where(eigenvalues > ZERO * eigenvalues[:, -1:], eigenvalues, 0.0)
    u = vectors * np.sqrt(kept)[:, None, :]
    for _ in range(ROUNDS):
        images = a @ u[:, None]
        missing = y - np.einsum("bmij,bij->bm", images, u)
        inverse = np.linalg.pinv(2.0 * images.reshape(problems, m, -1), rcond=FLAT)
        u = u + np.einsum("bkm,bm->bk", inverse, missing).reshape(u.shape)
    return u @ u.transpose(0, 2, 1)


def _certified(
    a: Array, y: Array, matrix: Array, dual: Array, contradicts: Array, shortest: Array, interior: Array,
    tol: float,
) -> SmallMinima:  # fmt: skip
    """The bounds, recomputed from the problem itself, and what they prove."""
    m, n = a.shape[1:3]
    adjoint = np.einsum("bm,bmij->bij", dual, a)
    terms = np.einsum("bm,bm->b", np.abs(dual), np.linalg.norm(a, axis=(2, 3)))
    # m products are summed, and eigenvalues are good to 2n ε ‖Σ λ_i A_i‖ (LAPACK Users' Guide, section 4.7).
    largest = np.linalg.eigvalsh(adjoint)[:, -1] + (m + 2 + 2 * n) * EPS * terms
    product, rounding = np.einsum("bm,bm->b", y, dual), (m + 1) * EPS * np.abs(y * dual).sum(axis=1)
    useful = (product > rounding) & ~contradicts
    scale = np.where(useful & (largest > 0.0), largest, 1.0)
    lower = np.where(useful, (product - rounding) / scale, 0.0)
    missed = np.abs(np.einsum("bmij,bij->bm", a, matrix) - y)
    violation = missed.max(axis=1)
    dual = np.where(contradicts[:, None], dual, np.where(useful[:, None], dual / scale[:, None], 0.0))
    upper = np.trace(matrix, axis1=1, axis2=2) + np.einsum("bm,bm->b", np.abs(dual), missed)
    upper[violation > FITS * np.linalg.norm(y, axis=1)] = np.inf
    impossible = contradicts | (np.isinf(upper) & (lower > FARKAS * shortest))
    lower, upper = np.where(impossible, np.inf, lower), np.where(impossible, np.inf, upper)
    face = np.tile(np.eye(n), (len(y), 1, 1))
    minima = SmallMinima(matrix, dual, upper, lower, violation, interior, face, np.empty(0))
    names = [str(Status.INFEASIBLE), str(Status.CONVERGED)]
    status = np.select([impossible, minima.gap <= tol], names, str(Status.STALLED))
    return replace(minima, status=status)
