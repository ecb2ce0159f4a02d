"""One trial on a whole grid, in one call."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from fastdmf._checks import count, one_of
from fastdmf.interrupt import Interruption
from fastdmf.sweeping.cells import Outcome, Trial
from fastdmf.sweeping.dataset import assemble
from fastdmf.sweeping.files import File, Memory
from fastdmf.sweeping.grid import Grid
from fastdmf.sweeping.identity import identity
from fastdmf.sweeping.working import Crew

if TYPE_CHECKING:
    import xarray as xr


def sweep(
    trial: Trial,
    grid: Mapping[str, Sequence[Any]],
    *,
    workers: int = 1,
    backend: str = "threads",
    executor: Executor | None = None,
    path: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> xr.Dataset:
    """Call a trial for every combination of some values, and gather what it returns in one dataset.

    Parameters
    ----------
    trial : callable
        Called as ``trial(name=value, …)`` for each cell.  It returns a mapping of names to numbers, strings,
        None (missing), arrays or DataArrays, or a `Result`, of which ``loss``, ``test_error``, ``steps``,
        ``evaluations``, ``time``, ``seed`` and ``status`` are kept, apart from names of the grid.  It should
        draw its random numbers from seeds that it is given: then the dataset is the same whoever computes it.
    grid : mapping of str to sequences
        The values of each argument: numbers or strings, in any order.
    workers : int
        Cells computed at a time, on this machine.
    backend : {"threads", "processes"}
        What the workers are.  Compiled kernels and BLAS let threads run at once; a trial that spends its time
        in Python gains from processes.  BLAS has one thread in each.
    executor : concurrent.futures.Executor, optional
        Who computes instead: for example Dask's ``Client.get_executor()``.
    path : path-like, optional
        NetCDF file of the sweep.  Every finished cell is kept, beside it while the sweep runs; the same call
        after a crash or a kill computes what is missing, and so does a call with further values in the grid.
        Failed cells are tried again.  Where nothing may be written, a file with all cells is read.
    progress : bool
        Show a progress bar with the time left.

    Returns
    -------
    xarray.Dataset
        One dimension for each name of the grid, in its order, and one variable for each name that the trial
        returned.  The axes of an array ``x`` become ``x_1``, ``x_2``, …; those of a DataArray keep their
        names and coordinates.  Where cells differ in length or coordinates, all places that any of them has
        are there.  Missing numbers are NaN (integers become floats for it), missing strings are empty.

        ``cell_status`` says "done", "failed" or "interrupted" of every cell, ``cell_error`` what a failed one
        raised, and ``cell_seconds`` how long it took: the only variable that depends on more than trial and
        grid.  Attributes name the trial, what it uses from around it, and the version of fastdmf.

    Raises
    ------
    ValueError, TypeError
        Before anything runs: for a grid or options that do not fit, and for a file of another trial or grid.

    Warns
    -----
    RuntimeWarning
        If cells failed, or if the sweep was interrupted.

    Notes
    -----
    Ctrl-C (and SIGTERM, with a ``path``) lets the cells under way finish (Dask gives them up) and returns the
    dataset with the others missing; the second Ctrl-C raises KeyboardInterrupt at once, though Python ends no
    thread before its cell.  In both cases the file keeps what was finished.

    What the sweep adds is about 0.1 ms for a cell on threads, and milliseconds elsewhere: let the cells of
    other executors take longer, or do several things in one.

    A file belongs to the code of the trial, to the values it closes over and the globals it uses, and to the
    functions of its own module that it calls, as they are when the sweep begins.

    Examples
    --------
    >>> import fastdmf as dmf
    >>> def trial(depth, seed):
    ...     return dmf.run(depth=depth, lr=1.0, stop=dmf.MaxSteps(10), seed=seed)
    >>> ds = dmf.sweep(trial, grid=dict(depth=[2, 3], seed=range(3)))
    >>> dict(ds.loss.sizes), int(ds.steps.sum())
    ({'depth': 2, 'seed': 3}, 60)
    """
    if not callable(trial):
        raise TypeError(f"trial must be a function of the grid's names, not {trial!r}")
    cells = Grid(grid)
    _check_arguments(trial, cells)
    count("workers", workers)
    one_of("backend", backend, ("threads", "processes"))
    if executor is not None:
        if not isinstance(executor, Executor):
            raise TypeError(
                f"executor must be a concurrent.futures.Executor, not {executor!r}; a Dask client has "
                "get_executor()"
            )
        if workers != 1 or backend != "threads":
            raise ValueError(
                f"give workers and backend, or executor, not both: workers={workers}, backend={backend!r}"
            )
    about = identity(trial)
    kept = Memory(cells, about) if path is None else File(path, cells, about)
    with kept, Interruption(terminate=path is not None) as interruption:
        outcomes = {cell: Outcome.of_line(line) for cell, line in kept.lines.items()}
        todo = [cell for cell in cells.cells() if cell not in outcomes or outcomes[cell].error]
        if kept.is_read_only:
            if absent := sum(cell not in outcomes for cell in todo):
                raise ValueError(
                    f"{path} lacks {absent} of {cells.size} cells, and nothing may be written to its folder: "
                    "choose another path"
                )
            todo = []  # those that failed are not tried again
        crew = Crew(trial, cells, interruption, kept.append)
        if executor is not None:
            lines = crew.on_executor(todo, executor)
        elif backend == "threads":
            lines = crew.on_threads(todo, workers)
        else:
            lines = crew.on_processes(todo, workers)
        with closing(lines), _bar(progress, cells.size, cells.size - len(todo)) as show:
            for cell, line in lines:
                outcomes[cell] = Outcome.of_line(line)
                show(outcomes[cell])
        dataset = assemble(cells, outcomes, _attributes(about, kept))
        kept.fold(dataset)
    _warn(dataset, cells, path)
    return dataset


def _check_arguments(trial: Trial, grid: Grid) -> None:
    """Refuse a grid whose names are not those of the trial's arguments."""
    try:
        signature = inspect.signature(trial)
    except ValueError:
        return  # some functions written in C do not say
    try:
        signature.bind(**grid.arguments(next(grid.cells())))
    except TypeError as error:
        raise TypeError(f"trial{signature} cannot be called with {', '.join(grid.values)}: {error}") from None


def _attributes(about: Mapping[str, str], kept: Memory) -> dict[str, str]:
    """What determined the values, as text."""
    around = "; ".join(f"{name} = {text}" for name, text in about.items() if name != "trial")
    return {"fastdmf": ", ".join(sorted(kept.versions)), "trial": about["trial"], "settings": around}


def _warn(dataset: xr.Dataset, grid: Grid, path: object) -> None:
    status, error = dataset.cell_status.values, dataset.cell_error.values
    failed, missing = status == "failed", int((status == "interrupted").sum())
    if failed.any():
        first = next(cell for cell in grid.cells() if failed[grid.place(cell)])
        where = ", ".join(f"{name}={value!r}" for name, value in grid.arguments(first).items())
        warnings.warn(
            f"{failed.sum()} of {grid.size} cells failed (see cell_error), the first at {where}: "
            f"{error[grid.place(first)]}",
            RuntimeWarning,
            stacklevel=3,
        )
    if missing:
        again = "the same call computes them" if path is not None else "with a path they could be added later"
        warnings.warn(
            f"interrupted: {missing} of {grid.size} cells are missing; {again}", RuntimeWarning, stacklevel=3
        )


@contextmanager
def _bar(wanted: bool, cells: int, done: int) -> Iterator[Callable[[Outcome], None]]:
    """A function that counts one more finished cell."""
    if not wanted:
        yield lambda outcome: None
        return
    from tqdm import tqdm

    failed = 0
    with tqdm(total=cells, initial=done, unit="cell") as bar:

        def show(outcome: Outcome) -> None:
            nonlocal failed
            if outcome.error:
                failed += 1
                bar.set_postfix(failed=failed, refresh=False)
            bar.update()

        yield show
