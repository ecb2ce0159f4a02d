"""W itself on the CUDA backend, run by the shim and on a GPU where there is one, against the CPU backend."""

import numpy as np
import pytest

import fastdmf as dmf
from fastdmf.backends import Event
from tests import cuda_shim
from tests.test_against_naive import assert_same
from tests.test_cuda_backend import SENSING, START, TOLERANCE, assert_close, problem_for, sensing

needs_shim = pytest.mark.skipif(bool(cuda_shim.MISSING), reason=f"the CUDA shim {cuda_shim.MISSING}")

KINDS = ("observed", *SENSING)
OPTIMIZERS = {
    "descent": lambda lr: dmf.GradientDescent(lr),
    "momentum": lambda lr: dmf.GradientDescent(lr / 3, momentum=0.9),
    "group RMSprop": lambda lr: dmf.GroupRMSprop(0.2),
    "line search": lambda lr: dmf.ExactLineSearch(max_step=60.0),  # one step would fit entries else
}
FLOWS = {"rkc2": dmf.GradientFlow(), "dopri5": dmf.GradientFlow(rtol=1e-5, method="dopri5")}


def problem_of(kind):
    return problem_for(None) if kind == "observed" else sensing(kind, None)


def optimizer_of(name, kind):
    """A mean over 300 entries bends far less than one over measurements of all of W."""
    return FLOWS[name] if name in FLOWS else OPTIMIZERS[name](30.0 if kind == "observed" else 0.3)


def loops(kind, name, dtype="float64"):
    problem, optimizer = problem_of(kind), optimizer_of(name, kind)
    return [dmf.Loop(problem, dmf.Product(1), optimizer, dtype=dtype, device=d) for d in ("cuda", "cpu")]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_those_of_the_cpu(device_here, kind, optimizer, dtype):
    gpu, cpu = loops(kind, optimizer, dtype)
    start = gpu.init(START, seed=0)
    assert gpu.engine.form == cpu.engine.form
    ends = [loop.advance(loop.init(START, seed=0), 20) for loop in (gpu, cpu)]
    assert ends[1].loss < 0.9 * start.loss, "this instance hardly moves: it proves nothing"
    assert_close(*ends, TOLERANCE[dtype])
    assert ends[0].step == 20 and ends[0].evaluations == ends[1].evaluations == 21
    assert ends[0].test_error == pytest.approx(ends[1].test_error, rel=10 * TOLERANCE[dtype])
    (x,), (y,) = (end.gradients for end in ends)
    assert np.max(np.abs(x - y)) < 10 * TOLERANCE[dtype] * np.max(np.abs(y))
    assert np.array_equal(ends[0].factors[0][y == 0], start.factors[0][y == 0])


@pytest.mark.parametrize(
    ("kind", "method", "dtype"),
    [*((k, m, "float64") for k in KINDS for m in FLOWS), ("observed", "rkc2", "float32")],
)
def test_flows_are_those_of_the_cpu(device_here, kind, method, dtype):
    record = dmf.Record(every=3, at_loss=[0.5, 0.1], at_time=[2.0], metrics=["loss", "gradient_norm"])
    choices = {"optimizer": FLOWS[method], "init": START, "seed": 0, "record": record}
    choices |= {"depth": 1, "dtype": dtype}
    stop = dmf.LossBelow(1e-2) | dmf.MaxSteps(15)
    gpu, cpu = (dmf.run(problem_of(kind), device=d, stop=stop, **choices) for d in ("cuda", "cpu"))
    assert (gpu.status, gpu.steps, gpu.details) == (cpu.status, cpu.steps, cpu.details) and gpu.steps > 8
    assert (gpu.details["hessian_products"] > 0) == (method == "rkc2")
    assert_close(gpu, cpu, TOLERANCE[dtype])
    for name in ("step", "time", "loss", "gradient_norm"):
        np.testing.assert_allclose(
            gpu.trace[name], cpu.trace[name], rtol=100 * TOLERANCE[dtype], err_msg=name
        )


@pytest.mark.parametrize("optimizer", ["descent", "rkc2"])
def test_it_halts_and_diverges_as_on_the_cpu(device_here, optimizer):
    trajectories = [loop.start(START, 0) for loop in loops("observed", optimizer)]
    level = 0.3 * trajectories[1].loss
    assert [t.advance(60, [(level, np.inf)]) for t in trajectories] == [Event.HALTED] * 2
    assert trajectories[0].step == trajectories[1].step < 60
    assert_close(*(t.state() for t in trajectories), 1e-11)
    steep = dmf.GradientDescent(1e10)
    for device in ("cuda", "cpu"):
        t = dmf.Loop(problem_of("observed"), dmf.Product(1), steep, device=device).start(START, 0)
        assert t.advance(50) == Event.DIVERGED and np.isfinite(t.loss) and t.step == 19


@needs_shim
@pytest.mark.parametrize("optimizer", [*OPTIMIZERS, "rkc2"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_schedule_changes_a_bit(on_shim, kind, optimizer):
    ends = []
    for schedule in (0, 1, 2):
        on_shim(schedule)
        loop = loops(kind, optimizer)[0]
        ends.append(loop.advance(loop.init(START, seed=0), 5))
    for end in ends[1:]:
        assert_same(end, ends[0])


@pytest.mark.parametrize("optimizer", ["momentum", "rkc2"])
@pytest.mark.parametrize("kind", ["observed", "any"])
def test_either_device_goes_on_where_the_other_was(device_here, kind, optimizer):
    both = loops(kind, optimizer)
    until = np.inf if optimizer == "momentum" else 0.7
    ends, memories = [], []
    for loop, other in (both, both, both[::-1]):
        t = loop.start(START, 0)
        t.advance(6, until=until)
        assert t.is_at_step == (optimizer == "momentum")
        state = t.state()
        memories.append(state.memory)
        if ends:
            t = other.engine.resume(state.factors, state.memory, state.evaluations)
        t.advance(1)  # a flow goes to the end of its step
        t.advance(3)
        ends.append(t.state())
    assert memories[0].keys() == memories[2].keys()
    for name, array in memories[0].items():
        np.testing.assert_allclose(array, memories[2][name], rtol=1e-10, atol=1e-12, err_msg=name)
    for end in ends[1:]:
        assert end.step == ends[0].step and end.evaluations == ends[0].evaluations
        assert_close(end, ends[0], 1e-11)


@needs_shim
def test_a_step_is_three_launches(on_shim):
    """The residual, the step along it, and what follows: nothing is copied."""
    device = on_shim()
    t = loops("observed", "descent")[0].start(START, 0)
    device.launches = 0
    t.advance(10)
    assert device.launches == 10 * 3
