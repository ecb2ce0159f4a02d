"""Loss and gradients: against plain NumPy, against derivatives, and as a driver sees them."""

import numpy as np
import pytest
import scipy.optimize
import threadpoolctl

import fastdmf as dmf
from tests import naive

KINDS = ["completion", "dense", "sparse"]
LOSSES = ["mean", "half_sum", "half_mean"]
FACTORIZATIONS = [
    pytest.param(dmf.Product(1), "rectangular", id="depth 1"),
    pytest.param(dmf.Product(2), "rectangular", id="depth 2"),
    pytest.param(dmf.Product(3, (13, 5)), "rectangular", id="depth 3"),
    pytest.param(dmf.Product(6, (5, 9, 6, 13, 7)), "rectangular", id="depth 6"),
    pytest.param(dmf.Symmetric(4), "symmetric", id="UUᵀ"),
    pytest.param(dmf.Symmetric(14), "asymmetric", id="UUᵀ, asymmetric data"),
]


def factors_of(factorization, shape):
    return dmf.Gaussian(product_scale=1.0).draw(factorization, shape, np.random.default_rng(3))


def evaluate(problem, factors, factorization):
    return dmf.loss_and_gradients(problem, factors, symmetric=isinstance(factorization, dmf.Symmetric))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("factorization", "flavor"), FACTORIZATIONS)
def test_loss_and_gradients_are_those_of_the_definition(make_problem, kind, factorization, flavor, loss):
    problem = make_problem(kind, flavor, loss)
    factors = factors_of(factorization, problem.shape)
    objective = naive.objective_of(problem, isinstance(factorization, dmf.Symmetric))
    for dtype, tolerance in ((np.float64, 1e-13), (np.float32, 1e-5)):
        value, gradients = evaluate(problem, [w.astype(dtype) for w in factors], factorization)
        assert value == pytest.approx(objective.loss(factors), rel=tolerance)
        for gradient, expected in zip(gradients, objective.gradients(factors), strict=True):
            assert gradient.dtype == dtype
            assert np.linalg.norm(gradient - expected) < tolerance * np.linalg.norm(expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("factorization", "flavor"), FACTORIZATIONS)
def test_gradients_are_derivatives(make_problem, kind, factorization, flavor):
    problem = make_problem(kind, flavor)
    factors = factors_of(factorization, problem.shape)
    rng = np.random.default_rng(4)
    directions = [rng.standard_normal(w.shape) for w in factors]
    gradients = evaluate(problem, factors, factorization)[1]
    slope = sum(np.vdot(g, d) for g, d in zip(gradients, directions, strict=True))
    scale = sum(np.linalg.norm(g) * np.linalg.norm(d) for g, d in zip(gradients, directions, strict=True))

    # The definition of the loss, moved by an imaginary step: no difference is taken, so nothing cancels.
    objective = naive.objective_of(problem, isinstance(factorization, dmf.Symmetric))
    moved = [w + 1e-30j * d for w, d in zip(factors, directions, strict=True)]
    assert abs(objective.loss(moved).imag / 1e-30 - slope) < 1e-12 * scale

    def loss_at(step):
        return evaluate(
            problem, [w + step * d for w, d in zip(factors, directions, strict=True)], factorization
        )[0]

    h = 1e-5
    assert abs((loss_at(h) - loss_at(-h)) / (2 * h) - slope) < 1e-6 * scale


@pytest.mark.parametrize("kind", KINDS)
def test_adjoint(make_problem, kind):
    problem = make_problem(kind, "rectangular", "half_sum")
    rng = np.random.default_rng(5)
    x, z = rng.standard_normal(problem.shape), rng.standard_normal(problem.values.size)
    measured = problem.measure(x)
    scale = np.linalg.norm(measured) * np.linalg.norm(z)
    assert abs(measured @ z - np.vdot(x, problem.adjoint(z))) < 1e-13 * scale

    # The compiled adjoint: at depth 1 the gradient of ½‖A(W) − y‖² is A*(z) if y is A(W) − z.
    shifted = measuring(problem, problem.measure(x) - z)
    (compiled,) = dmf.loss_and_gradients(shifted, [x])[1]
    assert abs(measured @ z - np.vdot(x, compiled)) < 1e-13 * scale


def measuring(problem, values):
    """The same measurements with other values."""
    if isinstance(problem, dmf.Completion):
        return dmf.Completion(problem.rows, problem.cols, values, problem.shape, loss=problem.loss)
    return dmf.Sensing(problem.matrices, values, shape=problem.shape, loss=problem.loss)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("factorization", "flavor"), FACTORIZATIONS)
def test_memory_order_does_not_change_a_bit(make_problem, kind, factorization, flavor):
    problem = make_problem(kind, flavor)
    factors = [np.ascontiguousarray(w) for w in factors_of(factorization, problem.shape)]
    value, gradients = evaluate(problem, factors, factorization)
    in_columns = [np.asfortranarray(w) for w in factors]
    in_strides = [np.repeat(np.repeat(w, 2, axis=0), 3, axis=1)[::2, ::3] for w in factors]
    for variant in (in_columns, in_strides):
        before = [w.copy() for w in variant]
        other_value, others = evaluate(problem, variant, factorization)
        assert other_value == value
        assert all(np.array_equal(a, b) for a, b in zip(others, gradients, strict=True))
        assert all(np.array_equal(a, b) for a, b in zip(variant, before, strict=True)), "an argument changed"


def test_gradients_are_fresh_arrays(make_problem):
    problem = make_problem("completion", "rectangular")
    factors = factors_of(dmf.Product(2), problem.shape)
    first = dmf.loss_and_gradients(problem, factors)[1]
    kept = [g.copy() for g in first]
    for gradient in dmf.loss_and_gradients(problem, [2 * w for w in factors])[1]:
        gradient[:] = np.nan
    assert all(np.array_equal(a, b) for a, b in zip(first, kept, strict=True))


def test_state_carries_the_gradients_at_its_factors(make_problem, device):
    problem = make_problem("dense", "rectangular")
    loop = dmf.Loop(problem, dmf.Product(3), dmf.GradientDescent(lr=0.1), device=device)
    state = loop.advance(loop.init(dmf.Gaussian(product_scale=0.7), seed=0), 10)
    value, gradients = dmf.loss_and_gradients(problem, state.factors)
    assert state.loss == value
    assert all(np.array_equal(a, b) for a, b in zip(state.gradients, gradients, strict=True))


def test_refused_factors(make_problem):
    problem = make_problem("completion", "rectangular")  # 7 × 11
    w1, w2 = factors_of(dmf.Product(2), problem.shape)
    with pytest.raises(TypeError, match="factor 2 is float32"):
        dmf.loss_and_gradients(problem, [w1, w2.astype(np.float32)])
    with pytest.raises(TypeError, match="int64"):
        dmf.loss_and_gradients(problem, [w1.astype(np.int64), w2.astype(np.int64)])
    with pytest.raises(TypeError, match="problem must be"):
        dmf.loss_and_gradients(problem.values, [w1, w2])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="empty"):
        dmf.loss_and_gradients(problem, [])
    with pytest.raises(ValueError, match="2 dimensions"):
        dmf.loss_and_gradients(problem, [w1.ravel()])
    with pytest.raises(ValueError, match=r"factor 1 .* must have shape \(7, 11\)"):
        dmf.loss_and_gradients(problem, [w2, w1])
    with pytest.raises(ValueError, match="square"):
        dmf.loss_and_gradients(problem, [w2], symmetric=True)
    with pytest.raises(ValueError, match=r"1 factor\(s\)"):
        dmf.loss_and_gradients(
            make_problem("completion", "symmetric"), [np.eye(9), np.eye(9)], symmetric=True
        )


@pytest.mark.parametrize("factorization", [dmf.Product(3), dmf.Symmetric()])
def test_a_scipy_driver_reaches_a_fit(make_problem, factorization):
    flavor = "symmetric" if isinstance(factorization, dmf.Symmetric) else "rectangular"
    problem = make_problem("completion", flavor)
    shapes = factorization.factor_shapes(problem.shape)
    ends = np.cumsum([n * p for n, p in shapes])[:-1]

    def factors_in(x):
        return [part.reshape(s) for part, s in zip(np.split(x, ends), shapes, strict=True)]

    def objective(x):
        value, gradients = evaluate(problem, factors_in(x), factorization)
        return value, np.concatenate([g.ravel() for g in gradients])

    start = np.concatenate([w.ravel() for w in factors_of(factorization, problem.shape)])
    with threadpoolctl.threadpool_limits(1):  # the driver's own products are tiny
        found = scipy.optimize.minimize(
            objective, start, jac=True, method="L-BFGS-B", options={"ftol": 0.0, "gtol": 1e-7}
        )
    assert found.fun < 1e-8 * objective(start)[0]
    w = factorization.compose(factors_in(found.x))
    assert np.max(np.abs(w[problem.rows, problem.cols] - problem.values)) < 1e-3
