"""One run: a trajectory with everything that watches it."""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from time import perf_counter

import numpy as np

from fastdmf.backends import Leg, Trajectory
from fastdmf.checkpoint import Checkpoint, Saved
from fastdmf.choices import Choices
from fastdmf.halting import Stopper
from fastdmf.interrupt import Interruption
from fastdmf.loop import Loop, Pace
from fastdmf.optimizers import GradientFlow
from fastdmf.recording import Record
from fastdmf.result import Result
from fastdmf.state import State
from fastdmf.stopping import MaxSteps, Status, Stop
from fastdmf.tracing import Recorder

#: Steps to ask for when no event lies ahead.
_UNLIMITED = 1 << 40

Callback = Callable[[State], object]


class Session:
    """Takes a trajectory from its start to its end: stops, records, saves, calls back.

    The one loop of a run is the alternation of :meth:`next_leg` and an advance by at most that leg.
    Whoever moves the trajectory alternates them: :meth:`go` does so for a trajectory by itself.
    """

    trajectory: Trajectory
    result: Result

    def __init__(
        self,
        loop: Loop,
        choices: Choices,
        seed: int | None,
        interruption: Interruption,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self._loop, self._choices, self._seed = loop, choices, seed
        self._interruption, self._checkpoint = interruption, checkpoint
        self._stopper, self._recorder = Stopper(choices.stop), Recorder(choices.record)
        # Before the clock starts: a large problem takes long to hash.
        self._settings = {**choices.settings, "form": loop.engine.form}
        self._begun = perf_counter()
        self._seconds_before = 0.0
        self._next_save = 0.0  # the first save comes after the first stretch

    @property
    def seconds(self) -> float:
        """Wall time spent, over all resumptions."""
        return self._seconds_before + perf_counter() - self._begun

    def begin(self, saved: Saved | None = None) -> None:
        """Place the trajectory at the start, or where a checkpoint left it."""
        if saved is None:
            start = partial(self._loop.start, self._choices.init, self._seed)
        else:
            result = saved.result
            start = partial(self._loop.engine.resume, result.factors, saved.memory, result.evaluations)
            self._recorder.restore(result.records, saved.plain["levels"], saved.plain["times"])
            self._stopper.restore(saved.plain["stopper"])
            self._seconds_before = result.seconds
        self.trajectory = self._interruption.call(start, may_be_long=True)
        self._interruption.watch(self.trajectory.cancel)

    def go(self, callback: Callback | None = None, show: Callable[[], object] = lambda: None) -> None:
        """Move the trajectory to its end; an exception on the way leaves a checkpoint behind."""
        pace = Pace()
        try:
            while (leg := self.next_leg(callback)) is not None:
                stretch = partial(pace.advance, self.trajectory, *leg)
                self._interruption.call(stretch, may_be_long=pace.is_unhurried)
                show()
                if perf_counter() >= self._next_save:
                    self._save(finished=False)
        except BaseException:
            self._save(finished=False)
            raise
        if self.result.status is not Status.INTERRUPTED:
            self._save(finished=True)

    def next_leg(self, callback: Callback | None = None) -> Leg | None:
        """Record what is due here and say how far to go; None at the end, which has its :attr:`result`."""
        # What overflows at a divergence is recorded as it is, without warnings.
        with np.errstate(over="ignore", invalid="ignore"):
            status = self._status()
            if status is None and self._recorder.is_due(self.trajectory):
                self._recorder.take(self.trajectory)
                if callback is not None and callback(self.trajectory.state()):
                    status = Status.STOPPED
            if status is not None:
                self._end(status, callback)
                return None
        halts = self._stopper.halts(self.trajectory.step, self.seconds) + self._recorder.halts()
        return Leg(self._steps_to_next_event(), halts, self._recorder.next_time())

    def _end(self, status: Status, callback: Callback | None) -> None:
        finished = status is not Status.INTERRUPTED
        if not finished:
            self._save(finished=False)  # without the last row, which the uninterrupted run would not have
        if self._recorder.take(self.trajectory) and finished and callback is not None:
            callback(self.trajectory.state())
        self.result = self._result_with(status, self.trajectory.test_error())
        optimizer = self._choices.optimizer
        if isinstance(optimizer, GradientFlow) and optimizer.check and finished:
            self._check(optimizer)

    def _check(self, optimizer: GradientFlow) -> None:
        """Repeat the flow with a tenth of the tolerance, and note how far its product is."""
        finer = replace(optimizer, rtol=0.1 * optimizer.rtol, check=False)
        choices = replace(self._choices, optimizer=finer, record=Record(at=()))
        other = Session(choices.loop(self._loop.threads), choices, self._seed, self._interruption)
        other.begin()
        other.go()
        if other.result.status is Status.INTERRUPTED:
            self._save(finished=False)  # to be repeated when the run is taken up again
            self.result = replace(self.result, status=Status.INTERRUPTED)
            return
        product, finer_product = self.result.product, other.result.product
        change = float(np.linalg.norm(product - finer_product) / np.linalg.norm(finer_product))
        self.result = replace(self.result, details={**self.result.details, "change": change})
        if not change <= (limit := max(optimizer.rtol, 1e-6)):
            warnings.warn(
                f"the flow from seed {self._seed} is sensitive: with rtol={finer.rtol:.3g} its product "
                f"differs by {change:.2g}, more than {limit:.2g}; use a smaller rtol",
                UserWarning,
                stacklevel=2,
            )

    def _status(self) -> Status | None:
        if self.trajectory.diverged:
            return Status.DIVERGED
        if self.trajectory.stuck:
            return Status.STALLED
        self._stopper.observe(self.trajectory)
        status = self._stopper.status(self.trajectory, self.seconds)
        if status is None and self._interruption.requested:
            return Status.INTERRUPTED
        return status

    def _steps_to_next_event(self) -> int:
        step = self.trajectory.step
        upcoming = [self._recorder.next_step(step), self._stopper.next_step(step)]
        return min((s - step for s in upcoming if s is not None), default=_UNLIMITED)

    def _result_with(self, status: Status, test_error: float) -> Result:
        trajectory = self.trajectory
        return Result(
            factors=trajectory.factors(),
            factorization=self._loop.factorization,
            loss=trajectory.loss,
            test_error=test_error,
            steps=trajectory.step,
            evaluations=trajectory.evaluations,
            time=trajectory.time,
            seconds=self.seconds,
            status=status,
            seed=self._seed,
            settings=self._settings,
            records=self._recorder.arrays(),
            details=dict(trajectory.details()),
        )

    def _save(self, finished: bool) -> None:
        if self._checkpoint is None:
            return
        result = self.result if finished else self._result_with(Status.INTERRUPTED, float("nan"))
        plain = {
            "levels": self._recorder.levels,
            "times": self._recorder.times,
            "stopper": self._stopper.memory(),
        }
        try:
            Saved(result, finished, plain, self.trajectory.memory()).write(self._checkpoint.path)
        except OSError as error:
            warnings.warn(
                f"the checkpoint {os.fspath(self._checkpoint.path)} could not be written ({error}): the run "
                "goes on, but a crash would lose what came after the last one",
                RuntimeWarning,
                stacklevel=2,
            )
        self._next_save = perf_counter() + self._checkpoint.every_seconds


@contextmanager
def progress_bar(wanted: bool, stop: Stop, trajectory: Trajectory) -> Iterator[Callable[[], None]]:
    """A function that shows where the trajectory is."""
    if not wanted:
        yield lambda: None
        return
    from tqdm import tqdm

    limits = [c.steps for clause in stop.clauses for c in clause if isinstance(c, MaxSteps)]
    with tqdm(total=min(limits, default=None), initial=trajectory.step, unit="step", unit_scale=True) as bar:

        def show() -> None:
            bar.set_postfix(loss=f"{trajectory.loss:.3e}", refresh=False)
            bar.update(trajectory.step - bar.n)

        yield show
