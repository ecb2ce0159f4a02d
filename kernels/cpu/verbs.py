"""The verbs that factorizations, supports and operators implement.

Each is a name without a body.  Numba picks the implementation by the type of the first argument, so the
loops of ``stepping`` are written once and compiled only for what is run.
"""

from numba import types

from fastdmf.kernels.cpu.tables import Place

#: The base of a sum that has none.
NOWHERE = Place(0, 0, 0, 0)


# Of a factorization.


def compose(model, support, factors, w, cancel, threads):
    """The entries of W on the support, written to ``w``."""


def pull_back(model, support, factors, grads, cancel, threads):
    """The gradient in the factors, from that on the support in ``model.w``, where W was last composed."""


def step_back(model, support, factors, step, moved, cancel, threads):
    """Moved = factors − step · gradient without writing out the gradient; False where that is not done."""


# Of a support.


def look(support, left, right, w, is_added, cancel, threads):
    """w = [w +] the entries of L Rᵀ on the support, for the places of L and R."""


def pull(support, z, left, right, scale, bases, out_left, out_right, cancel, threads):
    """out_left = base + scale Z R and out_right = base + scale Zᵀ L, for Z with the entries z on the support.

    ``bases`` are two places, or :data:`NOWHERE` for zero.
    """


def pull_tied(support, z, factor, scale, base, out, cancel, threads):
    """Out = base + scale (Z + Zᵀ) U, the pullback for W = UUᵀ."""


# Of an operator.


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
