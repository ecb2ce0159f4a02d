"""Trajectories of dense sensing in lockstep on the CPU."""

from collections.abc import Sequence

import numpy as np

from fastdmf._checks import Array
from fastdmf.backends import Event, Leg, thresholds
from fastdmf.backends.cpu_steps import StepTrajectory
from fastdmf.kernels.cpu.lockstep import Company, advance_together


class CpuLockstep:
    """Trajectories that share every pass over the measurement matrices.

    Each keeps its own memory, and its sums are made in the same order as when it is advanced by itself:
    its path is the same to the bit as far as BLAS does its part.
    """

    def __init__(self, trajectories: Sequence[StepTrajectory]) -> None:
        self._members = list(trajectories)

    def advance(self, legs: Sequence[Leg]) -> list[Event]:
        """Advance all by the shortest leg; they end at the first step where any has an event."""
        members = self._members
        for member in members:
            member.prepare()
        limits = [thresholds(leg.halts) for leg in legs]
        norms, loss_below, gradient_below = zip(*limits, strict=True)
        first = members[0].held
        objective = members[0].objective
        company = self._company()
        with objective.holding_threads(), objective.launching():
            taken, swapped = advance_together(
                first.rule, first.model, objective.bound_support,
                first.operator._replace(residuals=objective.residuals_address), company,
                min(leg.steps for leg in legs),
                np.array(norms), np.cumsum([0, *map(len, loss_below)]), np.concatenate(loss_below),
                np.concatenate(gradient_below), np.array([leg.until for leg in legs]),
            )  # fmt: skip
        events = [Event(event) for event in company.events]
        for member, event, has_gradient in zip(members, events, company.has_gradient, strict=True):
            diverged = event == Event.DIVERGED
            member.arrive(taken - diverged, event, swapped != diverged, bool(has_gradient))
        return events

    def _company(self) -> Company:
        held = [member.held for member in self._members]
        return Company(
            np.stack([h.point.lines for h in held]),
            np.stack([h.gradient.lines for h in held]),
            np.stack([h.velocity.lines for h in held]),
            np.array([h.model.at for h in held]),
            _addresses([h.model.w for h in held]),
            _addresses([h.operator.r for h in held]),
            _addresses([h.operator.work for h in held]),
            _addresses([h.scalars for h in held]),
            _addresses([member.cancel for member in self._members]),
            np.array([h.has_gradient for h in held]),
            np.empty((len(held), 2)),
            np.empty(len(held), np.int64),
        )


def _addresses(arrays: Sequence[Array]) -> Array:
    return np.array([a.ctypes.data for a in arrays], np.int64)
