"""How times are compared: in interleaved rounds of one process, by medians."""

import os
import statistics
from collections.abc import Callable
from time import process_time
from typing import TypeVar

Advance = Callable[[int], object]
Function = TypeVar("Function", bound=Callable[..., object])


def seconds_per_step(
    *advances: Advance, rounds: int = 9, least: float = 0.03, clock: Callable[[], float] = process_time
) -> list[float]:
    """Median seconds per step of each; a round takes as many steps as last ``least`` seconds.

    On one thread these are seconds of the processor, which are the same where others share it.  Where more
    threads are compared, ``clock=perf_counter`` is what counts.
    """

    def seconds(advance: Advance, steps: int) -> float:
        begin = clock()
        advance(steps)
        return clock() - begin

    def steps_lasting_long_enough(advance: Advance) -> int:
        advance(1)  # compiles, fills caches
        steps = 1
        while (taken := seconds(advance, steps)) < least:
            steps *= max(2, round(least / max(taken, least / 10)))
        return steps

    steps = [steps_lasting_long_enough(advance) for advance in advances]
    measured: list[list[float]] = [[] for _ in advances]
    for _ in range(rounds):
        for advance, k, each in zip(advances, steps, measured, strict=True):
            each.append(seconds(advance, k) / k)
    return [statistics.median(each) for each in measured]


def need_two_processors() -> None:
    """Skip the benchmark, as asv understands it, where two threads would share a processor."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if usable < 2:
        raise NotImplementedError("two threads need two processors")


def having(**attributes: object) -> Callable[[Function], Function]:
    """Give a function the attributes by which asv knows its unit or timeout."""

    def give(function: Function) -> Function:
        function.__dict__.update(attributes)
        return function

    return give
