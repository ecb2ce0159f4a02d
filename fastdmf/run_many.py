"""Many starts on one problem, in one call."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy.typing as npt

from fastdmf._checks import count, generator, items
from fastdmf.backends import Leg, Trajectory
from fastdmf.choices import Choices
from fastdmf.factorizations import Factorization
from fastdmf.initializers import Initializer
from fastdmf.interrupt import Interruption
from fastdmf.loop import Loop, Pace
from fastdmf.optimizers import Optimizer
from fastdmf.problems import Problem
from fastdmf.recording import Record
from fastdmf.result import Result
from fastdmf.session import Session
from fastdmf.stopping import Stop


def run_many(
    problem: Problem | None = None,
    *,
    seeds: Iterable[int | None] | None = None,
    inits: Iterable[Initializer] | None = None,
    depth: int | None = None,
    factorization: Factorization | None = None,
    init: Initializer | None = None,
    optimizer: Optimizer | None = None,
    lr: float | None = None,
    stop: Stop | None = None,
    record: Record | None = None,
    dtype: npt.DTypeLike = "float64",
    device: str = "cpu",
    threads: int = 1,
    progress: bool = False,
) -> list[Result]:
    """Follow one trajectory from each of many starts, all on the same problem.

    Where the engine can, it moves all of them together: products of a matrix with one vector each become
    products with a matrix, and a GPU moves each small trial in a block of its own.  Otherwise it moves as
    many at a time as there are threads.

    Parameters
    ----------
    problem : Completion or Sensing, optional
        What is measured; by default ``Completion.random()``.
    seeds : iterable of int, optional
        One run for each of these seeds of ``init``; a None among them draws one.
    inits : iterable of initializers, optional
        One run from each of these instead, with ``seeds``, if given, of the same length.
    depth, factorization, init, optimizer, lr, stop, record, dtype, device
        As in `run`, for every run.  With ``threads > 1``, functions in ``record.metrics`` are called from
        several threads at once.
    threads : int
        Threads in all: so many trajectories at a time, with one thread each, or all together with so many
        threads for kernels and BLAS.
    progress : bool
        Show a progress bar over the runs.

    Returns
    -------
    list of Result
        In the order of the seeds or initializers.  Each is that of `run` with the same choices, bit by
        bit where trajectories move one by one and to rounding where they move together; its ``seconds``
        are then those that all took.  After Ctrl-C, what was not finished says ``interrupted``.

    Raises
    ------
    ValueError, TypeError
        Before anything runs, for choices that are invalid or do not fit together.

    Notes
    -----
    What a metric raises ends all runs.  Callbacks and checkpoints belong to one trajectory: use `run`.

    Examples
    --------
    >>> import fastdmf as dmf
    >>> problem = dmf.Completion.random(seed=0)
    >>> results = dmf.run_many(problem, seeds=range(4), lr=1.0, stop=dmf.MaxSteps(100), threads=2)
    >>> [result.seed for result in results]
    [0, 1, 2, 3]
    """
    count("threads", threads)
    if init is not None and inits is not None:
        raise ValueError(f"give init or inits, not both: init={init}, inits={inits}")
    choices = Choices.of(
        problem, depth, factorization, init, optimizer, lr, stop, record, dtype=dtype, device=device
    )
    members = _members(choices, seeds, inits)
    loop = choices.loop(threads=1)
    with Interruption() as interruption, _bar(progress, len(members)) as show:
        # A pair that starts for this question alone: the answer decides what is bound and begun below.
        pair = partial(_started, loop, members[:2])
        if loop.engine.together(interruption.call(pair, may_be_long=True)) is None:
            return _go_apart(loop, members, threads, interruption, show)
        if threads > 1:
            loop = choices.loop(threads)
        return _go_together(loop, members, interruption, show)


class _Member(NamedTuple):
    """One of the runs: its choices, and the seed of its start."""

    choices: Choices
    seed: int | None

    def begun(self, loop: Loop, interruption: Interruption) -> Session:
        """The session of this run, at its start."""
        session = Session(loop, self.choices, self.seed, interruption)
        session.begin()
        return session


def _members(
    choices: Choices, seeds: Iterable[int | None] | None, inits: Iterable[Initializer] | None
) -> list[_Member]:
    """The runs that are asked for, each with a seed if its start is random."""
    if inits is None:
        if seeds is None:
            raise ValueError("give seeds, such as range(8), or inits: they say how many runs there are")
        if not choices.init.is_random:
            raise ValueError(f"init={choices.init} draws nothing: the run would be the same for all seeds")
        numbers = items("seeds", seeds)
        all_choices = [choices] * len(numbers)
    else:
        all_choices = [replace(choices, init=init) for init in items("inits", inits)]
        numbers = (None,) * len(all_choices) if seeds is None else items("seeds", seeds)
        if len(numbers) != len(all_choices):
            raise ValueError(f"{len(numbers)} seeds, but {len(all_choices)} inits: give one for each")
        for own in all_choices:  # what cannot be drawn is refused now, not when its turn comes
            own.init.draw(own.factorization, own.problem.shape, generator(0))
    if not all_choices:
        raise ValueError("there is nothing to run: seeds or inits is empty")
    usable = [own.usable(number) for own, number in zip(all_choices, numbers, strict=True)]
    return [
        _Member(own, own.fresh_seed() if seed is None else seed)
        for own, seed in zip(all_choices, usable, strict=True)
    ]


def _started(loop: Loop, members: Sequence[_Member]) -> list[Trajectory]:
    return [loop.start(member.choices.init, member.seed) for member in members]


def _go_apart(
    loop: Loop,
    members: Sequence[_Member],
    threads: int,
    interruption: Interruption,
    show: Callable[[], object],
) -> list[Result]:
    """Each trajectory by itself, as many at a time as there are threads."""

    def result_of(member: _Member) -> Result:
        session = member.begun(loop, interruption)
        session.go()
        return session.result

    with loop.engine.holding_threads(), ThreadPoolExecutor(min(threads, len(members))) as pool:
        ends = [pool.submit(result_of, member) for member in members]
        try:
            for end in as_completed(ends):
                end.result()
                show()
        except BaseException:
            interruption.request()  # the others stop where they are
            pool.shutdown(cancel_futures=True)
            raise
    return [end.result() for end in ends]


def _go_together(
    loop: Loop, members: Sequence[_Member], interruption: Interruption, show: Callable[[], object]
) -> list[Result]:
    """All trajectories in one call, each time until one comes to the end of its leg at least."""
    with loop.engine.holding_threads():
        sessions = [member.begun(loop, interruption) for member in members]
        legs = _next_legs(sessions, show)
        pace = Pace()
        while legs:
            trajectories = [session.trajectory for session in legs]
            lockstep = loop.engine.together(trajectories)
            if lockstep is None:  # too few are left
                for session in legs:
                    session.go()
                    show()
                break
            while len(legs) == len(trajectories):
                stretch = partial(pace.advance_together, lockstep, trajectories, list(legs.values()))
                interruption.call(stretch, may_be_long=pace.is_unhurried)
                legs = _next_legs(legs, show)
    return [session.result for session in sessions]


def _next_legs(sessions: Iterable[Session], show: Callable[[], object]) -> dict[Session, Leg]:
    """How far each of the sessions may go, without those that have ended."""
    legs = {}
    for session in sessions:
        leg = session.next_leg()
        if leg is None:
            show()
        else:
            legs[session] = leg
    return legs


@contextmanager
def _bar(wanted: bool, runs: int) -> Iterator[Callable[[], object]]:
    """A function that counts one more finished run."""
    if not wanted:
        yield lambda: None
        return
    from tqdm import tqdm

    with tqdm(total=runs, unit="run") as bar:
        yield bar.update
