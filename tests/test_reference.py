"""The judges, against CVXPY, linear programs, known answers and certificates recomputed in plain NumPy."""

import subprocess
import sys
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse

import fastdmf as dmf
from fastdmf.reference import (
    Status,
    Uniqueness,
    certificates,
    low_rank,
    min_nuclear_norm,
    operators,
    projected_gradient,
    spectral,
    splitting,
)
from tests import naive

UNIT = np.eye(4).reshape(4, 2, 2)


def sparse_sensing(seed=4):
    rng = np.random.default_rng(seed)
    matrices = rng.standard_normal((20, 12, 9)) * (rng.random((20, 12, 9)) < 0.2)
    return dmf.Sensing(scipy.sparse.csr_array(matrices.reshape(20, -1)), rng.standard_normal(20), (12, 9))


def with_skew_parts():
    plain = dmf.Sensing.gaussian((8, 8), 2, 15, seed=2)
    skew = np.random.default_rng(0).standard_normal((15, 8, 8))
    return dmf.Sensing(plain.matrices + skew - skew.transpose(0, 2, 1), plain.values)


GENERAL = {
    "completion": lambda: dmf.Completion.random((12, 9), 2, 60, seed=1),
    "tall and scarce": lambda: dmf.Completion.random((30, 8), 2, 50, seed=1),
    "gaussian": lambda: dmf.Sensing.gaussian((8, 6), 1, 20, symmetric=False, seed=1),
    "float32": lambda: dmf.Sensing(
        dmf.Sensing.gaussian((8, 6), 1, 20, symmetric=False).matrices.astype(np.float32),
        np.ones(20, np.float32),
    ),
    "sparse": sparse_sensing,
}
PSD = {
    "completion": lambda: dmf.Completion.random((10, 10), 2, 60, symmetric=True, seed=1),
    "gaussian": lambda: dmf.Sensing.gaussian((8, 8), 2, 15, seed=1),
    "skew parts": with_skew_parts,
    "rank one": lambda: dmf.Sensing.rank_one((8, 8), 1, 20, seed=1),
}
CASES = [pytest.param(make, False, id=name) for name, make in GENERAL.items()]
CASES += [pytest.param(make, True, id=f"{name} psd") for name, make in PSD.items()]


def check_certificate(problem, best, psd, rounding=1e-14):
    """Bounds, gap and violation from the returned arrays alone, with the operators of naive.py."""
    operator: Any = naive.objective_of(problem).operator
    y = operator.adjoint(best.dual)
    if psd:
        np.testing.assert_allclose(best.matrix, best.matrix.T, atol=1e-12 * best.upper)
        assert np.linalg.eigvalsh(best.matrix)[0] > -1e-12 * best.upper
        assert np.linalg.eigvalsh((y + y.T) / 2)[-1] <= 1 + rounding
        upper = np.trace(best.matrix)
    else:
        assert np.linalg.svd(y, compute_uv=False)[0] <= 1 + rounding
        upper = np.linalg.svd(best.matrix, compute_uv=False).sum()
    lower = problem.values.astype(float) @ best.dual
    rounded = 1e-13 + 1e-15 * (np.abs(problem.values) @ np.abs(best.dual)) / lower
    assert best.upper == pytest.approx(upper, rel=1e-13)
    assert best.lower == pytest.approx(lower, rel=rounded)
    assert best.gap == pytest.approx(max(upper - lower, 0) / lower, abs=rounded)
    assert best.violation == pytest.approx(
        np.max(np.abs(operator.measure(best.matrix) - problem.values)), abs=1e-14 * best.upper
    )


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
    problem = dmf.Sensing.gaussian((20, 20), 2, 180, symmetric=psd, seed=3)
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


# --- what cannot be, and what is nearly so --------------------------------------------------------

IMPOSSIBLE = {
    "diagonal": ([0], [0], [-2.0]),
    "indefinite": ([0, 1, 0], [0, 1, 1], [1.0, 1.0, 2.0]),
}


def test_contradictory_measurements_come_with_a_proof():
    matrices = np.array([UNIT[0], UNIT[3], UNIT[0] + UNIT[3], 0 * UNIT[0]])
    for values in ([1, 2, 4, 0], [1, 2, 3, 1], [1, 2, 2.9, 0]):
        best = min_nuclear_norm(dmf.Sensing(matrices, values))
        assert best.status == Status.INFEASIBLE and best.lower == best.upper == np.inf
        np.testing.assert_allclose(np.einsum("m,mij->ij", best.dual, matrices), 0, atol=1e-12)
        assert np.dot(values, best.dual) > 1e-3
    twice = dmf.Completion([0, 1], [1, 0], [1.0, 2.0], (2, 2))
    assert min_nuclear_norm(twice, psd=True).status == Status.INFEASIBLE
    assert min_nuclear_norm(twice).status == Status.CONVERGED


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_no_positive_semidefinite_matrix_fits(name):
    problem = dmf.Completion(*IMPOSSIBLE[name], (2, 2))
    best = min_nuclear_norm(problem, psd=True)
    assert best.status == Status.INFEASIBLE and "semidefinite" in best.status.advice
    ray = problem.adjoint(best.dual)
    # tr X ≥ yᵀλ/λ_max(A*(λ)) exceeds every trace worth considering.
    bound = problem.values @ best.dual
    assert bound > 0 and np.linalg.eigvalsh((ray + ray.T) / 2)[-1] <= 1e-8 * bound


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_cvxpy_reports_the_impossible_as_a_status(name):
    problem = dmf.Completion(*IMPOSSIBLE[name], (2, 2))
    best = min_nuclear_norm(problem, psd=True, solver="cvxpy")
    assert best.status == Status.INFEASIBLE and best.lower == best.gap == np.inf
    ray = problem.adjoint(best.dual)
    bound = problem.values @ best.dual
    assert bound > 0 and np.linalg.eigvalsh((ray + ray.T) / 2)[-1] <= 1e-8 * bound
    contradictory = dmf.Sensing(np.array([UNIT[0], 2 * UNIT[0]]), [1.0, 3.0])
    assert min_nuclear_norm(contradictory, solver="cvxpy").status == Status.INFEASIBLE


@pytest.mark.parametrize("solver", ["splitting", "cvxpy"])
def test_feasible_only_in_the_limit_ends_as_stalled(solver):
    """X₀₀ = 0 and X₀₁ = 1: ε and 1 fit for every ε > 0, with X₁₁ = 1/ε."""
    limit = dmf.Completion([0, 0], [0, 1], [0.0, 1.0], (2, 2))
    best = min_nuclear_norm(limit, psd=True, solver=solver)
    assert best.status == Status.STALLED and best.upper == best.gap == np.inf
    assert "limit" in best.status.advice


def test_a_claim_of_infeasibility_is_checked():
    problem = PSD["completion"]()
    operator = operators.orthonormal(problem, psd=True)
    claim = certificates.certify(
        problem, operator, spectral.TraceOfPsd(), np.eye(10), np.ones(60), False, 7, Status.INFEASIBLE, 1e-8
    )  # fmt: skip
    assert claim.status == Status.STALLED and claim.lower < np.inf


@pytest.mark.parametrize("solver", ["splitting", "cvxpy"])
@pytest.mark.parametrize("size", [1e-300, 1e200])
def test_values_of_any_size(solver, size):
    problem = dmf.Completion([0, 0, 1], [0, 1, 1], np.array([1.0, 2.0, -1.0]) * size, (2, 3))
    best = min_nuclear_norm(problem, solver=solver)
    unit = min_nuclear_norm(dmf.Completion(problem.rows, problem.cols, [1.0, 2.0, -1.0], (2, 3)))
    assert best.status == Status.CONVERGED
    assert best.upper / size == pytest.approx(unit.upper, rel=1e-8)


def test_cvxpy_obeys_the_limit_on_iterations():
    problem = GENERAL["completion"]()
    best = min_nuclear_norm(problem, solver="cvxpy", max_iterations=2)
    assert best.status == Status.MAX_ITERATIONS and best.iterations == 2
    check_certificate(problem, best, psd=False)


def test_an_interruption_ends_with_the_bounds_so_far(monkeypatch):
    problem = dmf.Completion.random(rank=5, observed=2000, seed=1)
    plain, calls = splitting.DouglasRachford.advance, []

    def advance(self, accelerate):
        calls.append(accelerate)
        if len(calls) == 40:
            raise KeyboardInterrupt
        plain(self, accelerate)

    monkeypatch.setattr(splitting.DouglasRachford, "advance", advance)
    best = min_nuclear_norm(problem)
    assert best.status == Status.INTERRUPTED and best.iterations == 39 and "init" in best.status.advice
    check_certificate(problem, best, psd=False)
    assert 1e-8 < best.gap < np.inf


def test_rank_is_told_early_near_the_phase_transition():
    """Three singular values are 8e-3, 4e-3 and 6e-4 of the first, and some that only correct A(W) are larger
    than the gap: a threshold on singular values alone would mistake one for the other."""
    problem = dmf.Completion.random(rank=5, observed=3000, seed=3)
    early, late = min_nuclear_norm(problem, tol=1e-4), min_nuclear_norm(problem, tol=1e-9)
    assert early.rank == late.rank == 8


def test_dependent_and_nearly_dependent_measurements():
    planted: Any = dmf.Sensing.gaussian((12, 12), 1, 60, symmetric=False, seed=2)
    matrices = np.array(planted.matrices)
    matrices[5] = matrices[6] + matrices[7]
    matrices[8] = matrices[9] + 1e-6 * matrices[8]
    problem = dmf.Sensing(matrices, matrices.reshape(60, -1) @ planted.truth.ravel(), truth=planted.truth)
    best = min_nuclear_norm(problem, tol=1e-9)
    assert best.status == Status.CONVERGED and best.violation < 1e-12
    assert problem.test_error(best.matrix) < 1e-5
    # A*(λ) is a difference of terms a million times larger.
    check_certificate(problem, best, psd=False, rounding=1e-10)


@pytest.mark.parametrize("psd", [False, True])
def test_tiny_problems(psd):
    one = dmf.Completion([0], [0], [2.0], (1, 1))
    best = min_nuclear_norm(one, psd)
    assert (
        best.upper == pytest.approx(2, rel=1e-14)
        and best.gap < 1e-14
        and best.matrix[0, 0] == pytest.approx(2)
        and best.rank == 1
    )
    zero = min_nuclear_norm(dmf.Completion([0, 1], [0, 1], [0.0, 0.0], (2, 2)), psd)
    assert zero.upper == zero.lower == zero.gap == zero.rank == 0 and zero.status == Status.CONVERGED
    nothing = min_nuclear_norm(dmf.Sensing(np.zeros((1, 2, 2)), [0.0]), psd)
    assert nothing.upper == 0 and nothing.status == Status.CONVERGED


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


# --- X_gd -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gaussian", "skew parts"])
def test_projected_gradient_is_the_plain_iteration(name):
    problem: Any = PSD[name]()
    matrices = np.array([(a + a.T) / 2 for a in problem.matrices])
    operator = naive.Inner(matrices)
    flat = matrices.reshape(15, -1)
    eta = 1 / np.linalg.eigvalsh(flat @ flat.T)[-1]
    x = np.zeros((8, 8))
    for _ in range(40):
        w, q = np.linalg.eigh(x - eta * operator.adjoint(operator.measure(x) - problem.values))
        x = (q * np.maximum(w, 0)) @ q.T
    done = projected_gradient(problem, max_iterations=40)
    assert done.iterations == 40 and done.status == Status.MAX_ITERATIONS
    assert done.step == pytest.approx(eta, rel=1e-12)
    np.testing.assert_allclose(done.matrix, x, atol=1e-12)
    half = projected_gradient(problem, step=eta / 2)
    assert half.status == Status.CONVERGED and half.residual <= 1e-10 and half.step == eta / 2
    whole = projected_gradient(problem)
    assert np.linalg.norm(operator.measure(whole.matrix) - problem.values) <= 1.01e-10 * np.linalg.norm(
        problem.values
    )


def test_without_projection_the_limit_has_the_least_frobenius_norm():
    for problem in (
        dmf.Completion.random((7, 5), 2, 20),
        dmf.Sensing.gaussian((7, 5), 2, 20, symmetric=False),
    ):
        flat = np.array([problem.adjoint(e).ravel() for e in np.eye(20)])
        done = projected_gradient(problem, psd=False, tol=1e-13)
        np.testing.assert_allclose(done.matrix.ravel(), np.linalg.pinv(flat) @ problem.values, atol=1e-10)


def test_svd_initialization_descends_from_the_truncated_x_gd():
    problem = dmf.Sensing.gaussian((10, 10), 2, 25, seed=0)
    x_gd = projected_gradient(problem).matrix
    values, vectors = np.linalg.eigh(x_gd)
    top = (vectors[:, -3:] * values[-3:]) @ vectors[:, -3:].T
    run = dmf.run(
        problem, factorization=dmf.Symmetric(3), init=dmf.FromProduct(x_gd), lr=1.0, stop=dmf.MaxSteps(2000)
    )  # fmt: skip
    assert run.trace.loss[0] == pytest.approx(problem.loss_at(top), rel=1e-10)
    assert run.loss < 0.05 * problem.loss_at(top)


def test_projected_gradient_ends_with_a_status():
    impossible = dmf.Completion([0, 1, 0], [0, 1, 1], [1.0, 1.0, 2.0], (2, 2))
    done = projected_gradient(impossible)
    assert done.status == Status.STALLED and done.residual > 0.1
    assert projected_gradient(dmf.Completion([0], [0], [0.0], (2, 2))).iterations == 0


# --- what is refused, and what stays outside ------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"psd": True}, ValueError, r"\(12, 9\)"),
        ({"tol": 0}, ValueError, "tol"),
        ({"solver": "scs"}, ValueError, "'scs'"),
        ({"init": np.zeros((9, 12))}, ValueError, r"\(9, 12\)"),
        ({"init": np.zeros((12, 9)), "solver": "cvxpy"}, ValueError, "init"),
        ({"max_iterations": 0}, ValueError, "max_iterations"),
    ],
)
def test_refused(settings, error, message):
    with pytest.raises(error, match=message):
        min_nuclear_norm(GENERAL["completion"](), **settings)
    with pytest.raises(TypeError, match="problem"):
        min_nuclear_norm(np.eye(2))  # type: ignore[arg-type]


def test_refused_descents():
    problem = GENERAL["completion"]()
    with pytest.raises(ValueError, match=r"\(12, 9\)"):
        projected_gradient(problem)
    with pytest.raises(ValueError, match="too large"):
        projected_gradient(problem, psd=False, step=10.0)
    with pytest.raises(ValueError, match="vanish"):
        projected_gradient(dmf.Sensing(np.zeros((1, 2, 2)), [1.0]))


def test_importing_the_package_loads_neither_cvxpy_nor_the_judges():
    code = (
        "import sys, fastdmf; assert 'cvxpy' not in sys.modules and 'fastdmf.reference' not in sys.modules; "
        "fastdmf.reference.min_nuclear_norm; assert not {'cvxpy', 'numba'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
