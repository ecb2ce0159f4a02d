"""W = W_N ⋯ W_1 for N ≥ 2: two chains of factors that meet at the observations.

A chain is lines ``first`` … ``first + count − 1`` of a table of factors M₁, M₂, …; its product is
P = M₁ M₂ ….  The factors left of the observations are one chain with product L, the transposed factors
right of them another with product R (see the package's docstring).
"""

from typing import NamedTuple

import numpy as np
from numba.extending import overload

from fastdmf.kernels.cpu.blas import multiply
from fastdmf.kernels.cpu.compilation import IS_PLAIN, kernel
from fastdmf.kernels.cpu.tables import VECTOR_BYTES, Place, place
from fastdmf.kernels.cpu.verbs import NOWHERE, compose, is_a, look, pull, pull_back, step_back

if IS_PLAIN:
    from fastdmf.kernels.cpu.plain import transpose_rows
else:
    from fastdmf.kernels.cpu.simd import transpose_rows


class Chains(NamedTuple):
    """``left`` factors, then ``right`` transposed factors, and scratch memory of the sizes that follow.

    ``prefixes`` and ``deltas`` are tables, ``spare`` has room for any factor; ``w`` (S,) is W on the support,
    then the gradient there; ``r`` (m,) is the scaled residual; ``work`` is the operator's.
    """

    left: int
    right: int
    prefixes: np.ndarray
    deltas: np.ndarray
    spare: np.ndarray
    w: np.ndarray
    r: np.ndarray
    work: np.ndarray


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
    return Place(memory.ctypes.data, x.cols, x.rows, stride)


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


@overload(compose, inline="always")
def _compose(model, support, factors, w, cancel, threads):
    if not is_a(model, Chains):
        return None

    def chains(model, support, factors, w, cancel, threads):
        left = _chain_product(factors, model.prefixes, 0, model.left, w)
        right = _chain_product(factors, model.prefixes, model.left, model.right, w)
        look(support, left, right, w, False, cancel, threads)

    return chains


@overload(pull_back, inline="always")
def _pull_back(model, support, factors, grads, cancel, threads):
    if not is_a(model, Chains):
        return None

    def chains(model, support, factors, grads, cancel, threads):
        m = model
        left = chain_end(factors, m.prefixes, 0, m.left)
        right = chain_end(factors, m.prefixes, m.left, m.right)
        ends = chain_end(grads, m.deltas, 0, m.left), chain_end(grads, m.deltas, m.left, m.right)
        pull(support, m.w, left, right, 1.0, (NOWHERE, NOWHERE), ends[0], ends[1], cancel, threads)
        _chain_pullback(factors, m.prefixes, grads, m.deltas, m.spare, 0, m.left)
        _chain_pullback(factors, m.prefixes, grads, m.deltas, m.spare, m.left, m.right)

    return chains


@overload(step_back, inline="always")
def _step_back(model, support, factors, step, moved, cancel, threads):
    if not is_a(model, Chains):
        return None

    def chains(model, support, factors, step, moved, cancel, threads):
        if model.left > 1 or model.right > 1:
            return False
        left, right = place(factors, 0), place(factors, 1)
        new_left, new_right = place(moved, 0), place(moved, 1)
        pull(support, model.w, left, right, -step, (left, right), new_left, new_right, cancel, threads)
        return True

    return chains
