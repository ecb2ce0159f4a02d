"""The engine's gradient flow against the closed forms of `fastdmf.theory`, which share no code with it."""

import numpy as np
import pytest

import fastdmf as dmf

TIGHT = dmf.GradientFlow(rtol=1e-11, method="dopri5")
FIT = dmf.LossBelow(1e-22) | dmf.MaxSteps(100_000)


def commuting(basis="diagonal"):
    # As many non-zero eigenvalues as measurements or more: with fewer, convergence stalls.
    return dmf.Sensing.commuting(6, rank=3, measurements=2, basis=basis, seed=4, norm=4.0)


def eigenvalues_of(problem, product):
    """The diagonal in the basis of the measurements, which is all there is."""
    q = np.eye(product.shape[0]) if problem.basis is None else problem.basis
    inner = q.T @ product @ q
    rest = inner - np.diag(np.diag(inner))
    assert np.linalg.norm(rest) < 1e-7 * np.linalg.norm(inner)
    return np.diag(inner)


CASES = [
    ("diagonal", dmf.Symmetric(), 2),
    ("rotated", dmf.Symmetric(), 2),
    ("diagonal", dmf.Product(2), 2),
    ("rotated", dmf.Product(2), 2),
    ("diagonal", dmf.Product(3), 3),
    ("diagonal", dmf.Product(4), 4),
]


@pytest.mark.parametrize(("basis", "factorization", "depth"), CASES)
@pytest.mark.parametrize("alpha", [1e-1, 1e-2])
def test_commuting_flows_end_at_the_limit(basis, factorization, depth, alpha):
    """Theorem 1 of Gunasekar et al. (2017), Theorem 2 of Arora et al. (2019), at every finite α."""
    problem = commuting(basis)
    init = dmf.Identity(product_scale=alpha**depth)
    result = dmf.run(problem, factorization=factorization, init=init, optimizer=TIGHT, stop=FIT)
    assert str(result.status) == "converged"
    limit = dmf.theory.commuting_limit(problem.eigenvalues, problem.values, alpha, depth)
    found = eigenvalues_of(problem, result.product)
    np.testing.assert_allclose(found, limit, rtol=0, atol=1e-10)
    # The default is as good as it promises.
    coarse = dmf.run(problem, factorization=factorization, init=init, stop=dmf.LossBelow(1e-14))
    np.testing.assert_allclose(
        eigenvalues_of(problem, coarse.product), limit, rtol=0, atol=1e-3 * limit.max()
    )


@pytest.mark.parametrize(("basis", "factorization", "depth"), CASES)
def test_commuting_flows_keep_the_time(basis, factorization, depth):
    problem, alpha = commuting(basis), 0.1
    init = dmf.Identity(product_scale=alpha**depth)
    end = dmf.run(problem, factorization=factorization, init=init, optimizer=TIGHT, stop=FIT).time
    times = end * np.array([0.01, 0.05, 0.1, 0.2, 0.4])
    record = dmf.Record(at_time=times, metrics={"product": lambda s: s.product})
    result = dmf.run(
        problem, factorization=factorization, init=init, optimizer=TIGHT, stop=FIT, record=record
    )
    trace = result.trace
    symmetric = isinstance(factorization, dmf.Symmetric)
    expected = dmf.theory.commuting_trajectory(
        problem.eigenvalues, problem.values, alpha, depth, times, loss=problem.loss, symmetric=symmetric
    )
    for time, x in zip(times, expected, strict=True):
        (product,) = trace["product"].values[trace.time.values == time]
        np.testing.assert_allclose(eigenvalues_of(problem, product), x, rtol=0, atol=1e-7 * x.max())


def test_any_orthogonal_start_gives_the_same_flow():
    """Theorem 1 for U₀ = αO: the product UUᵀ is that of U₀ = αI."""
    problem = commuting("rotated")
    rng = np.random.default_rng(0)
    o, _ = np.linalg.qr(rng.standard_normal((6, 6)))
    ends = [
        dmf.run(
            problem, factorization=dmf.Symmetric(), init=dmf.Factors([0.1 * u]), optimizer=TIGHT, stop=FIT
        )
        for u in (np.eye(6), o)
    ]
    np.testing.assert_allclose(ends[0].product, ends[1].product, rtol=0, atol=1e-9)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_one_measurement(depth):
    """Equations 10 and 11 of Arora et al. (2019): what is conserved, and where the flow ends."""
    rho, start, y = np.array([2.0, 1.0, 0.5]), np.array([0.3, 0.2, 0.25]), 3.0
    problem = dmf.Sensing(np.diag(rho)[None], [y])
    theory = dmf.theory.single_measurement(rho, y, start, depth)
    record = dmf.Record(every=1, metrics={"product": lambda s: s.product})
    result = dmf.run(
        problem, depth=depth, init=dmf.FromProduct(np.diag(start)), optimizer=TIGHT, stop=FIT, record=record
    )
    np.testing.assert_allclose(np.diag(result.product), theory.end, rtol=1e-9)
    conserved = np.array([theory.conserved(np.diag(w)) for w in result.trace["product"].values])
    np.testing.assert_allclose(conserved, np.broadcast_to(conserved[0], conserved.shape), atol=1e-8)


def planted():
    return dmf.Completion.random((8, 7), rank=2, observed=30, seed=0)


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_balanced_flows_are_the_flow_of_the_product(depth):
    """Lemma 3 of Arora et al. (2019)."""
    init = dmf.Balanced(product_scale=0.1)
    times = [0.5, 2.0, 5.0]
    record = dmf.Record(at_time=times, metrics={"product": lambda s: s.product})
    trace = dmf.run(
        planted(), depth=depth, init=init, optimizer=TIGHT, record=record, seed=1,
        callback=lambda s: s.time >= times[-1],
    ).trace  # fmt: skip
    start, *found = trace["product"].values
    expected = dmf.theory.product_flow(start, planted(), depth, times)
    assert np.array_equal(trace.time.values[1:], times)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_singular_values_move_at_the_rates_of_theorem_3(depth):
    """σ̇_r = −N σ_r^(2 − 2/N) ⟨∇ℓ, u_r v_rᵀ⟩ along a whole balanced flow, against u_rᵀ Ẇ v_r."""
    problem, states = planted(), []
    dmf.run(
        problem, depth=depth, init=dmf.Balanced(product_scale=0.1), optimizer=TIGHT, seed=1,
        record=dmf.Record(at_loss=[5e-1, 1e-1, 1e-2, 1e-4]), callback=states.append,
    )  # fmt: skip
    assert len(states) == 5 + 1
    for state in states:
        gradient = problem.gradient(state.product)
        u, _, vt = np.linalg.svd(state.product, full_matrices=False)
        rate = np.einsum("ir,ij,rj->r", u, dmf.theory.product_rate(state.factors, gradient), vt)
        expected = dmf.theory.singular_value_rates(state.factors, gradient)
        np.testing.assert_allclose(rate, expected, rtol=0, atol=1e-7 * np.abs(rate).max())


def test_rotated_commuting_flows_of_depth_three_are_unstable():
    """Roundoff alone leaves the commuting trajectory, the sooner the smaller the start."""

    def largest_off_diagonal(alpha):
        problem = commuting("rotated")
        init = dmf.Identity(product_scale=alpha**3)
        result = dmf.run(problem, depth=3, init=init, optimizer=TIGHT, stop=FIT)
        inner = problem.basis.T @ result.product @ problem.basis
        return np.abs(inner - np.diag(np.diag(inner))).max()

    off = [largest_off_diagonal(alpha) for alpha in (0.2, 0.05, 0.02)]
    assert off[0] < 1e-9
    assert off[0] < off[1] < off[2]
    assert off[2] > 10 * off[0]


def test_proposition_1():
    """The flow at depth 3 leads to diag(1, 1, 0, …), not to a solution of smaller Schatten norm, p < 1."""
    instance = dmf.theory.proposition_1(5)
    for alpha in (1e-1, 1e-2):
        init = dmf.Identity(product_scale=alpha**3)
        result = dmf.run(instance.problem, depth=3, init=init, optimizer=TIGHT, stop=FIT)
        distance = np.abs(result.product - instance.limit).max()
        assert distance < 70 * alpha**3 * 1.5
