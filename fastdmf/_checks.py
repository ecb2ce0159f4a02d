"""Checks of what users pass: every refusal names the offending value and says what to do."""

import math
import operator
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def real_array(name: str, value: object, ndim: int | None = None) -> Array:
    """``value`` as a finite real array, in float32 if it came in float32 and in float64 otherwise.

    A read-only array of the right type is shared, any other is copied.
    """
    array = _unmasked(name, value)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold real numbers, not {array.dtype}")
    if ndim is not None and array.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimension(s), not shape {array.shape}")
    dtype = np.float32 if array.dtype == np.float32 else np.float64
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        where = np.unravel_index(bad[0], array.shape)
        raise ValueError(
            f"{name} holds {array[where]} at {tuple(map(int, where))}; it must be finite everywhere"
        )
    return frozen(array, dtype)


def index_array(name: str, value: object, bound: int) -> Array:
    """``value`` as a vector of int32 indices in 0 … bound − 1."""
    array = _unmasked(name, value)
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(f"{name} must hold integers, not {array.dtype}")
    if array.ndim != 1:
        raise ValueError(f"{name} must be a vector, not of shape {array.shape}")
    if bound > 2**31:
        raise ValueError(f"{name} index a side of {bound}, but sides are limited to {2**31}")
    if array.size and (array.min() < 0 or array.max() >= bound):
        k = int(np.flatnonzero((array < 0) | (array >= bound))[0])
        raise ValueError(f"{name}[{k}] = {array[k]} is outside 0 … {bound - 1}; indices start at 0")
    return frozen(array, np.int32)


def _unmasked(name: str, value: object) -> Array:
    """``value`` as an array; the values under a mask are not data."""
    if np.ma.is_masked(value):
        raise ValueError(f"{name} has {np.ma.count_masked(value)} masked entries; leave them out")
    return np.asarray(value)


def frozen(array: Array, dtype: npt.DTypeLike) -> Array:
    """A read-only C-contiguous array: the same one if it is that and of that type, a copy otherwise."""
    if array.flags.writeable or not array.flags.c_contiguous or array.dtype != dtype:
        array = np.array(array, dtype=dtype, order="C")
        array.flags.writeable = False
    return array


def matrix_shape(name: str, value: object) -> tuple[int, int]:
    """``value`` as a pair (n, p) of positive integers."""
    if not isinstance(value, Sequence | np.ndarray) or len(value) != 2:
        raise TypeError(f"{name} must be a pair (n, p), not {value!r}")
    return count(f"{name}[0]", value[0]), count(f"{name}[1]", value[1])


def count(name: str, value: object, least: int = 1) -> int:
    """``value`` as an integer of at least ``least``."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be an integer, not {value!r}") from None
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    if number < least:
        raise ValueError(f"{name} must be at least {least}, not {value!r}")
    return number


def positive(name: str, value: object, *, zero: bool = False, finite: bool = True) -> float:
    """``value`` as a positive number; zero and infinity are allowed if asked for."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{name} must be a number, not {value!r}")
    number = float(value)
    if math.isnan(number) or number < 0 or (number == 0 and not zero) or (finite and math.isinf(number)):
        kind = "a non-negative" if zero else "a positive"
        raise ValueError(f"{name} must be {kind} number, not {value!r}")
    return number


def one_of(name: str, value: object, choices: Sequence[str]) -> str:
    """``value`` if it is among the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}")
    return str(value)


def generator(seed: object) -> np.random.Generator:
    """A generator from a non-negative integer, or from fresh entropy for None."""
    return np.random.default_rng(None if seed is None else count("seed", seed, least=0))


def output_file(name: str, path: str | os.PathLike[str]) -> Path:
    """``path`` as that of a file that can be written, as far as can be told before it is."""
    file = Path(path)
    if file.is_dir():
        raise ValueError(f"{name} {file} is a folder: name a file")
    if not file.parent.is_dir():
        raise ValueError(f"{name} {file} cannot be written: there is no folder {file.parent}")
    if not is_writable(file.parent):
        raise ValueError(
            f"{name} {file} cannot be written: nothing may be written to the folder {file.parent}"
        )
    return file


def is_writable(folder: Path) -> bool:
    """Whether files may be made in a folder."""
    return os.access(folder, os.W_OK)


def items(name: str, value: Any) -> tuple[Any, ...]:
    """``value`` as a tuple, if it is a sequence of anything."""
    try:
        return tuple(value)
    except TypeError:
        raise TypeError(f"{name} must be a sequence, not {value!r}") from None


def small_problems(matrices: object, values: object) -> tuple[Array, Array]:
    """The symmetric parts of matrices (B, m, n, n) and the values (B, m) of B problems, in float64."""
    a, y = real_array("matrices", matrices, ndim=4), real_array("values", values, ndim=2)
    if a.size == 0:
        raise ValueError(
            f"matrices is empty, of shape {a.shape}; one problem and measurement at least is needed"
        )
    if a.shape[2] != a.shape[3]:
        raise ValueError(f"matrices must be square, (B, m, n, n), not of shape {a.shape}")
    if y.shape != a.shape[:2]:
        raise ValueError(f"values must be of shape {a.shape[:2]}, one for each matrix, not {y.shape}")
    a = a.astype(np.float64)
    return 0.5 * (a + a.transpose(0, 1, 3, 2)), y.astype(np.float64)
