"""Closed forms and rates of the gradient flow, against which every engine can be checked.

They share no code with the engine: they know problems, and NumPy and SciPy.  [G] is Gunasekar et al. (2017),
[A] is Arora, Cohen, Hu & Luo (2019).
"""

from fastdmf.theory.commuting_limit import commuting_limit
from fastdmf.theory.commuting_trajectory import commuting_trajectory
from fastdmf.theory.minimum_trace import MinimumTrace, minimum_trace

__all__ = ["MinimumTrace", "commuting_limit", "commuting_trajectory", "minimum_trace"]
