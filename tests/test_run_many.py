"""Many runs in one call: each is the run by itself, whether they go apart or in lockstep."""

import os
import signal
import threading
import time

import numba
import numpy as np
import pytest
from threadpoolctl import ThreadpoolController, threadpool_limits

import fastdmf as dmf
from fastdmf.backends import Event
from fastdmf.backends.cpu import CpuEngine

PROBLEM = dmf.Completion.random(shape=(12, 10), rank=2, observed=60, seed=1)
FOREVER = dmf.MaxSteps(10**12)
SEEDS = range(5)
CHOICES = {"lr": 1.0, "stop": dmf.MaxSteps(300), "record": dmf.Record(every=50)}


class OneByOne:
    """Trajectories in lockstep, each of which takes its steps by itself."""

    def __init__(self, trajectories):
        self.trajectories = trajectories

    def advance(self, legs):
        assert len(legs) == len(self.trajectories)
        assert len({t.step for t in self.trajectories}) == 1
        events = [Event.ALL_STEPS] * len(legs)
        for _ in range(min(leg.steps for leg in legs)):
            if any(events):
                break
            if any(t.cancel[0] for t in self.trajectories):
                return [Event.CANCELLED] * len(legs)
            own = zip(self.trajectories, legs, strict=True)
            events = [t.advance(1, leg.halts, leg.until) for t, leg in own]
        return events


class EachOnItsOwn(OneByOne):
    """The same, but each goes on to the end of its own leg."""

    def advance(self, legs):
        if any(t.cancel[0] for t in self.trajectories):
            return [Event.CANCELLED] * len(legs)
        return [t.advance(*leg) for t, leg in zip(self.trajectories, legs, strict=True)]


def formed(monkeypatch, kind):
    """From now on trajectories step together, two or more at a time; how many each time it was asked."""
    sizes = []

    def together(_engine, trajectories):
        sizes.append(len(trajectories))
        return kind(trajectories) if len(trajectories) > 1 else None

    monkeypatch.setattr(CpuEngine, "together", together)
    return sizes


@pytest.fixture(params=["apart", "on two threads", "in lockstep", "each to its own end"])
def run_many(request, monkeypatch):
    """`run_many` by every way there is."""
    kinds = {"in lockstep": OneByOne, "each to its own end": EachOnItsOwn}
    if request.param in kinds:
        formed(monkeypatch, kinds[request.param])
    threads = 2 if request.param == "on two threads" else 1
    return lambda problem=PROBLEM, **choices: dmf.run_many(problem, threads=threads, **CHOICES | choices)


def run(problem=PROBLEM, **choices):
    return dmf.run(problem, **CHOICES | choices)


def assert_same(result, alone):
    assert all(map(np.array_equal, result.factors, alone.factors))
    assert result.factorization == alone.factorization
    for name in ("loss", "test_error", "steps", "evaluations", "time", "status", "seed", "settings"):
        np.testing.assert_equal(getattr(result, name), getattr(alone, name), err_msg=name)
    assert result.records.keys() == alone.records.keys()
    for name, rows in result.records.items():
        np.testing.assert_array_equal(rows, alone.records[name], err_msg=name)


@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"depth": 3, "dtype": "float32"},
        {"lr": None, "factorization": dmf.Product(2, (4,)), "init": dmf.Uniform(std=0.1)},
        {"lr": None, "optimizer": dmf.GradientDescent(1.0, momentum=0.9)},
        {"lr": None, "optimizer": dmf.ExactLineSearch(), "stop": dmf.MaxSteps(40)},
        {"record": dmf.Record(metrics=["loss", "singular_values", "gradient_norm"])},
    ],
    ids=str,
)
def test_each_is_the_run_by_itself(run_many, choices):
    results = run_many(seeds=SEEDS, **choices)
    for seed, result in zip(SEEDS, results, strict=True):
        assert_same(result, run(seed=seed, **choices))


#: Runs that end at different steps, for different reasons.
ENDS = {
    "loss": {"stop": dmf.LossBelow(1e-3) | dmf.MaxSteps(2000)},
    "loss, late": {"stop": dmf.LossBelow(1e-3) & dmf.MaxSteps(80) | dmf.MaxSteps(2000)},
    "gradient": {"stop": dmf.LossBelow(0.1) & dmf.GradientBelow(0.02) | dmf.MaxSteps(2000)},
    "stalled": {"stop": dmf.Stalled(patience=37, rtol=0.1) | dmf.MaxSteps(2000)},
    "levels": {"record": dmf.Record(at_loss=[1.0, 0.5, 0.1, 0.01]), "stop": dmf.LossBelow(1e-2)},
}


@pytest.mark.parametrize("end", ENDS)
def test_each_ends_where_it_would_by_itself(run_many, end):
    inits = [dmf.Gaussian(scale) for scale in (1e-3, 1e-1, 1e-2, 1e-1, 1.0)]
    results = run_many(inits=inits, seeds=SEEDS, **ENDS[end])
    assert len({result.steps for result in results}) > 2
    for seed, init, result in zip(SEEDS, inits, results, strict=True):
        assert_same(result, run(init=init, seed=seed, **ENDS[end]))


def test_one_that_diverges_leaves_the_others_alone(run_many):
    inits = [dmf.Gaussian(), dmf.Gaussian(100.0), dmf.Gaussian(1e-2), dmf.Gaussian(1e200)]
    results = run_many(inits=inits, seeds=[3, 4, 5, 6])
    assert [str(result.status) for result in results] == ["max_steps", "diverged"] * 2
    assert results[1].steps > 0
    for seed, init, result in zip([3, 4, 5, 6], inits, results, strict=True):
        assert_same(result, run(init=init, seed=seed))


def test_locksteps_are_formed_anew_of_those_that_go_on(monkeypatch):
    locksteps = formed(monkeypatch, OneByOne)
    stop, inits = dmf.LossBelow(1e-3) | dmf.MaxSteps(2000), [dmf.Gaussian(s) for s in (1e-3, 1e-1, 1e-2, 1.0)]
    results = dmf.run_many(PROBLEM, inits=inits, seeds=range(4), lr=1.0, stop=stop)
    assert len({result.steps for result in results}) == 4
    assert locksteps == [2, 4, 3, 2, 1]  # the first pair only answers whether it pays at all


def test_a_time_limit_holds_for_each(run_many):
    begin = time.perf_counter()
    results = run_many(seeds=range(2), stop=FOREVER | dmf.TimeLimit(0.2))
    assert 0.2 < time.perf_counter() - begin < 5.0
    for result in results:
        assert str(result.status) == "time_limit"
        assert 0.2 <= result.seconds < 2.0
        assert_same_point(result)


def assert_same_point(result):
    """The result is where the run by itself is after so many steps."""
    alone = run(seed=result.seed, stop=dmf.MaxSteps(result.steps))
    assert all(map(np.array_equal, result.factors, alone.factors))
    assert (result.loss, result.evaluations) == (alone.loss, alone.evaluations)
    assert result.records["step"][-1] == result.steps


@pytest.mark.parametrize("kind", ["dense", "sparse"])
@pytest.mark.parametrize("threads", [1, 2])
def test_sensing(make_problem, kind, threads):
    """To rounding, where one product serves all trajectories."""
    if kind == "dense" and threads > numba.config.NUMBA_NUM_THREADS:
        pytest.skip("Numba has one thread here")
    problem = make_problem(kind, "rectangular")
    results = dmf.run_many(problem, seeds=SEEDS, threads=threads, **CHOICES)
    for seed, result in zip(SEEDS, results, strict=True):
        alone = run(problem, seed=seed)
        for ours, theirs in zip(result.factors, alone.factors, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0.0, atol=1e-11)
        assert (result.steps, result.status, result.settings) == (alone.steps, alone.status, alone.settings)


# --- seeds and initializers ---------------------------------------------------------------------------------


def test_seeds_are_drawn_where_none_is_given():
    first, second, given = dmf.run_many(PROBLEM, seeds=[None, None, np.int64(7)], **CHOICES)
    assert (given.seed, type(given.seed)) == (7, int)
    assert first.seed != second.seed
    assert_same(first, run(seed=first.seed))


def test_initializers_without_seeds():
    start = dmf.Factors([np.full((10, 10), 0.1), np.full((12, 10), 0.1)])
    inits = [start, dmf.Gaussian(), dmf.Identity(1e-3)]
    results = dmf.run_many(PROBLEM, inits=iter(inits), **CHOICES | {"factorization": dmf.Product(2)})
    assert [result.seed is None for result in results] == [True, False, True]
    for init, result in zip(inits, results, strict=True):
        assert_same(result, run(init=init, seed=result.seed))


def test_results_share_nothing_that_can_be_changed():
    one, two = dmf.run_many(PROBLEM, seeds=[0, 0], **CHOICES)
    assert one.settings is not two.settings
    assert not any(np.shares_memory(a, b) for a in one.factors for b in two.factors)


def test_a_problem_of_its_own():
    (result,) = dmf.run_many(seeds=[0], stop=dmf.MaxSteps(3))
    assert_same(result, dmf.run(seed=0, stop=dmf.MaxSteps(3)))


@pytest.mark.parametrize(
    ("arguments", "kind", "fragment"),
    [
        ({}, ValueError, r"seeds, such as range\(8\)"),
        ({"seeds": []}, ValueError, "empty"),
        ({"inits": []}, ValueError, "empty"),
        ({"seeds": 8}, TypeError, "8"),
        ({"seeds": [0, -1]}, ValueError, "-1"),
        ({"seeds": [0.5]}, TypeError, "0.5"),
        ({"inits": dmf.Gaussian()}, TypeError, "Gaussian"),
        ({"inits": [dmf.Gaussian(), 7]}, TypeError, "7"),
        ({"inits": [dmf.Gaussian()], "init": dmf.Uniform()}, ValueError, "init or inits"),
        ({"inits": [dmf.Gaussian()] * 2, "seeds": range(3)}, ValueError, "3 seeds, but 2 inits"),
        ({"inits": [dmf.Gaussian(), dmf.Factors([np.eye(3)] * 2)]}, ValueError, r"\(3, 3\)"),
        ({"seeds": range(2), "init": dmf.Identity()}, ValueError, "draws nothing"),
        ({"seeds": range(2), "threads": 0}, ValueError, "0"),
        ({"seeds": range(2), "threads": 1.5}, TypeError, "1.5"),
        ({"seeds": range(2), "depth": 2, "factorization": dmf.Product(2)}, ValueError, "depth=2"),
        ({"seeds": range(2), "lr": 1.0, "optimizer": dmf.GroupRMSprop()}, ValueError, "lr=1.0"),
        ({"seeds": range(2), "stop": 7}, TypeError, "7"),
        ({"seeds": range(2), "dtype": "float16"}, ValueError, "float16"),
        ({"seeds": range(2), "device": "tpu"}, ValueError, "tpu"),
        ({"seeds": range(2), "seed": 1}, TypeError, "seed"),
        ({"seeds": range(2), "callback": print}, TypeError, "callback"),
        ({"seeds": range(2), "checkpoint": "run.npz"}, TypeError, "checkpoint"),
    ],
    ids=str,
)
def test_what_is_refused_before_anything_runs(monkeypatch, arguments, kind, fragment):
    monkeypatch.setattr("fastdmf.loop.Pace.advance", None)
    with pytest.raises((ValueError, TypeError), match=fragment) as caught:
        dmf.run_many(PROBLEM, **arguments)
    assert type(caught.value) is kind


# --- interruptions, exceptions, progress ------------------------------------------------------------------


class Finger:
    """A metric that presses Ctrl-C the first time that it is asked at a step, or at a multiple of it once so
    many runs have ended at step ``end``."""

    def __init__(self, step, times=1, ended=0, end=None):
        self.step, self.times, self.ended, self.end = step, times, ended, end
        self.pressed = None
        self._lock = threading.Lock()

    def __call__(self, state):
        with self._lock:
            self.ended -= state.step == self.end
            is_time = state.step > 0 and state.step % self.step == 0 and self.ended <= 0
            if is_time and self.pressed is None:
                self.pressed = time.perf_counter()
                for _ in range(self.times):
                    os.kill(os.getpid(), signal.SIGINT)
                    time.sleep(0.05)  # meanwhile the main thread answers it
        return 0.0


@pytest.fixture
def handler_comes_back():
    theirs = signal.getsignal(signal.SIGINT)
    yield
    assert signal.getsignal(signal.SIGINT) is theirs


@pytest.mark.usefixtures("handler_comes_back")
def test_ctrl_c_keeps_what_was_finished(run_many):
    finger = Finger(50, ended=2, end=20)
    small, large = dmf.Gaussian(1e-3), dmf.Gaussian(1e3)
    results = run_many(
        inits=[small, small, large, large, large],  # one thread has not begun the last two by then
        seeds=SEEDS,
        stop=dmf.LossBelow(1e3) & dmf.MaxSteps(20) | FOREVER,
        lr=1e-9,
        record=dmf.Record(every=50, metrics=["loss", finger]),
    )
    assert time.perf_counter() - finger.pressed < 1.0
    assert [str(result.status) for result in results] == ["converged"] * 2 + ["interrupted"] * 3
    assert [result.steps for result in results[:2]] == [20] * 2
    assert max(result.steps for result in results[2:]) >= 50
    for init, result in zip([small, small, large, large, large], results, strict=True):
        assert result.records["step"][-1] == result.steps
        assert result.records["loss"][-1] == result.loss
        same = run(init=init, seed=result.seed, lr=1e-9, stop=dmf.MaxSteps(result.steps))
        assert all(map(np.array_equal, result.factors, same.factors))


@pytest.mark.usefixtures("handler_comes_back")
def test_ctrl_c_while_a_stretch_is_computed(run_many):
    def press():
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    begin = time.perf_counter()
    results = run_many(seeds=range(2), stop=FOREVER)
    assert time.perf_counter() - begin < 5.0
    thread.join()
    assert {str(result.status) for result in results} == {"interrupted"}
    for result in results:
        assert_same_point(result)


@pytest.mark.usefixtures("handler_comes_back")
def test_the_second_ctrl_c_raises(run_many):
    with pytest.raises(KeyboardInterrupt):
        run_many(seeds=SEEDS, stop=FOREVER, record=dmf.Record(every=50, metrics=[Finger(50, times=2)]))


@pytest.mark.usefixtures("handler_comes_back")
def test_what_a_metric_raises_ends_all(run_many):
    raised = LookupError("of the metric")

    def failing(state):
        if state.step == 50 and state.factors[0].max() > 10.0:
            raise raised
        return 0.0

    before = threading.active_count()
    with pytest.raises(LookupError) as caught:
        run_many(
            inits=[dmf.Gaussian(), dmf.Gaussian(1e4), dmf.Gaussian()],
            lr=1e-9,
            stop=dmf.LossBelow(1e3) & dmf.MaxSteps(100) | FOREVER,
            record=dmf.Record(every=50, metrics=[failing]),
        )
    assert caught.value is raised
    assert threading.active_count() == before


def test_from_another_thread():
    results = []
    thread = threading.Thread(target=lambda: results.extend(dmf.run_many(PROBLEM, seeds=SEEDS, **CHOICES)))
    thread.start()
    thread.join()
    for seed, result in zip(SEEDS, results, strict=True):
        assert_same(result, run(seed=seed))


def test_as_many_at_a_time_as_there_are_threads():
    meeting, threads = threading.Barrier(2), set()

    def meet(state):
        threads.add(threading.get_ident())
        if state.step in (0, 150):
            meeting.wait(60)
        return 0.0

    dmf.run_many(
        PROBLEM, seeds=range(4), threads=2, **CHOICES | {"record": dmf.Record(every=50, metrics=[meet])}
    )
    assert len(threads) == 2


@pytest.mark.parametrize("threads", [1, 2])
def test_blas_has_one_thread_inside_and_the_users_outside(threads):
    def blas_threads(_state=None):
        pools = ThreadpoolController().select(user_api="blas").info()
        return [pool["num_threads"] for pool in pools if pool.get("threading_layer") != "disabled"]

    run(stop=dmf.MaxSteps(1))  # loads the BLAS that kernels call
    with threadpool_limits(2, user_api="blas"):
        if set(blas_threads()) != {2}:
            pytest.skip("this BLAS has a single thread, so that no limit can be seen")
        record = dmf.Record(every=50, metrics={"threads": blas_threads})
        results = dmf.run_many(PROBLEM, seeds=SEEDS, threads=threads, **CHOICES | {"record": record})
        assert set(blas_threads()) == {2}
    for result in results:
        assert set(result.records["threads"].ravel()) == {1}


def test_the_bar_counts_runs(run_many, capsys):
    run_many(seeds=SEEDS, progress=True)
    shown = capsys.readouterr().err
    assert "0/5" in shown
    assert "5/5" in shown
    run_many(seeds=SEEDS)
    assert not capsys.readouterr().err
