"""What a trial may return, as named arrays that any file can hold."""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from fastdmf._checks import Array
from fastdmf.result import Result
from fastdmf.sweeping.grid import OWN, writable

#: What is kept of a Result; its wall time is that of the cell.
_OF_A_RESULT = ("loss", "test_error", "steps", "evaluations", "time", "seed", "status")

#: Kinds of arrays that NumPy, netCDF and this file know alike: truth values, integers, floats, strings.
_KINDS = "biufU"


@dataclass(frozen=True)
class Variable:
    """One value of one cell: an array, the names of its axes, and the coordinates of those that have some."""

    array: Array
    dims: tuple[str, ...]
    coordinates: Mapping[str, Array]

    @property
    def is_text(self) -> bool:
        """Whether it holds strings."""
        return self.array.dtype.kind == "U"

    def pack(self) -> dict[str, Any]:
        """Plain values, from which :meth:`unpack` makes the same variable."""
        coordinates = {dim: _pack(x) for dim, x in self.coordinates.items()}
        return {"array": _pack(self.array), "dims": self.dims, "coordinates": coordinates}

    @classmethod
    def unpack(cls, packed: Mapping[str, Any]) -> Self:
        """The variable that :meth:`pack` took apart."""
        coordinates = {dim: _unpack(x) for dim, x in packed["coordinates"].items()}
        return cls(_unpack(packed["array"]), tuple(packed["dims"]), coordinates)


def variables_of(outcome: object, grid_names: Collection[str]) -> dict[str, Variable]:
    """The variables of a cell from what its trial returned; TypeError or ValueError if it is unusable."""
    if isinstance(outcome, Result):
        own = [name for name in _OF_A_RESULT if name not in grid_names]
        outcome = {name: getattr(outcome, name) for name in own}
    if not isinstance(outcome, Mapping):
        raise TypeError(
            f"the trial returned {type(outcome).__name__}, not a Result or a mapping of names to numbers, "
            "strings and arrays"
        )
    variables = {}
    for name, value in outcome.items():
        if not isinstance(name, str):
            raise TypeError(f"the trial returned a value named {name!r}; names must be strings")
        if value is None:
            continue
        variables[name] = _variable(name, value)
        for own in (name, *variables[name].dims):
            if not re.fullmatch(r"\w([^/\x00-\x1f]*[^/\x00-\x20])?", own):
                raise ValueError(f"the trial returned a value or dimension named {own!r}, as no file allows")
    taken = {*grid_names, *OWN, *(dim for variable in variables.values() for dim in variable.dims)}
    for name, variable in variables.items():
        if name in taken:
            raise ValueError(f"the trial returned a value named {name!r}, but this names a dimension")
        if clash := {*variable.dims} & {*grid_names, *OWN}:
            raise ValueError(f"{name} has a dimension named {clash.pop()!r}, but so has the grid")
    return variables


def _variable(name: str, value: Any) -> Variable:
    # A DataArray is known by its parts, so that xarray need not be loaded to ask.
    if hasattr(value, "dims") and hasattr(value, "coords") and hasattr(value, "values"):
        dims = tuple(map(str, value.dims))
        indexes = {str(dim): _plain(x.values) for dim, x in value.coords.items() if dim in value.dims}
        coordinates = {dim: x for dim, x in indexes.items() if _can_place(x)}
        return Variable(_usable(name, value.values), dims, coordinates)
    array = _usable(name, value)
    return Variable(array, tuple(f"{name}_{axis}" for axis in range(1, array.ndim + 1)), {})


def _usable(name: str, value: Any) -> Array:
    if np.ma.is_masked(value):
        value = np.ma.filled(np.ma.asarray(value, dtype=np.float64), np.nan)
    array = _plain(np.asarray(str(value) if isinstance(value, str) else value))
    if array.dtype.kind not in _KINDS:
        raise TypeError(
            f"{name} must be a number, a string or an array of those, not {type(value).__name__} of "
            f"{array.dtype}"
        )
    if array.dtype.kind == "U" and any(x != writable(x) for x in array.ravel().tolist()):
        raise ValueError(f"{name} holds a string that no file allows: {value!r}")
    return array


def _plain(array: Array) -> Array:
    """The array in a type of :data:`_KINDS` that netCDF knows, where it can be."""
    if array.dtype.kind in "OT" and all(isinstance(x, str) for x in array.ravel()):
        return array.astype(str)
    if array.dtype.kind == "f" and array.dtype.itemsize not in (4, 8):
        return array.astype(np.float64)
    return array.astype(array.dtype.newbyteorder("="))


def _can_place(coordinate: Array) -> bool:
    """Whether values can be placed by a coordinate: it must name each place once."""
    if coordinate.dtype.kind not in _KINDS or np.unique(coordinate).size < coordinate.size:
        return False
    return coordinate.dtype.kind != "f" or not np.isnan(coordinate).any()


def _pack(array: Array) -> list[Any]:
    return [array.dtype.str, list(array.shape), base64.b64encode(array.tobytes()).decode()]


def _unpack(packed: list[Any]) -> Array:
    dtype, shape, data = packed
    return np.frombuffer(base64.b64decode(data), dtype).reshape(shape)
