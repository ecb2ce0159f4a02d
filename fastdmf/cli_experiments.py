"""The commands that reproduce the figures of the papers."""

from pathlib import Path
from typing import Annotated

import typer

from fastdmf.console import refusals, shows

EXIT_FAILED, EXIT_INTERRUPTED = 1, 130


def reproduce(
    name: Annotated[str, typer.Argument(help="Which experiment; `fastdmf list` names all.")],
    full: Annotated[
        bool, typer.Option("--full/--quick", help="The sizes of the paper, or a grid for one minute.")
    ] = False,
    workers: Annotated[int, typer.Option(help="Cells computed at a time.")] = 1,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the files; NAME-quick or NAME-full by default.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Number of problems; by default what --quick or --full have.")
    ] = None,
    optimizer: Annotated[
        str | None,
        typer.Option(metavar="flow|paper", help="The gradient flow, or what the paper used."),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(metavar="released|paper", help="The start of the released code, or of the text."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="The file u.data of MovieLens 100K; by default the one FASTDMF_ML_100K names."),
    ] = None,
    progress: Annotated[bool | None, typer.Option(help="Show progress; by default on a terminal.")] = None,
) -> None:
    """Compute a figure of the papers, draw it, and test what the paper claims of it.

    The same command goes on from what its folder holds.

    Exit status: 0, whatever became of the claims; 1 if every cell failed; 2 if it was refused; 130 if it
    was interrupted.
    """
    from fastdmf.experiments import reproduce as carry_out

    with refusals():
        try:
            done = carry_out(
                name,
                full=full,
                workers=workers,
                out=out,
                seeds=seeds,
                optimizer=optimizer,
                init=init,
                data=data,
                progress=shows(progress),
            )
        except RuntimeError as error:
            typer.echo(f"fastdmf: {error}", err=True)
            raise typer.Exit(EXIT_FAILED) from None
        except KeyboardInterrupt as interruption:
            typer.echo(f"fastdmf: {str(interruption) or 'interrupted'}", err=True)
            raise typer.Exit(EXIT_INTERRUPTED) from None
    typer.echo(done.report)
    for path in done.files.values():
        typer.echo(str(path))


def names() -> None:
    """The experiments by name, each with its figure."""
    from fastdmf.experiments import EXPERIMENTS

    width = max(map(len, EXPERIMENTS))
    for experiment in EXPERIMENTS.values():
        figure = f"{experiment.paper.split(',')[0]} et al., {experiment.figure}"
        typer.echo(f"{experiment.name:<{width}}  {figure}: {experiment.summary}")
