"""Matrix sensing: general linear measurements."""

from typing import Any, Self

import numpy as np
import numpy.typing as npt

from fastdmf._checks import Array, count, generator, matrix_shape, one_of, positive, real_array
from fastdmf.problems.base import Problem, root_mean_square
from fastdmf.problems.planted import PlantedMatrix, proportions, random_orthogonal


class Sensing(Problem):
    """Linear measurements ⟨A_i, W⟩ = values[i] of an n × p matrix.

    Parameters
    ----------
    matrices : (m, n, p) array_like, or (m, n·p) scipy.sparse matrix
        The measurement matrices A_i; row i of a sparse one is A_i written out row by row.
    values : (m,) array_like
        The measured values y.
    shape : (int, int), optional
        (n, p); required for sparse matrices.
    truth : (n, p) array_like, optional
        The matrix measured, if known; test errors are taken over all its entries.
    loss : {"mean", "half_sum", "half_mean"}
        (1/m) Σ r², ½ Σ r² or (1/2m) Σ r².

    Attributes
    ----------
    eigenvalues : (m, d) ndarray or None
        For :meth:`commuting`, the eigenvalues of each A_i.
    basis : (d, d) ndarray or None
        For :meth:`commuting`, the orthogonal Q with A_i = Q diag(eigenvalues[i]) Qᵀ.

    Raises
    ------
    ValueError, TypeError
        For shapes that do not fit together, values that are not finite, no measurements at all.
    """

    matrices: Any

    def __init__(
        self,
        matrices: Any,
        values: npt.ArrayLike,
        shape: tuple[int, int] | None = None,
        truth: npt.ArrayLike | None = None,
        loss: str = "mean",
    ) -> None:
        self.is_sparse = hasattr(matrices, "tocsr")
        if self.is_sparse:
            if shape is None:
                raise ValueError("sparse matrices have m rows of n·p entries each: give shape=(n, p)")
            n, p = shape = matrix_shape("shape", shape)
            self.matrices = matrices.tocsr(copy=True)
            self.matrices.sum_duplicates()
            if self.matrices.shape[1] != n * p:
                raise ValueError(
                    f"matrices has {self.matrices.shape[1]} columns, but shape {shape} needs {n * p}"
                )
            self.matrices.data = real_array("matrices", self.matrices.data)
            if self.matrices.nnz == 0:
                raise ValueError("matrices stores no entries: there is nothing to measure")
        else:
            self.matrices = real_array("matrices", matrices, ndim=3)
            own = (self.matrices.shape[1], self.matrices.shape[2])
            if shape is not None and matrix_shape("shape", shape) != own:
                raise ValueError(f"shape is {tuple(shape)}, but each measurement matrix has shape {own}")
            shape = matrix_shape("matrices.shape[1:]", own)
        self._set_common(shape, values, truth, loss)
        if self.matrices.shape[0] != self.values.size:
            raise ValueError(f"{self.matrices.shape[0]} matrices, but {self.values.size} values")
        self.eigenvalues: Array | None = None
        self.basis: Array | None = None

    @classmethod
    def gaussian(
        cls,
        shape: tuple[int, int] = (50, 50),
        rank: int = 2,
        measurements: int = 300,
        symmetric: bool = True,
        seed: int | None = 0,
        *,
        spectrum: npt.ArrayLike | None = None,
        norm: float | None = None,
        std: float | None = None,
        loss: str = "mean",
    ) -> Self:
        """Gaussian measurements of a planted low-rank matrix.

        Parameters
        ----------
        shape : (int, int)
            (n, p).
        rank : int
            Rank of the planted matrix; positive semidefinite if ``symmetric``.
        measurements : int
            Their number m.
        symmetric : bool
            Use (B + Bᵀ)/2 with B Gaussian, as Gunasekar et al. (2017) do; needs n = p.
        seed : int or None
            Seed of the generator; None draws fresh entropy.
        spectrum : array_like, optional
            Proportions of the planted singular values; their number is the rank.
        norm : float, optional
            Frobenius norm of the planted matrix, √(n p) by default.
        std : float, optional
            Standard deviation of the entries of B, 1/√(n p) by default (Arora et al. 2019, section 4).
        loss : {"mean", "half_sum", "half_mean"}
            Normalization of the loss.
        """
        n, p = shape = matrix_shape("shape", shape)
        m = count("measurements", measurements)
        spread = (n * p) ** -0.5 if std is None else positive("std", std)
        rng = generator(seed)
        truth = PlantedMatrix(rng, shape, rank, spectrum, norm, symmetric).dense()
        matrices = rng.standard_normal((m, n, p))
        matrices *= spread
        if symmetric:
            matrices = 0.5 * (matrices + matrices.transpose(0, 2, 1))
        return cls._measuring(truth, matrices, loss)

    @classmethod
    def rank_one(
        cls,
        shape: tuple[int, int] = (50, 50),
        rank: int = 2,
        measurements: int = 300,
        symmetric: bool = True,
        seed: int | None = 0,
        *,
        spectrum: npt.ArrayLike | None = None,
        norm: float | None = None,
        loss: str = "mean",
    ) -> Self:
        """Rank-one measurements A_i = x zᵀ/√(n p), or x xᵀ/n if ``symmetric``, with Gaussian x and z.

        The other parameters are those of :meth:`gaussian`.
        """
        n, p = shape = matrix_shape("shape", shape)
        m = count("measurements", measurements)
        rng = generator(seed)
        truth = PlantedMatrix(rng, shape, rank, spectrum, norm, symmetric).dense()
        x = rng.standard_normal((m, n))
        z = x if symmetric else rng.standard_normal((m, p))
        return cls._measuring(truth, np.einsum("mi,mj->mij", x, z) / (n * p) ** 0.5, loss)

    @classmethod
    def commuting(
        cls,
        size: int = 10,
        rank: int = 2,
        measurements: int = 3,
        basis: str = "diagonal",
        seed: int | None = 0,
        *,
        spectrum: npt.ArrayLike | None = None,
        norm: float | None = None,
        loss: str = "mean",
    ) -> Self:
        """Measurements A_i = Q diag(a_i) Qᵀ that commute (Gunasekar et al. 2017, Theorem 1).

        The eigenvalues a_i are standard Gaussian and the planted matrix, positive semidefinite, has
        the same eigenvectors.  They are kept as ``eigenvalues`` and ``basis``.

        Parameters
        ----------
        size : int
            d, for d × d matrices.
        rank : int
            Number of non-zero eigenvalues of the planted matrix, drawn uniformly from [½, 1].
        measurements : int
            Their number m.
        basis : {"diagonal", "rotated"}
            Q = I, or a random orthogonal Q.
        seed : int or None
            Seed of the generator; None draws fresh entropy.
        spectrum : array_like, optional
            Proportions of the planted eigenvalues instead; their number is the rank.
        norm : float, optional
            Frobenius norm of the planted matrix, d by default.
        loss : {"mean", "half_sum", "half_mean"}
            Normalization of the loss.

        Notes
        -----
        For N ≥ 3 the commuting trajectories are unstable: with a rotated basis, roundoff alone leaves
        them when the start is small.  The zeros of a diagonal basis stay exact.
        """
        d, m = count("size", size), count("measurements", measurements)
        one_of("basis", basis, ("diagonal", "rotated"))
        rng = generator(seed)
        planted = rng.uniform(0.5, 1.0, count("rank", rank)) if spectrum is None else proportions(spectrum)
        if planted.size > d:
            raise ValueError(f"rank {planted.size} is larger than size {d}")
        eigenvalues = rng.standard_normal((m, d))
        truth = np.zeros(d)
        truth[rng.choice(d, planted.size, replace=False)] = planted
        truth *= (d if norm is None else positive("norm", norm)) / np.linalg.norm(truth)
        if basis == "diagonal":
            q = np.eye(d)
            matrices = np.einsum("mk,ki->mki", eigenvalues, q)
        else:
            q = random_orthogonal(rng, d)
            matrices = np.einsum("ik,mk,jk->mij", q, eigenvalues, q)
        problem = cls._measuring((q * truth) @ q.T, matrices, loss)
        problem.values = real_array("values", eigenvalues @ truth)
        problem.eigenvalues, problem.basis = eigenvalues, q
        return problem

    @classmethod
    def _measuring(cls, truth: Array, matrices: Array, loss: str) -> Self:
        matrices.flags.writeable = False  # nobody else holds it, so it need not be copied
        values = matrices.reshape(len(matrices), -1) @ truth.ravel()
        return cls(matrices, values, truth=truth, loss=loss)

    def measure(self, matrix: Array) -> Array:
        """(⟨A_i, W⟩)_i."""
        rows = self.matrices if self.is_sparse else self.matrices.reshape(self.values.size, -1)
        return rows @ np.ravel(matrix)

    def adjoint(self, weights: Array) -> Array:
        """Σ_i z_i A_i."""
        rows = self.matrices if self.is_sparse else self.matrices.reshape(self.values.size, -1)
        return np.asarray(rows.T @ weights).reshape(self.shape)

    def test_error(self, matrix: Array) -> float:
        """RMSE over all entries of ``truth``, NaN if it is unknown."""
        return float("nan") if self.truth is None else root_mean_square(matrix - self.truth)

    def _arrays(self) -> list[Any]:
        if not self.is_sparse:
            return [self.matrices]
        return [self.matrices.indptr, self.matrices.indices, self.matrices.data]
