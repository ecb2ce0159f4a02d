"""W = UUᵀ."""

from typing import NamedTuple

import numpy as np
from numba.extending import overload

from fastdmf.kernels.cpu.tables import place
from fastdmf.kernels.cpu.verbs import NOWHERE, compose, is_a, look, pull_back, pull_tied, step_back


class Tied(NamedTuple):
    """One factor on both sides of the observations, and the scratch memory of ``product.Chains``."""

    w: np.ndarray
    r: np.ndarray
    work: np.ndarray


@overload(compose, inline="always")
def _compose(model, support, factors, w, cancel, threads):
    if not is_a(model, Tied):
        return None

    def tied(model, support, factors, w, cancel, threads):
        look(support, place(factors, 0), place(factors, 0), w, False, cancel, threads)

    return tied


@overload(pull_back, inline="always")
def _pull_back(model, support, factors, grads, cancel, threads):
    if not is_a(model, Tied):
        return None

    def tied(model, support, factors, grads, cancel, threads):
        pull_tied(support, model.w, place(factors, 0), 1.0, NOWHERE, place(grads, 0), cancel, threads)

    return tied


@overload(step_back, inline="always")
def _step_back(model, support, factors, step, moved, cancel, threads):
    if not is_a(model, Tied):
        return None

    def tied(model, support, factors, step, moved, cancel, threads):
        u = place(factors, 0)
        pull_tied(support, model.w, u, -step, u, place(moved, 0), cancel, threads)
        return True

    return tied
