"""What all figures share: widths, colours, dashes, and how a panel is dressed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from fastdmf._checks import output_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMN_WIDTH, PAGE_WIDTH = 3.4, 7.0  # inches
PANEL_HEIGHT = 1.7

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P")
FAINT = "#BBBBBB"


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
    panel.grid(color="#E5E5E5", linewidth=0.5)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
