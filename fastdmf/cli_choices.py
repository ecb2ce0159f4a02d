"""From the options of ``fastdmf run`` to the choices of a run; refusals name the option."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from fastdmf.checkpoint import Checkpoint
from fastdmf.factorizations import Factorization, Product, Symmetric
from fastdmf.initializers import Balanced, Gaussian, Identity, Orthogonal, Scaled, Uniform
from fastdmf.optimizers import ExactLineSearch, GradientDescent, GradientFlow, GroupRMSprop, Optimizer
from fastdmf.problems import Completion
from fastdmf.recording import Record
from fastdmf.stopping import GradientBelow, LossBelow, MaxSteps, Stalled, Stop, TimeLimit

T = TypeVar("T")

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


def problem_of(
    data: Path | None, shape: str | None, test_fraction: float, split_seed: int | None, loss: str
) -> Completion:
    """The entries to complete."""
    if split_seed is not None and not test_fraction:
        raise ValueError("--split-seed draws what --test-fraction holds out: give that too")
    if data is None:
        if shape is not None or test_fraction:
            raise ValueError("--shape and --test-fraction belong to a file: give --data")
        return Completion.random(loss=loss)
    from fastdmf.readers import read_completion

    sides = None if shape is None else numbers("--shape", shape)
    if sides is not None and len(sides) != 2:
        raise ValueError(f"--shape must be two integers, N,P, not {shape!r}")
    return read_completion(data, test_fraction, split_seed or 0, loss, sides)


def factorization_of(
    depth: int | None, widths: str | None, symmetric: bool, width: int | None
) -> Factorization:
    """How the matrix is parameterized."""
    if symmetric:
        if depth is not None or widths is not None:
            raise ValueError("--symmetric has a single factor U: leave out --depth and --widths")
        return _made("--width", Symmetric, width)
    if width is not None:
        raise ValueError("--width is the width of U: give --symmetric, or --widths for a product")
    if widths is None:
        return _made("--depth", Product, 2 if depth is None else depth)
    hidden = numbers("--widths", widths)
    return _made("--widths", Product, len(hidden) + 1 if depth is None else depth, hidden)


def initializer_of(name: str, product_scale: float | None, std: float | None, seed: int | None) -> Scaled:
    """Where the run starts."""
    if name not in INITIALIZERS:
        raise ValueError(f"--init must be one of {', '.join(INITIALIZERS)}, not {name!r}")
    init = INITIALIZERS[name](product_scale, std)
    if seed is not None and not init.is_random:
        raise ValueError(f"--init {name} draws nothing: leave out --seed")
    return init


def optimizer_of(name: str | None, parameters: Mapping[str, float | str | None]) -> Optimizer | None:
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


def stop_of(
    loss: float,
    steps: int,
    gradient: float | None,
    seconds: float | None,
    patience: int | None,
) -> Stop:
    """When the run ends."""
    stop = _made("--stop-loss", LossBelow, loss) | _made("--max-steps", MaxSteps, steps)
    if gradient is not None:
        stop = stop | _made("--stop-gradient", GradientBelow, gradient)
    if seconds is not None:
        stop = stop | _made("--time-limit", TimeLimit, seconds)
    if patience is not None:
        stop = stop | _made("--stalled", Stalled, patience)
    return stop


def record_of(metrics: str, every: int | None, per_decade: int | None) -> Record:
    """What is kept of the run."""
    names = [name.strip() for name in metrics.split(",")]
    return Record(every=every, per_decade=per_decade, metrics=names)


def checkpoint_of(path: Path | None, every_seconds: float | None) -> Checkpoint | None:
    """Where and how often the run is saved; None if it is not."""
    if path is None:
        if every_seconds is not None:
            raise ValueError("--checkpoint-every says how often --checkpoint is written: give that too")
        return None
    return _made("--checkpoint-every", Checkpoint, path, 60.0 if every_seconds is None else every_seconds)


def _made(option: str, make: Callable[..., T], *args: Any) -> T:
    """``make(*args)``, whose refusal names the option."""
    try:
        return make(*args)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{option}: {error}") from None


def numbers(option: str, text: str) -> tuple[int, ...]:
    """Integers separated by commas."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{option} must be integers separated by commas, not {text!r}") from None


def _option(name: str) -> str:
    """The option that sets a parameter."""
    return "--" + name.replace("_", "-")
