"""Exact line search on the CUDA backend, run on the CPU by the shim, against the CPU backend."""

import numpy as np
import pytest

import fastdmf as dmf
from fastdmf.backends import Event
from fastdmf.kernels.cuda import sources
from tests import test_properties
from tests.test_against_naive import assert_same
from tests.test_cuda_backend import (
    FACTORIZATIONS,
    SENSING,
    START,
    TOLERANCE,
    assert_close,
    assert_same_result,
    needs_shim,
    problem_for,
    sensing,
)

SEARCH = dmf.ExactLineSearch()


def loops(problem, factorization, optimizer=SEARCH, dtype="float64"):
    """The same loop on both devices."""
    return [dmf.Loop(problem, factorization, optimizer, dtype=dtype, device=d) for d in ("cuda", "cpu")]


def assert_steps_are_the_same(problem, factorization, dtype):
    pair = loops(problem, factorization, dtype=dtype)
    starts = [loop.init(START, seed=0) for loop in pair]
    ends = [loop.advance(start, 20) for loop, start in zip(pair, starts, strict=True)]
    assert ends[1].loss < 0.5 * starts[1].loss, "this instance hardly moves: it proves nothing"
    assert_close(*ends, TOLERANCE[dtype])
    assert ends[0].step == ends[1].step == 20 and ends[0].evaluations == ends[1].evaluations == 21
    for x, y in zip(ends[0].gradients, ends[1].gradients, strict=True):
        assert np.max(np.abs(x - y)) < 10 * TOLERANCE[dtype] * np.max(np.abs(y))
    assert ends[0].memory.keys() == ends[1].memory.keys()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("factorization", FACTORIZATIONS)
def test_steps_are_those_of_the_cpu(device_here, factorization, dtype):
    f = FACTORIZATIONS[factorization]
    assert_steps_are_the_same(problem_for(f), f, dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("factorization", ["depth 2", "depth 3", "UUᵀ"])
@pytest.mark.parametrize("kind", SENSING)
def test_steps_of_sensing_are_those_of_the_cpu(device_here, kind, factorization, dtype):
    f = FACTORIZATIONS[factorization]
    assert_steps_are_the_same(sensing(kind, f), f, dtype)


@pytest.mark.parametrize("factorization", ["depth 2", "depth 3", "depth 4", "UUᵀ"])
@pytest.mark.parametrize("is_capped", [False, True])
def test_runs_are_those_of_the_cpu(device_here, is_capped, factorization):
    f = FACTORIZATIONS[factorization]
    record = dmf.Record(every=1, metrics=["loss", "gradient_norm"])
    choices = {"factorization": f, "optimizer": SEARCH, "init": START, "record": record, "seed": 0}
    problem, twenty = problem_for(f), dmf.MaxSteps(20)
    free = dmf.run(problem, stop=twenty, **choices)
    cap = free.time / free.steps
    if is_capped:
        choices["optimizer"] = dmf.ExactLineSearch(cap)
    lowest = dmf.run(problem, stop=twenty, **choices).loss
    stop = dmf.LossBelow(1.001 * lowest) | dmf.MaxSteps(60)  # not where rounding decides
    gpu, cpu = (dmf.run(problem, stop=stop, device=d, **choices) for d in ("cuda", "cpu"))
    assert str(gpu.status) == str(cpu.status) == "converged"
    assert gpu.steps == cpu.steps and 5 < gpu.steps <= 20 and gpu.evaluations == cpu.evaluations
    longest = np.max(np.diff(gpu.trace.time))
    assert longest == pytest.approx(cap, rel=1e-12) if is_capped else longest > 1.1 * cap
    assert_close(gpu, cpu, 1e-11)
    assert gpu.test_error == pytest.approx(cpu.test_error, rel=1e-10)
    for name in ("time", "loss", "gradient_norm"):
        np.testing.assert_allclose(gpu.trace[name], cpu.trace[name], rtol=1e-10, err_msg=name)


@needs_shim
@pytest.mark.parametrize("factorization", ["depth 3", "UUᵀ"])
def test_schedules_halves_and_norms_do_not_change_a_bit(on_shim, factorization):
    f, ends = FACTORIZATIONS[factorization], []
    for schedule in (0, 1, 2):
        on_shim(schedule)
        loop = loops(problem_for(f), f)[0]
        ends.append(loop.advance(loop.init(START, seed=0), 6))
    ends.append(loop.advance(loop.advance(loop.init(START, seed=0), 3), 3))
    watched = loop.start(START, 0)
    assert watched.advance(6, [(0.0, 1e-300)]) == Event.ALL_STEPS
    ends.append(watched.state())
    for end in ends[1:]:
        assert_same(end, ends[0])
        assert all(map(np.array_equal, end.gradients, ends[0].gradients))


@pytest.mark.parametrize("factorization", ["depth 2", "depth 3"])
def test_the_device_halts_where_it_should_though_more_is_queued(device_here, factorization):
    f = FACTORIZATIONS[factorization]
    gpu, cpu = loops(problem_for(f), f)
    path = [cpu.init(START, seed=0)]
    for _ in range(6):
        path.append(cpu.advance(path[-1], 1))
    halts = {
        "loss": ([(0.5 * (path[2].loss + path[3].loss), np.inf)], np.inf),
        "time": ([], 0.5 * (path[2].time + path[3].time)),
    }
    for name, (pairs, until) in halts.items():
        trajectories = [loop.start(START, 0) for loop in (gpu, cpu)]
        assert [t.advance(6, pairs, until) for t in trajectories] == [Event.HALTED] * 2, name
        assert trajectories[0].step == trajectories[1].step == 3, name
        assert_close(*(t.state() for t in trajectories), 1e-11)
        # And from there it goes on as if nothing had been queued.
        assert [t.advance(2) for t in trajectories] == [Event.ALL_STEPS] * 2
        assert_close(*(t.state() for t in trajectories), 1e-11)


@needs_shim
def test_an_advance_waits_for_the_device_once(on_shim, monkeypatch):
    device = on_shim()
    f = FACTORIZATIONS["depth 2"]
    for problem, launches in ((problem_for(f), 9), (sensing("sparse", f), 13), (sensing("symmetric", f), 12)):
        trajectory = loops(problem, f)[0].start(START, 0)
        with monkeypatch.context() as m:
            seen = []
            m.setattr(device, "get", lambda array, seen=seen: seen.append(array.shape) or array.copy())
            m.setattr(device, "put", None)
            m.setattr(device, "empty", None)
            device.launches = 0
            trajectory.advance(10)
        assert seen == [(sources.SLOTS,)]
        # What evaluates the point, the gradient, the powers, what is measured of them, three that find the
        # step, and the step.
        assert device.launches == 10 * launches


@pytest.mark.parametrize("factorization", ["depth 3", "UUᵀ"])
def test_either_device_goes_on_where_the_other_was(device_here, factorization):
    f = FACTORIZATIONS[factorization]
    pair = loops(problem_for(f), f)
    ends = []
    for first, second in (pair, pair[::-1], pair[1:] * 2):
        state = first.advance(first.init(START, seed=0), 4)
        t = second.engine.resume(state.factors, state.memory, state.evaluations)
        t.advance(4)
        ends.append(t.state())
    for end in ends[:2]:
        assert_close(end, ends[2], 1e-11)
        assert (end.step, end.evaluations) == (8, 9)


def test_a_checkpoint_goes_on_to_the_bit(device_here, tmp_path):
    choices = {"depth": 3, "optimizer": SEARCH, "init": START, "seed": 0, "device": "cuda"}
    choices |= {"record": dmf.Record(every=2), "stop": dmf.MaxSteps(9)}
    problem, path, seen = problem_for(None), tmp_path / "search.npz", []
    whole = dmf.run(problem, **choices)

    def interrupt(state):
        seen.append(state.step)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dmf.run(problem, checkpoint=path, callback=interrupt, **choices)
    assert_same_result(dmf.run(problem, checkpoint=path, **choices), whole)


def test_where_nothing_falls_steps_are_zero_and_a_run_stalls(device_here):
    """At a saddle, where the gradient is zero, and at a fit, where the loss is."""
    rng = np.random.default_rng(0)
    # Powers of two, so that every product is exact on every device.
    left, right = (2.0 ** rng.integers(-1, 2, shape) for shape in ((6, 1), (1, 5)))
    fit = left @ right
    problem = dmf.Completion(*np.indices((6, 5)).reshape(2, -1)[:, ::2], fit.ravel()[::2], (6, 5))
    for start in ([0 * right, 0 * left], [right, left]):
        choices = {"factorization": dmf.Product(2, (1,)), "optimizer": SEARCH, "init": dmf.Factors(start)}
        stop = dmf.Stalled(4) | dmf.MaxSteps(20)
        gpu, cpu = (dmf.run(problem, stop=stop, device=d, **choices) for d in ("cuda", "cpu"))
        assert str(gpu.status) == str(cpu.status) == "stalled"
        assert gpu.steps == cpu.steps == 4 and gpu.time == cpu.time == 0.0
        assert all(map(np.array_equal, gpu.factors, start))


@needs_shim
def test_many_runs_are_each_the_run_by_itself(on_shim):
    choices = {"depth": 2, "optimizer": SEARCH, "init": START, "stop": dmf.MaxSteps(5), "device": "cuda"}
    problem = problem_for(None)
    for seed, result in enumerate(dmf.run_many(problem, seeds=range(3), **choices)):
        on_shim(seed)
        assert_same_result(result, dmf.run(problem, seed=seed, **choices))


# --- the properties that line searches on the CPU have ------------------------------------------------------


@pytest.mark.parametrize(("depth", "scale", "seed"), [(2, 1.0, 69), (3, 0.3, 27), (4, 0.3, 11)])
def test_it_takes_the_lowest_of_several_minima(device_here, depth, scale, seed):
    test_properties.test_line_search_takes_the_lowest_of_several_minima("cuda", depth, scale, seed)


@pytest.mark.parametrize(("depth", "dtype", "floor"), [(2, "float32", 1e-12), (6, "float64", 1e-18)])
def test_it_converges(device_here, depth, dtype, floor):
    test_properties.test_line_search_converges_at_every_depth("cuda", depth, dtype, floor)
