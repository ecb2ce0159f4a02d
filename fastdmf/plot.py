"""Figures of results, at the widths of a printed column and of a printed page.

Nothing here touches pyplot: a figure comes back, and the caller saves or shows it.  Colours are those of
Okabe & Ito, told apart with any colour vision; curves also differ by their dashes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from fastdmf._checks import Array
from fastdmf.metrics import singular_values
from fastdmf.result import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: What :func:`trace` draws if it was recorded, each in a panel of its own.
PANELS = ("loss", "test_error", "reconstruction_error", "singular_values")

_COLUMN_WIDTH, _PAGE_WIDTH = 3.4, 7.0  # inches
_PANEL_HEIGHT = 1.7

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_DASHES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v")
_FAINT = "#BBBBBB"

_LOSS_FORMULAS = {
    "mean": r"$\frac{1}{m}\sum r^2$",
    "half_sum": r"$\frac{1}{2}\sum r^2$",
    "half_mean": r"$\frac{1}{2m}\sum r^2$",
}
_LABELS = {
    "test_error": "test error (RMSE)",
    "reconstruction_error": "reconstruction error\n" r"$\|W - W^*\|_F\,/\,\|W^*\|_F$",
    "singular_values": r"singular values of $W$",
}
_LEADING = 10  # singular values that are told apart from the rest


def trace(result: Result, axes: Axes | Sequence[Axes] | None = None) -> Figure:
    """Draw what a run recorded against its steps, both on logarithmic scales.

    Parameters
    ----------
    result : Result
        A run that recorded at least one of :data:`PANELS`.
    axes : Axes or sequence of Axes, optional
        Where to draw: one for each of :data:`PANELS` that was recorded, in that order; errors that are
        NaN throughout are left out.  By default panels one above the other, a column wide.

    Returns
    -------
    matplotlib.figure.Figure
        The start is at step 0, which a short linear piece of the axis shows.

    Raises
    ------
    ValueError
        If there is nothing to draw, or the number of axes differs from that of the panels.
    """
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    names = [name for name in PANELS if _is_known(result, name)]
    if not names:
        raise ValueError(
            f"nothing to draw is known: let Record(metrics=...) name some of {', '.join(PANELS)}; errors "
            "need held-out entries or a truth"
        )
    if axes is None:
        figure = Figure(figsize=(_COLUMN_WIDTH, _PANEL_HEIGHT * len(names) + 0.3), layout="constrained")
        panels = list(figure.subplots(len(names), 1, sharex=True, squeeze=False).flat)
    else:
        panels = [axes] if isinstance(axes, Axes) else list(axes)
        if len(panels) != len(names):
            raise ValueError(
                f"{len(names)} axes are needed, for {', '.join(names)}; {len(panels)} were given"
            )
    steps = result.records["step"]
    for name, panel in zip(names, panels, strict=True):
        if name == "singular_values":
            _draw_singular_values(panel, steps, result.records[name])
        else:
            panel.plot(steps, result.records[name], color=_COLOURS[0], linewidth=1.2)
        _dress(panel, _loss_label([result]) if name == "loss" else _LABELS[name])
        _scale_values(panel)
        panel.set_xscale("symlog", linthresh=1, linscale=0.4)
        panel.set_xlim(left=0)
        if panel is panels[-1] or axes is not None:
            panel.set_xlabel("step", fontsize=8)
    return cast("Figure", panels[0].get_figure())


def _is_known(result: Result, name: str) -> bool:
    """Whether a metric was recorded; an error that is NaN throughout had nothing to compare with."""
    if name not in result.records:
        return False
    return not (name.endswith("error") and np.isnan(result.records[name]).all())


def comparison(results: Mapping[str, Result], truth: Array | None = None) -> Figure:
    """Draw runs side by side: loss, error, and the spectrum each ends with; a page wide.

    Parameters
    ----------
    results : mapping of str to Result
        Runs by the labels of their curves, all of which recorded ``loss``, and ``reconstruction_error``
        or ``test_error``.
    truth : (n, p) ndarray, optional
        The planted matrix, whose singular values are then drawn too.

    Returns
    -------
    matplotlib.figure.Figure
        Loss and error, on logarithmic scales, against steps, and the ten leading singular values.

    Raises
    ------
    ValueError
        If there are no runs, or one recorded no loss or not the same kind of error as the others.
    """
    from matplotlib.figure import Figure

    error = _common_error(results)
    figure = Figure(figsize=(_PAGE_WIDTH, 2.3), layout="constrained")
    losses, errors, spectrum = figure.subplots(1, 3)
    if truth is not None:
        _draw_spectrum(spectrum, truth, marker="_", markersize=11, color="black", label="planted")
    for k, (label, result) in enumerate(results.items()):
        style: dict[str, Any] = {"color": _COLOURS[k % len(_COLOURS)], "label": label}
        dashes = _DASHES[k % len(_DASHES)]
        for panel, name in ((losses, "loss"), (errors, error)):
            panel.plot(result.records["step"], result.records[name], linestyle=dashes, linewidth=1.2, **style)
        marker = _MARKERS[k % len(_MARKERS)]
        shift = 0.6 * ((k + 0.5) / len(results) - 0.5)  # side by side, for they may well coincide
        _draw_spectrum(spectrum, result.product, shift, marker=marker, markersize=3, **style)
    _dress(losses, _loss_label(results.values()), xlabel="step")
    _dress(errors, _LABELS[error], xlabel="step")
    _dress(spectrum, _LABELS["singular_values"], xlabel="index")
    for panel in (losses, errors):
        _scale_values(panel)
        panel.locator_params(axis="x", nbins=4)
        panel.set_xlim(left=0)
    spectrum.set_ylim(bottom=0)
    spectrum.set_xticks(range(1, 1 + max(min(_LEADING, *r.product.shape) for r in results.values())))
    losses.legend(fontsize=7, frameon=False)
    spectrum.legend(fontsize=7, frameon=False)
    return figure


def check_path(path: str | os.PathLike[str]) -> None:
    """Refuse a path that no figure can be written to, before hours are spent on what it shows.

    Raises
    ------
    ValueError
        If the suffix stands for no format that matplotlib writes, or the folder does not exist.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    path = Path(path)
    formats = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in formats:
        raise ValueError(f"{path}: the suffix must name a format of figures, one of {', '.join(formats)}")
    if not path.parent.is_dir():
        raise ValueError(f"{path}: the folder {path.parent} does not exist")


def _common_error(results: Mapping[str, Result]) -> str:
    """The name of the error that all runs recorded."""
    if not results:
        raise ValueError("there are no results to compare")
    for label, result in results.items():
        if "loss" not in result.records:
            raise ValueError(f"the run {label!r} recorded no loss: name it in Record(metrics=...)")
    for name in ("reconstruction_error", "test_error"):
        if all(name in result.records for result in results.values()):
            return name
    raise ValueError(
        "the runs have no error in common: name reconstruction_error or test_error in Record(metrics=...)"
    )


def _loss_label(results: Iterable[Result]) -> str:
    """The word loss with its normalization."""
    found = {r.settings["loss"] for r in results}
    return f"loss {_LOSS_FORMULAS[found.pop()]}" if len(found) == 1 else "loss"


def _draw_singular_values(panel: Axes, steps: Array, values: Array) -> None:
    """One curve for each singular value; the leading ones stand out."""
    rest = values.shape[1] - _LEADING
    for k in reversed(range(values.shape[1])):  # the leading ones last, on top
        leads = k < _LEADING
        panel.plot(
            steps,
            values[:, k],
            color=_COLOURS[0] if leads else _FAINT,
            linewidth=1.0 if leads else 0.5,
            label={0: f"leading {min(_LEADING, values.shape[1])}", _LEADING: f"other {rest}"}.get(
                k, "_nolegend_"
            ),
        )
    if rest > 0:
        panel.legend(fontsize=7, frameon=False, reverse=True)


def _draw_spectrum(panel: Axes, matrix: Array, shift: float = 0.0, **style: Any) -> None:
    """The leading singular values over their indices, which are shifted a little."""
    leading = singular_values(matrix)[:_LEADING]
    panel.plot(np.arange(1, leading.size + 1) + shift, leading, linestyle="", clip_on=False, **style)


def _scale_values(panel: Axes) -> None:
    """A logarithmic scale for values; roundoff far below the largest one does not stretch it."""
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in panel.get_lines()])
    positive = values[np.isfinite(values) & (values > 0)]
    if not positive.size:
        return
    panel.set_yscale("log", nonpositive="mask")
    panel.tick_params(which="minor", length=1.5)
    if positive.min() < 1e-8 * positive.max():
        panel.set_ylim(bottom=1e-8 * positive.max())


def _dress(panel: Axes, ylabel: str, xlabel: str | None = None) -> None:
    panel.set_ylabel(ylabel, fontsize=8)
    if xlabel is not None:
        panel.set_xlabel(xlabel, fontsize=8)
    panel.tick_params(labelsize=7)
    panel.grid(color="#E5E5E5", linewidth=0.5)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
