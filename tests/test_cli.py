"""The command line: what reaches the library, what is refused, what is left behind."""

import inspect
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

import fastdmf as dmf
from fastdmf import cli
from fastdmf.demo import demo
from fastdmf.readers import read_completion

TINY = dmf.Completion.random(shape=(10, 10), rank=1, observed=60, seed=0)


@pytest.fixture
def data(tmp_path):
    """The path of a small problem."""
    path = tmp_path / "tiny.npz"
    truth = np.asarray(TINY.truth)
    np.savez(path, rows=TINY.rows, cols=TINY.cols, values=TINY.values, shape=TINY.shape, truth=truth)
    return path


@pytest.fixture
def table(tmp_path):
    """The path of a problem that says neither its shape nor what is held out."""
    path = tmp_path / "tiny.csv"
    path.write_text("".join(f"{k // 5},{k % 5},{k}\n" for k in range(25)))
    return path


def invoke(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


def run(*arguments):
    return invoke("run", *arguments)


@pytest.fixture
def call_of_run(monkeypatch):
    """A function (arguments) → what `fastdmf.run` is called with."""
    calls = []
    result = dmf.run(TINY, stop=dmf.MaxSteps(0), seed=0)

    def follow(problem, **keywords):
        calls.append({"problem": problem, **keywords})
        return result

    monkeypatch.setattr(sys.modules["fastdmf.run"], "run", follow)

    def call(*arguments):
        outcome = run(*arguments)
        assert outcome.exit_code == 0, outcome.stderr
        return calls.pop()

    return call


def test_it_says_which_version_it_is():
    outcome = invoke("--version")
    assert (outcome.exit_code, outcome.stdout) == (0, f"fastdmf {dmf.__version__}\n")


#: Arguments, the keyword they decide, and its value.
CASES = [
    ([], "factorization", dmf.Product(2)),
    (["--depth", 3], "factorization", dmf.Product(3)),
    (["--widths", "4,5"], "factorization", dmf.Product(3, (4, 5))),
    (["--depth", 3, "--widths", "4,5"], "factorization", dmf.Product(3, (4, 5))),
    (["--symmetric"], "factorization", dmf.Symmetric()),
    (["--symmetric", "--width", 4], "factorization", dmf.Symmetric(4)),
    ([], "init", dmf.Gaussian(product_scale=1e-3)),
    (["--init", "uniform", "--product-scale", 0.5], "init", dmf.Uniform(product_scale=0.5)),
    (["--init", "orthogonal", "--std", 0.5], "init", dmf.Orthogonal(std=0.5)),
    (["--init", "identity"], "init", dmf.Identity()),
    (["--init", "balanced"], "init", dmf.Balanced()),
    ([], "optimizer", None),  # the default of the library
    (["--optimizer", "flow"], "optimizer", dmf.GradientFlow()),
    (["--rtol", 0.01, "--check"], "optimizer", dmf.GradientFlow(0.01, check=True)),
    (["--method", "dopri5", "--rtol", 1e-6], "optimizer", dmf.GradientFlow(1e-6, "dopri5")),
    (["--optimizer", "rmsprop"], "optimizer", dmf.GroupRMSprop()),
    (["--lr", 0.5], "optimizer", dmf.GradientDescent(0.5)),
    (["--lr", 0.5, "--momentum", 0.3], "optimizer", dmf.GradientDescent(0.5, 0.3)),
    (["--optimizer", "gd", "--lr", 0.5], "optimizer", dmf.GradientDescent(0.5)),
    (["--optimizer", "rmsprop", "--lr", 0.5], "optimizer", dmf.GroupRMSprop(0.5)),
    (
        ["--optimizer", "rmsprop", "--alpha", 0.5, "--eps", 0],
        "optimizer",
        dmf.GroupRMSprop(alpha=0.5, eps=0.0),
    ),
    (["--optimizer", "line-search"], "optimizer", dmf.ExactLineSearch()),
    (["--optimizer", "line-search", "--max-step", 3], "optimizer", dmf.ExactLineSearch(3.0)),
    ([], "stop", dmf.LossBelow(1e-6) | dmf.MaxSteps(1_000_000)),
    (
        ["--stop-loss", 0, "--max-steps", 7, "--stop-gradient", 1e-9, "--time-limit", 5, "--stalled", 8],
        "stop",
        dmf.LossBelow(0.0) | dmf.MaxSteps(7) | dmf.GradientBelow(1e-9) | dmf.TimeLimit(5.0) | dmf.Stalled(8),
    ),
    ([], "record", dmf.Record()),
    (["--metrics", "loss, nuclear_norm"], "record", dmf.Record(metrics=["loss", "nuclear_norm"])),
    (["--record-every", 5], "record", dmf.Record(every=5)),
    (["--per-decade", 5], "record", dmf.Record(per_decade=5)),
    ([], "seed", None),
    (["--seed", 5], "seed", 5),
    (["--dtype", "float32"], "dtype", "float32"),
    (["--threads", 2], "threads", 2),
    ([], "progress", False),  # stderr is no terminal
    (["--progress"], "progress", True),
    (["--no-progress"], "progress", False),
    ([], "checkpoint", None),
]


@pytest.mark.parametrize(("arguments", "keyword", "expected"), CASES)
def test_options_reach_the_run(call_of_run, arguments, keyword, expected):
    assert call_of_run(*arguments)[keyword] == expected


def test_checkpoint_options_reach_the_run(call_of_run, tmp_path):
    path = tmp_path / "c.npz"
    assert call_of_run("--checkpoint", path)["checkpoint"] == dmf.Checkpoint(path)
    every = call_of_run("--checkpoint", path, "--checkpoint-every", 5)["checkpoint"]
    assert every == dmf.Checkpoint(path, every_seconds=5.0)


def test_problem_options_reach_the_run(call_of_run, data, table):
    assert call_of_run()["problem"].digest == dmf.Completion.random().digest
    planted = call_of_run("--loss", "half_sum")["problem"]
    assert planted.digest == dmf.Completion.random(loss="half_sum").digest
    assert call_of_run("--data", data)["problem"].digest == TINY.digest
    split = call_of_run("--data", table, "--test-fraction", 0.2, "--seed", 3)["problem"]
    assert split.digest == read_completion(table, 0.2, seed=0).digest
    split = call_of_run("--data", table, "--test-fraction", 0.2, "--split-seed", 3)["problem"]
    assert split.digest == read_completion(table, 0.2, seed=3).digest
    other = call_of_run("--data", table, "--loss", "half_mean", "--shape", "6,7")["problem"]
    assert other.digest == read_completion(table, loss="half_mean", shape=(6, 7)).digest


def test_every_option_is_tested():
    said = {str(a) for arguments, _, _ in CASES for a in arguments}
    elsewhere = {
        "data", "shape", "test_fraction", "split_seed", "loss",
        "checkpoint", "checkpoint_every", "out", "trace", "plot",
    }  # fmt: skip
    for name in inspect.signature(cli.run).parameters:
        assert "--" + name.replace("_", "-") in said or name in elsewhere, name


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--symmetric", "--depth", 2], "--symmetric has a single factor"),
        (["--symmetric", "--widths", "3"], "--symmetric has a single factor"),
        (["--width", 3], "give --symmetric"),
        (["--symmetric", "--width", 0], "--width: width must be at least 1, not 0"),
        (["--depth", 0], "--depth: depth must be at least 1, not 0"),
        (["--widths", "3,x"], "--widths must be integers separated by commas, not '3,x'"),
        (["--depth", 5, "--widths", "3"], "--widths: depth 5 has 4 hidden widths, not 1"),
        (["--optimizer", "adam"], "--optimizer must be one of flow, gd, rmsprop, line-search, not 'adam'"),
        (["--optimizer", "gd"], "--optimizer gd needs --lr"),
        (["--lr", -1], "--optimizer gd: lr must be a positive number, not -1.0"),
        (["--lr", 1, "--alpha", 0.5], "--alpha belongs to --optimizer rmsprop, not gd"),
        (["--optimizer", "rmsprop", "--momentum", 0.5], "--momentum belongs to --optimizer gd, not rmsprop"),
        (["--momentum", 0.5], "--momentum belongs to --optimizer gd: give that too"),
        (
            ["--optimizer", "line-search", "--lr", 1],
            "--lr belongs to --optimizer gd or rmsprop, not line-search",
        ),
        (["--optimizer", "rmsprop", "--max-step", 1], "--max-step belongs to --optimizer line-search"),
        (["--init", "zero"], "--init must be one of gaussian"),
        (["--product-scale", 1, "--std", 1], "give product_scale or std, not both"),
        (["--init", "identity", "--seed", 1], "--init identity draws nothing: leave out --seed"),
        (["--seed", -1], "seed must be at least 0, not -1"),
        (["--loss", "huber"], "loss must be one of 'mean', 'half_sum', 'half_mean', not 'huber'"),
        (["--stop-loss", -1], "--stop-loss: threshold"),
        (["--stop-gradient", "nan"], "--stop-gradient: threshold"),
        (["--max-steps", -1], "--max-steps: steps"),
        (["--time-limit", 0], "--time-limit: seconds"),
        (["--stalled", 0], "--stalled: patience"),
        (["--metrics", "loss,los"], "unknown metric 'los'"),
        (["--metrics", "loss,loss"], "two metrics have the same name"),
        (["--record-every", 0], "every must be at least 1, not 0"),
        (["--per-decade", 0], "per_decade must be at least 1, not 0"),
        (["--dtype", "float16"], "dtype must be one of float64, float32, not 'float16'"),
        (["--threads", 0], "threads must be at least 1, not 0"),
        (["--checkpoint-every", 5], "--checkpoint is written: give that too"),
        (["--checkpoint", "c.npz", "--checkpoint-every", 0], "--checkpoint-every: every_seconds"),
        (["--shape", "3,3"], "give --data"),
        (["--test-fraction", 0.1], "give --data"),
        (["--split-seed", 1], "--test-fraction holds out: give that too"),
        (["--data", "nowhere.csv"], "nowhere.csv: No such file or directory"),
        (["--data", "nowhere.npz"], "nowhere.npz: No such file or directory"),
        (["--data", "data.txt"], "data.txt: unknown suffix '.txt'"),
        (["--out", "nowhere/r.npz"], "--out nowhere/r.npz cannot be written: there is no folder nowhere"),
        (["--trace", "."], "--trace . is a folder: name a file"),
        (["--checkpoint", "nowhere/c.npz"], "--checkpoint nowhere/c.npz cannot be written"),
        (["--out", "a.npz", "--checkpoint", "a.npz"], "--checkpoint and --out are the same file"),
        (["--out", "a.png", "--plot", "./a.png"], "--out and --plot are the same file"),
        (["--plot", "a.txt"], "a.txt: the suffix must name a format of figures"),
        (["--plot", "a.png", "--metrics", "balancedness"], "--plot shows loss, test_error"),
    ],
)
def test_refusals(monkeypatch, tmp_path, arguments, said):
    monkeypatch.chdir(tmp_path)
    outcome = run(*arguments)
    assert outcome.exit_code == 2
    assert said in outcome.stderr
    assert outcome.stderr.startswith("fastdmf: ")
    assert outcome.stderr.count("\n") == 1
    assert outcome.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_refusals_that_concern_the_data(data, table, tmp_path):
    for arguments, said in [
        (["--data", table, "--shape", "3"], "--shape must be two integers, N,P, not '3'"),
        (["--data", table, "--shape", "2,9"], "line 11: the row 2 is outside 0 … 1"),
        (["--data", data, "--shape", "2,9"], "its shape is (10, 10), not (2, 9)"),
        (["--data", table, "--test-fraction", "1"], "test_fraction must be below 1"),
        (["--data", table, "--symmetric", "--shape", "5,6"], "Symmetric needs a square problem"),
        (["--data", data, "--out", data], "--data and --out are the same file"),
        (
            ["--data", table, "--plot", tmp_path / "a.png", "--metrics", "test_error"],
            "--plot shows loss, sing",
        ),
    ]:
        outcome = run(*arguments)
        assert outcome.exit_code == 2
        assert said in outcome.stderr
        assert outcome.stderr.count("\n") == 1


def test_refusal_of_what_memory_cannot_hold(monkeypatch):
    def follow(*_, **__):
        raise MemoryError("Unable to allocate 7.28 TiB")

    monkeypatch.setattr(sys.modules["fastdmf.run"], "run", follow)
    outcome = run()
    assert outcome.exit_code == 2
    assert outcome.stderr == "fastdmf: Unable to allocate 7.28 TiB\n"


@pytest.mark.parametrize("arguments", [["run", "--depth", "two"], ["run", "--nonsense"], ["nonsense"]])
def test_malformed_command_lines(arguments):
    outcome = invoke(*arguments)
    assert outcome.exit_code == 2
    assert arguments[-1] in outcome.stderr or "--depth" in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_outputs(data, tmp_path):
    out, trace, plot = tmp_path / "r.npz", tmp_path / "t.nc", tmp_path / "p.png"
    outcome = run(
        "--data", data, "--max-steps", 50, "--seed", 4, "--metrics", "loss,test_error,singular_values",
        "--out", out, "--trace", trace, "--plot", plot,
    )  # fmt: skip
    assert outcome.exit_code == 0, outcome.stderr
    expected = dmf.run(TINY, stop=dmf.LossBelow(1e-6) | dmf.MaxSteps(50), seed=4)
    result = dmf.Result.load(out)
    assert outcome.stdout == result.summary() + "\n"
    assert np.array_equal(result.product, expected.product)
    assert result.records["singular_values"].shape == (result.records["step"].size, 10)
    with xr.open_dataset(trace, engine="h5netcdf") as saved:
        xr.testing.assert_identical(saved.load(), result.trace)
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_result_is_saved_and_summarized_even_if_another_output_fails(data, tmp_path, monkeypatch):
    def fail(result):
        raise OSError(28, "No space left on device", "p.png")

    monkeypatch.setattr("fastdmf.plot.trace", fail)
    out = tmp_path / "r.npz"
    trace = tmp_path / "t.nc"
    outputs = ["--out", out, "--trace", trace, "--plot", tmp_path / "p.png"]
    outcome = run("--data", data, "--max-steps", 5, *outputs)
    assert outcome.exit_code == 2
    assert trace.exists()
    assert outcome.stderr == "fastdmf: p.png: No space left on device\n"
    assert outcome.stdout == dmf.Result.load(out).summary() + "\n"


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        (["--max-steps", 5], "max_steps", 0),
        (["--stop-loss", 1e9], "converged", 0),
        (["--stop-gradient", 1e9], "stationary", 0),
        (["--stalled", 2, "--optimizer", "rmsprop", "--lr", 1e-300], "stalled", 0),
        (["--stop-loss", 0, "--time-limit", 0.05, "--lr", 1e-300], "time_limit", 0),
        (["--optimizer", "rmsprop", "--lr", 1e100], "diverged", 1),
    ],
)
def test_exit_status(data, arguments, status, code):
    outcome = run("--data", data, *arguments)
    assert f"status      {status}" in outcome.stdout
    assert outcome.exit_code == code


def test_interrupted_run_is_saved(data, tmp_path):
    checkpoint, out = tmp_path / "c.npz", tmp_path / "r.npz"

    def interrupt_once_it_runs():
        while not checkpoint.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    interrupter = threading.Thread(target=interrupt_once_it_runs)
    interrupter.start()
    forever = ["--data", data, "--stop-loss", 0, "--max-steps", 10**15, "--seed", 1]
    outcome = run(*forever, "--checkpoint", checkpoint, "--checkpoint-every", 0.01, "--out", out)
    interrupter.join()
    assert outcome.exit_code == 130
    assert dmf.Result.load(out).status is dmf.Status.INTERRUPTED
    assert "interrupted" in outcome.stdout


def test_finished_checkpoint_gives_its_result(data, tmp_path):
    arguments = ["--data", data, "--max-steps", 5, "--checkpoint", tmp_path / "c.npz"]
    first, again = run(*arguments), run(*arguments)
    assert first.exit_code == again.exit_code == 0
    assert again.stdout == first.stdout
    other = run(*arguments, "--depth", 1)
    assert other.exit_code == 2
    assert "was made with factorization" in other.stderr


def test_progress_goes_to_stderr(data):
    outcome = run("--data", data, "--max-steps", 5, "--progress")
    assert "5.00/5.00" in outcome.stderr
    assert run("--data", data, "--max-steps", 5).stderr == ""


def test_demo_prints_its_table(monkeypatch, tmp_path):
    calls = []

    def tiny_demo(out, seed, depths, progress):
        calls.append((seed, depths, progress))
        return demo(out, seed, depths, problem=TINY, stop=dmf.MaxSteps(400))

    monkeypatch.setattr("fastdmf.demo.demo", tiny_demo)
    out = tmp_path / "d.png"
    outcome = invoke("demo", "--out", out, "--seed", 3, "--depths", "1,2", "--progress")
    assert outcome.exit_code == 0, outcome.stderr
    assert calls == [(3, (1, 2), True)]
    assert "60 entries of a planted 10 × 10 matrix" in outcome.stdout
    assert str(out) in outcome.stdout
    assert out.exists()
    lines = outcome.stdout.splitlines()
    assert lines[2].split()[0] == "depth"
    assert [line.split()[0] for line in lines[3:6]] == ["1", "2", "planted"]


def test_demo_refuses(tmp_path):
    for arguments, said in [
        (["--depths", "2,,3"], "--depths must be integers"),
        (["--depths", "2,2"], "each depth once"),
        (["--out", tmp_path / "nowhere" / "d.png"], "there is no folder"),
        (["--out", tmp_path / "d.txt"], "suffix"),
        (["--seed", "-1"], "at least 0"),
    ]:
        outcome = invoke("demo", *arguments)
        assert outcome.exit_code == 2
        assert said in outcome.stderr
        assert outcome.stderr.count("\n") == 1


def test_interrupted_demo(monkeypatch):
    def interrupted_demo(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("fastdmf.demo.demo", interrupted_demo)
    assert invoke("demo").exit_code == 130


def test_info_of_the_module():
    shown = subprocess.run(
        [sys.executable, "-m", "fastdmf", "info"], check=True, capture_output=True, text=True, timeout=120
    )
    lines = dict(line.split("  ", 1) for line in shown.stdout.splitlines())
    lines = {label: text.strip() for label, text in lines.items()}
    assert lines["fastdmf"] == dmf.__version__
    assert lines["numpy"] == np.__version__
    assert lines["devices"] == "cpu, cuda"
    assert lines["processor"]
    assert "threads" in lines["BLAS 1"]
    assert "usable processors" in lines["threads"]
    assert {"CuPy", "kernel cache", "kernel sources", "instructions", "cvxpy"} <= set(lines)
    assert shown.stderr == ""
