"""Completion problems from files."""

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastdmf._checks import Array, generator, matrix_shape, one_of, positive
from fastdmf.problems import Completion
from fastdmf.problems.base import LOSS_SCALES
from fastdmf.storage import plain_arrays

Shape = tuple[int, int]
PathLike = str | os.PathLike[str]


def read_completion(
    path: PathLike,
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
    readers = {".data": _read_movielens, ".csv": _read_csv, ".mtx": _read_matrix_market, ".npz": _read_npz}
    read = readers.get(path.suffix.lower())
    if read is None:
        raise ValueError(
            f"{path}: unknown suffix {path.suffix!r}; write the entries as one of {', '.join(readers)}"
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


Triplets = tuple[Array, Array, Array]


@dataclass(frozen=True)
class _Entries:
    """What a file says."""

    observed: Triplets
    shape: Shape
    test: Triplets | None = None
    truth: Array | None = None


def _hold_out(
    path: Path, entries: Triplets, fraction: float, rng: np.random.Generator
) -> tuple[Triplets, Triplets]:
    """The entries that remain observed and those that do not, both in the order of the file."""
    size = entries[2].size
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


@dataclass(frozen=True)
class _Table:
    """A text file with one entry in each line."""

    path: Path
    fields: tuple[str, ...]
    delimiter: str
    first_index: int
    header_lines: int = 0

    def read(self, shape: Shape | None) -> _Entries:
        """The entries, with indices from 0."""
        types = [np.int64, np.int64, np.float64, np.float64][: len(self.fields)]
        dtype = np.dtype(list(zip(self.fields, types, strict=True)))
        try:
            with open(self.path, encoding="utf-8-sig") as file, warnings.catch_warnings():
                warnings.simplefilter("error")  # NumPy warns of an empty file
                table = np.loadtxt(
                    file,
                    dtype,
                    comments=None,
                    delimiter=self.delimiter,
                    skiprows=self.header_lines,
                    ndmin=1,
                )
        except (ValueError, UserWarning) as error:
            raise self._refusal(error) from None
        rows, cols = (table[name] - self.first_index for name in self.fields[:2])
        values = table[self.fields[2]]
        limits = shape or (int(rows.max(initial=0)) + 1, int(cols.max(initial=0)) + 1)
        self._check(rows, cols, values, limits)
        return _Entries((rows, cols, values), limits)

    def _refusal(self, error: Exception) -> ValueError:
        """Why NumPy could not read the file, with the line."""
        expected = f"expected {len(self.fields)} fields, {' '.join(self.fields)}"
        separator = {"\t": "tabs", ",": "commas"}[self.delimiter]
        is_empty = True
        for number, line in self._lines():
            is_empty = False
            if not _is_record(line.split(self.delimiter), len(self.fields)):
                return ValueError(
                    f"{self.path}, line {number}: {expected}, separated by {separator}, found {line!r}; "
                    "correct or remove the line"
                )
        if is_empty:
            return ValueError(f"{self.path} holds no entries: {expected} in each line")
        return ValueError(f"{self.path}: {error}; {expected}, separated by {separator}")

    def _check(self, rows: Array, cols: Array, values: Array, shape: Shape) -> None:
        for name, index, bound in zip(self.fields[:2], (rows, cols), shape, strict=True):
            bad = np.flatnonzero((index < 0) | (index >= bound))
            if bad.size:
                first, last = self.first_index, bound - 1 + self.first_index
                raise ValueError(
                    f"{self._place(bad[0])}: the {name} {index[bad[0]] + first} is outside {first} … {last}; "
                    f"indices in {self.path.suffix} files start at {first}"
                )
        bad = np.flatnonzero(~np.isfinite(values))
        if bad.size:
            raise ValueError(
                f"{self._place(bad[0])}: the value {values[bad[0]]} is not finite; leave out entries "
                "that are not observed"
            )
        twice = _first_repeat(rows, cols)
        if twice is not None:
            i, j = rows[twice] + self.first_index, cols[twice] + self.first_index
            raise ValueError(
                f"{self._place(twice)}: the entry ({i}, {j}) occurs a second time; merge repeated entries "
                "first"
            )

    def _place(self, record: int) -> str:
        """File and line of a record, counted from 0."""
        for k, (number, _) in enumerate(self._lines()):
            if k == record:
                return f"{self.path}, line {number}"
        return str(self.path)

    def _lines(self) -> Iterator[tuple[int, str]]:
        """Number and text of each line that is not blank, after the header."""
        with open(self.path, encoding="utf-8-sig", errors="replace") as file:
            for number, line in enumerate(file, start=1):
                if number > self.header_lines and line.strip():
                    yield number, line.rstrip("\n")


def _is_record(fields: list[str], size: int) -> bool:
    """Whether the fields are two integers and then numbers, as many as there should be."""
    try:
        for text in fields[:2]:
            int(text)
    except ValueError:
        return False
    return len(fields) == size and all(map(_is_number, fields))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _first_repeat(rows: Array, cols: Array) -> int | None:
    """The first record whose position occurred before, None if there is none."""
    order = np.lexsort((cols, rows))  # stable, so that records of one position stay in order
    again = (np.diff(rows[order]) == 0) & (np.diff(cols[order]) == 0)
    return int(order[1:][again].min()) if again.any() else None


def _read_movielens(path: Path, shape: Shape | None) -> _Entries:
    return _Table(path, ("user", "item", "rating", "timestamp"), "\t", first_index=1).read(shape)


def _read_csv(path: Path, shape: Shape | None) -> _Entries:
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        first = file.readline().split(",")
    fields = ("row", "col", "value")
    has_header = len(first) == len(fields) and not any(map(_is_number, first))
    return _Table(path, fields, ",", first_index=0, header_lines=int(has_header)).read(shape)


def _read_matrix_market(path: Path, shape: Shape | None) -> _Entries:
    import scipy.io
    import scipy.sparse

    with open(path, "rb"):
        pass  # SciPy says of a missing file that it is malformed
    try:
        n, p, _, _, field, _ = scipy.io.mminfo(path)
        matrix = scipy.io.mmread(path)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path} is not a complete Matrix Market file: {error}") from None
    if field in ("pattern", "complex"):
        raise ValueError(f"{path} is a {field} file; observed entries need real values: write it as real")
    if isinstance(matrix, np.ndarray):
        rows, cols = (index.ravel() for index in np.indices((n, p)))
        values = matrix.ravel()
    else:
        stored = scipy.sparse.coo_array(matrix)
        (rows, cols), values = stored.coords, stored.data
    if shape not in (None, (n, p)):
        raise ValueError(f"{path} says that its shape is {(n, p)}, not {shape}: leave out the shape")
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        k = bad[0]
        raise ValueError(
            f"{path}: the value at ({rows[k] + 1}, {cols[k] + 1}) is {values[k]}; leave out entries that are "
            "not observed"
        )
    twice = _first_repeat(rows, cols)
    if twice is not None:
        raise ValueError(
            f"{path}: the entry ({rows[twice] + 1}, {cols[twice] + 1}) occurs a second time; merge repeated "
            "entries first"
        )
    return _Entries((rows, cols, values), (n, p))


_NPZ_REQUIRED = ("rows", "cols", "values")
_NPZ_TEST = ("test_rows", "test_cols", "test_values")


def _read_npz(path: Path, shape: Shape | None) -> _Entries:
    arrays = plain_arrays(path, "an NPZ file of plain arrays, as numpy.savez writes it")
    known = (*_NPZ_REQUIRED, "shape", "truth", *_NPZ_TEST)
    missing = [name for name in _NPZ_REQUIRED if name not in arrays]
    unknown = [name for name in arrays if name not in known]
    if missing or unknown:
        fault = f"lacks {', '.join(missing)}" if missing else f"holds the unknown {', '.join(unknown)}"
        raise ValueError(f"{path} {fault}; the arrays of a completion problem are {', '.join(known)}")
    given = [name for name in _NPZ_TEST if name in arrays]
    if given and len(given) < len(_NPZ_TEST):
        raise ValueError(f"{path} holds {', '.join(given)} only; test entries need {', '.join(_NPZ_TEST)}")
    test = (arrays["test_rows"], arrays["test_cols"], arrays["test_values"]) if given else None
    truth = arrays.get("truth")
    own = _npz_shape(path, arrays)
    if own is not None and shape not in (None, own):
        raise ValueError(f"{path} says that its shape is {own}, not {shape}: leave out the shape")
    observed = (arrays["rows"], arrays["cols"], arrays["values"])
    shape = own or shape or (_extent(arrays, "rows"), _extent(arrays, "cols"))
    return _Entries(observed, shape, test, truth)


def _npz_shape(path: Path, arrays: dict[str, Array]) -> Shape | None:
    """The shape that the file states, or that its truth has."""
    stated = arrays.get("shape")
    if stated is None:
        truth = arrays.get("truth")
        return (truth.shape[0], truth.shape[1]) if truth is not None and truth.ndim == 2 else None
    if stated.shape != (2,) or stated.dtype.kind not in "iu" or stated.min() < 1:
        raise ValueError(f"{path}: shape must hold two positive integers, not {stated.tolist()!r}")
    return int(stated[0]), int(stated[1])


def _extent(arrays: dict[str, Array], name: str) -> int:
    """One more than the largest index, observed or held out; 1 if there is none to be found."""
    parts = [arrays[key] for key in (name, f"test_{name}") if key in arrays]
    return max((int(x.max()) + 1 for x in parts if x.size and x.dtype.kind in "iu"), default=1)
