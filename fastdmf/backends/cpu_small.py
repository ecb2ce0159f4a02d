"""Flows of many tiny problems on the CPU, spread over threads."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from fastdmf._checks import Array
from fastdmf.kernels.cpu.small_problems import (
    CONVERGED,
    DIVERGED,
    MAX_STEPS,
    SADDLE,
    STATIONARY,
    Room,
    follow,
)
from fastdmf.stopping import Status

STATUSES = {
    CONVERGED: Status.CONVERGED,
    STATIONARY: Status.STATIONARY,
    SADDLE: Status.STALLED,
    MAX_STEPS: Status.MAX_STEPS,
    DIVERGED: Status.DIVERGED,
}
#: Problems that a thread takes at a time: a few tens of milliseconds, after which Ctrl-C is heeded.
AT_ONCE = 64


def follow_all(
    matrices: Array,
    values: Array,
    factors: Array,
    thresholds: Array,
    rtol: float,
    max_steps: int,
    threads: int,
) -> tuple[Array, Array, Array, Array]:
    """Follow every flow until ½ Σ r² is below its threshold; ``factors`` are replaced by where it ended.

    Returns
    -------
    loss, time, counts, status
        (B,), (B,), steps and evaluations (B, 2), and (B,) of str.
    """
    problems, m, n = len(values), matrices.shape[1], matrices.shape[2]
    loss, time, counts = np.empty(problems), np.empty(problems), np.empty((problems, 3), np.int64)
    waiting = deque(range(0, problems, AT_ONCE))

    def work() -> None:
        room = _room(m, n)
        while waiting:
            try:
                first = waiting.popleft()
            except IndexError:  # another thread was faster
                return
            part = slice(first, first + AT_ONCE)
            follow(
                matrices[part], values[part], factors[part], room, thresholds[part], rtol, max_steps,
                loss[part], time[part], counts[part],
            )  # fmt: skip

    _on_threads(work, waiting, threads)
    names = np.array([str(STATUSES[event]) for event in range(len(STATUSES))])
    return loss, time, counts[:, 1:], names[counts[:, 0]]


def _on_threads(work: Callable[[], None], waiting: deque[int], threads: int) -> None:
    """Do the work on so many threads; if one fails or Ctrl-C comes, nothing more is begun."""
    if threads == 1:
        work()
        return
    with ThreadPoolExecutor(threads) as pool:
        try:
            for done in [pool.submit(work) for _ in range(threads)]:
                done.result()
        except BaseException:
            waiting.clear()
            raise


def _room(m: int, n: int) -> Room:
    square, large = (n, n), (n * n, n * n)
    shapes = [(m, n, n), (m, n, n), (m,), (m,), square, square, square, (n * n,), (6, n * n), large, large]
    return Room(*(np.empty(shape) for shape in shapes))
