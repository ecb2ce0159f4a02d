"""Figures of results and of datasets, at the widths of a printed column and of a printed page.

Nothing here touches pyplot: a figure comes back, and the caller saves or shows it.  Colours are those of
Okabe & Ito, told apart with any colour vision; curves also differ by their dashes or markers.

Of runs: `trace`, `comparison`.  Of datasets that `sweep` returned: `against`, `agreement`, `histogram`,
`singular_paths`.
"""

from fastdmf.plot.datasets import against, agreement
from fastdmf.plot.histograms import histogram
from fastdmf.plot.paths import singular_paths
from fastdmf.plot.runs import PANELS, comparison, trace
from fastdmf.plot.style import check_path

__all__ = [
    "PANELS",
    "against",
    "agreement",
    "check_path",
    "comparison",
    "histogram",
    "singular_paths",
    "trace",
]
