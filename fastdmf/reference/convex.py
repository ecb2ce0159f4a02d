"""The same programs written for CVXPY: a second opinion, for small problems."""

import warnings
from typing import Any

import numpy as np
import scipy.sparse

from fastdmf._checks import Array
from fastdmf.problems import Completion, Problem, Sensing
from fastdmf.reference.operators import as_rows
from fastdmf.reference.outcome import Status


def solve(problem: Problem, psd: bool, tol: float, max_iterations: int) -> tuple[Array, Array, int, Status]:
    """Matrix, dual, iterations and status from Clarabel, an interior-point method."""
    import cvxpy as cp

    n, p = problem.shape
    w = cp.Variable((n, n), PSD=True) if psd else cp.Variable((n, p))
    size = float(np.max(np.abs(problem.values))) or 1.0
    fit: Any = _rows(problem) @ cp.vec(w, order="C") == problem.values.astype(np.float64) / size
    program = cp.Problem(cp.Minimize(cp.trace(w) if psd else cp.normNuc(w)), [fit])
    accuracy = max(0.01 * tol, 1e-11)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what CVXPY says of its accuracy, the certificate says better
        try:
            program.solve(
                solver=cp.CLARABEL,
                tol_gap_rel=accuracy,
                tol_gap_abs=accuracy,
                tol_feas=accuracy,
                max_iter=max_iterations,
            )
        except cp.SolverError:
            return np.zeros((n, p)), np.zeros(problem.values.size), 0, Status.STALLED
    iterations = int(program.solver_stats.num_iters or 0)
    # CVXPY's multiplier ν of A(W) = y is that of the Lagrangian + νᵀ(A(W) − y).
    dual = np.zeros(problem.values.size) if fit.dual_value is None else -np.asarray(fit.dual_value).ravel()
    if program.status in (cp.INFEASIBLE, cp.INFEASIBLE_INACCURATE):
        return np.zeros((n, p)), dual, iterations, Status.INFEASIBLE
    matrix = np.zeros((n, p)) if w.value is None else size * np.asarray(w.value)
    status = Status.MAX_ITERATIONS if program.status == cp.USER_LIMIT else Status.CONVERGED
    return matrix, dual, iterations, status


def _rows(problem: Problem) -> scipy.sparse.csr_array:
    """The (m, n·p) matrix F with A(W) = F vec(W)."""
    n, p = problem.shape
    m = problem.values.size
    if isinstance(problem, Completion):
        place = problem.rows.astype(np.int64) * p + problem.cols
        return scipy.sparse.csr_array((np.ones(m), (np.arange(m), place)), shape=(m, n * p))
    assert isinstance(problem, Sensing)
    return scipy.sparse.csr_array(as_rows(problem, psd=False))
