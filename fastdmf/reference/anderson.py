"""Anderson acceleration of fixed-point iterations."""

import numpy as np

from fastdmf._checks import Array

RIDGE = 1e-10


class Anderson:
    """The affine combination of past images whose residuals cancel best (type II).

    Parameters
    ----------
    memory : int
        How many iterations are combined.
    size : int
        Length of a residual.
    width : int
        Length of what is combined.
    """

    def __init__(self, memory: int, size: int, width: int) -> None:
        self.residuals = np.zeros((memory, size))
        self.images = np.zeros((memory, width))
        self.gram = np.zeros((memory, memory))
        self.count = 0

    def forget(self) -> None:
        """Start over."""
        self.count = 0

    def mix(self, residual: Array, *image: Array) -> Array:
        """Add an iteration, whose image is given in parts, and return the combination of all images."""
        memory = len(self.gram)
        newest = self.count % memory
        self.count += 1
        kept = min(self.count, memory)
        self.residuals[newest] = residual.ravel()
        np.concatenate([part.ravel() for part in image], out=self.images[newest])
        products = self.residuals[:kept] @ self.residuals[newest]
        self.gram[newest, :kept] = products
        self.gram[:kept, newest] = products
        return self._weights(newest, kept) @ self.images[:kept]

    def _weights(self, newest: int, kept: int) -> Array:
        """The w with Σ w_i = 1 that make ‖Σ w_i f_i‖ least.

        In differences to the newest residual, f − Σ γ_i (f − f_i): the ridge on γ, relative to ‖f‖², makes
        the plain step of residuals that do not change, where a ridge on w would average over the memory.
        """
        gram = self.gram[:kept, :kept]
        with_newest = gram[newest]
        size = with_newest[newest]
        differences = gram - with_newest - with_newest[:, np.newaxis] + size
        scale = 1.0 / np.sqrt(np.maximum(np.diag(differences), 0.0) + max(RIDGE * size, 1e-290))
        system = differences * scale * scale[:, np.newaxis]
        system[np.diag_indices(kept)] += RIDGE * (1.0 + size * scale * scale)
        weights = scale * np.linalg.solve(system, scale * (size - with_newest))
        weights[newest] = 0.0
        weights[newest] = 1.0 - weights.sum()
        return weights
