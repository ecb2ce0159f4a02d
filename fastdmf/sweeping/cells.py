"""One cell: its trial is called, and what came of it becomes a line of text."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, Self

from fastdmf.interrupt import Interruption
from fastdmf.sweeping.grid import writable
from fastdmf.sweeping.variables import Variable, variables_of

Trial = Callable[..., Any]


@dataclass(frozen=True)
class Outcome:
    """What came of one cell.

    Attributes
    ----------
    arguments : mapping of str to values
        Which cell it is.
    error : str
        Why it failed; empty if it did not.
    seconds : float
        Wall time of the trial.
    variables : mapping of str to Variable
        What the trial returned.
    """

    arguments: Mapping[str, Any]
    error: str
    seconds: float
    variables: Mapping[str, Variable]

    def line(self) -> str:
        """The outcome as JSON, from which :meth:`of_line` makes the same one."""
        variables = {name: variable.pack() for name, variable in self.variables.items()}
        return json.dumps(
            {
                "cell": dict(self.arguments),
                "error": self.error,
                "seconds": self.seconds,
                "variables": variables,
            }
        )

    @classmethod
    def of_line(cls, line: str) -> Self:
        """The outcome that :meth:`line` wrote."""
        plain = json.loads(line)
        variables = {name: Variable.unpack(packed) for name, packed in plain["variables"].items()}
        return cls(plain["cell"], plain["error"], plain["seconds"], variables)


def compute(trial: Trial, arguments: Mapping[str, Any]) -> str:
    """Call the trial for one cell, with one thread for BLAS; what it raises is part of the outcome.

    In the main thread of a worker process a run inside the trial would answer Ctrl-C by ending early, and its
    half-way numbers would pass for the cell's.  There the trial runs beside the main thread.
    """
    with Interruption() as interruption:
        return interruption.call(partial(_compute, trial, arguments), may_be_long=True)


def _compute(trial: Trial, arguments: Mapping[str, Any]) -> str:
    from fastdmf._blas import blas_threads  # loads what holds the threads, so not before it must

    error, returned, variables = "", None, {}
    with blas_threads(1):
        begin = perf_counter()
        try:
            returned = trial(**arguments)
        except Exception as raised:
            error = reason(raised) + _place(raised)
        seconds = perf_counter() - begin
    if not error:
        try:
            variables = variables_of(returned, arguments)
        except Exception as raised:
            error = reason(raised)
    return Outcome(arguments, error, seconds, variables).line()


def reason(error: BaseException) -> str:
    """What was raised, in one line."""
    return writable(" ".join(f"{type(error).__name__}: {error}".splitlines()))


def _place(error: BaseException) -> str:
    """The line of the trial, which this module called; its file is not known in other processes."""
    inside = traceback.extract_tb(error.__traceback__)[1:]
    return f" ({inside[0].name}, line {inside[0].lineno})" if inside else ""
