"""The two norms of the convex programs: their proximal maps, values and dual norms.

========  ==========================  ==============================
psd       min ‖W‖_*                   min tr X over X ⪰ 0
prox      singular values (σ − t)₊    eigenvalues (w − t)₊
dual      ‖Y‖ ≤ 1, operator norm      λ_max(Y) ≤ 1
========  ==========================  ==============================
"""

from dataclasses import dataclass

import numpy as np

from fastdmf._checks import Array


@dataclass
class Shrunk:
    """A proximal point left · diag(values) · rightᵀ, with values > 0."""

    left: Array  # (n, r)
    values: Array  # (r,)
    right: Array  # (p, r)

    @property
    def matrix(self) -> Array:
        """The (n, p) matrix."""
        return (self.left * self.values) @ self.right.T


class NuclearNorm:
    """‖W‖_* on n × p matrices."""

    psd = False

    def shrink(self, z: Array, t: float) -> Shrunk:
        """The proximal point of t‖·‖_* at z, from the Gram matrix on the short side."""
        if z.shape[0] > z.shape[1]:
            turned = self.shrink(z.T, t)
            return Shrunk(turned.right, turned.values, turned.left)
        squares, vectors = np.linalg.eigh(z @ z.T)
        first = int(np.searchsorted(squares, t * t, side="right"))
        left, sigma = vectors[:, first:], np.sqrt(squares[first:])
        return Shrunk(left, sigma - t, (z.T @ left) / sigma)

    def value(self, matrix: Array) -> float:
        """‖W‖_*."""
        return float(np.linalg.svd(matrix, compute_uv=False).sum())

    def dual_norm(self, y: Array) -> float:
        """‖Y‖."""
        gram = y @ y.T if y.shape[0] <= y.shape[1] else y.T @ y
        return float(np.sqrt(max(np.linalg.eigvalsh(gram)[-1], 0.0)))


class TraceOfPsd:
    """tr X on positive semidefinite matrices."""

    psd = True

    def shrink(self, z: Array, t: float) -> Shrunk:
        """The proximal point of t tr(·) over X ⪰ 0 at a symmetric z."""
        values, vectors = np.linalg.eigh(z)
        first = int(np.searchsorted(values, t, side="right"))
        return Shrunk(vectors[:, first:], values[first:] - t, vectors[:, first:])

    def value(self, matrix: Array) -> float:
        """tr X."""
        return float(np.trace(matrix))

    def dual_norm(self, y: Array) -> float:
        """λ_max(Y), which may be negative."""
        return float(np.linalg.eigvalsh(y)[-1])


Penalty = NuclearNorm | TraceOfPsd
