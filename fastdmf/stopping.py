"""When a run ends.

Criteria are joined by ``|`` (either) and ``&`` (both).  A criterion is kept in disjunctive form, as a
list of clauses; a clause is a set of elementary conditions that must hold together.
"""

from dataclasses import dataclass
from enum import StrEnum

from fastdmf._checks import count, positive


class Status(StrEnum):
    """Why a run ended; ``advice`` says what to do about it."""

    CONVERGED = "converged"
    STATIONARY = "stationary"
    STALLED = "stalled"
    TIME_LIMIT = "time_limit"
    MAX_STEPS = "max_steps"
    STOPPED = "stopped"
    INTERRUPTED = "interrupted"
    DIVERGED = "diverged"

    @property
    def advice(self) -> str:
        """One sentence on what the status means and what to try."""
        return _ADVICE[self]


_ADVICE = {
    Status.CONVERGED: "The loss reached its threshold.",
    Status.STATIONARY: "The gradient is below its threshold; a high loss then means a saddle or plateau, "
    "so compare the loss with what you expect.",
    Status.STALLED: "The loss stopped falling: try a larger learning rate, a larger initialization, or "
    "more patience; a flow stalls where it rests to rounding.",
    Status.TIME_LIMIT: "The time limit ran out: raise TimeLimit, or continue from result.factors.",
    Status.MAX_STEPS: "The steps ran out before the loss reached its threshold: raise MaxSteps, or use a "
    "larger learning rate.",
    Status.STOPPED: "The callback asked to stop.",
    Status.INTERRUPTED: "The run was interrupted; everything up to then is kept.  With checkpoint= the "
    "same call continues it.",
    Status.DIVERGED: "The loss ceased to be finite; the last finite state is kept: use a smaller learning "
    "rate.",
}


class Stop:
    """A criterion: a disjunction of clauses, each a conjunction of conditions."""

    clauses: tuple[tuple["Condition", ...], ...]

    def __or__(self, other: "Stop") -> "Stop":
        return Joined((*self.clauses, *_criterion(other).clauses))

    def __and__(self, other: "Stop") -> "Stop":
        return Joined(tuple((*a, *b) for a in self.clauses for b in _criterion(other).clauses))


def _criterion(value: object) -> Stop:
    if not isinstance(value, Stop):
        raise TypeError(f"stopping criteria are joined with one another by | and &, not with {value!r}")
    return value


@dataclass(frozen=True)
class Joined(Stop):
    """Criteria joined by ``|`` and ``&``."""

    clauses: tuple[tuple["Condition", ...], ...]

    def __repr__(self) -> str:
        return " | ".join(" & ".join(map(repr, clause)) for clause in self.clauses)


class Condition(Stop):
    """One elementary criterion."""

    status: Status

    @property
    def clauses(self) -> tuple[tuple["Condition", ...], ...]:  # type: ignore[override]
        return ((self,),)


@dataclass(frozen=True)
class LossBelow(Condition):
    """The loss, in the problem's normalization, is at most ``threshold``: checked at every step."""

    threshold: float
    status = Status.CONVERGED

    def __post_init__(self) -> None:
        positive("threshold", self.threshold, zero=True)


@dataclass(frozen=True)
class GradientBelow(Condition):
    """The norm √(Σ_j ‖∂ℓ/∂W_j‖²) is at most ``threshold``: checked at every step.

    A start near zero is near a saddle, where the gradient is small: join it with a loss test.
    """

    threshold: float
    status = Status.STATIONARY

    def __post_init__(self) -> None:
        positive("threshold", self.threshold, zero=True)


@dataclass(frozen=True)
class MaxSteps(Condition):
    """So many steps were taken since the start."""

    steps: int
    status = Status.MAX_STEPS

    def __post_init__(self) -> None:
        count("steps", self.steps, least=0)


@dataclass(frozen=True)
class TimeLimit(Condition):
    """So many seconds of wall time were spent, over all resumptions of the run."""

    seconds: float
    status = Status.TIME_LIMIT

    def __post_init__(self) -> None:
        positive("seconds", self.seconds)


@dataclass(frozen=True)
class Stalled(Condition):
    """Over the last ``patience`` steps the loss fell by less than the fraction ``rtol``.

    Compared at multiples of ``patience``, so that the outcome does not depend on how a run is cut.
    Long plateaus are part of these dynamics: choose ``patience`` larger than they are.
    """

    patience: int
    rtol: float = 1e-6
    status = Status.STALLED

    def __post_init__(self) -> None:
        count("patience", self.patience)
        if positive("rtol", self.rtol, zero=True) >= 1.0:
            raise ValueError(f"rtol must be below 1, not {self.rtol!r}")
