"""One run: a trajectory with everything that watches it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from time import perf_counter

from fastdmf.backends import Trajectory
from fastdmf.checkpoint import Checkpoint, Saved
from fastdmf.halting import Stopper
from fastdmf.initializers import Initializer
from fastdmf.interrupt import Interruption
from fastdmf.loop import Loop, Pace
from fastdmf.result import Result
from fastdmf.state import State
from fastdmf.stopping import MaxSteps, Status, Stop
from fastdmf.tracing import Recorder

#: Steps to ask for when no event lies ahead.
_UNLIMITED = 1 << 40


class Session:
    """Moves a trajectory from its start to its end: stops, records, saves, calls back."""

    trajectory: Trajectory
    result: Result

    def __init__(
        self,
        loop: Loop,
        stopper: Stopper,
        recorder: Recorder,
        settings: dict[str, str],
        seed: int | None,
        checkpoint: Checkpoint | None,
        interruption: Interruption,
    ) -> None:
        self._loop, self._stopper, self._recorder = loop, stopper, recorder
        self._settings, self._seed = settings, seed
        self._checkpoint, self._interruption = checkpoint, interruption
        self._begun = perf_counter()
        self._seconds_before = 0.0
        self._next_save = 0.0  # the first save comes after the first stretch

    @property
    def seconds(self) -> float:
        """Wall time spent, over all resumptions."""
        return self._seconds_before + perf_counter() - self._begun

    def begin(self, init: Initializer, saved: Saved | None) -> None:
        """Place the trajectory at the start, or where a checkpoint left it."""
        if saved is None:
            start = partial(self._loop.start, init, self._seed)
        else:
            result = saved.result
            start = partial(self._loop.engine.resume, result.factors, saved.memory, result.evaluations)
            self._recorder.restore(result.records, saved.plain["levels"])
            self._stopper.restore(saved.plain["stopper"])
            self._seconds_before = result.seconds
        self.trajectory = self._interruption.call(start, may_be_long=True)
        self._interruption.watch(self.trajectory.cancel)

    def go(self, callback: Callable[[State], object] | None, show: Callable[[], None]) -> None:
        """Run to the end; an exception in a callback or a metric leaves a checkpoint behind."""
        try:
            status = self._advance_until_done(callback, show)
            finished = status is not Status.INTERRUPTED
            if not finished:
                self._save(finished=False)
            if self._recorder.take(self.trajectory) and finished and callback is not None:
                callback(self.trajectory.state())
            self.result = self._result_with(status, self.trajectory.test_error())
        except BaseException:
            self._save(finished=False)
            raise
        if finished:
            self._save(finished=True)

    def _advance_until_done(
        self, callback: Callable[[State], object] | None, show: Callable[[], None]
    ) -> Status:
        trajectory, pace = self.trajectory, Pace()
        while True:
            status = self._status()
            if status is None and self._recorder.is_due(trajectory):
                self._recorder.take(trajectory)
                if callback is not None and callback(trajectory.state()):
                    status = Status.STOPPED
            if status is not None:
                return status
            steps = self._steps_to_next_event()
            halts = self._stopper.halts(trajectory.step, self.seconds) + self._recorder.halts()
            stretch = partial(pace.advance, trajectory, steps, halts)
            self._interruption.call(stretch, may_be_long=pace.is_unhurried)
            show()
            if self._checkpoint is not None and perf_counter() >= self._next_save:
                self._save(finished=False)

    def _status(self) -> Status | None:
        if self.trajectory.diverged:
            return Status.DIVERGED
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
        )

    def _save(self, finished: bool) -> None:
        if self._checkpoint is None:
            return
        result = self.result if finished else self._result_with(Status.INTERRUPTED, float("nan"))
        plain = {"levels": self._recorder.levels, "stopper": self._stopper.memory()}
        Saved(result, finished, plain, self.trajectory.memory()).write(self._checkpoint.path)
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
