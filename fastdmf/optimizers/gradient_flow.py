"""The gradient flow."""

from dataclasses import dataclass

from fastdmf._checks import positive
from fastdmf.optimizers.base import Optimizer

METHODS = ("rkc2", "dopri5")


@dataclass(frozen=True)
class GradientFlow(Optimizer):
    """The limit of gradient descent for ever smaller steps, dW_j/dt = −∂ℓ/∂W_j, with controlled error.

    A step is accepted if its estimated error is below the tolerance in every factor and the loss has not
    risen.  Where the loss crosses a threshold (`LossBelow`, ``Record(at_loss=…)``), or at a given time
    (``Record(at_time=…)``), the point is found inside the step, by cubic Hermite interpolation.

    Parameters
    ----------
    rtol : float
        Tolerated error of a step, relative to the norm of each factor; in (0, 1).
    method : {"rkc2", "dopri5"}
        Runge–Kutta–Chebyshev of order 2 (Sommeijer, Shampine & Verwer 1998), whose stages follow the
        stiffness, after explicit steps until the flow is stiff at all; or Dormand & Prince's explicit pair of
        order 5 throughout, for references with ``rtol`` ≤ 1e-6.
    plateau_factor : float
        While the loss is above 0.9 of its first value, the tolerance is ``rtol * plateau_factor``: the
        directions chosen on the first plateau decide where the flow ends.  In (0, 1].
    check : bool
        Let `run` repeat the flow with a tenth of the tolerance.  ``result.details["change"]`` is then the
        relative change of the product, and a warning says so if it exceeds ``max(rtol, 1e-6)``.

    Notes
    -----
    ``evaluations`` counts every evaluation of the loss and its gradient, stages and rejected steps included;
    a product with the Hessian counts two.  ``steps`` are accepted steps and ``time`` is that of the flow.
    A product of factors that starts balanced with rank k has the same flow at width k.
    """

    rtol: float = 1e-3
    method: str = "rkc2"
    plateau_factor: float = 0.1
    check: bool = False

    def __post_init__(self) -> None:
        if positive("rtol", self.rtol) >= 1.0:
            raise ValueError(f"rtol must be below 1, not {self.rtol!r}")
        if self.method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, not {self.method!r}")
        if positive("plateau_factor", self.plateau_factor) > 1.0:
            raise ValueError(f"plateau_factor must be at most 1, not {self.plateau_factor!r}")
        if not isinstance(self.check, bool):
            raise TypeError(f"check must be True or False, not {self.check!r}")
