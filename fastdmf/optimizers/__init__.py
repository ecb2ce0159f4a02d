"""How the factors move."""

from fastdmf.optimizers.base import Optimizer
from fastdmf.optimizers.gradient_descent import GradientDescent
from fastdmf.optimizers.gradient_flow import GradientFlow
from fastdmf.optimizers.group_rmsprop import GroupRMSprop
from fastdmf.optimizers.line_search import ExactLineSearch

__all__ = ["ExactLineSearch", "GradientDescent", "GradientFlow", "GroupRMSprop", "Optimizer"]
