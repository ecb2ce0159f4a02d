"""Commuting measurements, where the limit of the gradient flow is known at every finite start.

A_i = Q diag(a_i) Qᵀ, started at U₀ = αI or W_j(0) = αI ([G] Theorem 1, [A] Theorem 2).  Eigenvalues x of
the product then obey x' = −N g x^(2−2/N) with g = c Σ_i r_i a_i, twice as fast for UUᵀ, and the limit
solves a strictly convex program.  Descent must follow this path up to an error proportional to lr.
"""

from typing import Any

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize

import fastdmf as dmf

DIMENSION, MEASUREMENTS = 6, 2


def commuting(basis) -> Any:
    # As many non-zero eigenvalues as measurements: with fewer, convergence stalls.
    return dmf.Sensing.commuting(DIMENSION, rank=3, measurements=MEASUREMENTS, basis=basis, seed=4, norm=4.0)


def start_at(alpha, depth):
    """Factors αI; UUᵀ counts as depth 2."""
    return dmf.Identity(product_scale=alpha**depth)


def limit_of_the_flow(a, y, alpha, depth):
    """The minimizer x over a x = y of Σ x log(x/α²) − x, or of Σ x − (N/2) α^(N−2) x^(2/N) for N > 2.

    The dual is smooth and convex in ν ∈ R^m, and its gradient is a x(ν) − y.
    """

    def primal(nu):
        u = a.T @ nu
        if depth == 2:
            return alpha**2 * np.exp(u)
        p = alpha ** (2 - depth) - u
        return p ** (-depth / (depth - 2)) if p.min() > 0 else np.full_like(p, np.nan)

    def dual(nu):
        x = primal(nu)
        return np.sum(x if depth == 2 else (depth - 2) / 2 * x ** (2 / depth)) - y @ nu

    nu = np.zeros(len(y))
    for _ in range(100):  # Newton; a step that leaves the domain or climbs is halved
        x = primal(nu)
        growth = x if depth == 2 else depth / (depth - 2) * x ** (2 - 2 / depth)  # dx/du
        step = np.linalg.solve((a * growth) @ a.T, y - a @ x)
        while not dual(nu + step) <= dual(nu) + 1e-14 * abs(dual(nu)):
            step /= 2
        nu = nu + step
    assert np.max(np.abs(a @ primal(nu) - y)) < 1e-12
    return primal(nu)


def end_of_descent(problem, factorization, init, lr, device):
    result = dmf.run(
        problem,
        factorization=factorization,
        init=init,
        lr=lr,
        stop=dmf.LossBelow(1e-24) | dmf.MaxSteps(500_000),
        seed=0,
        device=device,
    )
    assert str(result.status) == "converged"
    return result.product


CASES = [
    pytest.param(dmf.Product(2), 2, "diagonal", 0.1, id="depth 2, diagonal"),
    pytest.param(dmf.Product(2), 2, "rotated", 0.1, id="depth 2, rotated"),
    pytest.param(dmf.Symmetric(), 2, "diagonal", 0.1, id="UUᵀ, diagonal"),
    pytest.param(dmf.Symmetric(), 2, "rotated", 0.1, id="UUᵀ, rotated"),
    # From depth 3 on, roundoff leaves the commuting trajectory exponentially fast unless zeros are exact.
    pytest.param(dmf.Product(3), 3, "diagonal", 0.3, id="depth 3, diagonal"),
    pytest.param(dmf.Product(4), 4, "diagonal", 0.4, id="depth 4, diagonal"),
]


@pytest.mark.parametrize(("factorization", "depth", "basis", "alpha"), CASES)
def test_descent_ends_at_the_limit_of_the_flow(factorization, depth, basis, alpha, device):
    problem = commuting(basis)
    x = limit_of_the_flow(problem.eigenvalues, problem.values, alpha, depth)
    limit = (problem.basis * x) @ problem.basis.T
    errors = []
    for lr in (2e-3, 1e-3):
        end = end_of_descent(problem, factorization, start_at(alpha, depth), lr, device)
        errors.append(np.linalg.norm(end - limit) / np.linalg.norm(limit))
        if basis == "diagonal":
            assert np.count_nonzero(end - np.diag(np.diag(end))) == 0, "zeros must stay exact"
    assert errors[1] < 2e-3
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize(("factorization", "depth", "basis", "alpha"), CASES)
def test_descent_follows_the_closed_form_in_time(factorization, depth, basis, alpha, device):
    problem = commuting(basis)
    a, y, c = problem.eigenvalues, problem.values, problem.loss_scale
    clock = 2 if isinstance(factorization, dmf.Symmetric) else 1

    def eigenvalues_at(s):
        # x = α² exp(2 c u), or [α^−(N−2) − (N−2) c u]^(−N/(N−2)), with u = Σ_i s_i a_i, s = ∫ (y − A(W)) dt
        u = clock * c * a.T @ s
        if depth == 2:
            return alpha**2 * np.exp(2 * u)
        return (alpha ** (2 - depth) - (depth - 2) * u) ** (-depth / (depth - 2))

    duration = 0.5
    flow = scipy.integrate.solve_ivp(
        lambda _, s: y - a @ eigenvalues_at(s), (0, duration), np.zeros(len(y)), rtol=1e-10, atol=1e-12
    )
    expected = eigenvalues_at(flow.y[:, -1])
    assert np.linalg.norm(expected - alpha**depth) > 0.5, "hardly any motion"
    errors = []
    for lr in (2e-3, 1e-3):
        loop = dmf.Loop(problem, factorization, dmf.GradientDescent(lr), device=device)
        state = loop.advance(loop.init(start_at(alpha, depth)), round(duration / lr))
        assert state.time == pytest.approx(duration)
        eigenvalues = np.diag(problem.basis.T @ state.product @ problem.basis)
        errors.append(np.linalg.norm(eigenvalues - expected) / np.linalg.norm(expected))
    assert errors[1] < 2e-3
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize("basis", ["diagonal", "rotated"])
def test_any_orthogonal_start_has_the_limit_of_the_identity(basis, device):
    # [G] Theorem 1: U₀ = αO with any orthogonal O, since only U₀U₀ᵀ matters.
    problem = commuting(basis)
    ends = [
        end_of_descent(problem, dmf.Symmetric(), init, 2e-3, device)
        for init in (dmf.Orthogonal(product_scale=0.01), dmf.Identity(product_scale=0.01))
    ]
    assert np.linalg.norm(ends[0] - ends[1]) < 1e-10 * np.linalg.norm(ends[1])


def test_small_starts_end_at_the_minimum_nuclear_norm(device):
    # [G] Theorem 1: for α → 0 the limit is the minimum trace over a x = y, x ≥ 0, a linear program.
    problem = commuting("rotated")
    best = scipy.optimize.linprog(
        np.ones(DIMENSION), A_eq=problem.eigenvalues, b_eq=problem.values, bounds=(0, None)
    ).fun
    excess = []
    for alpha in (1e-1, 1e-2, 1e-3):
        init = dmf.Orthogonal(product_scale=alpha**2)
        end = end_of_descent(problem, dmf.Symmetric(), init, 5e-3, device)
        excess.append(dmf.metrics.nuclear_norm(end) / best - 1)
    assert excess[0] > excess[1] > excess[2]
    assert abs(excess[2]) < 1e-3
