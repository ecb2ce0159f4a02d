"""Rows of every length: whole vectors, filled ends and panels give what plain NumPy gives."""

import numpy as np
import pytest

import fastdmf as dmf
from fastdmf.kernels.cpu.simd import MOST
from fastdmf.kernels.cpu.tables import VECTOR_BYTES
from tests import naive

TOLERANCE = {"float64": 1e-13, "float32": 2e-5}


def lengths(dtype):
    """Around one vector, around every whole number of vectors that has code of its own, and around panels."""
    lanes = VECTOR_BYTES // np.dtype(dtype).itemsize
    panel = lanes * MOST
    whole = {lanes * k + more for k in range(1, MOST + 1) for more in (0, 1)}
    return sorted({1, 2, lanes - 1, *whole, 2 * panel - 1, 2 * panel, 2 * panel + 1, 3 * panel + lanes // 2})


def starts(symmetric, dtype):
    """A problem with starts of every width: problem, objective, factorization, factors, these in float64."""
    shape = (9, 9) if symmetric else (9, 12)
    problem = dmf.Completion.random(shape, rank=2, observed=40, seed=0)
    objective = naive.objective_of(problem, symmetric)
    rng = np.random.default_rng(0)
    for width in lengths(dtype):
        factorization = dmf.Symmetric(width) if symmetric else dmf.Product(2, (width,))
        factors = dmf.Gaussian(std=width**-0.5).draw(factorization, shape, rng)
        factors = [w.astype(dtype) for w in factors]
        yield problem, objective, factorization, factors, [w.astype(np.float64) for w in factors]


def assert_close(ours, wanted, dtype, where):
    for x, y in zip(ours, wanted, strict=True):
        assert np.linalg.norm(x - y) < TOLERANCE[dtype] * np.linalg.norm(y), where


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("symmetric", [False, True])
def test_gradients_at_every_width(symmetric, dtype):
    for problem, objective, factorization, factors, wide in starts(symmetric, dtype):
        loss, gradients = dmf.loss_and_gradients(problem, factors, symmetric=symmetric)
        assert loss == pytest.approx(objective.loss(wide), rel=TOLERANCE[dtype]), factorization
        assert_close(gradients, objective.gradients(wide), dtype, factorization)
        loop = dmf.Loop(problem, factorization, dmf.GradientDescent(lr=1e-3), dtype=dtype)
        state = loop.init(dmf.Factors(factors))
        assert all(map(np.array_equal, state.gradients, gradients)), factorization


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("symmetric", [False, True])
def test_line_searches_at_every_width(symmetric, dtype):
    for problem, objective, factorization, factors, wide in starts(symmetric, dtype):
        loop = dmf.Loop(problem, factorization, dmf.ExactLineSearch(), dtype=dtype)
        state = loop.advance(loop.init(dmf.Factors(factors)))
        path = naive.trajectory(objective, wide, naive.ExactLineSearch(), 1)
        assert state.loss == pytest.approx(path.losses[-1], rel=TOLERANCE[dtype], abs=TOLERANCE[dtype])
        assert_close(state.factors, path.factors, dtype, factorization)
