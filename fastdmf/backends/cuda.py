"""The CUDA backend: engines that start trajectories on a GPU."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, cast

import numpy as np

from fastdmf._blas import blas_threads
from fastdmf._checks import Array
from fastdmf.backends import Lockstep, Trajectory
from fastdmf.backends.cuda_device import Device
from fastdmf.backends.cuda_flow import FlowTrajectory
from fastdmf.backends.cuda_lockstep import CudaLockstep, SmallObjective, SmallTrajectory, fits_a_block
from fastdmf.backends.cuda_objective import CudaObjective
from fastdmf.backends.cuda_steps import StepTrajectory
from fastdmf.backends.cuda_trajectory import CudaTrajectory
from fastdmf.factorizations import Factorization
from fastdmf.kernels.cuda.cupy_device import CupyDevice
from fastdmf.optimizers import ExactLineSearch, GradientDescent, GradientFlow, GroupRMSprop, Optimizer
from fastdmf.problems import Problem


def open_device() -> Device:
    """The GPU that CuPy has chosen; ValueError if there is none."""
    return CupyDevice()


class CudaEngine:
    """Starts trajectories of one problem × factorization × optimizer × dtype on a GPU.

    ``threads`` is for what the host does between advances.
    """

    def __init__(
        self,
        problem: Problem,
        factorization: Factorization,
        optimizer: Optimizer,
        dtype: np.dtype,
        threads: int,
    ) -> None:
        if not isinstance(optimizer, GradientDescent | GroupRMSprop | ExactLineSearch | GradientFlow):
            raise TypeError(f"the CUDA backend cannot carry out {optimizer!r}")
        device = open_device()
        self.optimizer, self._threads = optimizer, threads
        self.objective: Any
        if isinstance(optimizer, GradientDescent | GroupRMSprop) and fits_a_block(problem, factorization):
            self.objective = SmallObjective(problem, factorization, optimizer, dtype, device)
            self._kind: Any = SmallTrajectory
        else:
            self.objective = CudaObjective(problem, factorization, dtype, device)
            self._kind = FlowTrajectory if isinstance(optimizer, GradientFlow) else StepTrajectory

    @property
    def form(self) -> str:
        """How the kernels look at W."""
        return self.objective.form

    def holding_threads(self) -> AbstractContextManager[None]:
        """Hold BLAS at the threads that were asked for."""
        return blas_threads(self._threads)

    def start(self, factors: Sequence[Array]) -> CudaTrajectory:
        """A trajectory at the given factors, evaluated there."""
        return self._kind(self.objective, self.optimizer, factors, {}, evaluations=1)

    def resume(
        self, factors: Sequence[Array], memory: Mapping[str, Array], evaluations: int
    ) -> CudaTrajectory:
        """A trajectory at a point reached before, evaluated there again."""
        return self._kind(self.objective, self.optimizer, factors, memory, evaluations)

    def together(self, trajectories: Sequence[Trajectory]) -> Lockstep | None:
        """Small trials in one launch; None for others, each of which has the whole device."""
        if self._kind is not SmallTrajectory:
            return None
        return CudaLockstep(cast(Sequence[SmallTrajectory], trajectories))
