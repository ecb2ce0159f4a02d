"""Completion of planted matrices (Arora et al. 2019, figures 1 and 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastdmf import plot
from fastdmf.experiments.experiment import Experiment, Reference, Settings
from fastdmf.experiments.recovery import (
    DESCENTS,
    MINIMUM,
    REFERENCES,
    coincide_with_many,
    comparisons,
    indistinguishable,
    recover,
    recovers_earlier,
    smaller_error,
)
from fastdmf.problems import Completion

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

PAPER = "Arora, Cohen, Hu & Luo (2019), Implicit Regularization in Deep Matrix Factorization"

DEPTHS = ("depth 2", "depth 3", "depth 4")
STARTS = tuple(name for name in DESCENTS if name != "depth 4")


#: What the paper says of figures 1 and 2, for completion and for sensing alike.
FIG1_CLAIMS = (
    recovers_earlier("depth 3", "depth 2"),
    recovers_earlier("depth 4", "depth 2"),
    smaller_error("depth 3", "depth 2"),
    smaller_error("depth 4", "depth 2"),
    indistinguishable("depth 4", "depth 3"),
    coincide_with_many(DEPTHS),
)
FIG2_CLAIMS = (
    *comparisons("depth 2", MINIMUM),
    *comparisons("depth 3", MINIMUM),
    *comparisons("depth 3", "depth 2"),
    *comparisons("depth 2, W(0)/16", "depth 2"),
    recovers_earlier("depth 3", "depth 2"),
    recovers_earlier("depth 3", MINIMUM),
    coincide_with_many((*STARTS, MINIMUM)),
)


def trial(
    rank: int, observed: int, solution: str, seed: int, *, settings: Settings, minimum: Reference
) -> dict[str, Any]:
    """Complete a planted 100 × 100 matrix of Frobenius norm 100."""
    problem = Completion.random(rank=rank, observed=observed, seed=seed)
    return recover(problem, solution, seed, settings, minimum)


def draw_errors(dataset: xr.Dataset) -> Figure:
    """Reconstruction error against the number of entries."""
    return plot.against(dataset, "observed", ["error"], hue="solution", columns="rank")


def draw_all(dataset: xr.Dataset) -> Figure:
    """Error, nuclear norm and effective rank against the number of entries, beside the references."""
    return plot.against(dataset, "observed", hue="solution", columns="rank", references=REFERENCES)


FIG1 = Experiment(
    name="deep-fig1",
    paper=PAPER,
    figure="figure 1",
    summary="reconstruction error of completion against the number of entries, depths 2, 3 and 4",
    trial=trial,
    quick={"rank": [5, 10], "observed": range(1000, 5001, 500), "solution": DEPTHS},
    full={"rank": [5, 10], "observed": range(1000, 5001, 500), "solution": DEPTHS},
    draw=draw_errors,
    claims=FIG1_CLAIMS,
)

FIG2 = Experiment(
    name="deep-fig2",
    paper=PAPER,
    figure="figure 2",
    summary="error, nuclear norm and effective rank of completion: depth 2 from three starts, depth 3, "
    "the minimum nuclear norm solution and the ground truth",
    trial=trial,
    quick={"rank": [5, 10], "observed": range(1000, 5001, 500), "solution": (*STARTS, *REFERENCES)},
    full={"rank": [5, 10], "observed": range(1000, 5001, 500), "solution": (*STARTS, *REFERENCES)},
    draw=draw_all,
    claims=FIG2_CLAIMS,
)
