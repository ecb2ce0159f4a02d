"""Stopping criteria applied to a trajectory."""

import math
from typing import Any

from fastdmf.backends import Trajectory
from fastdmf.stopping import (
    Condition,
    GradientBelow,
    LossBelow,
    MaxSteps,
    Stalled,
    Status,
    Stop,
    TimeLimit,
)

#: When a clause of several conditions is met, the status is that of the first of these in it.
_PRECEDENCE = list(Status)


class Stopper:
    """Answers whether a run ends here, and tells compiled code where to look up again.

    Loss and gradient are tested by compiled code at every step; everything else changes only at steps
    known in advance (`next_step`) or with the clock, and is tested between stretches.
    """

    def __init__(self, stop: Stop) -> None:
        self._clauses = stop.clauses
        conditions = [c for clause in stop.clauses for c in clause]
        self._needs_gradient = any(isinstance(c, GradientBelow) for c in conditions)
        self._stalled = {c: False for c in conditions if isinstance(c, Stalled)}
        self._window_loss = dict.fromkeys(self._stalled, math.inf)
        self._observed_step = -1

    def observe(self, trajectory: Trajectory) -> None:
        """Compare the loss with that of the last window, where a window of patience ends."""
        step = trajectory.step
        if step == self._observed_step or not trajectory.is_at_step:
            return
        self._observed_step = step
        for condition in self._stalled:
            if step % condition.patience == 0:
                before, now = self._window_loss[condition], trajectory.loss
                self._stalled[condition] = not now < (1.0 - condition.rtol) * before
                self._window_loss[condition] = now

    def status(self, trajectory: Trajectory, seconds: float) -> Status | None:
        """The status to end with here, None to go on."""
        met = [
            condition.status
            for clause in self._clauses
            if all(self._holds(c, trajectory, seconds) for c in clause)
            for condition in clause
        ]
        return min(met, key=_PRECEDENCE.index, default=None)

    def _holds(self, condition: Condition, trajectory: Trajectory, seconds: float) -> bool:
        match condition:
            case LossBelow(threshold):
                return trajectory.loss <= threshold
            case GradientBelow(threshold):
                return trajectory.gradient_norm <= threshold
            case _:
                completed = trajectory.step if trajectory.is_at_step else trajectory.step - 1
                return self._holds_apart_from_values(condition, completed, seconds)

    def _holds_apart_from_values(self, condition: Condition, step: int, seconds: float) -> bool:
        match condition:
            case MaxSteps(steps):
                return step >= steps
            case TimeLimit(limit):
                return seconds >= limit
            case Stalled():
                return self._stalled[condition]
        raise TypeError(f"unknown stopping condition {condition!r}")

    def next_step(self, step: int) -> int | None:
        """The next step at which some condition has to be tested again, None if there is none."""
        upcoming = []
        for clause in self._clauses:
            for condition in clause:
                if isinstance(condition, MaxSteps) and condition.steps > step:
                    upcoming.append(condition.steps)
                elif isinstance(condition, Stalled):
                    upcoming.append((step // condition.patience + 1) * condition.patience)
        return min(upcoming, default=None)

    def halts(self, step: int, seconds: float) -> list[tuple[float, float]]:
        """Pairs (loss, gradient norm) at which compiled code is to come back."""
        pairs = []
        for clause in self._clauses:
            values = [c for c in clause if isinstance(c, LossBelow | GradientBelow)]
            rest = [c for c in clause if not isinstance(c, LossBelow | GradientBelow)]
            if values and all(self._holds_apart_from_values(c, step, seconds) for c in rest):
                loss = min((c.threshold for c in values if isinstance(c, LossBelow)), default=math.inf)
                norm = min((c.threshold for c in values if isinstance(c, GradientBelow)), default=math.inf)
                pairs.append((loss, norm))
        if self._needs_gradient and not any(math.isfinite(norm) for _, norm in pairs):
            pairs.append((-1.0, 0.0))  # never met, but keeps the gradient's norm up to date
        return pairs

    def memory(self) -> dict[str, Any]:
        """What has to be remembered across an interruption, as plain values."""
        return {
            "observed_step": self._observed_step,
            "windows": [[self._window_loss[c], self._stalled[c]] for c in self._stalled],
        }

    def restore(self, memory: dict[str, Any]) -> None:
        """Take up what :meth:`memory` gave."""
        self._observed_step = memory["observed_step"]
        for condition, (loss, stalled) in zip(self._stalled, memory["windows"], strict=True):
            self._window_loss[condition], self._stalled[condition] = loss, stalled
