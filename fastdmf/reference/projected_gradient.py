"""X_gd of Gunasekar et al. (2017): where projected gradient descent on X ends that starts at zero."""

from dataclasses import dataclass

import numpy as np
from scipy.sparse.linalg import LinearOperator, eigsh

from fastdmf._blas import blas_threads
from fastdmf._checks import Array, count, positive
from fastdmf.problems import Problem
from fastdmf.reference.outcome import Status

#: The residual is stalled when it has not fallen by a thousandth over so many iterations.
PATIENCE = 1000


@dataclass(frozen=True, eq=False)
class Descent:
    """Where projected gradient descent ended.

    Attributes
    ----------
    matrix : (n, p) ndarray
        X_gd.
    step : float
        The step η, which is part of what X_gd is.
    residual : float
        ‖A(X) − y‖/‖y‖.
    iterations : int
        Steps taken.
    status : Status
        Why it ended; ``status.advice`` says what to do.
    """

    matrix: Array
    step: float
    residual: float
    iterations: int
    status: Status

    def __repr__(self) -> str:
        n, p = self.matrix.shape
        return f"<Descent {n}×{p}, residual {self.residual:.1e}, {self.status} after {self.iterations} steps>"


def projected_gradient(
    problem: Problem,
    psd: bool = True,
    step: float | None = None,
    tol: float = 1e-10,
    *,
    max_iterations: int = 100_000,
    threads: int = 1,
) -> Descent:
    """Iterate X ← P₊(X − η A*(A(X) − y)) from zero until A(X) = y.

    P₊ projects onto the positive semidefinite matrices, where measurements act through their symmetric part;
    with ``psd=False`` there is no projection, and the limit is A⁺y, of minimum Frobenius norm.

    Parameters
    ----------
    problem : Completion or Sensing
        The measurements.
    psd : bool
        Whether to project.
    step : float, optional
        η, 1/λ_max(AA*) by default.
    tol : float
        ‖A(X) − y‖ at which to stop, relative to ‖y‖.
    max_iterations : int
        Limit on the steps.
    threads : int
        Threads of BLAS.

    Returns
    -------
    Descent
        X_gd, its step and its residual.

    Raises
    ------
    ValueError, TypeError
        For ``psd`` on a matrix that is not square, a tol that is not positive, a step that is not between 0
        and 2/λ_max(AA*).

    Notes
    -----
    X_gd is the "full-rank global optimum from gradient descent on X" of Gunasekar et al., section 2.  It is
    no unique object: the step changes it by about one percent, and acceleration by ten, so the
    iterations are plain and the measurements are taken as they are.  Truncated to the width d it gives the
    "SVD initialization" of the paper, from which U descends:

    >>> import fastdmf as dmf
    >>> problem = dmf.Sensing.gaussian((10, 10), rank=2, measurements=40, seed=0)
    >>> x_gd = dmf.reference.projected_gradient(problem)
    >>> start = dmf.FromProduct(x_gd.matrix)
    >>> run = dmf.run(problem, factorization=dmf.Symmetric(5), init=start, lr=0.1, stop=dmf.MaxSteps(10))
    >>> str(x_gd.status), run.factors[0].shape
    ('converged', (10, 5))
    """
    if not isinstance(problem, Problem):
        raise TypeError(f"problem must be a Completion or a Sensing, not {problem!r}")
    n, p = problem.shape
    if psd and n != p:
        raise ValueError(f"psd=True needs a square matrix, but the problem has shape {problem.shape}")
    positive("tol", tol)
    count("max_iterations", max_iterations)
    count("threads", threads)
    with blas_threads(threads):
        eta = _step(problem, psd, step)
        return _descend(problem, psd, eta, tol, max_iterations)


def _descend(problem: Problem, psd: bool, eta: float, tol: float, max_iterations: int) -> Descent:
    n, p = problem.shape
    y = problem.values.astype(np.float64)
    size = float(np.linalg.norm(y))
    x = np.zeros((n, p))
    r, best, at = -y, float("inf"), 0
    status, done = Status.MAX_ITERATIONS, 0
    try:
        while True:
            residual = float(np.linalg.norm(r)) / size if size else 0.0
            if residual <= tol:
                status = Status.CONVERGED
            elif residual < 0.999 * best:
                best, at = residual, done
            elif done - at >= PATIENCE:
                status = Status.STALLED
            if status is not Status.MAX_ITERATIONS or done == max_iterations:
                break
            following = x - eta * _adjoint(problem, r, psd)
            if psd:
                following = _positive_part(following)
            x, r = following, problem.measure(following) - y
            done += 1
    except KeyboardInterrupt:
        status, residual = Status.INTERRUPTED, float(np.linalg.norm(problem.measure(x) - y)) / (size or 1.0)
    return Descent(x, eta, residual, done, status)


def _step(problem: Problem, psd: bool, step: float | None) -> float:
    """η: the step given, if it contracts, or 1/λ_max(AA*)."""
    largest = _largest_eigenvalue(problem, psd)
    if step is None:
        if largest <= 0.0:
            raise ValueError("the measurements all vanish, so no step is defined; give step")
        return 1.0 / largest
    positive("step", step)
    if step * largest >= 2.0:
        raise ValueError(f"step {step} is too large: it must be below 2/λ_max(AA*) = {2.0 / largest:.6g}")
    return step


def _adjoint(problem: Problem, weights: Array, psd: bool) -> Array:
    """A*(z), or its symmetric part."""
    matrix = problem.adjoint(weights)
    return 0.5 * (matrix + matrix.T) if psd else matrix


def _positive_part(x: Array) -> Array:
    """The projection of a symmetric matrix onto the positive semidefinite ones."""
    values, vectors = np.linalg.eigh(x)
    kept = vectors[:, values > 0.0]
    return (kept * values[values > 0.0]) @ kept.T


def _largest_eigenvalue(problem: Problem, psd: bool) -> float:
    """λ_max(AA*), for A restricted to symmetric matrices if ``psd``."""
    m = problem.values.size

    def square(z: Array) -> Array:
        return problem.measure(_adjoint(problem, z.ravel(), psd)).astype(np.float64)

    if m <= 2:  # the Lanczos iteration needs room
        return float(np.linalg.eigvalsh(np.array([square(e) for e in np.eye(m)]))[-1])
    start = np.random.default_rng(0).standard_normal(m)
    if not np.any(square(start)):
        return 0.0
    operator = LinearOperator((m, m), matvec=square, dtype=np.float64)  # type: ignore[call-arg]
    return float(eigsh(operator, k=1, v0=start, return_eigenvectors=False)[0])
