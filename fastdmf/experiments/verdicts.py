"""From comparisons in every case to one verdict."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from fastdmf.experiments.experiment import Finding, Verdict

if TYPE_CHECKING:
    import xarray as xr


#: Of one array with another, where a third is true.
Comparison = Callable[["xr.DataArray", "xr.DataArray", "xr.DataArray"], Verdict]


def below(own: xr.DataArray, other: xr.DataArray, where: xr.DataArray) -> Verdict:
    """Whether ``own < other`` in all cases, in none, or in which; those outside of ``where`` do not count."""
    return tally((own < other).where(_known(own, other) & where), {"": own, " against ": other})


def above(own: xr.DataArray, other: xr.DataArray, where: xr.DataArray) -> Verdict:
    """Whether ``own > other``, in the same way."""
    return tally((own > other).where(_known(own, other) & where), {"": own, " against ": other})


def _known(own: xr.DataArray, other: xr.DataArray) -> xr.DataArray:
    return own.notnull() & other.notnull()


def _short(number: float) -> str:
    """Four digits, or all of an integer."""
    return f"{number:.0f}" if number.is_integer() else f"{number:.4g}"


def tally(holds: xr.DataArray, numbers: dict[str, xr.DataArray]) -> Verdict:
    """A verdict from truth values, NaN where a case does not count, and the numbers behind each of them."""
    cases, yes = [], 0
    for place in np.ndindex(holds.shape):
        at = dict(zip(holds.dims, place, strict=True))
        value = holds.isel(at)
        if bool(value.isnull()):
            continue
        agrees = bool(value)
        yes += agrees
        where = ", ".join(f"{dim} {holds[dim].values[k]}" for dim, k in at.items())
        shown = "".join(f"{word}{_short(float(x.isel(at)))}" for word, x in numbers.items())
        cases.append(f"{'yes' if agrees else 'no '}  {where}: {shown}".replace("  : ", "  "))
    if not cases:
        return Verdict(Finding.UNTESTED, "no case of this run is one that the claim speaks of")
    finding = (
        Finding.SUPPORTED if yes == len(cases) else Finding.CONTRADICTED if yes == 0 else Finding.DEPENDS
    )
    return Verdict(finding, f"holds in {yes} of {len(cases)} cases\n     " + "\n     ".join(cases))
