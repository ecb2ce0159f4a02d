"""W = UUᵀ."""

from typing import NamedTuple

import numpy as np

from fastdmf.kernels.cpu.compilation import kernel
from fastdmf.kernels.cpu.tables import place
from fastdmf.kernels.cpu.verbs import NOWHERE, implements, look, look_along, pull, pull_tied


class Tied(NamedTuple):
    """One factor on both sides of the observations; ``w`` (S,) is that of ``verbs.Model``."""

    w: np.ndarray


@kernel
def _pull_both(support, z, u, scale, base, out, cancel):
    """Out = base + scale (Z + Zᵀ) U."""
    if support.pull_tied != 0:
        pull_tied(support, z, u, scale, base, out, cancel)
    else:
        pull(support, z, u, u, scale, base, out, out, out, cancel)


@implements("compose", Tied)
def _compose(at, support, factors, w, cancel):
    look(support, place(factors, 0), place(factors, 0), w, False, cancel)


@implements("pull_back", Tied)
def _pull_back(at, support, factors, grads, cancel):
    _pull_both(support, at[0].w, place(factors, 0), 1.0, NOWHERE, place(grads, 0), cancel)


@implements("step_back", Tied)
def _step_back(at, support, factors, base, step, moved, cancel):
    _pull_both(support, at[0].w, place(factors, 0), -step, place(base, 0), place(moved, 0), cancel)


@implements("push", Tied)
def _push(at, support, factors, direction, w_dot, cancel):
    u, v = place(factors, 0), place(direction, 0)
    look(support, u, v, w_dot, False, cancel)
    look(support, v, u, w_dot, True, cancel)


@implements("curve", Tied)
def _curve(at, support, factors, direction, w_dot, out, cancel):
    moved = place(out, 0)
    _pull_both(support, w_dot, place(factors, 0), 1.0, NOWHERE, moved, cancel)
    _pull_both(support, at[0].w, place(direction, 0), 1.0, moved, moved, cancel)


@implements("expand", Tied)
def _expand(at, support, factors, grads, powers, entries, cancel):
    u, g = place(factors, 0), place(grads, 0)
    look_along(support, u, u, g, g, entries[0], entries[1], cancel)
    return 2
