"""What is measured of the unknown matrix, and how the misfit is scaled."""

from fastdmf.problems.base import Problem
from fastdmf.problems.completion import Completion
from fastdmf.problems.sensing import Sensing

__all__ = ["Completion", "Problem", "Sensing"]
