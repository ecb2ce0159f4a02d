"""W itself, of which only the support moves."""

from typing import NamedTuple

import numpy as np
from numba.extending import overload

from fastdmf.kernels.cpu.tables import copy_into, flat
from fastdmf.kernels.cpu.verbs import compose, is_a, pull_back, step_back


class Unfactored(NamedTuple):
    """The one matrix holds the entries on the support; scratch memory is that of ``product.Chains``."""

    w: np.ndarray
    r: np.ndarray
    work: np.ndarray


@overload(compose, inline="always")
def _compose(model, support, factors, w, cancel, threads):
    if not is_a(model, Unfactored):
        return None

    def itself(model, support, factors, w, cancel, threads):
        copy_into(w, flat(factors, 0, w))

    return itself


@overload(pull_back, inline="always")
def _pull_back(model, support, factors, grads, cancel, threads):
    if not is_a(model, Unfactored):
        return None

    def itself(model, support, factors, grads, cancel, threads):
        copy_into(flat(grads, 0, model.w), model.w)

    return itself


@overload(step_back, inline="always")
def _step_back(model, support, factors, step, moved, cancel, threads):
    if not is_a(model, Unfactored):
        return None

    def itself(model, support, factors, step, moved, cancel, threads):
        w, new = flat(factors, 0, model.w), flat(moved, 0, model.w)
        step = model.w.dtype.type(step)
        for e in range(w.size):
            new[e] = w[e] - step * model.w[e]
        return True

    return itself
