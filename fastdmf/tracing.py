"""Recording applied to a trajectory."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastdmf._checks import Array
from fastdmf.backends import Trajectory
from fastdmf.recording import NAMED, Record
from fastdmf.result import axes_of

#: Metrics that a trajectory knows without being copied into a State.
_DIRECT = {
    "loss": lambda trajectory: trajectory.loss,
    "test_error": lambda trajectory: trajectory.test_error(),
}


class Recorder:
    """Collects the metrics of a `Record` at the steps it names."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._columns: dict[str, list[Any]] = {
            name: [] for name in ("step", "time", "evaluations", *record.named_metrics)
        }
        #: Loss levels and times not reached yet.
        self.levels, self.times = list(record.at_loss or ()), list(record.at_time or ())

    def next_step(self, step: int) -> int | None:
        """The next step to be recorded whatever the loss."""
        return self._record.next_step(step)

    def halts(self) -> list[tuple[float, float]]:
        """The next loss level, at which compiled code is to come back."""
        return [(self.levels[0], np.inf)] if self.levels else []

    def next_time(self) -> float:
        """The next time to be recorded."""
        return self.times[0] if self.times else np.inf

    def is_due(self, trajectory: Trajectory) -> bool:
        """Whether the current step is to be recorded, and has not been."""
        step = trajectory.step
        has_reached = (
            trajectory.loss <= max(self.levels, default=-np.inf) or trajectory.time >= self.next_time()
        )
        is_wanted = has_reached or step == 0 or self._is_listed(trajectory)
        return is_wanted and not self._has(trajectory)

    def _is_listed(self, trajectory: Trajectory) -> bool:
        """Whether this is the end of a step that is recorded whatever the loss."""
        return trajectory.is_at_step and self._record.next_step(trajectory.step - 1) == trajectory.step

    def take(self, trajectory: Trajectory) -> bool:
        """Record the current point; False if it was recorded before."""
        if self._has(trajectory):
            return False
        row: dict[str, Any] = {
            "step": trajectory.step,
            "time": trajectory.time,
            "evaluations": trajectory.evaluations,
        }
        state = None
        for name, metric in self._record.named_metrics.items():
            if isinstance(metric, str) and metric in _DIRECT:
                row[name] = _DIRECT[metric](trajectory)
                continue
            if state is None:
                state = trajectory.state()
            row[name] = (NAMED[metric] if isinstance(metric, str) else metric)(state)
        for name, value in row.items():
            self._check(name, value, trajectory.step)
        for name, value in row.items():
            self._columns[name].append(value)
        # Only now: if a metric fails, the level is still to be recorded when the run is taken up again.
        self.levels = [level for level in self.levels if trajectory.loss > level]
        self.times = [time for time in self.times if trajectory.time < time]
        return True

    def _check(self, name: str, value: Any, step: int) -> None:
        """Refuse at once what could not be stacked or saved at the end."""
        array = np.asarray(value)
        if array.dtype.kind not in "biufc":
            raise TypeError(f"the metric {name} must return numbers, not {value!r} at step {step}")
        column = self._columns[name]
        if clash := self._columns.keys() & set(axes_of(name, array.ndim)):
            raise ValueError(
                f"an axis of the metric {name} is named {clash.pop()!r}, and so is a metric; rename one in a "
                "mapping"
            )
        if column and array.shape != np.shape(column[0]):
            raise ValueError(
                f"the metric {name} has shape {array.shape} at step {step}, but {np.shape(column[0])} before"
            )

    def _has(self, trajectory: Trajectory) -> bool:
        last = [self._columns[name][-1:] for name in ("step", "time")]
        return last == [[trajectory.step], [trajectory.time]]  # a flow has points between two steps

    def arrays(self) -> dict[str, Array]:
        """Everything recorded: one row per recorded step."""
        return {name: np.asarray(column) for name, column in self._columns.items()}

    def restore(self, arrays: Mapping[str, Array], levels: list[float], times: list[float]) -> None:
        """Take up what :meth:`arrays`, :attr:`levels` and :attr:`times` gave before."""
        self._columns = {name: list(arrays[name]) for name in self._columns}
        self.levels, self.times = levels, times
