"""Low-rank matrices to plant in a problem."""

import math

import numpy as np
import numpy.typing as npt

from fastdmf._checks import Array, count, positive, real_array


class PlantedMatrix:
    """A random matrix U diag(s) Vᵀ, kept as its factors so that it may be too large to write out.

    Without a spectrum U and V are Gaussian, as in both papers; with one they are orthonormal and
    ``spectrum`` gives the proportions of the singular values.  The Frobenius norm is ``norm``.
    """

    left: Array  # (n, r), carries the scale
    right: Array  # (p, r)

    def __init__(
        self,
        rng: np.random.Generator,
        shape: tuple[int, int],
        rank: int,
        spectrum: npt.ArrayLike | None,
        norm: float | None,
        symmetric: bool,
    ) -> None:
        n, p = shape
        if symmetric and n != p:
            raise ValueError(f"symmetric=True needs a square shape, not {shape}")
        weights = None if spectrum is None else proportions(spectrum)
        if weights is not None:
            rank = weights.size
        rank = count("rank", rank)
        if rank > min(n, p):
            raise ValueError(f"rank {rank} is larger than the smaller side of shape {shape}")
        left = rng.standard_normal((n, rank))
        right = left if symmetric else rng.standard_normal((p, rank))
        if weights is not None:
            left = np.linalg.qr(left)[0]
            right = left if symmetric else np.linalg.qr(right)[0]
            left = left * weights
        # ‖U Vᵀ‖_F² = tr(UᵀU VᵀV), without forming the product
        actual = math.sqrt(float(np.sum((left.T @ left) * (right.T @ right))))
        target = math.sqrt(n * p) if norm is None else positive("norm", norm)
        self.left = left * (target / actual)
        self.right = right

    def dense(self) -> Array:
        """The (n, p) matrix itself."""
        return self.left @ self.right.T

    def at(self, rows: Array, cols: Array) -> Array:
        """Its entries at (rows[e], cols[e])."""
        return np.einsum("er,er->e", self.left[rows], self.right[cols])


def proportions(spectrum: npt.ArrayLike) -> Array:
    """A spectrum as a vector of non-negative numbers, not all zero."""
    weights = real_array("spectrum", spectrum, ndim=1)
    if weights.size == 0 or weights.min() < 0 or weights.max() == 0:
        raise ValueError(f"spectrum must be non-negative and not all zero, not {spectrum!r}")
    return weights


def random_orthogonal(rng: np.random.Generator, size: int) -> Array:
    """A random orthogonal matrix, uniform over the group."""
    q, r = np.linalg.qr(rng.standard_normal((size, size)))
    return q * np.sign(np.diag(r))
