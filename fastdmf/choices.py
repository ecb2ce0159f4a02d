"""The independent choices that a run is composed of."""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt

from fastdmf._checks import count
from fastdmf._describe import describe
from fastdmf.factorizations import Factorization, Product
from fastdmf.initializers import Gaussian, Initializer
from fastdmf.loop import Loop
from fastdmf.optimizers import GradientDescent, GradientFlow, Optimizer
from fastdmf.problems import Completion, Problem
from fastdmf.recording import Record
from fastdmf.stopping import LossBelow, MaxSteps, Stop


@dataclass(frozen=True)
class Choices:
    """What determines a run, apart from the seed of its start."""

    problem: Problem
    factorization: Factorization
    init: Initializer
    optimizer: Optimizer
    stop: Stop
    record: Record
    dtype: npt.DTypeLike
    device: str

    def __post_init__(self) -> None:
        for name, (kind, examples) in _KINDS.items():
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"{name} must be {examples}, not {getattr(self, name)!r}")

    @classmethod
    def of(
        cls,
        problem: Problem | None,
        depth: int | None,
        factorization: Factorization | None,
        init: Initializer | None,
        optimizer: Optimizer | None,
        lr: float | None,
        stop: Stop | None,
        record: Record | None,
        dtype: npt.DTypeLike,
        device: str,
    ) -> Self:
        """The choices meant by what a user gave; what is left out has its default."""
        if depth is not None and factorization is not None:
            raise ValueError(
                f"give depth or factorization, not both: depth={depth}, factorization={factorization}"
            )
        if lr is not None and optimizer is not None:
            raise ValueError(f"give lr or optimizer, not both: lr={lr}, optimizer={optimizer}")
        if factorization is None:
            factorization = Product(2 if depth is None else depth)
        if optimizer is None:
            optimizer = GradientFlow() if lr is None else GradientDescent(lr)
        return cls(
            problem=Completion.random() if problem is None else problem,
            factorization=factorization,
            init=Gaussian() if init is None else init,
            optimizer=optimizer,
            stop=LossBelow(1e-6) | MaxSteps(1_000_000) if stop is None else stop,
            record=Record() if record is None else record,
            dtype=dtype,
            device=device,
        )

    @cached_property
    def settings(self) -> dict[str, str]:
        """All choices as text, equal for equal choices."""
        described = {name: describe(getattr(self, name)) for name in _KINDS}
        return {
            **described,
            "loss": self.problem.loss,
            "dtype": str(np.dtype(self.dtype)),
            "device": self.device,
        }

    def loop(self, threads: int) -> Loop:
        """The loop of these choices; refuses what does not fit together."""
        return Loop(
            self.problem,
            self.factorization,
            self.optimizer,
            dtype=self.dtype,
            device=self.device,
            threads=threads,
        )

    def usable(self, seed: int | None) -> int | None:
        """The seed as an integer; None where the start draws nothing, or none is given."""
        number = None if seed is None else count("seed", seed, least=0)
        return number if self.init.is_random else None

    def fresh_seed(self) -> int | None:
        """A seed from fresh entropy; None where the start draws nothing."""
        # Below 2⁵³: tables of many runs may hold seeds as floats.
        return int(np.random.default_rng().integers(1 << 53)) if self.init.is_random else None


_KINDS = {
    "problem": (Problem, "a Completion or Sensing"),
    "factorization": (Factorization, "a Product or Symmetric"),
    "init": (Initializer, "an initializer such as Gaussian() or Factors(arrays)"),
    "optimizer": (Optimizer, "an optimizer such as GradientDescent(lr)"),
    "stop": (Stop, "a criterion such as MaxSteps(steps)"),
    "record": (Record, "a Record"),
}
