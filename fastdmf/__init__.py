"""Gradient dynamics of matrix factorizations, compiled.

Where does gradient descent on W = W_N ⋯ W_1, or on W = UUᵀ, end when it starts near zero and sees few
entries or linear measurements of a matrix?

>>> import fastdmf as dmf
>>> result = dmf.run(depth=2, lr=1.0, stop=dmf.MaxSteps(10), seed=0)
>>> result.product.shape
(100, 100)
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from fastdmf import datasets, metrics, plot
from fastdmf._version import __version__
from fastdmf.caching import cached
from fastdmf.checkpoint import Checkpoint
from fastdmf.factorizations import Product, Symmetric
from fastdmf.initializers import Balanced, Factors, FromProduct, Gaussian, Identity, Orthogonal, Uniform
from fastdmf.loop import Loop, loss_and_gradients
from fastdmf.optimizers import ExactLineSearch, GradientDescent, GradientFlow, GroupRMSprop
from fastdmf.problems import Completion, Sensing
from fastdmf.recording import Record
from fastdmf.result import Result
from fastdmf.run import run
from fastdmf.run_many import run_many
from fastdmf.run_small import SmallRuns, run_small
from fastdmf.state import State
from fastdmf.stopping import GradientBelow, LossBelow, MaxSteps, Stalled, Status, TimeLimit
from fastdmf.sweep import sweep

if TYPE_CHECKING:
    from fastdmf import reference, theory

__all__ = [
    "Balanced",
    "Checkpoint",
    "Completion",
    "ExactLineSearch",
    "Factors",
    "FromProduct",
    "Gaussian",
    "GradientBelow",
    "GradientDescent",
    "GradientFlow",
    "GroupRMSprop",
    "Identity",
    "Loop",
    "LossBelow",
    "MaxSteps",
    "Orthogonal",
    "Product",
    "Record",
    "Result",
    "Sensing",
    "SmallRuns",
    "Stalled",
    "State",
    "Status",
    "Symmetric",
    "TimeLimit",
    "Uniform",
    "__version__",
    "cached",
    "datasets",
    "loss_and_gradients",
    "metrics",
    "plot",
    "reference",
    "run",
    "run_many",
    "run_small",
    "sweep",
    "theory",
]


def __getattr__(name: str) -> ModuleType:
    """The judges need SciPy's solvers, so they load when first asked for."""
    if name in ("reference", "theory"):
        return import_module(f"fastdmf.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
