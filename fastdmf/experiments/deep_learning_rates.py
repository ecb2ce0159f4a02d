"""Whether the learning rate matters (a remark of Arora et al. 2019 on their figures 1 and 2)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fastdmf import plot
from fastdmf.experiments.deep_completion import PAPER
from fastdmf.experiments.experiment import Experiment, Settings
from fastdmf.experiments.recovery import ended, indistinguishable
from fastdmf.problems import Completion

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

FLOW = "gradient flow"
RATES = {"learning rate 1e-3": 1e-3, "learning rate 5e-4": 5e-4}


def trial(
    rank: int, observed: int, depth: int, solution: str, seed: int, *, settings: Settings
) -> dict[str, Any]:
    """Complete a planted 100 × 100 matrix by the paper's optimizer, or by the flow, from the same start."""
    problem = Completion.random(rank=rank, observed=observed, seed=seed)
    if solution == FLOW:
        moving = replace(settings, optimizer="flow")
    else:
        moving = replace(settings, lr=RATES[solution])
    return ended(problem, moving.follow(problem, depth, seed))


def draw(dataset: xr.Dataset) -> Figure:
    """Error, nuclear norm and effective rank against the number of entries."""
    return plot.against(dataset.isel(rank=0), "observed", hue="solution", columns="depth", references=[FLOW])


SMALLER, LARGER = list(RATES)[::-1]

LEARNING_RATES = Experiment(
    name="deep-learning-rates",
    paper=PAPER,
    figure="a remark on figures 1 and 2",
    summary="completion by the paper's optimizer with its learning rate, half of it, and by the flow",
    trial=trial,
    quick={"rank": [5], "observed": [1000, 2000], "depth": [2, 3], "solution": (*RATES, FLOW)},
    full={"rank": [5, 10], "observed": range(1000, 5001, 500), "depth": [2, 3], "solution": (*RATES, FLOW)},
    draw=draw,
    claims=(indistinguishable(LARGER, SMALLER, 0.01), indistinguishable(LARGER, FLOW, 0.01)),
    references={},
    optimizers=("paper",),
)
