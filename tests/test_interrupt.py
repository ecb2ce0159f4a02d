"""Ctrl-C while compiled code runs."""

import os
import signal
import threading
import time

import numpy as np
import pytest

import fastdmf as dmf

PROBLEM = dmf.Completion.random(shape=(12, 10), rank=2, observed=40, seed=1)
FOREVER = dmf.MaxSteps(10**12)


def run(problem=PROBLEM, **choices):
    return dmf.run(problem, **{"lr": 1.0, "stop": dmf.MaxSteps(30), "seed": 0} | choices)


@pytest.fixture(autouse=True, scope="module")
def _compiled():
    """Compilation cannot be interrupted within a second, and is not what these tests time."""
    run(stop=dmf.MaxSteps(1))


@pytest.fixture(autouse=True)
def _handlers_are_put_back():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    after = {number: signal.getsignal(number) for number in before}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert after == before


class Finger:
    """Presses Ctrl-C some seconds after it was told to, and remembers when."""

    def __init__(self, seconds):
        self._seconds = seconds
        self._told = threading.Event()
        self._thread = threading.Thread(target=self._press)

    def _press(self):
        if self._told.wait(60):
            time.sleep(self._seconds)
            self.pressed = time.perf_counter()
            os.kill(os.getpid(), signal.SIGINT)

    def __call__(self, _state=None):
        self._told.set()

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_error):
        self.released = time.perf_counter()
        self._thread.join()


@pytest.fixture(scope="module")
def slow_problem():
    """All of 3 · 10⁶ entries: at width 640, one step takes about half a second or more."""
    rows, cols = np.divmod(np.arange(3_000_000, dtype=np.int32), np.int32(1500))
    return dmf.Completion(rows, cols, np.sin(rows + 0.1 * cols), (2000, 1500))


@pytest.mark.parametrize("optimizer", [dmf.GradientDescent(1.0), dmf.GradientDescent(1.0, momentum=0.9)])
def test_within_a_second_when_steps_take_longer(slow_problem, optimizer):
    choices = {
        "factorization": dmf.Product(2, (640,)),
        "optimizer": optimizer,
        "stop": FOREVER | dmf.GradientBelow(1e-9),
        "record": dmf.Record(at=[], metrics=["loss"]),
        "seed": 0,
    }
    with Finger(0.2) as finger:
        result = dmf.run(slow_problem, callback=finger, **choices)
    assert str(result.status) == "interrupted"
    assert finger.released - finger.pressed < 1.0
    assert result.trace.step.values.tolist() == sorted({0, result.steps})
    assert result.trace.loss.values[-1] == result.loss
    assert result.loss == pytest.approx(slow_problem.loss_at(result.product), rel=1e-9)


def test_everything_computed_is_returned():
    with Finger(0.15) as finger:
        result = run(stop=FOREVER, callback=finger)
    assert str(result.status) == "interrupted"
    assert finger.released - finger.pressed < 1.0
    assert result.steps > 1000
    assert result.trace.step.values[-1] == result.steps
    assert len(result.trace.step) > 20
    again = run(stop=dmf.MaxSteps(result.steps))
    assert all(map(np.array_equal, again.factors, result.factors))
    assert (again.loss, again.evaluations, again.time) == (result.loss, result.evaluations, result.time)


def press_at(step, times=1):
    def callback(state):
        if state.step == step:
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)

    return callback


def test_the_second_one_raises():
    with pytest.raises(KeyboardInterrupt):
        run(record=dmf.Record(every=10), callback=press_at(10, times=2))


def test_what_was_reached_while_it_came_counts():
    result = run(record=dmf.Record(every=10), stop=dmf.LossBelow(1e9), callback=press_at(0))
    assert str(result.status) == "converged"


@pytest.mark.parametrize("optimizer", [dmf.GradientDescent(1.0), dmf.GradientDescent(1.0, momentum=0.9)])
def test_the_last_row_is_true(optimizer):
    names = ["loss", "test_error", "gradient_norm", "singular_values", "alignment_on_diagonal"]
    record = dmf.Record(every=10, metrics=names)
    result = run(lr=None, optimizer=optimizer, record=record, callback=press_at(20))
    assert str(result.status) == "interrupted"
    same = run(lr=None, optimizer=optimizer, record=record, stop=dmf.MaxSteps(result.steps))
    for name in ("step", "time", "evaluations", *names):
        np.testing.assert_array_equal(result.records[name], same.records[name], err_msg=name)


def test_handlers_come_back():
    def mine(_number, _frame):
        raise AssertionError("not while a run is going on")

    def fail(_state):
        raise LookupError

    theirs = signal.signal(signal.SIGINT, mine)
    try:
        assert str(run(callback=press_at(1)).status) == "interrupted"
        assert signal.getsignal(signal.SIGINT) is mine
        with pytest.raises(LookupError):
            run(callback=fail)
        assert signal.getsignal(signal.SIGINT) is mine
        with pytest.raises(KeyboardInterrupt):
            run(callback=press_at(1, times=2))
        assert signal.getsignal(signal.SIGINT) is mine
    finally:
        signal.signal(signal.SIGINT, theirs)


def test_termination_is_answered_only_where_there_is_something_to_save(tmp_path):
    seen = []
    theirs = signal.getsignal(signal.SIGTERM)
    run(stop=dmf.MaxSteps(0), callback=lambda state: None)
    run(callback=lambda state: seen.append(signal.getsignal(signal.SIGTERM)))
    assert set(seen) == {theirs}
    seen.clear()
    run(callback=lambda state: seen.append(signal.getsignal(signal.SIGTERM)), checkpoint=tmp_path / "run.npz")
    assert theirs not in seen


def test_a_process_told_to_ignore_it_goes_on_ignoring_it():
    theirs = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        result = run(callback=press_at(1, times=3))
        assert (str(result.status), result.steps) == ("max_steps", 30)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, theirs)


def test_runs_in_other_threads_leave_signals_alone():
    handlers, results = [], []

    def work():
        results.append(run(callback=lambda state: handlers.append(signal.getsignal(signal.SIGINT))))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert set(handlers) == {signal.getsignal(signal.SIGINT)}
    assert np.array_equal(results[0].product, run().product)


@pytest.mark.parametrize("optimizer", [dmf.GradientDescent(1.0), dmf.GradientDescent(1.0, momentum=0.9)])
def test_a_loop_of_ones_own_is_interrupted_as_usual(optimizer):
    loop = dmf.Loop(PROBLEM, dmf.Product(2), optimizer)
    state = loop.advance(loop.init(seed=0), 10)
    values = [a.copy() for a in (*state.factors, *state.gradients, *state.memory.values())]
    scalars = (state.loss, state.step, state.time, state.evaluations)
    with Finger(0.15) as finger:
        finger()
        with pytest.raises(KeyboardInterrupt):
            loop.advance(state, 10**12)
    assert finger.released - finger.pressed < 1.0
    after = (*state.factors, *state.gradients, *state.memory.values())
    assert all(map(np.array_equal, after, values))
    assert (state.loss, state.step, state.time, state.evaluations) == scalars
    again = loop.advance(state, 10)
    assert np.array_equal(again.product, loop.advance(loop.init(seed=0), 20).product)
