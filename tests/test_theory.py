"""Closed forms of the flow on commuting measurements, against decimals, brute force and the engine."""

import subprocess
import sys
from decimal import Decimal, localcontext
from itertools import pairwise

import numpy as np
import pytest
import scipy.integrate

import fastdmf as dmf
from fastdmf.theory import (
    commuting_limit,
    commuting_trajectory,
    minimum_trace,
    proposition_1,
    single_measurement,
)

SCALES = {"mean": lambda m: 2 / m, "half_sum": lambda m: 1.0, "half_mean": lambda m: 1 / m}


def instance(m=2, d=6, seed=0):
    """Measurements of a matrix with more positive eigenvalues than measurements."""
    rng = np.random.default_rng(seed)
    a, x = rng.standard_normal((m, d)), np.zeros(d)
    x[: m + 1] = rng.uniform(0.5, 2, m + 1)
    return a, a @ x


# --- limits ---------------------------------------------------------------------------------------------


def limit_in_decimals(a, y, alpha, depth):
    """The minimizer of Σ x log(x/α²) − x, or Σ x − (N/2) α^(N−2) x^(2/N), over a x = y, for two measurements.

    Newton's method on the dual, halving steps that leave the domain or overshoot, in 60 digits.
    """
    with localcontext() as context:
        context.prec = 60
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

        nu, x = [Decimal(0)] * 2, primal([Decimal(0)] * 2)
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


@pytest.mark.parametrize("depth", [2, 2.25, 3, 4])
@pytest.mark.parametrize("alpha", [1.5, 0.1, 1e-3, 1e-6])
def test_limits_are_exact_to_rounding(depth, alpha):
    a, y = instance()
    x = commuting_limit(a, y, alpha, depth)
    exact = limit_in_decimals(a, y, alpha, depth)
    assert np.max(np.abs(x - exact)) < 2e-15 * np.max(exact)
    np.testing.assert_allclose(x, exact, rtol=1e-13)  # even eigenvalues of 1e-40


@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize("alpha", [0.1, 1e-3, 1e-5])
def test_limits_of_values_of_different_size_and_of_few_eigenvalues(depth, alpha):
    a, y = np.array([[1, 0, 0.5], [0, 1, 0.5]]), np.array([1.0, 1e-8])
    exact = limit_in_decimals(a, y, alpha, depth)
    np.testing.assert_allclose(commuting_limit(a, y, alpha, depth), exact, rtol=1e-12)
    a, _ = instance()
    y = a[:, 0] * 1.0  # one eigenvalue for two measurements
    exact = limit_in_decimals(a, y, alpha, depth)
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


# --- trajectories ---------------------------------------------------------------------------------------


def brute_force(a, y, alpha, depth, times, rate):
    """Eigenvalues from x' = −rate · (aᵀ(a x − y)) x^(2−2/N), in log x but for N = 1."""
    power = 2 - 2 / depth

    def slope(_, z):
        x = z if depth == 1 else np.exp(z)
        return -rate * (a.T @ (a @ x - y)) * (1 if depth == 1 else x ** (power - 1))

    start = np.full(a.shape[1], alpha if depth == 1 else depth * np.log(alpha))
    z = [start]
    for begin, end in pairwise(times):
        found = scipy.integrate.solve_ivp(slope, (begin, end), z[-1], method="DOP853", rtol=3e-14, atol=1e-15)
        z.append(found.y[:, -1])
    return np.array(z) if depth == 1 else np.exp(z)


@pytest.mark.parametrize(
    ("depth", "alpha", "symmetric"),
    [(1, 0.3, False), (2, 0.1, False), (2, 1e-3, True), (2.5, 0.1, False), (3, 0.1, False), (4, 0.2, False)],
)
@pytest.mark.parametrize("loss", ["mean", "half_sum", "half_mean"])
def test_trajectories_are_those_of_brute_force(depth, alpha, symmetric, loss):
    a, y = instance(m=3, d=6, seed=1)
    times = np.array([0.0, 0.5, 2.0, 5.0, 15.0, 40.0])
    x = commuting_trajectory(a, y, alpha, depth, times, loss=loss, symmetric=symmetric)
    rate = SCALES[loss](3) * (4 if symmetric else depth)  # x' = −N g x^(2−2/N), and −4 g x for UUᵀ
    expected = brute_force(a, y, alpha, depth, times, rate)
    assert np.ptp(expected, axis=0).max() > 0.5, "hardly any motion"
    np.testing.assert_allclose(x, expected, rtol=0, atol=1e-11)


def test_trajectories_end_at_limits_and_stay():
    a, y = instance()
    for depth, alpha, symmetric in ((2, 1e-2, True), (3, 1e-2, False), (4, 0.05, False)):
        x = commuting_trajectory(a, y, alpha, depth, [0, 1e4, 1e7], symmetric=symmetric)
        np.testing.assert_allclose(x[0], alpha**depth, rtol=1e-12)
        np.testing.assert_allclose(x[1], commuting_limit(a, y, alpha, depth), atol=2e-13)
        assert np.array_equal(x[1], x[2])


def test_a_trajectory_outside_the_cone_falls_to_the_nearest_point():
    x = commuting_trajectory([[1.0, 2.0]], [-1.0], 0.5, 2, [0, 1, 5], loss="half_sum")
    expected = brute_force(np.array([[1.0, 2.0]]), np.array([-1.0]), 0.5, 2, [0, 1, 5], 2)
    np.testing.assert_allclose(x, expected, atol=1e-13)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"times": [1.0, 0.5]}, r"times\[1\] = 0.5 follows 1.0"),
        ({"times": [-1.0]}, "negative"),
        ({"times": []}, "empty"),
        ({"alpha": 0.0}, "alpha must be a positive number"),
        ({"depth": 1.5}, "depth must be 1 or at least 2, not 1.5"),
        ({"depth": 3, "symmetric": True}, "counts as depth 2"),
        ({"loss": "sum"}, "loss must be one of"),
    ],
)
def test_trajectories_refuse(change, message):
    choices = {"alpha": 0.1, "depth": 2, "times": [1.0]} | change
    with pytest.raises(ValueError, match=message):
        commuting_trajectory([[1.0, 2.0]], [1.0], **choices)


# --- one measurement, and Proposition 1 -----------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2, 2.7, 3, 4])
@pytest.mark.parametrize("value", [1.5, -0.8])
def test_one_measurement_ends_at_the_root_and_conserves(depth, value):
    rho, start = np.array([1.0, 0.7, -0.9, 0.0]), np.array([0.1, 0.3, 0.2, 0.15])
    end = single_measurement(rho, value, start, depth)
    assert rho @ end.end == pytest.approx(value, abs=7e-14)
    assert end.end[3] == pytest.approx(start[3], rel=1e-14), "what is not measured does not move"

    def slope(_, sigma):  # Theorem 3 with ∇ℓ = (ρᵀσ − y) A
        return -depth * np.abs(sigma) ** (2 - 2 / depth) * (rho @ sigma - value) * rho

    path = scipy.integrate.solve_ivp(slope, (0, 400), start, method="DOP853", rtol=3e-14, atol=1e-15)
    np.testing.assert_allclose(end.end, path.y[:, -1], atol=2e-11)
    conserved = end.conserved(path.y.T)
    np.testing.assert_allclose(
        conserved, np.broadcast_to(conserved[0], conserved.shape), rtol=1e-10, atol=1e-11
    )
    np.testing.assert_allclose(end.conserved(end.end), conserved[0], rtol=2e-12, atol=2e-13)


def test_one_measurement_of_a_tiny_start():
    # The larger weight wins, and the rest follows from σ_1^(−1/3) − 2 σ_2^(−1/3) being conserved at N = 3.
    end = single_measurement([2.0, 1.0], 1.0, [1e-12, 1e-12], 3).end
    assert end[1] == pytest.approx((0.5 * (end[0] ** (-1 / 3) + 1e4)) ** -3, rel=1e-13)
    assert 2 * end[0] + end[1] == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.0, 0.0], 1.0, [1.0, 1.0], 2), "nothing is measured"),
        (([1.0, 2.0], 1.0, [1.0], 2), r"start has shape \(1,\)"),
        (([1.0, 2.0], 1.0, [1.0, 0.0], 2), "start holds 0.0"),
        (([1.0, 2.0], -1.0, [1.0, 1.0], 3), "outside the cone"),
        (([1.0], 1.0, [1.0], 1.2), "depth must be 1 or at least 2"),
    ],
)
def test_one_measurement_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        single_measurement(*arguments)


def test_proposition_1():
    instance = proposition_1(5)
    problem, a = instance.problem, instance.eigenvalues
    assert np.array_equal([np.diag(m) for m in problem.matrices], a)
    assert np.array_equal(problem.matrices, problem.matrices * np.eye(5))
    # The certificate: dual feasible, complementary, of equal value.
    assert np.array_equal(instance.slack, 1 - a.T @ instance.dual) and np.all(instance.slack >= 0)
    assert problem.values @ instance.dual == np.trace(instance.limit) == 2
    assert np.array_equal(minimum_trace(a, problem.values).eigenvalues, np.diag(instance.limit))
    for size in (0.01, 0.3, 0.9):
        better = instance.perturbed(size)
        assert np.array_equal(problem.measure(better), problem.values)
        sigma = np.linalg.svd(better, compute_uv=False)
        assert sigma.sum() == pytest.approx(2)
        for p in (0.1, 0.5, 0.9):
            sum_of_powers = np.sum(sigma[:2] ** p)
            assert sum_of_powers == pytest.approx((1 + size) ** p + (1 - size) ** p) and sum_of_powers < 2
    # The third eigenvalue is 64 α³ to leading order for N = 3, and α^½ for N = 2.
    for alpha, d in ((1e-4, 3), (1e-6, 3)):
        a = proposition_1(d).eigenvalues
        assert commuting_limit(a, [1, 1], alpha, 3)[2] == pytest.approx(64 * alpha**3, rel=20 * alpha)
        assert commuting_limit(a, [1, 1], alpha, 2)[2] == pytest.approx(alpha**0.5, rel=alpha**0.5)
    with pytest.raises(ValueError, match="d must be at least 3, not 2"):
        proposition_1(2)


# --- the engine -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factorization", "depth", "basis", "alpha"),
    [
        (dmf.Product(2), 2, "rotated", 0.1),
        (dmf.Symmetric(), 2, "rotated", 0.1),
        (dmf.Product(3), 3, "diagonal", 0.3),
    ],
)
def test_the_engine_follows_and_ends_there(factorization, depth, basis, alpha, device):
    problem = dmf.Sensing.commuting(6, rank=3, measurements=2, basis=basis, seed=4, norm=4.0)
    a, y, q = problem.eigenvalues, problem.values, problem.basis
    symmetric = isinstance(factorization, dmf.Symmetric)
    init = dmf.Identity(product_scale=alpha**depth)
    during = commuting_trajectory(a, y, alpha, depth, [0.5], loss=problem.loss, symmetric=symmetric)[0]
    limit = commuting_limit(a, y, alpha, depth)
    errors = []
    for lr in (2e-3, 1e-3):
        choices = {"factorization": factorization, "init": init, "lr": lr, "seed": 0, "device": device}
        midway = dmf.run(problem, stop=dmf.MaxSteps(round(0.5 / lr)), **choices)
        end = dmf.run(problem, stop=dmf.LossBelow(1e-24) | dmf.MaxSteps(500_000), **choices)
        pairs = ((midway.product, during), (end.product, limit))
        errors.append([np.linalg.norm(q.T @ w @ q - np.diag(x)) for w, x in pairs])
    errors = np.array(errors)
    assert np.all(errors[1] < 5e-3)
    np.testing.assert_allclose(errors[0] / errors[1], 2, rtol=0.05)  # an error proportional to lr


def test_theory_loads_when_asked_for():
    code = "import sys, fastdmf as dmf; assert 'scipy' not in sys.modules; dmf.theory.commuting_limit"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
