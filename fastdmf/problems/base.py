"""The parts of a problem that do not depend on how the matrix is measured."""

import hashlib
from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any

import numpy as np

from fastdmf._checks import Array, one_of, real_array

#: The scale c of each normalization, so that loss = (c/2) Σ r² over m measurements.
LOSS_SCALES = {"mean": lambda m: 2.0 / m, "half_sum": lambda m: 1.0, "half_mean": lambda m: 1.0 / m}


class Problem(ABC):
    """Measurements y = A(W) of an unknown n × p matrix W, and the loss (c/2)‖A(W) − y‖².

    Attributes
    ----------
    shape : tuple of int
        (n, p).
    values : (m,) ndarray
        The measured values y.
    truth : (n, p) ndarray or None
        The matrix the values were taken from, if it is known.
    loss : {"mean", "half_sum", "half_mean"}
        (1/m) Σ r², ½ Σ r² or (1/2m) Σ r²: learning rates and thresholds depend on it.
    """

    shape: tuple[int, int]
    values: Array
    truth: Array | None
    loss: str

    def _set_common(self, shape: tuple[int, int], values: object, truth: object, loss: object) -> None:
        self.shape = shape
        #: Compiled forms of this problem, which whoever compiled them keeps here.
        self.bound: dict[Any, Any] = {}
        self.values = real_array("values", values, ndim=1)
        if self.values.size == 0:
            raise ValueError("values is empty: a problem needs at least one measurement")
        self.loss = one_of("loss", loss, tuple(LOSS_SCALES))
        self.truth = None
        if truth is not None:
            self.truth = real_array("truth", truth, ndim=2)
            if self.truth.shape != shape:
                raise ValueError(f"truth has shape {self.truth.shape}, but the problem has shape {shape}")

    @property
    def loss_scale(self) -> float:
        """The scale c of loss = (c/2) Σ r²."""
        return LOSS_SCALES[self.loss](self.values.size)

    @abstractmethod
    def measure(self, matrix: Array) -> Array:
        """A(W), an (m,) array, for an (n, p) matrix."""

    @abstractmethod
    def adjoint(self, weights: Array) -> Array:
        """A*(z) = Σ_i z_i A_i, an (n, p) array, for an (m,) array."""

    def residual(self, matrix: Array) -> Array:
        """R = A(W) − y."""
        return self.measure(matrix) - self.values

    def loss_at(self, matrix: Array) -> float:
        """The loss (c/2)‖A(W) − y‖² of an (n, p) matrix."""
        r = self.residual(matrix)
        return 0.5 * self.loss_scale * float(r @ r)

    def gradient(self, matrix: Array) -> Array:
        """∇ℓ(W) = c A*(A(W) − y), an (n, p) array."""
        return self.loss_scale * self.adjoint(self.residual(matrix))

    @property
    def has_test_error(self) -> bool:
        """Whether anything is known of what was not observed."""
        return self.truth is not None

    @abstractmethod
    def test_error(self, matrix: Array) -> float:
        """Root mean square error of an (n, p) matrix on what was not observed; NaN if it is unknown."""

    @abstractmethod
    def _arrays(self) -> list[Any]:
        """Everything that defines the measurements, for :attr:`digest`."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what is measured: equal digests mean the same problem."""
        sha = hashlib.sha256(f"{type(self).__name__} {self.shape} {self.loss}".encode())
        for array in [*self._arrays(), self.values, self.truth]:
            if array is None:
                sha.update(b"none")
            else:
                sha.update(f"{array.dtype} {array.shape}".encode())
                sha.update(np.ascontiguousarray(array).data)
        return sha.hexdigest()

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Problem) and self.digest == other.digest)

    def __hash__(self) -> int:
        return hash(self.digest)

    def __getstate__(self) -> dict[str, Any]:
        """Compiled forms stay behind: their addresses mean nothing in a copy or another process."""
        return {**self.__dict__, "bound": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        for array in [*self._arrays(), self.values, self.truth]:
            if array is not None:
                array.flags.writeable = False  # NumPy's pickles forget it

    def __repr__(self) -> str:
        n, p = self.shape
        return f"<{type(self).__name__} {n}×{p}, {self.values.size} values, loss={self.loss!r}>"


def root_mean_square(errors: Array) -> float:
    """√(mean of squares), NaN of nothing."""
    return float(np.sqrt(np.mean(np.square(errors)))) if errors.size else float("nan")
