"""Figures of results and of datasets, at the widths of a printed column and of a printed page.

Nothing here touches pyplot: a figure comes back, and the caller saves or shows it.  Colours are those of
Okabe & Ito, told apart with any colour vision; curves also differ by their dashes or markers.
"""

from fastdmf.plot.datasets import against
from fastdmf.plot.runs import PANELS, comparison, trace
from fastdmf.plot.style import check_path

__all__ = ["PANELS", "against", "check_path", "comparison", "trace"]
