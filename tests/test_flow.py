"""The gradient flow: its integrators, points inside steps, and what a run makes of them."""

import numba
import numpy as np
import pytest
import scipy.sparse

import fastdmf as dmf
from fastdmf.backends import bind_objective
from fastdmf.backends.cpu_memory import Matrices
from fastdmf.backends.cpu_objective import NEVER, Scratch
from fastdmf.kernels.cpu.hessian import hessian_times
from fastdmf.kernels.cpu.stepping import forward
from tests import naive

REFERENCE = dmf.GradientFlow(rtol=1e-10, method="dopri5")
FACTORIZATIONS = [dmf.Product(1), dmf.Product(2), dmf.Product(3, (6, 9)), dmf.Product(5), dmf.Symmetric(4)]


def problem_of(kind, symmetric=False):
    shape = (12, 12) if symmetric else (12, 10)
    rng = np.random.default_rng(3)
    match kind:
        case "completion":
            return dmf.Completion.random(shape, rank=2, observed=40, seed=0)
        case "whole":
            return dmf.Completion.random(shape, rank=2, observed=shape[0] * shape[1] - 5, seed=0)
        case "dense":
            matrices = rng.standard_normal((30, *shape)) / 12
            return dmf.Sensing(matrices, rng.standard_normal(30))
        case "sparse":
            entries = shape[0] * shape[1]
            matrices = rng.standard_normal((30, entries)) * (rng.random((30, entries)) < 0.1)
            return dmf.Sensing(scipy.sparse.csr_array(matrices), rng.standard_normal(30), shape=shape)
    raise ValueError(kind)


@numba.njit
def _product_with_the_hessian(model, support, operator, linear, point, direction, out, w_dot, cancel):
    forward(model, support, operator, point, cancel)
    hessian_times(model, support, linear, point, direction, out, w_dot, cancel)


def hessian_product(problem, factorization, factors, direction):
    objective = bind_objective(problem, factorization)
    layout, scratch = objective.layout, Scratch(objective, curves=True)
    w_dot = np.empty_like(scratch.model.w)
    point, v = (
        Matrices.copies(layout.inward(x), objective.dtype, layout.lanes) for x in (factors, direction)
    )
    out = Matrices.empty(layout.shapes, objective.dtype, layout.lanes)
    _product_with_the_hessian(
        scratch.model, objective.bound_support, scratch.operator,
        objective.bind_operator(w_dot, linear=True), point.table, v.table, out.table, w_dot, NEVER,
    )  # fmt: skip
    return layout.outward(out.arrays, None)


@pytest.mark.parametrize("factorization", FACTORIZATIONS, ids=str)
@pytest.mark.parametrize("kind", ["completion", "whole", "dense", "sparse"])
def test_products_with_the_hessian(kind, factorization):
    """Against central differences of the gradient that plain NumPy gives."""
    symmetric = isinstance(factorization, dmf.Symmetric)
    problem = problem_of(kind, symmetric)
    objective = naive.objective_of(problem, symmetric)
    rng = np.random.default_rng(0)
    shapes = factorization.factor_shapes(problem.shape)
    factors, direction = ([rng.standard_normal(s) for s in shapes] for _ in range(2))
    h = 1e-5
    ahead, behind = (
        objective.gradients([w + s * v for w, v in zip(factors, direction, strict=True)]) for s in (h, -h)
    )
    wanted = [(a - b) / (2 * h) for a, b in zip(ahead, behind, strict=True)]
    found = hessian_product(problem, factorization, factors, direction)
    scale = max(np.linalg.norm(w) for w in wanted)
    for hv, expected in zip(found, wanted, strict=True):
        assert np.linalg.norm(hv - expected) < 1e-7 * scale


def small(seed=0):
    return dmf.Completion.random((30, 30), rank=2, observed=400, seed=seed)


def flow(problem, optimizer, **choices):
    return dmf.run(problem, optimizer=optimizer, record=dmf.Record(at=()), **{"seed": 1, **choices})


def distance(a, b):
    return np.linalg.norm(a.product - b.product) / np.linalg.norm(b.product)


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_both_integrators_end_where_a_reference_does(depth):
    coarse, finer, finest = [], [], []
    for seed in range(5):
        reference = flow(small(seed), REFERENCE, depth=depth)
        for optimizer, distances in (
            (dmf.GradientFlow(), coarse),
            (dmf.GradientFlow(rtol=1e-4), finer),
            (dmf.GradientFlow(rtol=1e-8, method="dopri5"), finest),
        ):
            distances.append(distance(flow(small(seed), optimizer, depth=depth), reference))
    assert np.median(coarse) <= 1e-3
    assert np.median(finer) <= 2e-4
    assert np.median(finest) <= 1e-6
