"""The command line.

Commands check what they are given, call the library, print and save.  What does not fit together is
refused in one sentence on stderr, with exit status 2.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from fastdmf import cli_experiments
from fastdmf._checks import output_file
from fastdmf._version import __version__
from fastdmf.cli_choices import (
    INITIALIZERS,
    OPTIMIZERS,
    checkpoint_of,
    factorization_of,
    initializer_of,
    numbers,
    optimizer_of,
    problem_of,
    record_of,
    stop_of,
)
from fastdmf.console import refusals, shows
from fastdmf.optimizers.gradient_flow import METHODS
from fastdmf.problems import Completion
from fastdmf.recording import Record
from fastdmf.result import Result
from fastdmf.stopping import Status
from fastdmf.storage import written_beside

app = typer.Typer(
    name="fastdmf",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line."""
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fastdmf {__version__}")
        raise typer.Exit


@app.callback()
def shared(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Gradient dynamics of matrix factorizations, compiled."""


EXIT_STATUS = {Status.DIVERGED: 1, Status.INTERRUPTED: 130}


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where the figure goes.")] = Path("fastdmf-demo.png"),
    seed: Annotated[int, typer.Option(help="Seed of the problem and of the starts.")] = 0,
    depths: Annotated[str, typer.Option(metavar="N,N,…", help="Numbers of factors.")] = "2,3,4",
    progress: Annotated[bool | None, typer.Option(help="Show progress; by default on a terminal.")] = None,
) -> None:
    """Complete a planted 100 × 100 matrix of rank 5 from 2000 entries, at several depths."""
    from fastdmf.demo import demo as demonstrate

    with refusals():
        done = demonstrate(out, seed, numbers("--depths", depths), progress=shows(progress))
    n, p = done.problem.shape
    typer.echo(f"{done.problem.values.size} entries of a planted {n} × {p} matrix W*, and W = W_N … W_1:\n")
    typer.echo(done.table())
    typer.echo(f"\nerror: ‖W − W*‖_F / ‖W*‖_F.  Figure: {out}")


@app.command()
def run(
    data: Annotated[
        Path | None,
        typer.Option(
            help="Entries to complete: u.data of MovieLens, .csv (row and column from 0, value), .mtx or "
            ".npz; by default those of a planted 100 × 100 matrix of rank 5.",
            rich_help_panel="Problem",
        ),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(metavar="N,P", help="Shape, if the file does not state it.", rich_help_panel="Problem"),
    ] = None,
    test_fraction: Annotated[
        float, typer.Option(help="Fraction of the entries to hold out.", rich_help_panel="Problem")
    ] = 0.0,
    split_seed: Annotated[
        int | None, typer.Option(help="Seed of that draw; 0 by default.", rich_help_panel="Problem")
    ] = None,
    loss: Annotated[
        str, typer.Option(metavar="mean|half_sum|half_mean", help="Normalization.", rich_help_panel="Problem")
    ] = "mean",
    depth: Annotated[
        int | None, typer.Option(help="Number of factors; 2 by default.", rich_help_panel="Factorization")
    ] = None,
    widths: Annotated[
        str | None,
        typer.Option(
            metavar="K,K,…", help="Hidden widths, from W_1 upward.", rich_help_panel="Factorization"
        ),
    ] = None,
    symmetric: Annotated[
        bool, typer.Option("--symmetric", help="W = UUᵀ.", rich_help_panel="Factorization")
    ] = False,
    width: Annotated[
        int | None, typer.Option(help="Columns of U; all by default.", rich_help_panel="Factorization")
    ] = None,
    init: Annotated[
        str, typer.Option(metavar="|".join(INITIALIZERS), help="Where to start.", rich_help_panel="Start")
    ] = "gaussian",
    product_scale: Annotated[
        float | None,
        typer.Option(help="Scale of W at the start; 1e-3 by default.", rich_help_panel="Start"),
    ] = None,
    std: Annotated[
        float | None, typer.Option(help="Scale of each factor's entries instead.", rich_help_panel="Start")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the start; drawn by default.", rich_help_panel="Start")
    ] = None,
    optimizer: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(OPTIMIZERS),
            help="How to move; by default gd if --lr is given, else flow.",
            rich_help_panel="Optimizer",
        ),
    ] = None,
    rtol: Annotated[
        float | None, typer.Option(help="Tolerance of flow.", rich_help_panel="Optimizer")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(metavar="|".join(METHODS), help="Integrator of flow.", rich_help_panel="Optimizer"),
    ] = None,
    check: Annotated[
        bool | None,
        typer.Option("--check", help="Repeat flow with a tenth of rtol.", rich_help_panel="Optimizer"),
    ] = None,
    lr: Annotated[
        float | None, typer.Option(help="Learning rate of gd and rmsprop.", rich_help_panel="Optimizer")
    ] = None,
    momentum: Annotated[
        float | None, typer.Option(help="Momentum of gd.", rich_help_panel="Optimizer")
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(help="Memory of rmsprop.", rich_help_panel="Optimizer")
    ] = None,
    eps: Annotated[float | None, typer.Option(help="Offset of rmsprop.", rich_help_panel="Optimizer")] = None,
    max_step: Annotated[
        float | None, typer.Option(help="Largest step of line-search.", rich_help_panel="Optimizer")
    ] = None,
    stop_loss: Annotated[float, typer.Option(help="Stop at this loss.", rich_help_panel="Stop")] = 1e-6,
    max_steps: Annotated[
        int, typer.Option(help="Stop after so many steps.", rich_help_panel="Stop")
    ] = 1_000_000,
    stop_gradient: Annotated[
        float | None, typer.Option(help="Stop at this gradient norm.", rich_help_panel="Stop")
    ] = None,
    time_limit: Annotated[
        float | None, typer.Option(help="Stop after so many seconds.", rich_help_panel="Stop")
    ] = None,
    stalled: Annotated[
        int | None, typer.Option(help="Stop when so many steps gain nothing.", rich_help_panel="Stop")
    ] = None,
    metrics: Annotated[
        str, typer.Option(metavar="NAME,NAME,…", help="What to record.", rich_help_panel="Record")
    ] = "loss,test_error",
    record_every: Annotated[
        int | None, typer.Option(help="Record every so many steps.", rich_help_panel="Record")
    ] = None,
    per_decade: Annotated[
        int | None,
        typer.Option(
            help="Record so many log-spaced steps per decade; 10 by default.", rich_help_panel="Record"
        ),
    ] = None,
    dtype: Annotated[
        str, typer.Option(metavar="float64|float32", help="Arithmetic.", rich_help_panel="Computation")
    ] = "float64",
    threads: Annotated[
        int, typer.Option(help="Threads of kernels and BLAS.", rich_help_panel="Computation")
    ] = 1,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Save on the way here, and continue from it.", rich_help_panel="Computation"),
    ] = None,
    checkpoint_every: Annotated[
        float | None,
        typer.Option(help="Seconds between saves; 60 by default.", rich_help_panel="Computation"),
    ] = None,
    progress: Annotated[
        bool | None,
        typer.Option(help="Show progress; by default on a terminal.", rich_help_panel="Computation"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Save the result (.npz).", rich_help_panel="Output")
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(help="Save what was recorded (.nc).", rich_help_panel="Output")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw what was recorded (.png, .pdf, …).", rich_help_panel="Output")
    ] = None,
) -> None:
    """Follow one trajectory from its start to its end, and print where it ended.

    It ends at --stop-loss, at --max-steps, or at any other limit that is given.

    Exit status: 0; 1 if the run diverged; 2 if it was refused; 130 if it was interrupted.
    """
    from fastdmf.run import run as follow

    parameters = {
        "rtol": rtol, "method": method, "check": check, "lr": lr, "momentum": momentum, "alpha": alpha,
        "eps": eps, "max_step": max_step,
    }  # fmt: skip
    with refusals():
        problem = problem_of(data, shape, test_fraction, split_seed, loss)
        record = record_of(metrics, record_every, per_decade)
        written = {"--checkpoint": checkpoint, "--out": out, "--trace": trace, "--plot": plot}
        _check_files(data, written)
        if plot is not None:
            _check_plot(plot, record, problem)
        result = follow(
            problem,
            factorization=factorization_of(depth, widths, symmetric, width),
            init=initializer_of(init, product_scale, std, seed),
            optimizer=optimizer_of(optimizer, parameters),
            stop=stop_of(stop_loss, max_steps, stop_gradient, time_limit, stalled),
            record=record,
            seed=seed,
            dtype=dtype,
            threads=threads,
            progress=shows(progress),
            checkpoint=checkpoint_of(checkpoint, checkpoint_every),
        )
        try:
            _save(result, out, trace, plot)
        finally:
            typer.echo(result.summary())
    raise typer.Exit(EXIT_STATUS.get(result.status, 0))


app.command()(cli_experiments.reproduce)
app.command("list")(cli_experiments.names)


@app.command()
def info() -> None:
    """Versions, processor, devices, BLAS, threads and the kernel cache."""
    from fastdmf.info import gather

    lines = gather()
    width = max(map(len, lines))
    for label, text in lines.items():
        typer.echo(f"{label:<{width}}  {text}")


def _check_files(data: Path | None, written: Mapping[str, Path | None]) -> None:
    """Refuse, before hours are spent, files that cannot be written or that would overwrite one another."""
    seen = {} if data is None else {data.resolve(): "--data"}
    for option, path in written.items():
        if path is None:
            continue
        if option != "--checkpoint" or not path.is_file():  # a finished run may lie where nothing is written
            output_file(option, path)
        other = seen.setdefault(path.resolve(), option)
        if other != option:
            raise ValueError(f"{other} and {option} are the same file, {path}: name another")


def _check_plot(path: Path, record: Record, problem: Completion) -> None:
    """Refuse a figure that would be empty."""
    from fastdmf.plot import PANELS, check_path

    check_path(path)
    unknown = set()
    if not problem.has_test_error:
        unknown.add("test_error")
    if problem.truth is None:
        unknown.add("reconstruction_error")
    drawn = [name for name in PANELS if name not in unknown]
    if not set(drawn) & set(record.metrics):
        raise ValueError(f"--plot shows {', '.join(drawn)} of this problem: name some of them in --metrics")


def _save(result: Result, out: Path | None, trace: Path | None, plot: Path | None) -> None:
    if out is not None:
        result.save(out)
    if trace is not None:
        with written_beside(trace) as partial:
            result.trace.to_netcdf(partial, engine="h5netcdf")
    if plot is not None:
        from fastdmf.plot import trace as draw

        draw(result).savefig(plot, dpi=200)
