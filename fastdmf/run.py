"""From a problem to a result, in one call."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from time import perf_counter

import numpy as np
import numpy.typing as npt

from fastdmf._checks import count
from fastdmf._describe import describe
from fastdmf.backends import Trajectory
from fastdmf.checkpoint import Checkpoint, Saved
from fastdmf.factorizations import Factorization, Product
from fastdmf.halting import Stopper
from fastdmf.initializers import Gaussian, Initializer
from fastdmf.interrupt import Interruption
from fastdmf.loop import Loop, Pace
from fastdmf.optimizers import GradientDescent, GroupRMSprop, Optimizer
from fastdmf.problems import Completion, Problem
from fastdmf.recording import Record
from fastdmf.result import Result
from fastdmf.state import State
from fastdmf.stopping import LossBelow, MaxSteps, Status, Stop
from fastdmf.tracing import Recorder


def run(
    problem: Problem | None = None,
    *,
    depth: int | None = None,
    factorization: Factorization | None = None,
    init: Initializer | None = None,
    optimizer: Optimizer | None = None,
    lr: float | None = None,
    stop: Stop | None = None,
    record: Record | None = None,
    seed: int | None = None,
    dtype: npt.DTypeLike = "float64",
    device: str = "cpu",
    threads: int = 1,
    progress: bool = False,
    callback: Callable[[State], object] | None = None,
    checkpoint: Checkpoint | str | os.PathLike[str] | None = None,
) -> Result:
    """Follow one trajectory from its start to its end.

    Parameters
    ----------
    problem : Completion or Sensing, optional
        What is measured; by default ``Completion.random()``, 2000 entries of a 100 × 100 matrix of rank 5.
    depth : int, optional
        Shorthand for ``factorization=Product(depth)``; 2 by default.
    factorization : Product or Symmetric, optional
        How the matrix is parameterized.
    init : Initializer, optional
        Where it starts; by default ``Gaussian(product_scale=1e-3)``.
    optimizer : GradientDescent, GroupRMSprop or ExactLineSearch, optional
        How it moves; by default ``GroupRMSprop()``.
    lr : float, optional
        Shorthand for ``optimizer=GradientDescent(lr)``.
    stop : Stop, optional
        When it ends; by default ``LossBelow(1e-6) | MaxSteps(1_000_000)``.
    record : Record, optional
        What is kept of the way; by default loss and test error at log-spaced steps.
    seed : int, optional
        Seed of the start; None draws one, which the result keeps.
    dtype : {"float64", "float32"}
        Arithmetic of the run; problem and start are converted to it.
    device : {"cpu"}
        Where it runs.
    threads : int
        Threads of kernels and BLAS.
    progress : bool
        Show a progress bar with loss and rate.
    callback : callable, optional
        Called with the `State` at every recorded step; a true answer ends the run.
    checkpoint : Checkpoint or path, optional
        Save the run on the way, and continue from the file if it exists.  Ctrl-C and SIGTERM then save
        before they end the run; a file of a finished run is returned at once.

    Returns
    -------
    Result
        Whatever happened: divergence, interruption and limits are statuses, and the last finite state
        is kept.

    Raises
    ------
    ValueError, TypeError
        Before anything runs, for choices that are invalid or do not fit together.

    Examples
    --------
    >>> import fastdmf as dmf
    >>> result = dmf.run(depth=2, lr=1.0, stop=dmf.MaxSteps(100), seed=0)
    >>> str(result.status), result.steps
    ('max_steps', 100)
    """
    problem = Completion.random() if problem is None else problem
    if depth is not None and factorization is not None:
        raise ValueError(
            f"give depth or factorization, not both: depth={depth}, factorization={factorization}"
        )
    if lr is not None and optimizer is not None:
        raise ValueError(f"give lr or optimizer, not both: lr={lr}, optimizer={optimizer}")
    factorization = Product(2 if depth is None else depth) if factorization is None else factorization
    if optimizer is None:
        optimizer = GroupRMSprop() if lr is None else GradientDescent(lr)
    init = Gaussian() if init is None else init
    stop = LossBelow(1e-6) | MaxSteps(1_000_000) if stop is None else stop
    record = Record() if record is None else record
    for name, value, kind in (
        ("problem", problem, Problem),
        ("factorization", factorization, Factorization),
        ("init", init, Initializer),
        ("optimizer", optimizer, Optimizer),
        ("stop", stop, Stop),
        ("record", record, Record),
    ):
        if not isinstance(value, kind):
            raise TypeError(f"{name} must be a {kind.__name__}, not {value!r}")
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be a function of a State, not {callback!r}")
    if seed is not None:
        seed = count("seed", seed, least=0)
    if checkpoint is not None and not isinstance(checkpoint, Checkpoint):
        checkpoint = Checkpoint(checkpoint)

    saved = Saved.read(checkpoint.path) if checkpoint else None
    settings = {
        "problem": describe(problem),
        "loss": problem.loss,
        "factorization": describe(factorization),
        "init": describe(init),
        "optimizer": describe(optimizer),
        "stop": describe(stop),
        "record": describe(record),
        "dtype": str(np.dtype(dtype)),
        "device": device,
    }
    if checkpoint and saved:
        saved.check_belongs(checkpoint.path, settings, seed)
        if saved.finished:
            return saved.result
        seed = saved.result.seed
    elif seed is None and init.is_random:
        seed = int(np.random.SeedSequence().generate_state(1, np.uint64)[0])

    loop = Loop(problem, factorization, optimizer, dtype=dtype, device=device, threads=threads)
    interrupting = Interruption(terminate=checkpoint is not None)
    # What overflows at a divergence is recorded as it is, without warnings.
    quiet = np.errstate(over="ignore", invalid="ignore")
    with interrupting as interruption, loop.engine.holding_threads(), quiet:
        session = _Session(loop, Stopper(stop), Recorder(record), settings, seed, checkpoint, interruption)
        session.begin(init, saved)
        with _progress_bar(progress, stop, session.trajectory) as show:
            session.go(callback, show)
    return session.result


#: Steps to ask for when no event lies ahead.
_UNLIMITED = 1 << 40


class _Session:
    """One trajectory with everything that watches it."""

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
def _progress_bar(wanted: bool, stop: Stop, trajectory: Trajectory) -> Iterator[Callable[[], None]]:
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
