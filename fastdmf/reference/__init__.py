"""Independent judges of where descent ends: the minimum nuclear norm solution, and X_gd.

They share no code with the engine: they know problems, and NumPy and SciPy.
"""

from fastdmf.reference.minimum import min_nuclear_norm
from fastdmf.reference.outcome import Minimum, Status, Uniqueness
from fastdmf.reference.projected_gradient import Descent, projected_gradient
from fastdmf.reference.small_problems import SmallMinima, min_trace_small

__all__ = [
    "Descent",
    "Minimum",
    "SmallMinima",
    "Status",
    "Uniqueness",
    "min_nuclear_norm",
    "min_trace_small",
    "projected_gradient",
]
