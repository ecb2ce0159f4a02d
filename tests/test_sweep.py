"""One trial on a whole grid: the same dataset whoever computes it, and nothing lost whatever happens."""

import functools
import json
import os
import random
import signal
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import filelock
import numpy as np
import pytest
import xarray as xr
from threadpoolctl import ThreadpoolController, threadpool_limits

import fastdmf as dmf
from fastdmf.sweeping.files import File

ROOT = Path(__file__).parent.parent
GRID = {"depth": [3, 2], "seed": range(3)}
PROBLEM = dmf.Completion.random(shape=(12, 10), rank=2, observed=60, seed=1)


def descent(depth, seed):
    result = dmf.run(PROBLEM, depth=depth, lr=1.0, stop=dmf.MaxSteps(200), seed=seed)
    return {"loss": result.loss, "factor": result.factors[0], "by": str(result.status)}


def total(x, y=1):
    return {"total": x + y}


@functools.cache
def descents():
    return dmf.sweep(descent, GRID)


def assert_same(a, b):
    """Everything but the wall time."""
    xr.testing.assert_identical(a.drop_vars("cell_seconds"), b.drop_vars("cell_seconds"))


class Counting:
    """A trial that remembers the cells it was called for; ``fails`` says for which it raises."""

    def __init__(self, fails=lambda x, y: False):
        self.calls, self._fails = [], _Apart(fails)

    def sweep(self, grid, **options):
        calls, fails = self.calls, self._fails

        def trial(x, y):
            _note(calls, x, y)
            if fails(x, y):
                raise LookupError(f"nothing at {x}")
            return {"total": 10 * x + y}

        self.calls.clear()
        return dmf.sweep(trial, grid, **options)


class _Apart:
    """A function whose code and values are not among what a file belongs to."""

    def __init__(self, function):
        self._function = function

    def __call__(self, *args):
        return self._function(*args)


_note = _Apart(lambda calls, x, y: calls.append((x, y)))


# --- the dataset ------------------------------------------------------------------------------------------


def test_dimensions_are_named_and_in_the_order_of_the_grid():
    ds = dmf.sweep(total, {"y": [5, 1, 3], "x": np.array([0.5, 0.25])})
    assert dict(ds.sizes) == {"y": 3, "x": 2}
    assert ds.total.dims == ("y", "x")
    assert ds.y.values.tolist() == [5, 1, 3]
    np.testing.assert_array_equal(ds.total, np.add.outer([5, 1, 3], [0.5, 0.25]))
    assert float(ds.total.sel(y=1, x=0.25)) == 1.25
    assert set(ds.cell_status.values.ravel()) == {"done"}
    assert set(ds.cell_error.values.ravel()) == {""}
    assert (ds.cell_seconds >= 0).all()
    assert ds.attrs["fastdmf"] == dmf.__version__
    assert ds.attrs["trial"].startswith("total ")


def test_trials_are_called_with_plain_values():
    kinds = []
    dmf.sweep(lambda x, y: kinds.append((type(x), type(y))) or {}, {"x": np.arange(2), "y": np.array(["a"])})
    assert kinds == [(int, str)] * 2


def test_strings_and_truth_values_as_coordinates():
    ds = dmf.sweep(lambda name, flag: {"n": len(name) * flag}, {"name": ["long", "a"], "flag": [True, False]})
    assert ds.name.values.tolist() == ["long", "a"]
    assert int(ds.n.sel(name="long", flag=True)) == 4
    assert ds.flag.dtype == bool


def test_results_become_their_numbers():
    ds = dmf.sweep(lambda seed: dmf.run(PROBLEM, lr=1.0, stop=dmf.MaxSteps(20), seed=seed), {"seed": [0, 7]})
    assert ds.loss.dims == ("seed",)
    result = dmf.run(PROBLEM, lr=1.0, stop=dmf.MaxSteps(20), seed=7)
    one = ds.sel(seed=7)
    for name in ("loss", "test_error", "steps", "evaluations", "time"):
        assert one[name].item() == getattr(result, name)
    assert one.status.item() == "max_steps"
    assert ds.steps.dtype.kind == "i"
    assert "seconds" not in ds


def test_names_of_the_grid_come_before_those_of_results():
    def trial(steps, loss):
        return dmf.run(dmf.Completion.random((9, 9), 1, 40, loss=loss), lr=0.1, stop=dmf.MaxSteps(steps))

    ds = dmf.sweep(trial, {"steps": [0, 2], "loss": ["mean", "half_sum"]})
    assert (ds.cell_status == "done").all()
    assert list(ds.steps.values) == [0, 2] and "time" in ds


def returned(k):
    """Everything that a trial may return, in shapes that depend on the cell."""
    series = xr.DataArray(np.arange(1.0, k + 2), dims="step", coords={"step": np.arange(k + 1) * 10 // k})
    return {
        "number": np.float32(k),
        "big": np.uint64(2**63 + k),
        "flag": k > 1,
        "text": "x" * k,
        "status": dmf.Status.CONVERGED,
        "none": None,
        "some": None if k == 1 else ["a", "b"],
        "vector": np.arange(k),
        "matrix": np.full((k, 2), k * 1.0),
        "words": ["a", "bc"],
        "series": series,
        "named": xr.DataArray(np.full((2, k), 1), dims=("side", "step2"), coords={"side": ["left", "right"]}),
        "empty": np.zeros((0, k)),
    }


def test_whatever_a_trial_returns(tmp_path):
    ds = dmf.sweep(returned, {"k": [2, 1]}, path=tmp_path / "x.nc")
    assert ds.number.dtype == np.float32
    assert ds.big.values.tolist() == [2**63 + 2, 2**63 + 1]
    assert ds.flag.values.tolist() == [True, False]
    assert ds.text.values.tolist() == ["xx", "x"]
    assert ds.status.values.tolist() == ["converged"] * 2
    assert "none" not in ds
    assert ds.some.values.tolist() == [["a", "b"], ["", ""]]
    assert ds.vector.dims == ("k", "vector_1")
    np.testing.assert_array_equal(ds.vector, [[0, 1], [0, np.nan]])
    assert ds.matrix.dims == ("k", "matrix_1", "matrix_2")
    np.testing.assert_array_equal(ds.matrix.sel(k=1), [[1, 1], [np.nan, np.nan]])
    assert ds.words.values.tolist() == [["a", "bc"]] * 2
    # The steps are those of both cells, and each value stands at its own.
    assert ds.step.values.tolist() == [0, 5, 10]
    np.testing.assert_array_equal(ds.series, [[1, 2, 3], [1, np.nan, 2]])
    assert ds.named.dims == ("k", "side", "step2")
    assert ds.side.values.tolist() == ["left", "right"]
    assert ds.empty.shape == (2, 0, 2)
    assert_same(ds, xr.load_dataset(tmp_path / "x.nc"))


def test_datasets_may_be_returned():
    def trial(seed):
        return dmf.run(PROBLEM, lr=1.0, stop=dmf.MaxSteps(20), seed=seed).trace[["loss"]]

    ds = dmf.sweep(trial, {"seed": [0, 1]})
    assert ds.loss.dims == ("seed", "step")
    np.testing.assert_array_equal(ds.loss.sel(seed=1), trial(1).loss)


def test_coordinates_in_their_own_order_where_all_agree():
    def trial(x):
        return {"a": xr.DataArray([1, 2], dims="side", coords={"side": ["right", "left"]})}

    assert dmf.sweep(trial, {"x": [0, 1]}).side.values.tolist() == ["right", "left"]


# --- who computes -----------------------------------------------------------------------------------------


def test_threads_give_the_dataset_of_one():
    assert_same(dmf.sweep(descent, GRID, workers=3), descents())


def test_the_order_in_which_cells_end_leaves_no_trace():
    turns = [threading.Event() for _ in range(4)]
    turns[3].set()

    def trial(x):
        assert turns[x].wait(60)
        if x:
            turns[x - 1].set()
        return {"x2": np.full(x + 1, x)}

    backwards = dmf.sweep(trial, {"x": range(4)}, workers=4)
    assert_same(backwards, dmf.sweep(trial, {"x": range(4)}))


def test_as_many_at_a_time_as_there_are_workers():
    meeting = threading.Barrier(2)
    dmf.sweep(lambda x: {"met": meeting.wait(60)}, {"x": range(4)}, workers=2)


def blas_threads(x):
    dmf.run(PROBLEM, lr=1.0, stop=dmf.MaxSteps(1), seed=x)
    pools = ThreadpoolController().select(user_api="blas").info()
    return {"most": max(p["num_threads"] for p in pools if p.get("threading_layer") != "disabled")}


def test_blas_has_one_thread_inside_and_the_users_outside():
    def outside():
        return blas_threads(0)["most"]

    outside()  # loads what the kernels call
    with threadpool_limits(2, user_api="blas"):
        if outside() != 2:
            pytest.skip("this BLAS has a single thread, so that no limit can be seen")
        assert set(dmf.sweep(blas_threads, {"x": range(4)}, workers=2).most.values) == {1}
        assert outside() == 2


def test_processes_give_the_dataset_of_threads():
    here = os.getpid()

    def trial(x):
        return descent(2, x) | blas_threads(x) | {"apart": os.getpid() != here}

    ds = dmf.sweep(trial, {"x": range(4)}, workers=2, backend="processes")
    assert ds.apart.all()
    assert set(ds.most.values) == {1}
    np.testing.assert_array_equal(ds.loss[:3], descents().loss.sel(depth=2))
    np.testing.assert_array_equal(ds.factor[:3], descents().factor.sel(depth=2))


def test_a_cell_that_kills_its_process_does_not_sink_the_others():
    def trial(x):
        if x in (1, 2, 7):
            os.kill(os.getpid(), signal.SIGKILL)
        return {"x2": 2 * x}

    with pytest.warns(RuntimeWarning, match=r"3 of 9 cells failed.*x=1: its worker died"):
        ds = dmf.sweep(trial, {"x": range(9)}, workers=2, backend="processes")
    dead = np.isin(ds.x, (1, 2, 7))
    assert ds.cell_error.values.tolist() == np.where(dead, "its worker died", "").tolist()
    np.testing.assert_array_equal(ds.x2, np.where(dead, np.nan, 2 * ds.x))


def test_a_pool_of_the_users():
    with ThreadPoolExecutor(2) as pool:
        assert_same(dmf.sweep(descent, GRID, executor=pool), descents())
        assert pool.submit(int).result() == 0  # it is still open


def test_an_executor_that_loses_its_worker():
    """Loky's, which is also what computes for joblib."""
    loky = pytest.importorskip("loky")

    def trial(x):
        if x == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"x2": 2 * x}

    executor = loky.get_reusable_executor(max_workers=1)
    with pytest.warns(RuntimeWarning, match=r"x=1: its worker died"):
        ds = dmf.sweep(trial, {"x": range(4)}, executor=executor)
    assert ds.cell_status.values[1] == "failed"
    done = ds.sel(x=ds.cell_status == "done")
    np.testing.assert_array_equal(done.x2, 2 * done.x)


def test_dask_gives_the_dataset_of_threads(tmp_path):
    distributed = pytest.importorskip("distributed", reason="computing on Dask needs dask[distributed]")

    def trial(depth, seed):
        if (depth, seed) == (2, 1):
            raise LookupError("no such thing")
        return descent(depth, seed) | {"apart": os.getpid() != here}

    here = os.getpid()
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with (
        distributed.LocalCluster(**options) as cluster,
        distributed.Client(cluster) as client,
        pytest.warns(RuntimeWarning, match="LookupError: no such thing"),
    ):
        on_dask = dmf.sweep(trial, GRID, executor=client.get_executor(), path=tmp_path / "x.nc")
    with pytest.warns(RuntimeWarning, match="LookupError: no such thing"):
        on_threads = dmf.sweep(trial, GRID, workers=2)
    assert on_dask.apart.sum() == 5
    assert on_threads.apart.sum() == 0
    assert_same(on_dask.drop_vars("apart"), on_threads.drop_vars("apart"))
    assert_same(on_dask, xr.load_dataset(tmp_path / "x.nc"))


# --- cells that fail --------------------------------------------------------------------------------------


def test_a_failed_cell_says_why_and_others_go_on():
    def trial(x, y):
        if x == 1:
            raise LookupError("no such thing")
        return {"total": x + y}

    with pytest.warns(RuntimeWarning, match=r"2 of 6 cells failed.*, the first at x=1, y=0: LookupError: no"):
        ds = dmf.sweep(trial, {"x": range(3), "y": [0, 10]}, workers=2)
    np.testing.assert_array_equal(ds.total, [[0, 10], [np.nan, np.nan], [2, 12]])
    assert ds.cell_status.values.tolist() == [["done"] * 2, ["failed"] * 2, ["done"] * 2]
    line = trial.__code__.co_firstlineno + 2
    assert ds.cell_error.values[1, 0] == f"LookupError: no such thing (trial, line {line})"


def test_reasons_that_no_file_can_hold_are_escaped(tmp_path):
    def trial(x):
        raise ValueError("a\0b\nc\udcff")

    with pytest.warns(RuntimeWarning, match="1 of 1 cells failed"):
        ds = dmf.sweep(trial, {"x": [1]}, path=tmp_path / "x.nc")
    assert ds.cell_error.item().startswith(r"ValueError: a\0b c\udcff (")
    assert_same(ds, xr.load_dataset(tmp_path / "x.nc"))


def test_when_all_cells_fail_their_reasons_are_returned(tmp_path):
    path = tmp_path / "x.nc"
    with pytest.warns(RuntimeWarning, match=r"2 of 2 cells failed"):
        ds = dmf.sweep(lambda x: {"y": 1 / 0}, {"x": [1, 2]}, path=path)
    assert set(ds.data_vars) == {"cell_status", "cell_error", "cell_seconds"}
    assert all(text.startswith("ZeroDivisionError: division by zero (") for text in ds.cell_error.values)
    assert_same(ds, xr.load_dataset(path))


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (3, "the trial returned int, not a Result or a mapping"),
        (None, "the trial returned NoneType"),
        ({1: 2}, "the trial returned a value named 1"),
        ({"x": 2}, "value named 'x', but this names a dimension"),
        ({"cell_error": 2}, "value named 'cell_error'"),
        ({"a": xr.DataArray([1], dims="a")}, "value named 'a'"),
        ({"a": xr.DataArray([1], dims="x")}, "a has a dimension named 'x'"),
        ({"a": object()}, "a must be a number, a string or an array of those, not object"),
        ({"a": 1j}, "not complex"),
        ({"a": np.array([1, "b", None])}, "a must be a number"),
        ({"a": 2**70}, "a must be a number"),
        ({"a/b": 1}, "value or dimension named 'a/b'"),
        ({"a": xr.DataArray([1], dims="")}, "value or dimension named ''"),
        ({"a": "b\0c"}, "a holds a string that no file allows"),
    ],
)
def test_what_cannot_be_kept_fails_its_cell_alone(value, why):
    with pytest.warns(RuntimeWarning, match="1 of 2 cells failed"):
        ds = dmf.sweep(lambda x: {"b": 1.0} if x else value, {"x": [0, 1]})
    assert why in ds.cell_error.values[0]
    np.testing.assert_array_equal(ds.b, [np.nan, 1.0])


@pytest.mark.parametrize("other", [np.ones(2), "text", xr.DataArray(1.0).expand_dims("side")])
def test_cells_that_do_not_fit_the_first_have_failed(other):
    with pytest.warns(RuntimeWarning, match=r"1 of 3 cells failed.*x=5: the trial returned value"):
        ds = dmf.sweep(lambda x: {"value": other if x == 5 else 1.0}, {"x": [9, 5, 1]})
    np.testing.assert_array_equal(ds.value, [1.0, np.nan, 1.0])


# --- files ------------------------------------------------------------------------------------------------


def test_a_finished_file_is_the_dataset(tmp_path):
    path = tmp_path / "x.nc"
    trial = Counting()
    ds = trial.sweep({"x": [1, 2], "y": [3]}, path=path)
    assert sorted(os.listdir(tmp_path)) == ["x.nc"]
    assert_same(ds, xr.load_dataset(path))
    before = path.read_bytes()
    again = trial.sweep({"x": [1, 2], "y": [3]}, path=str(path))
    assert trial.calls == []
    xr.testing.assert_identical(again, ds)
    assert path.read_bytes() == before


def test_a_grid_may_be_extended(tmp_path):
    path = tmp_path / "x.nc"
    trial = Counting()
    trial.sweep({"x": [1, 2], "y": [3.0]}, path=path)
    larger = {"y": [4.0, 3.0], "x": [2, 0, 1]}
    ds = trial.sweep(larger, path=path)
    assert sorted(trial.calls) == [(0, 3), (0, 4), (1, 4), (2, 4)]
    assert_same(ds, Counting().sweep(larger))
    assert_same(ds, xr.load_dataset(path))


def test_failed_cells_are_tried_again(tmp_path):
    failing = [True]
    trial = Counting(lambda x, y: x == 2 and failing[0])
    grid = {"x": [1, 2], "y": [3]}
    for _ in range(2):
        with pytest.warns(RuntimeWarning, match="nothing at 2"):
            ds = trial.sweep(grid, path=tmp_path / "x.nc")
    assert trial.calls == [(2, 3)]
    assert np.isnan(ds.total.values[1, 0])
    failing[0] = False
    ds = trial.sweep(grid, path=tmp_path / "x.nc")
    assert trial.calls == [(2, 3)]
    assert_same(ds, Counting().sweep(grid))


def unfolded(trial, grid, path, monkeypatch):
    """A sweep whose process ended before it wrote its netCDF file; its journal."""
    with monkeypatch.context() as patch:
        patch.setattr(File, "fold", None)
        with pytest.raises(TypeError):
            trial.sweep(grid, path=path)
    return path.with_name(path.name + ".cells")


def test_a_torn_line_costs_one_cell(tmp_path, monkeypatch):
    trial, grid, path = Counting(), {"x": [1, 2, 3], "y": [4]}, tmp_path / "x.nc"
    journal = unfolded(trial, grid, path, monkeypatch)
    content = journal.read_bytes()
    start = content.rstrip(b"\n").rindex(b"\n") + 1
    for length in {0, 1, 9, 30, len(content) - start - 1}:
        path.unlink(missing_ok=True)
        journal.write_bytes(content[: start + length])
        # What follows the torn line is whole, even if the process dies again.
        assert unfolded(trial, grid, path, monkeypatch) == journal
        assert trial.calls == ([] if length == len(content) - start - 1 else [(3, 4)])
        ds = trial.sweep(grid, path=path)
        assert trial.calls == []
        assert_same(ds, Counting().sweep(grid))


def test_a_damaged_line_costs_one_cell(tmp_path, monkeypatch):
    trial, grid, path = Counting(), {"x": [1, 2, 3], "y": [4]}, tmp_path / "x.nc"
    journal = unfolded(trial, grid, path, monkeypatch)
    journal.write_bytes(journal.read_bytes().replace(b'"x": 2', b'"x": 1'))
    assert_same(trial.sweep(grid, path=path), Counting().sweep(grid))
    assert trial.calls == [(2, 4)]


@pytest.mark.parametrize("moment", ["replace", "unlink"])
def test_a_death_at_the_end_costs_nothing(moment, tmp_path, monkeypatch):
    trial, path = Counting(), tmp_path / "x.nc"
    trial.sweep({"x": [1], "y": [4]}, path=path)

    def die(self, *_args, **_options):
        if moment == "replace" or str(self).endswith(".cells"):
            raise MemoryError
        os.unlink(self)

    grid = {"x": [2, 1], "y": [4, 5]}
    with monkeypatch.context() as patch:
        patch.setattr(*((os, "replace") if moment == "replace" else (Path, "unlink")), die)
        with pytest.raises(MemoryError):
            trial.sweep(grid, path=path)
    assert len(trial.calls) == 3
    assert Path(f"{path}.cells").exists()
    assert_same(trial.sweep(grid, path=path), Counting().sweep(grid))
    assert trial.calls == []
    assert sorted(set(os.listdir(tmp_path)) - {"x.nc.partial"}) == ["x.nc"]


KILLED = """
import sys, time
import numpy as np
import fastdmf as dmf

path, log = sys.argv[1:]

def trial(x, y):
    with open(log, "a") as file:
        file.write(f"{x} {y}\\n")
    time.sleep(0.004)
    return dict(total=x + y, many=np.arange(x % 7))

dmf.sweep(trial, dict(x=range(30), y=range(10)), workers=2, path=path)
"""


def test_killed_five_times_at_random_nothing_is_lost_or_computed_again(tmp_path):
    path, log = tmp_path / "x.nc", tmp_path / "log"
    log.touch()
    moments = random.Random(os.environ.get("SWEEP_SEED", "8"))

    def live(calls):
        """Start a sweep, kill it after so many calls if a number is given; the cells it was called for."""
        before = log.stat().st_size
        with subprocess.Popen([sys.executable, "-c", KILLED, str(path), str(log)], cwd=ROOT) as process:
            while calls is not None and process.poll() is None:
                if log.read_bytes()[before:].count(b"\n") >= calls:
                    time.sleep(moments.random() * 0.01)
                    process.kill()
                time.sleep(0.001)
        assert process.returncode == (0 if calls is None else -signal.SIGKILL)
        return [tuple(map(int, line.split())) for line in log.read_bytes()[before:].decode().splitlines()]

    def finished():
        lines = Path(f"{path}.cells").read_bytes().split(b"\n")
        cells = [json.loads(x[9:])["cell"] for x in lines if x.endswith(b"}") and b'"cell"' in x]
        return {(cell["x"], cell["y"]) for cell in cells}

    done = set()
    for _ in range(5):
        called = live(moments.randrange(1, 60))
        assert not done & set(called)
        now = finished()
        assert done < now
        assert len(set(called) - now) <= 2  # what was under way
        done = now
    called = live(None)
    assert not done & set(called)
    assert len(done) + len(called) == 300
    ds = xr.load_dataset(path)
    np.testing.assert_array_equal(ds.total, np.add.outer(range(30), range(10)))
    assert int(ds.many.notnull().sum()) == 10 * sum(x % 7 for x in range(30))
    assert set(ds.cell_status.values.ravel()) == {"done"}


@pytest.mark.parametrize("backend", ["threads", "processes"])
def test_what_cannot_be_written_ends_the_sweep(backend, tmp_path, monkeypatch):
    def full(self, cell, line):
        raise OSError("no space left")

    monkeypatch.setattr(File, "append", full)
    with pytest.raises(OSError, match="no space left"):
        dmf.sweep(lambda x: {"y": x}, {"x": range(4)}, path=tmp_path / "x.nc", backend=backend)


def test_where_nothing_may_be_written_what_is_whole_is_read(tmp_path, monkeypatch):
    """Without a lock; also a journal that a kill left behind, but not a part of what is asked for."""
    trial, grid, folder = Counting(), {"x": [1, 2], "y": [3, 4]}, tmp_path / "kept"
    folder.mkdir()
    whole = trial.sweep(grid, path=folder / "a.nc")
    unfolded(trial, grid, folder / "b.nc", monkeypatch)
    failing = Counting(fails=lambda x, y: x == 2)
    with pytest.warns(RuntimeWarning, match="2 of 4 cells failed"):
        failed = failing.sweep(grid, path=folder / "c.nc")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    # Root may write wherever it likes: here even root is judged by the mode.
    monkeypatch.setattr(os, "access", lambda path, mode: bool(os.stat(path).st_mode & stat.S_IWUSR))
    monkeypatch.setattr(filelock.FileLock, "acquire", None)
    folder.chmod(0o555)
    try:
        for name in ("a.nc", "b.nc"):
            assert_same(trial.sweep(grid, path=folder / name), whole)
            assert trial.calls == []
        with pytest.warns(RuntimeWarning, match="2 of 4 cells failed"):
            assert_same(failing.sweep(grid, path=folder / "c.nc"), failed)
        assert failing.calls == [], "what failed cannot be tried again"
        with pytest.raises(ValueError, match="lacks 2 of 6 cells, and nothing may be written"):
            trial.sweep({"x": [1, 2, 5], "y": [3, 4]}, path=folder / "a.nc")
        with pytest.raises(ValueError, match="nothing may be written"):
            trial.sweep(grid, path=folder / "new.nc")
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    finally:
        folder.chmod(0o755)


def test_a_file_is_written_by_one_sweep_at_a_time(tmp_path):
    path = tmp_path / "x.nc"
    refusals = []

    def trial(x):
        with pytest.raises(ValueError, match=r"another sweep is writing to .*x\.nc") as refused:
            dmf.sweep(total, {"x": [1]}, path=path)
        refusals.append(refused)
        return {"y": x}

    dmf.sweep(trial, {"x": [1]}, path=path)
    assert len(refusals) == 1


# --- what a file belongs to -------------------------------------------------------------------------------

OFFSET = 1
SCALES = [1.0, 2.0]


def helper(x):
    return x + OFFSET


def uses_much(x, power=2):
    return {"y": [helper(x) ** power * scale for scale in SCALES], "m": PROBLEM.values.size}


size = 3  # which the trial does not use: it has an attribute of this name


def closing_over(value):
    return lambda x: {"y": value}


def test_a_trial_that_is_the_same_is_recognized(tmp_path):
    for make in (
        lambda: closing_over(2),
        lambda: closing_over(np.ones(3)),
        lambda: functools.partial(total, y=3),
        lambda: dmf.cached(helpless, tmp_path / "cache"),
    ):
        path = tmp_path / "x.nc"
        dmf.sweep(make(), {"x": [1]}, path=path)
        dmf.sweep(make(), {"x": [1]}, path=path)
        path.unlink()


def helpless(x):
    return {"y": x}


def factorial(x):
    return {"y": x * factorial(x - 1)["y"] if x else 1}


def test_trials_may_call_themselves_and_name_what_comes_later(tmp_path):
    def trial(x):
        return later(x) if x > 5 else {"y": (lambda n: trial)(x).__name__}

    ds = dmf.sweep(trial, {"x": [1]}, path=tmp_path / "x.nc")

    def later(x):
        return ds

    assert ds.y.item() == "trial"
    assert dmf.sweep(factorial, {"x": [4]}).y.item() == 24


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("OFFSET", 2, "OFFSET = 1, not 2"),
        ("SCALES", [1.0, 3.0], r"SCALES = \(1, 2\), not \(1, 3\)"),
        (
            "PROBLEM",
            dmf.Completion.random(shape=(12, 10), rank=2, observed=60, seed=2),
            "PROBLEM = <Completion",
        ),
        ("helper", lambda x: x - OFFSET, "helper = helper .*, not <lambda>"),
    ],
)
def test_what_a_trial_uses_from_around_it(name, value, said, tmp_path, monkeypatch):
    path = tmp_path / "x.nc"
    dmf.sweep(uses_much, {"x": [1]}, path=path)
    monkeypatch.setitem(globals(), "size", 4)
    dmf.sweep(uses_much, {"x": [1]}, path=path)
    monkeypatch.setitem(globals(), name, value)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=rf"x\.nc was made with {said}"):
        dmf.sweep(uses_much, {"x": [1, 2]}, path=path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["x.nc"]


@pytest.mark.parametrize(
    ("trial", "grid", "said"),
    [
        (functools.partial(total, 1), {"y": [1]}, "trial = closing_over.<locals>.<lambda> .*, not total"),
        (closing_over(3), {"x": [1]}, "value = 2, not 3"),
        (closing_over(2), {"x": [2]}, "also holds x = 1; a grid may be extended"),
        (functools.partial(closing_over(2)), {"x": [1]}, "trial's arguments = not used"),
    ],
)
def test_files_of_other_sweeps_are_refused(trial, grid, said, tmp_path):
    path = tmp_path / "x.nc"
    dmf.sweep(closing_over(2), {"x": [1]}, path=path)
    with pytest.raises(ValueError, match=said):
        dmf.sweep(trial, grid, path=path)


def test_files_with_other_dimensions_are_refused(tmp_path):
    dmf.sweep(total, {"x": [1]}, path=tmp_path / "x.nc")
    with pytest.raises(ValueError, match=r"x\.nc has the dimensions x, not x, y; choose another path"):
        dmf.sweep(total, {"x": [1], "y": [1]}, path=tmp_path / "x.nc")


def test_journals_of_other_sweeps_are_refused(tmp_path, monkeypatch):
    journal = unfolded(Counting(), {"x": [1, 2], "y": [4]}, tmp_path / "x.nc", monkeypatch)
    before = journal.read_bytes()
    with pytest.raises(ValueError, match=r"x\.nc\.cells also holds x = 1"):
        Counting().sweep({"x": [2, 3], "y": [4]}, path=tmp_path / "x.nc")
    assert journal.read_bytes() == before


@pytest.mark.parametrize("name", ["x.nc", "x.nc.cells"])
def test_other_files_are_refused_and_left_as_they_are(name, tmp_path):
    (tmp_path / name).write_bytes(b"of somebody\n")
    with pytest.raises(ValueError, match=rf"{name} is not the (file|journal) of a fastdmf sweep"):
        dmf.sweep(total, {"x": [1]}, path=tmp_path / "x.nc")
    assert (tmp_path / name).read_bytes() == b"of somebody\n"


def test_files_of_later_formats_are_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("fastdmf.sweeping.files.FORMAT", 2)
        dmf.sweep(total, {"x": [1]}, path=tmp_path / "x.nc")
    with pytest.raises(ValueError, match="format version 2 of a sweep; this fastdmf reads version 1"):
        dmf.sweep(total, {"x": [1]}, path=tmp_path / "x.nc")


# --- Ctrl-C -----------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _handlers_come_back():
    before = signal.getsignal(signal.SIGINT)
    yield
    assert signal.getsignal(signal.SIGINT) is before


def press(times=1):
    for _ in range(times):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)  # until it is noticed


def test_ctrl_c_lets_cells_finish_and_keeps_them(tmp_path):
    def pressing(depth, seed):
        def callback(state):
            if state.step == 10 and (depth, seed) == (2, 0):
                press()

        return dmf.run(PROBLEM, depth=depth, lr=1.0, stop=dmf.MaxSteps(100), seed=seed, callback=callback)

    path = tmp_path / "x.nc"
    with pytest.warns(RuntimeWarning, match="interrupted: 2 of 6 cells are missing; the same call computes"):
        ds = dmf.sweep(pressing, GRID, path=path)
    assert ds.cell_status.values.tolist() == [["done"] * 3, ["done", "interrupted", "interrupted"]]
    assert ds.steps.values[1, 0] == 100  # no cell is half a run
    assert_same(ds, xr.load_dataset(path))
    ds = dmf.sweep(pressing, GRID, path=path)
    assert (ds.steps == 100).all()


def test_the_second_one_raises_at_once_and_the_file_keeps_what_was_finished(tmp_path):
    over = threading.Event()
    stuck = _Apart(lambda: press(2) or over.wait(60))
    trial = Counting(lambda x, y: x == 3 and not over.is_set() and stuck())
    with pytest.raises(KeyboardInterrupt):
        trial.sweep({"x": [1, 2, 3, 4], "y": [0]}, path=tmp_path / "x.nc")
    assert not over.is_set()
    over.set()
    ds = trial.sweep({"x": [1, 2, 3, 4], "y": [0]}, path=tmp_path / "x.nc")
    assert trial.calls == [(3, 0), (4, 0)]
    assert ds.total.values.ravel().tolist() == [10, 20, 30, 40]


def test_without_a_file_ctrl_c_returns_what_was_finished():
    trial = Counting(lambda x, y: x == 2 and press())
    with pytest.warns(RuntimeWarning, match="interrupted: 1 of 3 cells are missing; with a path"):
        ds = trial.sweep({"x": [1, 2, 3], "y": [0]})
    np.testing.assert_array_equal(ds.total.values.ravel(), [10, 20, np.nan])


def test_processes_finish_their_cells_after_ctrl_c():
    """A terminal sends Ctrl-C to all of them."""
    code = """
import os, signal, time, warnings
import fastdmf as dmf

def trial(x):
    if x == 1:
        time.sleep(0.2)
        os.killpg(0, signal.SIGINT)
        time.sleep(0.2)
    return dict(y=x)

warnings.simplefilter("ignore")
ds = dmf.sweep(trial, dict(x=range(100)), workers=1, backend="processes")
status = ds.cell_status.values.tolist()
assert status[:2] == ["done"] * 2 and status[-1] == "interrupted" and "failed" not in status, status
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, start_new_session=True, timeout=120)
    assert done.returncode == 0


# --- the rest ---------------------------------------------------------------------------------------------


def test_the_bar_counts_cells_and_failures(tmp_path, capsys):
    failing = Counting(lambda x, y: x == 2)
    for count in ("3/3", "3/3"):
        with pytest.warns(RuntimeWarning, match="nothing at 2"):
            failing.sweep({"x": [1, 2, 3], "y": [0]}, path=tmp_path / "x.nc", progress=True)
        shown = capsys.readouterr().err
        assert count in shown
        assert "failed=1" in shown
    assert "2/3" in shown  # it begins with what is in the file
    assert "0/3" not in shown


def test_from_another_thread():
    with ThreadPoolExecutor(1) as pool:
        assert_same(pool.submit(dmf.sweep, descent, GRID).result(), descents())


def test_a_cell_costs_less_than_a_millisecond(tmp_path):
    dmf.sweep(total, {"x": [0]}, path=tmp_path / "first.nc")  # imports
    begin = time.process_time()
    dmf.sweep(total, {"x": range(60), "y": range(60)}, workers=2, path=tmp_path / "x.nc")
    assert time.process_time() - begin < 3.6
    begin = time.process_time()
    dmf.sweep(total, {"x": range(60), "y": range(60)}, workers=2, path=tmp_path / "x.nc")
    assert time.process_time() - begin < 1.8


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"trial": 3}, TypeError, "trial must be a function"),
        ({"grid": [1]}, TypeError, "grid must be a mapping"),
        ({"grid": {}}, ValueError, "grid is empty"),
        ({"grid": {"x": []}}, ValueError, r"grid\['x'\] is empty"),
        ({"grid": {"x": 3}}, TypeError, r"grid\['x'\] must be a sequence, not 3"),
        ({"grid": {"x": "ab"}}, TypeError, r"grid\['x'\] must be a sequence of values, not 'ab'"),
        ({"grid": {"x": [1, 2, 1.0]}}, ValueError, "holds 1.0 twice"),
        ({"grid": {"x": [float("nan")]}}, ValueError, "holds nan"),
        ({"grid": {"x": [1, "a"]}}, TypeError, "mixes numbers and strings"),
        ({"grid": {"x": [dmf.GradientDescent(1.0)]}}, TypeError, "must hold numbers or strings"),
        ({"grid": {"x": ["a", "b\0"]}}, ValueError, r"grid\['x'\] holds a string that no file allows: 'b"),
        ({"grid": {"x": ["\udcff"]}}, ValueError, "holds a string that no file allows"),
        ({"grid": {"x": [2**70]}}, ValueError, "beyond 64 bits"),
        ({"grid": {"z": [1]}}, TypeError, "cannot be called with z: "),
        ({"grid": {"x": [1], "a b": [2]}}, TypeError, "names of the trial's arguments, not 'a b'"),
        ({"grid": {"cell_error": [1]}}, ValueError, "'cell_error'"),
        ({"workers": 0}, ValueError, "workers must be at least 1"),
        ({"backend": "mpi"}, ValueError, "backend must be one of 'threads', 'processes', not 'mpi'"),
        ({"executor": 3}, TypeError, "executor must be a concurrent.futures.Executor, not 3"),
        (
            {"executor": ThreadPoolExecutor(1), "workers": 2},
            ValueError,
            "give workers and backend, or executor",
        ),
        ({"path": ROOT}, ValueError, "is a folder: name a file"),
        ({"path": ROOT / "nowhere" / "x.nc"}, ValueError, "the sweep's file .* there is no folder"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(arguments, error, said):
    called = []

    def trial(x, y=0):
        called.append(x)

    with pytest.raises(error, match=said):
        dmf.sweep(**{"trial": trial, "grid": {"x": [1]}} | arguments)
    assert not called
