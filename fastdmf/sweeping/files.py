"""The file of a sweep: a journal while it runs, a netCDF file at the end.

While a sweep runs, each finished cell is appended to ``PATH.cells`` as one line: a checksum and JSON.  A kill
can at most tear the last line, whose cell is then computed again.  When all is done, the dataset and the same
lines, in a group of their own, are written beside ``PATH`` and renamed, and the journal is removed; at every
moment the two files together hold every finished cell.  A lock keeps two sweeps from writing to one file.
Where nothing may be written, a file that holds every cell is read, without a lock.
"""

from __future__ import annotations

import json
import os
import re
import threading
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import numpy as np

from fastdmf._checks import is_writable, output_file
from fastdmf._version import __version__
from fastdmf.storage import written_beside
from fastdmf.sweeping.grid import Cell, Grid

if TYPE_CHECKING:
    import xarray as xr

FORMAT = 1

#: The group of the netCDF file that holds the lines.
_GROUP = "journal"

#: Seconds between two moments at which what was appended is forced to the disk.  It survives the end of the
#: process in any case; this is for the end of the machine.
_SYNC_SECONDS = 5.0


class Memory:
    """Lines of finished cells, kept as long as the sweep runs."""

    #: Nothing can be kept: all cells have to be there already.
    is_read_only = False

    def __init__(self, grid: Grid, identity: Mapping[str, str]) -> None:
        self.lines: dict[Cell, str] = {}
        self.versions = {__version__}
        self._grid, self._identity = grid, dict(identity)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def append(self, cell: Cell, line: str) -> None:
        """Keep a finished cell; called from any thread."""
        self.lines[cell] = line

    def fold(self, dataset: xr.Dataset) -> None:
        """Keep the dataset of all that was finished."""


class File(Memory):
    """The same, kept in a file.

    Parameters
    ----------
    path : path-like
        The netCDF file.  Its cells, and those of its journal, are the first :attr:`lines`.
    grid : Grid
        What is to be swept.
    identity : mapping of str to str
        What determines the value of a cell.

    Raises
    ------
    ValueError
        On entry, if the file belongs to another sweep, is something else, or is being written.
    """

    def __init__(self, path: str | os.PathLike[str], grid: Grid, identity: Mapping[str, str]) -> None:
        super().__init__(grid, identity)
        self.versions = set()
        self._path = Path(path).absolute()
        self._journal = self._path.with_name(self._path.name + ".cells")
        is_there = self._path.is_file() or self._journal.is_file()
        self.is_read_only = is_there and not is_writable(self._path.parent)
        if not self.is_read_only:
            output_file("the sweep's file", path)
        self._opened: BinaryIO | None = None
        self._next_sync = 0.0
        self._appending, self._is_closed = threading.Lock(), False

    def __enter__(self) -> Self:
        from filelock import FileLock, Timeout

        if self.is_read_only:
            self._read()
            return self
        self._lock = FileLock(self._path.with_name(self._path.name + ".lock"))
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(f"another sweep is writing to {self._path}: wait for it") from None
        try:
            self._read()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.is_read_only:
            return
        try:
            with self._appending:
                self._is_closed = True
                if self._opened is not None:
                    os.fsync(self._opened.fileno())
                    self._opened.close()
        finally:
            self._release()

    def _release(self) -> None:
        with suppress(OSError):  # some systems keep what is open
            Path(self._lock.lock_file).unlink()
        self._lock.release()

    def append(self, cell: Cell, line: str) -> None:
        with self._appending:
            if self._is_closed:  # the second Ctrl-C has ended the sweep, but not the thread of this cell
                return
            super().append(cell, line)
            if self._opened is None:
                self._opened = open(self._journal, "ab")  # noqa: SIM115
                # The first newline ends what a kill has torn.
                self._opened.write(b"\n" + _checked(self._header({__version__})))
                self.versions.add(__version__)
            self._opened.write(_checked(line))
            self._opened.flush()
            if monotonic() > self._next_sync:
                os.fsync(self._opened.fileno())
                self._next_sync = monotonic() + _SYNC_SECONDS

    def fold(self, dataset: xr.Dataset) -> None:
        import xarray as xr

        is_folded = not self._journal.exists() and self._order == list(self._grid.values.items())
        if is_folded or self.is_read_only:
            return
        lines = b"".join(map(_checked, [self._header(self.versions), *self.lines.values()]))
        journal = xr.Dataset({"lines": ("byte", np.frombuffer(lines, np.uint8))})
        with written_beside(self._path) as partial:
            dataset.to_netcdf(partial, engine="h5netcdf")
            zipped = {"lines": {"zlib": True, "complevel": 1}}
            journal.to_netcdf(partial, engine="h5netcdf", mode="a", group=_GROUP, encoding=zipped)
        self._journal.unlink(missing_ok=True)

    def _header(self, versions: Iterable[str]) -> str:
        grid = [[name, list(values)] for name, values in self._grid.values.items()]
        return json.dumps(
            {
                "kind": "sweep",
                "format": FORMAT,
                "versions": sorted(versions),
                "identity": self._identity,
                "grid": grid,
            }
        )

    def _read(self) -> None:
        """Take in what earlier sweeps have finished."""
        self._order: list[tuple[str, tuple[Any, ...]]] = []
        if self._path.exists():
            self._take(self._path, self._stored_lines())
        if self._journal.exists():
            content = self._journal.read_bytes()
            if content and not re.match(rb"\n[0-9a-f]{8} \{|\n[0-9a-f]{0,8} ?$", content):
                raise ValueError(f"{self._journal} is not the journal of a fastdmf sweep: rename it")
            self._take(self._journal, content)

    def _stored_lines(self) -> bytes:
        import xarray as xr

        try:
            with xr.open_dataset(self._path, group=_GROUP, engine="h5netcdf") as journal:
                return journal.lines.values.tobytes()
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise ValueError(
                f"{self._path} is not the file of a fastdmf sweep ({error}): choose another path"
            ) from None

    def _take(self, file: Path, content: bytes) -> None:
        names, is_ours = list(self._grid.values), False
        for text in filter(None, map(_unchecked, content.split(b"\n"))):
            if text.startswith('{"kind"'):
                self._check(file, json.loads(text))
                is_ours = True
            elif is_ours:
                arguments, _ = json.JSONDecoder().raw_decode(text, text.index(":") + 2)
                self.lines[tuple(arguments[name] for name in names)] = text

    def _check(self, file: Path, header: Mapping[str, Any]) -> None:
        """Refuse the cells of another trial or another grid."""
        if header["kind"] != "sweep" or header["format"] != FORMAT:
            raise ValueError(
                f"{file} has format version {header['format']} of a {header['kind']}; this fastdmf reads "
                f"version {FORMAT} of a sweep"
            )
        remedy = "choose another path, or remove it"
        before = header["identity"]
        for name in {**before, **self._identity}:
            old, new = before.get(name, "not used"), self._identity.get(name, "not used")
            if old != new:
                raise ValueError(f"{file} was made with {name} = {old}, not {new}; {remedy}")
        grid = {name: tuple(values) for name, values in header["grid"]}
        if set(grid) != set(self._grid.values):
            raise ValueError(
                f"{file} has the dimensions {', '.join(grid)}, not {', '.join(self._grid.values)}; {remedy}"
            )
        for name, values in grid.items():
            kept = set(self._grid.values[name])
            left_out = [value for value in values if value not in kept]
            if left_out:
                raise ValueError(
                    f"{file} also holds {name} = {', '.join(map(repr, left_out))}; a grid may be extended, "
                    f"but must keep the values that it had: {remedy}"
                )
        self.versions.update(header["versions"])
        self._order = list(grid.items())


def _checked(line: str) -> bytes:
    """A line behind its checksum."""
    text = line.encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _unchecked(line: bytes) -> str | None:
    """The line behind a checksum; None if it is not whole."""
    digits, _, text = line.partition(b" ")
    return text.decode() if digits == b"%08x" % zlib.crc32(text) else None
