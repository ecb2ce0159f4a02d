"""Closed form of an eigenvalue x of the product along the flow, for every real depth N ≥ 2, and N = 1.

With commuting measurements x' = −N g x^(2−2/N), where g is the matching eigenvalue of ∇ℓ(W) (Theorem 1 of
Gunasekar et al. 2017, Theorem 2 and equation (11) of Arora et al. 2019).  In the coordinate

    v = (x^(−(N−2)/N) − 1)/(N − 2),    for N = 2: v = −½ log x,

this reads v' = g.  All modes then move in step with the residual, whatever N: v(t) = v(0) − c Σ_i s_i a_i
with s = ∫ (y − A(W)) dt.  The usual power p = x^(−(N−2)/N) is 1 + (N − 2) v; v has a limit at N = 2.
"""

import numpy as np

from fastdmf._checks import Array, positive


def real_depth(depth: object, least: float = 2.0) -> float:
    """``depth`` as a finite real number of at least ``least``."""
    number = positive("depth", depth)
    if number < least:
        raise ValueError(f"depth must be at least {least:g}, not {depth!r}")
    return number


def coordinate(x: Array, depth: float) -> Array:
    """The coordinate v of eigenvalues x > 0 (of any x for N = 1)."""
    if depth == 1:
        return 1.0 - x
    if depth == 2:
        return -0.5 * np.log(x)
    return np.expm1(-(depth - 2) / depth * np.log(x)) / (depth - 2)


def eigenvalue(v: Array, depth: float) -> Array:
    """The eigenvalue x with coordinate v; NaN where 1 + (N − 2) v < 0, which no eigenvalue has."""
    if depth == 1:
        return 1.0 - v
    if depth == 2:
        return np.exp(-2.0 * v)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.exp(-depth * np.log1p((depth - 2) * v) / (depth - 2))


def speed(x: Array, depth: float) -> Array:
    """−dx/dv = N x^(2−2/N), how fast an eigenvalue x moves per unit of −g."""
    return depth * x ** (2.0 - 2.0 / depth)
