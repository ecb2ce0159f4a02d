"""The finite-start limit of commuting flows as a convex program, solved to rounding.

Along the flow the coordinates v of :mod:`fastdmf.theory.closed_form` stay in v(0) − aᵀν, ν ∈ R^m.  The limit
is the point of that family with a x = y, which minimizes the strictly convex dual

    D(ν) = ½ Σ_k x_k^(2/N) − yᵀν,    x = x(v(0) − aᵀν),    ∇D = a x − y,    ∇²D = a diag(N x^(2−2/N)) aᵀ.

Small starts have v(0) up to α^−(N−2), and the v of the leading eigenvalues are what is left of it after
cancellation.  So ν is kept in fixed point with hundreds of bits, and v(0) − aᵀν is rounded only once.
"""

import math
from typing import Any

import numpy as np
import scipy.linalg

from fastdmf._checks import Array
from fastdmf.theory.closed_form import eigenvalue, speed

#: Steps taken once the misfit is down to rounding: Newton's last ones square the error.
POLISH = 3
#: Eigenvalues this small, relative to the largest, do not show in the misfit.
NEGLIGIBLE = 1e-17
#: Bits behind the point of ν.
FRACTION = 160


class Offsets:
    """The map ν ↦ v(0) − aᵀν in exact arithmetic, at one ν.

    Parameters
    ----------
    a : (m, d) ndarray
        Eigenvalues of the measurements.
    start : (d,) ndarray
        v(0).
    """

    def __init__(self, a: Array, start: Array) -> None:
        exponents = np.frexp(a[a != 0])[1]
        self._scale = max(0, 53 - int(exponents.min(initial=53)))  # a · 2^scale are integers
        self._a: Any = _fixed(a, self._scale)
        self._start: Any = _fixed(start, self._scale + FRACTION)
        self._nu: Any = _fixed(np.zeros(len(a)), FRACTION)

    @property
    def nu(self) -> Array:
        """ν, rounded."""
        return self._rounded(self._nu, FRACTION)

    def at(self, step: Array) -> Array:
        """v(0) − aᵀ(ν + step), (d,), each rounded once."""
        exact = self._start - self._a.T @ (self._nu + _fixed(step, FRACTION))
        return self._rounded(exact, self._scale + FRACTION)

    def move(self, step: Array) -> None:
        """Go to ν + step."""
        self._nu = self._nu + _fixed(step, FRACTION)

    @staticmethod
    def _rounded(numbers: Any, bits: int) -> Array:
        return np.array([int(number) / (1 << bits) for number in numbers])


def _fixed(array: Array, bits: int) -> Any:
    """Integers ⌊array · 2^bits⌋, as an array of Python's unbounded ones."""

    def integer(value: float) -> int:
        above, below = float(value).as_integer_ratio()
        return (above << bits) // below

    return np.vectorize(integer, otypes=[object])(array)


def descend(offsets: Offsets, a: Array, y: Array, depth: float, max_steps: int = 1000) -> Array:
    """Minimize the dual by damped Newton steps from where ``offsets`` is, and return x, (d,).

    The rows of a must be independent, y = a x for some x > 0, and every start coordinate inside the domain.
    Values should be of order one.  Ends a few steps after the misfit came down to rounding.
    """
    v = offsets.at(np.zeros(len(a)))
    x = eigenvalue(v, depth)
    spare = POLISH
    for _ in range(max_steps):
        misfit = y - a @ x
        if np.all(np.abs(misfit) <= 4.0 * np.finfo(float).eps * (np.abs(a) @ x + np.abs(y))):
            spare -= 1
        step, decrement = _newton_step(a, x, misfit, depth)
        length = _reach(v, a.T @ step, depth)
        potential = 0.5 * x ** (2.0 / depth)  # its derivative in v is −x
        while True:
            v_new = offsets.at(length * step)
            with np.errstate(over="ignore"):  # of steps that are too long
                x_new = eigenvalue(v_new, depth)
                # D(ν + step) − D(ν) = bend − length · decrement, each without the cancellation of yᵀν
                bend = float(np.sum(0.5 * x_new ** (2.0 / depth) - potential + x * (v_new - v)))
            small = decrement < 1e-12 * float(potential.sum())  # bend is rounding
            if bend <= 0.9999 * length * decrement or (small and math.isfinite(bend)):
                break
            length *= 0.5
        offsets.move(length * step)
        v, x = v_new, x_new
        if spare == 0:
            break
    return x


def _newton_step(a: Array, x: Array, misfit: Array, depth: float) -> tuple[Array, float]:
    """H⁻¹ misfit and misfitᵀ H⁻¹ misfit, with H = a diag(N x^(2−2/N)) aᵀ, whose weights span many decades.

    Householder QR is accurate row by row if the large rows come first, so H is not formed.  Directions in
    which only eigenvalues below rounding would move are left out: steps along them are huge, errors too.
    """
    weights = speed(x, depth)
    order = np.argsort(-weights)
    rows = np.sqrt(weights[order])[:, None] * a[:, order].T
    r, columns = pivoted_qr(rows)
    pivots = np.abs(np.diag(r))
    rank = int(np.count_nonzero(pivots > NEGLIGIBLE ** (1.0 - 1.0 / depth) * pivots[0]))
    columns, r = columns[:rank], r[:rank, :rank]
    inner = scipy.linalg.solve_triangular(r, misfit[columns], trans=1, check_finite=False)
    step = np.zeros_like(misfit)
    step[columns] = scipy.linalg.solve_triangular(r, inner, check_finite=False)
    return step, float(inner @ inner)


def pivoted_qr(matrix: Array) -> tuple[Array, Array]:
    """R and the order of columns of a pivoted QR decomposition."""
    decomposition: Any = scipy.linalg.qr(matrix, mode="economic", pivoting=True)
    return decomposition[1], decomposition[2]


def _reach(v: Array, fall: Array, depth: float) -> float:
    """A first step length: 1, or less where v − fall would leave the domain, or x = e^(−2v) explode."""
    room = 50.0 if depth == 2 else 0.99 * (1.0 / (depth - 2) + v)
    with np.errstate(divide="ignore", invalid="ignore"):
        reach = np.where(fall > 0, room / fall, np.inf)
    return min(1.0, float(reach.min()))
