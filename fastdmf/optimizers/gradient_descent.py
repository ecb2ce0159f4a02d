"""Gradient descent."""

from dataclasses import dataclass

from fastdmf._checks import positive
from fastdmf.optimizers.base import Optimizer


@dataclass(frozen=True)
class GradientDescent(Optimizer):
    """W_j ← W_j − lr v_j with v_j ← momentum · v_j + ∂ℓ/∂W_j, for all factors at once.

    Parameters
    ----------
    lr : float
        Learning rate, which is also the step of time.
    momentum : float
        In [0, 1); the velocity starts at zero and is not damped (heavy ball).
    """

    lr: float
    momentum: float = 0.0

    def __post_init__(self) -> None:
        positive("lr", self.lr)
        if positive("momentum", self.momentum, zero=True) >= 1.0:
            raise ValueError(f"momentum must be below 1, not {self.momentum!r}")
