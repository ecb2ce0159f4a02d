"""Douglas–Rachford splitting for large completion problems, in low-rank-plus-sparse form.

Without over-relaxation the iterate of `splitting` is exactly z⁺ = X + A*(c) with X of low rank, and Anderson
acceleration combines a few of them: no n × p matrix is ever formed in an iteration.  On the observed
entries z = y + l, where l/t is the dual:

    X = prox_t(z),   a = A(X) − y,   l⁺ = l − a,   c = l − 2a

The singular vectors of z above t come from one step of subspace iteration, started from the last ones.
"""

from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse
from scipy.sparse.linalg import svds

from fastdmf._checks import Array
from fastdmf.problems import Completion
from fastdmf.reference.anderson import Anderson
from fastdmf.reference.certificates import lower_bound
from fastdmf.reference.outcome import Status, relative_gap
from fastdmf.reference.spectral import Shrunk
from fastdmf.reference.splitting import (
    Bracket,
    Outcome,
    Splitting,
    Start,
    in_original_units,
    in_units,
    iterate,
)

MEMORY = 15
#: Singular vectors followed beyond those above t.
SPARE = 15
#: Unobserved entries at which residuals are compared, per observed one.
SAMPLED = 1.0
#: t, in units of ‖A*(y)‖.  Ratings keep gaining singular values of X that are ever smaller; a t that followed
#: them, as in `splitting`, would leave the dual behind.
THRESHOLD = 3.0
#: Problems whose shorter side is longer than this are solved in this form.
LARGE = 400


class Mixture:
    """z = Σ_i w_i L_i R_iᵀ + S with S sparse."""

    def __init__(self, left: Array, right: Array, sparse: scipy.sparse.csr_array) -> None:
        self.left, self.right, self.sparse = left, right, sparse
        self.sparse_t = scipy.sparse.csr_array(sparse.T)

    def times(self, q: Array) -> Array:
        """z Q."""
        return self.sparse @ q + self.left @ (self.right.T @ q)

    def transposed_times(self, q: Array) -> Array:
        """zᵀ Q."""
        return self.sparse_t @ q + self.right @ (self.left.T @ q)


def _row_order(problem: Completion) -> Array:
    """The permutation that puts the observations in order row by row, for SciPy's CSR form."""
    return np.lexsort((problem.cols, problem.rows))


class LowRankSplitting(Splitting):
    """The state of the splitting, in units in which ‖A*(y)‖ = 1."""

    look = 50

    def __init__(self, problem: Completion, values: Array, start: Start | None) -> None:
        n, p = self.shape = problem.shape
        order = _row_order(problem)
        self.rows, self.cols = problem.rows[order], problem.cols[order]
        self.values, self.threshold = values[order], THRESHOLD
        self.starts = np.concatenate([[0], np.cumsum(np.bincount(self.rows, minlength=n))])
        rng = np.random.default_rng(0)
        # Residuals are compared on the observed entries and on a sample of the others.
        drawn = rng.choice(n * p, min(int(SAMPLED * values.size), n * p), replace=False)
        unseen = drawn[~np.isin(drawn, self.rows.astype(np.int64) * p + self.cols)]
        self.sample_rows, self.sample_cols = np.divmod(unseen, p)
        self.sample_weight = np.sqrt((n * p - values.size) / max(unseen.size, 1))
        self.rng = rng
        m, s = values.size, unseen.size
        self.anderson = Anderson(MEMORY, m + s)
        self.factors: list[tuple[Array, Array]] = [(np.zeros((n, 0)), np.zeros((p, 0)))] * MEMORY
        self.images = np.zeros((MEMORY, 2 * m + s))  # c, l⁺ and the sampled entries of X
        self.shift = np.zeros(m)  # l
        self.sampled = np.zeros(s)
        self.basis = rng.standard_normal((p, min(SPARE + 5, n, p)))
        self.z = Mixture(np.zeros((n, 0)), np.zeros((p, 0)), self.matrix(self.values))
        if start is not None:
            left, sigma, right_t = np.linalg.svd(start.matrix, full_matrices=False)
            r = int(np.count_nonzero(sigma > 1e-6 * max(sigma[0], 1e-300)))
            self.shift = self.threshold * start.dual_matrix[self.rows, self.cols]
            self.sampled = start.matrix[self.sample_rows, self.sample_cols]
            c = self.values + self.shift - start.matrix[self.rows, self.cols]
            self.z = Mixture(left[:, :r] * sigma[:r], right_t[:r].T, self.matrix(c))
            self.basis = np.hstack([right_t[:r].T, self.basis])[:, : min(n, p)]
        self.shrink(steps=5)

    def matrix(self, entries: Array) -> scipy.sparse.csr_array:
        """A*(entries), sparse."""
        return scipy.sparse.csr_array((entries, self.cols, self.starts), shape=self.shape)

    def shrink(self, steps: int = 1) -> None:
        """X and A(X) − y at the current z."""
        n, p = self.shape
        left, sigma = self._follow(steps)
        while sigma[-1] > self.threshold and sigma.size < min(n, p):  # there may be more above t
            more = min(SPARE + sigma.size // 2, min(n, p) - sigma.size)
            self.basis = np.hstack([self.basis, self.rng.standard_normal((p, more))])
            left, sigma = self._follow(steps=3)
        r = int(np.count_nonzero(sigma > self.threshold))
        self.x = Shrunk(left[:, :r], sigma[:r] - self.threshold, self.basis[:, :r].copy())
        self.scaled_left = self.x.left * self.x.values
        self.miss = self.entries(self.rows, self.cols) - self.values
        wanted = min(r + SPARE, n, p)
        fresh = (1e-3 * p**-0.5) * self.rng.standard_normal((p, max(wanted - sigma.size, 0)))
        self.basis = np.hstack([self.basis[:, :wanted], fresh])

    def _follow(self, steps: int) -> tuple[Array, Array]:
        """Subspace iteration: left singular vectors and values of z; the right ones become the basis."""
        for _ in range(steps - 1):
            self.basis = np.linalg.qr(self.z.transposed_times(np.linalg.qr(self.z.times(self.basis))[0]))[0]
        left = np.linalg.qr(self.z.times(self.basis))[0]
        right = self.z.transposed_times(left)
        squares, turn = np.linalg.eigh(right.T @ right)
        sigma = np.sqrt(np.maximum(squares[::-1], 1e-300))
        self.basis = (right @ turn[:, ::-1]) / sigma
        return left @ turn[:, ::-1], sigma

    def entries(self, rows: Array, cols: Array) -> Array:
        """X[rows, cols]."""
        return np.einsum("er,er->e", self.scaled_left[rows], self.x.right[cols])

    def advance(self, accelerate: bool) -> None:
        """One iteration."""
        c, shift = self.shift - 2.0 * self.miss, self.shift - self.miss
        x = self.entries(self.sample_rows, self.sample_cols)
        left, right = self.scaled_left, self.x.right
        if accelerate:
            residual = np.concatenate([-self.miss, self.sample_weight * (x - self.sampled)])
            slot, weights = self.anderson.add(residual)
            self.images[slot] = np.concatenate([c, shift, x])
            self.factors[slot] = (left, right)
            c, shift, x = np.split(weights @ self.images[: weights.size], [c.size, 2 * c.size])
            kept = [i for i in range(weights.size) if abs(weights[i]) > 1e-14]
            left = np.hstack([weights[i] * self.factors[i][0] for i in kept])
            right = np.hstack([self.factors[i][1] for i in kept])
        self.shift, self.sampled = shift, x
        self.z = Mixture(left, right, self.matrix(c))
        self.shrink()

    def improve(self, best: Bracket, tol: float, thorough: bool) -> None:
        """Update the bounds from the current iterate."""
        dual = self.shift / self.threshold
        sparse = self.matrix(dual)
        gram = (sparse @ sparse.T if self.shape[0] <= self.shape[1] else sparse.T @ sparse).toarray()
        last = len(gram) - 1
        top: Any = scipy.linalg.eigvalsh(
            gram, subset_by_index=(last, last), check_finite=False, overwrite_a=True
        )
        lower, scaled = lower_bound(self.values, dual, float(np.sqrt(max(top[0], 0.0))))
        if lower > best.lower:
            best.lower, best.dual = lower, scaled
        # With X = U S Vᵀ, ‖X − A*(a)‖_* ≥ ⟨UVᵀ, X − A*(a)⟩ ≥ ‖X‖_* − √r ‖a‖: often enough to see that the
        # SVD would be for nothing.
        least = float(self.x.values.sum() - np.linalg.norm(self.miss) * self.x.values.size**0.5)
        if relative_gap(least, best.lower) > tol and not thorough:
            return
        point = self.x.matrix
        point[self.rows, self.cols] = self.values
        upper = float(np.linalg.svd(point, compute_uv=False).sum())
        if upper < best.upper:
            best.point, best.upper = point, upper


def solve(problem: Completion, tol: float, start: Start | None, max_iterations: int) -> Outcome:
    """Minimize the nuclear norm of a large matrix with given entries."""
    values = problem.values.astype(np.float64)
    shape = problem.shape
    sparse = scipy.sparse.csr_array((values, (problem.rows, problem.cols)), shape=shape)
    if not np.any(values):
        return Outcome(Bracket(np.zeros(shape), np.zeros_like(values), upper=0.0), 0, Status.CONVERGED)
    first = np.random.default_rng(0).standard_normal(min(shape))
    top: Any = svds(sparse, k=1, v0=first, return_singular_vectors=False)
    size = float(top[0])
    state = LowRankSplitting(problem, values / size, in_units(start, size))
    nothing = Bracket(np.zeros(shape), np.zeros_like(values))
    outcome = in_original_units(iterate(state, nothing, tol, max_iterations), size)
    dual = np.empty_like(values)
    dual[_row_order(problem)] = outcome.best.dual
    outcome.best.dual = dual
    return outcome
