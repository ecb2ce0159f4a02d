"""Histograms of what many runs came to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastdmf.plot.style import COLOURS, COLUMN_WIDTH, DASHES, PAGE_WIDTH, PANEL_HEIGHT, dress

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

_BINS = 50


def histogram(values: xr.DataArray, *, hue: str, columns: str, label: str) -> Figure:
    """Draw how many values lie where, an outline for each value of one dimension, on a logarithmic scale.

    Parameters
    ----------
    values : xarray.DataArray
        Numbers of the dimensions ``hue``, ``columns`` and any others; NaN is left out.
    hue : str
        The dimension whose values have an outline each.
    columns : str
        The dimension whose values have a panel each.
    label : str
        Name of the horizontal axis.

    Returns
    -------
    matplotlib.figure.Figure
        As wide as a printed column, or as a page if there are several panels.

    Raises
    ------
    ValueError
        If a dimension is missing, or there are no numbers at all.
    """
    from matplotlib.figure import Figure

    if missing := {hue, columns} - {str(dim) for dim in values.dims}:
        raise ValueError(
            f"the values have no dimension {', '.join(sorted(missing))}; they have {values.dims}"
        )
    if not np.isfinite(values).any():
        raise ValueError("there is nothing to draw: no value is finite")
    across = values[columns].values
    edges = np.linspace(float(values.min()), float(values.max()), _BINS + 1)
    width = COLUMN_WIDTH if len(across) == 1 else PAGE_WIDTH
    figure = Figure(figsize=(width, PANEL_HEIGHT + 0.9), layout="constrained")
    panels = figure.subplots(1, len(across), sharex=True, sharey=True, squeeze=False)[0]
    for panel, column in zip(panels, across, strict=True):
        for k, own in enumerate(values[hue].values):
            part = values.sel({columns: column, hue: own}).values.ravel()
            counts, _ = np.histogram(part[np.isfinite(part)], edges)
            panel.stairs(
                counts, edges, color=COLOURS[k % len(COLOURS)], linestyle=DASHES[k % len(DASHES)],
                linewidth=1.2, label=f"{hue} {own:g}",
            )  # fmt: skip
        dress(panel, "number of problems" if panel is panels[0] else "", label)
        panel.set_yscale("log")
        panel.set_ylim(bottom=0.5)
        panel.set_title(f"{columns} {column}", fontsize=8)
    panels[0].legend(fontsize=7, frameon=False)
    return figure
