"""Handing cells to workers."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from fastdmf.interrupt import Interruption
from fastdmf.sweeping.cells import Outcome, Trial, compute, reason
from fastdmf.sweeping.grid import Cell, Grid

#: Seconds after which an interruption is noticed while no cell ends.
_LOOK_SECONDS = 0.1

#: Seconds after which an idle process ends: those whose sweep was killed do not learn of it otherwise.
_IDLE_SECONDS = 10.0

#: Cells handed out per process: those that a dying one may take with it.
_AHEAD = 2

Lines = Generator[tuple[Cell, str], None, None]


class Crew:
    """Calls a trial for cells of a grid until it is interrupted; each way yields cells as they finish.

    Before, and before their worker turns to another cell if it is a thread, ``keep`` has got them.
    """

    def __init__(
        self, trial: Trial, grid: Grid, interruption: Interruption, keep: Callable[[Cell, str], None]
    ) -> None:
        self._trial, self._grid, self._interruption, self._keep = trial, grid, interruption, keep

    def on_executor(self, cells: Iterable[Cell], executor: Executor) -> Lines:
        """On whatever the executor has; cells that are lost with a worker have failed."""
        for cell, line in self._finished(iter(cells), executor):
            yield cell, line or self._died(cell)

    def on_threads(self, cells: Iterable[Cell], workers: int) -> Lines:
        """On threads of this process."""
        pool = ThreadPoolExecutor(workers, thread_name_prefix="sweep")
        try:
            yield from self.on_executor(cells, pool)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        pool.shutdown()

    def on_processes(self, cells: Iterable[Cell], workers: int) -> Lines:
        """On processes of this machine; a cell that kills its process has failed, and others go on.

        Which cell it was that killed a process is not known, so those under way are tried again, each alone.
        """
        waiting = iter(cells)
        while lost := (yield from self._on_pool(waiting, workers, workers * _AHEAD)):
            again = iter(lost)
            while dead := (yield from self._on_pool(again, 1, 1)):
                yield dead[0], self._died(dead[0])

    def _on_pool(
        self, cells: Iterator[Cell], workers: int, ahead: int
    ) -> Generator[tuple[Cell, str], None, list[Cell]]:
        """On new processes, until one of them dies; the answer is what was lost with it."""
        lost = []
        with _processes(workers) as pool:
            for cell, line in self._finished(cells, pool, ahead):
                if line is None:
                    lost.append(cell)
                else:
                    yield cell, line
        return lost

    def _finished(
        self, cells: Iterator[Cell], executor: Executor, ahead: float = math.inf
    ) -> Iterator[tuple[Cell, str | None]]:
        """Cells with their lines, or with None if their worker died; no further cells are then handed out."""
        finished: SimpleQueue[tuple[Future[str], str | BaseException | None]] = SimpleQueue()
        running: dict[Future[str], Cell] = {}
        is_open = True
        while True:
            if is_open and self._interruption.requested:
                is_open = False
                for future in list(running):
                    future.cancel()
            while is_open and len(running) < ahead and finished.empty():
                cell = next(cells, None)
                if cell is None:
                    break
                try:
                    future = executor.submit(compute, self._trial, self._grid.arguments(cell))
                except BrokenExecutor:
                    is_open = False
                    yield cell, None
                    break
                running[future] = cell
                future.add_done_callback(partial(self._note, cell, finished))
            if not running:
                return
            try:
                future, line = finished.get(timeout=_LOOK_SECONDS)
            except Empty:
                continue
            cell = running.pop(future)
            match line:
                case str():
                    yield cell, line
                case KeyboardInterrupt():
                    self._interruption.request()
                case BrokenExecutor():
                    is_open = False
                    yield cell, None
                case BaseException():  # it could not be kept
                    raise line

    def _note(self, cell: Cell, finished: SimpleQueue[Any], future: Future[str]) -> None:
        """Keep a finished cell, and pass on its line; or None, or what stands in the way."""
        line: str | BaseException | None = None
        if not future.cancelled():
            match future.exception():
                case None:
                    line = future.result()
                case KeyboardInterrupt() | BrokenExecutor() as error:
                    line = error
                case error:
                    line = self._failed(cell, reason(error))
        try:
            if isinstance(line, str):
                self._keep(cell, line)
        except Exception as error:
            line = error
        finished.put((future, line))

    def _died(self, cell: Cell) -> str:
        """The line of a cell whose worker died, which is kept here."""
        line = self._failed(cell, "its worker died")
        self._keep(cell, line)
        return line

    def _failed(self, cell: Cell, error: str) -> str:
        return Outcome(self._grid.arguments(cell), error, math.nan, {}).line()


@contextmanager
def _processes(workers: int) -> Iterator[Any]:
    """Worker processes: loky's start without running the user's script again, and take any function."""
    from loky import ProcessPoolExecutor

    pool = ProcessPoolExecutor(workers, timeout=_IDLE_SECONDS, initializer=_ignore_interrupts)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, kill_workers=True)
        raise
    pool.shutdown()


def _ignore_interrupts() -> None:
    """Ctrl-C reaches all processes of a terminal; the one that leads the sweep answers it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
