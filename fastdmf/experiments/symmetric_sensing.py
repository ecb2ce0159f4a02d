"""Gaussian measurements of positive semidefinite matrices (Gunasekar et al. 2017, figures 1 and 2)."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from fastdmf.experiments.experiment import Experiment, Settings
from fastdmf.experiments.symmetric import ERROR_CLAIMS, NORM_CLAIMS, PAPER, SOLUTIONS, Scaled, draw, solve
from fastdmf.problems import Sensing
from fastdmf.reference import min_nuclear_norm, projected_gradient

_SIZE, _RANK = 50, 2

#: Proportions of the planted eigenvalues, if not those of a Gaussian factor of rank 2; m = 3 n r or n r/4.
#: The caption's ‖X*‖_* = √r ‖X*‖_F cannot be had by scaling, so ‖X*‖_F = 1 as in the others.
PROBLEMS = {
    "a: rank 2, m = 300": (None, 3 * _SIZE * _RANK),
    "b: spectrum k^−1.5, m = 300": (np.arange(1, _SIZE + 1) ** -1.5, 3 * _SIZE * _RANK),
    "c: rank 2, m = 25": (None, _SIZE * _RANK // 4),
}


def planted(problem: str) -> Scaled:
    """A planted 50 × 50 matrix of Frobenius norm 1, seen by A_i = (B + Bᵀ)/2 with entries of B from N(0, 1).

    The loss is (1/m) Σ r², that of the paper for A_i/√m.
    """
    spectrum, measurements = PROBLEMS[problem]
    shape = (_SIZE, _SIZE)
    return Scaled(
        Sensing.gaussian(shape, _RANK, measurements, spectrum=spectrum, norm=1.0, std=1.0, seed=0), 1.0
    )


def trial(
    problem: str, width: int, solution: str, seed: int, *, settings: Settings, **references: Any
) -> dict[str, Any]:
    """There is one problem of each kind; ``seed`` is that of the start, as error bars are over starts."""
    return solve(planted(problem), solution, width, seed, settings=settings, **references)


_QUICK = {"problem": list(PROBLEMS), "width": [2, 10, 20, 35, 50], "solution": SOLUTIONS}
_FULL = {**_QUICK, "width": [2, 5, 8, *range(10, 51, 5)]}
_REFERENCES = {"minimum": min_nuclear_norm, "descent": projected_gradient}

FIG1 = Experiment(
    name="symmetric-fig1",
    paper=PAPER,
    figure="figure 1",
    summary="reconstruction error of UUᵀ from Gaussian measurements against the width d of U, for small and "
    "large starts (‖U₀‖_F) and steps, beside X_gd and the minimum nuclear norm solution",
    trial=trial,
    quick=_QUICK,
    full=_FULL,
    draw=partial(draw, values=["error"]),
    claims=ERROR_CLAIMS,
    quick_seeds=3,
    references=_REFERENCES,
    inits=("paper",),
)

FIG2 = Experiment(
    name="symmetric-fig2",
    paper=PAPER,
    figure="figure 2",
    summary="nuclear norm of UUᵀ from Gaussian measurements against the width d of U, in the same settings",
    trial=trial,
    quick=_QUICK,
    full=_FULL,
    draw=partial(draw, values=["nuclear_norm"]),
    claims=NORM_CLAIMS,
    quick_seeds=3,
    references=_REFERENCES,
    inits=("paper",),
)
