"""The minimum nuclear norm solution, with proof."""

from typing import Any

import numpy as np
import numpy.typing as npt

from fastdmf._blas import blas_threads
from fastdmf._checks import Array, count, one_of, positive, real_array
from fastdmf.problems import Completion, Problem
from fastdmf.reference import convex, low_rank, splitting
from fastdmf.reference.certificates import certify, feasible_psd
from fastdmf.reference.operators import Measurements, orthonormal
from fastdmf.reference.outcome import Minimum, Status, Uniqueness
from fastdmf.reference.spectral import NuclearNorm, Penalty, TraceOfPsd


def min_nuclear_norm(
    problem: Problem,
    psd: bool = False,
    tol: float = 1e-8,
    solver: str = "splitting",
    *,
    init: Minimum | npt.ArrayLike | None = None,
    max_iterations: int = 20_000,
    threads: int = 1,
) -> Minimum:
    """Solve min ‖W‖_* s.t. A(W) = y, or min tr X s.t. A(X) = y, X ⪰ 0, with a certificate.

    Parameters
    ----------
    problem : Completion or Sensing
        The measurements.  With ``psd`` they act through their symmetric part.
    psd : bool
        Minimize the trace over positive semidefinite matrices (Gunasekar et al. 2017) instead of the
        nuclear norm over all (Arora et al. 2019).
    tol : float
        Relative gap (upper − lower)/lower at which to stop.
    solver : {"splitting", "cvxpy"}
        Accelerated Douglas–Rachford splitting, or the model written for CVXPY and solved by Clarabel, for
        a second opinion on small problems.
    init : Minimum or (n, p) array_like, optional
        Where the splitting starts: the result of an earlier call, which it continues, or a matrix.  The
        result for a neighbouring problem saves little: in sweeps of m by 10 … 500 entries, mostly less than a
        tenth of the iterations.
    max_iterations : int
        Limit on the iterations of the solver.
    threads : int
        Threads of BLAS.

    Returns
    -------
    Minimum
        Matrix, dual and bounds.  The bounds are recomputed from the matrix and the dual alone.  Ctrl-C ends
        the splitting with the status "interrupted" and the bounds so far.

    Raises
    ------
    ValueError, TypeError
        For ``psd`` on a matrix that is not square, tol ≤ 0, an ``init`` of another shape or with "cvxpy".

    Notes
    -----
    The dual of min ‖W‖_* is max yᵀλ s.t. ‖A*(λ)‖ ≤ 1 (operator norm), that of the trace over X ⪰ 0 is
    max yᵀλ s.t. λ_max(A*(λ)) ≤ 1, where A*(λ) = Σ λ_i A_i, or its symmetric part.  A small gap does not
    by itself mean that W is close to the optimum in every entry; see ``unique``.

    Examples
    --------
    >>> import fastdmf as dmf
    >>> problem = dmf.Completion.random(rank=2, observed=4000, seed=0)
    >>> best = dmf.reference.min_nuclear_norm(problem)
    >>> best.rank, str(best.status), str(best.unique), best.gap < 1e-8
    (2, 'converged', 'unique', True)
    """
    if not isinstance(problem, Problem):
        raise TypeError(f"problem must be a Completion or a Sensing, not {problem!r}")
    positive("tol", tol)
    one_of("solver", solver, ("splitting", "cvxpy"))
    count("max_iterations", max_iterations)
    n, p = problem.shape
    if psd and n != p:
        raise ValueError(f"psd=True needs a square matrix, but the problem has shape {problem.shape}")
    if init is not None and solver == "cvxpy":
        raise ValueError('init is for solver="splitting"; CVXPY starts by itself')
    count("threads", threads)
    with blas_threads(threads):
        return _solve(problem, psd, tol, solver, init, max_iterations)


def _solve(
    problem: Problem,
    psd: bool,
    tol: float,
    solver: str,
    init: Minimum | npt.ArrayLike | None,
    max_iterations: int,
) -> Minimum:
    begin = _start(problem, init, psd)
    penalty = TraceOfPsd() if psd else NuclearNorm()
    operator = orthonormal(problem, psd)
    if operator.contradiction is not None:
        return _infeasible(problem, operator)
    if solver == "cvxpy":
        matrix, dual, iterations, status = convex.solve(problem, psd, tol, max_iterations)
        point = None if status is Status.INFEASIBLE else _made_feasible(operator, penalty, matrix)
        feasible = point is not None
        matrix = matrix if point is None else point
        return certify(problem, operator, penalty, matrix, dual, feasible, iterations, status, tol)
    target = 0.9 * tol  # a little room for the rounding that the certificate allows for
    if isinstance(problem, Completion) and not psd and min(problem.shape) > low_rank.LARGE:
        done = low_rank.solve(problem, target, begin, max_iterations)
    else:
        done = splitting.solve(operator, penalty, target, begin, max_iterations)
    best = done.best
    matrix = best.point
    feasible = best.upper < np.inf
    if isinstance(problem, Completion) and feasible and not psd:
        matrix[problem.rows, problem.cols] = problem.values  # exactly
    dual = operator.dual(best.dual)
    return certify(problem, operator, penalty, matrix, dual, feasible, done.iterations, done.status, tol)


def _start(problem: Problem, init: Any, psd: bool) -> splitting.Start | None:
    """A matrix and a dual matrix to start from."""
    if init is None:
        return None
    matrix = real_array("init", init.matrix if isinstance(init, Minimum) else init, ndim=2)
    matrix = matrix.astype(np.float64)
    if matrix.shape != problem.shape:
        raise ValueError(f"init has shape {matrix.shape}, but the problem has shape {problem.shape}")
    if isinstance(init, Minimum) and init.dual.shape == problem.values.shape:
        dual_matrix = problem.adjoint(init.dual)
    else:
        left, sigma, right_t = np.linalg.svd(matrix, full_matrices=False)
        r = int(np.count_nonzero(sigma > 1e-6 * max(sigma[0], 1e-300)))
        dual_matrix = left[:, :r] @ right_t[:r]  # the subgradient of ‖·‖_* of least norm
    if psd:
        matrix, dual_matrix = 0.5 * (matrix + matrix.T), 0.5 * (dual_matrix + dual_matrix.T)
    return splitting.Start(matrix, dual_matrix)


def _made_feasible(operator: Measurements, penalty: Penalty, matrix: Array) -> Array | None:
    """A matrix near another one that satisfies its measurements to rounding; None if none was found."""
    if not penalty.psd:
        return matrix - operator.adjoint(operator.measure(matrix) - operator.values)
    size = float(np.linalg.norm(matrix, 2))
    for threshold in (1e-8, 1e-6, 1e-4):  # of what an interior point leaves where there should be zeros
        point = feasible_psd(operator, penalty.shrink(matrix, threshold * size), operator.values)
        if point is not None:
            return point
    return None


def _infeasible(problem: Problem, operator: Measurements) -> Minimum:
    """The result when the measurements contradict each other: the least-squares solution of some of them."""
    matrix: Array = operator.adjoint(operator.values)
    assert operator.contradiction is not None
    infinite = float("inf")
    violation = float(np.max(np.abs(problem.residual(matrix))))
    rank = int(np.linalg.matrix_rank(matrix))
    return Minimum(
        matrix, operator.contradiction, infinite, infinite, violation, rank, 0, Status.INFEASIBLE,
        Uniqueness.UNDECIDED,
    )  # fmt: skip
