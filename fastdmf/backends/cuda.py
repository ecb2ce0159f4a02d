"""The CUDA backend: engines that start trajectories on a GPU."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

import numpy as np

from fastdmf._blas import blas_threads
from fastdmf._checks import Array
from fastdmf.backends import Lockstep, Trajectory
from fastdmf.backends.cuda_objective import CudaObjective, Device
from fastdmf.backends.cuda_trajectory import CudaTrajectory
from fastdmf.factorizations import Factorization
from fastdmf.kernels.cuda.cupy_device import CupyDevice
from fastdmf.optimizers import GradientDescent, GroupRMSprop, Optimizer
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
        device = open_device()
        if not isinstance(optimizer, GradientDescent | GroupRMSprop):
            raise ValueError(
                f"device 'cuda' carries out GradientDescent and GroupRMSprop, not {optimizer!r}: "
                "use device='cpu'"
            )
        self.objective = CudaObjective(problem, factorization, dtype, device)
        self.optimizer, self._threads = optimizer, threads

    @property
    def form(self) -> str:
        """How the kernels look at W."""
        return "observed entries"

    def holding_threads(self) -> AbstractContextManager[None]:
        """Hold BLAS at the threads that were asked for."""
        return blas_threads(self._threads)

    def start(self, factors: Sequence[Array]) -> CudaTrajectory:
        """A trajectory at the given factors, evaluated there."""
        return CudaTrajectory(self.objective, self.optimizer, factors, {}, evaluations=1)

    def resume(
        self, factors: Sequence[Array], memory: Mapping[str, Array], evaluations: int
    ) -> CudaTrajectory:
        """A trajectory at a point reached before, evaluated there again."""
        return CudaTrajectory(self.objective, self.optimizer, factors, memory, evaluations)

    def together(self, trajectories: Sequence[Trajectory]) -> Lockstep | None:
        """None: each is advanced by itself."""
        return None
