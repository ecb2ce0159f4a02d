"""Completion, rank-one measurements and ratings by UUᵀ (Gunasekar et al. 2017, figure 3)."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from fastdmf.experiments.experiment import Experiment, Ratings, Reference, Settings
from fastdmf.experiments.symmetric import (
    CLIPPED,
    ERROR_CLAIMS,
    LARGE,
    MINIMUM,
    NORM_CLAIMS,
    PAPER,
    SMALL,
    SOLUTIONS,
    Scaled,
    draw,
    grows_with_width,
    higher_norm,
    near_minimum,
    smaller_error,
    solve,
)
from fastdmf.problems import Completion, Sensing
from fastdmf.reference import min_nuclear_norm, projected_gradient

_SIZE, _RANK = 50, 2

#: Kind and number of measurements.
PROBLEMS = {
    "completion, m = 300": ("entries", 300),
    "rank one, m = 300": ("rank one", 300),
    "rank one, m = 100": ("rank one", 100),
}


def planted(problem: str) -> Scaled:
    """A planted 50 × 50 matrix of rank 2 and Frobenius norm 1; A_i picks an entry, or is x xᵀ/50."""
    kind, measurements = PROBLEMS[problem]
    shape = (_SIZE, _SIZE)
    if kind == "entries":
        entries = Completion.random(shape, _RANK, measurements, symmetric=True, norm=1.0, seed=0)
        return Scaled(entries, _SIZE**-2)
    # E ⟨x xᵀ, X⟩ x xᵀ = 2 X + tr(X) I
    return Scaled(Sensing.rank_one(shape, _RANK, measurements, norm=1.0, seed=0), 2.0 * _SIZE**-2)


def trial(
    problem: str, width: int, solution: str, seed: int, *, settings: Settings, **references: Any
) -> dict[str, Any]:
    """There is one problem of each kind; ``seed`` is that of the start, as error bars are over starts."""
    return solve(planted(problem), solution, width, seed, settings=settings, **references)


def rated(
    problem: str,
    width: int,
    solution: str,
    seed: int,
    *,
    settings: Settings,
    minimum: Reference,
    ratings: Ratings,
) -> dict[str, Any]:
    """10,000 ratings W as the blocks of [[·, W], [Wᵀ, ·]] ⪰ 0; ``seed`` is that of the start."""
    given = ratings(observed=10_000, seed=0)
    if solution == MINIMUM:  # of trace 2‖W‖_*, from a problem a third as wide
        best = minimum(given, tol=_RATINGS_GAP)
        return {
            "error": given.test_error(best.matrix),
            "nuclear_norm": 2.0 * best.upper,
            "misfit": best.violation / float(np.linalg.norm(given.values)),
            "gap": best.gap,
            "status": f"reference {best.status}",
        }
    n, p = given.shape
    norm = float(np.sqrt(2.0 * n * p * np.mean(given.values**2)))  # if all ratings were like these
    return solve(Scaled(given.lifted(), 0.5 / (n * p), norm), solution, width, seed, settings=settings)


_RATINGS_GAP = 1e-3

FIG3 = Experiment(
    name="symmetric-fig3",
    paper=PAPER,
    figure="figure 3",
    summary="error and nuclear norm of UUᵀ against the width d of U: entries of a matrix, and rank-one "
    "measurements",
    trial=trial,
    quick={"problem": list(PROBLEMS), "width": [2, 10, 50], "solution": SOLUTIONS},
    full={"problem": list(PROBLEMS), "width": [2, 5, 8, *range(10, 51, 5)], "solution": SOLUTIONS},
    draw=draw,
    claims=(*ERROR_CLAIMS, *NORM_CLAIMS),
    quick_seeds=3,
    references={"minimum": min_nuclear_norm, "descent": projected_gradient},
    inits=("paper",),
)

_RATED = {"problem": ["MovieLens 100K"], "solution": (SMALL, CLIPPED, LARGE, MINIMUM)}

MOVIELENS_FIG3 = Experiment(
    name="symmetric-fig3-movielens",
    paper=PAPER,
    figure="figure 3, MovieLens 100K",
    summary="test error and nuclear norm of UUᵀ for 10,000 ratings against the width d of U, in units of the "
    "ratings (the data must be given)",
    trial=rated,
    quick={**_RATED, "width": [10, 50, 200]},
    full={**_RATED, "width": [10, 50, 200, 1000, 2625]},
    draw=partial(draw, error="test error (RMSE)"),
    claims=(
        smaller_error(SMALL, LARGE),
        smaller_error(SMALL, MINIMUM),
        near_minimum(SMALL),
        near_minimum(CLIPPED),
        higher_norm(LARGE, SMALL),
        grows_with_width(LARGE),
    ),
    inits=("paper",),
    needs_ratings=True,
)
