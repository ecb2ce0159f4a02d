"""Problems for the judges, and their certificates recomputed."""

from typing import Any

import numpy as np
import pytest
import scipy.sparse

import fastdmf as dmf
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
