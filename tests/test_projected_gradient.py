"""X_gd, against the plain iteration in NumPy."""

from typing import Any

import numpy as np
import pytest

import fastdmf as dmf
from fastdmf.reference import Status, projected_gradient
from tests import naive
from tests.judged import GENERAL, PSD


@pytest.mark.parametrize("name", ["gaussian", "skew parts"])
def test_projected_gradient_is_the_plain_iteration(name):
    problem: Any = PSD[name]()
    matrices = np.array([(a + a.T) / 2 for a in problem.matrices])
    operator = naive.Inner(matrices)
    flat = matrices.reshape(15, -1)
    eta = 1 / np.linalg.eigvalsh(flat @ flat.T)[-1]
    x = np.zeros((8, 8))
    for _ in range(40):
        w, q = np.linalg.eigh(x - eta * operator.adjoint(operator.measure(x) - problem.values))
        x = (q * np.maximum(w, 0)) @ q.T
    done = projected_gradient(problem, max_iterations=40)
    assert done.iterations == 40 and done.status == Status.MAX_ITERATIONS
    assert done.step == pytest.approx(eta, rel=1e-12)
    np.testing.assert_allclose(done.matrix, x, atol=1e-12)
    half = projected_gradient(problem, step=eta / 2)
    assert half.status == Status.CONVERGED and half.residual <= 1e-10 and half.step == eta / 2
    whole = projected_gradient(problem)
    assert np.linalg.norm(operator.measure(whole.matrix) - problem.values) <= 1.01e-10 * np.linalg.norm(
        problem.values
    )


def test_without_projection_the_limit_has_the_least_frobenius_norm():
    for problem in (
        dmf.Completion.random((7, 5), 2, 20),
        dmf.Sensing.gaussian((7, 5), 2, 20, symmetric=False),
    ):
        flat = np.array([problem.adjoint(e).ravel() for e in np.eye(20)])
        done = projected_gradient(problem, psd=False, tol=1e-13)
        np.testing.assert_allclose(done.matrix.ravel(), np.linalg.pinv(flat) @ problem.values, atol=1e-10)


def test_svd_initialization_descends_from_the_truncated_x_gd():
    problem = dmf.Sensing.gaussian((10, 10), 2, 25, seed=0)
    x_gd = projected_gradient(problem).matrix
    values, vectors = np.linalg.eigh(x_gd)
    top = (vectors[:, -3:] * values[-3:]) @ vectors[:, -3:].T
    run = dmf.run(
        problem, factorization=dmf.Symmetric(3), init=dmf.FromProduct(x_gd), lr=1.0, stop=dmf.MaxSteps(2000)
    )  # fmt: skip
    assert run.trace.loss[0] == pytest.approx(problem.loss_at(top), rel=1e-10)
    assert run.loss < 0.05 * problem.loss_at(top)


def test_an_interruption_keeps_the_last_iterate(monkeypatch):
    problem = PSD["gaussian"]()
    plain, calls = dmf.Sensing.measure, []

    def measure(self, matrix):
        calls.append(1)
        if len(calls) == 300:
            raise KeyboardInterrupt
        return plain(self, matrix)

    monkeypatch.setattr(dmf.Sensing, "measure", measure)
    done = projected_gradient(problem, tol=1e-15)
    assert done.status == Status.INTERRUPTED and 0 < done.iterations < 300
    same = projected_gradient(problem, max_iterations=done.iterations)
    assert np.array_equal(same.matrix, done.matrix) and same.residual == done.residual


def test_a_step_is_free_where_nothing_is_measured():
    nothing = dmf.Sensing(np.zeros((4, 2, 2)), np.ones(4))
    assert projected_gradient(nothing, step=5.0).status == Status.STALLED
    with pytest.raises(ValueError, match="vanish"):
        projected_gradient(nothing)


def test_projected_gradient_ends_with_a_status():
    impossible = dmf.Completion([0, 1, 0], [0, 1, 1], [1.0, 1.0, 2.0], (2, 2))
    done = projected_gradient(impossible)
    assert done.status == Status.STALLED and done.residual > 0.1
    assert projected_gradient(dmf.Completion([0], [0], [0.0], (2, 2))).iterations == 0


def test_refused_descents():
    problem = GENERAL["completion"]()
    with pytest.raises(ValueError, match=r"\(12, 9\)"):
        projected_gradient(problem)
    for step in (2.0, 10.0):
        with pytest.raises(ValueError, match="below 2/λ_max"):
            projected_gradient(problem, psd=False, step=step)
    with pytest.raises(ValueError, match="vanish"):
        projected_gradient(dmf.Sensing(np.zeros((1, 2, 2)), [1.0]))
