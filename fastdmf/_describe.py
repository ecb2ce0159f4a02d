"""Descriptions as text, by which a checkpoint knows whether it belongs to a run."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from types import CodeType, FunctionType
from typing import Any

import numpy as np

from fastdmf.problems import Problem


def describe(value: Any, unknown: Callable[[Any], str] | None = None) -> str:
    """A text that is equal for equal descriptions; arrays stand as their SHA-256.

    What ``unknown`` says of a value of no known type is its description; without it, what Python says.
    """
    match value:
        case Problem():
            return f"{value!r} {value.digest}"
        case np.ndarray() if not value.dtype.hasobject:
            sha = hashlib.sha256(np.ascontiguousarray(value).data).hexdigest()
            return f"array({value.shape}, {value.dtype}, {sha})"
        case bool() | np.bool_():
            return repr(bool(value))
        case int() | np.integer():
            return repr(int(value))
        case float() | np.floating():
            number = float(value)
            return repr(int(number)) if number.is_integer() and abs(number) < 2**53 else repr(number)
        case Mapping():
            return "{" + ", ".join(f"{k!r}: {describe(v, unknown)}" for k, v in value.items()) + "}"
        case list() | tuple():
            return "(" + ", ".join(describe(x, unknown) for x in value) + ")"
        case str() | bytes() | complex() | range() | None:
            return repr(value)
        case _ if is_dataclass(value) and not isinstance(value, type):
            inner = ", ".join(f"{f.name}={describe(getattr(value, f.name), unknown)}" for f in fields(value))
            return f"{type(value).__name__}({inner})"
        case FunctionType():
            return _describe_function(value, unknown)
        case _ if unknown is not None:
            return unknown(value)
        case _ if callable(value):
            return f"<function {getattr(value, '__qualname__', type(value).__name__)}>"
        case _:
            return repr(value)


class Described:
    """What holds arrays and is equal to others of its type if their descriptions are."""

    def __eq__(self, other: object) -> bool:
        return describe(self) == describe(other) if type(self) is type(other) else NotImplemented

    def __hash__(self) -> int:
        return hash(describe(self))


def _describe_function(function: FunctionType, unknown: Callable[[Any], str] | None) -> str:
    """Name, code, and the plain values that the function closes over; all values, if ``unknown`` is given."""
    held = [cell.cell_contents for cell in function.__closure__ or ()] + list(function.__defaults__ or ())
    plain = bool | int | float | complex | str | bytes | tuple | np.ndarray | np.generic | None
    kept = ", ".join(
        describe(x, unknown) if unknown or isinstance(x, plain) else type(x).__name__ for x in held
    )
    return f"<function {function.__qualname__} {code_digest(function.__code__)} ({kept})>"


def code_digest(code: CodeType) -> str:
    """What the code does, as hexadecimal digits."""
    return hashlib.sha256(_code_of(code)).hexdigest()[:16]


def _code_of(code: CodeType) -> bytes:
    """What the code does, whatever file and line it stands on."""
    constants = [_code_of(c) if isinstance(c, CodeType) else repr(c).encode() for c in code.co_consts]
    return b"\0".join([code.co_code, repr(code.co_names).encode(), *constants])
