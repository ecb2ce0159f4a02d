"""How singular values grow, and whether the gradient is diagonal (Arora et al. 2019, figure 3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastdmf import metrics, plot
from fastdmf._checks import Array
from fastdmf.datasets import ML_100K_VARIABLE
from fastdmf.experiments.deep_completion import PAPER
from fastdmf.experiments.experiment import Claim, Experiment, Ratings, Settings, Verdict
from fastdmf.experiments.verdicts import above, tally
from fastdmf.initializers import Identity
from fastdmf.optimizers import GradientDescent, GradientFlow
from fastdmf.problems import Completion, Problem, Sensing
from fastdmf.recording import Record
from fastdmf.run import run
from fastdmf.stopping import LossBelow, MaxSteps, Stop

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

    from fastdmf.state import State

_LEADING = 10
_PLANTED_STOP = LossBelow(1e-6) | MaxSteps(1_000_000)


def _alignments(state: State) -> Array:
    """Mean absolute entries of Uᵀ∇ℓV on and off the diagonal, from one decomposition."""
    size = np.abs(metrics.alignment(state.product, state.problem.gradient(state.product)))
    on, r = np.trace(size), len(size)
    return np.array([on / r, (size.sum() - on) / (r * (r - 1))])


def follow(
    problem: Problem, depth: int, settings: Settings, stop: Stop, every_flow: int = 1, every_step: int = 20
) -> dict[str, Any]:
    """What figure 3 shows of one run from a multiple of the identity, by the flow or by plain descent.

    The paper's learning rate is 1e-3 for ½ Σ r², hence 1e-3 m/2 for the mean loss here.
    """
    import xarray as xr

    is_flow = settings.optimizer == "flow"
    result = run(
        problem,
        depth=depth,
        init=Identity(product_scale=1e-3) if settings.init == "released" else Identity(std=1e-3),
        optimizer=GradientFlow() if is_flow else GradientDescent(1e-3 * problem.values.size / 2),
        stop=stop,
        record=Record(
            every=every_flow if is_flow else every_step,
            metrics={"singular_values": "singular_values", "alignments": _alignments},
        ),
    )
    trace = result.trace
    leading = trace.singular_values.values[:, :_LEADING]
    return {
        "time": xr.DataArray(trace.time.values, dims="point"),
        "singular_values": xr.DataArray(leading, dims=("point", "component")),
        "alignment_on_diagonal": xr.DataArray(trace.alignments.values[:, 0], dims="point"),
        "alignment_off_diagonal": xr.DataArray(trace.alignments.values[:, 1], dims="point"),
        "effective_rank": metrics.effective_rank(result.product),
        "error": metrics.reconstruction_error(result.product, problem.truth),
        "test_error": result.test_error,
        "loss": result.loss,
        "steps": float(result.steps),
        "evaluations": float(result.evaluations),
        "status": str(result.status),
    }


def completed(rank: int, observed: int, depth: int, seed: int, *, settings: Settings) -> dict[str, Any]:
    """Some entries of a planted 100 × 100 matrix."""
    problem = Completion.random(rank=rank, observed=observed, seed=seed)
    return follow(problem, depth, settings, _PLANTED_STOP)


def sensed(
    size: int, rank: int, measurements: int, depth: int, seed: int, *, settings: Settings
) -> dict[str, Any]:
    """Gaussian measurements of a planted n × n matrix."""
    problem = Sensing.gaussian((size, size), rank, measurements, symmetric=False, seed=seed)
    return follow(problem, depth, settings, _PLANTED_STOP)


def rated(data: str, depth: int, seed: int, *, settings: Settings, ratings: Ratings) -> dict[str, Any]:
    """10,000 of the ratings of MovieLens 100K, at full width."""
    problem = ratings(observed=10_000, seed=seed)
    return follow(
        problem, depth, settings, LossBelow(1e-2) | MaxSteps(1_000_000), every_flow=2, every_step=160
    )


def draw(dataset: xr.Dataset) -> Figure:
    """Singular values over time at each depth, and the gradient at depth 2, of the first seed."""
    first = dataset.isel(seed=0).squeeze()
    return plot.singular_paths(first, "depth", aligned=2)


def draw_logarithmic(dataset: xr.Dataset) -> Figure:
    """The same on a logarithmic axis: the mean rating makes one singular value far the greatest."""
    return plot.singular_paths(dataset.isel(seed=0).squeeze(), "depth", aligned=2, logarithmic=True)


def _deeper(dataset: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """The values at all depths but the first, and those at the depth before each."""
    mean = dataset.mean("seed")
    return mean.isel(depth=slice(1, None)), mean.shift(depth=1).isel(depth=slice(1, None))


def _lower_rank(dataset: xr.Dataset) -> Verdict:
    own, before = _deeper(dataset.effective_rank)
    return tally((own < before).where(own.notnull() & before.notnull()), {"": own, " against ": before})


def _one_after_another(dataset: xr.Dataset) -> Verdict:
    sigma = dataset.singular_values
    rises = dataset.time.where(sigma >= 0.5 * sigma.max("point")).min("point")
    own, before = _deeper(rises.isel(component=4) / rises.isel(component=0))
    return above(own, before, own.notnull())


def _diagonal(dataset: xr.Dataset) -> Verdict:
    moving = dataset.isel(point=slice(1, None))  # the singular vectors of the identity are anything
    ratio = (moving.alignment_on_diagonal / moving.alignment_off_diagonal).sel(depth=[2])
    least, usual = ratio.min("point"), ratio.median("point")
    return tally((least > 1).where(least.notnull()), {"least ratio ": least, ", median ": usual})


CLAIMS = (
    Claim("The deeper, the lower the effective rank at the end (against one layer less).", _lower_rank),
    Claim(
        "The deeper, the more the singular values rise one after another: the time at which the fifth is "
        "half of its greatest, over that of the first, grows.",
        _one_after_another,
    ),
    Claim(
        "Uᵀ∇ℓV at depth 2 is larger on its diagonal than off it, on average, at all times after the start.",
        _diagonal,
    ),
)

FIG3 = Experiment(
    name="deep-fig3",
    paper=PAPER,
    figure="figure 3",
    summary="singular values over time at depths 1, 2 and 3, and how diagonal the gradient is at depth 2",
    trial=completed,
    quick={"rank": [5], "observed": [2000], "depth": [1, 2, 3]},
    full={"rank": [5], "observed": [2000], "depth": [1, 2, 3]},
    draw=draw,
    claims=CLAIMS,
    references={},
)

SENSING_FIG3 = Experiment(
    name="deep-sensing-fig3",
    paper=PAPER,
    figure="figure 3 for sensing",
    summary="the same for Gaussian measurements",
    trial=sensed,
    quick={"size": [40], "rank": [5], "measurements": [800], "depth": [1, 2, 3]},
    full={"size": [100], "rank": [5], "measurements": [2000], "depth": [1, 2, 3]},
    draw=draw,
    claims=CLAIMS,
    references={},
)

MOVIELENS_FIG3 = Experiment(
    name="deep-fig3-movielens",
    paper=PAPER,
    figure="figure 3, MovieLens 100K",
    summary=f"the same for 10,000 ratings (the data must be there: {ML_100K_VARIABLE} names u.data)",
    trial=rated,
    quick={"data": ["MovieLens 100K"], "depth": [1, 2]},
    full={"data": ["MovieLens 100K"], "depth": [1, 2, 3]},
    draw=draw_logarithmic,
    claims=CLAIMS,
    full_seeds=1,
    references={},
    needs_ratings=True,
)
