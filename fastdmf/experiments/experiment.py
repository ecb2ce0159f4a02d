"""What an experiment is: a description, which :func:`reproduce` carries out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from fastdmf.factorizations import Product
from fastdmf.initializers import Gaussian
from fastdmf.optimizers import GradientFlow, GroupRMSprop
from fastdmf.problems import Completion, Problem
from fastdmf.reference import Descent, Minimum, SmallMinima, min_nuclear_norm
from fastdmf.result import Result
from fastdmf.run import run

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

OPTIMIZERS = ("flow", "paper")
INITS = ("released", "paper")

#: Added to the seed of a problem for that of its start, so that the two draw different numbers.
_START = 1000


@dataclass(frozen=True)
class Settings:
    """What the papers leave open, or what differs between a paper and the code released with it.

    Parameters
    ----------
    optimizer : {"flow", "paper"}
        `GradientFlow`, or what the released code uses: `GroupRMSprop`, in float32.
    init : {"released", "paper"}
        Gaussian factors with the product scale 1e-3 of the released code, or with the standard deviation
        1e-3 per factor of the paper's text.
    lr : float
        Learning rate of the paper's optimizer.
    """

    optimizer: str = "flow"
    init: str = "released"
    lr: float = 1e-3

    def start(self, depth: int, shrink: float = 1.0) -> Gaussian:
        """The start, its product W(0) divided by ``shrink``."""
        if self.init == "released":
            return Gaussian(product_scale=1e-3 / shrink)
        return Gaussian(std=1e-3 / shrink ** (1.0 / depth))

    def follow(self, problem: Problem, depth: int, seed: int, shrink: float = 1.0) -> Result:
        """One run of a product of full width, to a loss of 1e-6."""
        is_flow = self.optimizer == "flow"
        return run(
            problem,
            factorization=Product(depth),
            init=self.start(depth, shrink),
            optimizer=GradientFlow() if is_flow else GroupRMSprop(self.lr),
            dtype="float64" if is_flow else "float32",
            seed=_START + seed,
        )


class Finding(StrEnum):
    """Whether the numbers agree with a claim."""

    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    DEPENDS = "depends"
    UNTESTED = "untested"


@dataclass(frozen=True)
class Verdict:
    """What a run says about a claim.

    Attributes
    ----------
    finding : Finding
        Supported everywhere, contradicted everywhere, or depending on what ``numbers`` names; "untested" if
        this run holds no case that the claim speaks of.
    numbers : str
        The numbers behind it.
    """

    finding: Finding
    numbers: str


@dataclass(frozen=True)
class Claim:
    """A statement of a paper, and how a dataset is asked about it."""

    text: str
    judge: Callable[[xr.Dataset], Verdict]


@dataclass(frozen=True)
class Experiment:
    """One figure of a paper.

    Attributes
    ----------
    name : str
        By which it is asked for.
    paper, figure, summary : str
        Which figure of which paper, and what it shows.
    trial : callable
        Called for each cell of the grid with its coordinates, ``seed``, ``settings`` (a `Settings`), its
        ``references``, and ``ratings`` if it needs them.
    quick, full : mapping of str to sequences
        The grid, without ``seed``: in a minute, and at the sizes of the paper.
    draw : callable
        From the dataset to its figure.
    claims : sequence of Claim
        What the paper says that the figure shows.
    quick_seeds, full_seeds : int
        How many problems and starts there are.
    references : mapping of str to callables
        Slow functions that cells share: each is passed to the trial by its name here, with a memory.
    optimizers, inits : tuple of str
        Which of the `Settings` there are; the first is the default.
    needs_ratings : bool
        Whether the trial is passed ``ratings``: `movielens_100k` for the file that it was given.
    """

    name: str
    paper: str
    figure: str
    summary: str
    trial: Callable[..., Mapping[str, Any]]
    quick: Mapping[str, Sequence[Any]]
    full: Mapping[str, Sequence[Any]]
    draw: Callable[[xr.Dataset], Figure]
    claims: Sequence[Claim]
    quick_seeds: int = 1
    full_seeds: int = 3
    references: Mapping[str, Callable[..., Any]] = field(
        default_factory=lambda: {"minimum": min_nuclear_norm}
    )
    optimizers: tuple[str, ...] = OPTIMIZERS
    inits: tuple[str, ...] = INITS
    needs_ratings: bool = False


#: `min_nuclear_norm`, `projected_gradient` and `min_trace_small`, or the same with a memory.
Reference = Callable[..., Minimum]
DescentReference = Callable[..., Descent]
SmallReference = Callable[..., SmallMinima]
#: `movielens_100k` with its file.
Ratings = Callable[..., Completion]
