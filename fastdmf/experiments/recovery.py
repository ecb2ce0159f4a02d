"""What the recovery of a planted matrix is judged by, for completion and for sensing alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastdmf import metrics
from fastdmf.experiments.experiment import Claim, Reference, Settings, Verdict
from fastdmf.experiments.verdicts import Comparison, above, below, tally
from fastdmf.problems import Problem
from fastdmf.result import Result

if TYPE_CHECKING:
    import xarray as xr

MINIMUM, TRUTH = "minimum nuclear norm solution", "ground truth"
REFERENCES = (MINIMUM, TRUTH)

#: Depth, and what W(0) is divided by.
DESCENTS = {
    "depth 2": (2, 1.0),
    "depth 2, W(0)/4": (2, 4.0),
    "depth 2, W(0)/16": (2, 16.0),
    "depth 3": (3, 1.0),
    "depth 4": (4, 1.0),
}

#: Relative gap to which the minimum nuclear norm is proved.
_GAP = 1e-4
#: Reconstruction error below which a matrix counts as recovered.
RECOVERED = 0.05


def recover(
    problem: Problem, solution: str, seed: int, settings: Settings, minimum: Reference
) -> dict[str, Any]:
    """One of `DESCENTS`, or of `REFERENCES`, on a problem whose truth is known."""
    if solution == TRUTH:
        return {**described(problem, problem.truth), "status": "known"}
    if solution == MINIMUM:
        best = minimum(problem, tol=_GAP)
        return {**described(problem, best.matrix), "status": f"reference {best.status}", "gap": best.gap}
    depth, shrink = DESCENTS[solution]
    return ended(problem, settings.follow(problem, depth, seed, shrink))


def ended(problem: Problem, result: Result) -> dict[str, Any]:
    """Where a run ended, and how."""
    return {
        **described(problem, result.product),
        "status": str(result.status),
        "loss": result.loss,
        "steps": float(result.steps),
        "evaluations": float(result.evaluations),
    }


def described(problem: Problem, matrix: Any) -> dict[str, float]:
    """Error, nuclear norm and effective rank of a matrix."""
    return {
        "error": metrics.reconstruction_error(matrix, problem.truth),
        "nuclear_norm": metrics.nuclear_norm(matrix),
        "effective_rank": metrics.effective_rank(matrix),
    }


def _of(dataset: xr.Dataset, name: str, solution: str) -> xr.DataArray:
    return dataset[name].sel(solution=solution).mean("seed")


def recovers_earlier(deep: str, shallow: str) -> Claim:
    """The least number of measurements from which on the truth is recovered."""

    def judge(dataset: xr.Dataset) -> Verdict:
        need, more = (_need(_of(dataset, "error", name)) for name in (deep, shallow))
        return tally(need < more, {"from ": need, " against from ": more})

    return Claim(
        f"Recovery (error below {RECOVERED}) takes fewer measurements m by {deep} than by {_the(shallow)}.",
        judge,
    )


def _many(dataset: xr.Dataset | xr.DataArray) -> str:
    """The dimension that counts measurements."""
    return "observed" if "observed" in dataset.dims else "measurements"


def _need(error: xr.DataArray) -> xr.DataArray:
    """The least m from which on all errors are below `RECOVERED`; infinite if the last is not."""
    x = _many(error)
    missed = error[x].where(~(error < RECOVERED)).max(x)
    later = error[x].where(error[x] > missed.fillna(-np.inf)).min(x)
    return later.fillna(np.inf)


def comparisons(own: str, other: str) -> list[Claim]:
    """With few entries: higher nuclear norm, lower effective rank and smaller error."""
    return [
        _comparison(own, other, "nuclear_norm", "a higher nuclear norm", above),
        _comparison(own, other, "effective_rank", "a lower effective rank", below),
        smaller_error(own, other),
    ]


def smaller_error(own: str, other: str) -> Claim:
    """With few entries: smaller error."""
    return _comparison(own, other, "error", "a smaller error", below)


def _the(solution: str) -> str:
    return f"the {solution}" if solution in REFERENCES else solution


def _comparison(own: str, other: str, name: str, words: str, compare: Comparison) -> Claim:
    def judge(dataset: xr.Dataset) -> Verdict:
        few = dataset.error.sel(solution=[own, other]).mean("seed").max("solution") > RECOVERED
        return compare(_of(dataset, name, own), _of(dataset, name, other), few)

    return Claim(f"Where not both recover, {own} has {words} than {_the(other)}.", judge)


def indistinguishable(one: str, other: str, margin: float = RECOVERED) -> Claim:
    """Two descents find the same."""

    def judge(dataset: xr.Dataset) -> Verdict:
        a, b = _of(dataset, "error", one), _of(dataset, "error", other)
        return tally((abs(a - b) < margin).where(a.notnull() & b.notnull()), {"": a, " and ": b})

    return Claim(f"The errors of {one} and {other} are indistinguishable (within {margin}).", judge)


def coincide_with_many(solutions: tuple[str, ...]) -> Claim:
    """With the most entries of the grid everything recovers the truth."""

    def judge(dataset: xr.Dataset) -> Verdict:
        most = dataset.isel({_many(dataset): [-1]})
        worst = most.error.sel(solution=list(solutions)).mean("seed").max("solution")
        return tally((worst < RECOVERED).where(worst.notnull()), {"largest error ": worst})

    return Claim(
        f"With the most measurements of the grid, all recover the truth (error below {RECOVERED}).", judge
    )
