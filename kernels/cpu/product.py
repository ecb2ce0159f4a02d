"""W = W_N ⋯ W_1 for N ≥ 2: two chains of factors that meet at the observations.

A chain is lines ``first`` … ``first + count − 1`` of a table of factors M₁, M₂, …; its product is
P = M₁ M₂ ….  The factors left of the observations are one chain with product L, the transposed factors
right of them another with product R (see the package's docstring).
"""

from typing import NamedTuple

import numpy as np

from fastdmf.kernels.cpu.blas import multiply
from fastdmf.kernels.cpu.compilation import IS_PLAIN, kernel
from fastdmf.kernels.cpu.tables import VECTOR_BYTES, Place, Table, place
from fastdmf.kernels.cpu.verbs import NOWHERE, implements, look, pull

if IS_PLAIN:
    from fastdmf.kernels.cpu.plain import transpose_rows
else:
    from fastdmf.kernels.cpu.simd import transpose_rows


class Chains(NamedTuple):
    """``left`` factors, then ``right`` transposed factors, and scratch memory.

    ``prefixes`` and ``deltas`` are tables, as are their derivatives ``tangents`` and ``delta_tangents``;
    ``spare`` has room for any factor, and ``w`` (S,) is that of ``verbs.Model``.
    """

    left: int
    right: int
    prefixes: Table
    deltas: Table
    tangents: Table
    delta_tangents: Table
    spare: np.ndarray
    w: np.ndarray


@kernel
def _chain_product(factors, prefixes, first, count, like):
    """The product of a chain, all prefix products P_j = M₁ … M_j being left in ``prefixes``."""
    product = place(factors, first)
    for j in range(first + 1, first + count):
        longer = place(prefixes, j)
        multiply(product, False, place(factors, j), False, 1.0, 0.0, longer, like)
        product = longer
    return product


@kernel
def chain_end(ends, products, first, count):
    """The last of the ``products`` along a chain; of a single factor, its line in ``ends``.

    Of factors and prefixes it is the product of the chain, of gradients and deltas the gradient in it.
    """
    return place(ends, first) if count == 1 else place(products, first + count - 1)


@kernel
def _transposed(x, memory):
    """Xᵀ, written to ``memory``: BLAS multiplies by it a quarter faster than by X transposed on the way."""
    lanes = VECTOR_BYTES // memory.itemsize
    stride = -(-x.rows // lanes) * lanes
    transpose_rows(
        memory, x.address, x.stride * memory.itemsize, x.rows, -(-x.cols // lanes),
        memory.ctypes.data, stride * memory.itemsize,
    )  # fmt: skip
    return Place(memory.ctypes.data, x.cols, x.rows, stride, 0)


@kernel
def _chain_pullback(factors, prefixes, grads, deltas, spare, first, count):
    """Gradients in all factors, from the gradient Δ in the product that :func:`chain_end` holds.

    With P_j = P_{j−1} M_j:  ∂ℓ/∂M_j = P_{j−1}ᵀ Δ_j  and  Δ_{j−1} = Δ_j M_jᵀ.  ``spare`` has room for M_jᵀ.
    """
    for j in range(first + count - 1, first, -1):
        delta = place(deltas, j)
        before = chain_end(factors, prefixes, first, j - first)
        delta_before = chain_end(grads, deltas, first, j - first)
        multiply(before, True, delta, False, 1.0, 0.0, place(grads, j), spare)
        multiply(delta, False, _transposed(place(factors, j), spare), False, 1.0, 0.0, delta_before, spare)


@implements("compose", Chains)
def _compose(at, support, factors, w, cancel):
    m = at[0]
    left = _chain_product(factors, m.prefixes, 0, m.left, w)
    right = _chain_product(factors, m.prefixes, m.left, m.right, w)
    look(support, left, right, w, False, cancel)


@implements("pull_back", Chains)
def _pull_back(at, support, factors, grads, cancel):
    m = at[0]
    left = chain_end(factors, m.prefixes, 0, m.left)
    right = chain_end(factors, m.prefixes, m.left, m.right)
    left_end, right_end = chain_end(grads, m.deltas, 0, m.left), chain_end(grads, m.deltas, m.left, m.right)
    pull(support, m.w, left, right, 1.0, NOWHERE, NOWHERE, left_end, right_end, cancel)
    _chain_pullback(factors, m.prefixes, grads, m.deltas, m.spare, 0, m.left)
    _chain_pullback(factors, m.prefixes, grads, m.deltas, m.spare, m.left, m.right)


@implements("step_back", Chains)
def _step_back(at, support, factors, base, step, moved, cancel):
    # Two factors: of longer chains the gradient has to be written out.
    pull(
        support, at[0].w, place(factors, 0), place(factors, 1), -step,
        place(base, 0), place(base, 1), place(moved, 0), place(moved, 1), cancel,
    )  # fmt: skip


@kernel
def _chain_tangent(factors, prefixes, direction, tangents, first, count, like):
    """The derivatives of a chain's prefix products along a direction V: Ṗ_j = Ṗ_{j−1} M_j + P_{j−1} V_j."""
    product = place(direction, first)
    for j in range(first + 1, first + count):
        longer = place(tangents, j)
        before = chain_end(factors, prefixes, first, j - first)
        multiply(product, False, place(factors, j), False, 1.0, 0.0, longer, like)
        multiply(before, False, place(direction, j), False, 1.0, 1.0, longer, like)
        product = longer
    return product


@implements("push", Chains)
def _push(at, support, factors, direction, w_dot, cancel):
    m = at[0]
    left = chain_end(factors, m.prefixes, 0, m.left)
    right = chain_end(factors, m.prefixes, m.left, m.right)
    left_dot = _chain_tangent(factors, m.prefixes, direction, m.tangents, 0, m.left, w_dot)
    right_dot = _chain_tangent(factors, m.prefixes, direction, m.tangents, m.left, m.right, w_dot)
    look(support, left_dot, right, w_dot, False, cancel)
    look(support, left, right_dot, w_dot, True, cancel)


@kernel
def _chain_curve(m, factors, direction, out, first, count):
    """The derivative of :func:`_chain_pullback`, from Δ and Δ̇ in the product of the chain."""
    like = m.spare
    for j in range(first + count - 1, first, -1):
        delta, delta_dot = place(m.deltas, j), chain_end(out, m.delta_tangents, first, j - first + 1)
        before = chain_end(factors, m.prefixes, first, j - first)
        before_dot = chain_end(direction, m.tangents, first, j - first)
        multiply(before_dot, True, delta, False, 1.0, 0.0, place(out, j), like)
        multiply(before, True, delta_dot, False, 1.0, 1.0, place(out, j), like)
        shorter_dot = chain_end(out, m.delta_tangents, first, j - first)
        multiply(delta_dot, False, place(factors, j), True, 1.0, 0.0, shorter_dot, like)
        multiply(delta, False, place(direction, j), True, 1.0, 1.0, shorter_dot, like)
        if j > first + 1:
            multiply(delta, False, place(factors, j), True, 1.0, 0.0, place(m.deltas, j - 1), like)


@implements("curve", Chains)
def _curve(at, support, factors, direction, w_dot, out, cancel):
    m = at[0]
    left = chain_end(factors, m.prefixes, 0, m.left)
    right = chain_end(factors, m.prefixes, m.left, m.right)
    left_dot = chain_end(direction, m.tangents, 0, m.left)
    right_dot = chain_end(direction, m.tangents, m.left, m.right)
    if m.left > 1 or m.right > 1:
        # Δ itself is needed along chains of several factors; of a single one its place is overwritten.
        left_end, right_end = chain_end(out, m.deltas, 0, m.left), chain_end(out, m.deltas, m.left, m.right)
        pull(support, m.w, left, right, 1.0, NOWHERE, NOWHERE, left_end, right_end, cancel)
    left_end = chain_end(out, m.delta_tangents, 0, m.left)
    right_end = chain_end(out, m.delta_tangents, m.left, m.right)
    pull(support, w_dot, left, right, 1.0, NOWHERE, NOWHERE, left_end, right_end, cancel)
    pull(support, m.w, left_dot, right_dot, 1.0, left_end, right_end, left_end, right_end, cancel)
    _chain_curve(m, factors, direction, out, 0, m.left)
    _chain_curve(m, factors, direction, out, m.left, m.right)
