"""Rows of every length: whole vectors, filled ends, tails and panels give what plain NumPy gives."""

import numpy as np
import pytest

import fastdmf as dmf
from fastdmf.backends import bind_objective
from fastdmf.kernels.cpu.simd import MOST, MOST_TAILED
from fastdmf.kernels.cpu.tables import TAIL_BYTES, VECTOR_BYTES
from tests import naive

TOLERANCE = {"float64": 1e-13, "float32": 2e-5}


def lengths(dtype):
    """Around one vector, around every whole number of vectors that has code of its own, around panels, and
    with tails that are full or just too long.
    """
    size = np.dtype(dtype).itemsize
    lanes, tail = VECTOR_BYTES // size, TAIL_BYTES // size
    panel = lanes * MOST
    whole = {lanes * k + more for k in range(1, MOST + 1) for more in (0, 1)}
    tailed = {lanes * k + more for k in (0, 1, 2, MOST_TAILED - 1, MOST_TAILED) for more in (tail, tail + 1)}
    panels = {2 * panel - 1, 2 * panel, 2 * panel + 1, 3 * panel + lanes // 2}
    return sorted({1, 2, lanes - 1} | whole | tailed | panels)


def starts(symmetric, dtype):
    """A problem with starts of every width: problem, objective, factorization, factors, these in float64."""
    shape = (9, 9) if symmetric else (9, 12)
    problem = dmf.Completion.random(shape, rank=2, observed=25, seed=0)
    objective = naive.objective_of(problem, symmetric)
    rng = np.random.default_rng(0)
    for width in lengths(dtype):
        factorization = dmf.Symmetric(width) if symmetric else dmf.Product(2, (width,))
        factors = dmf.Gaussian(std=width**-0.5).draw(factorization, shape, rng)
        factors = [w.astype(dtype) for w in factors]
        form = bind_objective(problem, factorization, dtype).form
        assert form == "observed entries", "multiplied out: rows are not looked at"
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


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("symmetric", [False, True])
def test_momentum_and_errors_on_held_out_entries_at_every_width(symmetric, dtype):
    """Velocities lie as factors do, and entries that are held out are sampled by other rows of them."""
    for problem, objective, factorization, factors, wide in starts(symmetric, dtype):
        held_out = np.nonzero(problem.adjoint(np.ones(problem.values.size)) == 0)
        rng = np.random.default_rng(1)
        test = (*held_out, rng.standard_normal(held_out[0].size))
        split = dmf.Completion(problem.rows, problem.cols, problem.values, problem.shape, test=test)
        result = dmf.run(
            split, factorization=factorization, optimizer=dmf.GradientDescent(0.1, momentum=0.5),
            init=dmf.Factors(factors), stop=dmf.MaxSteps(3), dtype=dtype,
        )  # fmt: skip
        path = naive.trajectory(objective, wide, naive.GradientDescent(0.1, 0.5), 3)
        assert_close(result.factors, path.factors, dtype, factorization)
        errors = objective.product(path.factors)[held_out] - test[2]
        assert result.test_error == pytest.approx(np.sqrt(np.mean(errors**2)), rel=TOLERANCE[dtype])
