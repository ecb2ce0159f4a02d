"""Runs that are cut and continued end exactly like runs that are not."""

import errno
import os
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import fastdmf as dmf
from fastdmf.checkpoint import Saved

ROOT = Path(__file__).parent.parent
PROBLEM = dmf.Completion.random(shape=(12, 10), rank=2, observed=40, seed=1)
START = dmf.Gaussian(product_scale=0.1)
SWINGING = dmf.GradientDescent(2.0, momentum=0.9)
LEVELS = [0.9, 0.5, 0.3, 0.1, 0.05]


def corner(state):
    return state.product[:2, :3]


#: Each of these carries some memory of its own across a cut.
CHOICES = {
    "descent": {"optimizer": dmf.GradientDescent(1.0)},
    "momentum": {"optimizer": SWINGING},
    "rmsprop": {"optimizer": dmf.GroupRMSprop(0.02)},
    "one factor": {"optimizer": SWINGING, "depth": 1},
    "depth 3": {"optimizer": SWINGING, "depth": 3},
    "levels": {"optimizer": SWINGING, "record": dmf.Record(at=[10, 25, 26, 61], at_loss=LEVELS)},
    "arrays": {
        "optimizer": SWINGING,
        "record": dmf.Record(every=5, metrics=["loss", "singular_values", "gradient_norm", corner]),
    },
    "stalled": {"optimizer": SWINGING, "stop": dmf.Stalled(7, 0.5) | dmf.MaxSteps(200)},
    "stalled and low": {
        "optimizer": SWINGING,
        "stop": dmf.Stalled(7, 0.3) & dmf.LossBelow(0.1) | dmf.Stalled(9, 0.9) & dmf.LossBelow(0.02),
    },
    "gradient": {"optimizer": SWINGING, "stop": dmf.GradientBelow(0.05) & dmf.LossBelow(0.5)},
    "diverging": {"optimizer": dmf.GradientDescent(30.0), "record": dmf.Record(every=1)},
}


def choices_of(name, **more):
    defaults = {
        "init": START,
        "stop": dmf.MaxSteps(90),
        "record": dmf.Record(every=5, at_loss=LEVELS),
        "seed": 3,
    }
    return defaults | CHOICES[name] | more


@cache
def uninterrupted(name):
    return dmf.run(PROBLEM, **choices_of(name))


def assert_same(a, b):
    """Everything but the wall time."""
    for field in ("loss", "test_error", "steps", "evaluations", "time", "status", "seed", "settings"):
        assert getattr(a, field) == getattr(b, field), field
    for x, y in zip(a.factors, b.factors, strict=True):
        np.testing.assert_array_equal(x, y)
    assert list(a.records) == list(b.records)
    for name, column in a.records.items():
        assert column.dtype == b.records[name].dtype
        np.testing.assert_array_equal(column, b.records[name])
    assert a.trace.identical(b.trace)


class CutError(Exception):
    """What ends a run before its time."""


def cutting(steps, how):
    """A callback that cuts a run once at the first recorded step at or after each of the given ones."""
    left = sorted(steps)

    def callback(state):
        if left and state.step >= left[0]:
            while left and state.step >= left[0]:
                left.pop(0)
            how()

    return callback


def raise_cut():
    raise CutError


def press(number):
    return lambda: os.kill(os.getpid(), number)


def run_in_pieces(path, callback, **choices):
    """Continue a run until it is done; every piece but the last must have been cut."""
    pieces = 0
    while True:
        pieces += 1
        assert pieces < 20
        try:
            result = dmf.run(PROBLEM, callback=callback, checkpoint=dmf.Checkpoint(path, 1e-9), **choices)
        except CutError:
            continue
        if result.status != "interrupted":
            return result, pieces


@pytest.mark.parametrize("name", CHOICES)
def test_exceptions_cut_a_run_without_a_trace(name, tmp_path):
    whole = uninterrupted(name)
    recorded = whole.records["step"]
    assert len(recorded) > 4
    path = tmp_path / "run.npz"
    cuts = recorded[[0, 1, len(recorded) // 2, -2]]
    result, pieces = run_in_pieces(path, cutting(cuts, raise_cut), **choices_of(name))
    assert pieces == 1 + len(set(cuts))
    assert_same(result, whole)
    assert result.seconds > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=str)
@pytest.mark.parametrize("name", ["momentum", "rmsprop", "arrays", "stalled and low", "levels"])
def test_signals_cut_a_run_without_a_trace(name, number, tmp_path):
    whole = uninterrupted(name)
    recorded = whole.records["step"]
    path = tmp_path / "run.npz"
    cuts = recorded[[0, 1, len(recorded) // 2]]
    result, pieces = run_in_pieces(path, cutting(cuts, press(number)), **choices_of(name))
    assert pieces == 1 + len(set(cuts))
    assert_same(result, whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=str)
def test_what_a_cut_run_returns(number, tmp_path):
    path = tmp_path / "run.npz"
    choices = choices_of("momentum", record=dmf.Record(every=10, metrics=["loss", "gradient_norm"]))
    result = dmf.run(PROBLEM, callback=cutting([40], press(number)), checkpoint=path, **choices)
    assert str(result.status) == "interrupted"
    assert "checkpoint=" in result.status.advice
    assert 40 <= result.steps <= 41
    assert result.trace.step.values[-1] == result.steps
    assert result.trace.loss.values[-1] == result.loss
    loss, gradients = dmf.loss_and_gradients(PROBLEM, result.factors)
    assert result.loss == loss
    norm = np.sqrt(sum(np.vdot(g, g) for g in gradients))
    assert result.trace.gradient_norm.values[-1] == pytest.approx(norm, rel=1e-12)
    saved = Saved.read(path)
    assert not saved.finished
    assert saved.result.steps == result.steps


@pytest.mark.parametrize("step", [0, 40, 90])
def test_a_metric_that_fails_leaves_the_step_to_be_recorded_again(step, tmp_path):
    path = tmp_path / "run.npz"
    failing = [True]

    def metric(state):
        if failing and state.step == step:
            failing.pop()
            raise CutError
        return state.loss

    choices = choices_of("momentum", record=dmf.Record(every=40, metrics=[metric]))
    with pytest.raises(CutError):
        dmf.run(PROBLEM, checkpoint=path, **choices)
    assert Saved.read(path).result.steps == step
    resumed = dmf.run(PROBLEM, checkpoint=path, **choices)
    assert_same(resumed, dmf.run(PROBLEM, **choices))


def test_a_metric_that_fails_at_a_loss_level_leaves_the_level_to_be_recorded(tmp_path):
    path = tmp_path / "run.npz"
    failing = [True]

    def metric(state):
        if failing and state.step > 0:
            failing.pop()
            raise CutError
        return state.loss

    choices = choices_of("momentum", record=dmf.Record(at=[], at_loss=LEVELS, metrics=[metric]))
    with pytest.raises(CutError):
        dmf.run(PROBLEM, checkpoint=path, **choices)
    resumed = dmf.run(PROBLEM, checkpoint=path, **choices)
    assert_same(resumed, dmf.run(PROBLEM, **choices))


def test_time_limits_count_all_pieces(tmp_path):
    uninterrupted("momentum")  # compiles, which counts as well
    path = tmp_path / "run.npz"
    choices = choices_of("momentum", stop=dmf.TimeLimit(0.4) | dmf.MaxSteps(10**9))
    seen = []

    def once_late(state):
        if not seen and state.step >= 50:
            seen.append(state)
            signal.raise_signal(signal.SIGINT)

    first = dmf.run(PROBLEM, callback=once_late, checkpoint=path, **choices)
    second = dmf.run(PROBLEM, callback=once_late, checkpoint=path, **choices)
    assert (str(first.status), str(second.status)) == ("interrupted", "time_limit")
    assert first.seconds < 0.4 <= second.seconds
    assert second.steps > first.steps


# --- what a checkpoint belongs to -----------------------------------------------------------------------


@pytest.fixture
def finished(tmp_path):
    path = tmp_path / "run.npz"
    return path, dmf.run(PROBLEM, checkpoint=path, **choices_of("momentum"))


def changed(**arguments):
    m = {"rows": PROBLEM.rows, "cols": PROBLEM.cols, "values": PROBLEM.values, "truth": PROBLEM.truth}
    return dmf.Completion(**m | arguments, shape=(12, 10))


@pytest.mark.parametrize(
    ("problem", "choices", "name"),
    [
        (changed(values=PROBLEM.values * (1 + 1e-15)), {}, "problem"),
        (changed(rows=PROBLEM.rows[::-1], cols=PROBLEM.cols[::-1]), {}, "problem"),
        (changed(loss="half_mean"), {}, "problem"),
        (changed(truth=None), {}, "problem"),
        (changed(test=([0], [0], [0.0])), {}, "problem"),
        (PROBLEM, {"depth": 3}, "factorization"),
        (PROBLEM, {"factorization": dmf.Product(2, (4,))}, "factorization"),
        (PROBLEM, {"init": dmf.Gaussian(product_scale=0.2)}, "init"),
        (PROBLEM, {"init": dmf.Uniform(product_scale=0.1)}, "init"),
        (PROBLEM, {"init": dmf.Factors([np.eye(10), np.eye(12, 10)])}, "init"),
        (PROBLEM, {"optimizer": dmf.GradientDescent(2.0)}, "optimizer"),
        (PROBLEM, {"optimizer": dmf.GroupRMSprop(2.0)}, "optimizer"),
        (PROBLEM, {"stop": dmf.MaxSteps(91)}, "stop"),
        (PROBLEM, {"stop": dmf.MaxSteps(90) | dmf.LossBelow(0.0)}, "stop"),
        (PROBLEM, {"record": dmf.Record(every=6)}, "record"),
        (PROBLEM, {"record": dmf.Record(every=5, at_loss=LEVELS, metrics=["loss"])}, "record"),
        (PROBLEM, {"dtype": "float32"}, "dtype"),
        (PROBLEM, {"seed": 4}, "seed"),
    ],
)
def test_other_runs_are_refused(finished, problem, choices, name):
    path, _ = finished
    before = path.read_bytes()
    with pytest.raises(ValueError, match=rf"{path.name} was made with {name}"):
        dmf.run(problem, checkpoint=path, **choices_of("momentum") | choices)
    assert path.read_bytes() == before


def test_equal_descriptions_are_not_refused(finished):
    path, result = finished
    choices = choices_of("momentum") | {
        "factorization": dmf.Product(depth=np.int64(2)),
        "init": dmf.Gaussian(product_scale=np.float64(0.1)),
        "optimizer": dmf.GradientDescent(2, momentum=0.9),
        "stop": dmf.MaxSteps(np.int64(90)),
        "record": dmf.Record(every=5, at_loss=LEVELS[::-1], metrics=["loss", "test_error"]),
        "dtype": np.float64,
        "seed": np.int64(3),
    }
    assert_same(dmf.run(changed(), checkpoint=path, **choices), result)


def test_files_that_are_no_checkpoints_are_refused(finished, tmp_path):
    path, result = finished
    for name, content in (("text", b"a text"), ("truncated", path.read_bytes()[:-50])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            dmf.run(PROBLEM, checkpoint=tmp_path / name, **choices_of("momentum"))
    with np.load(path) as file:
        some = {name: array for name, array in file.items() if not name.startswith("factor")}
    np.savez(tmp_path / "factorless.npz", **some)
    with pytest.raises(ValueError, match=r"factorless.npz is not a whole fastdmf checkpoint"):
        dmf.run(PROBLEM, checkpoint=tmp_path / "factorless.npz", **choices_of("momentum"))
    result.save(tmp_path / "result")
    with pytest.raises(ValueError, match="a fastdmf result, not a checkpoint"):
        dmf.run(PROBLEM, checkpoint=tmp_path / "result", **choices_of("momentum"))


def test_a_fresh_seed_is_continued(tmp_path):
    path = tmp_path / "run.npz"
    choices = choices_of("momentum", seed=None)
    first = dmf.run(PROBLEM, callback=cutting([40], press(signal.SIGINT)), checkpoint=path, **choices)
    second = dmf.run(PROBLEM, checkpoint=path, **choices)
    assert first.seed == second.seed is not None
    assert_same(second, dmf.run(PROBLEM, **choices | {"seed": first.seed}))


def test_a_finished_checkpoint_is_the_result(finished, monkeypatch):
    path, result = finished
    before = path.read_bytes()
    monkeypatch.setattr(sys.modules["fastdmf.choices"], "Loop", None)  # nothing is bound, let alone run
    for checkpoint in (path, str(path), dmf.Checkpoint(path)):
        again = dmf.run(PROBLEM, checkpoint=checkpoint, **choices_of("momentum"))
        assert_same(again, result)
        assert again.seconds == result.seconds
    assert path.read_bytes() == before


def test_saves_are_as_rare_as_asked(tmp_path, monkeypatch):
    writes = []
    write = Saved.write
    monkeypatch.setattr(Saved, "write", lambda self, path: (writes.append(self.finished), write(self, path)))
    choices = choices_of("momentum", record=dmf.Record(every=1))
    dmf.run(PROBLEM, checkpoint=dmf.Checkpoint(tmp_path / "rare", every_seconds=3600), **choices)
    assert writes == [False, True]
    writes.clear()
    dmf.run(PROBLEM, checkpoint=dmf.Checkpoint(tmp_path / "eager", every_seconds=1e-9), **choices)
    assert writes == [False] * 90 + [True]


def full_disk(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_fills_up_ends_no_run(tmp_path, monkeypatch):
    path, whole = tmp_path / "run.npz", uninterrupted("momentum")
    step = whole.records["step"][len(whole.records["step"]) // 2]
    files = []

    def fill(state):
        if state.step == step:
            files.append(path.read_bytes())
            monkeypatch.setattr(np, "savez", full_disk)

    checkpoint = dmf.Checkpoint(path, 1e-9)
    with pytest.warns(RuntimeWarning, match="run.npz could not be written .* the run goes on"):
        result = dmf.run(PROBLEM, callback=fill, checkpoint=checkpoint, **choices_of("momentum"))
    assert_same(result, whole)
    assert [path.read_bytes()] == files  # the last whole one
    assert os.listdir(tmp_path) == ["run.npz"]
    monkeypatch.undo()
    assert_same(dmf.run(PROBLEM, checkpoint=checkpoint, **choices_of("momentum")), whole)


def test_a_read_only_folder_is_refused_unless_the_run_is_finished(finished, tmp_path, monkeypatch):
    path, _ = finished
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert dmf.Checkpoint(path).path == path
    with pytest.raises(ValueError, match=r"new.npz cannot be written: nothing may be written to the folder"):
        dmf.run(PROBLEM, checkpoint=tmp_path / "new.npz", **choices_of("momentum"))


# --- processes that die ---------------------------------------------------------------------------------

MORTAL = """
import os, signal, sys
import fastdmf as dmf

path, death, out = sys.argv[1:]

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def callback(state):
    if str(state.step) == death:
        die()

if death == "writing":  # the new file is whole, but has not taken the place of the old one
    replace, calls = os.replace, []
    def mortal_replace(*names):
        calls.append(names)
        if len(calls) == 5:
            die()
        replace(*names)
    os.replace = mortal_replace

problem = dmf.Completion.random(shape=(12, 10), rank=2, observed=40, seed=1)
result = dmf.run(
    problem, init=dmf.Gaussian(product_scale=0.1), optimizer=dmf.GradientDescent(2.0, momentum=0.9),
    stop=dmf.Stalled(7, 0.3) & dmf.LossBelow(1e-5) | dmf.MaxSteps(400),
    record=dmf.Record(every=5, at_loss=[0.9, 0.5, 0.3, 0.1, 0.05], metrics=["loss", "singular_values"]),
    seed=3, checkpoint=dmf.Checkpoint(path, 1e-9), callback=callback,
)
result.save(out)
"""


def test_killed_processes_are_continued_to_the_bit(tmp_path):
    path, out = tmp_path / "run.npz", tmp_path / "result.npz"

    def live(death):
        arguments = [sys.executable, "-c", MORTAL, str(path), death, str(out)]
        return subprocess.run(arguments, cwd=ROOT, timeout=120).returncode

    steps = []
    for death in ("30", "writing", "120"):
        assert live(death) == -signal.SIGKILL
        steps.append(Saved.read(path).result.steps)
    assert not out.exists()
    assert 0 < steps[0] < steps[1] < steps[2] <= 120
    assert live("never") == 0
    choices = choices_of(
        "momentum",
        stop=dmf.Stalled(7, 0.3) & dmf.LossBelow(1e-5) | dmf.MaxSteps(400),
        record=dmf.Record(every=5, at_loss=LEVELS, metrics=["loss", "singular_values"]),
    )
    whole = dmf.run(PROBLEM, **choices)
    assert whole.steps > 120
    assert_same(dmf.Result.load(out), whole)


FINISHED = """
import sys
import fastdmf as dmf
problem = dmf.Completion.random(shape=(12, 10), rank=2, observed=40, seed=1)
result = dmf.run(problem, lr=0.5, stop=dmf.MaxSteps(5), seed=3, checkpoint=sys.argv[1])
assert result.steps == 5 and result.summary()
assert "numba" not in sys.modules
"""


def test_a_finished_checkpoint_needs_no_compiler(tmp_path):
    path = tmp_path / "run.npz"
    dmf.run(PROBLEM, lr=0.5, stop=dmf.MaxSteps(5), seed=3, checkpoint=path)
    subprocess.run([sys.executable, "-c", FINISHED, str(path)], cwd=ROOT, check=True, timeout=120)


def test_a_metric_of_the_same_name_that_computes_something_else_is_refused(tmp_path):
    def run_with(metric):
        record = dmf.Record(metrics={"x": metric})
        path = tmp_path / "run.npz"
        return dmf.run(lr=0.1, seed=0, stop=dmf.MaxSteps(2), checkpoint=path, record=record).trace.x

    def scaled(factor):
        return lambda state: factor * state.loss

    assert np.array_equal(run_with(scaled(2.0)), run_with(scaled(2.0)))
    for other in (scaled(3.0), lambda state: 2.0 * state.step):
        with pytest.raises(ValueError, match="record"):
            run_with(other)
