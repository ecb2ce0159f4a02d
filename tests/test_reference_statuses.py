"""How the judges end where there is no solution, hardly one, or no time."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import fastdmf as dmf
from fastdmf.reference import (
    Status,
    certificates,
    min_nuclear_norm,
    operators,
    spectral,
    splitting,
)
from tests.judged import GENERAL, PSD, UNIT, check_certificate

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


def test_a_proof_of_infeasibility_counts_whatever_the_solver_says():
    problem = dmf.Completion(*IMPOSSIBLE["diagonal"], (2, 2))
    operator = operators.orthonormal(problem, psd=True)
    zero, ray = np.zeros((2, 2)), -np.ones(1)
    best = certificates.certify(
        problem, operator, spectral.TraceOfPsd(), zero, ray, False, 7, Status.STALLED, 1e-8
    )
    assert best.status == Status.INFEASIBLE and best.lower == np.inf


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


def test_importing_the_package_loads_neither_cvxpy_nor_the_judges():
    code = (
        "import sys, fastdmf; assert 'cvxpy' not in sys.modules and 'fastdmf.reference' not in sys.modules; "
        "fastdmf.reference.min_nuclear_norm; assert not {'cvxpy', 'numba'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
