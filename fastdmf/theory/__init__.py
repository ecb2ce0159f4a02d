"""Closed forms and rates of the gradient flow, against which every engine can be checked.

They share no code with the engine: they know problems, and NumPy and SciPy.

Commuting measurements: `commuting_limit`, `commuting_trajectory`, `minimum_trace`, `commuting_instability`,
`proposition_1`.  Any measurements: `product_flow`, `product_rate`, `balanced_rate`, `coupling`,
`singular_value_rates`, `singular_vector_rates`, `singular_paths`.  One measurement: `single_measurement`.
"""

from fastdmf.theory.commuting_limit import commuting_limit
from fastdmf.theory.commuting_trajectory import commuting_trajectory
from fastdmf.theory.instability import Instability, commuting_instability
from fastdmf.theory.minimum_trace import MinimumTrace, minimum_trace
from fastdmf.theory.product_flow import balanced_rate, coupling, product_flow, product_rate
from fastdmf.theory.proposition_1 import Proposition1, proposition_1
from fastdmf.theory.single_measurement import SingleMeasurement, single_measurement
from fastdmf.theory.singular_paths import SingularPaths, singular_paths
from fastdmf.theory.singular_rates import singular_value_rates, singular_vector_rates

__all__ = [
    "Instability",
    "MinimumTrace",
    "Proposition1",
    "SingleMeasurement",
    "SingularPaths",
    "balanced_rate",
    "commuting_instability",
    "commuting_limit",
    "commuting_trajectory",
    "coupling",
    "minimum_trace",
    "product_flow",
    "product_rate",
    "proposition_1",
    "single_measurement",
    "singular_paths",
    "singular_value_rates",
    "singular_vector_rates",
]
