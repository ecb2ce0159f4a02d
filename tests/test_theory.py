"""Limits of flows on commuting measurements, against decimals, optimality and linear programs."""

from decimal import Decimal, localcontext

import numpy as np
import pytest

from fastdmf.theory import commuting_limit, minimum_trace


def instance(m=2, d=6, seed=0):
    """Measurements of a matrix with more positive eigenvalues than measurements."""
    rng = np.random.default_rng(seed)
    a, x = rng.standard_normal((m, d)), np.zeros(d)
    x[: m + 1] = rng.uniform(0.5, 2, m + 1)
    return a, a @ x


def limit_in_decimals(a, y, alpha, depth, guess):
    """The minimizer of Σ x log(x/α²) − x, or Σ x − (N/2) α^(N−2) x^(2/N), over a x = y, for two measurements.

    Newton's method on the dual, halving steps that leave the domain or overshoot, in 150 digits.
    """
    with localcontext() as context:
        context.prec = 150
        a = [[Decimal(float(v)) for v in row] for row in a]
        y = [Decimal(float(v)) for v in y]
        alpha, n = Decimal(float(alpha)), Decimal(float(depth))

        def primal(nu):
            u = [p * nu[0] + q * nu[1] for p, q in zip(*a, strict=True)]
            if n == 2:
                return [alpha**2 * v.exp() for v in u] if max(u) < 1000 else None
            p = [alpha ** (2 - n) - v for v in u]
            return [v ** (-n / (n - 2)) for v in p] if min(p) > 0 else None

        def dual(nu, x):
            weight = 1 if n == 2 else (n - 2) / 2
            return sum(weight * v ** (2 / n) for v in x) - y[0] * nu[0] - y[1] * nu[1]

        # Newton starts where the two largest eigenvalues would be those of the library: the dual is strictly
        # convex, so wherever it starts there is one root, and it is that to 40 digits.
        i, j = np.argsort(guess)[-2:]
        largest = [Decimal(float(guess[k])) for k in (i, j)]
        u = [(v / alpha**2).ln() if n == 2 else alpha ** (2 - n) - v ** (-(n - 2) / n) for v in largest]
        det = a[0][i] * a[1][j] - a[0][j] * a[1][i]
        nu = [(u[0] * a[1][j] - u[1] * a[1][i]) / det, (a[0][i] * u[1] - a[0][j] * u[0]) / det]
        x = primal(nu)
        for _ in range(400):
            g = [sum(p * v for p, v in zip(row, x, strict=True)) - z for row, z in zip(a, y, strict=True)]
            if max(abs(g[0]), abs(g[1])) < Decimal("1e-40"):
                return np.array([float(v) for v in x])
            curve = [v if n == 2 else n / (n - 2) * v ** (2 - 2 / n) for v in x]
            (h00, h01, h11) = (
                sum(a[i][k] * a[j][k] * c for k, c in enumerate(curve)) for i, j in ((0, 0), (0, 1), (1, 1))
            )
            det = h00 * h11 - h01 * h01
            step = [(-h11 * g[0] + h01 * g[1]) / det, (h01 * g[0] - h00 * g[1]) / det]
            before, slope = dual(nu, x), g[0] * step[0] + g[1] * step[1]
            while True:
                to = [nu[0] + step[0], nu[1] + step[1]]
                x_to = primal(to)
                if x_to is not None and dual(to, x_to) <= before + slope / 10000:
                    break
                step, slope = [s / 2 for s in step], slope / 2
            nu, x = to, x_to
    raise AssertionError("the decimals did not converge")


@pytest.mark.parametrize("depth", [2, 2.5, 3, 4, 7])
@pytest.mark.parametrize("alpha", [1.5, 0.1, 1e-3, 1e-6])
def test_limits_are_exact_to_rounding(depth, alpha):
    a, y = instance()
    x = commuting_limit(a, y, alpha, depth)
    exact = limit_in_decimals(a, y, alpha, depth, commuting_limit(a, y, alpha, depth))
    assert np.max(np.abs(x - exact)) < 2e-15 * np.max(exact)
    np.testing.assert_allclose(x, exact, rtol=1e-13)  # even eigenvalues of 1e-40


@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize("alpha", [0.1, 1e-3, 1e-5])
def test_limits_of_values_of_different_size_and_of_few_eigenvalues(depth, alpha):
    a, y = np.array([[1, 0, 0.5], [0, 1, 0.5]]), np.array([1.0, 1e-8])
    exact = limit_in_decimals(a, y, alpha, depth, commuting_limit(a, y, alpha, depth))
    np.testing.assert_allclose(commuting_limit(a, y, alpha, depth), exact, rtol=1e-12)
    a, _ = instance()
    y = a[:, 0] * 1.0  # one eigenvalue for two measurements
    exact = limit_in_decimals(a, y, alpha, depth, commuting_limit(a, y, alpha, depth))
    assert np.max(np.abs(commuting_limit(a, y, alpha, depth) - exact)) < 4e-15


def test_the_paper_s_optimality_conditions():
    """x is feasible, and its dual coordinates lie in v(0) − range(aᵀ), for more than two measurements."""
    a, y = instance(m=7, d=20, seed=3)
    for alpha in (0.1, 1e-2):
        for depth in (2, 3, 5):
            x = commuting_limit(a, y, alpha, depth)
            assert np.max(np.abs(a @ x - y)) < 1e-13
            if depth == 2:
                u = np.log(x / alpha**2)
            else:
                u = alpha ** (2.0 - depth) - x ** (-(depth - 2) / depth)
            nu = np.linalg.lstsq(a.T, u)[0]
            np.testing.assert_allclose(a.T @ nu, u, atol=1e-10 * np.max(np.abs(u)))


def test_limits_depend_continuously_on_depth_at_two():
    a, y = instance()
    for alpha in (0.1, 1e-3):
        at_two = commuting_limit(a, y, alpha, 2)
        gaps = [np.max(np.abs(commuting_limit(a, y, alpha, 2 + h) - at_two)) for h in (1e-4, 1e-5, 1e-10)]
        assert gaps[0] / gaps[1] == pytest.approx(10, rel=0.01) and gaps[2] < 1e-8


def test_limits_scale_with_values_and_measurements():
    # x → κ x for y → κ y and α^N → κ α^N; rows may be measured in any unit.
    a, y = instance()
    for depth in (2, 3, 4):
        x = commuting_limit(a, y, 0.05, depth)
        for kappa in (1e-7, 1e7):
            scaled = commuting_limit(a, kappa * y, 0.05 * kappa ** (1 / depth), depth)
            np.testing.assert_allclose(scaled, kappa * x, rtol=1e-12)
        units = np.array([1e-6, 1e6])
        np.testing.assert_allclose(commuting_limit(a * units[:, None], y * units, 0.05, depth), x, rtol=1e-12)


def test_small_starts_end_at_the_minimum_trace():
    a, y = instance(m=4, d=15, seed=2)
    best = minimum_trace(a, y)
    assert best.unique and np.count_nonzero(best.eigenvalues) == 4
    assert np.all(best.eigenvalues >= 0) and np.max(np.abs(a @ best.eigenvalues - y)) < 1e-13
    assert np.max(a.T @ best.dual) < 1 + 1e-13
    assert y @ best.dual == pytest.approx(best.value, rel=1e-13)
    excess = [commuting_limit(a, y, alpha, 3).sum() / best.value - 1 for alpha in (1e-2, 1e-3, 1e-4)]
    assert excess[0] > excess[1] > excess[2] > 0
    for depth in (2, 3, 4):
        np.testing.assert_allclose(commuting_limit(a, y, 0, depth), best.eigenvalues, atol=1e-12)


def test_among_many_optima_depth_chooses():
    # Optima of min Σ x s.t. x_1 + x_2 + x_3 + x_4/2 = 3, x_2 + 2 x_3 + x_4/10 = 1 are (2 + t, 1 − 2t, t, 0).
    a, y = np.array([[1, 1, 1, 0.5], [0, 1, 2, 0.1]]), np.array([3.0, 1.0])
    best = minimum_trace(a, y)
    assert (
        not best.unique and best.value == pytest.approx(3) and best.support.tolist() == [True] * 3 + [False]
    )
    t = np.linspace(1e-4, 0.5 - 1e-4, 200_001)
    optima = np.stack([2 + t, 1 - 2 * t, t])
    for depth in (2, 3, 4, 7.5):
        score = -np.sum(optima * np.log(optima), 0) if depth == 2 else np.sum(optima ** (2 / depth), 0)
        expected = optima[:, np.argmax(score)]
        chosen = commuting_limit(a, y, 0, depth)
        np.testing.assert_allclose(chosen[:3], expected, atol=1e-5)
        assert chosen[3] == 0
        np.testing.assert_allclose(commuting_limit(a, y, 1e-10, depth), chosen, atol=1e-5)


def test_limits_on_the_boundary_of_the_cone():
    assert commuting_limit([[1, 2]], [0.0], 0.1, 3).tolist() == [0, 0]
    x = commuting_limit([[1, 0, 0.5], [0, 1, 0.5]], [1.0, 0.0], 0.1, 2)
    assert x.tolist() == [1, 0, 0]
    # y = 0 with positive solutions: x_1² x_2 is conserved for a = (1, −2).
    x = commuting_limit([[1, -2]], [0.0], 0.1, 2)
    np.testing.assert_allclose(x, np.array([2, 1]) * (1e-6 / 4) ** (1 / 3), rtol=1e-13)
    assert commuting_limit([[0, 0]], [0.0], 0.1, 2).tolist() == pytest.approx([0.01, 0.01])


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_limits_with_fewer_eigenvalues_than_measurements(depth):
    rng = np.random.default_rng(1)
    a = rng.standard_normal((4, 12))
    y = a[:, 0] + 2 * a[:, 5]
    for alpha in (0.1, 1e-2, 1e-4, 1e-8):
        x = commuting_limit(a, y, alpha, depth)
        assert np.max(np.abs(a @ x - y)) < 1e-13


def test_values_that_rounding_put_beside_the_cone_are_on_it():
    rng = np.random.default_rng(5)
    for _ in range(20):
        a = rng.standard_normal((4, 5))
        y = 1.3 * a[:, 0]  # an edge of the cone, or nearly
        x = commuting_limit(a, y, 1e-3, 2.5)
        assert np.max(np.abs(a @ x - y)) < 1e-12


def test_dependent_measurements_count_once():
    a, y = instance()
    both = commuting_limit(np.vstack([a, a[0] - 3 * a[1]]), np.append(y, y[0] - 3 * y[1]), 0.1, 3)
    np.testing.assert_allclose(both, commuting_limit(a, y, 0.1, 3), rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[1, 2]], [-1.0], 0.1, 3), "outside the cone"),
        (([[1, 2]], [-1.0], 0, 3), "outside the cone"),
        (([[1, 2], [2, 4]], [1.0, 2.5], 0.1, 3), "outside the cone"),
        (([[1, 2], [2, 4]], [1.0, 2 + 2e-8], 0.1, 3), "outside the cone|contradict"),
        (([[1, 2]], [1.0, 2.0], 0.1, 3), "1 rows of eigenvalues, but 2 values"),
        (([1, 2], [1.0], 0.1, 3), "2 dimension"),
        ((np.zeros((0, 2)), [], 0.1, 3), "empty"),
        (([[1, np.nan]], [1.0], 0.1, 3), "nan"),
        (([[1, 2]], [1.0], -0.1, 3), "alpha must be a non-negative number, not -0.1"),
        (([[1, 2]], [1.0], 0.1, 1.5), "depth must be at least 2, not 1.5"),
        (([[1, 2]], [1.0], 0.1, np.inf), "depth"),
        (([[1, 2]], [1.0], 1e-8, 50), "too small for depth 50"),
    ],
)
def test_limits_refuse(arguments, message):
    with pytest.raises(ValueError, match=message):
        commuting_limit(*arguments)


def test_types_are_refused():
    with pytest.raises(TypeError, match="alpha must be a number"):
        commuting_limit([[1.0]], [1.0], "small", 2)
    with pytest.raises(TypeError, match="eigenvalues must hold real numbers"):
        commuting_limit([[1j]], [1.0], 0.1, 2)
