"""RMSprop with one running mean square for all factors."""

from dataclasses import dataclass

from fastdmf._checks import positive
from fastdmf.optimizers.base import Optimizer


@dataclass(frozen=True)
class GroupRMSprop(Optimizer):
    """The optimizer of the code released with Arora et al. (2019).

    At step t = 1, 2, …:  v ← α v + (1 − α) Σ_j ‖∂ℓ/∂W_j‖², then all factors move along the negative
    gradient by lr / (√(v / (1 − αᵗ)) + eps).  With one v for all factors the direction is that of
    gradient descent: only the clock differs.

    Parameters
    ----------
    lr : float
        Numerator of the step.
    alpha : float
        Memory of the running mean square, in [0, 1).
    eps : float
        Added to the root mean square; it bounds the step by lr / eps.
    """

    lr: float = 1e-3
    alpha: float = 0.99
    eps: float = 1e-4

    def __post_init__(self) -> None:
        positive("lr", self.lr)
        positive("eps", self.eps, zero=True)
        if positive("alpha", self.alpha, zero=True) >= 1.0:
            raise ValueError(f"alpha must be below 1, not {self.alpha!r}")
