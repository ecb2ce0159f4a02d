"""How times are compared: in interleaved rounds of one process, by medians."""

import os
import statistics
from collections.abc import Callable
from time import perf_counter
from typing import TypeVar

Advance = Callable[[int], object]
Function = TypeVar("Function", bound=Callable[..., object])


def seconds_per_step(*advances: Advance, rounds: int = 9, least: float = 0.03) -> list[float]:
    """Median seconds per step of each; a round takes as many steps as last ``least`` seconds."""
    steps = [_steps_lasting(least, advance) for advance in advances]
    seconds: list[list[float]] = [[] for _ in advances]
    for _ in range(rounds):
        for advance, k, measured in zip(advances, steps, seconds, strict=True):
            measured.append(_seconds(advance, k) / k)
    return [statistics.median(measured) for measured in seconds]


def _steps_lasting(least: float, advance: Advance) -> int:
    advance(1)  # compiles, fills caches
    steps = 1
    while (taken := _seconds(advance, steps)) < least:
        steps *= max(2, min(10, round(least / taken)))
    return steps


def _seconds(advance: Advance, steps: int) -> float:
    begin = perf_counter()
    advance(steps)
    return perf_counter() - begin


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
