"""Chains of factors: prefix products and the pullback.

A chain is lines ``first`` … ``first + count − 1`` of a table of factors M₁, M₂, …; its product is
P = M₁ M₂ ….  The factors left of the observations are one chain with product L, the transposed factors
right of them another with product R (see the package's docstring).
"""

import numpy as np

from fastdmf.kernels.cpu.compilation import kernel
from fastdmf.kernels.cpu.tables import matrix


@kernel
def chain_product(factors, prefixes, first, count, like):
    """The product of a chain, all prefix products P_j = M₁ … M_j being left in ``prefixes``."""
    product = matrix(factors, first, like)
    for j in range(first + 1, first + count):
        longer = matrix(prefixes, j, like)
        np.dot(product, matrix(factors, j, like), longer)
        product = longer
    return product


@kernel
def chain_end(grads, deltas, first, count, like):
    """Where the gradient in a chain's product is to be written before :func:`chain_pullback`."""
    if count == 1:
        return matrix(grads, first, like)
    return matrix(deltas, first + count - 1, like)


@kernel
def chain_pullback(factors, prefixes, grads, deltas, first, count, like):
    """Gradients in all factors, from the gradient Δ in the product that :func:`chain_end` holds.

    With P_j = P_{j−1} M_j:  ∂ℓ/∂M_j = P_{j−1}ᵀ Δ_j  and  Δ_{j−1} = Δ_j M_jᵀ.
    """
    for j in range(first + count - 1, first, -1):
        delta = matrix(deltas, j, like)
        if j == first + 1:
            before = matrix(factors, first, like)
            delta_before = matrix(grads, first, like)
        else:
            before = matrix(prefixes, j - 1, like)
            delta_before = matrix(deltas, j - 1, like)
        np.dot(before.T, delta, matrix(grads, j, like))
        np.dot(delta, matrix(factors, j, like).T, delta_before)
