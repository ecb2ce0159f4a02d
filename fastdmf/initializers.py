"""Where descent starts.

Every initializer draws in float64 from the generator it is given, so that a run in float32 starts from
the rounded start of the run in float64.  The scale is stated in one of two ways:

``product_scale`` s, end to end
    `Gaussian` and `Uniform` give factor j entries of standard deviation s^(1/N) · fan_in^(−1/2), where
    fan_in is its number of columns; then E‖W(0)‖²_F = s² n at every depth (the rule of the code released
    with Arora et al. 2019).  `Identity` and `Orthogonal` give W(0) singular values s.  UUᵀ counts as N = 2,
    and as its two factors are one, E‖W(0)‖²_F = s² n (1 + (n + 1)/width).
``std``, per factor
    The root mean square of the entries of each factor.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fastdmf._checks import Array, items, positive, real_array
from fastdmf._describe import Described
from fastdmf.factorizations import Factorization, Product, Symmetric
from fastdmf.problems.planted import random_orthogonal

Shape = tuple[int, int]


class Initializer(ABC):
    """A rule that gives a factorization its first factors."""

    @property
    def is_random(self) -> bool:
        """Whether :meth:`draw` uses the generator."""
        return True

    @abstractmethod
    def draw(self, factorization: Factorization, shape: Shape, rng: np.random.Generator) -> list[Array]:
        """The factors of an n × p matrix, in float64."""


@dataclass(frozen=True)
class Scaled(Initializer):
    """An initializer with a scale, stated as ``product_scale`` (1e-3 by default) or as ``std``.

    ValueError or TypeError for a scale that is not positive, or both.
    """

    product_scale: float | None = None
    std: float | None = None

    def __post_init__(self) -> None:
        if self.std is None:
            scale = 1e-3 if self.product_scale is None else positive("product_scale", self.product_scale)
            object.__setattr__(self, "product_scale", scale)
        elif self.product_scale is None:
            positive("std", self.std)
        else:
            raise ValueError(
                f"give product_scale or std, not both: product_scale={self.product_scale}, std={self.std}"
            )

    def entry_std(self, factor: Shape, depth: int) -> float:
        """Standard deviation of the entries of a factor with independent entries."""
        if self.product_scale is None:
            assert self.std is not None
            return self.std
        return self.product_scale ** (1.0 / depth) * factor[1] ** -0.5

    def gain(self, factor: Shape, depth: int) -> float:
        """Singular values of a factor that is a multiple of a (semi-)orthogonal matrix."""
        if self.product_scale is None:
            assert self.std is not None
            return self.std * max(factor) ** 0.5
        return self.product_scale ** (1.0 / depth)


class Gaussian(Scaled):
    """Independent Gaussian entries.

    ``product_scale`` is s with E‖W(0)‖²_F = s² n (1e-3 by default); ``std`` is that of each factor's entries.
    """

    def draw(self, factorization: Factorization, shape: Shape, rng: np.random.Generator) -> list[Array]:
        depth = _depth(factorization)
        return [
            self.entry_std(factor, depth) * rng.standard_normal(factor)
            for factor in factorization.factor_shapes(shape)
        ]


class Uniform(Scaled):
    """Independent entries, uniform on an interval around zero, scaled as in `Gaussian`."""

    def draw(self, factorization: Factorization, shape: Shape, rng: np.random.Generator) -> list[Array]:
        depth = _depth(factorization)
        return [
            3**0.5 * self.entry_std(factor, depth) * rng.uniform(-1.0, 1.0, factor)
            for factor in factorization.factor_shapes(shape)
        ]


class Orthogonal(Scaled):
    """Multiples of random (semi-)orthogonal factors whose singular vectors meet.

    W_j = g_j Q_j I Q_{j−1}ᵀ with random orthogonal Q_j and a rectangular identity I, so that all
    non-zero singular values of W(0) are the product of the gains g_j, whatever the widths:
    ``product_scale`` (1e-3 by default).  ``std`` is the root mean square of each factor's entries.
    """

    def draw(self, factorization: Factorization, shape: Shape, rng: np.random.Generator) -> list[Array]:
        depth = _depth(factorization)
        shapes = factorization.factor_shapes(shape)
        frame = random_orthogonal(rng, shapes[0][1])
        factors = []
        for rows, cols in shapes:
            next_frame = random_orthogonal(rng, rows)
            meet = min(rows, cols)
            factors.append(self.gain((rows, cols), depth) * next_frame[:, :meet] @ frame[:, :meet].T)
            frame = next_frame
        return factors


class Identity(Scaled):
    """Multiples of (rectangular) identity matrices, scaled as in `Orthogonal`; draws nothing."""

    @property
    def is_random(self) -> bool:
        return False

    def draw(self, factorization: Factorization, shape: Shape, rng: np.random.Generator) -> list[Array]:
        depth = _depth(factorization)
        return [self.gain(factor, depth) * np.eye(*factor) for factor in factorization.factor_shapes(shape)]


@dataclass(frozen=True, eq=False)
class Balanced(Described, Scaled):
    """Exactly balanced factors, W_{j+1}ᵀ W_{j+1} = W_j W_jᵀ, of a given or a random product.

    Parameters
    ----------
    product_scale, std : float, optional
        Scale of the `Gaussian` factors whose product is split when ``product`` is None.
    product : (n, p) array_like, optional
        The matrix to split.  Its rank must not exceed the narrowest width, and for UUᵀ it must be
        positive semidefinite; `FromProduct` truncates instead.
    """

    product: npt.ArrayLike | None = None

    @property
    def is_random(self) -> bool:
        return self.product is None

    def __post_init__(self) -> None:
        if self.product is None:
            super().__post_init__()
        elif self.product_scale is not None or self.std is not None:
            raise ValueError("a given product has its own scale: leave out product_scale and std")
        else:
            object.__setattr__(self, "product", real_array("product", self.product, ndim=2))

    def draw(self, factorization: Factorization, shape: Shape, rng: np.random.Generator) -> list[Array]:
        if self.product is not None:
            given = np.asarray(self.product)
            product = given.astype(np.float64)
            factors = split_evenly(product, factorization, shape)
            lost = np.linalg.norm(factorization.compose(factors) - product)
            roundoff = 1e-10 if given.dtype == np.float64 else 1e-5  # of a product multiplied out
            if lost > roundoff * np.linalg.norm(product):
                raise ValueError(
                    f"{factorization} cannot hold the given product: it is off by {lost:.3g} in Frobenius "
                    "norm; widen the factorization, or use FromProduct to truncate"
                )
            return factors
        factors = Gaussian(self.product_scale, self.std).draw(factorization, shape, rng)
        if isinstance(factorization, Symmetric):
            return factors  # a single factor is always balanced
        return split_evenly(factorization.compose(factors), factorization, shape)


@dataclass(frozen=True, eq=False)
class FromProduct(Described, Initializer):
    """Balanced factors of the best approximation of a matrix that the widths allow; draws nothing.

    The truncated SVD for `Product`; the largest positive eigenpairs of the symmetric part for
    `Symmetric`, which is the "SVD initialization" of Gunasekar et al. (2017).

    Parameters
    ----------
    matrix : (n, p) array_like
        The matrix to approximate.
    """

    matrix: npt.ArrayLike

    @property
    def is_random(self) -> bool:
        return False

    def __post_init__(self) -> None:
        object.__setattr__(self, "matrix", real_array("matrix", self.matrix, ndim=2))

    def draw(self, factorization: Factorization, shape: Shape, rng: np.random.Generator) -> list[Array]:
        return split_evenly(np.asarray(self.matrix, dtype=np.float64), factorization, shape)


@dataclass(frozen=True, eq=False)
class Factors(Described, Initializer):
    """The user's own factors [W_1, …, W_N], or [U], copied; draws nothing.

    Parameters
    ----------
    arrays : sequence of (k_j, k_{j−1}) array_like
        The factors, from W_1 upward; one array for UUᵀ.

    Raises
    ------
    ValueError, TypeError
        For arrays that are not finite, real matrices; in a run, for shapes that do not fit.
    """

    arrays: Sequence[npt.ArrayLike]

    @property
    def is_random(self) -> bool:
        return False

    def __post_init__(self) -> None:
        given = items("arrays", self.arrays)
        arrays = tuple(real_array(f"factor {j}", a, ndim=2) for j, a in enumerate(given, start=1))
        object.__setattr__(self, "arrays", arrays)

    def draw(self, factorization: Factorization, shape: Shape, rng: np.random.Generator) -> list[Array]:
        factors = [np.array(a, dtype=np.float64) for a in self.arrays]
        factorization.check_factors(factors, shape)
        return factors


def split_evenly(matrix: Array, factorization: Factorization, shape: Shape) -> list[Array]:
    """Balanced factors of the best approximation of ``matrix`` that the factorization can hold.

    With W = U S Vᵀ:  W_1 = E S^(1/N) Vᵀ,  W_j = E S^(1/N) Eᵀ,  W_N = U S^(1/N) Eᵀ, where E pads a vector
    with zeros to the hidden width.
    """
    if matrix.shape != shape:
        raise ValueError(f"the given matrix has shape {matrix.shape}, but the problem has shape {shape}")
    shapes = factorization.factor_shapes(shape)
    if isinstance(factorization, Symmetric):
        eigenvalues, vectors = np.linalg.eigh(0.5 * (matrix + matrix.T))
        rank = min(shapes[0])
        u = np.zeros(shapes[0])
        u[:, :rank] = (vectors * np.sqrt(np.maximum(eigenvalues, 0.0)))[:, ::-1][:, :rank]
        return [u]
    rank = min(min(s) for s in shapes)
    left, singular_values, right_t = np.linalg.svd(matrix, full_matrices=False)
    share = np.diag(singular_values[:rank] ** (1.0 / len(shapes)))
    if len(shapes) == 1:
        return [left[:, :rank] @ share @ right_t[:rank]]
    factors = [np.zeros(s) for s in shapes]
    for factor in factors:
        factor[:rank, :rank] = share
    factors[0][:rank] = share @ right_t[:rank]
    factors[-1][:, :rank] = left[:, :rank] @ share
    return factors


def _depth(factorization: Factorization) -> int:
    """N; UUᵀ counts as 2."""
    return factorization.depth if isinstance(factorization, Product) else 2
