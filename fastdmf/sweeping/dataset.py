"""From the outcomes of all cells to one dataset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from fastdmf._checks import Array
from fastdmf.sweeping.cells import Outcome
from fastdmf.sweeping.grid import Cell, Grid
from fastdmf.sweeping.variables import Variable

if TYPE_CHECKING:
    import xarray as xr

#: What ``cell_status`` says.
DONE, FAILED, INTERRUPTED = "done", "failed", "interrupted"

_ABOUT = {
    "cell_status": "done; failed: see cell_error; interrupted: not computed",
    "cell_error": "what the trial raised, and where",
    "cell_seconds": "wall time of the trial, the only variable that differs between equal sweeps",
}


def assemble(grid: Grid, outcomes: Mapping[Cell, Outcome], attributes: Mapping[str, str]) -> xr.Dataset:
    """The dataset of a grid, from the outcomes of some or all of its cells."""
    import xarray as xr

    ordered = _agreeing({cell: outcomes[cell] for cell in grid.cells() if cell in outcomes})
    own_dims = _coordinates(ordered.values())
    variables = {
        name: _variable(name, grid, ordered, own_dims)
        for name in dict.fromkeys(name for outcome in ordered.values() for name in outcome.variables)
    }
    coordinates = grid.coordinates | {d: x for d, x in own_dims.items() if isinstance(x, np.ndarray)}
    about = {name: (tuple(grid.values), x) for name, x in _about_cells(grid, ordered).items()}
    dataset = xr.Dataset({**variables, **about}, coordinates, dict(attributes))
    for name, text in _ABOUT.items():
        dataset[name].attrs["description"] = text
    dataset.cell_seconds.attrs["units"] = "s"
    return dataset


def _agreeing(outcomes: Mapping[Cell, Outcome]) -> dict[Cell, Outcome]:
    """The same outcomes, but those that do not fit the first of all, in the order of the grid, have failed.

    A variable has one set of axes, and holds text or numbers, throughout.
    """
    first: dict[str, Variable] = {}
    dims: set[str] = set()
    agreeing = {}
    for cell, outcome in outcomes.items():
        clashes = [_clash(name, own, first, dims) for name, own in outcome.variables.items()]
        if any(clashes):
            error = "the trial returned " + "; ".join(filter(None, clashes))
            outcome = replace(outcome, error=error, variables={})
        for name, own in outcome.variables.items():
            first.setdefault(name, own)
            dims.update(own.dims)
        agreeing[cell] = outcome
    return agreeing


def _clash(name: str, own: Variable, first: Mapping[str, Variable], dims: set[str]) -> str:
    before = first.get(name)
    if before is None:
        named = {name} & dims or {*own.dims} & first.keys()
        return f"{named.pop()!r} as a value, which names a dimension in another cell" if named else ""
    if own.dims != before.dims:
        return f"{name} with dimensions {own.dims}, but {before.dims} in another cell"
    if own.is_text != before.is_text:
        return f"{name} of {own.array.dtype}, but of {before.array.dtype} in another cell"
    return ""


def _coordinates(outcomes: Iterable[Outcome]) -> dict[str, Array | int]:
    """What stands along each dimension of returned arrays: all values of its coordinates, or a length."""
    found: dict[str, list[Array | int]] = {}
    for outcome in outcomes:
        for variable in outcome.variables.values():
            for dim, length in zip(variable.dims, variable.array.shape, strict=True):
                found.setdefault(dim, []).append(variable.coordinates.get(dim, length))
    return {dim: _joined(parts) for dim, parts in found.items()}


def _joined(parts: list[Array | int]) -> Array | int:
    """The union of coordinates, in their own order if all are equal and sorted if not; else the longest."""
    arrays = [x for x in parts if isinstance(x, np.ndarray)]
    if len(arrays) < len(parts) or len({x.dtype.kind == "U" for x in arrays}) > 1:
        return max(x.size if isinstance(x, np.ndarray) else x for x in parts)
    if all(np.array_equal(arrays[0], x) for x in arrays[1:]):
        return arrays[0]
    return np.unique(np.concatenate(arrays))


def _variable(
    name: str, grid: Grid, outcomes: Mapping[Cell, Outcome], own_dims: Mapping[str, Array | int]
) -> tuple[tuple[str, ...], Array]:
    """One variable over the whole grid, with NaN or empty strings where there is nothing."""
    present = {cell: o.variables[name] for cell, o in outcomes.items() if name in o.variables}
    dims = next(iter(present.values())).dims
    axes = [own_dims[dim] for dim in dims]
    shape = tuple(x.size if isinstance(x, np.ndarray) else x for x in axes)
    dtype = np.result_type(*{own.array.dtype for own in present.values()})
    is_whole = len(present) == grid.size and all(own.array.shape == shape for own in present.values())
    if not is_whole and dtype.kind in "biu":
        dtype = np.dtype(np.float64)
    full = np.full(grid.shape + shape, "" if dtype.kind == "U" else np.nan if dtype.kind == "f" else 0, dtype)
    for cell, own in present.items():
        place = grid.place(cell)
        if dims:
            full[place][np.ix_(*map(_places, axes, own.array.shape, map(own.coordinates.get, dims)))] = (
                own.array
            )
        else:
            full[place] = own.array
    return (*grid.values, *dims), full


def _places(axis: Array | int, length: int, coordinate: Array | None) -> Array:
    """Where the entries of a cell stand along one of its own dimensions."""
    if coordinate is None or isinstance(axis, int) or np.array_equal(axis, coordinate):
        return np.arange(length)
    return np.searchsorted(axis, coordinate)


def _about_cells(grid: Grid, outcomes: Mapping[Cell, Outcome]) -> dict[str, Array]:
    """How each cell ended, why, and how long it took."""
    status = np.full(grid.shape, INTERRUPTED, dtype=f"U{len(INTERRUPTED)}")
    longest = max((len(outcome.error) for outcome in outcomes.values()), default=0)
    error = np.full(grid.shape, "", dtype=f"U{max(longest, 1)}")
    seconds = np.full(grid.shape, np.nan)
    for cell, outcome in outcomes.items():
        place = grid.place(cell)
        status[place] = FAILED if outcome.error else DONE
        error[place] = outcome.error
        seconds[place] = outcome.seconds
    return {"cell_status": status, "cell_error": error, "cell_seconds": seconds}
