"""Files of arrays with a header: NPZ without pickles, written beside and renamed."""

import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from fastdmf._checks import Array

_HEADER = "header"


def write(path: str | os.PathLike[str], header: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Write a file so that at every moment ``path`` is absent, the old file, or the new one, whole."""
    with written_beside(path) as partial, open(partial, "wb") as file:
        np.savez(file, allow_pickle=False, **{_HEADER: np.array(json.dumps(header))}, **arrays)


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


def read(path: str | os.PathLike[str], kind: str, version: int) -> tuple[dict[str, Any], dict[str, Array]]:
    """Read a file back; ValueError if it is not a ``kind`` of a format version known here."""
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        header = dict(json.loads(str(arrays.pop(_HEADER))))
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError, EOFError) as error:
        raise ValueError(f"{os.fspath(path)} is not a fastdmf {kind}: {error}") from None
    if header.get("kind") != kind:
        raise ValueError(f"{os.fspath(path)} is a fastdmf {header.get('kind')}, not a {kind}")
    if header.get("format") != version:
        raise ValueError(
            f"{os.fspath(path)} has format version {header.get('format')} of a {kind}; this fastdmf reads "
            f"version {version}"
        )
    return header, arrays
