"""How W is looked at: by sparse products, or multiplied out where that is faster."""

import numpy as np
import pytest

import fastdmf as dmf
from fastdmf.backends import bind_objective


def form(observed, factorization=None, shape=(100, 100), dtype="float64"):
    problem = dmf.Completion.random(shape, rank=2, observed=observed, seed=0)
    return bind_objective(problem, factorization or dmf.Product(2), dtype).form


def test_the_density_decides():
    assert form(2000) == "observed entries"
    assert form(9000) == "whole matrix, masked"
    # At depth 1 only the observed entries ever move.
    assert form(9000, dmf.Product(1)) == "observed entries"
    assert form(9000, dmf.Symmetric()) == "whole matrix, masked"


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_larger_factors_cross_over_earlier(dtype):
    def crossing(n):
        forms = [
            form(int(fraction * n * n), shape=(n, n), dtype=dtype) for fraction in np.linspace(0.1, 1, 19)
        ]
        return forms.index("whole matrix, masked")

    assert crossing(32) > crossing(128) > crossing(512)


def test_the_result_says_which():
    result = dmf.run(dmf.Completion.random((10, 10), observed=90), lr=0.1, stop=dmf.MaxSteps(3), seed=0)
    assert result.settings["form"] == "whole matrix, masked"
    assert "by whole matrix, masked" in result.summary()
    assert result.trace.attrs["form"] == "whole matrix, masked"


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_unseen_entries_may_be_anything(dtype):
    """An overflow where nothing is observed is no divergence, in neither form."""
    problem = dmf.Completion([0, 0, 1], [0, 1, 0], [1.0, 1.0, 1.0], (2, 2))
    huge = np.finfo(dtype).max
    factors = [np.array([[1.0, 0.0], [0.0, huge]], dtype)] * 2
    assert bind_objective(problem, dmf.Product(2), dtype).form == "whole matrix, masked"
    with np.errstate(over="ignore"):
        assert np.isinf((factors[1] @ factors[0])[1, 1])
    loss, _ = dmf.loss_and_gradients(problem, factors)
    assert np.isfinite(loss)
