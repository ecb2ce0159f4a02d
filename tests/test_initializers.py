"""Starts: the scales and structures that the initializers promise."""

import numpy as np
import pytest

import fastdmf as dmf

SHAPE = (7, 11)
PRODUCTS = [
    pytest.param(dmf.Product(1), id="depth 1"),
    pytest.param(dmf.Product(2), id="depth 2"),
    pytest.param(dmf.Product(3, (13, 9)), id="depth 3, wide"),
    pytest.param(dmf.Product(4, (9, 5, 13)), id="depth 4, odd widths"),
]
SYMMETRIC = [pytest.param(dmf.Symmetric(k), id=f"UUᵀ, width {k}") for k in (4, 9, 14)]


def shape_for(factorization):
    return (9, 9) if isinstance(factorization, dmf.Symmetric) else SHAPE


def draw(init, factorization, seed=0):
    return init.draw(factorization, shape_for(factorization), np.random.default_rng(seed))


def narrowest(factorization):
    return min(min(s) for s in factorization.factor_shapes(shape_for(factorization)))


@pytest.mark.parametrize("init", [dmf.Gaussian(product_scale=0.3), dmf.Uniform(product_scale=0.3)])
@pytest.mark.parametrize("factorization", PRODUCTS)
def test_expected_norm_of_random_products(init, factorization):
    # E‖W(0)‖²_F = s² n at every depth and for all widths
    squares = [np.sum(factorization.compose(draw(init, factorization, seed)) ** 2) for seed in range(600)]
    assert np.mean(squares) == pytest.approx(0.3**2 * SHAPE[0], rel=0.1)


@pytest.mark.parametrize("init", [dmf.Gaussian, dmf.Uniform])
@pytest.mark.parametrize("factorization", [dmf.Product(3, (150, 80)), dmf.Symmetric(100)])
def test_scale_of_random_entries(init, factorization):
    shape = (200, 200)
    shapes = factorization.factor_shapes(shape)
    depth = 2 if isinstance(factorization, dmf.Symmetric) else 3
    rng = np.random.default_rng(1)
    for factor, (_, fan_in) in zip(
        init(product_scale=1e-3).draw(factorization, shape, rng), shapes, strict=True
    ):
        assert np.std(factor) == pytest.approx(1e-3 ** (1 / depth) * fan_in**-0.5, rel=0.03)
    for factor in init(std=0.2).draw(factorization, shape, rng):
        assert np.std(factor) == pytest.approx(0.2, rel=0.03)
        if init is dmf.Uniform:
            assert 0.99 * 3**0.5 * 0.2 < np.max(np.abs(factor)) <= 3**0.5 * 0.2
        else:
            assert np.mean((factor / 0.2) ** 4) == pytest.approx(3, rel=0.1)  # Gaussian kurtosis


@pytest.mark.parametrize("init", [dmf.Identity, dmf.Orthogonal])
@pytest.mark.parametrize("factorization", PRODUCTS + SYMMETRIC)
def test_identity_and_orthogonal_have_equal_singular_values(init, factorization):
    shape = shape_for(factorization)
    product = factorization.compose(draw(init(product_scale=0.3), factorization))
    rank = narrowest(factorization)
    expected = np.where(np.arange(min(shape)) < rank, 0.3, 0.0)
    np.testing.assert_allclose(np.linalg.svd(product, compute_uv=False), expected, atol=1e-15)
    for factor in draw(init(std=0.2), factorization):
        assert np.sqrt(np.mean(factor**2)) == pytest.approx(0.2, rel=1e-14)
        nonzero = np.linalg.svd(factor, compute_uv=False)
        assert np.ptp(nonzero) < 1e-14


def test_identity_is_a_multiple_of_the_identity_and_orthogonal_is_not():
    (u,) = draw(dmf.Identity(product_scale=0.25), dmf.Symmetric())
    assert np.array_equal(u, 0.5 * np.eye(9))
    (v,) = draw(dmf.Orthogonal(product_scale=0.25), dmf.Symmetric())
    np.testing.assert_allclose(v @ v.T, 0.25 * np.eye(9), atol=1e-15)
    assert np.linalg.norm(v - np.diag(np.diag(v))) > 0.5


@pytest.mark.parametrize("factorization", PRODUCTS[1:])
def test_balanced_factors_are_balanced_and_keep_the_product(factorization):
    given = np.random.default_rng(2).standard_normal((7, 3)) @ np.random.default_rng(3).standard_normal(
        (3, 11)
    )
    of_given = draw(dmf.Balanced(product=given), factorization)
    np.testing.assert_allclose(factorization.compose(of_given), given, atol=1e-13)
    of_random = draw(dmf.Balanced(product_scale=0.3), factorization, seed=4)
    gaussian = draw(dmf.Gaussian(product_scale=0.3), factorization, seed=4)
    np.testing.assert_allclose(factorization.compose(of_random), factorization.compose(gaussian), atol=1e-14)
    for factors in (of_given, of_random):
        gap = dmf.metrics.balancedness(factors)
        assert gap < 1e-14 * max(np.linalg.norm(w) for w in factors) ** 2
    assert dmf.metrics.balancedness(gaussian) > 1e-3


def test_balanced_for_symmetric():
    x = np.diag([3.0, 2.0, *np.zeros(7)])
    (u,) = draw(dmf.Balanced(product=x), dmf.Symmetric(4))
    np.testing.assert_allclose(u @ u.T, x, atol=1e-14)
    assert u.shape == (9, 4)


@pytest.mark.parametrize(
    ("product", "factorization"),
    [
        pytest.param(np.eye(9), dmf.Product(2, (8,)), id="rank above the width"),
        pytest.param(-np.eye(9), dmf.Symmetric(), id="not positive semidefinite"),
        pytest.param(np.triu(np.ones((9, 9))), dmf.Symmetric(), id="not symmetric"),
    ],
)
def test_balanced_refuses_what_does_not_fit(product, factorization):
    with pytest.raises(ValueError, match="cannot hold the given product"):
        dmf.Balanced(product=product).draw(factorization, (9, 9), np.random.default_rng(0))


@pytest.mark.parametrize("init", [lambda x: dmf.Balanced(product=x), dmf.FromProduct])
@pytest.mark.parametrize(
    ("factorization", "roundoff"),
    [(dmf.Product(3), 1e-13), (dmf.Product(2, (4,)), 1e-6), (dmf.Symmetric(4), 1e-6)],
    ids=str,
)
def test_products_of_runs_in_single_precision(init, factorization, roundoff):
    x = np.random.default_rng(7).standard_normal((9, 4)).astype(np.float32)
    product = x @ x.T  # its rank is 4, and it is positive semidefinite, only to its own roundoff
    factors = init(product).draw(factorization, (9, 9), np.random.default_rng(0))
    assert all(factor.dtype == np.float64 for factor in factors)
    lost = np.linalg.norm(factorization.compose(factors) - product)
    assert lost < roundoff * np.linalg.norm(product)


@pytest.mark.parametrize("width", [3, 5, 20])
def test_from_product_is_the_truncated_svd(width):
    matrix = np.random.default_rng(5).standard_normal(SHAPE)
    left, sigma, right = np.linalg.svd(matrix, full_matrices=False)
    rank = min(width, 7)
    best = (left[:, :rank] * sigma[:rank]) @ right[:rank]
    factorization = dmf.Product(3, (width, 8))
    factors = draw(dmf.FromProduct(matrix), factorization)
    np.testing.assert_allclose(factorization.compose(factors), best, atol=1e-13)
    assert dmf.metrics.balancedness(factors) < 1e-13
    assert [w.shape for w in factors] == [(width, 11), (8, width), (7, 8)]


@pytest.mark.parametrize("width", [2, 9, 12])
def test_from_product_keeps_the_largest_positive_eigenpairs(width):
    rng = np.random.default_rng(6)
    matrix = rng.standard_normal((9, 9))
    eigenvalues, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    kept = np.where(np.arange(9) >= 9 - width, np.maximum(eigenvalues, 0), 0)
    (u,) = draw(dmf.FromProduct(matrix), dmf.Symmetric(width))
    assert u.shape == (9, width)
    np.testing.assert_allclose(u @ u.T, (vectors * kept) @ vectors.T, atol=1e-14)


def test_factors_are_copied(device):
    arrays = [np.ones((5, 11)), np.ones((7, 5))]
    init = dmf.Factors(arrays)
    arrays[0][:] = 7.0
    first, second = (init.draw(dmf.Product(2, (5,)), SHAPE, np.random.default_rng()) for _ in range(2))
    first[1][:] = 9.0
    assert all(np.array_equal(w, np.ones(w.shape)) for w in (first[0], *second))

    problem = dmf.Completion.random(SHAPE, 2, 30)
    loop = dmf.Loop(problem, dmf.Product(2, (5,)), dmf.GradientDescent(0.1), device=device)
    start = loop.init(init)
    loop.advance(start, 3)
    assert all(np.array_equal(w, np.ones(w.shape)) for w in start.factors)


@pytest.mark.parametrize(
    "arrays",
    [
        pytest.param([np.ones((5, 11))], id="too few"),
        pytest.param([np.ones((5, 11)), np.ones((7, 6))], id="do not chain"),
        pytest.param([np.ones((7, 5)), np.ones((5, 11))], id="wrong order"),
    ],
)
def test_factors_must_fit(arrays):
    with pytest.raises(ValueError, match="factor"):
        dmf.Factors(arrays).draw(dmf.Product(2, (5,)), SHAPE, np.random.default_rng())


RANDOM = [dmf.Gaussian(), dmf.Uniform(), dmf.Orthogonal(), dmf.Balanced()]
FIXED = [dmf.Identity(), dmf.FromProduct(np.eye(9)), dmf.Factors([np.eye(9), np.eye(9)])]


@pytest.mark.parametrize("init", RANDOM, ids=repr)
def test_seeds_reproduce_starts(init, device):
    problem = dmf.Completion.random(SHAPE, 2, 30)
    loops = {
        dtype: dmf.Loop(problem, dmf.Product(3), dmf.GradientDescent(0.1), dtype=dtype, device=device)
        for dtype in ("float64", "float32")
    }
    first, again, other = (loops["float64"].init(init, seed=s).factors for s in (8, 8, 9))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    # A run in float32 starts from the rounded start of the run in float64.
    rounded = loops["float32"].init(init, seed=8).factors
    assert all(np.array_equal(a.astype(np.float32), b) for a, b in zip(first, rounded, strict=True))


@pytest.mark.parametrize("init", RANDOM + FIXED, ids=lambda init: type(init).__name__)
def test_who_draws_says_so(init):
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    init.draw(dmf.Product(2), (9, 9), rng)
    assert (rng.bit_generator.state != before) == init.is_random


def test_scales_are_stated_once():
    assert dmf.Gaussian().product_scale == 1e-3
    assert dmf.Gaussian(std=0.1).product_scale is None
    for init in (dmf.Gaussian, dmf.Uniform, dmf.Identity, dmf.Orthogonal, dmf.Balanced):
        with pytest.raises(ValueError, match="not both"):
            init(product_scale=1.0, std=1.0)
        with pytest.raises(ValueError, match="positive"):
            init(product_scale=-1.0)
        with pytest.raises(ValueError, match="positive"):
            init(std=0.0)
    with pytest.raises(ValueError, match="own scale"):
        dmf.Balanced(product_scale=1.0, product=np.eye(2))


def test_starts_that_hold_arrays_are_compared_by_value():
    def starts(a):
        return [dmf.Factors([a, a]), dmf.Balanced(product=a), dmf.FromProduct(a)]

    a = np.arange(9.0).reshape(3, 3)
    for mine, same, other in zip(starts(a), starts(a.tolist()), starts(a + np.eye(3)), strict=True):
        assert mine == same and hash(mine) == hash(same)
        assert mine != other and mine != a.tolist() and mine != dmf.Gaussian()
    assert dmf.Factors([a]) != dmf.Factors([a, a]) and dmf.Balanced(product=a) != dmf.FromProduct(a)
    assert dmf.Factors([a]) != dmf.Factors([a.astype("float32")])
    assert dmf.Balanced(product_scale=1) == dmf.Balanced(product_scale=1.0) != dmf.Balanced(std=1.0)
