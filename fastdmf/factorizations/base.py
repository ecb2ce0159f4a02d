"""What every factorization says of itself."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from fastdmf._checks import Array


class Factorization(ABC):
    """A parameterization of an n × p matrix by one or more factors."""

    @abstractmethod
    def factor_shapes(self, shape: tuple[int, int]) -> list[tuple[int, int]]:
        """Shapes of the factors for an n × p matrix; ValueError if there are none."""

    @abstractmethod
    def compose(self, factors: Sequence[Array]) -> Array:
        """The matrix that the factors stand for."""

    def check_factors(self, factors: Sequence[Array], shape: tuple[int, int]) -> None:
        """Refuse factors whose number or shapes do not fit an n × p matrix."""
        expected = self.factor_shapes(shape)
        if len(factors) != len(expected):
            raise ValueError(f"{self} has {len(expected)} factor(s), but {len(factors)} were given")
        for j, (factor, wanted) in enumerate(zip(factors, expected, strict=True), start=1):
            if factor.shape != wanted:
                raise ValueError(f"factor {j} of {self} must have shape {wanted}, not {factor.shape}")
