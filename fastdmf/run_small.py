"""Gradient flows of very many tiny problems."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fastdmf._checks import Array, count, generator, positive, small_problems

#: Widest matrices for which writing out the n² × n² Hessian still is the right way.
WIDEST = 12


@dataclass(frozen=True, eq=False)
class SmallRuns:
    """Where the flows of B problems ended.

    Attributes
    ----------
    product : (B, n, n) ndarray
        X = UUᵀ.
    factor, start : (B, n, n) ndarray
        U at the end and at the beginning.
    loss : (B,) ndarray
        ½ Σ (⟨A_i, X⟩ − y_i)², the ``"half_sum"`` of `Sensing`.
    status : (B,) ndarray of str
        "converged"; "stationary" at a misfit, where the loss falls in no direction; "stalled" beside a
        saddle; "max_steps"; or "diverged".  ``Status(status[b]).advice`` says more.
    steps, evaluations : (B,) ndarray of int
        Steps, those that were rejected included, and evaluations of the gradient; each step also factorizes
        the Hessian.
    time : (B,) ndarray
        Time of the flow dU/dt = −∇(½ Σ r²).  The final decay of ℓ, taken in long steps, changes U little, and
        how long it takes is known roughly only.
    """

    product: Array
    factor: Array
    start: Array
    loss: Array
    status: Array
    steps: Array
    evaluations: Array
    time: Array


def run_small(
    matrices: npt.ArrayLike,
    values: npt.ArrayLike,
    init_norm: float = 1e-3,
    *,
    tol: float = 1e-8,
    rtol: float = 1e-6,
    max_steps: int = 10_000,
    seed: int | None = None,
    threads: int = 1,
) -> SmallRuns:
    """Follow the gradient flow of X = UUᵀ, with square U, to its end, for B tiny problems at once.

    Parameters
    ----------
    matrices : (B, m, n, n) array_like
        Measurement matrices A_i of every problem; they act through their symmetric parts.  n ≤ 12.
    values : (B, m) array_like
        Values y_i = ⟨A_i, X⟩.
    init_norm : float
        ‖U(0)‖_F: Gaussian starts are scaled to it.
    tol : float
        A flow ends where ‖A(X) − y‖ ≤ tol ‖y‖; if y is zero, tol ‖A(X(0))‖.
    rtol : float
        Tolerated error of a step, relative to ‖U‖_F; in (0, 1).
    max_steps : int
        Steps after which a flow is given up; rejected steps count.
    seed : int or None
        Seed of the starts; None draws fresh entropy.  Problem b starts at the same U(0) whatever B is, and in
        the same direction whatever ``init_norm`` is.
    threads : int
        Threads to spread the problems over; the results are the same bits for any number.

    Returns
    -------
    SmallRuns
        Arrays over the problems.

    Raises
    ------
    ValueError, TypeError
        For arrays that are empty, too wide, not finite or do not fit together, and settings out of range.

    Notes
    -----
    The setting of Gunasekar et al. (2017), figure 4.  The method is an L-stable Rosenbrock pair of order 4(3)
    (Hairer & Wanner, Solving ODEs II, RODAS), which takes the last, stiff or algebraic part of a flow in long
    steps.  No step is longer than a quarter of the time in which the fastest mode grows e-fold, so that
    saddles are left as the flow leaves them.

    Where no positive definite X has the values, components may decay like 1/t.  X then converges like √tol,
    or tol^¼ where even the face of feasible matrices is only touched; its trace may lie so far below the
    minimum.

    Examples
    --------
    >>> import fastdmf as dmf, numpy as np
    >>> diagonal = np.array([[[[1.0, 0.0], [0.0, 0.0]]]])  # one problem, one measurement: X₀₀ = 2
    >>> runs = dmf.run_small(diagonal, [[2.0]], init_norm=1e-5, seed=0)
    >>> str(runs.status[0]), runs.product[0].trace().round(6).item()
    ('converged', 2.0)
    """
    a, y = small_problems(matrices, values)
    if a.shape[2] > WIDEST:
        raise ValueError(f"matrices are {a.shape[2]} wide, but run_small is for {WIDEST} at most; use run")
    norm, tol = positive("init_norm", init_norm), positive("tol", tol)
    if positive("rtol", rtol) >= 1.0:
        raise ValueError(f"rtol must be below 1, not {rtol!r}")
    count("max_steps", max_steps)
    count("threads", threads)
    start = generator(seed).standard_normal(a.shape[:1] + a.shape[2:])
    start *= norm / np.linalg.norm(start, axis=(1, 2), keepdims=True)
    first = np.einsum("bmij,bik,bjk->bm", a, start, start, optimize=True)
    size = np.linalg.norm(y, axis=1)
    size = np.where(size > 0.0, size, np.linalg.norm(first, axis=1))

    from fastdmf.backends.cpu_small import follow_all  # loads Numba

    u = start.copy()
    loss, time, counts, status = follow_all(a, y, u, 0.5 * (tol * size) ** 2, rtol, max_steps, threads)
    return SmallRuns(
        u @ u.transpose(0, 2, 1), u, start, loss, status, counts[:, 0], counts[:, 1], time
    )  # fmt: skip
