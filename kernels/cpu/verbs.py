"""The verbs that supports and operators implement.

Each is a name without a body.  Numba picks the implementation by the type of the first argument, so the
loops of ``stepping`` are written once and compiled only for the kinds of problem that are run.
"""

from numba import types

from fastdmf.kernels.cpu.tables import Place

#: The base of a sum that has none.
NOWHERE = Place(0, 0, 0, 0)


def look(support, left, right, w, cancel, threads):
    """W = the entries of L Rᵀ on the support, for the places of L and R."""


def pull(support, z, left, right, scale, bases, out_left, out_right, cancel, threads):
    """out_left = base + scale Z R and out_right = base + scale Zᵀ L, for Z with the entries z on the support.

    ``bases`` are two places, or :data:`NOWHERE` for zero.
    """


def pull_tied(support, z, factor, scale, base, out, cancel, threads):
    """Out = base + scale (Z + Zᵀ) U, the pullback for W = UUᵀ."""


def measure(operator, w, out):
    """Out = A(w), for w on the support."""


def residual(operator, w, r):
    """Replace w by c A*(r), store c r with r = A(w) − y, and return the loss (c/2) Σ r²."""


def is_a(numba_type, kind) -> bool:
    """Whether a Numba type is that of the NamedTuple class ``kind``."""
    return isinstance(numba_type, types.BaseNamedTuple) and numba_type.instance_class is kind


def is_serial(threads) -> bool:
    """Whether a Numba type stands for the argument ``threads=None``: compile no parallel loop."""
    return isinstance(threads, types.NoneType)
