"""Where U goes on positive semidefinite problems, and what is claimed of it (Gunasekar et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastdmf import metrics, plot
from fastdmf._checks import Array
from fastdmf.experiments.experiment import Claim, DescentReference, Reference, Settings, Verdict
from fastdmf.experiments.verdicts import above, tally
from fastdmf.factorizations import Symmetric
from fastdmf.initializers import FromProduct, Gaussian, Initializer
from fastdmf.optimizers import ExactLineSearch, GradientDescent, GradientFlow, Optimizer
from fastdmf.problems import Problem
from fastdmf.reference import min_nuclear_norm, projected_gradient
from fastdmf.run import run
from fastdmf.stopping import GradientBelow, LossBelow, MaxSteps, Stop

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

PAPER = (
    "Gunasekar, Woodworth, Bhojanapalli, Neyshabur & Srebro (2017), Implicit Regularization in Matrix "
    "Factorization"
)

#: ‖U₀‖_F, in root mean square, and how U moves.
DESCENTS = {
    "start 1e-4, small steps": (1e-4, "small steps"),
    "start 1e-4, line search ≤ 1": (1e-4, "line search ≤ 1"),
    "start 1e-4, line search": (1e-4, "line search"),
    "start 1, small steps": (1.0, "small steps"),
    "start 1, line search ≤ 1": (1.0, "line search ≤ 1"),
}
SMALL, CLIPPED, UNCLIPPED, LARGE, LARGE_CLIPPED = DESCENTS
FROM_X_GD = "start X_gd truncated, small steps"
X_GD, MINIMUM = "X_gd", "minimum nuclear norm solution"
REFERENCES = (MINIMUM, X_GD)
SOLUTIONS = (*DESCENTS, FROM_X_GD, *REFERENCES)

#: The paper's η, for ‖A(X) − y‖² with measurements for which A*A is the identity on average.
ETA = 1e-3
#: ‖A(X) − y‖/‖y‖ at which a matrix counts as a global optimum.
FITS = 1e-3
#: ‖∂ℓ/∂U‖_F, for the same scale, below which U rests: too narrow to fit.  That of the smallest start is 20
#: times as large.
_RESTS = 1e-5
#: Relative gap to which the minimum is proved.
GAP = 1e-6


@dataclass(frozen=True)
class Scaled:
    """A problem with the mean loss, whose matrix has a norm near ``norm`` and (1/m) A*A is near ``scale`` I.

    Starts, times and step sizes are in their units, so that they mean the same for all problems.
    """

    problem: Problem
    scale: float
    norm: float = 1.0

    def start(self, size: float, width: int) -> Gaussian:
        """Factors with ‖U₀‖_F = ``size``, in root mean square, in the unit √norm."""
        return Gaussian(std=size * (self.norm / (self.problem.shape[0] * width)) ** 0.5)

    def moving(self, how: str, settings: Settings) -> Optimizer:
        """The optimizer of one of `DESCENTS`; small steps are those of the flow, or the paper's."""
        unit = 1.0 / (self.scale * self.norm)
        if how == "line search":
            return ExactLineSearch()
        if how == "line search ≤ 1":
            return ExactLineSearch(unit)
        return GradientFlow() if settings.optimizer == "flow" else GradientDescent(ETA * unit)

    def fits(self) -> Stop:
        """Whether X is a global optimum."""
        return LossBelow(FITS**2 * float(np.mean(self.problem.values**2)))

    def rests(self) -> Stop:
        """Whether U moves so slowly that it is too narrow to fit; smaller starts are too slow for this."""
        return GradientBelow(_RESTS * self.scale * self.norm**1.5)


def solve(
    scaled: Scaled,
    solution: str,
    width: int,
    seed: int,
    *,
    settings: Settings,
    minimum: Reference = min_nuclear_norm,
    descent: DescentReference = projected_gradient,
) -> dict[str, Any]:
    """One of `SOLUTIONS` of a problem; ``seed`` is that of the start, the references are the same for all."""
    problem = scaled.problem
    if solution == MINIMUM:
        best = minimum(problem, psd=True, tol=GAP)
        return {**described(problem, best.matrix), "status": f"reference {best.status}", "gap": best.gap}
    if solution == X_GD:
        found = descent(problem, tol=0.5 * FITS)
        return {**described(problem, found.matrix), "status": f"reference {found.status}"}
    if solution == FROM_X_GD:
        start = FromProduct(descent(problem, tol=0.5 * FITS).matrix)
        how = "small steps"
    else:
        size, how = DESCENTS[solution]
        start = scaled.start(size, width)
    moving = scaled.moving(how, settings)
    return descend(scaled, start, width, seed, moving, scaled.fits() | scaled.rests())


def descend(
    scaled: Scaled, start: Initializer, width: int, seed: int, moving: Optimizer, stop: Stop
) -> dict[str, Any]:
    """Where U goes from a start."""
    result = run(
        scaled.problem,
        factorization=Symmetric(width),
        init=start,
        optimizer=moving,
        stop=stop | MaxSteps(1_000_000),
        seed=seed,
    )
    return {
        **described(scaled.problem, result.product),
        "status": str(result.status),
        "steps": float(result.steps),
        "evaluations": float(result.evaluations),
    }


def described(problem: Problem, matrix: Array) -> dict[str, float]:
    """Error, nuclear norm of a positive semidefinite matrix, and ‖A(X) − y‖/‖y‖."""
    known = problem.truth is not None
    return {
        "error": metrics.reconstruction_error(matrix, problem.truth) if known else problem.test_error(matrix),
        "nuclear_norm": float(np.trace(matrix)),
        "misfit": float(np.linalg.norm(problem.residual(matrix)) / np.linalg.norm(problem.values)),
    }


def draw(
    dataset: xr.Dataset,
    values: Sequence[str] = ("error", "nuclear_norm"),
    error: str = "reconstruction error\n" r"$\|X - X^*\|_F\,/\,\|X^*\|_F$",
) -> Figure:
    """Variables against the width of U, where U fits."""
    return plot.against(
        dataset[list(values)].where(dataset.misfit <= 1.01 * FITS),
        "width",
        values,
        hue="solution",
        columns="problem",
        references=REFERENCES,
        logarithmic=(),
        labels={
            "width": r"width $d$ of $U$",
            "error": error,
            "nuclear_norm": r"nuclear norm $\|X\|_*$",
        },
    )


# --- what is claimed ----------------------------------------------------------------------------------------


def _of(dataset: xr.Dataset, name: str, solution: str) -> xr.DataArray:
    """The mean over starts, where all of them fit."""
    part = dataset.sel(solution=solution)
    return part[name].mean("seed").where(part.misfit.max("seed") <= 1.01 * FITS)


def _within(own: xr.DataArray, other: xr.DataArray, margin: float) -> Verdict:
    """Whether the two differ by less than the margin, wherever both are known."""
    return tally((abs(own - other) < margin).where(_both(own, other)), {"": own, " against ": other})


def _both(own: xr.DataArray, other: xr.DataArray) -> xr.DataArray:
    return own.notnull() & other.notnull()


def _excess(dataset: xr.Dataset, solution: str) -> xr.DataArray:
    """‖X‖_*/‖X_min‖_* − 1."""
    return _of(dataset, "nuclear_norm", solution) / _of(dataset, "nuclear_norm", MINIMUM) - 1.0


def near_minimum(solution: str) -> Claim:
    """The nuclear norm is all but minimal."""

    def judge(dataset: xr.Dataset) -> Verdict:
        excess = _excess(dataset, solution)
        return tally((excess < 0.1).where(excess.notnull()), {"above it by ": excess})

    return Claim(
        f"{solution}: at every width that fits, the nuclear norm is within a tenth of the minimum.", judge
    )


def higher_norm(own: str, other: str) -> Claim:
    """One solution has a higher nuclear norm than another."""

    def judge(dataset: xr.Dataset) -> Verdict:
        a, b = _of(dataset, "nuclear_norm", own), _of(dataset, "nuclear_norm", other)
        return tally((a > 1.02 * b).where(_both(a, b)), {"": a, " against ": b})

    return Claim(f"The nuclear norm is higher (by 2% at least) for {own} than for {other}.", judge)


def _like_x_gd(solution: str, margin: float) -> Claim:
    def judge(dataset: xr.Dataset) -> Verdict:
        at = dataset.isel(width=[-1])
        own, other = (_of(at, "nuclear_norm", name) for name in (solution, X_GD))
        own_error, other_error = (_of(at, "error", name) for name in (solution, X_GD))
        alike = (abs(own / other - 1.0) < margin) & (abs(own_error - other_error) < margin)
        numbers = {"norms ": own, " and ": other, ", errors ": own_error, " against ": other_error}
        return tally(alike.where(_both(own, other)), numbers)

    return Claim(
        f"{solution}: at the greatest width it ends like X_gd (nuclear norm within {margin:.0%}, "
        f"error within {margin}).",
        judge,
    )


def _width_is_indifferent(name: str, words: str, margin: float) -> Claim:
    def judge(dataset: xr.Dataset) -> Verdict:
        own = _of(dataset, name, SMALL)
        low, high = own.min("width"), own.max("width")
        spread = high - low if name == "error" else high / low - 1.0
        return tally((spread < margin).where(spread.notnull()), {"from ": low, " to ": high})

    return Claim(f"{SMALL}: {words} at all widths that fit.", judge)


def grows_with_width(solution: str) -> Claim:
    """Wider factors have higher nuclear norms."""

    def judge(dataset: xr.Dataset) -> Verdict:
        own = _of(dataset, "nuclear_norm", solution)
        before = own.shift(width=1)
        return above(own, before, _both(own, before))

    return Claim(f"{solution}: the nuclear norm grows with the width (against the width before).", judge)


def smaller_error(own: str, other: str) -> Claim:
    """One solution has a smaller error than another."""

    def judge(dataset: xr.Dataset) -> Verdict:
        a, b = _of(dataset, "error", own), _of(dataset, "error", other)
        return tally((a < b - 0.01).where(_both(a, b)), {"": a, " against ": b})

    return Claim(f"The error is smaller (by 0.01 at least) for {own} than for {other}.", judge)


def _as_small_an_error(solution: str) -> Claim:
    def judge(dataset: xr.Dataset) -> Verdict:
        return _within(_of(dataset, "error", solution), _of(dataset, "error", MINIMUM), 0.05)

    return Claim(f"{solution}: the error is that of the {MINIMUM} (within 0.05).", judge)


ERROR_CLAIMS = (
    smaller_error(SMALL, X_GD),
    smaller_error(SMALL, LARGE),
    _as_small_an_error(SMALL),
    _as_small_an_error(CLIPPED),
    _width_is_indifferent("error", "errors differ by less than 0.05", 0.05),
)
NORM_CLAIMS = (
    near_minimum(SMALL),
    near_minimum(CLIPPED),
    near_minimum(UNCLIPPED),
    _width_is_indifferent("nuclear_norm", "nuclear norms differ by less than 5%", 0.05),
    higher_norm(LARGE, SMALL),
    higher_norm(CLIPPED, SMALL),
    higher_norm(UNCLIPPED, SMALL),
    higher_norm(LARGE_CLIPPED, LARGE),
    grows_with_width(LARGE),
    _like_x_gd(LARGE, 0.1),
    _like_x_gd(FROM_X_GD, 0.01),
)
