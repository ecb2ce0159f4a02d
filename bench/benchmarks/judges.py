"""The minimum nuclear norm to a certified gap, and beside SCS in boxes as the papers' code calls it."""

import os
import warnings
from typing import Any

import fastdmf as dmf

from ._timing import having, seconds_per_step

INSTANCES = {
    "rank 5, 1000 entries": lambda: dmf.Completion.random(rank=5, observed=1000),
    "rank 5, 2000 entries": lambda: dmf.Completion.random(rank=5, observed=2000),
    "rank 5, 3000 entries": lambda: dmf.Completion.random(rank=5, observed=3000),
    "rank 10, 4000 entries": lambda: dmf.Completion.random(rank=10, observed=4000),
    "psd, 300 measurements": lambda: dmf.Sensing.gaussian(measurements=300),
    "psd, 25 measurements": lambda: dmf.Sensing.gaussian(measurements=25),
}
#: Half the width of the boxes |A(W) − y| ≤ ε.
BOX = 1e-3


class Certified:
    """Seconds of the processor until (upper − lower)/lower is below the gap; the matrices are 100 × 100 or,
    if psd, 50 × 50."""

    params = (list(INSTANCES), [1e-6, 1e-10])
    param_names = ("instance", "gap")
    unit = "s"
    timeout = 300

    def setup(self, instance, gap):
        self.problem = INSTANCES[instance]()

    def track_seconds(self, instance, gap):
        return _seconds(self.problem, gap, psd=instance.startswith("psd"))


class Dense:
    """2000 Gaussian measurements of a 100 × 100 matrix."""

    params = ([1e-6, 1e-8],)
    param_names = ("gap",)
    unit = "s"
    timeout = 300

    def setup(self, gap):
        self.problem = dmf.Sensing.gaussian((100, 100), 5, 2000, symmetric=False)

    def track_seconds(self, gap):
        return _seconds(self.problem, gap, rounds=1)


class MovieLens:
    """10,000 ratings in low-rank-plus-sparse form; skipped unless FASTDMF_ML_100K names the ``u.data``."""

    params = ([1e-4, 1e-6],)
    param_names = ("gap",)
    timeout = 900

    def setup(self, gap):
        if not os.environ.get("FASTDMF_ML_100K"):
            raise NotImplementedError("FASTDMF_ML_100K does not name the u.data of MovieLens 100K")
        self.problem = dmf.datasets.movielens_100k(observed=10_000)

    @having(unit="s")
    def track_seconds(self, gap):
        return _seconds(self.problem, gap, rounds=1)

    def peakmem_solve(self, gap):
        dmf.reference.min_nuclear_norm(self.problem, tol=gap)


class Boxes:
    """How many times faster than SCS, which ends a thousandth below the minimum; the gap is 1e-6."""

    params = (list(INSTANCES),)
    param_names = ("instance",)
    unit = "times faster"
    timeout = 900

    def setup(self, instance):
        try:
            import cvxpy
            import scs
        except ImportError as error:
            raise NotImplementedError(f"{error.name} is not installed") from error
        del cvxpy, scs
        self.problem = INSTANCES[instance]()

    def track_times_faster(self, instance):
        psd = instance.startswith("psd")
        best = dmf.reference.min_nuclear_norm(self.problem, psd, tol=1e-6)
        value = solve_in_boxes(self.problem, psd)
        assert 0.99 * best.lower < value < best.upper, "the peer solved something else"
        peer = seconds_per_step(_repeated(lambda: solve_in_boxes(self.problem, psd)), rounds=1)[0]
        return peer / _seconds(self.problem, 1e-6, psd)


def solve_in_boxes(problem, psd):
    """The objective of CVXPY and SCS under |A(W) − y| ≤ 1e-3, as the papers' code writes it."""
    import cvxpy as cp
    import numpy as np

    n, p = problem.shape
    w: Any = cp.Variable((n, n), PSD=True) if psd else cp.Variable((n, p))
    if isinstance(problem, dmf.Completion):
        seen, target = np.zeros((n, p)), np.zeros((n, p))
        seen[problem.rows, problem.cols] = 1.0
        target[problem.rows, problem.cols] = problem.values
        fit: list[Any] = [cp.abs(cp.multiply(w - target, seen)) <= BOX]
    else:
        pairs = zip(problem.matrices, problem.values, strict=True)
        fit = [cp.abs(cp.sum(cp.multiply(w, a)) - y) <= BOX for a, y in pairs]
    program = cp.Problem(cp.Minimize(cp.trace(w) if psd else cp.norm(w, "nuc")), fit)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SCS says that its answer may be inaccurate
        program.solve(solver=cp.SCS, use_indirect=False)
    return float(program.value)  # type: ignore[arg-type]


def _seconds(problem, gap, psd=False, rounds=3):
    def solve():
        best = dmf.reference.min_nuclear_norm(problem, psd, tol=gap)
        assert best.gap <= gap

    return seconds_per_step(_repeated(solve), rounds=rounds)[0]


def _repeated(solve):
    def advance(times):
        for _ in range(times):
            solve()

    return advance
