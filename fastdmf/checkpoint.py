"""Saving a run on the way, and taking it up again."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from fastdmf import storage
from fastdmf._checks import Array, output_file, positive
from fastdmf.result import Result

FORMAT = 2


@dataclass(frozen=True)
class Checkpoint:
    """Where and how often a run is saved.

    Parameters
    ----------
    path : path-like
        The file, written beside and renamed.  If it exists, the run continues from it; it must come
        from the same problem and the same settings.
    every_seconds : float
        Seconds between two saves; a run is also saved when it ends or is interrupted.  A save that fails, as
        on a full disk, is a warning: the run goes on and tries again.
    """

    path: str | os.PathLike[str]
    every_seconds: float = 60.0

    def __post_init__(self) -> None:
        positive("every_seconds", self.every_seconds)
        if not isinstance(self.path, str | os.PathLike):
            raise TypeError(f"checkpoint must be a path or a Checkpoint, not {self.path!r}")
        if not Path(self.path).is_file():  # that of a finished run may lie where nothing can be written
            output_file("the checkpoint", self.path)


@dataclass(frozen=True)
class Saved:
    """A run as it was saved: the result so far, and what its continuation depends on."""

    result: Result
    finished: bool
    plain: Mapping[str, Any]
    memory: Mapping[str, Array]

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the file."""
        header, arrays = self.result.pack()
        header |= {"finished": self.finished, "plain": dict(self.plain)}
        arrays |= {f"memory_{name}": x for name, x in self.memory.items()}
        storage.write(path, "checkpoint", FORMAT, header, arrays)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self | None:
        """Read the file; None if there is none, ValueError if it is no checkpoint."""
        return storage.read(path, "checkpoint", FORMAT, cls._unpack) if Path(path).exists() else None

    @classmethod
    def _unpack(cls, header: Mapping[str, Any], arrays: Mapping[str, Array]) -> Self:
        memory = {name.removeprefix("memory_"): x for name, x in arrays.items() if name.startswith("memory_")}
        return cls(Result.unpack(header, arrays), header["finished"], header["plain"], memory)

    def check_belongs(
        self, path: str | os.PathLike[str], settings: Mapping[str, str], seed: int | None
    ) -> None:
        """Refuse to continue a run of another problem, other settings or another seed."""
        for name, value in settings.items():
            before = self.result.settings.get(name)
            if before != value:
                raise ValueError(
                    f"the checkpoint {os.fspath(path)} was made with {name} = {before}, not {value}; remove "
                    "it or choose another path"
                )
        if seed is not None and seed != self.result.seed:
            raise ValueError(
                f"the checkpoint {os.fspath(path)} was made with seed {self.result.seed}, not {seed}; remove "
                "it or choose another path"
            )
