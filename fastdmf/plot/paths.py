"""Figures of what happened along runs, from datasets that a sweep returned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastdmf._checks import Array
from fastdmf.plot.style import (
    COLOURS,
    DASHES,
    LABELS,
    PAGE_WIDTH,
    PANEL_HEIGHT,
    SPAN,
    dress,
    scale_logarithmic,
)

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TIME = "time (sum of step sizes)"
#: What counts as a change, relative to the largest singular value: the axis ends at the last one.
_CHANGE = 0.02


def singular_paths(
    dataset: xr.Dataset,
    panels: str = "depth",
    aligned: float | str | None = None,
    *,
    logarithmic: bool = False,
) -> Figure:
    """Draw singular values over time, and how far the gradient is diagonal in the singular vectors.

    Parameters
    ----------
    dataset : xarray.Dataset
        ``time`` of dimensions (``panels``, ``point``), and ``singular_values`` of (``panels``, ``point``,
        ``component``), NaN where a run has fewer points; with ``aligned`` also ``alignment_on_diagonal`` and
        ``alignment_off_diagonal``, as ``time``.
    panels : str
        The dimension whose values have a panel each.
    aligned : value of that dimension, optional
        For which run the mean absolute entries of Uᵀ∇ℓV, on and off the diagonal, are drawn
        in a last panel.
    logarithmic : bool
        A logarithmic axis for singular values, where a few are far greater than the others.

    Returns
    -------
    matplotlib.figure.Figure
        A page wide, two panels in a row.  Time ends when the singular values have settled.

    Raises
    ------
    ValueError
        If a variable is missing.
    """
    from matplotlib.figure import Figure

    needed = ["time", "singular_values"]
    if aligned is not None:
        needed += ["alignment_on_diagonal", "alignment_off_diagonal"]
    if missing := [name for name in needed if name not in dataset]:
        raise ValueError(f"the dataset lacks {', '.join(missing)}")
    values = list(dataset[panels].values)
    count = len(values) + (aligned is not None)
    rows = -(-count // 2)
    figure = Figure(figsize=(PAGE_WIDTH, (PANEL_HEIGHT + 0.2) * rows), layout="constrained")
    axes = list(figure.subplots(rows, 2, squeeze=False).flat)
    for spare in axes[count:]:
        spare.remove()
    for panel, value in zip(axes, values, strict=False):
        run = dataset.sel({panels: value})
        time, sigma = run.time.values, run.singular_values.transpose("point", "component").values
        colour_of = np.linspace(0.0, 0.8, sigma.shape[1])  # from dark to light
        for k in reversed(range(sigma.shape[1])):
            panel.plot(time, sigma[:, k], color=_lightened(COLOURS[0], colour_of[k]), linewidth=1.1)
        dress(panel, LABELS["singular_values"], _TIME)
        panel.set_xlim(0, _settled(time, sigma))
        if logarithmic:
            scale_logarithmic([panel], SPAN)
        else:
            panel.set_ylim(bottom=0)
        panel.locator_params(axis="x", nbins=5)
        panel.set_title(f"{panels} {value}", fontsize=8)
    if aligned is not None:
        _draw_alignment(axes[count - 1], dataset.sel({panels: aligned}))
        axes[count - 1].set_title(f"{panels} {aligned}, gradient", fontsize=8)
    return figure


def _draw_alignment(panel: Axes, run: xr.Dataset) -> None:
    time, sigma = run.time.values, run.singular_values.transpose("point", "component").values
    end = _settled(time, sigma)
    shown = time <= end
    for k, (place, label) in enumerate((("on", "on the diagonal"), ("off", "off the diagonal"))):
        size = run[f"alignment_{place}_diagonal"].values
        panel.plot(
            time[shown], size[shown], color=COLOURS[k], linestyle=DASHES[k], linewidth=1.2, label=label
        )
    dress(panel, r"mean $|(U^\top \nabla\ell\, V)_{rs}|$", _TIME)
    scale_logarithmic([panel], span=0.0)
    panel.set_xlim(0, end)
    panel.locator_params(axis="x", nbins=5)
    panel.legend(fontsize=7, frameon=False)


def _settled(time: Array, sigma: Array) -> float:
    """The time after which nothing changes by more than `_CHANGE` any more."""
    known = np.isfinite(time)
    time, sigma = time[known], sigma[known]
    moves = np.abs(sigma - sigma[-1]).max(axis=1) > _CHANGE * sigma.max()
    last = int(np.flatnonzero(moves)[-1]) if moves.any() else 0
    return float(time[min(last + 1, time.size - 1)])


def _lightened(colour: str, share: float) -> tuple[float, ...]:
    """The colour, mixed with a share of white."""
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    return tuple(part + (1.0 - part) * share for part in parts)
