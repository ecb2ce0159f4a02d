"""The gradient flow on the CUDA backend, run by the shim and on a GPU where there is one, against the CPU."""

import numpy as np
import pytest

import fastdmf as dmf
from fastdmf.backends import Event
from fastdmf.kernels import flow_rules as rules
from tests import cuda_shim
from tests.test_cuda_backend import TOLERANCE, assert_close, problem_for, sensing

needs_shim = pytest.mark.skipif(bool(cuda_shim.MISSING), reason=f"the CUDA shim {cuda_shim.MISSING}")

FACTORIZATIONS = {"depth 2": dmf.Product(2), "depth 3": dmf.Product(3), "UUᵀ": dmf.Symmetric()}
METHODS = {"rkc2": dmf.GradientFlow(), "dopri5": dmf.GradientFlow(rtol=1e-5, method="dopri5")}
START = dmf.Gaussian(product_scale=0.03)


def problem_of(factorization):
    """One that the factorization can fit."""
    if not isinstance(factorization, dmf.Symmetric):
        return problem_for(factorization)
    rng = np.random.default_rng(4)
    b = rng.standard_normal((30, 2))
    rows, cols = np.divmod(rng.choice(900, 300, replace=False), 30)
    return dmf.Completion(rows, cols, (b @ b.T)[rows, cols], (30, 30), truth=b @ b.T)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("factorization", FACTORIZATIONS)
def test_runs_are_those_of_the_cpu(device_here, factorization, method, dtype):
    f = FACTORIZATIONS[factorization]
    record = dmf.Record(every=7, at_loss=[0.5, 0.1], at_time=[2.0, 5.0], metrics=["loss", "gradient_norm"])
    stop = dmf.LossBelow(1e-2) | dmf.MaxSteps(200)
    choices = {"factorization": f, "optimizer": METHODS[method], "init": START, "seed": 0, "dtype": dtype}
    gpu, cpu = (
        dmf.run(problem_of(f), device=device, record=record, stop=stop, **choices)
        for device in ("cuda", "cpu")
    )
    assert str(gpu.status) == str(cpu.status) == "converged"
    assert gpu.steps == cpu.steps > 10 and gpu.details == cpu.details
    assert method == "dopri5" or gpu.details["hessian_products"] > 3
    assert_close(gpu, cpu, TOLERANCE[dtype])
    assert gpu.test_error == pytest.approx(cpu.test_error, rel=10 * TOLERANCE[dtype])
    for name in ("step", "time", "loss", "gradient_norm"):
        np.testing.assert_allclose(
            gpu.trace[name], cpu.trace[name], rtol=100 * TOLERANCE[dtype], err_msg=name
        )


@pytest.mark.parametrize("kind", ["any", "symmetric", "sparse"])
@pytest.mark.parametrize("factorization", ["depth 2", "depth 3", "UUᵀ"])
def test_flows_of_sensing_are_those_of_the_cpu(device_here, factorization, kind):
    f = FACTORIZATIONS[factorization]
    choices = {"factorization": f, "init": dmf.Gaussian(0.3), "seed": 0, "stop": dmf.MaxSteps(12)}
    gpu, cpu = (dmf.run(sensing(kind, f), device=device, **choices) for device in ("cuda", "cpu"))
    assert gpu.details == cpu.details and gpu.evaluations == cpu.evaluations
    assert gpu.details["hessian_products"] > 0
    assert_close(gpu, cpu, 1e-10)


def test_a_flow_at_depth_5_with_widths(device_here):
    """Chains of three factors have products of three, and derivatives of each."""
    f = dmf.Product(5, (9, 12, 10, 8))
    problem = dmf.Completion.random((12, 10), rank=2, observed=60, seed=0)
    choices = {"factorization": f, "init": dmf.Gaussian(1.0), "seed": 0, "stop": dmf.MaxSteps(25)}
    gpu, cpu = (dmf.run(problem, device=device, **choices) for device in ("cuda", "cpu"))
    assert gpu.details == cpu.details and gpu.details["hessian_products"] > 5
    assert_close(gpu, cpu, 1e-11)


@needs_shim
@pytest.mark.parametrize("factorization", FACTORIZATIONS)
def test_schedules_stretches_and_records_do_not_change_a_bit(on_shim, factorization):
    f = FACTORIZATIONS[factorization]
    choices = {"factorization": f, "init": START, "seed": 0, "device": "cuda", "stop": dmf.LossBelow(0.05)}
    ends = [dmf.run(problem_of(f), record=dmf.Record(at=()), **choices)]
    for schedule in (1, 2):
        on_shim(schedule)
        ends.append(dmf.run(problem_of(f), record=dmf.Record(every=1, at_time=[1.0, 2.0, 3.0]), **choices))
    for end in ends[1:]:
        assert all(map(np.array_equal, end.factors, ends[0].factors))
        assert (end.loss, end.time, end.steps) == (ends[0].loss, ends[0].time, ends[0].steps)


def test_a_flow_is_taken_up_inside_a_step_to_the_bit_and_from_the_cpu(device_here):
    loop, other = (
        dmf.Loop(problem_of(None), dmf.Product(3), METHODS["rkc2"], device=d) for d in ("cuda", "cpu")
    )
    straight = loop.start(START, 0)
    assert straight.advance(100, until=3.0) == Event.HALTED and not straight.is_at_step
    assert straight.time == 3.0 and straight.gradient_norm > 0.0
    state = straight.state()
    resumed = loop.engine.resume(state.factors, state.memory, state.evaluations)
    from_cpu = other.start(START, 0)
    from_cpu.advance(100, until=3.0)
    state = from_cpu.state()
    crossed = loop.engine.resume(state.factors, state.memory, state.evaluations)
    for t in (straight, resumed, crossed):
        assert t.advance(100, [(0.1, np.inf)]) == Event.ALL_STEPS and t.is_at_step
        assert t.advance(100, [(0.1, np.inf)]) == Event.HALTED and t.loss <= 0.1
    assert all(map(np.array_equal, straight.factors(), resumed.factors()))
    a, b = straight.memory(), resumed.memory()
    assert a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a if k != "scalars")
    assert straight.evaluations == resumed.evaluations
    assert_close(straight.state(), crossed.state(), 1e-11)


def test_a_checkpoint_goes_on_to_the_bit(device_here, tmp_path):
    choices = {"depth": 2, "init": START, "seed": 0, "device": "cuda", "record": dmf.Record(every=3)}
    whole = dmf.run(problem_of(None), stop=dmf.LossBelow(0.05), **choices)
    seen = []

    def interrupt(state):
        seen.append(state.step)
        if len(seen) == 4:
            raise KeyboardInterrupt

    path = tmp_path / "flow.npz"
    with pytest.raises(KeyboardInterrupt):
        dmf.run(problem_of(None), stop=dmf.LossBelow(0.05), checkpoint=path, callback=interrupt, **choices)
    again = dmf.run(problem_of(None), stop=dmf.LossBelow(0.05), checkpoint=path, **choices)
    assert all(map(np.array_equal, again.factors, whole.factors))
    assert again.evaluations == whole.evaluations and again.details == whole.details


def test_a_stage_without_a_finite_loss_ends_the_step_as_on_the_cpu(device_here):
    """The first step is far too long: it is tried, and shortened, as often and at the same cost."""
    f, optimizer = dmf.Product(3), METHODS["dopri5"]
    loops = [dmf.Loop(problem_of(None), f, optimizer, device=d) for d in ("cuda", "cpu")]
    ends = []
    for loop in loops:
        t = loop.start(START, 0)
        memory = dict(t.memory())
        memory["scalars"] = memory["scalars"].copy()
        memory["scalars"][rules.STEP_SIZE] = 1e20
        t = loop.engine.resume(t.factors(), memory, t.evaluations)
        t.advance(3)
        ends.append(t)
    assert ends[0].details() == ends[1].details() and ends[0].details()["rejected"] > 20
    assert ends[0].evaluations == ends[1].evaluations
    assert_close(ends[0].state(), ends[1].state(), 1e-11)


def test_a_flow_at_rest_is_stuck(device_here):
    problem = dmf.Completion([0, 1], [0, 1], [1.0, 2.0], (3, 3))
    for device in ("cuda", "cpu"):
        start = dmf.Factors([np.zeros((3, 3))] * 2)
        t = dmf.Loop(problem, dmf.Product(2), METHODS["rkc2"], device=device).start(start, 0)
        assert t.advance(5) == Event.STUCK and t.stuck and t.step == 0


def test_a_cancelled_flow_ends_between_steps(device_here):
    t = dmf.Loop(problem_of(None), dmf.Product(2), METHODS["rkc2"], device="cuda").start(START, 0)
    t.cancel[0] = 1
    assert t.advance(5) == Event.CANCELLED and t.step == 0
    t.cancel[0] = 0
    assert t.advance(2) == Event.ALL_STEPS and t.step == 2


@needs_shim
def test_a_step_waits_once_and_a_product_with_the_hessian_once(on_shim, monkeypatch):
    device, waits = on_shim(), []
    t = dmf.Loop(problem_of(None), dmf.Product(2), METHODS["rkc2"], device="cuda").start(START, 0)
    get = device.get
    monkeypatch.setattr(device, "get", lambda array: waits.append(array.size) or get(array))
    t.advance(15)
    counted = t.details()
    assert t.step == 15 and counted["hessian_products"] > 0
    assert len(waits) == 15 + counted["rejected"] + counted["hessian_products"]
    assert max(waits) <= 3 * 2 + rules.MAX_STAGES
