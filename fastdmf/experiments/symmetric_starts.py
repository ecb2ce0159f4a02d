"""Whether ever smaller starts lead to the minimum nuclear norm: the conjecture of Gunasekar et al. (2017)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from fastdmf import plot
from fastdmf.experiments import symmetric_additional, symmetric_sensing
from fastdmf.experiments.experiment import Claim, Experiment, Reference, Settings, Verdict
from fastdmf.experiments.symmetric import GAP, PAPER, descend
from fastdmf.experiments.verdicts import tally

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

#: Below this a difference of relative nuclear norms is that of residuals.
_MARGIN = 0.002

_PLANTED = {
    name: partial(module.planted, name)
    for module in (symmetric_sensing, symmetric_additional)
    for name in module.PROBLEMS
    if name != "rank one, m = 300"  # where all that fits has all but the same trace
}


def trial(problem: str, start: float, seed: int, *, settings: Settings, minimum: Reference) -> dict[str, Any]:
    """U of full width from ‖U₀‖_F = ``start``, by small steps; ``seed`` is that of the start."""
    scaled = _PLANTED[problem]()
    width = scaled.problem.shape[0]
    moving = scaled.moving("small steps", settings)
    ended = descend(scaled, scaled.start(start, width), width, seed, moving, scaled.fits())
    least = minimum(scaled.problem, psd=True, tol=GAP).upper
    return {**ended, "excess": ended["nuclear_norm"] / least - 1.0}


def draw(dataset: xr.Dataset) -> Figure:
    """How far above the minimum the nuclear norm ends, against the size of the start."""
    return plot.against(
        dataset,
        "start",
        ["excess"],
        hue="problem",
        logarithmic=["start"],
        labels={
            "start": r"size of the start $\|U_0\|_F$",
            "excess": "excess nuclear norm\n" r"$\|X\|_*\,/\,\|X_{\min}\|_* - 1$",
        },
    )


def _closer(dataset: xr.Dataset) -> Verdict:
    excess = dataset.excess.mean("seed").sortby("start")
    larger = excess.shift(start=-1)
    return tally((excess < larger + _MARGIN).where(larger.notnull()), {"": excess, " against ": larger})


def _reached(dataset: xr.Dataset) -> Verdict:
    excess = dataset.excess.mean("seed").sel(start=[dataset.start.values.min()])
    return tally((excess < 0.01).where(excess.notnull()), {"above it by ": excess})


STARTS = Experiment(
    name="symmetric-starts",
    paper=PAPER,
    figure="the conjecture",
    summary="how far above the minimum the nuclear norm of UUᵀ ends, against the size of the start ‖U₀‖_F, "
    "at full width and by small steps",
    trial=trial,
    quick={"problem": list(_PLANTED), "start": [10.0**-k for k in range(0, 13, 2)]},
    full={"problem": list(_PLANTED), "start": [10.0**-k for k in range(21)]},
    draw=draw,
    claims=(
        Claim("From the smallest start the nuclear norm ends within 1% of the minimum.", _reached),
        Claim(
            f"The smaller the start, the nearer to the minimum (farther by {_MARGIN} at most than from the "
            "next larger start).",
            _closer,
        ),
    ),
    quick_seeds=3,
    inits=("paper",),
)
