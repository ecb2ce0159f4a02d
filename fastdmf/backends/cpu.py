"""The CPU backend: engines that start trajectories on Numba kernels."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import cast

from fastdmf._checks import Array
from fastdmf.backends import Lockstep, Trajectory
from fastdmf.backends.cpu_objective import CpuObjective
from fastdmf.backends.cpu_steps import StepTrajectory
from fastdmf.backends.cpu_trajectory import CpuTrajectory
from fastdmf.kernels.cpu import stepping
from fastdmf.kernels.cpu.compilation import IS_PLAIN, source_digest
from fastdmf.kernels.cpu.sensing import DenseRows
from fastdmf.optimizers import ExactLineSearch, GradientFlow, Optimizer


def kernel_build() -> tuple[str, str | None, str]:
    """What kernels are made of, the folder of their machine code (None: there is none), and their digest."""
    made_of = "plain loops (FASTDMF_PLAIN_KERNELS is set)" if IS_PLAIN else "explicit vectors"
    return made_of, stepping.advance.stats.cache_path, source_digest()


class CpuEngine:
    """Starts trajectories of one problem × factorization × optimizer × dtype on the CPU."""

    def __init__(self, objective: CpuObjective, optimizer: Optimizer) -> None:
        self.objective, self.optimizer = objective, optimizer

    @property
    def form(self) -> str:
        """How the kernels look at W."""
        return self.objective.form

    def holding_threads(self) -> AbstractContextManager[None]:
        """Hold BLAS and our kernels at the threads that were asked for."""
        return self.objective.holding_threads()

    def start(self, factors: Sequence[Array]) -> "CpuTrajectory":
        """A trajectory at the given factors, evaluated there."""
        return self._trajectory(factors, {}, evaluations=1)

    def resume(
        self, factors: Sequence[Array], memory: Mapping[str, Array], evaluations: int
    ) -> "CpuTrajectory":
        """A trajectory at a point reached before, evaluated there again."""
        return self._trajectory(factors, memory, evaluations)

    def _trajectory(
        self, factors: Sequence[Array], memory: Mapping[str, Array], evaluations: int
    ) -> CpuTrajectory:
        if isinstance(self.optimizer, GradientFlow):
            from fastdmf.backends.cpu_flow import FlowTrajectory

            return FlowTrajectory(self.objective, self.optimizer, factors, memory, evaluations)
        return StepTrajectory(self.objective, self.optimizer, factors, memory, evaluations)

    def together(self, trajectories: Sequence[Trajectory]) -> Lockstep | None:
        """The trajectories in lockstep, if they are several and share passes over dense measurements.

        None for exact line searches too, most of whose passes measure a direction of one trajectory, and for
        flows, whose steps are not of one size.
        """
        is_dense = isinstance(self.objective.operator, DenseRows)
        takes_own_steps = isinstance(self.optimizer, ExactLineSearch | GradientFlow)
        if len(trajectories) < 2 or not is_dense or takes_own_steps:
            return None
        from fastdmf.backends.cpu_lockstep import CpuLockstep

        return CpuLockstep(cast(Sequence[StepTrajectory], trajectories))
