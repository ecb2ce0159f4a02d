"""The loss along the gradient as a polynomial in the step, and its minimizer.

Moving every factor to W_j − η G_j makes the product, hence the residual, a polynomial of degree N in η:
r(η) = Σ_t c_t (−η)ᵗ.  The loss is (c/2) ‖r(η)‖², of degree 2N, and its coefficients are sums of inner
products ⟨c_s, c_t⟩.  Only the support is ever looked at.
"""

import math
from typing import NamedTuple

import numpy as np

from fastdmf.kernels.cpu.compilation import kernel
from fastdmf.kernels.cpu.tables import flat, matrix, reshaped
from fastdmf.kernels.cpu.verbs import look, measure

#: Logarithm of the square of a ratio, 1e-60, below which a coefficient is nothing.
_NOTHING = -2.0 * 60.0 * math.log(10.0)


class LineSearch(NamedTuple):
    """Exact line search with steps in (0, ``max_step``], and its scratch memory.

    ``powers`` is a table of matrices for the coefficients of the chains' products, ``sums`` and
    ``term`` are (S,), ``coefficients`` is (N + 1, m) and holds c_t, ``ladder`` is
    (2N + 4, 2N + 2): derivatives, roots, brackets and the loss itself.
    """

    max_step: float
    powers: np.ndarray
    sums: np.ndarray
    term: np.ndarray
    coefficients: np.ndarray
    ladder: np.ndarray


@kernel
def _power(factors, grads, prefixes, powers, base, first, count, i, a, like):
    """The coefficient of ξᵃ in (M₁ + ξ G₁) … (M_i + ξ G_i), for the chain of ``count`` factors."""
    last = first + i - 1
    if i == 1:
        if a == 0:
            return matrix(factors, first, like)
        return matrix(grads, first, like)
    if a == 0:
        return matrix(prefixes, last, like)
    # Two generations of coefficients, i even and i odd, of which the longer overwrites the older.
    line = base + (i % 2) * count + a - 1
    return reshaped(powers, line, factors[first, 1], factors[last, 2], like)


@kernel
def _expand_chain(factors, grads, prefixes, powers, base, first, count, like):
    """Fill ``powers`` with the coefficients of the product of a chain moved by ξ along its gradient."""
    for i in range(2, count + 1):
        last = first + i - 1
        factor = matrix(factors, last, like)
        gradient = matrix(grads, last, like)
        spare = reshaped(powers, base + 2 * count, factors[first, 1], factors[last, 2], like)
        for a in range(1, i + 1):
            out = _power(factors, grads, prefixes, powers, base, first, count, i, a, like)
            shorter = _power(factors, grads, prefixes, powers, base, first, count, i - 1, a - 1, like)
            np.dot(shorter, gradient, out)
            if a < i:
                same = _power(factors, grads, prefixes, powers, base, first, count, i - 1, a, like)
                np.dot(same, factor, spare)
                out += spare


@kernel
def _coefficients(rule, support, operator, chains, factors, grads, cancel, threads):
    """c_0 = r and the coefficients c_t of the measurements of W along ξ = −η; returns the degree N."""
    like = chains.w
    coefficients = rule.coefficients
    coefficients[0] = chains.r / like.dtype.type(operator.scale)
    if chains.left == 0:
        measure(operator, flat(grads, 0, like), coefficients[1], chains.work, cancel, threads)
        return 1
    powers = rule.powers
    first, count, base = chains.left, chains.right, 2 * chains.left + 1
    if chains.tied:
        first, count, base = 0, 1, 0
    _expand_chain(factors, grads, chains.prefixes, powers, 0, 0, chains.left, like)
    _expand_chain(factors, grads, chains.prefixes, powers, base, first, count, like)
    degree = chains.left + count
    for t in range(1, degree + 1):
        rule.sums[:] = 0
        for a in range(max(0, t - count), min(t, chains.left) + 1):
            left = _power(factors, grads, chains.prefixes, powers, 0, 0, chains.left, chains.left, a, like)
            right = _power(factors, grads, chains.prefixes, powers, base, first, count, count, t - a, like)
            look(support, left, right, rule.term, cancel, threads)
            rule.sums[:] += rule.term
        measure(operator, rule.sums, coefficients[t], chains.work, cancel, threads)
    return degree


@kernel
def _inner(x, y):
    """⟨x, y⟩ accumulated in float64."""
    total = 0.0
    for e in range(x.size):
        total += np.float64(x[e]) * np.float64(y[e])
    return total


@kernel
def _horner(coefficients, degree, x):
    value = 0.0
    for d in range(degree, -1, -1):
        value = value * x + coefficients[d]
    return value


@kernel
def _root_between(coefficients, slopes, degree, low, high):
    """The root of a polynomial between two points where its signs differ: Newton inside a bracket."""
    rising = _horner(coefficients, degree, low) < 0.0
    x = 0.5 * (low + high)
    for _ in range(200):
        value = _horner(coefficients, degree, x)
        if value == 0.0:
            return x
        if (value < 0.0) == rising:
            low = x
        else:
            high = x
        slope = _horner(slopes, degree - 1, x)
        moved = x - value / slope if slope != 0.0 else low
        if not low < moved < high:
            moved = 0.5 * (low + high)
        if abs(moved - x) <= 2.3e-16 * abs(moved):
            return moved
        x = moved
    return x


@kernel
def positive_roots(ladder, degree, bound, roots, brackets):
    """All sign changes in (0, bound) of the polynomial in ``ladder[0]``, ascending in ``roots``.

    ``ladder[k]`` is filled with the k-th derivative.  Between neighbouring roots of a derivative the
    polynomial is monotone, so climbing from the linear derivative upward finds every root.
    """
    for k in range(1, degree + 1):
        for d in range(degree - k + 1):
            ladder[k, d] = ladder[k - 1, d + 1] * (d + 1)
    found = 0
    for k in range(degree - 1, -1, -1):
        # brackets: 0, the roots of the derivative one higher, bound
        brackets[0] = 0.0
        for i in range(found):
            brackets[i + 1] = roots[i]
        brackets[found + 1] = bound
        intervals = found + 1
        found = 0
        for i in range(intervals):
            low, high = brackets[i], brackets[i + 1]
            at_low = _horner(ladder[k], degree - k, low)
            at_high = _horner(ladder[k], degree - k, high)
            if (at_low < 0.0) != (at_high < 0.0):
                roots[found] = _root_between(ladder[k], ladder[k + 1], degree - k, low, high)
                found += 1
    return found


@kernel
def minimizing_step(loss, degree, max_step, ladder):
    """The global minimizer over 0 < η ≤ max_step of the polynomial Σ_d loss[d] ηᵈ, 0 if it never falls.

    ``loss`` is overwritten; ``ladder`` has at least degree + 3 rows of degree + 2 numbers.
    """
    while degree > 0 and loss[degree] == 0.0:
        degree -= 1
    if degree == 0 or loss[0] <= 0.0:
        return 0.0
    # In units where the constant and the leading coefficient are equal, all coefficients are tame.
    unit = (loss[0] / abs(loss[degree])) ** (1.0 / degree)
    for d in range(degree, -1, -1):
        loss[d] *= unit**d / loss[0]
    derivative = ladder[0]
    for d in range(degree):
        derivative[d] = loss[d + 1] * (d + 1)
    # All roots of q lie below 2 max_k |q_{top − k} / q_top|^(1/k) (Fujiwara 1916).
    top = degree - 1
    bound = 0.0
    for k in range(1, top + 1):
        bound = max(bound, abs(derivative[top - k] / derivative[top]) ** (1.0 / k))
    bound = min(2.0 * bound, max_step / unit)
    roots, brackets = ladder[degree + 1], ladder[degree + 2]
    found = positive_roots(ladder, degree - 1, bound, roots, brackets)
    # Compared without the constant: near a saddle the loss falls by less than a rounding of itself.
    loss[0] = 0.0
    best, best_fall = 0.0, 0.0
    roots[found] = bound
    for i in range(found + 1):
        value = _horner(loss, degree, roots[i])
        if value < best_fall:
            best, best_fall = roots[i], value
    return best * unit


@kernel
def _degree_that_counts(c, degree):
    """The degree without leading coefficients that are nothing beside the others at any sensible step.

    Near a fit ⟨c_N, c_N⟩ may underflow while ⟨c_N, c_s⟩ does not; what is left of the polynomial would
    then be unbounded below.  Without c_N altogether it is a sum of squares again.
    """
    size = np.log(_inner(c[0], c[0]))
    unit = size - np.log(_inner(c[1], c[1]))  # log of the square of the step ‖c_0‖ / ‖c_1‖
    while degree > 1 and np.log(_inner(c[degree], c[degree])) + degree * unit < size + _NOTHING:
        degree -= 1
    return degree


@kernel
def exact_step(rule, support, operator, chains, factors, grads, cancel, threads):
    """The step η that minimizes the loss along the gradient."""
    degree = _coefficients(rule, support, operator, chains, factors, grads, cancel, threads)
    c = rule.coefficients
    degree = _degree_that_counts(c, degree)
    loss = rule.ladder[2 * degree + 3]
    loss[:] = 0.0
    for s in range(degree + 1):
        loss[2 * s] += _inner(c[s], c[s])
        for t in range(s):
            loss[s + t] += 2.0 * _inner(c[s], c[t])
    for d in range(1, 2 * degree + 1, 2):
        loss[d] = -loss[d]  # ξ = −η
    return minimizing_step(loss, 2 * degree, rule.max_step, rule.ladder)
