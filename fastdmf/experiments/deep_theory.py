"""The theorems of Arora et al. (2019), predicted by `theory` against simulated by the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastdmf import plot
from fastdmf._checks import Array
from fastdmf.experiments.deep_completion import PAPER
from fastdmf.experiments.experiment import Claim, Experiment, Settings, Verdict
from fastdmf.experiments.verdicts import tally
from fastdmf.initializers import Balanced, Identity, Initializer
from fastdmf.optimizers import GradientDescent, GradientFlow
from fastdmf.problems import Completion, Problem, Sensing
from fastdmf.recording import Record
from fastdmf.result import Result
from fastdmf.run import run
from fastdmf.stopping import LossBelow, MaxSteps

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

    from fastdmf.state import State

#: Difference, relative to the largest prediction, below which prediction and simulation agree.
_AGREE = 1e-2

_SIZE = 6
#: Singular values of W(0), or their scale, unless a theorem asks for another.
_SCALE = 1e-3
#: Half the part of the time over which rates are taken: fast enough singular values double in a hundredth.
_APART = 2e-4


def _moved(
    problem: Problem,
    depth: int,
    init: Initializer,
    settings: Settings,
    seed: int,
    loss: float = 1e-12,
    record: Record | None = None,
) -> Result:
    """A run that is precise enough to be held against a theorem; or plain descent, as the paper has it."""
    flow = GradientFlow(rtol=1e-8, method="dopri5")
    return run(
        problem,
        depth=depth,
        init=init,
        optimizer=flow if settings.optimizer == "flow" else GradientDescent(1e-2),
        stop=LossBelow(loss) | MaxSteps(2_000_000),
        record=record or Record(at=[]),
        seed=seed,
    )


Compared = tuple[Array, Array, Result]


def _commuting(basis: str, depth: int, seed: int, settings: Settings) -> Compared:
    """Theorems 1 and 2: where the flow on commuting measurements ends, from αI."""
    from fastdmf.theory import commuting_limit

    problem = Sensing.commuting(_SIZE, 3, 3, basis=basis, seed=seed, norm=3.0)
    init = Identity(product_scale=_SCALE)
    result = _moved(problem, depth, init, settings, seed)
    alpha = init.gain((_SIZE, _SIZE), depth)
    assert problem.eigenvalues is not None and problem.basis is not None
    limit = commuting_limit(problem.eigenvalues, problem.values, alpha, depth)
    return limit, np.diag(problem.basis.T @ result.product @ problem.basis), result


def _at_half(
    depth: int, seed: int, settings: Settings, metrics: dict[str, Any]
) -> tuple[dict[str, Array], dict[str, Array], Result]:
    """Metrics when the loss of a completion is half of the first, their rates there, and the run.

    Rates are central differences over a small part of the time.
    """
    problem = Completion.random((_SIZE, _SIZE), rank=2, observed=24, seed=seed)
    init, half = Balanced(product_scale=_SCALE), 0.5 * float(np.mean(problem.values**2))
    first = _moved(problem, depth, init, settings, seed, half)
    when, last = first.time, first.steps
    if settings.optimizer == "flow":
        record = Record(at_time=[(1.0 - _APART) * when, when, (1.0 + _APART) * when], metrics=metrics)
    else:
        record = Record(at=[last - 1, last, last + 1], metrics=metrics)
    result = _moved(problem, depth, init, settings, seed, 0.1 * half, record)
    time, trace = result.records["time"], {name: result.records[name] for name in metrics}
    k = int(np.argmin(np.abs(time - when)))
    moved = {name: (x[k + 1] - x[k - 1]) / (time[k + 1] - time[k - 1]) for name, x in trace.items()}
    return {name: x[k] for name, x in trace.items()}, moved, result


def _rates(depth: int, seed: int, settings: Settings) -> Compared:
    """Theorem 3: how fast singular values move."""
    from fastdmf.theory import singular_value_rates

    def rates(state: State) -> Array:
        return singular_value_rates(state.factors, _gradient(state))

    metrics = {"sigma": "singular_values", "rates": rates}
    there, moved, result = _at_half(depth, seed, settings, metrics)
    return there["rates"], moved["sigma"], result


def _off_diagonal(depth: int, seed: int, settings: Settings) -> Compared:
    """Corollary 1: Ẇ is diagonal in the singular vectors of W, which then rest, if and only if ∇ℓ is.

    Its entries u_rᵀẆv_s are −K_rs u_rᵀ∇ℓv_s with K_rs > 0.
    """
    from fastdmf.theory import coupling

    metrics = {"product": lambda state: state.product, "gradient": _gradient}
    there, moved, result = _at_half(depth, seed, settings, metrics)
    left, sigma, right_t = np.linalg.svd(there["product"])
    off = ~np.eye(_SIZE, dtype=bool)
    predicted = -coupling(sigma, sigma, depth) * (left.T @ there["gradient"] @ right_t.T)
    return predicted[off], (left.T @ moved["product"] @ right_t.T)[off], result


def _gradient(state: State) -> Array:
    return state.problem.gradient(state.product)


def _growth(depth: int, seed: int, settings: Settings) -> Compared:
    """How much a small perturbation of a commuting flow in a rotated basis grows, as logarithms."""
    from fastdmf.theory import commuting_instability

    problem, scale, small = Sensing.commuting(_SIZE, 3, 3, basis="rotated", seed=seed, norm=3.0), _SCALE, 1e-9
    assert problem.eigenvalues is not None and problem.basis is not None
    off = np.triu_indices(_SIZE, 1)
    perturbed = scale * (np.eye(_SIZE) + small * (1.0 - np.eye(_SIZE)))
    init = Balanced(product=problem.basis @ perturbed @ problem.basis.T)
    result = _moved(problem, depth, init, settings, seed, 0.5 * float(np.mean(problem.values**2)))
    growth = commuting_instability(
        problem.eigenvalues, problem.values, scale ** (1.0 / depth), depth, [0.0, result.time]
    )
    grown = problem.basis.T @ result.product @ problem.basis
    simulated = np.log(np.abs(grown[off] + grown.T[off]) / (2.0 * scale * small))
    return growth.predicted_symmetric[-1][off], simulated, result


def _one_measurement(depth: int, seed: int, settings: Settings) -> Compared:
    """Equations 10 and 11: where the singular values end that a single measurement moves."""
    from fastdmf.theory import single_measurement

    weights = np.linspace(1.0, 0.5, _SIZE)
    problem = Sensing(np.diag(weights)[None], [2.0])
    init = Identity(product_scale=_SCALE)
    result = _moved(problem, depth, init, settings, seed)
    sigma = np.full(_SIZE, init.gain((_SIZE, _SIZE), depth) ** depth)
    return single_measurement(weights, 2.0, sigma, depth).end, np.diag(result.product), result


def _proposition(depth: int, seed: int, settings: Settings) -> Compared:
    """Proposition 1: the limit diag(1, 1, 0, …), which minimizes no Schatten-p quasi-norm with p < 1.

    The start is its own: the limit is that of ever smaller ones.
    """
    from fastdmf.theory import proposition_1

    instance = proposition_1(_SIZE)
    result = _moved(instance.problem, depth, Identity(product_scale=1e-12), settings, seed)
    return np.diag(instance.limit), np.diag(result.product), result


_CHECKS = {
    "commuting, diagonal": lambda *about: _commuting("diagonal", *about),
    "commuting, rotated": lambda *about: _commuting("rotated", *about),
    "growth off the diagonal, logarithm": _growth,
    "rates of singular values": _rates,
    "rates off the diagonal": _off_diagonal,
    "one measurement": _one_measurement,
    "Proposition 1": _proposition,
}


def trial(check: str, depth: int, seed: int, *, settings: Settings) -> dict[str, Any]:
    """One of the predictions, and what the engine finds."""
    import xarray as xr

    predicted, simulated, result = _CHECKS[check](depth, seed, settings)
    return {
        "predicted": xr.DataArray(predicted, dims="component"),
        "simulated": xr.DataArray(simulated, dims="component"),
        "difference": float(np.max(np.abs(predicted - simulated)) / np.max(np.abs(predicted))),
        "loss": result.loss,
        "evaluations": float(result.evaluations),
        "status": str(result.status),
    }


def draw(dataset: xr.Dataset) -> Figure:
    """What was predicted against what was simulated, a panel for each prediction."""
    return plot.agreement(dataset, panels="check", hue="depth")


def _agrees(check: str, text: str) -> Claim:
    def judge(dataset: xr.Dataset) -> Verdict:
        worst = dataset.difference.sel(check=check).max("seed")
        return tally((worst < _AGREE).where(worst.notnull()), {"relative difference ": worst})

    return Claim(f"{text} (largest relative difference below {_AGREE}).", judge)


_GRID = {"check": list(_CHECKS), "depth": [2, 3, 4]}

THEORY = Experiment(
    name="deep-theory",
    paper=PAPER,
    figure="theorems 1 to 3, corollary 1, equations 10 and 11, proposition 1",
    summary="limits and rates, predicted and simulated, at depths 2, 3 and 4",
    trial=trial,
    quick=_GRID,
    full=_GRID,
    draw=draw,
    claims=(
        _agrees(
            "commuting, diagonal", "Theorems 1 and 2: flows on diagonal measurements end where predicted"
        ),
        _agrees(
            "commuting, rotated",
            "Theorems 1 and 2: so they do in a rotated basis, where rounding leaves the commuting trajectory",
        ),
        _agrees(
            "growth off the diagonal, logarithm",
            "Where they leave it, perturbations off the diagonal grow as the linearized flow says",
        ),
        _agrees("rates of singular values", "Theorem 3: singular values move at the rates predicted"),
        _agrees(
            "rates off the diagonal",
            "Corollary 1: off the diagonal UᵀẆV is −K ∘ (Uᵀ∇ℓV), K > 0, so that singular vectors rest where "
            "Uᵀ∇ℓV is diagonal, and nowhere else",
        ),
        _agrees(
            "one measurement", "Equations 10 and 11: a single measurement moves singular values as predicted"
        ),
        _agrees("Proposition 1", "Proposition 1: every depth ends at the matrix of minimum nuclear norm"),
    ),
    quick_seeds=3,
    full_seeds=20,
    references={},
    inits=("released",),
)
