"""Completion problems from files."""

import os
from pathlib import Path

import numpy as np

from fastdmf._checks import generator, matrix_shape, one_of, positive
from fastdmf.problems import Completion
from fastdmf.problems.base import LOSS_SCALES
from fastdmf.readers.entries import Shape, Triplets
from fastdmf.readers.matrix_market import read_matrix_market
from fastdmf.readers.npz import read_npz
from fastdmf.readers.tables import read_csv, read_movielens

__all__ = ["read_completion"]

_READERS = {".data": read_movielens, ".csv": read_csv, ".mtx": read_matrix_market, ".npz": read_npz}


def read_completion(
    path: str | os.PathLike[str],
    test_fraction: float = 0.0,
    seed: int | None = 0,
    loss: str = "mean",
    shape: Shape | None = None,
) -> Completion:
    """Read the observed entries of a matrix; the suffix of the file says how they are written.

    ``.data``
        MovieLens: ``user item rating timestamp`` in each line, separated by tabs, indices from 1.
    ``.csv``
        ``row,col,value`` in each line, in this order, indices from 0.  A first line of three fields
        that are no numbers is taken for a header.
    ``.mtx``
        Matrix Market: what is stored is observed, stored zeros too, so that an ``array`` file observes
        every entry.  A ``symmetric`` file observes both triangles.
    ``.npz``
        Arrays ``rows``, ``cols`` (indices from 0) and ``values``; optionally ``shape``, ``truth``, and
        ``test_rows``, ``test_cols`` and ``test_values``.

    Parameters
    ----------
    path : path-like
        The file.
    test_fraction : float
        Fraction of the entries, in [0, 1), that is not observed but kept as ``test``.
    seed : int or None
        Seed of the generator that draws them; None draws fresh entropy.
    loss : {"mean", "half_sum", "half_mean"}
        (1/m) Σ r², ½ Σ r² or (1/2m) Σ r² over the m observed entries.
    shape : (int, int), optional
        (n, p), for files that do not state it; by default the largest indices that occur.

    Returns
    -------
    Completion

    Raises
    ------
    ValueError, TypeError
        For files that are malformed, with the place and what to do about it, and for fractions that leave
        nothing to observe or to test.
    OSError
        If the file cannot be read.
    """
    path = Path(path)
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise ValueError(
            f"{path}: unknown suffix {path.suffix!r}; write the entries as one of {', '.join(_READERS)}"
        )
    one_of("loss", loss, tuple(LOSS_SCALES))
    if positive("test_fraction", test_fraction, zero=True) >= 1.0:
        raise ValueError(f"test_fraction must be below 1, not {test_fraction!r}")
    if shape is not None:
        shape = matrix_shape("shape", shape)
    rng = generator(seed)
    entries = read(path, shape)
    observed, test = entries.observed, entries.test
    if test_fraction > 0:
        if test is not None:
            raise ValueError(f"{path} holds its own test entries: leave out the test fraction")
        observed, test = _hold_out(path, observed, test_fraction, rng)
    try:
        return Completion(*observed, entries.shape, truth=entries.truth, test=test, loss=loss)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None


def _hold_out(
    path: Path, entries: Triplets, fraction: float, rng: np.random.Generator
) -> tuple[Triplets, Triplets]:
    """The entries that remain observed and those that do not, both in the order of the file."""
    size = entries[2].size
    if {part.shape for part in entries} != {(size,)}:
        shapes = ", ".join(str(part.shape) for part in entries)
        raise ValueError(
            f"{path}: rows, cols and values must be vectors of one length, not of shapes {shapes}"
        )
    held_out = round(fraction * size)
    if not 0 < held_out < size:
        raise ValueError(
            f"{path}: the test fraction {fraction} of {size} entries is {held_out}; hold out at least one "
            "and leave at least one"
        )
    drawn = rng.permutation(size)
    unseen, seen = np.sort(drawn[:held_out]), np.sort(drawn[held_out:])
    rows, cols, values = entries
    return (rows[seen], cols[seen], values[seen]), (rows[unseen], cols[unseen], values[unseen])
