"""Figures of datasets that a sweep returned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastdmf.plot.style import (
    COLOURS,
    COLUMN_WIDTH,
    LABELS,
    MARKERS,
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

_SIDE_BY_SIDE = 0.06  # how far curves are apart, in steps of x
_LONG = 25  # characters of a name of which only one fits in a row of a column's legend
_DASHES_OF_REFERENCES = ("--", ":", "-.")


def against(
    dataset: xr.Dataset,
    x: str,
    values: Sequence[str] = ("error", "nuclear_norm", "effective_rank"),
    *,
    hue: str,
    columns: str | None = None,
    over: str = "seed",
    references: Sequence[str] = (),
    logarithmic: Sequence[str] = ("error",),
    labels: Mapping[str, str] | None = None,
) -> Figure:
    """Draw variables against one dimension, a row of panels for each and a curve for each value of another.

    Parameters
    ----------
    dataset : xarray.Dataset
        Every variable in ``values`` has the dimensions ``x``, ``hue``, ``over`` and, if given, ``columns``.
    x : str
        The dimension along the horizontal axis; numbers.
    values : sequence of str
        What is drawn, from top to bottom.
    hue : str
        The dimension whose values have a curve each.
    columns : str, optional
        The dimension whose values have a column of panels each.
    over : str
        The dimension that is averaged: points are means, and bars reach from the least to the greatest value.
    references : sequence of str
        Values of ``hue`` that are drawn as black lines without markers: what the others are compared with.
    logarithmic : sequence of str
        Which of ``values`` have a logarithmic axis, and ``x`` if it has one; zeros are left out there.
    labels : mapping of str to str, optional
        Names of axes, instead of the usual ones.

    Returns
    -------
    matplotlib.figure.Figure
        As wide as a printed column, or as a page if there are several columns of panels.

    Raises
    ------
    ValueError
        If a variable is missing, lacks one of the dimensions, or has others.
    """
    from matplotlib.figure import Figure

    needed = {x, hue, over} | ({columns} if columns else set())
    for name in values:
        if name not in dataset:
            raise ValueError(f"the dataset has no variable {name!r}; it has {', '.join(map(str, dataset))}")
        if set(dataset[name].dims) != needed:
            raise ValueError(f"{name} has dimensions {dataset[name].dims}, not {tuple(sorted(needed))}")
    across = list(dataset[columns].values) if columns else [None]
    width = COLUMN_WIDTH if len(across) == 1 else PAGE_WIDTH
    figure = Figure(figsize=(width, PANEL_HEIGHT * len(values) + 0.7), layout="constrained")
    panels = figure.subplots(len(values), len(across), sharex=True, sharey="row", squeeze=False)
    named = LABELS | dict(labels or {})
    for row, name in zip(panels, values, strict=True):
        for panel, column in zip(row, across, strict=True):
            part = dataset[name] if column is None else dataset[name].sel({columns: column})
            aside = 0.0 if x in logarithmic else _SIDE_BY_SIDE
            _draw_curves(panel, part, x, hue, over, references, name in logarithmic, aside)
            dress(panel, named.get(name, name) if panel is row[0] else "")
        if name in logarithmic:
            scale_logarithmic(row, SPAN)
    for panel, column in zip(panels[0], across, strict=True):
        if column is not None:
            panel.set_title(f"{columns} {column}", fontsize=8)
    for panel in panels[-1]:
        panel.set_xlabel(named.get(x, x), fontsize=8)
        if x in logarithmic:
            panel.set_xscale("log")  # of all panels above it, too
    curves = [panel.get_legend_handles_labels() for panel in panels.flat]
    handle_of = {name: handle for own in curves for handle, name in zip(*own, strict=True)}
    names = [str(name) for name in dataset[hue].values if str(name) in handle_of]  # some are zero in a panel
    figure.legend(
        [handle_of[name] for name in names],
        names,
        loc="outside upper center",
        ncols=3 if len(across) > 1 else 2 if max(map(len, names)) < _LONG else 1,
        fontsize=7,
        frameon=False,
    )
    return figure


def _draw_curves(
    panel: Axes,
    part: xr.DataArray,
    x: str,
    hue: str,
    over: str,
    references: Sequence[str],
    positive: bool,
    aside: float,
) -> None:
    """One curve for each value of ``hue``, side by side where they would hide one another."""
    curves = [name for name in part[hue].values if name not in references]
    places = np.asarray(part[x].values, dtype=float)
    spread = aside * float(np.diff(places).min()) if places.size > 1 else 0.0
    for name in part[hue].values:
        samples = part.sel({hue: name}).transpose(over, x).values.astype(float)
        if positive:
            samples = np.where(samples > 0, samples, np.nan)
        if not np.isfinite(samples).any():
            continue
        known = np.isfinite(samples).any(axis=0)
        mean, low, high = (f(samples[:, known], axis=0) for f in (np.nanmean, np.nanmin, np.nanmax))
        if name in references:
            k = list(references).index(name)
            style: dict[str, Any] = {"color": "black", "linestyle": _DASHES_OF_REFERENCES[k % 3], "zorder": 3}
            at = places[known]
        else:
            k = curves.index(name)
            style = {"color": COLOURS[k % len(COLOURS)], "marker": MARKERS[k % len(MARKERS)], "markersize": 3}
            at = places[known] + spread * (k - 0.5 * (len(curves) - 1))
        bars = np.maximum([mean - low, high - mean], 0.0) if len(samples) > 1 else None
        panel.errorbar(at, mean, bars, label=str(name), linewidth=1.1, elinewidth=0.8, capsize=1.5, **style)


def agreement(dataset: xr.Dataset, panels: str, hue: str) -> Figure:
    """Draw ``simulated`` against ``predicted``, with the diagonal on which both are equal.

    Parameters
    ----------
    dataset : xarray.Dataset
        ``predicted`` and ``simulated``, of the dimensions ``panels``, ``hue`` and any others.
    panels : str
        The dimension whose values have a panel each.
    hue : str
        The dimension whose values have a colour and a marker each.

    Returns
    -------
    matplotlib.figure.Figure
        A page wide, three panels in a row.

    Raises
    ------
    ValueError
        If a variable is missing.
    """
    from matplotlib.figure import Figure

    if missing := [name for name in ("predicted", "simulated") if name not in dataset]:
        raise ValueError(f"the dataset lacks {', '.join(missing)}")
    values = list(dataset[panels].values)
    rows = -(-len(values) // 3)
    figure = Figure(figsize=(PAGE_WIDTH, (PANEL_HEIGHT + 0.4) * rows), layout="constrained")
    axes = list(figure.subplots(rows, 3, squeeze=False).flat)
    for spare in axes[len(values) :]:
        spare.remove()
    for panel, value in zip(axes, values, strict=False):
        part = dataset.sel({panels: value})
        for k, own in enumerate(part[hue].values):
            one = part.sel({hue: own})
            style: dict[str, Any] = {"color": COLOURS[k % len(COLOURS)], "marker": MARKERS[k % len(MARKERS)]}
            x, y = one.predicted.values.ravel(), one.simulated.values.ravel()
            panel.plot(
                x, y, linestyle="", markersize=6 - 1.5 * k, fillstyle="none", label=f"{hue} {own}", **style
            )
        panel.axline((0, 0), slope=1, color="black", linewidth=0.6, zorder=0)
        dress(panel, "simulated" if panel in axes[::3] else "", "predicted")
        panel.set_title(str(value), fontsize=8)
    axes[0].legend(fontsize=7, frameon=False)
    return figure
