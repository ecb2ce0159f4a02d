"""Sensing of planted matrices by Gaussian measurements (Arora et al. 2019, the same figures for sensing)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastdmf import plot
from fastdmf.experiments.deep_completion import DEPTHS, FIG1_CLAIMS, FIG2_CLAIMS, PAPER, STARTS
from fastdmf.experiments.experiment import Experiment, Reference, Settings
from fastdmf.experiments.recovery import REFERENCES, recover
from fastdmf.problems import Sensing

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

# At full size the measurements of one problem fill up to 0.4 GB, and the same again while they are prepared.
_QUICK = {"size": [30], "rank": [2, 4], "measurements": range(120, 721, 60)}
_FULL = {"size": [100], "rank": [5, 10], "measurements": range(1000, 5001, 500)}


def trial(
    size: int,
    rank: int,
    measurements: int,
    solution: str,
    seed: int,
    *,
    settings: Settings,
    minimum: Reference,
) -> dict[str, Any]:
    """Find a planted n × n matrix of Frobenius norm n from ⟨A_i, W⟩, the entries of A_i being N(0, 1)/n."""
    problem = Sensing.gaussian(
        shape=(size, size), rank=rank, measurements=measurements, symmetric=False, seed=seed
    )
    return recover(problem, solution, seed, settings, minimum)


def draw_errors(dataset: xr.Dataset) -> Figure:
    """Reconstruction error against the number of measurements."""
    return plot.against(dataset.isel(size=0), "measurements", ["error"], hue="solution", columns="rank")


def draw_all(dataset: xr.Dataset) -> Figure:
    """Error, nuclear norm and effective rank against the number of measurements, beside the references."""
    return plot.against(
        dataset.isel(size=0), "measurements", hue="solution", columns="rank", references=REFERENCES
    )


FIG1 = Experiment(
    name="deep-sensing-fig1",
    paper=PAPER,
    figure="figure 1 for sensing",
    summary="reconstruction error of sensing against the number of measurements, depths 2, 3 and 4",
    trial=trial,
    quick={**_QUICK, "solution": DEPTHS},
    full={**_FULL, "solution": DEPTHS},
    draw=draw_errors,
    claims=FIG1_CLAIMS,
)

FIG2 = Experiment(
    name="deep-sensing-fig2",
    paper=PAPER,
    figure="figure 2 for sensing",
    summary="error, nuclear norm and effective rank of sensing: depth 2 from three starts, depth 3, "
    "the minimum nuclear norm solution and the ground truth",
    trial=trial,
    quick={**_QUICK, "solution": (*STARTS, *REFERENCES)},
    full={**_FULL, "solution": (*STARTS, *REFERENCES)},
    draw=draw_all,
    claims=FIG2_CLAIMS,
)
