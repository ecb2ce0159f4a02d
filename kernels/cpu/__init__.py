"""Numba kernels for the CPU.

==================  ================================================================================
``compilation``     how kernels are compiled and cached
``tables``          matrices scattered in memory, addressed by one small table
``vectors``         rows of a matrix as vectors in registers
``simd``            sampled products and sums of rows, built of these
``plain``           the same as ordinary loops
``blas``            dense products
``dense_rows``      long dense rows, for one vector or several: products and weighted sums in one pass
``loss``            the loss, whatever is measured
``verbs``           what factorizations, supports and operators implement, compiled once and called by address
``product``         the factorization W = W_N ⋯ W_1
``symmetric``       the factorization W = UUᵀ
``unfactored``      W itself
``completion``      W on a sparse support: sampled products, their adjoints, observed entries
``blocked``         the same on a large support, cut into tiles that fit into cache
``whole``           W everywhere, multiplied out, and the measurement of many of its entries
``sensing``         linear measurements of W, dense or sparse
``line_search``     the loss along the gradient as a polynomial, and its minimizer
``stepping``        loss, gradient, and the compiled multi-step loop
``lockstep``        the same for several trajectories at once
``flow``            what integrators of the gradient flow share
``hessian``         products with the Hessian, and its spectral radius
``chebyshev``       stabilized steps of order 2, for stiff stretches
``dormand_prince``  explicit steps of order 5
``flowing``         the loop of controlled steps, and points inside them
``small_problems``  flows of very many tiny problems, each with its Hessian
==================  ================================================================================

Notation.  W (n × p) is split where the observations meet it: W = L Rᵀ, with L (n × k) the product of
the factors left of the split and Rᵀ the product of those right of it.  Factors right of the split are
stored transposed, so that both chains are walked from the outside in by the same code and both sides
are gathered by contiguous rows.  Ω, the *support*, is the set of entries of W that are looked at.
"""
