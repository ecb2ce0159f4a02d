"""Measurements in orthonormal coordinates: Â = C A with Â Â* = I, and the way back for dual vectors.

Projecting onto {W : A(W) = y} then costs one Â and one Â*.  With ``psd`` the A_i act through their
symmetric part.  Dependent measurements are dropped; if they contradict the others, `contradiction` proves it.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse
from scipy.linalg.blas import dtrsv  # type: ignore[attr-defined]
from scipy.linalg.lapack import dpotrf  # type: ignore[attr-defined]

from fastdmf._checks import Array
from fastdmf.problems import Completion, Problem, Sensing

#: Squared distance of a normalized A_i from the span of others above which Cholesky's answer is trusted.
SAFE_PIVOT = 1e-7
#: Distance below which a normalized A_i counts as dependent.
DEPENDENT = 1e-11
#: Misfit of a dependent measurement, relative to ‖y‖, above which it contradicts the others.
INCONSISTENT = 1e-9

#: Entries in the matrices A_i beyond which an iteration costs more than mixing a hundred.
COSTLY = 4e6


class Measurements(ABC):
    """Â, its adjoint, and ŷ = C y, for k ≤ m independent measurements.

    Attributes
    ----------
    shape : (int, int)
        (n, p).
    values : (k,) ndarray
        ŷ.
    contradiction : (m,) ndarray or None
        μ with A*(μ) = 0 and yᵀμ > 0, if there is one: no matrix has these measurements.
    """

    shape: tuple[int, int]
    values: Array
    contradiction: Array | None = None
    #: How many past iterations to combine: more where measuring costs more than mixing.
    memory: int = 40

    @abstractmethod
    def measure(self, matrix: Array) -> Array:
        """Â(W), (k,), of an (n, p) matrix; of a symmetric one for ``psd``."""

    @abstractmethod
    def adjoint(self, weights: Array) -> Array:
        """Â*(l), (n, p)."""

    @abstractmethod
    def dual(self, weights: Array) -> Array:
        """λ, (m,), with A*(λ) = Â*(l), up to skew parts for ``psd``."""

    @abstractmethod
    def compress(self, left: Array, right: Array) -> Iterator[Array]:
        """Â restricted to {left S rightᵀ}: ⟨Â_i, left e_a e_bᵀ rightᵀ⟩, in (·, r, r) blocks of some i."""


def orthonormal(problem: Problem, psd: bool) -> Measurements:
    """The measurements of a problem in orthonormal coordinates."""
    if isinstance(problem, Completion):
        return SymmetricEntries(problem) if psd else Entries(problem)
    if isinstance(problem, Sensing):
        return Rows(problem, psd)
    raise TypeError(f"problem must be a Completion or a Sensing, not {problem!r}")


class Entries(Measurements):
    """Entries of a matrix are orthonormal already."""

    def __init__(self, problem: Completion) -> None:
        self.shape = problem.shape
        self.rows, self.cols = problem.rows, problem.cols
        self.place = problem.rows.astype(np.int64) * problem.shape[1] + problem.cols
        self.values = problem.values.astype(np.float64)

    def measure(self, matrix: Array) -> Array:
        return matrix.ravel()[self.place]

    def adjoint(self, weights: Array) -> Array:
        matrix = np.zeros(self.shape)
        matrix.ravel()[self.place] = weights
        return matrix

    def dual(self, weights: Array) -> Array:
        return weights.copy()

    def compress(self, left: Array, right: Array) -> Iterator[Array]:
        for part in _parts(self.rows.size, left.shape[1]):
            yield left[self.rows[part], :, np.newaxis] * right[self.cols[part], np.newaxis, :]


class SymmetricEntries(Measurements):
    """Entries of a symmetric matrix: ⟨(e_i e_jᵀ + e_j e_iᵀ)/2, X⟩, where (i, j) and (j, i) count once."""

    def __init__(self, problem: Completion) -> None:
        n = problem.shape[0]
        self.shape = problem.shape
        low, high = np.minimum(problem.rows, problem.cols), np.maximum(problem.rows, problem.cols)
        pair = low.astype(np.int64) * n + high
        _, self.kept, copy_of = np.unique(pair, return_index=True, return_inverse=True)
        self.count = pair.size
        self.low, self.high = low[self.kept], high[self.kept]
        self.upper, self.lower = pair[self.kept], self.high.astype(np.int64) * n + self.low
        # The norm of (e_i e_jᵀ + e_j e_iᵀ)/2 is √½ off the diagonal.
        self.scale = np.where(self.low == self.high, 1.0, 2**0.5)
        values = problem.values.astype(np.float64)
        self.values = self.scale * values[self.kept]
        misfit = values - values[self.kept][copy_of]
        worst = int(np.argmax(np.abs(misfit)))
        if abs(misfit[worst]) > INCONSISTENT * np.linalg.norm(values):
            self.contradiction = np.zeros(self.count)
            self.contradiction[worst] = np.sign(misfit[worst])
            self.contradiction[self.kept[copy_of[worst]]] = -np.sign(misfit[worst])

    def measure(self, matrix: Array) -> Array:
        return self.scale * matrix.ravel()[self.upper]

    def adjoint(self, weights: Array) -> Array:
        matrix = np.zeros(self.shape)
        each = weights * (self.scale / 2)
        matrix.ravel()[self.upper] = each
        matrix.ravel()[self.lower] += each
        return matrix

    def dual(self, weights: Array) -> Array:
        full = np.zeros(self.count)
        full[self.kept] = weights * self.scale
        return full

    def compress(self, left: Array, right: Array) -> Iterator[Array]:
        for part in _parts(self.low.size, left.shape[1]):
            low, high = self.low[part], self.high[part]
            both = left[low, :, np.newaxis] * right[high, np.newaxis, :]
            both += left[high, :, np.newaxis] * right[low, np.newaxis, :]
            yield (self.scale[part] / 2)[:, np.newaxis, np.newaxis] * both


class Rows(Measurements):
    """General measurements ⟨A_i, W⟩: the rows of a dense or sparse (m, n·p) matrix F.

    Independent rows F_K are made orthonormal by the Cholesky factor of their Gram matrix, F_K F_Kᵀ = RᵀR,
    which is applied and never multiplied out: Â = R⁻ᵀ F_K.  Where rows are dependent or nearly so, a
    pivoted QR decomposition F_Kᵀ = Q R takes over, and Â = Qᵀ.
    """

    def __init__(self, problem: Sensing, psd: bool) -> None:
        self.shape = problem.shape
        self.count = problem.values.size
        rows = as_rows(problem, psd)
        norms = row_norms(rows)
        self.weights = np.divide(1.0, norms, out=np.ones_like(norms), where=norms > 0)
        y = problem.values.astype(np.float64) * self.weights
        gram = (rows @ rows.T).toarray() if scipy.sparse.issparse(rows) else rows @ rows.T
        gram *= self.weights[:, np.newaxis]
        gram *= self.weights
        if self.count * self.shape[0] * self.shape[1] > COSTLY:
            self.memory = 100
        factor, failed = dpotrf(gram.T, overwrite_a=True)
        if not failed and np.min(np.diag(factor)) ** 2 > SAFE_PIVOT:
            self.kept, self.rows = np.arange(self.count), rows
            self.triangle, self.whitened = factor, False
            self.values = self._whiten(problem.values.astype(np.float64))
            return
        dense = _scaled(rows, self.weights)
        dense = dense.toarray() if scipy.sparse.issparse(dense) else dense
        decomposition: Any = scipy.linalg.qr(dense.T, mode="economic", pivoting=True, check_finite=False)
        q, r, order = decomposition
        rank = int(np.count_nonzero(np.abs(np.diag(r)) > DEPENDENT * max(abs(r[0, 0]), 1e-300)))
        self.kept, dropped = order[:rank], order[rank:]
        self.triangle, self.whitened = np.asfortranarray(r[:rank, :rank]), True
        self.rows = np.ascontiguousarray(q[:, :rank].T)
        self.values = dtrsv(self.triangle, y[self.kept], trans=1) if rank else np.zeros(0)
        misfit = y[dropped] - r[:rank, rank:].T @ self.values
        if dropped.size and np.max(np.abs(misfit)) > INCONSISTENT * max(float(np.linalg.norm(y)), 1e-300):
            worst = int(np.argmax(np.abs(misfit)))
            sign = np.sign(misfit[worst])
            self.contradiction = self.dual(-sign * r[:rank, rank + worst])
            self.contradiction[dropped[worst]] = sign * self.weights[dropped[worst]]

    def _whiten(self, y: Array) -> Array:
        """R⁻ᵀ y, with the rows normalized."""
        return dtrsv(self.triangle, y * self.weights[self.kept], trans=1)

    def _combine(self, weights: Array) -> Array:
        """R⁻¹ l, with the rows normalized: the λ of the kept measurements."""
        return dtrsv(self.triangle, weights) * self.weights[self.kept] if weights.size else weights

    def measure(self, matrix: Array) -> Array:
        raw = self.rows @ matrix.ravel()
        return raw if self.whitened else self._whiten(raw)

    def adjoint(self, weights: Array) -> Array:
        raw = weights if self.whitened else self._combine(weights)
        return np.asarray(self.rows.T @ raw).reshape(self.shape)

    def dual(self, weights: Array) -> Array:
        full = np.zeros(self.count)
        full[self.kept] = self._combine(weights)
        return full

    def compress(self, left: Array, right: Array) -> Iterator[Array]:
        n, p = self.shape
        r = left.shape[1]
        if scipy.sparse.issparse(self.rows):
            raw = np.asarray(self.rows @ np.kron(left, right))
        else:
            raw = left.T @ (self.rows.reshape(-1, p) @ right).reshape(-1, n, r)
        raw = raw.reshape(-1, r * r)
        if not self.whitened:
            raw *= self.weights[self.kept, np.newaxis]
            raw = scipy.linalg.solve_triangular(self.triangle, raw, trans=1, check_finite=False)
        yield raw.reshape(-1, r, r)


def _parts(count: int, r: int) -> Iterator[slice]:
    """Slices of 0 … count − 1 with about 32 MiB of r × r blocks each."""
    step = 1 + int(4e6 / max(r * r, 1))
    return (slice(first, first + step) for first in range(0, count, step))


def as_rows(problem: Sensing, psd: bool, part: slice = slice(None)) -> Any:
    """F, or a part of its rows, (m, n·p) in float64; with ``psd`` of the symmetric parts of the A_i."""
    n, p = problem.shape
    if problem.is_sparse:
        rows = problem.matrices[part].astype(np.float64)
        if not psd:
            return rows
        transposed = np.arange(n * p).reshape(n, p).T.ravel()
        return ((rows + rows[:, transposed]) * 0.5).tocsr()
    rows = np.asarray(problem.matrices[part], dtype=np.float64)
    if psd and not np.array_equal(rows, rows.transpose(0, 2, 1)):
        rows = 0.5 * (rows + rows.transpose(0, 2, 1))
    return rows.reshape(len(rows), -1)


def row_norms(rows: Any) -> Array:
    """Norms of dense or sparse rows."""
    if scipy.sparse.issparse(rows):
        return np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1)).ravel())
    return np.sqrt(np.einsum("ij,ij->i", rows, rows))


def _scaled(rows: Any, weights: Array) -> Any:
    """Each row times its weight."""
    if scipy.sparse.issparse(rows):
        return scipy.sparse.csr_array(scipy.sparse.diags_array(weights) @ rows)
    return rows * weights[:, np.newaxis]
