"""Files of arrays with a header: NPZ without pickles, written beside and renamed."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from fastdmf._checks import Array

T = TypeVar("T")

_HEADER = "header"


def write(
    path: str | os.PathLike[str],
    kind: str,
    version: int,
    header: Mapping[str, Any],
    arrays: Mapping[str, Array],
) -> None:
    """Write a file so that at every moment ``path`` is absent, the old file, or the new one, whole."""
    text = json.dumps({"kind": kind, "format": version, **header})
    with written_beside(path) as partial, open(partial, "wb") as file:
        np.savez(file, allow_pickle=False, **{_HEADER: np.array(text)}, **arrays)


@contextmanager
def written_beside(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Another path to write to: its file takes the place of ``path`` when it is whole and on the disk."""
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):  # half a file would fill what is full already
            partial.unlink(missing_ok=True)
        raise


def read(
    path: str | os.PathLike[str],
    kind: str,
    version: int,
    unpack: Callable[[dict[str, Any], dict[str, Array]], T],
) -> T:
    """What ``unpack`` makes of header and arrays; ValueError if this is no whole ``kind`` of this version."""
    arrays = plain_arrays(path, f"a fastdmf {kind}")
    try:
        header = dict(json.loads(str(arrays.pop(_HEADER))))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{os.fspath(path)} is not a fastdmf {kind}: {error}") from None
    if header.get("kind") != kind:
        raise ValueError(f"{os.fspath(path)} is a fastdmf {header.get('kind')}, not a {kind}")
    if header.get("format") != version:
        raise ValueError(
            f"{os.fspath(path)} has format version {header.get('format')} of a {kind}; this fastdmf reads "
            f"version {version}"
        )
    try:
        return unpack(header, arrays)
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{os.fspath(path)} is not a whole fastdmf {kind}: {error!r}") from None


def plain_arrays(path: str | os.PathLike[str], kind: str) -> dict[str, Array]:
    """The arrays of an NPZ file without pickles, which should be ``kind``; ValueError if it is not one."""
    with open(path, "rb") as file:
        try:
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise ValueError("it holds a single array without a name")
            return {name: archive[name] for name in archive.files}
        except Exception as error:  # damaged archives raise nearly anything
            raise ValueError(f"{os.fspath(path)} is not {kind}: {error}") from None
