"""Descriptions, problems, loops, states and results go to other processes and into copies."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest

import fastdmf as dmf

ELSEWHERE = """
import pickle, sys
import fastdmf as dmf

problem, loop, state = pickle.load(sys.stdin.buffer)
objective = dmf.loss_and_gradients(problem, state.factors)
pickle.dump((objective, loop.advance(state, steps=5)), sys.stdout.buffer)
"""

PROBLEMS = [
    dmf.Completion.random((9, 7), rank=2, observed=30, held_out=5, seed=0),
    dmf.Sensing.commuting(5, rank=2, measurements=4, seed=0),
]


@pytest.fixture(params=PROBLEMS, ids=lambda problem: type(problem).__name__)
def at_work(request):
    """A problem and a loop that compiled code has been bound to, and a state."""
    problem = request.param
    loop = dmf.Loop(problem, dmf.Product(2), dmf.GradientDescent(lr=0.1, momentum=0.5))
    state = loop.advance(loop.init(seed=0), steps=3)
    dmf.loss_and_gradients(problem, state.factors)
    return problem, loop, state


def check_equal(objective, other):
    assert objective[0] == other[0]
    assert all(np.array_equal(a, b) for a, b in zip(objective[1], other[1], strict=True))


def test_another_process_takes_the_same_steps(at_work):
    problem, loop, state = at_work
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE], input=pickle.dumps(at_work), capture_output=True, check=True
    )
    objective, advanced = pickle.loads(done.stdout)
    check_equal(objective, dmf.loss_and_gradients(problem, state.factors))
    here = loop.advance(state, steps=5)
    assert (advanced.loss, advanced.step) == (here.loss, here.step)
    assert np.array_equal(advanced.product, here.product)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_share_nothing_and_stay_read_only(at_work, duplicate):
    problem, _, state = at_work
    again = duplicate(problem)
    assert again.digest == problem.digest and not again.bound
    arrays = [again.values, again.truth, *again._arrays()]
    assert not any(array.flags.writeable for array in arrays)
    check_equal(dmf.loss_and_gradients(problem, state.factors), dmf.loss_and_gradients(again, state.factors))


def test_descriptions_and_results_come_back_as_they_were():
    problem = PROBLEMS[0]
    result = dmf.run(problem, lr=0.1, stop=dmf.LossBelow(1e-9) | dmf.MaxSteps(7), seed=3)
    again = pickle.loads(pickle.dumps(result))
    assert again.trace.identical(result.trace) and again.summary() == result.summary()
    for description in (
        dmf.Product(3, (4, 5)), dmf.Symmetric(2), dmf.Gaussian(std=0.1), dmf.GradientFlow(check=True),
        dmf.LossBelow(1e-3) & dmf.MaxSteps(5) | dmf.Stalled(10), dmf.Record(at=[3, 1], metrics=["loss"]),
        dmf.Checkpoint("run.npz", 3.0),
    ):  # fmt: skip
        assert pickle.loads(pickle.dumps(description)) == description
