"""The CUDA backend, run on the CPU by the shim, against the CPU backend."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

import fastdmf as dmf
from fastdmf.backends import Event, Leg, cuda
from fastdmf.backends.cuda_objective import CudaObjective
from fastdmf.kernels.cpu import stepping
from fastdmf.kernels.cuda import sources
from fastdmf.kernels.flow_rules import SLOTS_OF_STEPS
from fastdmf.optimizers import Optimizer
from tests import cuda_shim
from tests.test_against_naive import assert_same

ROOT = Path(__file__).parent.parent
needs_shim = pytest.mark.skipif(bool(cuda_shim.MISSING), reason=f"the CUDA shim {cuda_shim.MISSING}")

#: Relative to the largest entry, after some tens of steps: what the two orders of summation differ by.
TOLERANCE = {"float64": 1e-11, "float32": 1e-5}
FACTORIZATIONS = {
    "depth 2": dmf.Product(2),
    "depth 2, narrow": dmf.Product(2, (5,)),
    "depth 3": dmf.Product(3),
    "depth 4": dmf.Product(4, (30, 26, 33)),
    "UUᵀ": dmf.Symmetric(),
    "UUᵀ, over-wide": dmf.Symmetric(40),
}
OPTIMIZERS = {
    "descent": dmf.GradientDescent(2.0),
    "momentum": dmf.GradientDescent(0.5, momentum=0.9),
    "group RMSprop": dmf.GroupRMSprop(0.2),
}
START = dmf.Gaussian(product_scale=0.3)


@pytest.fixture(params=["by launches", "by a block"])
def small(request, monkeypatch):
    """Small trials take each step by several launches, as large ones do, or many in one block."""
    if request.param == "by launches":
        monkeypatch.setattr(cuda, "fits_a_block", lambda *choices: False)
    return request.param == "by a block"


@pytest.fixture
def by_launches(monkeypatch):
    """Small trials take steps as large ones do."""
    monkeypatch.setattr(cuda, "fits_a_block", lambda *choices: False)


@pytest.fixture
def somewhere(device_here, small):
    """There, both ways."""


def problem_for(factorization):
    shape = (32, 32) if isinstance(factorization, dmf.Symmetric) else (28, 36)
    return dmf.Completion.random(shape, rank=2, observed=300, seed=3)


def loops(factorization, optimizer, dtype="float64"):
    """The same loop on both devices."""
    problem = problem_for(factorization)
    return [dmf.Loop(problem, factorization, optimizer, dtype=dtype, device=d) for d in ("cpu", "cuda")]


def assert_close(a, b, tolerance):
    for x, y in zip(a.factors, b.factors, strict=True):
        assert x.dtype == y.dtype and x.shape == y.shape
        assert np.max(np.abs(x - y)) < tolerance * np.max(np.abs(y))
    assert a.loss == pytest.approx(b.loss, rel=10 * tolerance)
    assert a.time == pytest.approx(b.time, rel=tolerance)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("factorization", FACTORIZATIONS)
def test_steps_are_those_of_the_cpu(somewhere, factorization, optimizer, dtype):
    cpu, gpu = loops(FACTORIZATIONS[factorization], OPTIMIZERS[optimizer], dtype)
    start = gpu.init(START, seed=0)
    ends = [loop.advance(loop.init(START, seed=0), 20) for loop in (gpu, cpu)]
    assert ends[1].loss < 0.9 * start.loss, "this instance hardly moves: it proves nothing"
    assert_close(*ends, TOLERANCE[dtype])
    assert ends[0].step == ends[1].step == 20 and ends[0].evaluations == ends[1].evaluations == 21
    for x, y in zip(ends[0].gradients, ends[1].gradients, strict=True):
        assert np.max(np.abs(x - y)) < 10 * TOLERANCE[dtype] * np.max(np.abs(y))
    assert ends[0].memory.keys() == ends[1].memory.keys()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("factorization", ["depth 2", "depth 3", "UUᵀ"])
def test_runs_are_those_of_the_cpu(somewhere, factorization, optimizer):
    choices = {
        "factorization": FACTORIZATIONS[factorization], "optimizer": OPTIMIZERS[optimizer], "init": START,
        "record": dmf.Record(every=5), "seed": 0,
    }  # fmt: skip
    problem = problem_for(choices["factorization"])
    limit = dmf.run(problem, stop=dmf.MaxSteps(25), **choices).loss
    stop = dmf.LossBelow(1.001 * limit) | dmf.MaxSteps(60)  # not where rounding decides
    gpu, cpu = (dmf.run(problem, stop=stop, device=d, **choices) for d in ("cuda", "cpu"))
    assert str(gpu.status) == str(cpu.status) == "converged"
    assert gpu.steps == cpu.steps and 5 < gpu.steps <= 25
    assert gpu.evaluations == cpu.evaluations
    assert_close(gpu, cpu, 1e-11)
    assert gpu.test_error == pytest.approx(cpu.test_error, rel=1e-10)
    np.testing.assert_allclose(gpu.trace.loss, cpu.trace.loss, rtol=1e-10)


@needs_shim
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("factorization", ["depth 2", "depth 3", "UUᵀ"])
def test_schedules_halves_and_norms_do_not_change_a_bit(on_shim, small, factorization, optimizer):
    ends = []
    for schedule in (0, 1, 2):
        on_shim(schedule)
        _, loop = loops(FACTORIZATIONS[factorization], OPTIMIZERS[optimizer])
        ends.append(loop.advance(loop.init(START, seed=0), 6))
    half = loop.advance(loop.init(START, seed=0), 3)
    kept = [w.copy() for w in half.factors]
    ends.append(loop.advance(half, 3))
    assert all(map(np.array_equal, half.factors, kept)), "the argument changed"
    watched = loop.start(START, 0)
    assert watched.advance(6, [(0.0, 1e-300)]) == Event.ALL_STEPS
    norm = watched.gradient_norm
    ends.append(watched.state())
    assert norm == pytest.approx(np.sqrt(sum(np.sum(g**2) for g in ends[0].gradients)), rel=1e-12)
    for end in ends[1:]:
        assert_same(end, ends[0])
        assert all(map(np.array_equal, end.gradients, ends[0].gradients))


@pytest.mark.parametrize("factorization", ["depth 2", "depth 3"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_device_halts_where_it_should_though_more_is_queued(somewhere, factorization, optimizer):
    cpu, gpu = loops(FACTORIZATIONS[factorization], OPTIMIZERS[optimizer])
    path = [cpu.init(START, seed=0)]
    for _ in range(8):
        path.append(cpu.advance(path[-1], 1))
    norms = [np.sqrt(sum(np.sum(g**2) for g in state.gradients)) for state in path]
    between = 0.5 * (path[4].loss + path[5].loss)
    halts = {
        "loss": ([(between, np.inf)], np.inf),
        "time": ([], 0.5 * (path[4].time + path[5].time)),
        "gradient": ([(np.inf, np.nextafter(norms[5], np.inf) * (1 + 1e-9))], np.inf),
    }
    for name, (pairs, until) in halts.items():
        trajectories = [loop.start(START, 0) for loop in (gpu, cpu)]
        assert [t.advance(8, pairs, until) for t in trajectories] == [Event.HALTED] * 2, name
        assert trajectories[0].step == trajectories[1].step < 8, name
        assert_close(*(t.state() for t in trajectories), 1e-11)
        # And from there it goes on as if nothing had been queued.
        assert [t.advance(2) for t in trajectories] == [Event.ALL_STEPS] * 2
        assert_close(*(t.state() for t in trajectories), 1e-11)


@pytest.mark.parametrize("factorization", ["depth 2", "depth 3", "UUᵀ"])
def test_a_divergence_leaves_the_last_finite_point(somewhere, factorization):
    for momentum in (0.0, 0.5):
        cpu, gpu = loops(FACTORIZATIONS[factorization], dmf.GradientDescent(1e4, momentum))
        trajectories = [loop.start(START, 0) for loop in (gpu, cpu)]
        assert [t.advance(50) for t in trajectories] == [Event.DIVERGED] * 2
        a, b = (t.state() for t in trajectories)
        assert a.diverged and a.step == b.step and 0 < a.step < 50 and a.evaluations == b.evaluations
        assert np.isfinite(a.loss) and a.time == b.time
        assert a.loss == pytest.approx(b.loss, rel=1e-6)
        with pytest.raises(ValueError, match="last finite one"):
            trajectories[0].advance(1)


@needs_shim
def test_a_run_waits_for_the_device_where_it_records_and_nowhere_else(on_shim, small, monkeypatch):
    monkeypatch.setattr("fastdmf.loop.STRETCH_SECONDS", 1e9)  # or stretches end by the clock, too
    device, waits = on_shim(), []
    get = device.get
    monkeypatch.setattr(device, "get", lambda array: waits.append(array.size) or get(array))
    record = dmf.Record(every=10, metrics=["loss"])
    choices = {"depth": 2, "lr": 1.0, "stop": dmf.MaxSteps(40), "seed": 0}
    dmf.run(problem_for(dmf.Product(2)), record=record, device="cuda", **choices)
    # The start, a first step that tells how long one takes, four records; factors for test error and result.
    factors = [m.size for m in dmf.run(problem_for(dmf.Product(2)), **choices).factors]
    assert waits == [sources.SLOTS] * 6 + 2 * factors[::-1]


# --- sensing ------------------------------------------------------------------------------------------------


def sensing(kind, factorization, size=10):
    """Measurements of an 8 × 11 or 10 × 10 matrix: any, symmetric, or sparse and not symmetric."""
    square = kind == "symmetric" or isinstance(factorization, dmf.Symmetric)
    n, p = (size, size) if square else (size - 2, size + 1)
    if kind != "sparse":
        return dmf.Sensing.gaussian((n, p), 2, 61, symmetric=kind == "symmetric", seed=5)
    rng = np.random.default_rng(6)
    a = rng.standard_normal((61, n, p)) * (rng.random((61, n, p)) < 0.1)
    truth = rng.standard_normal((n, 2)) @ rng.standard_normal((2, p))
    rows = scipy.sparse.csr_array(a.reshape(61, -1))
    return dmf.Sensing(rows, rows @ truth.ravel(), shape=(n, p), truth=truth)


SENSING = ("any", "symmetric", "sparse")


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("factorization", ["depth 2", "depth 2, narrow", "depth 3", "UUᵀ"])
@pytest.mark.parametrize("kind", SENSING)
def test_steps_of_sensing_are_those_of_the_cpu(device_here, kind, factorization, optimizer, dtype):
    f, optimizer = FACTORIZATIONS[factorization], OPTIMIZERS[optimizer]
    problem = sensing(kind, f)
    if kind == "sparse" and isinstance(optimizer, dmf.GradientDescent):
        # With momentum, larger steps magnify the roundings in which one BLAS differs from another.
        optimizer = dmf.GradientDescent(0.03 if optimizer.momentum else 0.1, optimizer.momentum)
    loops = [dmf.Loop(problem, f, optimizer, dtype=dtype, device=d) for d in ("cuda", "cpu")]
    starts = [loop.init(START, seed=0) for loop in loops]
    assert loops[0].engine.form == loops[1].engine.form
    ends = [loop.advance(start, 20) for loop, start in zip(loops, starts, strict=True)]
    assert ends[1].loss < 0.9 * starts[1].loss, "this instance hardly moves: it proves nothing"
    assert_close(*ends, TOLERANCE[dtype])
    assert ends[0].test_error == pytest.approx(ends[1].test_error, rel=10 * TOLERANCE[dtype])
    for x, y in zip(ends[0].gradients, ends[1].gradients, strict=True):
        assert np.max(np.abs(x - y)) < 10 * TOLERANCE[dtype] * np.max(np.abs(y))


@needs_shim
@pytest.mark.parametrize("kind", SENSING)
def test_schedules_do_not_change_a_bit_of_sensing(on_shim, kind):
    ends = []
    for schedule in (0, 1, 2):
        on_shim(schedule)
        loop = dmf.Loop(sensing(kind, None), dmf.Product(2), OPTIMIZERS["group RMSprop"], device="cuda")
        ends.append(loop.advance(loop.init(START, seed=0), 5))
    for end in ends[1:]:
        assert_same(end, ends[0])


@pytest.mark.parametrize("name", ["observed", *SENSING])
def test_operators_are_those_of_the_problem_and_linear_where_y_is_zero(device_here, name):
    """c A*(A w − y), and c A*A w, at any W on the support: what depth 1 and Hessians need."""
    problem = problem_for(dmf.Product(2)) if name == "observed" else sensing(name, None)
    device, dtype = cuda.open_device(), np.dtype("float64")
    objective = CudaObjective(problem, dmf.Product(2), dtype, device)
    operator, w = objective.operator, np.random.default_rng(12).standard_normal(problem.shape)
    c = problem.loss_scale
    wanted = {False: problem.gradient(w), True: c * problem.adjoint(problem.measure(w))}
    if name == "observed":
        order = np.lexsort((problem.cols, problem.rows))
        where = problem.rows[order], problem.cols[order]
    elif name == "sparse":
        where = np.divmod(np.unique(problem.matrices.indices), problem.shape[1])
    else:
        where = tuple(x.ravel() for x in np.indices(problem.shape))
    for linear, gradient in wanted.items():
        work = operator.work()
        operator.residual_at(device.put(w[where]), objective.going, work, linear)
        np.testing.assert_allclose(device.get(work.z).ravel(), gradient[where], rtol=0, atol=1e-12)
        loss = 0.5 * c * device.get(work.sums).sum()
        r = problem.measure(w) - (0 if linear else problem.values)
        assert loss == pytest.approx(0.5 * c * r @ r, rel=1e-12)


# --- small trials, a block each -----------------------------------------------------------------------------

ENDS = {
    "steps": {"stop": dmf.MaxSteps(30)},
    "loss": {"stop": dmf.LossBelow(0.5) | dmf.MaxSteps(60), "record": dmf.Record(at_loss=[0.8, 0.6])},
    "gradient": {"stop": dmf.LossBelow(0.9) & dmf.GradientBelow(0.06) | dmf.MaxSteps(60)},
    "time": {"record": dmf.Record(at_time=[3.0, 7.0], metrics=["loss", "gradient_norm"])},
}


@needs_shim
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("factorization", ["depth 2", "depth 3", "UUᵀ"])
def test_many_small_runs_are_each_the_run_by_itself(on_shim, factorization, optimizer, end):
    choices = {
        "factorization": FACTORIZATIONS[factorization], "optimizer": OPTIMIZERS[optimizer],
        "stop": dmf.MaxSteps(30), "device": "cuda",
    } | ENDS[end]  # fmt: skip
    problem = problem_for(choices["factorization"])
    seeds, scales = range(4), (0.3, 1.0, 0.1, 3.0)
    inits = [dmf.Gaussian(product_scale=s) for s in scales]
    device = on_shim()
    device.launches = 0
    results = dmf.run_many(problem, inits=inits, seeds=seeds, **choices)
    assert device.launches < sum(r.steps for r in results), "they went one by one"
    for schedule, (seed, init, result) in enumerate(zip(seeds, inits, results, strict=True)):
        on_shim(schedule)
        assert_same_result(result, dmf.run(problem, init=init, seed=seed, **choices))
    if end in ("loss", "gradient"):
        assert len({r.steps for r in results}) > 1


def assert_same_result(result, alone):
    assert all(map(np.array_equal, result.factors, alone.factors))
    for name in ("loss", "test_error", "steps", "evaluations", "time", "status", "seed", "settings"):
        np.testing.assert_equal(getattr(result, name), getattr(alone, name), err_msg=name)
    assert result.records.keys() == alone.records.keys()
    for name, rows in result.records.items():
        np.testing.assert_array_equal(rows, alone.records[name], err_msg=name)


def test_many_small_runs_are_those_of_the_cpu(somewhere):
    choices = {"depth": 3, "lr": 1.0, "stop": dmf.MaxSteps(20), "init": START, "seeds": range(3)}
    problem = problem_for(dmf.Product(3))
    for a, b in zip(*(dmf.run_many(problem, device=d, **choices) for d in ("cuda", "cpu")), strict=True):
        assert_close(a, b, 1e-11)
        assert (a.status, a.steps, a.evaluations) == (b.status, b.steps, b.evaluations)


@needs_shim
def test_each_goes_on_to_its_own_end_in_one_launch(on_shim):
    device = on_shim()
    loop = dmf.Loop(problem_for(dmf.Product(2)), dmf.Product(2), OPTIMIZERS["momentum"], device="cuda")
    inits = [START, dmf.Gaussian(1e200), dmf.Gaussian(1e3), START]
    members = [loop.start(init, seed) for seed, init in enumerate(inits)]
    assert members.pop(1).diverged, "a start without a finite loss"
    lockstep = loop.engine.together(members)
    middle = loop.start(START, 3)
    middle.advance(7)
    waits = []
    get = device.get
    device.get = lambda array: waits.append(array.size) or get(array)
    device.launches = 0
    legs = [Leg(9), Leg(50), Leg(11, [(middle.loss, np.inf)])]
    assert lockstep.advance(legs) == [Event.ALL_STEPS, Event.DIVERGED, Event.HALTED]
    assert (device.launches, waits) == (1, [3 * sources.SLOTS])
    steps = [m.step for m in members]
    assert steps[0] == 9 and 0 < steps[1] < 50 and steps[2] == 7
    for seed, init, member in zip((0, 2, 3), (inits[0], inits[2], inits[3]), members, strict=True):
        alone = loop.start(init, seed)
        alone.advance(member.step)
        assert all(map(np.array_equal, member.factors(), alone.factors()))
        assert all(map(np.array_equal, member.memory().values(), alone.memory().values()))
    with pytest.raises(ValueError, match="last finite one"):
        lockstep.advance([Leg(1)] * 3)
    members[2].cancel[0] = 1
    again = loop.engine.together(members[::2])
    assert again.advance([Leg(1)] * 2) == [Event.CANCELLED] * 2
    assert [m.step for m in members[::2]] == [9, 7]


@needs_shim
@pytest.mark.parametrize("shape", [(64, 64), (65, 64), (64, 65)])
def test_a_block_moves_what_has_at_most_64_rows_and_columns(on_shim, shape):
    problem = dmf.Completion.random(shape, rank=2, observed=200, seed=0)
    choices = {"depth": 3, "lr": 0.5, "stop": dmf.MaxSteps(2), "seed": 0, "init": START}
    gpu, cpu = (dmf.run(problem, device=device, **choices) for device in ("cuda", "cpu"))
    assert ("one block" in gpu.settings["form"]) == (max(shape) == 64)
    assert_close(gpu, cpu, 1e-11)


@needs_shim
def test_a_step_taken_back_is_the_point_before_it_to_the_bit(on_shim, small):
    _, gpu = loops(dmf.Product(2), dmf.GradientDescent(1e4, 0.5))
    diverged = gpu.start(START, 0)
    diverged.advance(50)
    before = gpu.start(START, 0)
    before.advance(diverged.step)
    assert all(map(np.array_equal, diverged.factors(), before.factors()))
    assert all(map(np.array_equal, diverged.memory().values(), before.memory().values()))


@pytest.mark.parametrize("factorization", ["depth 2", "depth 3", "UUᵀ"])
def test_held_out_entries_are_sampled_on_the_device(somewhere, factorization):
    whole = problem_for(FACTORIZATIONS[factorization])
    rows, cols, values, held_out = whole.rows, whole.cols, whole.values, slice(240, None)
    problem = dmf.Completion(
        rows[:240],
        cols[:240],
        values[:240],
        whole.shape,
        test=(rows[held_out], cols[held_out], values[held_out]),
    )
    loop = dmf.Loop(problem, FACTORIZATIONS[factorization], OPTIMIZERS["descent"], device="cuda")
    trajectory = loop.start(START, 0)
    trajectory.advance(3)
    assert trajectory.test_error() == pytest.approx(trajectory.state().test_error, rel=1e-12)
    # It leaves nothing behind that the next step would see.
    other = loop.start(START, 0)
    other.advance(3)
    for t in (trajectory, other):
        t.advance(2)
    assert all(map(np.array_equal, trajectory.factors(), other.factors()))


@needs_shim
def test_an_advance_waits_for_the_device_once(on_shim, by_launches, monkeypatch):
    device = on_shim()
    _, gpu = loops(dmf.Product(2), OPTIMIZERS["descent"])
    trajectory = gpu.start(START, 0)
    seen = []
    monkeypatch.setattr(device, "get", lambda array: seen.append(array.shape) or array.copy())
    monkeypatch.setattr(device, "put", None)
    device.launches = 0
    trajectory.advance(10)
    assert seen == [(sources.SLOTS,)]
    assert device.launches == 10 * 4  # two sums with their steps, the residual, and what follows from it


@needs_shim
def test_a_cancelled_advance_ends_between_steps(on_shim, small):
    _, gpu = loops(dmf.Product(2), OPTIMIZERS["descent"])
    trajectory = gpu.start(START, 0)
    trajectory.cancel[0] = 1
    assert trajectory.advance(10) == Event.CANCELLED and trajectory.step == 0
    trajectory.cancel[0] = 0
    assert trajectory.advance(2) == Event.ALL_STEPS and trajectory.step == 2


def test_an_optimizer_that_it_does_not_know_is_refused():
    with pytest.raises(TypeError, match="the CUDA backend cannot carry out"):
        dmf.Loop(dmf.Completion.random(), dmf.Product(2), Optimizer(), device="cuda")


@needs_shim
def test_values_too_large_for_float32_are_refused(on_shim):
    problem = dmf.Completion([0, 1], [0, 1], [1.0, 1e39], (2, 2))
    with pytest.raises(ValueError, match=r"1e\+39 .* not finite in float32"):
        dmf.Loop(problem, dmf.Product(2), dmf.GradientDescent(1.0), dtype="float32", device="cuda")


def test_the_state_begins_with_what_trajectories_on_the_cpu_carry():
    names = ("LOSS", "GRADIENT_SQUARED", "TIME", "STEPS", "MEAN_SQUARE")
    assert [getattr(sources, n) for n in names] == [getattr(stepping, n) for n in names] == list(range(5))
    assert sources.SLOTS_KEPT == SLOTS_OF_STEPS == 5


@needs_shim
def test_a_run_loads_no_compiler_for_the_cpu():
    code = """
import sys
import fastdmf as dmf
from fastdmf.backends import cuda
from tests.cuda_shim import ShimDevice
cuda.open_device = ShimDevice
problem = dmf.Completion.random((9, 8), rank=1, observed=30)
result = dmf.run(problem, lr=0.5, stop=dmf.MaxSteps(3), device="cuda")
print(result.steps, *sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    steps, *loaded = done.stdout.split()
    assert steps == "3", done.stderr
    assert not {name.split(".")[0] for name in loaded} & {"numba", "llvmlite", "cupy"}
