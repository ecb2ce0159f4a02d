"""Descriptions as text, by which a checkpoint knows whether it belongs to a run."""

import hashlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
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
            return repr(int(value)) if float(value).is_integer() else repr(float(value))
        case Mapping():
            return "{" + ", ".join(f"{k!r}: {describe(v)}" for k, v in value.items()) + "}"
        case list() | tuple():
            return "(" + ", ".join(map(describe, value)) + ")"
        case _ if is_dataclass(value):
            inner = ", ".join(f"{f.name}={describe(getattr(value, f.name))}" for f in fields(value))
            return f"{type(value).__name__}({inner})"
        case _ if callable(value):
            return f"<function {getattr(value, '__qualname__', type(value).__name__)}>"
        case _:
            return repr(value)
