"""A demonstration: the deeper the factorization, the lower the rank that descent finds."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fastdmf import metrics, plot
from fastdmf._checks import Array
from fastdmf.initializers import Gaussian
from fastdmf.optimizers import GroupRMSprop
from fastdmf.problems import Completion
from fastdmf.recording import Record
from fastdmf.result import Result
from fastdmf.run import run
from fastdmf.stopping import LossBelow, MaxSteps, Status, Stop

DEPTHS = (2, 3, 4)


@dataclass(frozen=True, eq=False)
class Demonstration:
    """One completion problem, fitted at several depths.

    Attributes
    ----------
    problem : Completion
        The observed entries, with the planted matrix as ``truth``.
    results : dict of int to Result
        The runs by their depths.
    """

    problem: Completion
    results: dict[int, Result]

    def table(self) -> str:
        """A line for each depth, and one for the planted matrix."""
        truth = self.problem.truth
        assert truth is not None
        header = ("depth", "steps", "seconds", "loss", "error", "nuclear norm", "effective rank")
        rows = [
            (
                str(depth),
                str(result.steps),
                f"{result.seconds:.1f}",
                f"{result.loss:.2e}",
                f"{metrics.reconstruction_error(result.product, truth):.4f}",
                *_spectral_columns(result.product),
            )
            for depth, result in self.results.items()
        ]
        rows.append(("planted", "", "", "", "", *_spectral_columns(truth)))
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        return "\n".join(
            "  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True))
            for row in (header, *rows)
        )


def demo(
    out: str | os.PathLike[str],
    seed: int = 0,
    depths: Sequence[int] = DEPTHS,
    *,
    problem: Completion | None = None,
    stop: Stop | None = None,
    progress: bool = False,
) -> Demonstration:
    """Complete a planted matrix by products of several depths, and draw what came of it.

    Each depth starts from ``Gaussian(product_scale=1e-3)`` and moves by ``GroupRMSprop()``, in float32,
    which these losses allow.

    Parameters
    ----------
    out : path-like
        Where the figure is written; the suffix says in which format.
    seed : int
        Seed of the problem and of the starts.
    depths : sequence of int
        The numbers of factors.
    problem : Completion, optional
        A problem with a truth; by default 2000 entries of a 100 × 100 matrix of rank 5 (Arora et al.
        2019, section 4).
    stop : Stop, optional
        When a run ends; by default ``LossBelow(1e-6) | MaxSteps(200_000)``.
    progress : bool
        Show steps and loss while the runs go on.

    Returns
    -------
    Demonstration

    Raises
    ------
    ValueError, TypeError
        For depths that are no positive integers or occur twice, for a problem without a truth, and for a
        path that no figure can be written to.
    KeyboardInterrupt
        If a run was interrupted.
    """
    if not depths or len(set(depths)) < len(depths):
        raise ValueError(f"depths must name each depth once, not {list(depths)}")
    problem = Completion.random(seed=seed) if problem is None else problem
    if problem.truth is None:
        raise ValueError(f"the demonstration needs a problem with a truth, not {problem}")
    plot.check_path(out)
    results = {}
    for depth in depths:
        with _progress_bar(f"depth {depth}", progress) as show:
            result = run(
                problem,
                depth=depth,
                init=Gaussian(product_scale=1e-3),
                optimizer=GroupRMSprop(),
                stop=stop or LossBelow(1e-6) | MaxSteps(200_000),
                record=Record(every=200, metrics=["loss", "reconstruction_error"]),
                seed=seed,
                dtype="float32",
                callback=lambda state, show=show: show(state.step, state.loss),
            )
            show(result.steps, result.loss)
        if result.status is Status.INTERRUPTED:
            raise KeyboardInterrupt
        results[depth] = result
    figure = plot.comparison({f"depth {depth}": r for depth, r in results.items()}, problem.truth)
    figure.savefig(Path(out), dpi=200)
    return Demonstration(problem, results)


def _spectral_columns(matrix: Array) -> tuple[str, str]:
    return f"{metrics.nuclear_norm(matrix):.2f}", f"{metrics.effective_rank(matrix):.2f}"


@contextmanager
def _progress_bar(label: str, wanted: bool) -> Iterator[Callable[[int, float], None]]:
    """A function that shows step and loss of a run."""
    if not wanted:
        yield lambda step, loss: None
        return
    from tqdm import tqdm

    # The first run on a machine compiles before it moves.
    with tqdm(desc=f"{label}, compiling", unit=" steps", unit_scale=True) as bar:

        def show(step: int, loss: float) -> None:
            if step > 0:
                bar.set_description_str(label, refresh=False)
            bar.set_postfix(loss=f"{loss:.1e}", refresh=False)
            bar.update(step - bar.n)

        yield show
