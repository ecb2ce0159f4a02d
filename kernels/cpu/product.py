"""Chains of factors: prefix products and the pullback.

A chain is lines ``first`` … ``first + count − 1`` of a table of factors M₁, M₂, …; its product is
P = M₁ M₂ ….  The factors left of the observations are one chain with product L, the transposed factors
right of them another with product R (see the package's docstring).
"""

from fastdmf.kernels.cpu.blas import multiply
from fastdmf.kernels.cpu.compilation import IS_PLAIN, kernel
from fastdmf.kernels.cpu.tables import VECTOR_BYTES, Place, place

if IS_PLAIN:
    from fastdmf.kernels.cpu.plain import transpose_rows
else:
    from fastdmf.kernels.cpu.simd import transpose_rows


@kernel
def chain_product(factors, prefixes, first, count, like):
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
def chain_pullback(factors, prefixes, grads, deltas, spare, first, count):
    """Gradients in all factors, from the gradient Δ in the product that :func:`chain_end` holds.

    With P_j = P_{j−1} M_j:  ∂ℓ/∂M_j = P_{j−1}ᵀ Δ_j  and  Δ_{j−1} = Δ_j M_jᵀ.  ``spare`` has room for M_jᵀ.
    """
    for j in range(first + count - 1, first, -1):
        delta = place(deltas, j)
        before = chain_end(factors, prefixes, first, j - first)
        delta_before = chain_end(grads, deltas, first, j - first)
        multiply(before, True, delta, False, 1.0, 0.0, place(grads, j), spare)
        multiply(delta, False, _transposed(place(factors, j), spare), False, 1.0, 0.0, delta_before, spare)
