"""Anderson acceleration of fixed-point iterations."""

import numpy as np

from fastdmf._checks import Array

RIDGE = 1e-10
#: Iterations without progress after which acceleration starts over.
IDLE = 100


class Anderson:
    """The affine combination of past images whose residuals cancel best (type II).

    Images are kept by the caller, in numbered slots.

    Parameters
    ----------
    memory : int
        How many iterations are combined.
    size : int
        Length of a residual.
    """

    def __init__(self, memory: int, size: int) -> None:
        self.residuals = np.zeros((memory, size))
        self.gram = np.zeros((memory, memory))
        self.forget()

    def forget(self) -> None:
        """Start over."""
        self.count = self.idle = 0
        self.smallest = float("inf")

    def failed(self, residual: Array) -> bool:
        """Whether acceleration overshot, or brought nothing for long."""
        return float(np.linalg.norm(residual)) > 2.0 * self.smallest or self.idle > IDLE

    def add(self, residual: Array) -> tuple[int, Array]:
        """Take in the residual of an iteration: the slot for its image, and the weights of slots 0, 1, ….

        After a failure only the newest image is kept: plain steps always contract.
        """
        memory = len(self.gram)
        size = float(np.linalg.norm(residual))
        if self.failed(residual):
            self.forget()
        self.idle = 0 if size < 0.9 * self.smallest else self.idle + 1
        self.smallest = min(size, self.smallest)
        newest = self.count % memory
        self.count += 1
        kept = min(self.count, memory)
        self.residuals[newest] = residual
        products = self.residuals[:kept] @ residual
        self.gram[newest, :kept] = products
        self.gram[:kept, newest] = products
        return newest, self._weights(newest, kept)

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
