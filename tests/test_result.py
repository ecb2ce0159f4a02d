"""Results as values and as files."""

import json
import math
import zipfile
from dataclasses import replace

import numpy as np
import pytest

import fastdmf as dmf

PROBLEM = dmf.Completion.random(shape=(12, 10), rank=2, observed=60, seed=1)
SQUARE = dmf.Completion.random(shape=(6, 6), rank=2, observed=20, seed=1, keep_truth=False)
SCALARS = ("loss", "test_error", "steps", "evaluations", "time", "seconds", "status", "seed", "settings")


def corner(state):
    return state.product[:2, :3]


def run(problem=PROBLEM, **choices):
    defaults = {"lr": 0.5, "stop": dmf.MaxSteps(30), "seed": 7}
    return dmf.run(problem, **defaults | choices)


CHOICES = {
    "product": {"depth": 3, "record": dmf.Record(every=10, metrics=["loss", "singular_values", corner])},
    "widths": {"factorization": dmf.Product(3, (4, 9))},
    "one factor": {"depth": 1, "record": dmf.Record(at=[])},
    "symmetric": {"problem": SQUARE, "factorization": dmf.Symmetric(4)},  # its test error is NaN
    "huge seed": {"seed": 2**100 + 1},
    "no seed": {"init": dmf.Identity(), "seed": None},
    "diverged": {"lr": 1e3},
}


@pytest.fixture(params=CHOICES)
def result(request):
    return run(**CHOICES[request.param])


def assert_same(a, b):
    for name in SCALARS:
        x, y = getattr(a, name), getattr(b, name)
        assert x == y or (x != x and y != y), name
        assert type(x) is type(y), name
    assert a.factorization.factor_shapes(a.product.shape) == b.factorization.factor_shapes(b.product.shape)
    for x, y in zip(a.factors, b.factors, strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)
    assert list(a.records) == list(b.records)
    for name, x in a.records.items():
        assert x.dtype == b.records[name].dtype
        np.testing.assert_array_equal(x, b.records[name])


def test_files_give_back_every_bit(result, tmp_path):
    path = tmp_path / "result.npz"
    result.save(path)
    loaded = dmf.Result.load(path)
    assert_same(result, loaded)
    np.testing.assert_array_equal(loaded.product, result.product)
    assert loaded.trace.identical(result.trace)
    assert loaded.summary() == result.summary()
    assert loaded.status.advice == result.status.advice
    with np.load(path, allow_pickle=False) as file:  # anyone can read it, and nothing in it runs
        for name in file.files:
            assert file[name].dtype.kind in "fiU"


def test_names_of_files_are_kept(tmp_path):
    result = run()
    for path in (tmp_path / "result", str(tmp_path / "result.saved"), tmp_path / "röhre 1.npz"):
        result.save(path)
        assert_same(dmf.Result.load(path), result)


def test_numpy_integers_are_seeds(tmp_path):
    seeded = run(seed=np.int64(7))
    seeded.save(tmp_path / "result.npz")
    assert dmf.Result.load(tmp_path / "result.npz").seed == 7
    np.testing.assert_array_equal(seeded.product, run(seed=7).product)


def test_factors_compose():
    result = run(depth=3)
    w1, w2, w3 = result.factors
    np.testing.assert_allclose(result.product, w3 @ w2 @ w1, rtol=1e-13, atol=0)
    symmetric = run(SQUARE, factorization=dmf.Symmetric(4))
    (u,) = symmetric.factors
    np.testing.assert_allclose(symmetric.product, u @ u.T, rtol=1e-13, atol=0)
    assert math.isnan(symmetric.test_error)
    assert result.loss == pytest.approx(PROBLEM.loss_at(result.product))
    assert result.test_error == pytest.approx(PROBLEM.test_error(result.product))


def test_fresh_seeds_repeat_their_run():
    first, second = run(seed=None), run(seed=None)
    assert first.seed != second.seed
    assert all(int(float(result.seed)) == result.seed for result in (first, second))  # as in tables
    assert_same_end(run(seed=first.seed), first)


def assert_same_end(a, b):
    assert all(map(np.array_equal, a.factors, b.factors))
    assert (a.loss, a.steps) == (b.loss, b.steps)


def test_values_of_many_numbers_are_shown_in_a_line():
    states = []
    result = dmf.run(PROBLEM, depth=2, lr=1.0, stop=dmf.MaxSteps(3), seed=0, callback=states.append)
    assert repr(result) == f"<Result {dmf.Product(2)}, max_steps after 3 steps, loss {result.loss:.6g}>"
    assert repr(states[-1]) == f"<State {dmf.Product(2)}, step 3, loss {result.loss:.6g}>"
    assert repr(replace(states[-1], stalled=True)).endswith(", stalled>")
    square = dmf.Completion.random((6, 6), 1, 20, symmetric=True)
    assert repr(dmf.reference.projected_gradient(square)).startswith("<Descent 6×6, residual ")


def test_the_summary_says_what_happened():
    result = run(depth=3, init=dmf.Uniform(std=0.25), dtype="float32")
    summary = result.summary()
    for part in (
        "Product(depth=3",
        "Completion 12×10, 60 values, loss='mean'",
        "GradientDescent(lr=0.5",
        "Uniform(",
        "std=0.25",
        "seed 7",
        "float32",
        f"max_steps: {result.status.advice}",
        f"{result.loss:.6g}",
        f"{result.test_error:.6g}",
        "30",
        "31 evaluations",
    ):
        assert part in summary
    assert PROBLEM.digest not in summary
    diverged = run(lr=1e3).summary()
    assert "diverged" in diverged
    assert "smaller learning rate" in diverged


# --- files that are something else ----------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "result.npz"
    run().save(path)
    return path


def refuses(path, *fragments):
    with pytest.raises(ValueError, match=path.name) as caught:
        dmf.Result.load(path)
    for fragment in fragments:
        assert fragment in str(caught.value)


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.95, 0.999])
def test_truncated_files_are_refused(saved, kept):
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(kept * len(whole))])
    refuses(saved)


def test_damaged_files_are_refused(saved):
    damaged = bytearray(saved.read_bytes())
    with zipfile.ZipFile(saved) as archive:
        inside = archive.getinfo("factor_1.npy").header_offset + 300
    damaged[inside] ^= 1
    saved.write_bytes(damaged)
    refuses(saved)


def test_files_that_lack_a_piece_are_refused(saved):
    whole = saved.read_bytes()
    for start in range(0, len(whole), len(whole) // 40):
        saved.write_bytes(whole[:start] + whole[start + 7 :])
        refuses(saved)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "other"
    path.write_text("not a result")
    refuses(path)
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))
    refuses(path)
    with open(path, "wb") as file:
        np.savez(file, weights=np.zeros(3))
    refuses(path)
    with open(path, "wb") as file:
        np.savez(file, header=np.array(["an", "object"], dtype=object))
    refuses(path)


def rewrite_header(path, change):
    with np.load(path) as file:
        arrays = dict(file)
    header = change(json.loads(str(arrays["header"])))
    with open(path, "wb") as file:
        np.savez(file, **arrays | {"header": np.array(json.dumps(header))})


def test_other_headers_are_refused(saved):
    rewrite_header(saved, lambda header: header | {"format": 3})
    refuses(saved, "3", "version 2")
    rewrite_header(saved, lambda header: header | {"kind": "sweep"})
    refuses(saved, "sweep", "result")
    rewrite_header(saved, lambda header: header | {"kind": "result", "format": 2, "status": "bored"})
    refuses(saved, "not a whole fastdmf result", "bored")
    rewrite_header(saved, lambda header: {"kind": "result", "format": 2})
    refuses(saved, "not a whole fastdmf result")
    rewrite_header(saved, lambda header: ["result", 2])
    refuses(saved)


def test_checkpoints_are_not_results(tmp_path):
    path = tmp_path / "run.npz"
    run(checkpoint=path)
    refuses(path, "checkpoint", "result")


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.npz"):
        dmf.Result.load(tmp_path / "none.npz")


@pytest.mark.parametrize("failing", ["numpy.savez", "os.fsync", "os.replace"])
def test_a_failure_while_writing_leaves_the_old_file(saved, monkeypatch, failing):
    old = saved.read_bytes()

    def fail(target, *_args, **_arrays):
        if failing == "numpy.savez":
            target.write(b"PK half of it")
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(failing, fail)
        with pytest.raises(OSError, match="disk is full"):
            run(depth=3).save(saved)
    assert saved.read_bytes() == old
    run(depth=3).save(saved)  # what was left behind is no obstacle
    assert len(dmf.Result.load(saved).factors) == 3
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_the_seed_is_none_where_nothing_is_drawn():
    result = dmf.run(lr=0.1, init=dmf.Identity(), seed=7, stop=dmf.MaxSteps(1))
    assert result.seed is None
