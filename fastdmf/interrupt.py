"""Answering Ctrl-C while compiled code runs."""

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from types import FrameType, TracebackType
from typing import Any, Self, TypeVar

from fastdmf._checks import Array

T = TypeVar("T")


class Interruption:
    """While open, Ctrl-C (and SIGTERM, if asked) sets a flag instead of raising.

    Python runs signal handlers in the main thread, between bytecodes; a compiled call there delays
    them.  Long calls therefore go through :meth:`call`, which leaves the main thread free.  The second
    Ctrl-C raises KeyboardInterrupt as usual.  Outside the main thread nothing is installed.

    What is called has to look at the flag itself.  Numba's compiler does not: both wait until it is done, as
    an exception forced upon it in its thread could as well hit a trajectory between two of its states.
    """

    def __init__(self, *, terminate: bool = False) -> None:
        self.requested = False
        self._signals = [signal.SIGINT, signal.SIGTERM] if terminate else [signal.SIGINT]
        self._previous: dict[signal.Signals, Any] = {}
        self._cancels: list[Array] = []

    def __enter__(self) -> Self:
        if _in_main_thread():
            for number in self._signals:
                handler = signal.getsignal(number)
                if handler not in (signal.SIG_IGN, None):  # a process told to ignore it goes on ignoring it
                    self._previous[number] = handler
                    signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def watch(self, cancel: Array) -> None:
        """Set ``cancel[0]`` as well when the interruption comes."""
        self._cancels.append(cancel)  # first: the interruption may come in another thread meanwhile
        if self.requested:
            cancel[0] = 1

    def request(self) -> None:
        """Interrupt, as the first Ctrl-C does."""
        self.requested = True
        for cancel in self._cancels:
            cancel[0] = 1

    def call(self, work: Callable[[], T], *, may_be_long: bool) -> T:
        """``work()``; if it may be long, not in the main thread, so that a signal can cancel it."""
        if not may_be_long or not self._previous or not _in_main_thread():
            return work()
        future = _worker().submit(work)
        try:
            return future.result()
        finally:
            wait([future])  # also if the second Ctrl-C comes: nobody is to see what is still moving

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.request()


@cache
def _worker() -> ThreadPoolExecutor:
    """One thread for all runs: a new one would touch fresh memory, which takes longer than a small flow."""
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="fastdmf")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_worker.cache_clear)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
