"""The cells of a sweep, by name and value."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fastdmf._checks import Array, items

#: The coordinates of one cell, in the order of the grid's dimensions.
Cell = tuple[Any, ...]

#: Names that a sweep gives to variables of its own.
OWN = ("cell_status", "cell_error", "cell_seconds")


class Grid:
    """All combinations of some named values.

    Parameters
    ----------
    values : mapping of str to sequences
        Numbers, strings or truth values, each once; the names become dimensions and arguments of the trial.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        if not isinstance(values, Mapping):
            raise TypeError(f"grid must be a mapping of names to values, not {values!r}")
        if not values:
            raise ValueError("grid is empty: name at least one dimension, such as seed=range(3)")
        self.values = {_usable_name(name): _usable_values(name, own) for name, own in values.items()}
        self.coordinates = {name: _coordinate(name, own) for name, own in self.values.items()}
        self._places = [{value: k for k, value in enumerate(own)} for own in self.values.values()]

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of values in each dimension."""
        return tuple(map(len, self.values.values()))

    @property
    def size(self) -> int:
        """The number of cells."""
        return math.prod(self.shape)

    def cells(self) -> Iterator[Cell]:
        """All cells, the last dimension fastest."""
        return itertools.product(*self.values.values())

    def arguments(self, cell: Cell) -> dict[str, Any]:
        """What the trial is called with."""
        return dict(zip(self.values, cell, strict=True))

    def place(self, cell: Cell) -> tuple[int, ...]:
        """Where a cell stands in arrays of :attr:`shape`."""
        return tuple(places[value] for places, value in zip(self._places, cell, strict=True))


def _usable_name(name: object) -> str:
    if not isinstance(name, str) or not name.isidentifier():
        raise TypeError(f"grid names must be names of the trial's arguments, not {name!r}")
    if name in OWN:
        raise ValueError(f"grid must not be named {name!r}: sweeps give this name to a variable of theirs")
    return name


def _usable_values(name: str, values: object) -> tuple[Any, ...]:
    if isinstance(values, str | bytes):
        raise TypeError(f"grid[{name!r}] must be a sequence of values, not {values!r}: write [{values!r}]")
    plain = tuple(x.item() if isinstance(x, np.generic) else x for x in items(f"grid[{name!r}]", values))
    if not plain:
        raise ValueError(f"grid[{name!r}] is empty: then there is nothing to run")
    kinds = {_kind(name, value) for value in plain}
    if len(kinds) > 1:
        raise TypeError(f"grid[{name!r}] mixes {' and '.join(sorted(kinds))}: {plain}")
    seen = set()
    for value in plain:
        if value != value:
            raise ValueError(f"grid[{name!r}] holds {value}, which is not equal to itself")
        if isinstance(value, str) and value != writable(value):
            raise ValueError(f"grid[{name!r}] holds a string that no file allows: {value!r}")
        if value in seen:
            raise ValueError(f"grid[{name!r}] holds {value!r} twice")
        seen.add(value)
    return plain


def writable(text: str) -> str:
    """The text, with escapes for what netCDF cannot hold."""
    return text.encode("utf8", "backslashreplace").decode().replace("\0", "\\0")


def _kind(name: str, value: object) -> str:
    match value:
        case bool():
            return "truth values"
        case int() | float():
            return "numbers"
        case str():
            return "strings"
    raise TypeError(
        f"grid[{name!r}] must hold numbers or strings, not {value!r}: give names, and let the trial look up "
        "what they stand for"
    )


def _coordinate(name: str, values: tuple[Any, ...]) -> Array:
    array = np.array(values)
    if array.dtype == object:
        raise ValueError(f"grid[{name!r}] holds integers beyond 64 bits: {values}")
    return array
