"""What is recorded, at which steps, and that watching a run does not change it."""

import numpy as np
import pytest

import fastdmf as dmf
from fastdmf.recording import NAMED
from tests import naive

PROBLEM = dmf.Completion.random(shape=(12, 10), rank=2, observed=40, seed=1)
SQUARE = dmf.Completion.random(shape=(6, 6), rank=2, observed=20, seed=1)
OPTIMIZERS = {
    "descent": dmf.GradientDescent(1.0),
    "momentum": dmf.GradientDescent(2.0, momentum=0.9),
    "rmsprop": dmf.GroupRMSprop(0.01),
}
START = dmf.Gaussian(product_scale=0.1)


def run(problem=PROBLEM, steps=137, **choices):
    defaults = {"init": START, "lr": 1.0, "stop": dmf.MaxSteps(steps), "seed": 0}
    if "optimizer" in choices:
        del defaults["lr"]
    return dmf.run(problem, **defaults | choices)


def recorded_steps(record, steps=137):
    return run(steps=steps, record=record).trace.step.values.tolist()


def log_spaced(per_decade, steps):
    powers = {round(10 ** (k / per_decade)) for k in range(per_decade * 4)}
    return sorted({0, steps} | {s for s in powers if s <= steps})


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ({"every": 50}, [0, 50, 100, 137]),
        ({"every": 137}, [0, 137]),
        ({"every": 1}, list(range(138))),
        ({"every": 1000}, [0, 137]),
        ({"at": []}, [0, 137]),
        ({"at": [20, 3, 20, 5000]}, [0, 3, 20, 137]),
        ({"at": [0, 137]}, [0, 137]),
        ({"per_decade": 1}, [0, 1, 10, 100, 137]),
        ({"per_decade": 7}, log_spaced(7, 137)),
        ({}, log_spaced(10, 137)),
        ({"every": 60, "at": [7], "per_decade": 1}, [0, 1, 7, 10, 60, 100, 120, 137]),
    ],
    ids=lambda value: str(value)[:30],
)
def test_recorded_steps(choices, expected):
    assert recorded_steps(dmf.Record(**choices)) == expected


def test_long_lists_of_steps_are_not_gone_through_at_every_step():
    class Counted(int):
        compared = 0

        def __gt__(self, other):
            Counted.compared += 1
            return int(self) > other

        def __lt__(self, other):
            Counted.compared += 1
            return int(self) < other

    record = dmf.Record(at=range(1 << 16))
    object.__setattr__(record, "at", tuple(map(Counted, record.at)))
    assert record.next_step(40_000) == 40_001
    assert record.next_step(1 << 16) is None
    assert Counted.compared < 100


def test_a_run_without_steps_records_its_start():
    for record in (dmf.Record(), dmf.Record(every=1), dmf.Record(at=[]), dmf.Record(at_loss=[1e-9])):
        assert recorded_steps(record, steps=0) == [0]


def test_loss_levels():
    swinging = OPTIMIZERS["momentum"]
    losses = run(optimizer=swinging, record=dmf.Record(every=1)).trace.loss.values
    # Equal to a loss, between losses, two passed in one step, above the start, never reached.
    levels = [losses[20], (losses[30] + losses[29]) / 2, 1e9, 1e-30]
    levels += [losses[54] * 1.0000001, losses[54] * 1.0000002]
    firsts = {int(np.argmax(losses <= level)) for level in levels if (losses <= level).any()}
    assert len(firsts) > 3
    result = run(optimizer=swinging, record=dmf.Record(at_loss=levels))
    assert result.trace.step.values.tolist() == sorted(firsts | {0, 137})
    both = run(optimizer=swinging, record=dmf.Record(at_loss=levels, every=50))
    assert both.trace.step.values.tolist() == sorted(firsts | {0, 50, 100, 137})


def test_the_end_is_recorded_whatever_ends_a_run():
    losses = run(record=dmf.Record(every=1)).trace.loss.values
    result = run(record=dmf.Record(every=50), stop=dmf.LossBelow(losses[77]))
    assert result.trace.step.values.tolist() == [0, 50, 77]
    assert result.trace.loss.values.tolist() == losses[[0, 50, 77]].tolist()


# --- metrics --------------------------------------------------------------------------------------------


def test_every_named_metric():
    names = sorted(NAMED)
    result = run(SQUARE, steps=20, record=dmf.Record(every=10, metrics=names))
    loop = dmf.Loop(SQUARE, dmf.Product(2), dmf.GradientDescent(1.0))
    state = loop.init(START, seed=0)
    assert sorted(result.trace.data_vars) == names
    for step in (0, 10, 20):
        row = result.trace.sel(step=step)
        for name in names:
            expected = NAMED[name](state)
            # Test errors are computed from W on one route and from its factors on the other.
            np.testing.assert_allclose(row[name].values, expected, rtol=1e-12, err_msg=name)
        assert (row.time, row.evaluations) == (state.time, state.evaluations)
        state = loop.advance(state, 10)


def corner(state):
    return state.product[:2, :3]


def test_functions_and_mappings():
    metrics = {
        "mine": lambda state: state.loss * 2,
        "renamed": "loss",
        "corner": corner,
        "corners": lambda state: corner(state)[0],
        "whole": lambda state: state.step,
    }
    trace = run(record=dmf.Record(every=50, metrics=metrics)).trace
    np.testing.assert_array_equal(trace.mine, 2 * trace.renamed)
    assert trace.corner.shape == (4, 2, 3)
    assert trace.corner.dims == ("step", "corner_1", "corner_2")
    assert trace.corners.dims == ("step", "corners_1")
    np.testing.assert_array_equal(trace.corner[:, 0], trace.corners)
    assert trace.whole.dtype == np.int64

    listed = run(record=dmf.Record(every=50, metrics=["loss", corner, dmf.metrics.entry(1, 2)])).trace
    assert list(listed.data_vars) == ["loss", "corner", "entry_1_2"]
    np.testing.assert_array_equal(listed.corner, trace.corner)
    np.testing.assert_array_equal(listed.entry_1_2, trace.corner[:, 1, 2])


def test_the_trace_is_a_dataset_over_steps():
    result = run(record=dmf.Record(every=50, metrics=["loss", "singular_values"]))
    trace = result.trace
    assert trace.sizes == {"step": 4, "component": 10}
    assert set(trace.coords) == {"step", "time", "evaluations"}
    assert trace.singular_values.dims == ("step", "component")
    assert trace.step.dtype == trace.evaluations.dtype == np.int64
    assert trace.time.dims == trace.evaluations.dims == ("step",)
    np.testing.assert_allclose(trace.time, trace.step * 1.0)
    np.testing.assert_array_equal(trace.evaluations, trace.step + 1)
    assert trace.attrs["status"] == "max_steps"
    assert trace.attrs["optimizer"].startswith("GradientDescent(lr=1")
    assert trace.loss[-1] == result.loss
    assert trace.sel(step=50).singular_values[0] > trace.sel(step=0).singular_values[0]


def test_metrics_that_change_shape_are_refused_where_they_do():
    seen = []

    def growing(state):
        seen.append(state.step)
        return np.zeros(state.step)

    with pytest.raises(ValueError, match="growing"):
        run(record=dmf.Record(every=10, metrics=[growing]))
    assert seen == [0, 10]


@pytest.mark.parametrize(
    ("metrics", "axis"),
    [
        ({"x": lambda state: np.zeros(3), "x_1": "loss"}, "x_1"),
        ({"singular_values": "singular_values", "component": "loss"}, "component"),
    ],
)
def test_axes_of_metrics_must_not_be_named_like_others(metrics, axis):
    problem = dmf.Completion.random((6, 5), 1, 20)
    with pytest.raises(ValueError, match=f"is named '{axis}', and so is a metric"):
        dmf.run(problem, lr=0.1, record=dmf.Record(every=1, metrics=metrics), stop=dmf.MaxSteps(3))


def test_metrics_that_are_no_numbers_are_refused():
    with pytest.raises(TypeError, match="nothing"):
        run(record=dmf.Record(metrics={"nothing": lambda state: None}))


# --- watching -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_watching_does_not_change_a_bit(name):
    optimizer = OPTIMIZERS[name]
    blind = run(SQUARE, optimizer=optimizer, record=dmf.Record(at=[]))
    record = dmf.Record(every=1, at_loss=[0.5, 0.1], metrics=sorted(NAMED))
    stop = dmf.MaxSteps(137) | dmf.GradientBelow(0.0) | dmf.Stalled(5, 0.0) & dmf.LossBelow(0.0)
    watched = run(SQUARE, optimizer=optimizer, record=record, stop=stop, callback=lambda state: None)
    assert all(map(np.array_equal, watched.factors, blind.factors))
    for field in ("loss", "test_error", "steps", "evaluations", "time"):
        assert getattr(watched, field) == getattr(blind, field)

    loop = dmf.Loop(SQUARE, dmf.Product(2), optimizer)
    state = loop.init(START, seed=0)
    for steps in (0, 1, 36, 100):
        state = loop.advance(state, steps)
    assert all(map(np.array_equal, state.factors, blind.factors))
    assert (state.loss, state.step, state.evaluations, state.time) == (
        blind.loss, blind.steps, blind.evaluations, blind.time,
    )  # fmt: skip


def test_callbacks_see_every_recorded_step():
    seen = []
    trace = run(record=dmf.Record(every=50, at=[7]), callback=seen.append).trace
    assert [state.step for state in seen] == trace.step.values.tolist()
    assert [state.loss for state in seen] == trace.loss.values.tolist()
    assert [state.test_error for state in seen] == pytest.approx(trace.test_error.values.tolist())


def test_callbacks_can_end_a_run():
    result = run(record=dmf.Record(every=10), callback=lambda state: state.step >= 30)
    assert (str(result.status), result.steps) == ("stopped", 30)
    assert result.trace.step.values.tolist() == [0, 10, 20, 30]
    at_once = run(callback=lambda state: "enough")
    assert (str(at_once.status), at_once.steps) == ("stopped", 0)
    never = run(callback=lambda state: 0)
    assert str(never.status) == "max_steps"


def test_exceptions_of_callbacks_and_metrics_come_through():
    def fail(state):
        if state.step == 10:
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        run(record=dmf.Record(every=10), callback=fail)
    with pytest.raises(LookupError, match="mine"):
        run(record=dmf.Record(every=10, metrics={"fail": lambda state: fail(state) or 0.0}))


def test_alignment_of_a_symmetric_product_is_with_the_gradient_that_moves_it():
    """U̇ = −2 S U, S the symmetric part of ∇ℓ: a skew part of the gradient turns no eigenvector of UUᵀ."""
    names = ["alignment_on_diagonal", "alignment_off_diagonal"]
    states, symmetric = [], dmf.Symmetric()
    trace = run(SQUARE, 20, factorization=symmetric, record=dmf.Record(every=5, metrics=names),
                callback=states.append).trace  # fmt: skip
    objective = naive.objective_of(SQUARE, symmetric=True)
    for k, state in enumerate(states):
        (u,), (slope,) = state.factors, objective.gradients(state.factors)
        _, vectors = np.linalg.eigh(u @ u.T)
        size = np.abs(vectors.T @ (0.5 * slope @ np.linalg.inv(u)) @ vectors)
        on, off = np.diag(size).mean(), size[~np.eye(6, dtype=bool)].mean()
        assert trace.alignment_on_diagonal[k] == pytest.approx(on, rel=1e-9)
        assert trace.alignment_off_diagonal[k] == pytest.approx(off, rel=1e-9)
