"""W = UUᵀ."""

from collections.abc import Sequence
from dataclasses import dataclass

from fastdmf._checks import Array, count
from fastdmf.factorizations.base import Factorization


@dataclass(frozen=True)
class Symmetric(Factorization):
    """The positive semidefinite W = UUᵀ with U (n, width) (Gunasekar et al. 2017).

    Measurements that are not symmetric act through their symmetric part.

    Parameters
    ----------
    width : int, optional
        Number of columns of U; n by default.
    """

    width: int | None = None

    def __post_init__(self) -> None:
        if self.width is not None:
            count("width", self.width)

    def factor_shapes(self, shape: tuple[int, int]) -> list[tuple[int, int]]:
        """[(n, width)], the shape of U."""
        n, p = shape
        if n != p:
            raise ValueError(f"Symmetric needs a square problem, but its shape is {shape}; use Product")
        return [(n, self.width or n)]

    def compose(self, factors: Sequence[Array]) -> Array:
        """UUᵀ."""
        (u,) = factors
        return u @ u.T
