"""What is kept of a run, and when."""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastdmf import metrics
from fastdmf._checks import Array, count, items, positive
from fastdmf.factorizations import Symmetric
from fastdmf.state import State

Metric = str | Callable[[State], Any]


def _gradient_norm(state: State) -> float:
    return float(np.sqrt(sum(float(np.vdot(g, g)) for g in state.gradients)))


def _acting_gradient(state: State) -> Array:
    """∇ℓ(W), of which UUᵀ feels the symmetric part only: U̇ = −(∇ℓ + ∇ℓᵀ) U."""
    gradient = state.problem.gradient(state.product)
    return 0.5 * (gradient + gradient.T) if isinstance(state.factorization, Symmetric) else gradient


#: What each name in `Record.metrics` stands for.
NAMED: dict[str, Callable[[State], Any]] = {
    "loss": lambda s: s.loss,
    "test_error": lambda s: s.test_error,
    "reconstruction_error": lambda s: metrics.reconstruction_error(s.product, s.problem.truth),
    "gradient_norm": _gradient_norm,
    "singular_values": lambda s: s.singular_values,
    "nuclear_norm": lambda s: float(s.singular_values.sum()),
    "effective_rank": lambda s: metrics.effective_rank_of_spectrum(s.singular_values),
    "numerical_rank": lambda s: metrics.numerical_rank_of_spectrum(s.singular_values),
    "alignment_on_diagonal": lambda s: metrics.alignment_on_diagonal(s.product, _acting_gradient(s)),
    "alignment_off_diagonal": lambda s: metrics.alignment_off_diagonal(s.product, _acting_gradient(s)),
    "balancedness": lambda s: metrics.balancedness(s.factors),
    "determinant": lambda s: metrics.determinant(s.product),
}


@dataclass(frozen=True)
class Record:
    """Which steps of a run are recorded, and which metrics there.

    The start and the end are always recorded.  Without ``every``, ``at``, ``per_decade``, ``at_loss`` or
    ``at_time``, steps are log-spaced, ten per decade.

    Parameters
    ----------
    every : int, optional
        Every so many steps.
    at : sequence of int, optional
        At these steps; an empty sequence records the start and the end alone.
    per_decade : int, optional
        Log-spaced steps, so many per decade.
    at_loss : sequence of float, optional
        At the first step where the loss is at or below each level; of a flow, at the point inside a step
        where it crosses the level.
    at_time : sequence of float, optional
        At the first step that reaches each time, the sum of step sizes; of a flow, exactly at that time.
    metrics : sequence or mapping
        Names (see `fastdmf.recording.NAMED`), functions of a `State` that return a number or an array, or
        a mapping from names of your own to either.
    """

    every: int | None = None
    at: Sequence[int] | None = None
    per_decade: int | None = None
    at_loss: Sequence[float] | None = None
    at_time: Sequence[float] | None = None
    metrics: Sequence[Metric] | Mapping[str, Metric] = ("loss", "test_error")

    def __post_init__(self) -> None:
        if self.every is not None:
            count("every", self.every)
        if self.per_decade is not None:
            count("per_decade", self.per_decade)
        if self.at is not None:
            steps = tuple(sorted({count("at", s, least=0) for s in items("at", self.at)}))
            object.__setattr__(self, "at", steps)
        if self.at_loss is not None:
            levels = {positive("at_loss", x) for x in items("at_loss", self.at_loss)}
            object.__setattr__(self, "at_loss", tuple(sorted(levels, reverse=True)))
        if self.at_time is not None:
            times = {positive("at_time", x) for x in items("at_time", self.at_time)}
            object.__setattr__(self, "at_time", tuple(sorted(times)))
        if all(x is None for x in (self.every, self.at, self.per_decade, self.at_loss, self.at_time)):
            object.__setattr__(self, "per_decade", 10)
        object.__setattr__(self, "metrics", _by_name(self.metrics))

    @property
    def named_metrics(self) -> dict[str, Metric]:
        """The metrics by the names they are recorded under."""
        return _by_name(self.metrics)

    def next_step(self, step: int) -> int | None:
        """The first step after ``step`` that is to be recorded whatever the loss, None if none is."""
        upcoming = []
        if self.every is not None:
            upcoming.append((step // self.every + 1) * self.every)
        if self.at is not None:
            later = bisect_right(self.at, step)
            upcoming.extend(self.at[later : later + 1])
        if self.per_decade is not None:
            upcoming.append(next(s for s in _log_spaced(step, self.per_decade) if s > step))
        return min(upcoming, default=None)


def _log_spaced(step: int, per_decade: int) -> Iterator[int]:
    """The rounded powers 10^(k / per_decade), from just below ``step`` on."""
    k = max(0, math.floor(per_decade * math.log10(max(step, 1))) - 1)
    while True:
        yield round(10 ** (k / per_decade))
        k += 1


def _by_name(metrics: Sequence[Metric] | Mapping[str, Metric]) -> dict[str, Metric]:
    if isinstance(metrics, str):
        raise TypeError(f"metrics must be a sequence of names or functions, not the string {metrics!r}")
    if isinstance(metrics, Mapping):
        named = dict(metrics)
    else:
        metrics = items("metrics", metrics)
        named = {m if isinstance(m, str) else getattr(m, "__name__", repr(m)): m for m in metrics}
        if len(named) != len(metrics):
            raise ValueError(f"two metrics have the same name: {[str(m) for m in metrics]}; pass a mapping")
    for name, metric in named.items():
        if not isinstance(name, str):
            raise TypeError(f"names of metrics must be strings, not {name!r}")
        if name in ("step", "time", "evaluations"):
            raise ValueError(f"every trace has its own {name!r}; give the metric another name")
        if isinstance(metric, str) and metric not in NAMED:
            raise ValueError(f"unknown metric {metric!r}; known are {', '.join(sorted(NAMED))}")
        if not isinstance(metric, str) and not callable(metric):
            raise TypeError(f"metric {name!r} must be a name or a function of a State, not {metric!r}")
    return named
