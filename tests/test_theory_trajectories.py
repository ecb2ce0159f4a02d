"""Flows on commuting measurements in time, one measurement, Proposition 1: brute force and the engine."""

import subprocess
import sys
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


def instance(m):
    """Eigenvalues and values of measurements of a matrix with more positive eigenvalues than there are."""
    problem = dmf.Sensing.commuting(6, rank=m + 1, measurements=m, seed=4, norm=3.0)
    return problem.eigenvalues, problem.values


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
    a, y = instance(3)
    times = np.array([0.0, 0.5, 2.0, 5.0, 15.0, 40.0])
    x = commuting_trajectory(a, y, alpha, depth, times, loss=loss, symmetric=symmetric)
    rate = SCALES[loss](3) * (4 if symmetric else depth)  # x' = −N g x^(2−2/N), and −4 g x for UUᵀ
    expected = brute_force(a, y, alpha, depth, times, rate)
    assert np.ptp(expected, axis=0).max() > 0.5, "hardly any motion"
    np.testing.assert_allclose(x, expected, rtol=0, atol=1e-11)


def test_trajectories_end_at_limits_and_stay():
    a, y = instance(2)
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
