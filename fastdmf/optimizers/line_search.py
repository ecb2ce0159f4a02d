"""Gradient descent with exact line search."""

from dataclasses import dataclass

from fastdmf._checks import positive
from fastdmf.optimizers.base import Optimizer


@dataclass(frozen=True)
class ExactLineSearch(Optimizer):
    """Gradient descent whose step is the global minimizer of the loss along the negative gradient.

    Along a line the loss is a polynomial of degree 2N in the step.  Its coefficients are accumulated in
    float64, and every positive root of its derivative is a candidate; of those that rounding does not tell
    apart the nearest is taken.

    Parameters
    ----------
    max_step : float, optional
        Steps are taken from (0, max_step]; unbounded by default.
    """

    max_step: float | None = None

    def __post_init__(self) -> None:
        if self.max_step is not None:
            positive("max_step", self.max_step)
