"""The Hessian of the loss: its products with directions, and its spectral radius."""

import numpy as np

from fastdmf.kernels.cpu.compilation import kernel
from fastdmf.kernels.cpu.stepping import sum_of_squares
from fastdmf.kernels.cpu.tables import flat
from fastdmf.kernels.cpu.verbs import curve, push, residual
from fastdmf.kernels.flow_rules import AGREEMENT, MOST_PRODUCTS


@kernel
def hessian_times(model, support, linear, factors, direction, out, w_dot, cancel):
    """Out = H V for a direction V, at the point where loss and gradient were last evaluated.

    With W = W(θ) and z = c A*(A(W) − y):  Ẇ = DW[V],  ż = c A*(A(Ẇ)),  H V = DW*[ż] + D²W*[z, V].  ``linear``
    is the operator with y = 0; ``w_dot`` (S,) is scratch memory.
    """
    push(model, support, factors, direction, w_dot, cancel)
    residual(linear, w_dot, linear.r, linear.work, cancel)
    curve(model, support, factors, direction, w_dot, out, cancel)


@kernel
def spectral_radius(model, support, linear, factors, direction, out, w_dot, before, cancel):
    """The largest absolute eigenvalue of H by power iteration, and the products that it took.

    ``direction``, of norm 1, is where iteration starts and where it ends; ``before`` is the last estimate.
    """
    radius = before
    for products in range(1, MOST_PRODUCTS + 1):
        hessian_times(model, support, linear, factors, direction, out, w_dot, cancel)
        norm = np.sqrt(sum_of_squares(out, w_dot))
        if not (norm > 0.0 and np.isfinite(norm)):
            return norm, products
        inverse = w_dot.dtype.type(1.0 / norm)
        for j in range(out.count):
            v, hv = flat(direction, j, w_dot), flat(out, j, w_dot)
            for i in range(v.size):
                v[i] = inverse * hv[i]
        if abs(norm - radius) < AGREEMENT * norm:
            return norm, products
        radius = norm
    return radius, MOST_PRODUCTS
