"""Values that are computed once, by the contents of what they are computed from."""

import os
import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import fastdmf as dmf

ROOT = Path(__file__).parent.parent


def problem(seed=0, **choices):
    return dmf.Completion.random(**{"shape": (12, 10), "rank": 2, "observed": 60, "seed": seed} | choices)


@pytest.fixture
def calls():
    CALLS.clear()
    return CALLS


class _Calls(list):
    """A list that does not count as what a function depends on."""


CALLS = _Calls()


def norm(problem, order=2, *, scale=1.0):
    CALLS.append(order)
    time.sleep(0.05)
    if order == 0:
        raise LookupError("no such norm")
    return scale * np.linalg.norm(problem.values, order)


def test_equal_contents_are_computed_once(calls, tmp_path):
    cached = dmf.cached(norm, tmp_path / "values")
    values = [cached(problem()), cached(problem(), 2), cached(problem(), order=2.0, scale=1)]
    assert values == [np.linalg.norm(problem().values)] * 3
    assert len(calls) == 1
    for differing in (problem(1), problem(observed=61), problem(loss="half_sum")):
        assert cached(differing) == np.linalg.norm(differing.values)
    cached(problem(), 1)
    cached(problem(), scale=2.0)
    assert len(calls) == 6
    assert dmf.cached(norm, tmp_path / "values")(problem()) == values[0]
    assert len(calls) == 6
    assert len(list((tmp_path / "values").iterdir())) == 6


def test_threads_wait_for_each_other(calls, tmp_path):
    cached, gate = dmf.cached(norm, tmp_path), threading.Barrier(4)

    def call(_):
        gate.wait(60)
        return cached(problem())

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(call, range(4)))) == 1
    assert len(calls) == 1


PROCESS = """
import sys, time
from pathlib import Path
import fastdmf as dmf

folder, log = sys.argv[1:]

def slow(array):
    with open(log, "a") as file:
        file.write("called\\n")
    time.sleep(0.5)
    return array.sum()

import numpy as np
assert dmf.cached(slow, folder)(np.arange(5)) == 10
"""


def test_processes_wait_for_each_other(tmp_path):
    arguments = [sys.executable, "-c", PROCESS, str(tmp_path / "values"), str(tmp_path / "log")]
    processes = [subprocess.Popen(arguments, cwd=ROOT) for _ in range(3)]
    assert [process.wait(120) for process in processes] == [0] * 3
    assert (tmp_path / "log").read_text() == "called\n"


def test_what_it_raises_is_not_kept(calls, tmp_path):
    cached = dmf.cached(norm, tmp_path)
    for _ in range(2):
        with pytest.raises(LookupError):
            cached(problem(), 0)
    assert len(calls) == 2


def test_a_file_that_cannot_be_read_is_computed_again(calls, tmp_path):
    cached = dmf.cached(norm, tmp_path)
    value = cached(problem())
    (path,) = tmp_path.glob("*.pickle")
    for content in (
        b"",
        path.read_bytes()[:-3],
        b"of somebody",
        b"I1x\n.",
        b"\x80\x05\x8c\x02\xff\xfe.",
        b"\x80\x63.",
    ):
        path.write_bytes(content)
        assert cached(problem()) == value
        assert cached(problem()) == value
    assert len(calls) == 7


def test_other_code_has_other_values(tmp_path):
    def made(k):
        return lambda x: x + k

    assert dmf.cached(made(1), tmp_path)(1) == 2
    assert dmf.cached(made(2), tmp_path)(1) == 3


def test_it_goes_to_other_processes(calls, tmp_path):
    cached = dmf.cached(norm, os.path.relpath(tmp_path))
    value = cached(problem())
    assert pickle.loads(pickle.dumps(cached))(problem()) == value
    assert len(calls) == 1
    assert cached.__doc__ == norm.__doc__


def test_a_sweep_asks_for_each_reference_once(tmp_path):
    minimum = dmf.cached(dmf.reference.min_nuclear_norm, tmp_path / "minima")

    def trial(depth, observed):
        best = minimum(problem(observed=observed), tol=1e-6)
        return {"upper": best.upper, "dual": best.dual[:3]}

    ds = dmf.sweep(trial, {"depth": [2, 3, 4], "observed": [60, 80]}, workers=2, path=tmp_path / "x.nc")
    assert len(list((tmp_path / "minima").iterdir())) == 2
    for observed in (60, 80):
        best = dmf.reference.min_nuclear_norm(problem(observed=observed), tol=1e-6)
        assert (ds.upper.sel(observed=observed) == best.upper).all()
        assert (ds.dual.sel(observed=observed) == best.dual[:3]).all()


@pytest.mark.parametrize("argument", [object(), np.array([object()]), [{1, 2}], {"a": iter([])}, int])
def test_arguments_that_cannot_be_told_apart_are_refused(argument, tmp_path):
    with pytest.raises(TypeError, match="cached cannot tell values of"):
        dmf.cached(norm, tmp_path)(problem(), argument)


def test_bad_input_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(TypeError, match="function must be a plain function, not 3"):
        dmf.cached(3, tmp_path)
    with pytest.raises(ValueError, match="is a file"):
        dmf.cached(norm, tmp_path / "file")
    with pytest.raises(ValueError, match="where no folder is"):
        dmf.cached(norm, tmp_path / "a" / "b")
