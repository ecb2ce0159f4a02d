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


def loops(problem, factorization):
    """The same loop on both devices."""
    return [dmf.Loop(problem, factorization, SEARCH, device=d) for d in ("cuda", "cpu")]


KINDS = ("completion", *SENSING)
DEPTHS = ("depth 2", "depth 3", "depth 4", "UUᵀ")


def problem_of(kind, factorization):
    """Of 28 × 36, 32 × 32, 24 × 27 or 26 × 26."""
    return problem_for(factorization) if kind == "completion" else sensing(kind, factorization, 26)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("factorization", DEPTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_runs_are_those_of_the_cpu(device_here, kind, factorization, dtype):
    f = FACTORIZATIONS[factorization]
    gpu, cpu = runs(kind, f, SEARCH, dtype)
    assert_close(gpu, cpu, TOLERANCE[dtype])
    assert gpu.test_error == pytest.approx(cpu.test_error, rel=10 * TOLERANCE[dtype])
    for name in ("time", "loss", "gradient_norm"):
        np.testing.assert_allclose(gpu.trace[name], cpu.trace[name], rtol=10 * TOLERANCE[dtype], err_msg=name)


def runs(kind, factorization, optimizer, dtype="float64"):
    """Some ten steps on both devices, to a loss that the run on the CPU tells."""
    choices = {
        "factorization": factorization, "optimizer": optimizer, "init": START, "seed": 0, "dtype": dtype,
        "record": dmf.Record(every=1, metrics=["loss", "gradient_norm"]),
    }  # fmt: skip
    problem = problem_of(kind, factorization)
    losses = dmf.run(problem, stop=dmf.MaxSteps(15), **choices).trace.loss
    assert losses[-1] < 0.5 * losses[0], "this instance hardly moves: it proves nothing"
    stop = dmf.LossBelow(1.001 * float(losses[12])) | dmf.MaxSteps(15)  # not where rounding decides
    both = [dmf.run(problem, stop=stop, device=device, **choices) for device in ("cuda", "cpu")]
    assert [str(run.status) for run in both] == ["converged"] * 2
    assert both[0].steps == both[1].steps and both[0].evaluations == both[1].evaluations
    return both


@pytest.mark.parametrize("factorization", DEPTHS)
def test_capped_runs_are_those_of_the_cpu(device_here, factorization):
    f = FACTORIZATIONS[factorization]
    free = np.diff(runs("completion", f, SEARCH)[0].trace.time)
    cap = float(np.mean(free))
    gpu, cpu = runs("completion", f, dmf.ExactLineSearch(cap))
    assert cap < 0.9 * np.max(free)
    assert np.max(np.diff(gpu.trace.time)) == pytest.approx(cap, rel=1e-12)
    assert_close(gpu, cpu, 1e-11)


@pytest.mark.parametrize("factorization", ["depth 2, narrow", "UUᵀ, over-wide"])
def test_steps_at_other_widths_are_those_of_the_cpu(device_here, factorization):
    f = FACTORIZATIONS[factorization]
    ends = [loop.advance(loop.init(START, seed=0), 12) for loop in loops(problem_for(f), f)]
    assert_close(*ends, 1e-11)
    assert ends[0].step == ends[1].step == 12 and ends[0].evaluations == ends[1].evaluations == 13
    for x, y in zip(ends[0].gradients, ends[1].gradients, strict=True):
        assert np.max(np.abs(x - y)) < 1e-10 * np.max(np.abs(y))
    assert ends[0].memory.keys() == ends[1].memory.keys()


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
    two, three = FACTORIZATIONS["depth 2"], FACTORIZATIONS["depth 3"]
    for problem, f, launches in (
        (problem_for(two), two, 9), (sensing("sparse", two), two, 13), (sensing("symmetric", two), two, 12),
        (problem_for(three), three, 11),
    ):  # fmt: skip
        trajectory = loops(problem, f)[0].start(START, 0)
        with monkeypatch.context() as m:
            seen = []
            m.setattr(device, "get", lambda array, seen=seen: seen.append(array.shape) or array.copy())
            m.setattr(device, "put", None)
            m.setattr(device, "empty", None)
            device.launches = 0
            trajectory.advance(10)
        assert seen == [(sources.SLOTS,)]
        # What evaluates the point, the gradient (its norm, and bringing that to 1), the powers, what is
        # measured of them, three that find the step, and the step.
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


def test_it_stays_near_where_farther_out_huge_terms_cancel(device_here):
    test_properties.test_line_search_stays_near_where_farther_out_is_a_fit_of_huge_terms_that_cancel(
        "cuda", 3, "float64"
    )


@pytest.mark.parametrize(("depth", "std"), [(5, 1e-3), (6, 1e-4)])
def test_powers_of_a_small_gradient_do_not_underflow(device_here, depth, std):
    test_properties.test_line_search_in_single_precision_where_powers_of_the_gradient_underflow(
        "cuda", depth, std
    )
    problem, ends = dmf.Completion.random((10, 10), 2, 60), []
    for device in ("cuda", "cpu"):
        loop = dmf.Loop(problem, dmf.Product(depth), SEARCH, dtype="float32", device=device)
        trajectory, norms = loop.start(dmf.Gaussian(std=std), 0), []
        for _ in range(6):
            norms.append(trajectory.gradient_norm)  # of the gradient, not of what is brought to a norm of 1
            trajectory.advance(1)
        ends.append((trajectory.state(), norms))
    (gpu, norms), (cpu, norms_there) = ends
    assert norms[0] < 1e-10 and norms == pytest.approx(norms_there, rel=1e-4)
    assert_close(gpu, cpu, TOLERANCE["float32"])
    for x, y in zip(gpu.gradients, cpu.gradients, strict=True):
        assert np.max(np.abs(x - y)) < 1e-4 * np.max(np.abs(y))
