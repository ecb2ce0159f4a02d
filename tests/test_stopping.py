"""When runs end: exact steps, joined criteria, statuses, divergence."""

import itertools
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

import fastdmf as dmf
from fastdmf.backends import Event
from fastdmf.kernels.cpu import stepping
from fastdmf.recording import NAMED

PROBLEM = dmf.Completion.random(shape=(12, 10), rank=2, observed=60, seed=1)
START = dmf.Gaussian(product_scale=0.1)
#: With momentum, loss and gradient rise and fall, so that "the first step" is not "the only one".
SWINGING = dmf.GradientDescent(2.0, momentum=0.9)
STEPS = 60


def run(**choices):
    defaults = {"init": START, "optimizer": SWINGING, "record": dmf.Record(at=[]), "seed": 0}
    return dmf.run(PROBLEM, **defaults | choices)


@cache
def course():
    """Loss and gradient norm at steps 0 … STEPS, as the engine itself sees them."""
    trajectory = dmf.Loop(PROBLEM, dmf.Product(2), SWINGING).start(START, 0)
    losses, norms = [trajectory.loss], [trajectory.gradient_norm]
    for _ in range(STEPS):
        trajectory.advance(1, halts=[(-1.0, 0.0)])  # never met, but asks for the gradient's norm
        losses.append(trajectory.loss)
        norms.append(trajectory.gradient_norm)
    return np.array(losses), np.array(norms)


def first(reached):
    """The first index where something is true."""
    assert np.any(reached)
    return int(np.argmax(reached))


def lows(series):
    """Indices where a series is lower than ever before."""
    return [k for k in range(1, len(series)) if series[k] < series[:k].min()]


def test_the_course_swings():
    for series in course():
        assert 5 < len(lows(series)) < STEPS


@pytest.mark.parametrize("above", [0.0, 1e-9])
def test_loss_below(above):
    losses, _ = course()
    for k in lows(losses):
        result = run(stop=dmf.LossBelow(losses[k] * (1 + above)))
        assert (result.steps, result.loss, str(result.status)) == (k, losses[k], "converged")


@pytest.mark.parametrize("above", [0.0, 1e-9])
def test_gradient_below(above):
    losses, norms = course()
    for k in lows(norms):
        result = run(stop=dmf.GradientBelow(norms[k] * (1 + above)))
        assert (result.steps, result.loss, str(result.status)) == (k, losses[k], "stationary")


def test_max_steps():
    start = dmf.Loop(PROBLEM, dmf.Product(2), SWINGING).init(START, seed=0)
    for steps in (0, 1, 7):
        result = run(stop=dmf.MaxSteps(steps))
        assert (result.steps, result.evaluations, str(result.status)) == (steps, steps + 1, "max_steps")
    unmoved = run(stop=dmf.MaxSteps(0))
    assert all(map(np.array_equal, unmoved.factors, start.factors))
    assert unmoved.time == 0.0


def test_criteria_met_at_the_start():
    losses, norms = course()
    assert run(stop=dmf.LossBelow(losses[0])).steps == 0
    assert run(stop=dmf.GradientBelow(norms[0])).steps == 0


def test_time_limit():
    run(stop=dmf.MaxSteps(1))  # compiles, which counts as well
    result = run(stop=dmf.TimeLimit(0.2) | dmf.MaxSteps(10**9))
    assert str(result.status) == "time_limit"
    assert 0.2 <= result.seconds < 2.0


def stalled_flags(patience, rtol):
    """Whether `Stalled` holds at each step: set at multiples of ``patience``, kept in between."""
    losses, _ = course()
    flags, flag = [], False
    for step, loss in enumerate(losses):
        if step and step % patience == 0:
            flag = loss >= (1 - rtol) * losses[step - patience]
        flags.append(flag)
    return np.array(flags)


@pytest.mark.parametrize(("patience", "rtol"), [(1, 0.0), (1, 0.05), (3, 0.3), (7, 0.9), (20, 0.99)])
def test_stalled(patience, rtol):
    result = run(stop=dmf.Stalled(patience, rtol))
    assert result.steps == first(stalled_flags(patience, rtol))
    assert str(result.status) == "stalled"


def test_stalled_needs_two_windows():
    assert run(stop=dmf.Stalled(50) | dmf.MaxSteps(49)).status == "max_steps"


@pytest.mark.parametrize(
    "watched", [{"at_time": np.linspace(0.01, 20, 400)}, {"at_loss": np.logspace(1, -6, 300)}]
)
def test_points_inside_the_steps_of_a_flow_are_no_windows(watched):
    flow = {"optimizer": dmf.GradientFlow(), "stop": dmf.Stalled(5, 0.5) | dmf.MaxSteps(200)}
    alone, seen = run(**flow), run(record=dmf.Record(**watched), **flow)
    assert str(alone.status) == "stalled"
    assert (seen.steps, seen.time, seen.loss) == (alone.steps, alone.time, alone.loss)


# --- joined criteria ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Leaf:
    """A criterion, whether it holds at each step, and its status."""

    stop: dmf.stopping.Stop
    holds: np.ndarray


@cache
def leaves():
    losses, norms = course()
    steps = np.arange(STEPS + 1)
    low, flat = losses[lows(losses)[10]], norms[lows(norms)[6]]
    return [
        Leaf(dmf.LossBelow(low), losses <= low),
        Leaf(dmf.GradientBelow(flat * (1 + 1e-9)), norms <= flat * (1 + 1e-9)),
        Leaf(dmf.Stalled(7, 0.1), stalled_flags(7, 0.1)),
        Leaf(dmf.MaxSteps(30), steps >= 30),
    ]


EITHER, BOTH = (lambda a, b: a | b), (lambda a, b: a & b)


def end_of(holds):
    """The step where a criterion first holds, within the known course."""
    return first(np.append(holds, True))


@pytest.mark.parametrize(("inner", "outer"), list(itertools.product([EITHER, BOTH], repeat=2)))
def test_joined_criteria_end_at_the_first_step_where_they_hold(inner, outer):
    for a, b, c in itertools.product(leaves(), repeat=3):
        end = end_of(outer(inner(a.holds, b.holds), c.holds))
        if end > STEPS:
            continue
        for stop in (outer(inner(a.stop, b.stop), c.stop), outer(c.stop, inner(a.stop, b.stop))):
            result = run(stop=stop)
            assert result.steps == end, stop
            holding = {leaf.stop.status for leaf in (a, b, c) if leaf.holds[end]}
            assert result.status in holding, stop


def test_criteria_joined_four_deep():
    loss, gradient, stalled, most = leaves()
    stop = ((loss.stop & most.stop) | (stalled.stop & gradient.stop)) & (most.stop | stalled.stop)
    holds = ((loss.holds & most.holds) | (stalled.holds & gradient.holds)) & (most.holds | stalled.holds)
    assert run(stop=stop).steps == end_of(holds) <= STEPS


@pytest.mark.parametrize("join", [EITHER, BOTH])
def test_the_status_says_the_best_that_can_be_said(join):
    losses, norms = course()
    ranking = [
        dmf.LossBelow(losses[0]),
        dmf.GradientBelow(norms[0]),
        dmf.TimeLimit(1e-9),
        dmf.MaxSteps(0),
    ]
    for better, worse in itertools.combinations(ranking, 2):
        assert run(stop=join(better, worse)).status == better.status
        assert run(stop=join(worse, better)).status == better.status


def test_criteria_can_be_read():
    stop = (dmf.LossBelow(0.5) | dmf.MaxSteps(9)) & dmf.GradientBelow(0.25)
    assert repr(stop) == (
        "LossBelow(threshold=0.5) & GradientBelow(threshold=0.25) | "
        "MaxSteps(steps=9) & GradientBelow(threshold=0.25)"
    )


# --- statuses -------------------------------------------------------------------------------------------


def test_statuses_are_strings_with_advice():
    assert {str(status) for status in dmf.Status} == {
        "converged", "stationary", "stalled", "time_limit", "max_steps", "stopped", "interrupted", "diverged",
    }  # fmt: skip
    for status in dmf.Status:
        assert status == str(status) == f"{status}" == dmf.Status(str(status))
        assert status.advice.endswith(".")
    assert len({status.advice for status in dmf.Status}) == len(dmf.Status)


# --- divergence -----------------------------------------------------------------------------------------

#: Each of these takes some steps and then leaves the finite numbers.
DIVERGING = {
    "descent": (dmf.GradientDescent(30.0), "float64"),
    "momentum": (dmf.GradientDescent(10.0, momentum=0.5), "float64"),
    "rmsprop": (dmf.GroupRMSprop(1e14), "float32"),
}


@cache
def divergence(name):
    """The last state of a diverging trajectory that was stepped one by one, and what advancing it gives."""
    optimizer, dtype = DIVERGING[name]
    loop = dmf.Loop(PROBLEM, dmf.Product(2), optimizer, dtype=dtype)
    state = loop.init(START, seed=0)
    while not (following := loop.advance(state, 1)).diverged:
        state = following
        assert state.step < 100
    return loop, state, following


@pytest.mark.parametrize("name", DIVERGING)
def test_divergence_keeps_the_last_finite_step(name):
    loop, last, diverged = divergence(name)
    optimizer, dtype = DIVERGING[name]
    result = run(optimizer=optimizer, dtype=dtype, stop=dmf.MaxSteps(1000))
    assert last.step > 0
    assert str(result.status) == "diverged"
    for end in (result, diverged, loop.advance(loop.init(START, seed=0), 1000)):
        assert all(np.isfinite(factor).all() for factor in end.factors)
        assert all(map(np.array_equal, end.factors, last.factors))
        assert (end.loss, end.time) == (last.loss, last.time)
        assert end.evaluations == last.evaluations + 1
    assert result.steps == diverged.step == last.step
    assert result.trace.step.values[-1] == last.step


#: All scalars but the gradient's norm, which is noted only where something asks for it.
NOTED = [stepping.LOSS, stepping.TIME, stepping.STEPS, stepping.MEAN_SQUARE]


@pytest.mark.parametrize("name", DIVERGING)
def test_divergence_keeps_the_gradients_and_memory_of_the_last_finite_step(name):
    _, last, diverged = divergence(name)
    assert all(map(np.array_equal, diverged.gradients, last.gradients))
    assert diverged.memory.keys() == last.memory.keys()
    for key, kept in last.memory.items():
        slots = np.s_[...] if key != "scalars" else NOTED
        np.testing.assert_array_equal(diverged.memory[key][slots], kept[slots])


@pytest.mark.parametrize("name", DIVERGING)
def test_a_diverged_state_cannot_be_advanced(name):
    loop, last, diverged = divergence(name)
    with pytest.raises(ValueError, match=f"step {last.step} is the last finite one"):
        loop.advance(diverged, 1)


HUGE = dmf.Factors([np.full((10, 10), 1e160), np.full((12, 10), 1e160)])


def test_divergence_at_the_start():
    result = run(init=HUGE, stop=dmf.MaxSteps(10), record=dmf.Record(metrics=["loss"]))
    assert (str(result.status), result.steps, result.time, result.loss) == ("diverged", 0, 0.0, np.inf)
    assert all(map(np.array_equal, result.factors, HUGE.arrays))
    assert result.trace.step.values.tolist() == [0]
    loop = dmf.Loop(PROBLEM, dmf.Product(2), SWINGING)
    with pytest.raises(ValueError, match="step 0"):
        loop.advance(loop.init(HUGE), 1)


@pytest.mark.parametrize("name", sorted(NAMED))
def test_every_metric_survives_divergence(name):
    problem = dmf.Completion.random(shape=(4, 4), rank=2, observed=10, seed=1)
    huge = dmf.Factors([np.full((4, 4), 1e160)] * 2)
    result = dmf.run(problem, init=huge, optimizer=SWINGING, record=dmf.Record(metrics=[name]))
    assert str(result.status) == "diverged"
    if name != "numerical_rank":  # a count, which has no way to say that it is unknown
        assert not np.isfinite(result.records[name]).any()


def test_a_cancelled_step_leaves_a_whole_state():
    """A flag set by another thread ends an advance; what can be asked of the point is still true."""
    for optimizer in (dmf.GradientDescent(1.0), SWINGING):
        loop = dmf.Loop(PROBLEM, dmf.Product(2), optimizer)
        trajectory = loop.start(START, 0)
        trajectory.cancel[0] = 1
        assert trajectory.advance(5, halts=[(-1.0, 0.0)]) is Event.CANCELLED
        assert trajectory.step <= 1
        state = trajectory.state()
        loss, gradients = dmf.loss_and_gradients(PROBLEM, state.factors)
        assert state.loss == loss
        for ours, true in zip(state.gradients, gradients, strict=True):
            np.testing.assert_allclose(ours, true, rtol=1e-12)
        norm = np.sqrt(sum(np.vdot(g, g) for g in gradients))
        assert trajectory.gradient_norm == pytest.approx(norm, rel=1e-12)
