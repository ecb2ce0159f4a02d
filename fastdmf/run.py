"""From a problem to a result, in one call."""

import os
from collections.abc import Callable

import numpy.typing as npt

from fastdmf.checkpoint import Checkpoint, Saved
from fastdmf.choices import Choices
from fastdmf.factorizations import Factorization
from fastdmf.initializers import Initializer
from fastdmf.interrupt import Interruption
from fastdmf.optimizers import Optimizer
from fastdmf.problems import Problem
from fastdmf.recording import Record
from fastdmf.result import Result
from fastdmf.session import Session, progress_bar
from fastdmf.state import State
from fastdmf.stopping import Stop


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
    optimizer : GradientFlow, GradientDescent, GroupRMSprop or ExactLineSearch, optional
        How it moves; by default ``GradientFlow()``.
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
    device : {"cpu", "cuda"}
        Where it runs; never chosen by itself.  On a GPU, through CuPy, all work goes on the stream that is
        current there when the run begins.
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

    Notes
    -----
    Ctrl-C ends the run with the status ``interrupted``; the second one raises KeyboardInterrupt.  Both wait
    while kernels are compiled, for seconds in the first run of its kind on a machine; these are kept.

    Examples
    --------
    >>> import fastdmf as dmf
    >>> result = dmf.run(depth=2, lr=1.0, stop=dmf.MaxSteps(100), seed=0)
    >>> str(result.status), result.steps
    ('max_steps', 100)
    """
    choices = Choices.of(
        problem, depth, factorization, init, optimizer, lr, stop, record, dtype=dtype, device=device
    )
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be a function of a State, not {callback!r}")
    seed = choices.usable(seed)
    if checkpoint is not None and not isinstance(checkpoint, Checkpoint):
        checkpoint = Checkpoint(checkpoint)

    saved = Saved.read(checkpoint.path) if checkpoint else None
    if checkpoint and saved:
        saved.check_belongs(checkpoint.path, choices.settings, seed)
        if saved.finished:
            return saved.result
        seed = saved.result.seed
    elif seed is None:
        seed = choices.fresh_seed()

    loop = choices.loop(threads)
    interrupting = Interruption(terminate=checkpoint is not None)
    with interrupting as interruption, loop.engine.holding_threads():
        session = Session(loop, choices, seed, interruption, checkpoint)
        session.begin(saved)
        with progress_bar(progress, choices.stop, session.trajectory) as show:
            session.go(callback, show)
    return session.result
