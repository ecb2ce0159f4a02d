"""The judges, against CVXPY, linear programs, known answers and certificates recomputed in plain NumPy."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse
from threadpoolctl import threadpool_info, threadpool_limits

import fastdmf as dmf
from fastdmf.reference import (
    Status,
    Uniqueness,
    low_rank,
    min_nuclear_norm,
    splitting,
)
from tests.judged import CASES, GENERAL, PSD, check_certificate

# --- the certificate, and a second opinion --------------------------------------------------------


@pytest.mark.parametrize(("make", "psd"), CASES)
def test_certificate_and_second_opinion(make, psd):
    problem = make()
    best = min_nuclear_norm(problem, psd, tol=1e-9)
    assert best.status == Status.CONVERGED and best.gap <= 1e-9
    assert best.violation <= 1e-12 * best.upper
    check_certificate(problem, best, psd)
    other = min_nuclear_norm(problem, psd, tol=1e-6, solver="cvxpy")
    check_certificate(problem, other, psd)
    assert other.status == Status.CONVERGED and other.violation < 1e-6 * best.upper
    # Each solver's bounds enclose the other's value.
    assert other.lower <= best.upper * (1 + 1e-12) and best.lower <= other.upper * (1 + 1e-7)
    assert other.upper == pytest.approx(best.upper, rel=1e-6)
    if best.unique == Uniqueness.UNIQUE:
        np.testing.assert_allclose(best.matrix, other.matrix, atol=1e-4 * np.abs(best.matrix).max())


@pytest.mark.parametrize(("make", "psd"), CASES)
@pytest.mark.parametrize("solver", ["splitting", "cvxpy"])
def test_the_lower_bound_holds_in_exact_arithmetic(make, psd, solver):
    problem: Any = make()
    best = min_nuclear_norm(problem, psd, solver=solver)
    y, dual = map(fractions, (problem.values, best.dual))
    assert Fraction(best.lower) <= y @ dual
    if isinstance(problem, dmf.Completion):
        adjoint = fractions(problem.adjoint(best.dual))
    else:
        matrices = problem.matrices.toarray() if problem.is_sparse else problem.matrices
        adjoint = (dual @ fractions(matrices.reshape(dual.size, -1))).reshape(problem.shape)
    if psd:
        assert is_positive_definite(fractions(np.eye(len(adjoint))) - (adjoint + adjoint.T) / 2)
    else:
        assert is_positive_definite(fractions(np.eye(len(adjoint))) - adjoint @ adjoint.T)


def fractions(array):
    return np.vectorize(Fraction, otypes=[object])(np.asarray(array, float))


def is_positive_definite(matrix):
    """By exact elimination."""
    if matrix[0, 0] <= 0:
        return False
    if len(matrix) == 1:
        return True
    return is_positive_definite(matrix[1:, 1:] - np.outer(matrix[1:, 0], matrix[0, 1:]) / matrix[0, 0])


@pytest.mark.parametrize("m", [1000, 2500])
def test_a_gap_of_1e_10_on_the_instances_of_the_paper(m):
    problem = dmf.Completion.random(rank=5, observed=m, seed=1)
    best = min_nuclear_norm(problem, tol=1e-10)
    check_certificate(problem, best, psd=False)
    assert best.gap <= 1e-10 and best.violation == 0 and best.unique == Uniqueness.UNIQUE


def test_bounds_hold_when_the_iterations_run_out():
    problem = dmf.Completion.random(rank=5, observed=2000, seed=1)
    early, late = min_nuclear_norm(problem, max_iterations=30), min_nuclear_norm(problem)
    assert (
        early.status == Status.MAX_ITERATIONS
        and early.iterations == 30
        and "max_iterations" in early.status.advice
    )
    check_certificate(problem, early, psd=False)
    assert early.lower < late.lower <= late.upper < early.upper


def test_a_gap_below_rounding_ends_as_stalled():
    best = min_nuclear_norm(dmf.Completion.random((10, 10), 1, 60), tol=1e-300)
    assert best.status in (Status.STALLED, Status.CONVERGED) and best.gap < 1e-12


# --- known answers --------------------------------------------------------------------------------


def test_two_by_two():
    """With 1, a, b observed the last entry is free: for ab ≤ 1 rank one, W₂₂ = ab, is shortest."""
    problem = dmf.Completion([0, 0, 1], [0, 1, 0], [1.0, 0.5, 0.8], (2, 2))
    best = min_nuclear_norm(problem, tol=1e-12)
    assert best.matrix[1, 1] == pytest.approx(0.4, abs=1e-6)
    assert best.upper == pytest.approx(np.sqrt(1.25 * 1.64), rel=1e-11)
    assert best.rank == 1 and best.unique == Uniqueness.UNIQUE


def test_disconnected_blocks_do_not_speak():
    """Observed blocks that share no row or column: the norm of their direct sum, and zeros between."""
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((3, 4)), rng.standard_normal((4, 2))
    matrix = np.full((7, 6), np.nan)
    matrix[:3, :4], matrix[3:, 4:] = a, b
    problem = dmf.Completion.from_dense(matrix)
    best = min_nuclear_norm(problem, tol=1e-11)
    expected = sum(np.linalg.svd(x, compute_uv=False).sum() for x in (a, b))
    assert best.upper == pytest.approx(expected, rel=1e-10)
    np.testing.assert_allclose(best.matrix[:3, 4:], 0, atol=1e-5)


def test_a_diagonal_alone_leaves_many_optima():
    """tr W ≤ ‖W‖_*: every W ⪰ 0 with this diagonal is optimal."""
    problem = dmf.Completion([0, 1, 2], [0, 1, 2], [1.0, 2.0, 3.0], (3, 3))
    for psd in (False, True):
        best = min_nuclear_norm(problem, psd)
        assert best.upper == pytest.approx(6, rel=1e-8)
        assert best.unique == Uniqueness.NOT_UNIQUE


@pytest.mark.parametrize("psd", [False, True])
def test_exact_recovery(psd):
    problem: Any = dmf.Sensing.gaussian((20, 20), 2, 180, symmetric=psd, seed=3)
    best = min_nuclear_norm(problem, psd, tol=1e-10)
    assert best.unique == Uniqueness.UNIQUE and best.rank == 2
    assert problem.test_error(best.matrix) < 1e-7
    full = dmf.Completion.from_dense(problem.truth)
    assert np.array_equal(min_nuclear_norm(full).matrix, problem.truth)


@pytest.mark.parametrize("basis", ["diagonal", "rotated"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_commuting_measurements_give_a_linear_program(basis, seed):
    """min Σ x s.t. a x = y, x ≥ 0, on the eigenvalues (Gunasekar et al. 2017, Theorem 1)."""
    problem: Any = dmf.Sensing.commuting(10, 2, 3, basis=basis, seed=seed)
    program = scipy.optimize.linprog(
        np.ones(10), A_eq=problem.eigenvalues, b_eq=problem.values, method="highs"
    )
    best = min_nuclear_norm(problem, psd=True, tol=1e-9)
    assert best.upper == pytest.approx(program.fun, rel=2e-9)
    check_certificate(problem, best, psd=True)
    eigenvalues = np.diag(problem.basis.T @ best.matrix @ problem.basis)
    np.testing.assert_allclose(eigenvalues, program.x, atol=1e-3 * program.x.max())


def test_weights_on_entries_are_completion():
    plain: Any = dmf.Completion.random((10, 8), 2, 50, seed=6)
    weights = np.linspace(0.5, 2, 50)
    rows = scipy.sparse.csr_array((weights, (range(50), plain.rows * 8 + plain.cols)), shape=(50, 80))
    weighted = dmf.Sensing(rows, weights * plain.values, shape=(10, 8))
    a, b = min_nuclear_norm(plain, tol=1e-10), min_nuclear_norm(weighted, tol=1e-10)
    assert b.upper == pytest.approx(a.upper, rel=1e-10)
    np.testing.assert_allclose(b.dual * weights, a.dual, atol=1e-3)


@pytest.mark.parametrize("psd", [False, True])
def test_scale_and_transposition(psd):
    problem: Any = PSD["completion"]() if psd else GENERAL["completion"]()
    best = min_nuclear_norm(problem, psd, tol=1e-10)
    n, p = problem.shape
    turned = dmf.Completion(problem.cols, problem.rows, 1e6 * problem.values, (p, n))
    other = min_nuclear_norm(turned, psd, tol=1e-10)
    assert other.upper == pytest.approx(1e6 * best.upper, rel=1e-10)
    check_certificate(turned, other, psd)


# --- large problems -------------------------------------------------------------------------------


@pytest.mark.parametrize(("rank", "observed"), [(2, 1500), (8, 1200)])
def test_low_rank_plus_sparse_form_agrees_with_the_dense_one(rank, observed, monkeypatch):
    """With exact recovery, and without."""
    problem = dmf.Completion.random((60, 80), rank, observed, seed=5)
    dense = min_nuclear_norm(problem, tol=1e-9)
    monkeypatch.setattr(low_rank, "LARGE", 10)
    sparse = min_nuclear_norm(problem, tol=1e-7)
    assert sparse.status == Status.CONVERGED and sparse.violation == 0
    check_certificate(problem, sparse, psd=False)
    assert sparse.upper == pytest.approx(dense.upper, rel=1.1e-7)
    again = min_nuclear_norm(problem, tol=1e-7, init=sparse)
    assert again.status == Status.CONVERGED and again.iterations <= sparse.iterations
    zero = dmf.Completion(problem.rows, problem.cols, np.zeros(observed), (60, 80))
    assert min_nuclear_norm(zero).upper == 0


# --- starting from a neighbour --------------------------------------------------------------------


def test_warm_starts_along_a_sweep():
    sweep = [dmf.Completion.random(rank=3, shape=(40, 40), observed=m, seed=0) for m in (800, 820)]
    cold = [min_nuclear_norm(p, tol=1e-9) for p in sweep]
    warm = min_nuclear_norm(sweep[1], tol=1e-9, init=cold[0])
    assert warm.upper == pytest.approx(cold[1].upper, rel=2e-9)
    again = min_nuclear_norm(sweep[1], tol=1e-9, init=cold[1])
    assert again.iterations <= 30 < cold[1].iterations
    from_matrix = min_nuclear_norm(sweep[1], tol=1e-9, init=cold[1].matrix)
    assert from_matrix.upper == pytest.approx(cold[1].upper, rel=2e-9)


@pytest.mark.parametrize("threads", [1, 2])
def test_blas_is_held_and_given_back(monkeypatch, threads):
    """BLAS on its default number of threads makes small problems ten times slower on a busy machine."""
    seen = []

    def solve(*arguments):
        seen.append({lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"})
        return splitting_solve(*arguments)

    splitting_solve = splitting.solve
    monkeypatch.setattr(splitting, "solve", solve)
    with threadpool_limits(2, user_api="blas"):
        dmf.reference.min_nuclear_norm(dmf.Completion.random((10, 10), 1, observed=60), threads=threads)
        after = {lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"}
    assert max(seen[0]) == threads
    assert max(after) == 2
