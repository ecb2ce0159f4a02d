"""Values of slow functions, kept on disk by what the functions were called with."""

from __future__ import annotations

import functools
import hashlib
import inspect
import os
import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar

from fastdmf._describe import describe
from fastdmf._version import __version__
from fastdmf.storage import written_beside

P = ParamSpec("P")
T = TypeVar("T")


def cached(function: Callable[P, T], folder: str | os.PathLike[str]) -> Callable[P, T]:
    """The same function, which computes each value once and keeps it in a folder.

    In a sweep, many cells often need the same reference solution, and cells that run at once need it at
    once: the first computes it, the others wait for it, whichever thread or process they are on.

    Parameters
    ----------
    function : function
        Whose values depend on its arguments alone, such as ``dmf.reference.min_nuclear_norm``.
    folder : path-like
        Where the values are kept, one file each; it is made if it does not exist.

    Returns
    -------
    callable
        With the arguments of ``function``.  These may be problems, arrays, numbers, strings, descriptions
        such as ``Gaussian()``, and sequences or mappings of them: they are told apart by their contents.
        What the function raises is not kept.

    Raises
    ------
    TypeError
        If ``function`` is not a plain function; when called, for arguments of other types.
    ValueError
        If the folder cannot be made where it should be.

    Notes
    -----
    Values belong to the code of the function and to the version of fastdmf.  They are pickles, which run code
    when they are read: use a folder that only you can write to.

    Examples
    --------
    >>> import tempfile, fastdmf as dmf
    >>> minimum = dmf.cached(dmf.reference.min_nuclear_norm, tempfile.mkdtemp())
    >>> best, again = (minimum(dmf.Completion.random(rank=2, observed=4000, seed=0)) for _ in range(2))
    >>> best.rank, again.upper == best.upper
    (2, True)
    """
    if not inspect.isfunction(function):
        raise TypeError(f"function must be a plain function, not {function!r}")
    place = Path(folder).absolute()
    if place.exists() and not place.is_dir():
        raise ValueError(f"the folder of cached values is a file: {place}")
    if not place.parent.is_dir():
        raise ValueError(f"the folder of cached values would lie where no folder is: {place.parent}")
    return _Cached(function, place)


class _Cached(Generic[P, T]):
    """A function and the folder of its values; it may be sent to other processes."""

    def __init__(self, function: Callable[P, T], folder: Path) -> None:
        functools.update_wrapper(self, function)
        self.__wrapped__ = function
        self._folder = folder

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        path = self._folder / f"{self._key(*args, **kwargs)}.pickle"
        if (found := _read(path)) is not None:
            return found[0]
        from filelock import FileLock

        self._folder.mkdir(exist_ok=True)
        lock = path.with_suffix(".lock")
        with FileLock(lock):
            found = _read(path)  # somebody may just have written it
            if found is None:
                found = (self.__wrapped__(*args, **kwargs),)
                with written_beside(path) as partial:
                    partial.write_bytes(pickle.dumps(found))
            with suppress(OSError):  # some systems keep what is open
                lock.unlink()
        return found[0]

    def _key(self, *args: Any, **kwargs: Any) -> str:
        """SHA-256 of what determines the value."""
        function = self.__wrapped__
        bound = inspect.signature(function).bind(*args, **kwargs)
        bound.apply_defaults()
        what = f"{function.__module__} {describe(function, _refused)} of fastdmf {__version__}"
        return hashlib.sha256(f"{what}: {describe(bound.arguments, _refused)}".encode()).hexdigest()


def _read(path: Path) -> tuple[Any] | None:
    """The value in a file; None if there is no file, or none that this Python can read."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return pickle.loads(content)
    except Exception:  # damaged pickles raise nearly anything
        return None


def _refused(value: Any) -> str:
    raise TypeError(
        f"cached cannot tell values of {type(value).__qualname__} apart; arguments may be problems, arrays, "
        "numbers, strings, descriptions, and sequences or mappings of them"
    )
