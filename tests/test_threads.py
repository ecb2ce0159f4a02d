"""Many runs at once, and the numbers of threads, which are the user's."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import numpy as np
import pytest
from threadpoolctl import ThreadpoolController, threadpool_limits

import fastdmf as dmf
from fastdmf.kernels.cpu import stepping

ROOT = Path(__file__).parent.parent
PROBLEM = dmf.Completion.random(shape=(12, 10), rank=2, observed=40, seed=1)
STARTS = range(8)


def run(seed=0, steps=300, **choices):
    defaults = {"lr": 1.0, "stop": dmf.MaxSteps(steps), "record": dmf.Record(every=50)}
    return dmf.run(PROBLEM, seed=seed, **defaults | choices)


def blas_threads():
    """Threads of every BLAS that is loaded and was built with threads: SCS brings one that was not."""
    pools = ThreadpoolController().select(user_api="blas").info()
    assert pools
    return [pool["num_threads"] for pool in pools if pool.get("threading_layer") != "disabled"]


@pytest.fixture
def two_outside():
    """The user lets BLAS have two threads, and still does when the test is over."""
    run(steps=1)  # loads the BLAS that kernels call
    with threadpool_limits(2, user_api="blas"):
        if set(blas_threads()) != {2}:
            pytest.skip("this BLAS has a single thread, so that no limit can be seen")
        yield
        assert set(blas_threads()) == {2}


@pytest.fixture
def threads_inside(two_outside, monkeypatch):
    """Numbers of BLAS threads seen from inside compiled stretches."""
    seen = []

    def watched(*args):
        seen.extend(blas_threads())
        return advance(*args)

    advance = stepping.advance
    monkeypatch.setattr(stepping, "advance", watched)
    return seen


def test_runs_at_once_give_the_bits_of_runs_alone():
    alone = [run(seed) for seed in STARTS]
    gate = threading.Barrier(4)

    def wait(state):
        if state.step in (0, 150):  # so that they really run at once
            gate.wait(60)

    with ThreadPoolExecutor(4) as pool:
        at_once = list(pool.map(lambda seed: run(seed, callback=wait), STARTS))
    for a, b in zip(alone, at_once, strict=True):
        assert all(map(np.array_equal, a.factors, b.factors))
        assert all(map(np.array_equal, a.records.values(), b.records.values()))


def test_loops_shared_by_threads():
    """States are values, so that one loop serves many threads."""
    loop = dmf.Loop(PROBLEM, dmf.Product(2), dmf.GradientDescent(1.0, momentum=0.9))
    start = loop.init(seed=0)
    alone = [loop.advance(start, steps) for steps in range(200, 208)]
    with ThreadPoolExecutor(4) as pool:
        at_once = list(pool.map(lambda steps: loop.advance(start, steps), range(200, 208)))
    for a, b in zip(alone, at_once, strict=True):
        assert all(map(np.array_equal, a.factors, b.factors))


def test_blas_has_one_thread_inside_and_the_users_outside(threads_inside):
    run()
    assert set(threads_inside) == {1}
    assert set(blas_threads()) == {2}


def test_blas_has_one_thread_inside_a_run_of_another_thread(threads_inside):
    """OpenBLAS has one setting for all threads, and threadpoolctl lets one thread at a time change it."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(run).result()
        assert set(threads_inside) == {1}
        assert set(blas_threads()) == {2}


@pytest.mark.usefixtures("two_outside")
def test_the_users_setting_comes_back_after_exceptions(monkeypatch):
    def fail(*_args):
        raise LookupError

    with pytest.raises(LookupError):
        run(callback=fail)
    assert set(blas_threads()) == {2}
    monkeypatch.setattr(stepping, "advance", fail)
    with pytest.raises(LookupError):
        run()
    assert set(blas_threads()) == {2}


def test_the_users_setting_comes_back_when_the_last_run_ends(threads_inside):
    gate = threading.Barrier(2)

    def short(state):
        if state.step == 50:
            gate.wait(60)

    def long(state):
        if state.step == 100:
            gate.wait(60)

    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(run, 0, 100, callback=short), pool.submit(run, 1, 5000, callback=long)]
        for done in runs:
            done.result()
        assert set(threads_inside) == {1}
        assert set(blas_threads()) == {2}


needs_two_threads = pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="Numba has one thread here")


@needs_two_threads
def test_the_users_number_of_numba_threads_comes_back():
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        run(threads=2)
        assert numba.get_num_threads() == 1
        loop = dmf.Loop(PROBLEM, dmf.Product(2), dmf.GradientDescent(1.0), threads=2)
        loop.advance(loop.init(seed=0), 10)
        assert numba.get_num_threads() == 1
    finally:
        numba.set_num_threads(before)


AT_ONCE = """
from concurrent.futures import ThreadPoolExecutor
import numpy as np
import fastdmf as dmf

problem = dmf.Completion.random(shape=(12, 10), rank=2, observed=40, seed=1)

def run(seed, threads=2):
    return dmf.run(problem, lr=1.0, stop=dmf.MaxSteps(2000), seed=seed, threads=threads).product

with ThreadPoolExecutor(4) as pool:
    at_once = list(pool.map(run, range(8)))
assert all(np.array_equal(run(seed, threads=1), product) for seed, product in enumerate(at_once))
"""


@needs_two_threads
def test_runs_of_several_threads_at_once():
    """Numba's "workqueue", the layer it falls back to, aborts the process if two parallel calls overlap."""
    choices = {"cwd": ROOT, "env": os.environ | {"NUMBA_THREADING_LAYER": "workqueue"}, "timeout": 120}
    done = subprocess.run([sys.executable, "-c", AT_ONCE], capture_output=True, text=True, **choices)
    assert done.returncode == 0, done.stdout + done.stderr
