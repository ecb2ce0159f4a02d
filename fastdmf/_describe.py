"""Descriptions as text, by which a checkpoint knows whether it belongs to a run."""

import hashlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import CodeType, FunctionType
from typing import Any

import numpy as np

from fastdmf.problems import Problem


def describe(value: Any) -> str:
    """A text that is equal for equal descriptions; arrays stand as their SHA-256."""
    match value:
        case Problem():
            return f"{value!r} {value.digest}"
        case np.ndarray():
            sha = hashlib.sha256(np.ascontiguousarray(value).data).hexdigest()
            return f"array({value.shape}, {value.dtype}, {sha})"
        case bool():
            return repr(value)
        case int() | np.integer():
            return repr(int(value))
        case float() | np.floating():
            number = float(value)
            return repr(int(number)) if number.is_integer() and abs(number) < 2**53 else repr(number)
        case Mapping():
            return "{" + ", ".join(f"{k!r}: {describe(v)}" for k, v in value.items()) + "}"
        case list() | tuple():
            return "(" + ", ".join(map(describe, value)) + ")"
        case _ if is_dataclass(value):
            inner = ", ".join(f"{f.name}={describe(getattr(value, f.name))}" for f in fields(value))
            return f"{type(value).__name__}({inner})"
        case FunctionType():
            return _describe_function(value)
        case _ if callable(value):
            return f"<function {getattr(value, '__qualname__', type(value).__name__)}>"
        case _:
            return repr(value)


def _describe_function(function: FunctionType) -> str:
    """Name, code, and the plain values that the function closes over."""
    sha = hashlib.sha256(_code_of(function.__code__)).hexdigest()[:16]
    held = [cell.cell_contents for cell in function.__closure__ or ()] + list(function.__defaults__ or ())
    plain = bool | int | float | complex | str | bytes | tuple | np.ndarray | np.generic | None
    kept = ", ".join(describe(x) if isinstance(x, plain) else type(x).__name__ for x in held)
    return f"<function {function.__qualname__} {sha} ({kept})>"


def _code_of(code: CodeType) -> bytes:
    """What the code does, whatever file and line it stands on."""
    constants = [_code_of(c) if isinstance(c, CodeType) else repr(c).encode() for c in code.co_consts]
    return b"\0".join([code.co_code, repr(code.co_names).encode(), *constants])
