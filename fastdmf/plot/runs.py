"""Figures of one run, or of a few side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from fastdmf._checks import Array
from fastdmf.metrics import singular_values
from fastdmf.plot.style import (
    COLOURS,
    COLUMN_WIDTH,
    DASHES,
    FAINT,
    LABELS,
    MARKERS,
    PAGE_WIDTH,
    PANEL_HEIGHT,
    dress,
    scale_logarithmic,
)
from fastdmf.result import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: What :func:`trace` draws if it was recorded, each in a panel of its own.
PANELS = ("loss", "test_error", "reconstruction_error", "singular_values")

_LOSS_FORMULAS = {
    "mean": r"$\frac{1}{m}\sum r^2$",
    "half_sum": r"$\frac{1}{2}\sum r^2$",
    "half_mean": r"$\frac{1}{2m}\sum r^2$",
}
_LEADING = 10  # singular values that are told apart from the rest
_ROUNDOFF = 1e-8  # of the largest value, on a logarithmic axis


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
    TypeError
        If ``result`` is something else.
    """
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    if not isinstance(result, Result):
        raise TypeError(f"result must be a Result, which run returns, not {type(result).__name__}")
    names = [name for name in PANELS if _is_known(result, name)]
    if not names:
        raise ValueError(
            f"nothing to draw is known: let Record(metrics=...) name some of {', '.join(PANELS)}; errors "
            "need held-out entries or a truth"
        )
    if axes is None:
        figure = Figure(figsize=(COLUMN_WIDTH, PANEL_HEIGHT * len(names) + 0.3), layout="constrained")
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
            panel.plot(steps, result.records[name], color=COLOURS[0], linewidth=1.2)
        dress(panel, _loss_label([result]) if name == "loss" else LABELS[name])
        scale_logarithmic([panel], _ROUNDOFF)
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
    TypeError
        If ``results`` is no mapping.
    """
    from matplotlib.figure import Figure

    error = _common_error(results)
    figure = Figure(figsize=(PAGE_WIDTH, 2.3), layout="constrained")
    losses, errors, spectrum = figure.subplots(1, 3)
    if truth is not None:
        _draw_spectrum(spectrum, truth, marker="_", markersize=11, color="black", label="planted")
    for k, (label, result) in enumerate(results.items()):
        style: dict[str, Any] = {"color": COLOURS[k % len(COLOURS)], "label": label}
        dashes = DASHES[k % len(DASHES)]
        for panel, name in ((losses, "loss"), (errors, error)):
            panel.plot(result.records["step"], result.records[name], linestyle=dashes, linewidth=1.2, **style)
        marker = MARKERS[k % len(MARKERS)]
        shift = 0.6 * ((k + 0.5) / len(results) - 0.5)  # side by side, for they may well coincide
        _draw_spectrum(spectrum, result.product, shift, marker=marker, markersize=3, **style)
    dress(losses, _loss_label(results.values()), xlabel="step")
    dress(errors, LABELS[error], xlabel="step")
    dress(spectrum, LABELS["singular_values"], xlabel="index")
    for panel in (losses, errors):
        scale_logarithmic([panel], _ROUNDOFF)
        panel.locator_params(axis="x", nbins=4)
        panel.set_xlim(left=0)
    spectrum.set_ylim(bottom=0)
    spectrum.set_xticks(range(1, 1 + max(min(_LEADING, *r.product.shape) for r in results.values())))
    losses.legend(fontsize=7, frameon=False)
    spectrum.legend(fontsize=7, frameon=False)
    return figure


def _common_error(results: Mapping[str, Result]) -> str:
    """The name of the error that all runs recorded."""
    if not isinstance(results, Mapping):
        raise TypeError(f"results must be a mapping from labels to results, not {type(results).__name__}")
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
            color=COLOURS[0] if leads else FAINT,
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
