"""Rates of products, singular values and vectors, paths through crossings, and how trajectories are left."""

from functools import reduce
from itertools import pairwise

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg

import fastdmf as dmf
from fastdmf.theory import (
    balanced_rate,
    commuting_instability,
    commuting_limit,
    commuting_trajectory,
    coupling,
    product_flow,
    product_rate,
    singular_paths,
    singular_value_rates,
    singular_vector_rates,
)
from tests import naive


def orthogonal(rng, n):
    return np.linalg.qr(rng.standard_normal((n, n)))[0]


def balanced(rng, depth, n, p, width=None):
    """Balanced factors of an n × p matrix with well separated singular values, and that matrix's gradient."""
    k = width or min(n, p)
    inner = [orthogonal(rng, k) for _ in range(depth - 1)]
    ends = [orthogonal(rng, p)[:, :k], *inner, orthogonal(rng, n)[:, :k]]
    sigma = np.diag(np.linspace(0.5, 2, k) ** (1 / depth))
    factors = [up @ sigma @ down.T for down, up in pairwise(ends)]
    return factors, rng.standard_normal((n, p))


def rate_by_differences(factors, g):
    """Ẇ = Σ_j W_N ⋯ Ẇ_j ⋯ W_1 by the complex step along Ẇ_j = −∂ℓ/∂W_j, for ℓ(W) = ⟨G, W⟩."""
    directions = []
    for j in range(len(factors)):
        above = reduce(lambda w, f: f @ w, factors[j + 1 :], np.eye(factors[j].shape[0]))
        below = reduce(lambda w, f: f @ w, factors[:j], np.eye(factors[0].shape[1]))
        directions.append(-above.T @ g @ below.T)
    moved = [f + 1e-30j * d for f, d in zip(factors, directions, strict=True)]
    return reduce(lambda w, f: f @ w, moved).imag / 1e-30


SHAPES = [(1, 5, 4), (2, 4, 4), (3, 4, 6), (4, 6, 4)]


@pytest.mark.parametrize(("depth", "n", "p"), SHAPES)
def test_rates_of_balanced_products(depth, n, p):
    factors, g = balanced(np.random.default_rng(depth), depth, n, p)
    w = reduce(lambda w, f: f @ w, factors)
    rate = rate_by_differences(factors, g)
    np.testing.assert_allclose(product_rate(factors, g), rate, atol=1e-13)
    np.testing.assert_allclose(balanced_rate(w, g, depth), rate, atol=1e-13)  # Lemma 3
    u, sigma, vt = np.linalg.svd(w, full_matrices=False)
    projected = u.T @ rate @ vt.T
    np.testing.assert_allclose(singular_value_rates(factors, g), np.diag(projected), atol=1e-13)  # Theorem 3
    k = coupling(sigma, sigma, depth)
    np.testing.assert_allclose(projected, -k * (u.T @ g @ vt.T), atol=1e-13)  # behind Corollary 1


@pytest.mark.parametrize(("depth", "n", "p"), SHAPES)
def test_rates_of_singular_vectors(depth, n, p):
    """Lemma 2: W = U S Vᵀ gives Ẇ = U̇SVᵀ + UṠVᵀ + USV̇ᵀ, where UᵀU̇ and VᵀV̇ are skew."""
    factors, g = balanced(np.random.default_rng(10 + depth), depth, n, p)
    u_rate, v_rate = singular_vector_rates(factors, g)
    u, sigma, vt = np.linalg.svd(reduce(lambda w, f: f @ w, factors), full_matrices=False)
    s = np.diag(sigma)
    total = u_rate @ s @ vt + u @ np.diag(singular_value_rates(factors, g)) @ vt + u @ s @ v_rate.T
    np.testing.assert_allclose(total, rate_by_differences(factors, g), atol=2e-12)
    for basis, rate in ((u, u_rate), (vt.T, v_rate)):
        np.testing.assert_allclose(basis.T @ rate + rate.T @ basis, 0, atol=1e-12)


def test_rates_of_symmetric_products():
    rng = np.random.default_rng(0)
    u, g = rng.standard_normal((5, 5)), rng.standard_normal((5, 5))
    rate = product_rate([u], g, symmetric=True)
    moved = u - 1e-30j * (g + g.T) @ u
    np.testing.assert_allclose(rate, (moved @ moved.T).imag / 1e-30, atol=1e-12)
    left, sigma, _ = np.linalg.svd(u @ u.T)
    projected = left.T @ rate @ left
    np.testing.assert_allclose(singular_value_rates([u], g, symmetric=True), np.diag(projected), atol=1e-12)
    left_rate, right_rate = singular_vector_rates([u], g, symmetric=True)
    np.testing.assert_allclose(left_rate, right_rate, atol=1e-10)
    turned = left.T @ left_rate
    rebuilt = turned * sigma - sigma[:, None] * turned + np.diag(np.diag(projected))
    np.testing.assert_allclose(rebuilt, projected, atol=1e-11)


def test_unbalanced_factors_deviate():
    rng = np.random.default_rng(0)
    factors, g = [rng.standard_normal((5, 5)) for _ in range(3)], rng.standard_normal((5, 5))
    u, _, vt = np.linalg.svd(factors[2] @ factors[1] @ factors[0])
    rate = product_rate(factors, g)
    np.testing.assert_allclose(rate, rate_by_differences(factors, g), atol=1e-12)
    gap = np.abs(np.diag(u.T @ rate @ vt.T) - singular_value_rates(factors, g))
    assert gap.max() > 0.01 * np.abs(rate).max()


@pytest.mark.parametrize("depth", [1, 2, 3, 7])
def test_coupling_is_the_sum_of_powers(depth):
    sigma = np.array([3.0, 1.0, 1.0 + 1e-15, 1.0 + 1e-8, 1e-9, 1e-40, 0.0])
    tau = np.append(sigma, 0.0)
    j = np.arange(1, depth + 1)
    up = sigma[:, None, None] ** (2 * (j - 1) / depth)
    down = tau[None, :, None] ** (2 * (depth - j) / depth)
    np.testing.assert_allclose(coupling(sigma, tau, depth), (up * down).sum(-1), rtol=1e-13)


def test_coupling_of_real_depth():
    k = coupling([2.0, 0.5], [2.0, 0.7, 0.0], 2.5)
    assert k[0, 0] == pytest.approx(2.5 * 2 ** (2 - 2 / 2.5))
    assert k[1, 1] == pytest.approx((0.25 - 0.49) / (0.5**0.8 - 0.7**0.8), rel=1e-13)
    assert k[0, 2] == pytest.approx(2 ** (2 - 2 / 2.5))
    with pytest.raises(ValueError, match=r"sigma holds -1\.0"):
        coupling([-1.0], [1.0], 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: product_rate([np.eye(2), np.eye(3)], np.eye(2)), r"factors\[1\] of shape \(3, 3\)"),
        (lambda: product_rate([], np.eye(2)), "0 factors"),
        (lambda: product_rate([np.eye(2)] * 2, np.eye(2), symmetric=True), "UUᵀ has one"),
        (lambda: singular_value_rates([np.eye(2)], np.eye(3)), r"gradient has shape \(3, 3\)"),
        (lambda: singular_vector_rates([np.diag([2.0, 1, 1])], np.eye(3)), "equal: σ_1 = 1.0 and σ_2"),
        (lambda: singular_vector_rates([np.diag([2.0, 1, 0])], np.eye(3)), "zero"),
        (lambda: balanced_rate(np.eye(2), np.eye(3), 2), r"gradient has shape \(3, 3\)"),
        (lambda: balanced_rate(np.eye(2), np.eye(2), 0.5), "depth must be at least 1"),
        (lambda: product_flow(np.zeros((2, 2)), lambda w: w, 2, [1.0]), "start is zero"),
        (lambda: product_flow(np.eye(2), lambda w: w[0], 2, [1.0]), r"gives shape \(2,\)"),
        (lambda: singular_paths([]), "empty"),
        (lambda: singular_paths([np.eye(2), np.eye(3)]), r"products\[1\] has shape \(3, 3\)"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_flow_needs_a_gradient():
    with pytest.raises(TypeError, match="a problem or a function"):
        product_flow(np.eye(2), "mean", 2, [1.0])  # type: ignore[arg-type]


def test_a_flow_that_runs_away_is_reported():
    with pytest.raises(RuntimeError, match="not integrated to time 10"):
        product_flow([[1.0]], lambda w: -(w**3), 1, [10.0])  # x' = x³ explodes at ½


# --- the flow of the product ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depth", "n", "p", "width"), [(1, 5, 4, None), (2, 4, 5, None), (3, 5, 4, 2), (4, 4, 4, 3)]
)
def test_the_product_flow_is_that_of_balanced_factors(depth, n, p, width):
    rng = np.random.default_rng(depth)
    factors, _ = balanced(rng, depth, n, p, width if depth > 1 else None)
    factors = [0.5 * f for f in factors]
    problem = dmf.Sensing(rng.standard_normal((6, n, p)), rng.standard_normal(6))
    objective = naive.objective_of(problem)
    sizes = np.cumsum([f.size for f in factors])[:-1]

    def split(flat):
        return [part.reshape(f.shape) for part, f in zip(np.split(flat, sizes), factors, strict=True)]

    def slope(_, flat):
        return -np.concatenate([g.ravel() for g in objective.gradients(split(flat))])

    times = [0.3, 2.0]
    start = np.concatenate([f.ravel() for f in factors])
    full = scipy.integrate.solve_ivp(
        slope, (0, 2), start, method="DOP853", rtol=1e-12, atol=1e-14, t_eval=times
    )
    expected = [objective.product(split(flat)) for flat in full.y.T]
    w = product_flow(objective.product(factors), problem, depth, times)
    np.testing.assert_allclose(w, expected, atol=1e-9)
    assert np.linalg.norm(w[1] - w[0]) > 0.1
    if width and depth > 1:
        assert np.linalg.matrix_rank(w[1], tol=1e-9) == width


@pytest.mark.parametrize("depth", [2, 2.6, 3])
def test_the_product_flow_follows_commuting_trajectories(depth):
    problem = dmf.Sensing.commuting(4, rank=3, measurements=2, basis="rotated", seed=4, norm=4.0)
    times, q = [0.2, 1.0, 4.0], problem.basis
    w = product_flow(0.3**depth * np.eye(4), problem, depth, times)
    x = commuting_trajectory(problem.eigenvalues, problem.values, 0.3, depth, times)
    np.testing.assert_allclose(w, [(q * row) @ q.T for row in x], atol=1e-8)


# --- paths ----------------------------------------------------------------------------------------------


def moving(times, values, n, p, seed=0):
    """W(t) = U(t) diag(values(t)) V(t)ᵀ with slowly turning vectors."""
    rng = np.random.default_rng(seed)
    spin = [rng.standard_normal((s, s)) for s in (n, p)]
    k = len(values(times[0]))
    for t in times:
        u, v = (scipy.linalg.expm(0.3 * t * (b - b.T)) for b in spin)
        yield (u[:, :k] * values(t)) @ v[:, :k].T


@pytest.mark.parametrize(("n", "p"), [(3, 3), (3, 5), (6, 3)])
def test_paths_cross_and_change_sign(n, p):
    def values(t):  # crossings at 0.5 and elsewhere, one on a sample; a zero at 0.8, on a sample
        return np.array([1.0 - 0.9 * t, 0.1 + 0.9 * t, 0.4 - 0.5 * t])

    times = np.linspace(0, 1, 41)
    paths = singular_paths(moving(times, values, n, p))
    truth = np.array([values(t) for t in times])
    np.testing.assert_allclose(paths.values[:, 0], truth[:, 0], atol=1e-12)
    others = paths.values[:, 1:]
    np.testing.assert_allclose(others, truth[:, [2, 1]], atol=1e-12)  # 0.4 is larger than 0.1 at the start
    assert paths.overlap.min() > 0.9
    rebuilt = np.einsum("tir,tr,tjr->tij", paths.left, paths.values, paths.right)
    np.testing.assert_allclose(rebuilt, list(moving(times, values, n, p)), atol=1e-12)
    for basis in (paths.left, paths.right):
        np.testing.assert_allclose(
            np.einsum("tir,tis->trs", basis, basis), np.eye(3)[None].repeat(41, 0), atol=1e-12
        )
    sorted_values = np.linalg.svd(np.array(list(moving(times, values, n, p))), compute_uv=False)
    assert np.abs(sorted_values - np.abs(paths.values)).max() > 0.1, "sorting would have done"


def test_paths_of_a_flow_that_starts_at_the_identity():
    problem = dmf.Sensing.commuting(4, rank=3, measurements=2, basis="rotated", seed=4, norm=4.0)
    times = np.linspace(0, 3, 31)
    x = commuting_trajectory(problem.eigenvalues, problem.values, 0.3, 2, times)
    q = problem.basis
    paths = singular_paths([(q * row) @ q.T for row in x])
    order = np.argsort(x[-1])
    np.testing.assert_allclose(paths.values[:, np.argsort(paths.values[-1])], x[:, order], atol=1e-12)
    assert paths.overlap.min() > 0.999


def test_a_path_at_depth_one_changes_sign():
    problem = dmf.Completion([0, 1], [0, 1], [-1.0, 0.5], (2, 2), loss="half_sum")
    w = product_flow(np.diag([0.3, 0.2]), problem, 1, np.linspace(0, 4, 21))
    np.testing.assert_allclose(
        singular_paths(w).values[-1], [-1 + 1.3 * np.exp(-4), 0.5 - 0.3 * np.exp(-4)], atol=1e-9
    )


# --- instability ----------------------------------------------------------------------------------------

A, Y = np.array([[1.0, 0.1, 0.0, 0.3], [0.0, 0.5, 0.3, -0.2]]), np.array([1.0, 1.0])
OFF = ~np.eye(4, dtype=bool)


@pytest.mark.parametrize(("depth", "alpha"), [(2, 0.1), (2.5, 0.1), (3, 0.2), (4, 0.4)])
def test_growth_off_the_trajectory_is_as_predicted(depth, alpha):
    gaps = []
    for size in (1e-4, 1e-5):
        grown = commuting_instability(A, Y, alpha, depth, [0, 2, 15], loss="half_sum", perturbation=size)
        gaps.append(
            [
                np.abs(grown.predicted_symmetric - grown.measured_symmetric)[:, OFF].max(),
                np.abs(grown.predicted_skew - grown.measured_skew)[:, OFF].max(),
            ]
        )
    assert np.max(gaps[1]) < 0.02
    # What is left is of second order in the perturbation, so its share is proportional to it.
    np.testing.assert_allclose(np.divide(*gaps), 10, rtol=0.2)
    assert grown.predicted_symmetric[-1].max() > 3
    x = commuting_trajectory(A, Y, alpha, depth, [0, 2, 15], loss="half_sum")
    np.testing.assert_allclose(grown.eigenvalues, x, atol=1e-11)
    if depth == 2:  # s_kl² / (x_k x_l) is conserved
        x = grown.eigenvalues
        expected = 0.5 * np.log(x[:, :, None] * x[:, None, :] / alpha**4)
        np.testing.assert_allclose(grown.predicted_symmetric[:, OFF], expected[:, OFF], atol=1e-10)


def test_the_instability_is_exponential_in_the_plateau_at_depth_three():
    """The logarithm of the growth is const · α^−(N−2) + O(log α); at depth 2 it is only O(log α)."""
    logs = []
    for alpha in (0.08, 0.04, 0.02):
        grown = commuting_instability(A, Y, alpha, 3, [5 / alpha], loss="half_sum")
        np.testing.assert_allclose(grown.eigenvalues[0], commuting_limit(A, Y, alpha, 3), atol=1e-12)
        logs.append(grown.predicted_symmetric[0, 0, 1])
    steps = np.diff(logs)
    np.testing.assert_allclose(steps[1:] / steps[:-1], 2, rtol=0.25)  # α^−1 doubles


def test_instability_refuses():
    with pytest.raises(ValueError, match="perturbation must be a positive number, not 0"):
        commuting_instability(A, Y, 0.1, 3, [1.0], perturbation=0)
    with pytest.raises(ValueError, match="depth must be at least 2, not 1"):
        commuting_instability(A, Y, 0.1, 1, [1.0])
