"""Matrix completion: some entries are seen."""

from typing import Any, Self

import numpy as np
import numpy.typing as npt

from fastdmf._checks import Array, count, generator, index_array, items, matrix_shape, real_array
from fastdmf.problems.base import Problem, root_mean_square
from fastdmf.problems.planted import PlantedMatrix

Triplets = tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike]


class Completion(Problem):
    """Observed entries W[rows[e], cols[e]] = values[e] of an n × p matrix.

    Parameters
    ----------
    rows, cols : (m,) array_like of int
        Positions, starting at 0; no position may occur twice.
    values : (m,) array_like of float
        The entries there.
    shape : (int, int)
        (n, p).
    truth : (n, p) array_like, optional
        The whole matrix, if known; test errors are then taken over its unobserved entries.
    test : (rows, cols, values), optional
        Held-out entries; test errors are then taken over these.
    loss : {"mean", "half_sum", "half_mean"}
        (1/m) Σ r², ½ Σ r² or (1/2m) Σ r².

    Raises
    ------
    ValueError, TypeError
        For indices out of range, repeated positions, values that are not finite, lengths that differ,
        no observations at all.

    Notes
    -----
    Read-only arrays of the right type (int32 indices) are shared, all others copied.
    """

    rows: Array
    cols: Array
    test: tuple[Array, Array, Array] | None

    def __init__(
        self,
        rows: npt.ArrayLike,
        cols: npt.ArrayLike,
        values: npt.ArrayLike,
        shape: tuple[int, int],
        truth: npt.ArrayLike | None = None,
        test: Triplets | None = None,
        loss: str = "mean",
    ) -> None:
        shape = matrix_shape("shape", shape)
        self._set_common(shape, values, truth, loss)
        self.rows, self.cols = _positions("", rows, cols, self.values.size, shape)
        _refuse_repeated(self.rows, self.cols, shape)
        self.test = None
        if test is not None:
            test = items("test", test)
            if len(test) != 3:
                raise ValueError(f"test must be (rows, cols, values), not {len(test)} arrays")
            held_out = real_array("test values", test[2], ndim=1)
            self.test = (*_positions("test ", test[0], test[1], held_out.size, shape), held_out)
            _refuse_repeated(*self.test[:2], shape)

    @classmethod
    def random(
        cls,
        shape: tuple[int, int] = (100, 100),
        rank: int = 5,
        observed: int = 2000,
        seed: int | None = 0,
        *,
        spectrum: npt.ArrayLike | None = None,
        norm: float | None = None,
        symmetric: bool = False,
        held_out: int = 0,
        keep_truth: bool = True,
        loss: str = "mean",
    ) -> Self:
        """Entries of a planted low-rank matrix, drawn uniformly without replacement.

        Parameters
        ----------
        shape : (int, int)
            (n, p).
        rank : int
            Rank of the planted matrix U Vᵀ with Gaussian U and V (Arora et al. 2019, section 4).
        observed : int
            Number m of observed entries.
        seed : int or None
            Seed of the generator; None draws fresh entropy.
        spectrum : array_like, optional
            Proportions of the singular values; their number is the rank, and singular vectors are
            uniformly random.
        norm : float, optional
            Frobenius norm of the planted matrix, √(n p) by default.
        symmetric : bool
            Plant a positive semidefinite matrix.
        held_out : int
            Number of further entries kept as ``test``.
        keep_truth : bool
            Keep the planted matrix as ``truth``; turn it off for matrices too large to write out.
        loss : {"mean", "half_sum", "half_mean"}
            Normalization of the loss.
        """
        n, p = shape = matrix_shape("shape", shape)
        m, more = count("observed", observed), count("held_out", held_out, least=0)
        if m + more > n * p:
            raise ValueError(f"observed + held_out = {m + more} entries of a matrix that has {n * p}")
        rng = generator(seed)
        planted = PlantedMatrix(rng, shape, rank, spectrum, norm, symmetric)
        drawn = rng.choice(n * p, m + more, replace=False)
        rows, cols = np.divmod(drawn, p)
        values = planted.at(rows, cols)
        test = (rows[m:], cols[m:], values[m:]) if more else None
        truth = planted.dense() if keep_truth else None
        return cls(rows[:m], cols[:m], values[:m], shape, truth=truth, test=test, loss=loss)

    @classmethod
    def from_sparse(cls, matrix: Any, test: Triplets | None = None, loss: str = "mean") -> Self:
        """Observe the stored entries of a SciPy sparse matrix or array; stored zeros count.

        ``test`` and ``loss`` are as in `Completion`, and so is what is refused.
        """
        if not hasattr(matrix, "tocoo"):
            raise TypeError(
                f"matrix must be a SciPy sparse matrix, not {type(matrix)}; from_dense takes arrays"
            )
        coo = matrix.tocoo()
        return cls(coo.row, coo.col, coo.data, coo.shape, test=test, loss=loss)

    @classmethod
    def from_dense(cls, matrix: npt.ArrayLike, test: Triplets | None = None, loss: str = "mean") -> Self:
        """Observe the entries of a dense array that are neither NaN nor masked.

        ``test`` and ``loss`` are as in `Completion`, and so is what is refused.
        """
        if isinstance(matrix, np.ma.MaskedArray):
            matrix = np.ma.filled(matrix.astype(np.float64), np.nan)
        array = np.asarray(matrix)
        if array.ndim != 2:
            raise ValueError(f"matrix must have 2 dimensions, not shape {array.shape}")
        if array.dtype.kind not in "biuf":
            raise TypeError(f"matrix must hold real numbers, not {array.dtype}")
        rows, cols = np.nonzero(~np.isnan(array))
        return cls(rows, cols, array[rows, cols], array.shape, test=test, loss=loss)

    def lifted(self) -> "Completion":
        """The same entries W_ij as those of X = [[·, W], [Wᵀ, ·]] at (i, n + j), a symmetric matrix.

        Over X ⪰ 0 the least trace is 2‖W‖_*, so that `Symmetric` and ``psd=True`` apply to any completion
        (Gunasekar et al. 2017).  Held-out entries are carried along, as are those of the truth that are not
        observed; its diagonal blocks are not determined.
        """
        n, p = self.shape
        test = self.test
        if test is None and self.truth is not None:
            unseen = np.ones(self.shape, bool)
            unseen[self.rows, self.cols] = False
            test = (*np.nonzero(unseen), self.truth[unseen])
        if test is not None:
            test = (test[0], test[1] + n, test[2])
        return type(self)(self.rows, self.cols + n, self.values, (n + p, n + p), test=test, loss=self.loss)

    @property
    def has_test_error(self) -> bool:
        """Whether there are held-out entries or a truth."""
        return self.test is not None or self.truth is not None

    def measure(self, matrix: Array) -> Array:
        """W[rows, cols]."""
        return matrix[self.rows, self.cols]

    def adjoint(self, weights: Array) -> Array:
        """The (n, p) matrix with the weights at the observed positions and zeros elsewhere."""
        matrix = np.zeros(self.shape, dtype=np.result_type(weights, self.values))
        matrix[self.rows, self.cols] = weights
        return matrix

    def test_error(self, matrix: Array) -> float:
        """RMSE over ``test`` if given, else over the unobserved entries of ``truth``, else NaN."""
        if self.test is not None:
            rows, cols, values = self.test
            return root_mean_square(matrix[rows, cols] - values)
        if self.truth is None:
            return float("nan")
        errors = np.square(matrix - self.truth)
        errors[self.rows, self.cols] = 0.0
        unseen = errors.size - self.rows.size
        return float(np.sqrt(errors.sum() / unseen)) if unseen else float("nan")

    def _arrays(self) -> list[Any]:
        return [self.rows, self.cols, *(self.test or ())]


def _positions(
    kind: str, rows: npt.ArrayLike, cols: npt.ArrayLike, size: int, shape: tuple[int, int]
) -> tuple[Array, Array]:
    i = index_array(f"{kind}rows", rows, shape[0])
    j = index_array(f"{kind}cols", cols, shape[1])
    if not i.size == j.size == size:
        raise ValueError(
            f"{kind}rows, cols and values must have one length, not {i.size}, {j.size} and {size}"
        )
    return i, j


def _refuse_repeated(rows: Array, cols: Array, shape: tuple[int, int]) -> None:
    """Refuse a position that occurs twice."""
    place = rows.astype(np.int64) * shape[1] + cols  # n p may exceed 2³¹
    place.sort()
    twice = np.flatnonzero(place[1:] == place[:-1])
    if twice.size:
        i, j = divmod(int(place[twice[0]]), shape[1])
        raise ValueError(f"the entry ({i}, {j}) is given twice; merge repeated observations first")
