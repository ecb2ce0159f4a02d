"""The loss, whatever is measured."""

import numpy as np

from fastdmf.kernels.cpu.compilation import compile_apart, kernel


@kernel
def misfit(values, scale, r):
    """Turn the measurements A(w) in ``r`` into c (A(w) − y), and return the loss (c/2) Σ r²."""
    compile_apart()
    c = r.dtype.type(scale)
    squares = 0.0
    for e in range(r.size):
        difference = r[e] - values[e]
        squares += np.float64(difference) * np.float64(difference)
        r[e] = c * difference
    return 0.5 * scale * squares
