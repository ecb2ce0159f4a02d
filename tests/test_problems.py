"""Problems: what is planted, what is measured, and how misfit and error are counted."""

from typing import Any

import numpy as np
import pytest
import scipy.sparse

import fastdmf as dmf
from tests import naive

SHAPE = (12, 9)


def random_problem(kind, **settings) -> Any:
    if kind == "completion":
        return dmf.Completion.random(SHAPE, 3, 50, seed=1, **settings)
    if kind == "gaussian":
        return dmf.Sensing.gaussian(SHAPE, 3, 50, symmetric=False, seed=1, **settings)
    return dmf.Sensing.rank_one(SHAPE, 3, 50, symmetric=False, seed=1, **settings)


PLANTED = ["completion", "gaussian", "rank_one"]


# --- what is planted ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PLANTED)
def test_planted_matrix(kind):
    truth = random_problem(kind).truth
    assert truth.shape == SHAPE
    assert np.linalg.norm(truth) == pytest.approx(np.sqrt(12 * 9), rel=1e-14)
    assert np.linalg.matrix_rank(truth) == 3
    assert np.linalg.norm(random_problem(kind, norm=2.5).truth) == pytest.approx(2.5, rel=1e-14)


@pytest.mark.parametrize("kind", PLANTED)
def test_planted_spectrum(kind):
    sigma = np.linalg.svd(random_problem(kind, spectrum=[1, 4, 2, 8]).truth, compute_uv=False)
    scale = np.sqrt(12 * 9) / np.linalg.norm([8, 4, 2, 1])
    np.testing.assert_allclose(sigma[:4], scale * np.array([8, 4, 2, 1]), rtol=1e-13)
    np.testing.assert_allclose(sigma[4:], 0, atol=1e-13)


@pytest.mark.parametrize(
    "problem",
    [
        pytest.param(dmf.Completion.random((9, 9), 3, 40, symmetric=True), id="completion"),
        pytest.param(dmf.Completion.random((9, 9), 3, 40, symmetric=True, spectrum=[3, 2, 1]), id="spectrum"),
        pytest.param(dmf.Sensing.gaussian((9, 9), 3, 40), id="gaussian"),
        pytest.param(dmf.Sensing.rank_one((9, 9), 3, 40), id="rank_one"),
        pytest.param(dmf.Sensing.commuting(9, 3, 4, basis="rotated"), id="commuting"),
    ],
)
def test_symmetric_truth_is_positive_semidefinite(problem):
    np.testing.assert_allclose(problem.truth, problem.truth.T, atol=1e-13)
    eigenvalues = np.linalg.eigvalsh(problem.truth)
    assert np.linalg.norm(eigenvalues) == pytest.approx(9)
    assert np.count_nonzero(eigenvalues > 1e-10) == 3 and eigenvalues[0] > -1e-12
    if isinstance(problem, dmf.Sensing):
        np.testing.assert_allclose(problem.matrices, problem.matrices.transpose(0, 2, 1), atol=1e-14)


def test_seeds_reproduce_problems():
    for make in (dmf.Completion.random, dmf.Sensing.gaussian, dmf.Sensing.rank_one, dmf.Sensing.commuting):
        assert np.array_equal(make(seed=4).values, make(seed=4).values)
        assert not np.array_equal(make(seed=4).values, make(seed=5).values)


# --- what is measured -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PLANTED)
def test_values_are_measurements_of_the_truth(kind):
    problem = random_problem(kind)
    assert problem.values.shape == (50,)
    expected = naive.objective_of(problem).operator.measure(problem.truth)
    np.testing.assert_allclose(problem.values, expected, rtol=0, atol=1e-13)


def test_random_completion_observes_distinct_entries_everywhere():
    problem = dmf.Completion.random((40, 30), 2, 600, seed=2)
    assert len({*zip(problem.rows, problem.cols, strict=True)}) == 600
    assert set(problem.rows) == set(range(40)) and set(problem.cols) == set(range(30))


def test_held_out_entries_are_others_of_the_same_matrix():
    problem: Any = dmf.Completion.random(SHAPE, 3, 60, held_out=30, seed=3)
    rows, cols, values = problem.test
    seen, held_out = set(zip(problem.rows, problem.cols, strict=True)), set(zip(rows, cols, strict=True))
    assert len(held_out) == 30 and not seen & held_out
    np.testing.assert_allclose(values, problem.truth[rows, cols], atol=1e-13)


def test_a_truth_too_large_to_keep_changes_nothing_else():
    kept: Any = dmf.Completion.random(SHAPE, 3, 50, held_out=10)
    left_out: Any = dmf.Completion.random(SHAPE, 3, 50, held_out=10, keep_truth=False)
    assert left_out.truth is None
    assert np.array_equal(left_out.values, kept.values)
    assert all(np.array_equal(a, b) for a, b in zip(left_out.test, kept.test, strict=True))


def test_from_sparse_observes_stored_entries_zeros_included():
    stored = scipy.sparse.coo_array(([1.5, 0.0, -2.0], ([0, 2, 1], [3, 0, 1])), shape=(3, 4))
    for matrix in (stored, stored.tocsr(), stored.tocsc()):
        problem = dmf.Completion.from_sparse(matrix)
        entries = {(i, j): v for i, j, v in zip(problem.rows, problem.cols, problem.values, strict=True)}
        assert entries == {(0, 3): 1.5, (2, 0): 0.0, (1, 1): -2.0}
        assert problem.shape == (3, 4)


def test_from_dense_observes_what_is_not_nan():
    array = np.array([[1.0, np.nan, 0.0], [np.nan, -2.0, np.nan]])
    problem = dmf.Completion.from_dense(array, loss="half_sum")
    entries = {(i, j): v for i, j, v in zip(problem.rows, problem.cols, problem.values, strict=True)}
    assert entries == {(0, 0): 1.0, (0, 2): 0.0, (1, 1): -2.0}
    assert problem.shape == (2, 3) and problem.loss == "half_sum"


def test_gaussian_measurements():
    problem = dmf.Sensing.gaussian((30, 20), 2, 100, symmetric=False)
    assert problem.matrices.shape == (100, 30, 20)
    assert np.std(problem.matrices) == pytest.approx(600**-0.5, rel=0.02)
    assert np.std(dmf.Sensing.gaussian((30, 20), 2, 100, False, std=0.5).matrices) == pytest.approx(0.5, 0.02)
    symmetric = dmf.Sensing.gaussian((25, 25), 2, 100).matrices
    # (B + Bᵀ)/2 halves the variance off the diagonal and keeps it on the diagonal.
    assert np.std(symmetric[:, 0, 1:]) == pytest.approx(625**-0.5 * 2**-0.5, rel=0.05)
    assert np.std(np.einsum("mii->mi", symmetric)) == pytest.approx(625**-0.5, rel=0.05)


@pytest.mark.parametrize("symmetric", [True, False])
def test_rank_one_measurements(symmetric):
    matrices = dmf.Sensing.rank_one((20, 20), 2, 100, symmetric=symmetric).matrices
    sigma = np.linalg.svd(matrices, compute_uv=False)
    assert np.max(sigma[:, 1] / sigma[:, 0]) < 1e-14
    assert np.array_equal(matrices, matrices.transpose(0, 2, 1)) == symmetric
    # E tr(x zᵀ)/n is 1 for z = x, and 0 if they are independent.
    assert np.mean(np.trace(matrices, axis1=1, axis2=2)) == pytest.approx(float(symmetric), abs=0.1)
    assert np.sqrt(np.mean(matrices[:, 0, 1:] ** 2)) == pytest.approx(1 / 20, rel=0.1)


@pytest.mark.parametrize("basis", ["diagonal", "rotated"])
def test_commuting_measurements(basis):
    problem: Any = dmf.Sensing.commuting(8, rank=3, measurements=4, basis=basis, seed=2)
    q, a = problem.basis, problem.eigenvalues
    assert a.shape == (4, 8) and problem.matrices.shape == (4, 8, 8)
    np.testing.assert_allclose(q @ q.T, np.eye(8), atol=1e-14)
    assert np.array_equal(q, np.eye(8)) == (basis == "diagonal")
    for matrix, eigenvalues in zip(problem.matrices, a, strict=True):
        np.testing.assert_allclose(matrix, q @ np.diag(eigenvalues) @ q.T, atol=1e-14)
    planted = q.T @ problem.truth @ q
    np.testing.assert_allclose(planted, np.diag(np.diag(planted)), atol=1e-13)
    np.testing.assert_allclose(problem.values, a @ np.diag(planted), atol=1e-13)
    np.testing.assert_allclose(problem.measure(problem.truth), problem.values, atol=1e-13)
    assert np.linalg.norm(problem.truth) == pytest.approx(8)


def test_sparse_and_dense_sensing_are_one_problem():
    rng = np.random.default_rng(4)
    matrices = rng.standard_normal((20, *SHAPE)) * (rng.random((20, *SHAPE)) < 0.2)
    values, w, z = rng.standard_normal(20), rng.standard_normal(SHAPE), rng.standard_normal(20)
    dense = dmf.Sensing(matrices, values)
    # Entries given in pieces count as their sum.
    rows, cols = np.nonzero(matrices.reshape(20, -1))
    pieces = 0.5 * matrices.reshape(20, -1)[rows, cols]
    halves = scipy.sparse.coo_array(
        (np.tile(pieces, 2), (np.tile(rows, 2), np.tile(cols, 2))), shape=(20, 12 * 9)
    )
    for given in (scipy.sparse.csr_array(matrices.reshape(20, -1)), halves):
        sparse = dmf.Sensing(given, values, shape=SHAPE)
        np.testing.assert_allclose(sparse.measure(w), dense.measure(w), rtol=1e-12)
        np.testing.assert_allclose(sparse.adjoint(z), dense.adjoint(z), rtol=1e-12, atol=1e-14)
        assert sparse.loss_at(w) == pytest.approx(dense.loss_at(w), rel=1e-12)


def test_problems_do_not_see_later_changes_of_their_arguments():
    rng = np.random.default_rng(5)
    rows, cols, values = np.array([0, 1]), np.array([1, 0]), np.array([1.0, 2.0])
    truth, matrices = rng.standard_normal((2, 2)), rng.standard_normal((2, 2, 2))
    sparse = scipy.sparse.csr_array(matrices.reshape(2, 4))
    problems = [
        dmf.Completion(rows, cols, values, (2, 2), truth=truth, test=([0], [0], values[:1])),
        dmf.Sensing(matrices, values, truth=truth),
        dmf.Sensing(sparse, values, shape=(2, 2), truth=truth),
    ]
    w = rng.standard_normal((2, 2))
    before = [(p.loss_at(w), p.test_error(w)) for p in problems]
    for array in (rows, cols, values, truth, matrices, sparse.data):
        array[:] = 0
    assert [(p.loss_at(w), p.test_error(w)) for p in problems] == before
    with pytest.raises(ValueError, match="read-only"):
        problems[0].values[:] = 0


# --- how misfit and error are counted -------------------------------------------------------------


@pytest.mark.parametrize("kind", PLANTED)
def test_three_losses(kind):
    w = np.random.default_rng(6).standard_normal(SHAPE)
    mean, half_sum, half_mean = (random_problem(kind, loss=x) for x in ("mean", "half_sum", "half_mean"))
    r = mean.residual(w)
    assert mean.loss_at(w) == pytest.approx(np.mean(r**2), rel=1e-14)
    assert half_sum.loss_at(w) == pytest.approx(np.sum(r**2) / 2, rel=1e-14)
    assert half_mean.loss_at(w) == pytest.approx(np.mean(r**2) / 2, rel=1e-14)
    for problem in (mean, half_sum, half_mean):
        objective = naive.objective_of(problem)
        np.testing.assert_allclose(problem.gradient(w), objective.gradient_of(w), rtol=1e-12, atol=1e-15)
        assert dmf.loss_and_gradients(problem, [w])[0] == pytest.approx(problem.loss_at(w), rel=1e-13)


def test_error_over_held_out_entries_comes_first():
    p: Any = dmf.Completion.random(SHAPE, 3, 50, held_out=20, seed=7)
    w = np.random.default_rng(7).standard_normal(SHAPE)
    rows, cols, values = p.test
    expected = np.sqrt(np.mean((w[rows, cols] - values) ** 2))
    assert p.test_error(w) == pytest.approx(expected, rel=1e-14)


def test_error_over_unobserved_entries_of_the_truth():
    p: Any = dmf.Completion.random(SHAPE, 3, 50, seed=7)
    w = np.random.default_rng(7).standard_normal(SHAPE)
    unseen = np.ones(SHAPE, dtype=bool)
    unseen[p.rows, p.cols] = False
    expected = np.sqrt(np.mean((w - p.truth)[unseen] ** 2))
    assert p.test_error(w) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("held_out", [0, 20])
def test_a_lifted_completion_is_the_same_in_its_upper_right_block(held_out):
    p: Any = dmf.Completion.random(SHAPE, 3, 50, held_out=held_out, seed=7, loss="half_sum")
    n, q = SHAPE
    lifted = p.lifted()
    assert (lifted.shape, lifted.loss) == ((n + q, n + q), "half_sum")
    x = np.random.default_rng(7).standard_normal(lifted.shape)
    np.testing.assert_array_equal(lifted.residual(x), p.residual(x[:n, n:]))
    assert lifted.test_error(x) == pytest.approx(p.test_error(x[:n, n:]), rel=1e-14)


def test_the_least_trace_of_a_lifted_completion_is_twice_the_least_nuclear_norm():
    p = dmf.Completion.random((8, 6), 1, 30, seed=1)
    best, lifted = (
        dmf.reference.min_nuclear_norm(problem, psd=psd, tol=1e-8)
        for problem, psd in ((p, False), (p.lifted(), True))
    )
    assert lifted.upper == pytest.approx(2.0 * best.upper, rel=1e-7)
    np.testing.assert_allclose(lifted.matrix[:8, 8:], best.matrix, atol=1e-4)


def test_error_over_all_entries_in_sensing():
    p = random_problem("gaussian")
    w = np.random.default_rng(7).standard_normal(SHAPE)
    assert p.test_error(w) == pytest.approx(np.sqrt(np.mean((w - p.truth) ** 2)), rel=1e-14)
    assert p.test_error(p.truth) == 0


def test_error_is_nan_where_nothing_is_known():
    w = np.ones((2, 2))
    assert np.isnan(dmf.Completion([0], [0], [1.0], (2, 2)).test_error(w))
    assert np.isnan(dmf.Completion.from_dense(w, loss="mean").test_error(w))
    assert np.isnan(dmf.Sensing(np.ones((1, 2, 2)), [1.0]).test_error(w))
    fully_seen = dmf.Completion(*np.divmod(np.arange(4), 2), np.ones(4), (2, 2), truth=w)
    assert np.isnan(fully_seen.test_error(w))


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("held_out", [0, 20])
def test_runs_report_the_error_of_their_product(depth, held_out, device):
    problem = dmf.Completion.random(SHAPE, 3, 50, held_out=held_out)
    result = dmf.run(
        problem, depth=depth, lr=0.1, init=dmf.Gaussian(product_scale=0.5), stop=dmf.MaxSteps(5), seed=0,
        device=device,
    )  # fmt: skip
    assert result.test_error == pytest.approx(problem.test_error(result.product), rel=1e-12)


# --- what is refused ------------------------------------------------------------------------------

NAN, TWO = np.array([[1.0, np.nan], [0, 0]]), np.ones((2, 2))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: dmf.Completion([0, 2], [0, 0], [1, 1], (2, 2)), ValueError, r"rows\[1\] = 2"),
        (lambda: dmf.Completion([0, 0], [0, -1], [1, 1], (2, 2)), ValueError, r"cols\[1\] = -1"),
        (lambda: dmf.Completion([0, 0], [1, 1], [1, 2], (2, 2)), ValueError, r"\(0, 1\) is given twice"),
        (lambda: dmf.Completion([0, 1], [1, 1], [1, np.nan], (2, 2)), ValueError, "nan"),
        (lambda: dmf.Completion([0, 1], [1, 1], [1, np.inf], (2, 2)), ValueError, "inf"),
        (lambda: dmf.Completion([0, 1], [1], [1, 2], (2, 2)), ValueError, "one length"),
        (lambda: dmf.Completion([], [], [], (2, 2)), ValueError, "empty"),
        (lambda: dmf.Completion([0.5], [0], [1], (2, 2)), TypeError, "integers"),
        (lambda: dmf.Completion([0], [0], [1j], (2, 2)), TypeError, "real"),
        (lambda: dmf.Completion([0], [0], [1], (2, 0)), ValueError, r"shape\[1\]"),
        (lambda: dmf.Completion([0], [0], [1], (2, 2), truth=np.ones((2, 3))), ValueError, r"\(2, 3\)"),
        (lambda: dmf.Completion([0], [0], [1], (2, 2), loss="sum"), ValueError, "'sum'"),
        (lambda: dmf.Completion([0], [0], [1], (2, 2), test=([0], [2], [1])), ValueError, r"cols\[0\] = 2"),
        (lambda: dmf.Completion.random((3, 3), 1, 10), ValueError, "10"),
        (lambda: dmf.Completion.random((3, 3), 4, 5), ValueError, "rank 4"),
        (lambda: dmf.Completion.random((3, 4), 1, 5, symmetric=True), ValueError, "square"),
        (lambda: dmf.Completion.from_dense(NAN[0]), ValueError, "dimensions"),
        (lambda: dmf.Sensing(np.ones((3, 2, 2)), [1.0, 2.0]), ValueError, "3 matrices, but 2 values"),
        (lambda: dmf.Sensing(NAN[np.newaxis], [1.0]), ValueError, "nan"),
        (lambda: dmf.Sensing(TWO, [1.0, 2.0]), ValueError, "dimension"),
        (lambda: dmf.Sensing(scipy.sparse.csr_array(TWO), [1.0, 2.0]), ValueError, "shape="),
        (lambda: dmf.Sensing(scipy.sparse.csr_array(TWO), [1, 2], shape=(2, 2)), ValueError, "2 columns"),
        (lambda: dmf.Sensing.gaussian((2, 3), 1, 2), ValueError, "square"),
        (lambda: dmf.Sensing.commuting(3, rank=4), ValueError, "rank 4"),
        (lambda: dmf.Sensing.commuting(3, basis="random"), ValueError, "'random'"),
    ],
)  # fmt: skip
def test_refused_problems(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_masked_entries_are_no_observations():
    masked = np.ma.masked_array([[1.0, 2.0], [3.0, 4.0]], [[0, 1], [0, 0]])
    assert list(dmf.Completion.from_dense(masked).values) == [1.0, 3.0, 4.0]
    with pytest.raises(ValueError, match="1 masked"):
        dmf.Completion([0, 1], [0, 1], masked[0], (2, 2))


def test_numbers_beyond_the_range_of_float32_are_refused_there():
    problem = dmf.Completion([0, 1], [0, 1], [1e39, 1.0], (2, 2))
    with pytest.raises(ValueError, match=r"1e\+39 .* float32"):
        dmf.Loop(problem, dmf.Product(2), dmf.GradientDescent(lr=0.1), dtype="float32")


@pytest.mark.parametrize("kind", PLANTED)
def test_problems_that_measure_the_same_are_equal(kind):
    problem, same = random_problem(kind), random_problem(kind)
    assert problem == same and hash(problem) == hash(same)
    assert problem != random_problem(kind, loss="half_sum") and problem != random_problem(kind, norm=2.5)
    assert problem != problem.values.tolist()
