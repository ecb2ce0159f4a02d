"""From a problem to a result, in one call."""

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fastdmf._checks import count
from fastdmf._describe import describe
from fastdmf.checkpoint import Checkpoint, Saved
from fastdmf.factorizations import Factorization, Product
from fastdmf.halting import Stopper
from fastdmf.initializers import Gaussian, Initializer
from fastdmf.interrupt import Interruption
from fastdmf.loop import Loop
from fastdmf.optimizers import GradientDescent, GroupRMSprop, Optimizer
from fastdmf.problems import Completion, Problem
from fastdmf.recording import Record
from fastdmf.result import Result
from fastdmf.session import Session, progress_bar
from fastdmf.state import State
from fastdmf.stopping import LossBelow, MaxSteps, Stop
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
    if depth is not None and factorization is not None:
        raise ValueError(
            f"give depth or factorization, not both: depth={depth}, factorization={factorization}"
        )
    if lr is not None and optimizer is not None:
        raise ValueError(f"give lr or optimizer, not both: lr={lr}, optimizer={optimizer}")
    if factorization is None:
        factorization = Product(2 if depth is None else depth)
    if optimizer is None:
        optimizer = GroupRMSprop() if lr is None else GradientDescent(lr)
    choices = _Choices(
        problem=Completion.random() if problem is None else problem,
        factorization=factorization,
        init=Gaussian() if init is None else init,
        optimizer=optimizer,
        stop=LossBelow(1e-6) | MaxSteps(1_000_000) if stop is None else stop,
        record=Record() if record is None else record,
    )
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be a function of a State, not {callback!r}")
    if seed is not None:
        seed = count("seed", seed, least=0) if choices.init.is_random else None
    if checkpoint is not None and not isinstance(checkpoint, Checkpoint):
        checkpoint = Checkpoint(checkpoint)

    settings = {**choices.as_text(), "dtype": str(np.dtype(dtype)), "device": device}
    saved = Saved.read(checkpoint.path) if checkpoint else None
    if checkpoint and saved:
        saved.check_belongs(checkpoint.path, settings, seed)
        if saved.finished:
            return saved.result
        seed = saved.result.seed
    elif seed is None and choices.init.is_random:
        seed = int(np.random.SeedSequence().generate_state(1, np.uint64)[0])

    loop = Loop(choices.problem, factorization, optimizer, dtype=dtype, device=device, threads=threads)
    settings["form"] = loop.engine.form
    stopper, recorder = Stopper(choices.stop), Recorder(choices.record)
    interrupting = Interruption(terminate=checkpoint is not None)
    # What overflows at a divergence is recorded as it is, without warnings.
    quiet = np.errstate(over="ignore", invalid="ignore")
    with interrupting as interruption, loop.engine.holding_threads(), quiet:
        session = Session(loop, stopper, recorder, settings, seed, checkpoint, interruption)
        session.begin(choices.init, saved)
        with progress_bar(progress, choices.stop, session.trajectory) as show:
            session.go(callback, show)
    return session.result


@dataclass(frozen=True)
class _Choices:
    """The independent choices that a run is composed of."""

    problem: Problem
    factorization: Factorization
    init: Initializer
    optimizer: Optimizer
    stop: Stop
    record: Record

    def __post_init__(self) -> None:
        for name, (kind, examples) in _KINDS.items():
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"{name} must be {examples}, not {getattr(self, name)!r}")

    def as_text(self) -> dict[str, str]:
        """All choices as text, equal for equal choices."""
        return {name: describe(getattr(self, name)) for name in _KINDS} | {"loss": self.problem.loss}


_KINDS = {
    "problem": (Problem, "a Completion or Sensing"),
    "factorization": (Factorization, "a Product or Symmetric"),
    "init": (Initializer, "an initializer such as Gaussian()"),
    "optimizer": (Optimizer, "an optimizer such as GradientDescent(lr)"),
    "stop": (Stop, "a criterion such as MaxSteps(steps)"),
    "record": (Record, "a Record"),
}
