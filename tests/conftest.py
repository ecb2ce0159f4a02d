"""Problems and devices that the tests share."""

import functools

import numpy as np
import pytest
import scipy.sparse

import fastdmf as dmf


@pytest.fixture(scope="session", params=["cpu"])
def device(request):
    return request.param


@pytest.fixture
def on_shim(monkeypatch):
    """A function (schedule) → the device that runs with device="cuda" use from now on."""
    from fastdmf.backends import cuda
    from tests.cuda_shim import ShimDevice

    def choose(schedule=0):
        device = ShimDevice(schedule)
        monkeypatch.setattr(cuda, "open_device", lambda: device)
        return device

    choose()
    return choose


@pytest.fixture(params=["shim", pytest.param("gpu", marks=pytest.mark.gpu)])
def device_here(request):
    """The shim, and a GPU where there is one."""
    from fastdmf.backends import cuda
    from tests import cuda_shim

    if request.param == "shim":
        if cuda_shim.MISSING:
            pytest.skip(f"the CUDA shim {cuda_shim.MISSING}")
        request.getfixturevalue("on_shim")
        return
    try:
        cuda.open_device()
    except ValueError as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def make_problem():
    """A function (kind, flavor, loss="mean") → a small problem with fewer values than unknowns.

    Kinds are "completion", "crowded" (nearly all entries), "dense" and "sparse" (sensing).  Flavors are
    "rectangular", 7 × 11; "symmetric", 9 × 9 with symmetric measurements of a positive semidefinite matrix;
    and "asymmetric", where neither the measurements nor the measured matrix are symmetric, so that UUᵀ can
    fit it only nearly.
    All numbers are exact in float32: runs in either precision solve the same problem.
    """
    return _small_problem


@functools.cache
def _small_problem(kind, flavor, loss="mean"):
    rng = np.random.default_rng(2)
    n, p = shape = (7, 11) if flavor == "rectangular" else (9, 9)
    left = rng.standard_normal((n, 2))
    truth = left @ (rng.standard_normal((2, p)) if flavor == "rectangular" else left.T)
    truth *= 3 / np.linalg.norm(truth)
    if flavor == "asymmetric":
        skew = rng.standard_normal(shape)
        truth += 0.1 * (skew - skew.T) / np.linalg.norm(skew - skew.T)
    if kind in ("completion", "crowded"):
        sparse = 0.18 if flavor == "symmetric" else 0.33
        seen = rng.random(shape) < (sparse if kind == "completion" else 0.9)
        if flavor == "symmetric":
            seen = np.triu(seen) | np.triu(seen).T
        most = n * p if kind == "crowded" else n * p // 3  # few enough not to be multiplied out
        rows, cols = rng.permutation(np.argwhere(seen))[:most].T
        return dmf.Completion(rows, cols, _in_float32(truth[rows, cols]), shape, loss=loss)
    m = n * p // 2
    matrices = rng.standard_normal((m, n, p)) / np.sqrt(n * p)
    if kind == "sparse":
        matrices *= 2.5 * (rng.random((m, n, p)) < 0.2)
    if flavor == "symmetric":
        matrices = (matrices + matrices.transpose(0, 2, 1)) / 2
    matrices = _in_float32(matrices)
    values = _in_float32(np.einsum("mij,ij->m", matrices, truth))
    if kind == "dense":
        return dmf.Sensing(matrices, values, loss=loss)
    return dmf.Sensing(scipy.sparse.csr_array(matrices.reshape(m, -1)), values, shape=shape, loss=loss)


def _in_float32(array):
    return array.astype(np.float32).astype(np.float64)
