"""What all commands share: how they refuse, and when they show progress."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

EXIT_REFUSED = 2


@contextmanager
def refusals() -> Iterator[None]:
    """Turn what the library refuses into one sentence and an exit status."""
    try:
        yield
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        _refuse(place + (error.strerror or str(error)))
    except (ValueError, TypeError, MemoryError) as error:
        _refuse(str(error))


def _refuse(sentence: str) -> NoReturn:
    typer.echo(f"fastdmf: {sentence}", err=True)
    raise typer.Exit(EXIT_REFUSED)


def shows(progress: bool | None) -> bool:
    """Progress bars are shown on terminals, unless the user says otherwise."""
    return sys.stderr.isatty() if progress is None else progress
