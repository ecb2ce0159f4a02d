"""W = W_N … W_1."""

from collections.abc import Sequence
from dataclasses import dataclass

from fastdmf._checks import Array, count, items
from fastdmf.factorizations.base import Factorization


@dataclass(frozen=True)
class Product(Factorization):
    """The product W = W_N … W_1 (Arora et al. 2019); depth 1 is the matrix itself.

    Parameters
    ----------
    depth : int
        The number N ≥ 1 of factors.
    widths : sequence of int, optional
        The N − 1 hidden widths from the rows of W_1 upward; min(n, p) each by default.
    """

    depth: int = 2
    widths: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        count("depth", self.depth)
        if self.widths is not None:
            widths = tuple(count(f"widths[{j}]", w) for j, w in enumerate(items("widths", self.widths)))
            if len(widths) != self.depth - 1:
                raise ValueError(
                    f"depth {self.depth} has {self.depth - 1} hidden widths, not {len(widths)}: {widths}"
                )
            object.__setattr__(self, "widths", widths)

    def factor_shapes(self, shape: tuple[int, int]) -> list[tuple[int, int]]:
        """[(k₁, p), (k₂, k₁), …, (n, k_{N−1})], the shapes of W_1, …, W_N."""
        n, p = shape
        hidden = self.widths if self.widths is not None else (min(n, p),) * (self.depth - 1)
        sides = [p, *hidden, n]
        return [(sides[j + 1], sides[j]) for j in range(self.depth)]

    def compose(self, factors: Sequence[Array]) -> Array:
        """W_N … W_1."""
        product = factors[-1]
        for factor in reversed(factors[:-1]):
            product = product @ factor
        return product
