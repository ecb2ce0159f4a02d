"""What all figures share: widths, colours, dashes, names of axes, and how a panel is dressed and scaled."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fastdmf._checks import output_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMN_WIDTH, PAGE_WIDTH = 3.4, 7.0  # inches
PANEL_HEIGHT = 1.7

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P")
FAINT = "#BBBBBB"

_RECONSTRUCTION = "reconstruction error\n" r"$\|W - W^*\|_F\,/\,\|W^*\|_F$"
#: Names of axes for what runs record and sweeps hold.
LABELS = {
    "error": _RECONSTRUCTION,
    "reconstruction_error": _RECONSTRUCTION,
    "test_error": "test error (RMSE)",
    "singular_values": r"singular values of $W$",
    "nuclear_norm": r"nuclear norm $\|W\|_*$",
    "effective_rank": r"effective rank of $W$",
    "observed": r"observed entries $m$",
    "measurements": r"measurements $m$",
}
#: Of a logarithmic axis: what is smaller is a solver's tolerance.
SPAN = 1e-5


def check_path(path: str | os.PathLike[str]) -> None:
    """Refuse a path that no figure can be written to, before hours are spent on what it shows.

    Raises
    ------
    ValueError
        If the suffix stands for no format that matplotlib writes, or the folder is not there or read-only.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    path = Path(path)
    formats = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in formats:
        raise ValueError(f"{path}: the suffix must name a format of figures, one of {', '.join(formats)}")
    output_file("the figure", path)


def dress(panel: Axes, ylabel: str, xlabel: str | None = None) -> None:
    """Labels, ticks and a faint grid."""
    panel.set_ylabel(ylabel, fontsize=8)
    if xlabel is not None:
        panel.set_xlabel(xlabel, fontsize=8)
    panel.tick_params(which="both", labelsize=7)
    panel.tick_params(which="minor", length=1.5)
    panel.grid(color="#E5E5E5", linewidth=0.5)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def scale_logarithmic(panels: Sequence[Axes], span: float) -> None:
    """Logarithmic axes for panels that share one, when all of them are drawn: limits once set stay.

    What is smaller than the fraction ``span`` of the largest value does not stretch them.
    """
    lines = [line for panel in panels for line in panel.get_lines()]
    values = np.concatenate([[], *(np.asarray(line.get_ydata(), dtype=float) for line in lines)])
    positive = values[np.isfinite(values) & (values > 0)]
    if not positive.size:
        return
    for panel in panels:
        panel.set_yscale("log", nonpositive="mask")
    if positive.min() < (bottom := span * positive.max()):
        panels[0].set_ylim(bottom=bottom)
