"""One point of a trajectory, as a value."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from fastdmf._checks import Array
from fastdmf.factorizations import Factorization
from fastdmf.metrics import singular_values
from fastdmf.optimizers import Optimizer
from fastdmf.problems import Problem


@dataclass(frozen=True, eq=False)
class State:
    """Where a trajectory is, with everything that its continuation depends on.

    Attributes
    ----------
    problem, factorization, optimizer
        What is being fitted, by which factors, and how they move.
    factors : list of ndarray
        [W_1, …, W_N], or [U]; read-only.
    gradients : list of ndarray
        The gradient of the loss in each factor; read-only.
    loss : float
        In the problem's normalization.
    step : int
        Steps taken since the start.
    time : float
        Sum of all step sizes: the time of the gradient flow that the steps imitate.
    evaluations : int
        Evaluations of loss and gradient since the start.
    diverged : bool
        The next step has no finite loss: this is the last finite state, and cannot be advanced.
    stalled : bool
        A flow rests here, to rounding, whatever the loss: it stays however far it is advanced.
    memory : mapping of str to ndarray
        The optimizer's memory.
    """

    problem: Problem
    factorization: Factorization
    optimizer: Optimizer
    factors: list[Array]
    gradients: list[Array]
    loss: float
    step: int
    time: float
    evaluations: int
    diverged: bool
    stalled: bool
    memory: Mapping[str, Array]

    def __repr__(self) -> str:
        end = ", diverged" if self.diverged else ", stalled" if self.stalled else ""
        return f"<State {self.factorization}, step {self.step}, loss {self.loss:.6g}{end}>"

    @cached_property
    def product(self) -> Array:
        """The matrix W, (n, p)."""
        return self.factorization.compose(self.factors)

    @cached_property
    def singular_values(self) -> Array:
        """Singular values of W in descending order."""
        return singular_values(self.product)

    @property
    def test_error(self) -> float:
        """Root mean square error on what was not observed (see the problem's ``test_error``)."""
        return self.problem.test_error(self.product) if self.problem.has_test_error else float("nan")
