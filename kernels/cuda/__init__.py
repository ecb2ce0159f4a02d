"""CUDA kernels, and what launches them.

==================  ================================================================================
``common.cuh``      sums over warps and blocks, and the state of a trajectory on the device
``completion.cu``   W on a sparse support: sampled residual, and the sparse-times-dense products
``sensing.cu``      measurements of W on its support, dense and sparse, and their adjoints
``stepping.cu``     moving a point, norms, and what the loss at a new point decides
``flow.cu``         the gradient flow: combinations of stages, norms, and products with the Hessian
``line_search.cu``  the loss along the gradient as a polynomial, and its minimizer
``lockstep.cu``     many small trials, a block each, for many steps in one launch
``sources``         the sources as one, the arguments of each kernel, and grids
``cupy_device``     memory, matrix products and launches on a GPU, through CuPy
==================  ================================================================================

The products of chains of factors are cuBLAS's, and UUᵀ needs no kernel of its own: its gradient (Z + Zᵀ) U is
one sum over the entries of Z and of Zᵀ, whose lists are joined.

No kernel waits for the host.  Whether a run halts or has diverged is decided on the device, by ``settle`` or
the block that moves a small trial, and every kernel that was queued after that returns at once.
"""
