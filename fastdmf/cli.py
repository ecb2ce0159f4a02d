"""The command line.

Commands check what they are given, call the library, print and save.  What does not fit together is
refused in one sentence on stderr, with exit status 2.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from fastdmf import cli_experiments
from fastdmf._checks import output_file
from fastdmf.checkpoint import Checkpoint
from fastdmf.console import refusals, shows
from fastdmf.factorizations import Factorization, Product, Symmetric
from fastdmf.initializers import Balanced, Gaussian, Identity, Orthogonal, Scaled, Uniform
from fastdmf.optimizers import ExactLineSearch, GradientDescent, GradientFlow, GroupRMSprop, Optimizer
from fastdmf.optimizers.gradient_flow import METHODS
from fastdmf.problems import Completion
from fastdmf.recording import Record
from fastdmf.result import Result
from fastdmf.stopping import GradientBelow, LossBelow, MaxSteps, Stalled, Status, Stop, TimeLimit

T = TypeVar("T")

app = typer.Typer(
    name="fastdmf",
    help="Gradient dynamics of matrix factorizations, compiled.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line."""
    app()


#: Optimizers by name, and the options that belong to each.
OPTIMIZERS: dict[str, tuple[type[Optimizer], tuple[str, ...]]] = {
    "flow": (GradientFlow, ("rtol", "method", "check")),
    "gd": (GradientDescent, ("lr", "momentum")),
    "rmsprop": (GroupRMSprop, ("lr", "alpha", "eps")),
    "line-search": (ExactLineSearch, ("max_step",)),
}

INITIALIZERS: dict[str, type[Scaled]] = {
    "gaussian": Gaussian,
    "uniform": Uniform,
    "orthogonal": Orthogonal,
    "identity": Identity,
    "balanced": Balanced,
}

EXIT_STATUS = {Status.DIVERGED: 1, Status.INTERRUPTED: 130}


def _made(option: str, make: Callable[..., T], *args: Any) -> T:
    """``make(*args)``, whose refusal names the option."""
    try:
        return make(*args)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{option}: {error}") from None


def _numbers(option: str, text: str) -> tuple[int, ...]:
    """Integers separated by commas."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{option} must be integers separated by commas, not {text!r}") from None


def _option(name: str) -> str:
    """The option that sets a parameter."""
    return "--" + name.replace("_", "-")


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
        done = demonstrate(out, seed, _numbers("--depths", depths), progress=shows(progress))
    n, p = done.problem.shape
    typer.echo(f"{done.problem.values.size} entries of a planted {n} × {p} matrix W*, and W = W_N … W_1:\n")
    typer.echo(done.table())
    typer.echo(f"\nerror: ‖W − W*‖_F / ‖W*‖_F.  Figure: {out}")


@app.command()
def run(
    data: Annotated[
        Path | None,
        typer.Option(
            help="Entries to complete: u.data of MovieLens, .csv, .mtx or .npz; by default those of a "
            "planted 100 × 100 matrix of rank 5.",
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
        problem = _problem(data, shape, test_fraction, split_seed, loss)
        record = _record(metrics, record_every, per_decade)
        written = {"--checkpoint": checkpoint, "--out": out, "--trace": trace, "--plot": plot}
        _check_files(data, written)
        if plot is not None:
            _check_plot(plot, record, problem)
        result = follow(
            problem,
            factorization=_factorization(depth, widths, symmetric, width),
            init=_initializer(init, product_scale, std, seed),
            optimizer=_optimizer(optimizer, parameters),
            stop=_stop(stop_loss, max_steps, stop_gradient, time_limit, stalled),
            record=record,
            seed=seed,
            dtype=dtype,
            threads=threads,
            progress=shows(progress),
            checkpoint=_checkpoint(checkpoint, checkpoint_every),
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


def _problem(
    data: Path | None, shape: str | None, test_fraction: float, split_seed: int | None, loss: str
) -> Completion:
    if split_seed is not None and not test_fraction:
        raise ValueError("--split-seed draws what --test-fraction holds out: give that too")
    if data is None:
        if shape is not None or test_fraction:
            raise ValueError("--shape and --test-fraction belong to a file: give --data")
        return Completion.random(loss=loss)
    from fastdmf.readers import read_completion

    sides = None if shape is None else _numbers("--shape", shape)
    if sides is not None and len(sides) != 2:
        raise ValueError(f"--shape must be two integers, N,P, not {shape!r}")
    return read_completion(data, test_fraction, split_seed or 0, loss, sides)


def _factorization(
    depth: int | None, widths: str | None, symmetric: bool, width: int | None
) -> Factorization:
    if symmetric:
        if depth is not None or widths is not None:
            raise ValueError("--symmetric has a single factor U: leave out --depth and --widths")
        return _made("--width", Symmetric, width)
    if width is not None:
        raise ValueError("--width is the width of U: give --symmetric, or --widths for a product")
    if widths is None:
        return _made("--depth", Product, 2 if depth is None else depth)
    hidden = _numbers("--widths", widths)
    return _made("--widths", Product, len(hidden) + 1 if depth is None else depth, hidden)


def _initializer(name: str, product_scale: float | None, std: float | None, seed: int | None) -> Scaled:
    if name not in INITIALIZERS:
        raise ValueError(f"--init must be one of {', '.join(INITIALIZERS)}, not {name!r}")
    init = INITIALIZERS[name](product_scale, std)
    if seed is not None and not init.is_random:
        raise ValueError(f"--init {name} draws nothing: leave out --seed")
    return init


def _optimizer(name: str | None, parameters: Mapping[str, float | str | None]) -> Optimizer | None:
    """The optimizer; None for the default of the library."""
    given = {key: value for key, value in parameters.items() if value is not None}
    if name is None:
        if not given:
            return None
        name = "gd" if "lr" in given else "flow" if given.keys() <= {"rtol", "method", "check"} else ""
    elif name not in OPTIMIZERS:
        raise ValueError(f"--optimizer must be one of {', '.join(OPTIMIZERS)}, not {name!r}")
    for key in given:
        owners = [other for other, (_, keys) in OPTIMIZERS.items() if key in keys]
        if name not in owners:
            instead = f", not {name}" if name else ": give that too"
            raise ValueError(f"{_option(key)} belongs to --optimizer {' or '.join(owners)}{instead}")
    if name == "gd" and "lr" not in given:
        raise ValueError("--optimizer gd needs --lr")
    kind, _ = OPTIMIZERS[name]
    return _made(f"--optimizer {name}", lambda: kind(**given))


def _stop(
    loss: float,
    steps: int,
    gradient: float | None,
    seconds: float | None,
    patience: int | None,
) -> Stop:
    stop = _made("--stop-loss", LossBelow, loss) | _made("--max-steps", MaxSteps, steps)
    if gradient is not None:
        stop = stop | _made("--stop-gradient", GradientBelow, gradient)
    if seconds is not None:
        stop = stop | _made("--time-limit", TimeLimit, seconds)
    if patience is not None:
        stop = stop | _made("--stalled", Stalled, patience)
    return stop


def _record(metrics: str, every: int | None, per_decade: int | None) -> Record:
    names = [name.strip() for name in metrics.split(",")]
    return Record(every=every, per_decade=per_decade, metrics=names)


def _checkpoint(path: Path | None, every_seconds: float | None) -> Checkpoint | None:
    if path is None:
        if every_seconds is not None:
            raise ValueError("--checkpoint-every says how often --checkpoint is written: give that too")
        return None
    return _made("--checkpoint-every", Checkpoint, path, 60.0 if every_seconds is None else every_seconds)


def _check_files(data: Path | None, written: Mapping[str, Path | None]) -> None:
    """Refuse, before hours are spent, files that cannot be written or that would overwrite one another."""
    seen = {} if data is None else {data.resolve(): "--data"}
    for option, path in written.items():
        if path is None:
            continue
        if option != "--checkpoint":  # which is written only if the run is not finished, and checks itself
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
    if plot is not None:
        from fastdmf.plot import trace as draw

        draw(result).savefig(plot, dpi=200)
    if trace is not None:
        result.trace.to_netcdf(trace, engine="h5netcdf")
