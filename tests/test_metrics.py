"""Metrics against their plain definitions, and where those degenerate."""

import math

import numpy as np
import pytest

import fastdmf as dmf
from fastdmf import metrics

RNG = np.random.default_rng(5)
WIDE = RNG.standard_normal((4, 7))
TALL = RNG.standard_normal((7, 4))
LOW = np.outer(RNG.standard_normal(5), RNG.standard_normal(6)) + np.outer(np.ones(5), np.arange(6))
MATRICES = {
    "wide": WIDE,
    "tall": TALL,
    "rank 2": LOW,
    "float32": WIDE.astype(np.float32),
    "one by one": np.array([[-3.0]]),
    "row": WIDE[:1],
    "zero": np.zeros((3, 5)),
}


@pytest.fixture(params=MATRICES, ids=str)
def matrix(request):
    return MATRICES[request.param]


def roundoff(matrix):
    return 20 * np.finfo(matrix.dtype).eps


def spectrum(matrix):
    """Singular values as square roots of eigenvalues, by another algorithm than the one under test."""
    wide = matrix.astype(np.float64)
    gram = wide @ wide.T if wide.shape[0] <= wide.shape[1] else wide.T @ wide
    return np.sqrt(np.maximum(np.linalg.eigvalsh(gram)[::-1], 0.0))


def test_singular_values(matrix):
    ours = metrics.singular_values(matrix)
    assert ours.shape == (min(matrix.shape),)
    assert ours.dtype == matrix.dtype
    assert np.all(np.diff(ours) <= 0)
    # Squaring loses half of the digits of the smallest ones.
    np.testing.assert_allclose(ours, spectrum(matrix), rtol=roundoff(matrix), atol=1e-7 * ours[0])


def test_norms(matrix):
    sigma = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    close = {"rtol": roundoff(matrix), "atol": 0}
    np.testing.assert_allclose(metrics.nuclear_norm(matrix), sigma.sum(), **close)
    np.testing.assert_allclose(metrics.schatten(matrix, 1), sigma.sum(), **close)
    np.testing.assert_allclose(metrics.schatten(matrix, 2), np.linalg.norm(matrix), **close)
    np.testing.assert_allclose(metrics.schatten(matrix, math.inf), sigma.max(), **close)
    np.testing.assert_allclose(metrics.schatten(matrix, 3.5), np.sum(sigma**3.5) ** (1 / 3.5), **close)


def test_schatten_below_one():
    matrix = np.diag([4.0, 1.0, 0.25])
    assert metrics.schatten(matrix, 0.5) == pytest.approx((2 + 1 + 0.5) ** 2)
    assert metrics.schatten(np.zeros((2, 2)), 0.5) == 0.0


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_scales_that_powers_would_not_survive(scale):
    matrix = scale * np.diag([3.0, 4.0])
    assert metrics.schatten(matrix, 2) == pytest.approx(5 * scale)
    assert metrics.schatten(matrix, 100) == pytest.approx(4 * scale)
    assert metrics.effective_rank(matrix) == pytest.approx(metrics.effective_rank(matrix / scale))
    assert metrics.numerical_rank(matrix) == 2


def test_effective_rank():
    for r in (1, 2, 5):
        assert metrics.effective_rank(3.0 * np.eye(r, 6)) == pytest.approx(r)
    share = np.array([0.7, 0.2, 0.1])
    entropy = -sum(s * math.log(s) for s in share)
    assert metrics.effective_rank(np.diag(2.0 * share)) == pytest.approx(math.exp(entropy))
    assert metrics.effective_rank(np.diag([*share, 0.0])) == pytest.approx(math.exp(entropy))
    assert metrics.effective_rank(np.array([[-3.0]])) == 1.0
    assert metrics.effective_rank(np.zeros((3, 5))) == 0.0
    assert metrics.effective_rank(np.eye(3, dtype=np.float32)) == pytest.approx(3.0, rel=1e-6)


def test_effective_rank_of_the_smallest_numbers():
    for dtype in (np.float64, np.float32):
        smallest = np.finfo(dtype).smallest_normal / 8
        assert metrics.effective_rank(np.diag([smallest] * 3).astype(dtype)) == pytest.approx(3.0, rel=1e-5)


def test_numerical_rank():
    matrix = np.diag([1.0, 0.5, 1.001e-3, 0.999e-3, 0.0])
    assert metrics.numerical_rank(matrix) == 3
    assert metrics.numerical_rank(matrix, rtol=0.1) == 2
    assert metrics.numerical_rank(matrix, rtol=0.0) == 4
    assert metrics.numerical_rank(LOW) == 2
    assert metrics.numerical_rank(np.zeros((3, 5))) == 0
    assert metrics.numerical_rank(np.array([[-3.0]])) == 1


def test_alignment(matrix):
    gradient = RNG.standard_normal(matrix.shape)
    turned = metrics.alignment(matrix, gradient)
    r = min(matrix.shape)
    assert turned.shape == (r, r)
    left, _, right_t = np.linalg.svd(matrix, full_matrices=False)
    for i in range(r):
        for j in range(r):
            expected = left[:, i] @ gradient @ right_t[j]
            assert turned[i, j] == pytest.approx(expected, rel=1e-5 if matrix.dtype == np.float32 else 1e-10)
    on = [abs(turned[i, i]) for i in range(r)]
    off = [abs(turned[i, j]) for i in range(r) for j in range(r) if i != j]
    assert metrics.alignment_on_diagonal(matrix, gradient) == pytest.approx(np.mean(on))
    assert metrics.alignment_off_diagonal(matrix, gradient) == pytest.approx(np.mean(off) if off else 0.0)


def test_alignment_is_the_derivative_of_the_singular_values():
    gradient = RNG.standard_normal(WIDE.shape)
    h = 1e-6
    slopes = metrics.singular_values(WIDE + h * gradient) - metrics.singular_values(WIDE - h * gradient)
    np.testing.assert_allclose(np.diag(metrics.alignment(WIDE, gradient)), slopes / (2 * h), rtol=1e-7)


def test_alignment_of_what_is_aligned():
    matrix, gradient = np.diag([3.0, 2.0, 1.0]), np.diag([-5.0, 4.0, 7.0])
    assert metrics.alignment_on_diagonal(matrix, gradient) == pytest.approx(16 / 3)
    assert metrics.alignment_off_diagonal(matrix, gradient) == 0.0


def test_balancedness():
    assert metrics.balancedness([WIDE]) == 0.0
    a, b, c = TALL, RNG.standard_normal((3, 7)), RNG.standard_normal((5, 3))
    expected = max(np.linalg.norm(b.T @ b - a @ a.T), np.linalg.norm(c.T @ c - b @ b.T))
    assert metrics.balancedness([a, b, c]) == pytest.approx(expected)
    balanced = dmf.Balanced(product=WIDE).draw(dmf.Product(4), WIDE.shape, RNG)
    assert metrics.balancedness(balanced) < 1e-13


def test_determinant():
    assert metrics.determinant(np.array([[1.0, 2.0], [3.0, 4.0]])) == pytest.approx(-2.0)
    assert metrics.determinant(np.array([[-3.0]])) == pytest.approx(-3.0)
    assert metrics.determinant(np.zeros((3, 3))) == 0.0
    with pytest.raises(ValueError, match=r"\(\d+, \d+\).*square"):
        metrics.determinant(WIDE)


def test_reconstruction_error():
    assert metrics.reconstruction_error(WIDE, WIDE) == 0.0
    assert metrics.reconstruction_error(np.zeros_like(WIDE), WIDE) == 1.0
    assert metrics.reconstruction_error(3 * WIDE, WIDE) == pytest.approx(2.0)
    assert math.isnan(metrics.reconstruction_error(WIDE, None))
    assert math.isnan(metrics.reconstruction_error(WIDE, np.zeros_like(WIDE)))


def test_entries():
    problem = dmf.Completion([0], [0], [1.0], (4, 7))
    state = dmf.Loop(problem, dmf.Product(1), dmf.GradientDescent(1.0)).init(dmf.Factors([WIDE]))
    metric = metrics.entry(2, 5)
    assert metric.__name__ == "entry_2_5"
    assert metric(state) == WIDE[2, 5]


def test_plain_numbers_come_back(matrix):
    """Scalars are Python floats and integers, which files and printing like best."""
    for metric in (metrics.nuclear_norm, metrics.effective_rank, lambda m: metrics.schatten(m, 2)):
        assert type(metric(matrix)) is float
    assert type(metrics.numerical_rank(matrix)) is int
    assert type(metrics.balancedness([matrix, matrix.T])) is float
