"""The gradient flow: its integrators, points inside steps, and what a run makes of them."""

import os
import signal
import threading
import time

import numba
import numpy as np
import pytest
import scipy.sparse

import fastdmf as dmf
from fastdmf.backends import Event, bind, bind_objective, cpu_flow
from fastdmf.backends.cpu_memory import Matrices
from fastdmf.backends.cpu_objective import NEVER, Scratch
from fastdmf.backends.layout import first_direction
from fastdmf.choices import Choices
from fastdmf.kernels.cpu.hessian import hessian_times
from fastdmf.kernels.cpu.stepping import forward
from fastdmf.kernels.flow_rules import IS_STIFF
from tests import cuda_shim, naive

REFERENCE = dmf.GradientFlow(rtol=1e-10, method="dopri5")
FACTORIZATIONS = [dmf.Product(1), dmf.Product(2), dmf.Product(3, (6, 9)), dmf.Product(5), dmf.Symmetric(4)]


def problem_of(kind, symmetric=False):
    shape = (12, 12) if symmetric else (12, 10)
    rng = np.random.default_rng(3)
    match kind:
        case "completion":
            return dmf.Completion.random(shape, rank=2, observed=40, seed=0)
        case "whole":
            return dmf.Completion.random(shape, rank=2, observed=shape[0] * shape[1] - 5, seed=0)
        case "dense":
            matrices = rng.standard_normal((30, *shape)) / 12
            return dmf.Sensing(matrices, rng.standard_normal(30))
        case "sparse":
            entries = shape[0] * shape[1]
            matrices = rng.standard_normal((30, entries)) * (rng.random((30, entries)) < 0.1)
            return dmf.Sensing(scipy.sparse.csr_array(matrices), rng.standard_normal(30), shape=shape)
    raise ValueError(kind)


@numba.njit
def _product_with_the_hessian(model, support, operator, linear, point, direction, out, w_dot, cancel):
    forward(model, support, operator, point, cancel)
    hessian_times(model, support, linear, point, direction, out, w_dot, cancel)


def hessian_product(problem, factorization, factors, direction):
    objective = bind_objective(problem, factorization)
    layout, scratch = objective.layout, Scratch(objective, curves=True)
    w_dot = np.empty_like(scratch.model.w)
    point, v = (
        Matrices.copies(layout.inward(x), objective.dtype, objective.rows) for x in (factors, direction)
    )
    out = Matrices(layout.shapes, objective.dtype, objective.rows)
    _product_with_the_hessian(
        scratch.model, objective.bound_support, scratch.operator,
        objective.bind_operator(w_dot, linear=True), point.table, v.table, out.table, w_dot, NEVER,
    )  # fmt: skip
    return layout.outward(out.arrays, None)


@pytest.mark.parametrize("factorization", FACTORIZATIONS, ids=str)
@pytest.mark.parametrize("kind", ["completion", "whole", "dense", "sparse"])
def test_products_with_the_hessian(kind, factorization):
    """Against central differences of the gradient that plain NumPy gives."""
    symmetric = isinstance(factorization, dmf.Symmetric)
    problem = problem_of(kind, symmetric)
    objective = naive.objective_of(problem, symmetric)
    rng = np.random.default_rng(0)
    shapes = factorization.factor_shapes(problem.shape)
    factors, direction = ([rng.standard_normal(s) for s in shapes] for _ in range(2))
    h = 1e-5
    ahead, behind = (
        objective.gradients([w + s * v for w, v in zip(factors, direction, strict=True)]) for s in (h, -h)
    )
    wanted = [(a - b) / (2 * h) for a, b in zip(ahead, behind, strict=True)]
    found = hessian_product(problem, factorization, factors, direction)
    scale = max(np.linalg.norm(w) for w in wanted)
    for hv, expected in zip(found, wanted, strict=True):
        assert np.linalg.norm(hv - expected) < 1e-7 * scale


def small(seed=0):
    return dmf.Completion.random((30, 30), rank=2, observed=400, seed=seed)


def flow(problem, optimizer, **choices):
    return dmf.run(problem, optimizer=optimizer, record=dmf.Record(at=()), **{"seed": 1, **choices})


def distance(a, b):
    return np.linalg.norm(a.product - b.product) / np.linalg.norm(b.product)


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_both_integrators_end_where_a_reference_does(depth):
    coarse, finer, finest = [], [], []
    for seed in range(5):
        reference = flow(small(seed), REFERENCE, depth=depth)
        for optimizer, distances in (
            (dmf.GradientFlow(), coarse),
            (dmf.GradientFlow(rtol=1e-4), finer),
            (dmf.GradientFlow(rtol=1e-8, method="dopri5"), finest),
        ):
            distances.append(distance(flow(small(seed), optimizer, depth=depth), reference))
    assert np.median(coarse) <= 1e-3
    assert np.median(finer) <= 2e-4
    assert np.median(finest) <= 1e-6


@pytest.mark.parametrize(("method", "order"), [("rkc2", 2), ("dopri5", 5)])
def test_order_of_convergence(method, order):
    """x = w², ẇ = −(w² − 1) w: x(t) = 1 / (1 + (1/x₀ − 1) e^−2t) for UUᵀ with one entry and loss ½r²/2."""
    problem = dmf.Completion([0], [0], [1.0], (1, 1), loss="half_sum")
    x0, t = 0.01, 4.0
    # ẋ = 2 w ẇ = −4 (x − 1) x for UUᵀ and the loss ½ (x − 1)².
    exact = 1.0 / (1.0 + (1.0 / x0 - 1.0) * np.exp(-4.0 * t))
    steps, errors = [], []
    for rtol in 10.0 ** -np.arange(4, 10 if method == "dopri5" else 8):
        optimizer = dmf.GradientFlow(rtol=rtol, method=method, plateau_factor=1.0)
        trajectory = bind(problem, dmf.Symmetric(1), optimizer).start([np.full((1, 1), x0**0.5)])
        if method == "rkc2":
            trajectory._scalars[IS_STIFF] = 1.0  # no explicit steps before
        trajectory.advance(100_000, until=t)
        assert trajectory.time == t
        steps.append(trajectory.step)
        errors.append(abs(trajectory.factors()[0].item() ** 2 - exact))
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert -order - 1.2 < slope < -order + 0.5


@pytest.mark.parametrize("method", ["rkc2", "dopri5"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_it_ends_at_the_threshold(method, dtype):
    for threshold in (1e-2, 1e-6):
        optimizer = dmf.GradientFlow(method=method, rtol=1e-3 if method == "rkc2" else 1e-6)
        result = flow(small(), optimizer, depth=3, dtype=dtype, stop=dmf.LossBelow(threshold))
        assert str(result.status) == "converged"
        assert threshold * (1 - 1e-4) < result.loss <= threshold
        loss, _ = dmf.loss_and_gradients(small(), result.factors)
        assert loss == result.loss


def same(a, b):
    assert all(map(np.array_equal, a.factors, b.factors))
    counted = ("loss", "time", "steps", "status", "test_error")
    assert all(getattr(a, name) == getattr(b, name) for name in counted)


@pytest.mark.parametrize("method", ["rkc2", "dopri5"])
def test_recording_does_not_change_the_path(method):
    optimizer = dmf.GradientFlow(method=method)
    bare = flow(small(), optimizer, depth=3)
    levels = [1e-1, 9e-2, 3e-2, 1e-3, 1.5e-6]
    times = [1.0, 0.3 * bare.time, 0.3 * bare.time + 1e-6, 0.7 * bare.time]
    record = dmf.Record(every=3, at_loss=levels, at_time=times, metrics=["loss", "singular_values"])
    seen = dmf.run(small(), depth=3, optimizer=optimizer, record=record, seed=1)
    same(bare, seen)
    trace = seen.trace
    assert np.isin(times, trace.time.values).all()
    for level in levels:
        found = trace.loss.values[trace.loss.values <= level].max()
        assert level * (1 - 1e-8) < found <= level
    assert (np.diff(trace.time.values) > 0).all() and (np.diff(trace.loss.values) < 0).all()
    assert {0, *range(0, seen.steps, 3)} <= set(trace.step.values)


def test_run_and_loop_take_the_same_path():
    loop = dmf.Loop(small(), dmf.Product(3), dmf.GradientFlow())
    start = loop.init(seed=1)
    states = [start]
    for steps in (1, 7, 30, 2):
        states.append(loop.advance(states[-1], steps))
    whole = loop.advance(start, 40)
    result = flow(small(), dmf.GradientFlow(), depth=3, stop=dmf.MaxSteps(40))
    for end in (states[-1], whole):
        assert (end.step, end.loss, end.time, end.evaluations) == (
            40, result.loss, result.time, result.evaluations,
        )  # fmt: skip
        assert all(map(np.array_equal, end.factors, result.factors))
    assert [s.step for s in states] == [0, 1, 8, 38, 40]


@pytest.mark.parametrize("depth", [1, 3])
def test_a_state_inside_a_step_goes_on_to_the_bit(depth):
    """Stopped by a callback at a level that lies inside a step, and taken up again from a checkpoint."""
    record = dmf.Record(at=(), at_loss=[1e-2])
    choices = {"depth": depth, "optimizer": dmf.GradientFlow(), "seed": 1, "record": record}
    states = []
    whole = dmf.run(small(), **choices, callback=states.append)
    inside = next(s for s in states if s.loss <= 1e-2)
    assert 0.99e-2 < inside.loss <= 1e-2
    loop = dmf.Loop(small(), dmf.Product(depth), dmf.GradientFlow())
    end = loop.advance(inside, whole.steps - inside.step)
    # `run` ended inside its last step, at the threshold; the loop went to that step's end.
    assert end.step == whole.steps and end.loss <= whole.loss
    other = loop.advance(loop.init(seed=1), whole.steps)
    assert all(map(np.array_equal, end.factors, other.factors))
    gradients = dmf.loss_and_gradients(small(), inside.factors)[1]
    assert all(map(np.array_equal, inside.gradients, gradients))


def test_a_checkpoint_inside_a_step(tmp_path):
    path = tmp_path / "flow.npz"
    choices = {"depth": 3, "optimizer": dmf.GradientFlow(), "seed": 1}
    record = dmf.Record(every=1, at_loss=[3e-1, 1e-2])
    whole = dmf.run(small(), **choices, record=record)

    def break_inside(state):
        if 0.9e-2 < state.loss <= 1e-2:
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        dmf.run(small(), **choices, record=record, callback=break_inside, checkpoint=path)
    again = dmf.run(small(), **choices, record=record, checkpoint=path)
    same(whole, again)
    assert whole.evaluations == again.evaluations
    assert whole.trace.drop_vars("loss").sizes == again.trace.drop_vars("loss").sizes
    assert np.array_equal(whole.trace.loss, again.trace.loss)


@pytest.mark.parametrize("level", [1e-2, 3e-6])
def test_cancelled_inside_a_step_it_stays_there(level):
    engine = bind(small(), dmf.Product(3), dmf.GradientFlow())
    start = dmf.Gaussian().draw(dmf.Product(3), (30, 30), np.random.default_rng(0))
    ends = []
    for is_cancelled in (False, True):
        trajectory = engine.start(start)
        assert trajectory.advance(10_000, [(level, np.inf)]) is Event.HALTED
        assert not trajectory.is_at_step
        before = trajectory.state()
        if is_cancelled:
            trajectory.cancel[0] = 1
            assert trajectory.advance(10_000, [(level / 2, np.inf)]) is Event.CANCELLED
            trajectory.cancel[0] = 0
            after = trajectory.state()
            assert (before.loss, before.time, before.step) == (after.loss, after.time, after.step)
            assert all(map(np.array_equal, before.factors, after.factors))
        while trajectory.loss > 1e-6:
            trajectory.advance(10_000, [(1e-6, np.inf)])
        ends.append(trajectory.state())
    assert all(map(np.array_equal, ends[0].factors, ends[1].factors))


@pytest.mark.parametrize("method", ["rkc2", "dopri5"])
@pytest.mark.parametrize("is_taken_up_again", [False, True])
@pytest.mark.parametrize("levels", [np.empty(0), np.logspace(0, -5, 60)], ids=["steps", "levels"])
def test_cancelled_at_any_moment_it_goes_on_to_the_bit(levels, is_taken_up_again, method):
    """In a step, while the Hessian's spectral radius is looked for, or a point inside a step."""
    problem, steps = dmf.Completion.random(observed=2000, seed=0), 100
    engine = bind(problem, dmf.Product(2), dmf.GradientFlow(method=method))
    init = dmf.Gaussian(0.01).draw(dmf.Product(2), problem.shape, np.random.default_rng(5))

    def course(gaps):
        moving, points, cuts, over = [engine.start(init)], [], 0, threading.Event()

        def cut():
            for gap in gaps:
                if over.wait(gap):
                    return
                moving[0].cancel[0] = 1

        cutter = threading.Thread(target=cut)
        cutter.start()
        while (trajectory := moving[0]).step < steps or not trajectory.is_at_step:
            halts = [(level, np.inf) for level in levels if level < trajectory.loss][:1]
            event = trajectory.advance(max(steps - trajectory.step, 1), halts)
            if event is Event.HALTED:
                points.append((trajectory.step, trajectory.time, trajectory.loss))
            if event is not Event.CANCELLED:
                continue
            cuts += 1
            trajectory.cancel[0] = 0
            if is_taken_up_again:
                state = trajectory.state()
                moving[0] = engine.resume(state.factors, state.memory, state.evaluations)
        over.set()
        cutter.join()
        return moving[0].state(), points, cuts

    course(())  # compiles
    begin = time.perf_counter()
    whole, expected, _ = course(())
    seconds = time.perf_counter() - begin
    all_cuts = 0
    for seed in range(4):
        end, points, cuts = course(np.random.default_rng(seed).random(20) * 0.08 * seconds)
        all_cuts += cuts
        assert points == expected
        assert all(map(np.array_equal, end.factors, whole.factors))
        assert end.evaluations == whole.evaluations
    assert all_cuts > 10


@pytest.mark.parametrize(("method", "draws"), [("rkc2", 1), ("dopri5", 0)])
def test_a_direction_is_drawn_once_where_one_is_needed(method, draws, monkeypatch):
    drawn, loop = [], dmf.Loop(small(), dmf.Product(3), dmf.GradientFlow(method=method))
    monkeypatch.setattr(cpu_flow, "first_direction", lambda s: drawn.append(s) or first_direction(s))
    state = loop.init(seed=1)
    for _ in range(3):
        state = loop.advance(state, steps=20)
    assert len(drawn) == draws and state.step == 60


def test_the_loss_never_rises_and_balance_is_kept():
    start = dmf.Balanced(product_scale=1e-2)
    for optimizer, drift in ((dmf.GradientFlow(rtol=1e-4), 1e-3), (REFERENCE, 1e-8)):
        record = dmf.Record(every=1, metrics=["loss", "balancedness"])
        result = dmf.run(small(), depth=3, init=start, optimizer=optimizer, record=record, seed=1)
        assert (np.diff(result.trace.loss) <= 0).all()
        scale = max(np.linalg.norm(w) ** 2 for w in result.factors)
        assert result.trace.balancedness.max() < drift * scale


def test_a_balanced_start_of_low_rank_flows_at_its_width():
    rng = np.random.default_rng(0)
    product = 1e-2 * rng.standard_normal((30, 2)) @ rng.standard_normal((2, 30))
    ends = [
        flow(small(), REFERENCE, factorization=dmf.Product(3, widths), init=dmf.FromProduct(product))
        for widths in ((30, 30), (2, 2))
    ]
    assert distance(*ends) < 1e-6


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_free_entry_grows_without_bound(depth):
    """The completion of Razin & Cohen (2020): W = [[·, 1], [1, 0]] and det W(0) > 0.

    As the loss falls, |w₁₁| grows without bound and the effective rank tends to 1; at depth 1 it stays.
    """
    problem = dmf.Completion([0, 1, 1], [1, 0, 1], [1.0, 1.0, 0.0], (2, 2), loss="half_sum")
    free = []
    for loss in (1e-1, 1e-2, 1e-3):
        result = flow(
            problem,
            dmf.GradientFlow(rtol=1e-5),
            factorization=dmf.Product(depth),
            init=dmf.Identity(product_scale=0.1),
            stop=dmf.LossBelow(loss),
        )
        assert str(result.status) == "converged"
        free.append(abs(result.product[0, 0]))
    if depth == 1:
        assert np.ptp(free) == 0
    else:
        assert free[1] > 2 * free[0] and free[2] > 2 * free[1]


@pytest.mark.parametrize("scale", [1e-6, 1e-9, 1e-12])
@pytest.mark.parametrize("depth", [2, 3])
def test_tiny_starts(depth, scale):
    result, reference = (
        flow(small(), optimizer, depth=depth, init=dmf.Gaussian(product_scale=scale))
        for optimizer in (dmf.GradientFlow(), dmf.GradientFlow(rtol=1e-7, method="dopri5"))
    )
    assert str(result.status) == "converged"
    assert distance(result, reference) < 5e-3


@pytest.mark.parametrize("depth", [2, 3])
def test_single_precision_is_enough(depth):
    single, double = (flow(small(), dmf.GradientFlow(), depth=depth, dtype=t) for t in ("float32", "float64"))
    assert distance(single, double) < 1e-4


def test_it_says_when_nothing_moves():
    """At a saddle the gradient is zero: the flow stays for ever."""
    zero = dmf.Factors([np.zeros((30, 30))] * 2)
    result = flow(small(), dmf.GradientFlow(), depth=2, init=zero)
    assert (str(result.status), result.steps) == ("stalled", 0)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_it_says_when_it_rests(dtype):
    """At a fit to rounding, and at a minimum that is no fit, as two measurements contradict each other."""
    rest = dmf.LossBelow(1e-40) | dmf.MaxSteps(3000)
    result = flow(small(), dmf.GradientFlow(), depth=2, dtype=dtype, stop=rest)
    assert str(result.status) == "stalled"
    assert result.loss < (1e-28 if dtype == "float64" else 1e-10)
    matrices = np.stack([np.eye(4), np.eye(4), np.diag([1.0, 2.0, 3.0, 4.0])])
    contradictory = dmf.Sensing(matrices, [1.0, 2.0, 3.0])
    result = flow(contradictory, dmf.GradientFlow(), depth=2, dtype=dtype, stop=rest)
    assert str(result.status) == "stalled"
    assert result.loss == pytest.approx(1 / 6, rel=1e-6)


def test_a_state_says_that_a_flow_rests_and_stays_there():
    """However an advance is cut, it ends where `run` ends, and a loop that waits for a loss can end too."""
    limit, last = dmf.LossBelow(1e-40) | dmf.MaxSteps(3000), []
    whole = flow(small(), dmf.GradientFlow(), depth=2, stop=limit, callback=last.append)
    loop = dmf.Loop(small(), dmf.Product(2), dmf.GradientFlow())
    start = loop.init(seed=1)
    state = start
    while state.loss > 1e-40 and not state.stalled:
        state = loop.advance(state, steps=whole.steps // 2 + 1)
    assert not start.stalled and not last[0].stalled and last[-1].stalled
    for end in (state, loop.advance(state, steps=100), loop.advance(start, steps=whole.steps + 100)):
        assert end.stalled and (end.step, end.evaluations) == (whole.steps, whole.evaluations)
        assert all(map(np.array_equal, end.factors, whole.factors))


@pytest.mark.skipif(bool(cuda_shim.MISSING), reason=f"the CUDA shim {cuda_shim.MISSING}")
def test_a_state_says_so_on_a_gpu_too(on_shim):
    loop = dmf.Loop(small(), dmf.Product(2), dmf.GradientFlow(), device="cuda")
    state = loop.init(dmf.Factors([np.zeros((30, 30))] * 2))
    assert not state.stalled and loop.advance(state, steps=5).stalled


def test_where_the_loss_is_zero_it_rests_however_it_is_cut_or_watched():
    problem, optimizer = dmf.Completion.random((15, 15), 2, 200), dmf.GradientFlow(1e-5, "dopri5")
    init, limit = dmf.Gaussian(0.05), dmf.MaxSteps(60)
    start = {"depth": 1, "init": init, "seed": 5}
    whole = flow(problem, optimizer, stop=limit, **start)
    assert (str(whole.status), whole.loss) == ("stalled", 0.0)
    # The gradient's norm is found at every step for a condition, which a flow of 60 steps never meets.
    watched = flow(problem, optimizer, stop=limit | dmf.GradientBelow(1.0) & dmf.Stalled(100), **start)
    loop = dmf.Loop(problem, dmf.Product(1), optimizer)
    cut = loop.init(init, seed=5)
    for _ in range(60):
        cut = loop.advance(cut, steps=1)
    for other, steps in ((watched, watched.steps), (cut, cut.step)):
        assert (steps, other.time, other.evaluations) == (whole.steps, whole.time, whole.evaluations)


def test_check_reports_the_change_and_warns():
    result = flow(small(), dmf.GradientFlow(rtol=1e-4, check=True), depth=2)
    finer = flow(small(), dmf.GradientFlow(rtol=1e-5), depth=2)
    assert result.details["change"] == pytest.approx(distance(result, finer), rel=1e-9)
    assert "change" in result.summary()
    sensitive = dmf.Completion.random(rank=10, observed=2000, seed=0)
    with pytest.warns(UserWarning, match="seed 1 is sensitive: with rtol=0.0001 its product differs by"):
        flow(sensitive, dmf.GradientFlow(check=True), depth=4)


def test_an_interrupted_check_says_so_and_is_made_up_for(tmp_path, monkeypatch):
    optimizer, path = dmf.GradientFlow(check=True), tmp_path / "run.npz"
    whole = flow(small(), optimizer, depth=2)
    loop = Choices.loop

    def interrupted(choices, threads):
        if not getattr(choices.optimizer, "check", False):
            os.kill(os.getpid(), signal.SIGINT)  # the flow with a tenth of the tolerance is about to begin
        return loop(choices, threads)

    with monkeypatch.context() as patch:
        patch.setattr(Choices, "loop", interrupted)
        half = flow(small(), optimizer, depth=2, checkpoint=path)
    assert str(half.status) == "interrupted"
    assert "change" not in half.details
    assert half.loss == whole.loss
    again = flow(small(), optimizer, depth=2, checkpoint=path)
    assert again.status == whole.status
    assert again.details["change"] == whole.details["change"]
    assert again.trace.identical(whole.trace)


def test_evaluations_are_all_counted():
    result = flow(small(), dmf.GradientFlow(), depth=3)
    assert result.details["hessian_products"] > 0
    assert result.evaluations > 2 * result.steps + 2 * result.details["hessian_products"]
    explicit = flow(small(), dmf.GradientFlow(method="dopri5"), depth=3, stop=dmf.MaxSteps(50))
    assert explicit.evaluations == 1 + 6 * (50 + explicit.details["rejected"])


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"rtol": 0}, "rtol"),
        ({"rtol": 1.0}, "rtol must be below 1, not 1.0"),
        ({"method": "euler"}, "method must be one of rkc2, dopri5, not 'euler'"),
        ({"plateau_factor": 2}, "plateau_factor must be at most 1, not 2"),
        ({"plateau_factor": 0}, "plateau_factor"),
    ],
)
def test_bad_choices(choices, message):
    with pytest.raises(ValueError, match=message):
        dmf.GradientFlow(**choices)


def test_check_is_a_flag():
    with pytest.raises(TypeError, match="check must be True or False, not 1"):
        dmf.GradientFlow(check=1)


def test_a_step_that_ends_on_a_level_to_the_bit_halts_there():
    trajectory = bind(small(), dmf.Product(2), dmf.GradientFlow()).start(
        dmf.Gaussian().draw(dmf.Product(2), (30, 30), np.random.default_rng(0))
    )
    losses = []
    for _ in range(5):
        trajectory.advance(1)
        losses.append(trajectory.loss)
    again = bind(small(), dmf.Product(2), dmf.GradientFlow()).start(
        dmf.Gaussian().draw(dmf.Product(2), (30, 30), np.random.default_rng(0))
    )
    assert again.advance(100, [(losses[3], np.inf)]) is Event.HALTED
    assert (again.step, again.loss, again.is_at_step) == (4, losses[3], True)
