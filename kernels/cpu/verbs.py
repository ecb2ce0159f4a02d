"""The verbs that supports and operators implement.

Each is a name without a body.  Numba picks the implementation by the type of the first argument, so the
loops of ``stepping`` are written once and compiled only for the kinds of problem that are run.
"""

from numba import types


def look(support, left, right, w, cancel, threads):
    """W = the entries of L Rᵀ on the support."""


def pull(support, z, left, right, grad_left, grad_right, cancel, threads):
    """grad_left = Z R and grad_right = Zᵀ L, for Z with the entries z on the support."""


def pull_tied(support, z, factor, grad, cancel, threads):
    """Grad = (Z + Zᵀ) U, the pullback for W = UUᵀ."""


def measure(operator, w, out, work, cancel, threads):
    """Out = A(w), for w on the support; ``work`` is the operator's scratch memory."""


def residual(operator, w, r, work, cancel, threads):
    """Replace w by c A*(r), store c r with r = A(w) − y, and return the loss (c/2) Σ r²."""


def residuals(operator, w, r, work, cancel, threads):
    """:func:`residual`, but for the loss, of several points: w, r and work are arrays of their addresses."""


def is_a(numba_type, kind) -> bool:
    """Whether a Numba type is that of the NamedTuple class ``kind``."""
    return isinstance(numba_type, types.BaseNamedTuple) and numba_type.instance_class is kind


def is_serial(threads) -> bool:
    """Whether a Numba type stands for the argument ``threads=None``: compile no parallel loop."""
    return isinstance(threads, types.NoneType)
