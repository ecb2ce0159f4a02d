"""The loss along the gradient as a polynomial in the step, and its minimizer.

Moving every factor to W_j − η G_j makes the product, hence the residual, a polynomial of degree N in η:
r(η) = Σ_t c_t (−η)ᵗ.  The loss is (c/2) ‖r(η)‖², of degree 2N, and its coefficients are sums of inner
products ⟨c_s, c_t⟩.  Only the support is ever looked at.
"""

import math
from typing import NamedTuple

import numpy as np

from fastdmf.kernels.cpu.blas import multiply
from fastdmf.kernels.cpu.compilation import kernel
from fastdmf.kernels.cpu.product import Chains, chain_end
from fastdmf.kernels.cpu.tables import Table, flat, place
from fastdmf.kernels.cpu.verbs import expand, implements, look, look_along, measure

#: Logarithm of the square of a ratio, 1e-60, below which a coefficient is nothing.
_NOTHING = -2.0 * 60.0 * math.log(10.0)
#: A farther point counts if the loss is lower there by more than this fraction of the terms that cancel.
_BLUR = 1e-12
#: Largest binary exponents of factors for a gradient (float64, float32).
_MOST, _MOST_SINGLE = 1000, 120


class LineSearch(NamedTuple):
    """Exact line search with steps in (0, ``max_step``], and its scratch memory.

    ``powers`` is a table of matrices for the coefficients ξᵃ, 1 ≤ a ≤ i, of the products of the first i
    factors of each chain, 2 ≤ i ≤ its length, the left chain's before the right one's.  ``entries``
    (N, S) holds the coefficients ξ, ξ², … of W on the support, ``coefficients`` (N, m) holds c_1, c_2, …, in
    the memory of ``entries`` where A is the identity there; ``gram`` (N + 1, N + 1) takes inner products, and
    ``ladder`` (2N + 4, 2N + 2) derivatives, roots, brackets and the loss itself.
    """

    max_step: float
    powers: Table
    entries: np.ndarray
    coefficients: np.ndarray
    gram: np.ndarray
    ladder: np.ndarray


@kernel
def powers_of_chain(count):
    """Matrices in ``powers`` for a chain of so many factors: Σ i over 2 ≤ i ≤ count."""
    return count * (count + 1) // 2 - 1


@kernel
def _power(factors, grads, prefixes, powers, base, first, i, a):
    """The coefficient of ξᵃ in (M₁ + ξ G₁) … (M_i + ξ G_i), for the chain that begins at ``first``."""
    if a == 0:
        return chain_end(factors, prefixes, first, i)
    if i == 1:
        return place(grads, first)
    return place(powers, base + i * (i - 1) // 2 + a - 2)


@kernel
def _expand_chain(factors, grads, prefixes, powers, base, first, count, like):
    """Fill ``powers`` with the coefficients of the product of a chain moved by ξ along its gradient."""
    for i in range(2, count + 1):
        factor, gradient = place(factors, first + i - 1), place(grads, first + i - 1)
        for a in range(1, i + 1):
            out = _power(factors, grads, prefixes, powers, base, first, i, a)
            shorter = _power(factors, grads, prefixes, powers, base, first, i - 1, a - 1)
            multiply(shorter, False, gradient, False, 1.0, 0.0, out, like)
            if a < i:
                same = _power(factors, grads, prefixes, powers, base, first, i - 1, a)
                multiply(same, False, factor, False, 1.0, 1.0, out, like)


@implements("expand", Chains)
def _expand(at, support, factors, grads, powers, entries, cancel):
    # With L(ξ) = Σ_a ξᵃ X_a and R(ξ) = Σ_b ξᵇ Y_b the coefficient ξᵗ of W is Σ_{a + b = t} X_a Y_bᵀ.
    m = at[0]
    left, right, prefixes = m.left, m.right, m.prefixes
    base = powers_of_chain(left)
    _expand_chain(factors, grads, prefixes, powers, 0, 0, left, m.w)
    _expand_chain(factors, grads, prefixes, powers, base, left, right, m.w)
    both = min(left, right)
    for k in range(both):  # three of the products at once: (k, k + 1), (k + 1, k) and (k + 1, k + 1)
        x = _power(factors, grads, prefixes, powers, 0, 0, left, k)
        y = _power(factors, grads, prefixes, powers, base, left, right, k)
        next_x = _power(factors, grads, prefixes, powers, 0, 0, left, k + 1)
        next_y = _power(factors, grads, prefixes, powers, base, left, right, k + 1)
        look_along(support, x, y, next_x, next_y, entries[2 * k], entries[2 * k + 1], cancel)
    for t in range(1, left + right + 1):
        is_added = t <= 2 * both
        for a in range(max(0, t - right), min(t, left) + 1):
            if abs(2 * a - t) > 1 or max(a, t - a) > both:
                x = _power(factors, grads, prefixes, powers, 0, 0, left, a)
                y = _power(factors, grads, prefixes, powers, base, left, right, t - a)
                look(support, x, y, entries[t - 1], is_added, cancel)
                is_added = True
    return left + right


@kernel
def _inner(x, y):
    """⟨x, y⟩ accumulated in float64."""
    total = 0.0
    for e in range(x.size):
        total += np.float64(x[e]) * np.float64(y[e])
    return total


@kernel
def _inner_of_three(x, y, z):
    """⟨x, x⟩, ⟨y, x⟩, ⟨y, y⟩, ⟨z, x⟩, ⟨z, y⟩ and ⟨z, z⟩ in one pass."""
    xx, yx, yy, zx, zy, zz = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for e in range(x.size):
        a, b, c = np.float64(x[e]), np.float64(y[e]), np.float64(z[e])
        xx, yx, yy = xx + a * a, yx + b * a, yy + b * b
        zx, zy, zz = zx + c * a, zy + c * b, zz + c * c
    return xx, yx, yy, zx, zy, zz


@kernel
def _root(x, k):
    """The k-th root of a number that is not negative: by square roots, which are fast, as far as they go."""
    while k % 2 == 0:
        x, k = math.sqrt(x), k // 2
    return x if k == 1 else x ** (1.0 / k)


@kernel
def _horner(coefficients, degree, x):
    value = 0.0
    for d in range(degree, -1, -1):
        value = value * x + coefficients[d]
    return value


@kernel
def _root_between(coefficients, slopes, degree, low, high, at_low, at_high):
    """The root of a polynomial between two points where its signs differ: Newton inside a bracket.

    It starts where the secant meets zero, which is near the root if the polynomial is nearly a line there.
    """
    rising = at_low < 0.0
    x = low - at_low * (high - low) / (at_high - at_low)
    if not low < x < high:
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
def _positive_roots_of_quadratic(c, degree, bound, roots):
    """All sign changes in (0, bound) of c_0 + c_1 x + c_2 x², of degree at most 2, ascending in ``roots``."""
    if degree == 0:
        return 0
    if degree == 1:
        roots[0] = -c[0] / c[1]
        return 1 if 0.0 < roots[0] < bound else 0
    discriminant = c[1] * c[1] - 4.0 * c[0] * c[2]
    if not discriminant > 0.0:
        return 0
    q = -0.5 * (c[1] + math.copysign(math.sqrt(discriminant), c[1]))  # without cancellation
    found = 0
    for x in (min(q / c[2], c[0] / q), max(q / c[2], c[0] / q)):
        if 0.0 < x < bound:
            roots[found] = x
            found += 1
    return found


@kernel
def positive_roots(ladder, degree, bound, roots, brackets):
    """All sign changes in (0, bound) of the polynomial in ``ladder[0]``, ascending in ``roots``.

    ``ladder[k]`` is filled with the k-th derivative.  Between neighbouring roots of a derivative the
    polynomial is monotone, so climbing from the quadratic derivative upward finds every root.
    """
    for k in range(1, degree + 1):
        for d in range(degree - k + 1):
            ladder[k, d] = ladder[k - 1, d + 1] * (d + 1)
    start = max(degree - 2, 0)
    found = _positive_roots_of_quadratic(ladder[start], degree - start, bound, roots)
    for k in range(start - 1, -1, -1):
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
                roots[found] = _root_between(ladder[k], ladder[k + 1], degree - k, low, high, at_low, at_high)
                found += 1
    return found


@kernel
def minimizing_step(loss, degree, max_step, ladder):
    """The global minimizer over 0 < η ≤ max_step of the polynomial Σ_d loss[d] ηᵈ, 0 if it never falls.

    Of points that rounding does not tell apart it is the nearest: far out huge terms cancel, which they no
    longer do when the factors are there.  ``loss`` is overwritten; ``ladder`` has at least degree + 3 rows of
    degree + 2 numbers.
    """
    while degree > 0 and loss[degree] == 0.0:
        degree -= 1
    if degree == 0 or loss[0] <= 0.0:
        return 0.0
    # In units where the constant and the leading coefficient are equal, all coefficients are tame.
    unit = _root(loss[0] / abs(loss[degree]), degree)
    power = 1.0 / loss[0]
    for d in range(degree + 1):
        loss[d] *= power
        power *= unit
    derivative = ladder[0]
    for d in range(degree):
        derivative[d] = loss[d + 1] * (d + 1)
    # All roots of q lie below 2 max_k |q_{top − k} / q_top|^(1/k) (Fujiwara 1916).
    top = degree - 1
    bound = 0.0
    for k in range(1, top + 1):
        bound = max(bound, _root(abs(derivative[top - k] / derivative[top]), k))
    bound = min(2.0 * bound, max_step / unit)
    roots, brackets = ladder[degree + 1], ladder[degree + 2]
    found = positive_roots(ladder, degree - 1, bound, roots, brackets)
    # Compared without the constant: near a saddle the loss falls by less than a rounding of itself.
    loss[0] = 0.0
    best, best_fall = 0.0, 0.0
    roots[found] = bound
    sizes = ladder[0]
    for d in range(degree + 1):
        sizes[d] = abs(loss[d])
    for i in range(found + 1):
        value = _horner(loss, degree, roots[i])
        if value < best_fall - _BLUR * _horner(sizes, degree, roots[i]):
            best, best_fall = roots[i], value
    return best * unit


@kernel
def _degree_that_counts(gram, degree):
    """The degree without leading coefficients that are nothing beside the others at any sensible step.

    Near a fit ⟨c_N, c_N⟩ may underflow while ⟨c_N, c_s⟩ does not; what is left of the polynomial would
    then be unbounded below.  Without c_N altogether it is a sum of squares again.
    """
    size = np.log(gram[0, 0])
    unit = size - np.log(gram[1, 1])  # log of the square of the step ‖c_0‖ / ‖c_1‖
    while degree > 1 and np.log(gram[degree, degree]) + degree * unit < size + _NOTHING:
        degree -= 1
    return degree


@kernel
def _gram(c, r, scale, degree, gram):
    """gram[s, t] = ⟨c_s, c_t⟩ for s ≥ t, with c_0 = r / scale."""
    if degree == 2:
        rr, gram[1, 0], gram[1, 1], gram[2, 0], gram[2, 1], gram[2, 2] = _inner_of_three(r, c[0], c[1])
        gram[0, 0], gram[1, 0], gram[2, 0] = rr / scale**2, gram[1, 0] / scale, gram[2, 0] / scale
        return
    gram[0, 0] = _inner(r, r) / scale**2
    for s in range(1, degree + 1):
        gram[s, 0] = _inner(c[s - 1], r) / scale
        for t in range(1, s + 1):
            gram[s, t] = _inner(c[s - 1], c[t - 1])


@kernel
def normalize(grads, squared, like):
    """Bring a gradient to a norm of about 1, by a factor that changes no digit of it and is returned.

    Powers of a small gradient underflow, long before their products with powers of the step do.
    """
    if not 0.0 < squared < np.inf:
        return 1.0
    most = _MOST if like.itemsize == 8 else _MOST_SINGLE
    factor = math.ldexp(1.0, min(most, max(-most, -math.frexp(math.sqrt(squared))[1])))
    for j in range(grads.count):
        g = flat(grads, j, like)
        for i in range(g.size):
            g[i] *= like.dtype.type(factor)
    return factor


@kernel
def exact_step(rule, model, support, operator, factors, grads, unit, cancel):
    """The step that minimizes the loss along ``grads``, the gradient times ``unit``."""
    c, gram = rule.coefficients, rule.gram
    degree = expand(model, support, factors, grads, rule.powers, rule.entries, cancel)
    for t in range(degree):
        measure(operator, rule.entries[t], c[t], operator.work, cancel)
    # What the residual was multiplied by is the scale in the precision of the run.
    _gram(c, operator.r, np.float64(operator.r.dtype.type(operator.scale)), degree, gram)
    degree = _degree_that_counts(gram, degree)
    loss = rule.ladder[2 * degree + 3]
    for d in range(loss.size):
        loss[d] = 0.0
    for s in range(degree + 1):
        loss[2 * s] += gram[s, s]
        for t in range(s):
            loss[s + t] += 2.0 * gram[s, t]
    for d in range(1, 2 * degree + 1, 2):
        loss[d] = -loss[d]  # ξ = −η
    return minimizing_step(loss, 2 * degree, rule.max_step / unit, rule.ladder)
