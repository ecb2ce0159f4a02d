"""W itself, of which only the support moves."""

from typing import NamedTuple

import numpy as np

from fastdmf.kernels.cpu.tables import copy_into, flat
from fastdmf.kernels.cpu.verbs import implements


class Unfactored(NamedTuple):
    """The one matrix holds the entries on the support; ``w`` (S,) is that of ``verbs.Model``."""

    w: np.ndarray


@implements("compose", Unfactored)
def _compose(at, support, factors, w, cancel):
    copy_into(w, flat(factors, 0, w))


@implements("pull_back", Unfactored)
def _pull_back(at, support, factors, grads, cancel):
    w = at[0].w
    copy_into(flat(grads, 0, w), w)


@implements("step_back", Unfactored)
def _step_back(at, support, factors, base, step, moved, cancel):
    gradient = at[0].w
    w, new = flat(base, 0, gradient), flat(moved, 0, gradient)
    step = gradient.dtype.type(step)
    for e in range(w.size):
        new[e] = w[e] - step * gradient[e]


@implements("expand", Unfactored)
def _expand(at, support, factors, grads, powers, entries, cancel):
    copy_into(entries[0], flat(grads, 0, entries))
    return 1


@implements("push", Unfactored)
def _push(at, support, factors, direction, w_dot, cancel):
    copy_into(w_dot, flat(direction, 0, w_dot))


@implements("curve", Unfactored)
def _curve(at, support, factors, direction, w_dot, out, cancel):
    copy_into(flat(out, 0, w_dot), w_dot)
