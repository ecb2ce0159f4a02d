"""Text files with one entry in each line."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastdmf._checks import Array
from fastdmf.readers.entries import Entries, Shape, first_repeat


def read_movielens(path: Path, shape: Shape | None) -> Entries:
    """``user item rating timestamp`` in each line, separated by tabs, indices from 1."""
    return _Table(path, ("user", "item", "rating", "timestamp"), "\t", first_index=1).read(shape)


def read_csv(path: Path, shape: Shape | None) -> Entries:
    """``row,col,value`` in each line, perhaps after a header, indices from 0."""
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        first = file.readline().split(",")
    fields = ("row", "col", "value")
    has_header = len(first) == len(fields) and not any(map(_is_number, first))
    return _Table(path, fields, ",", first_index=0, header_lines=int(has_header)).read(shape)


@dataclass(frozen=True)
class _Table:
    """A text file with one entry in each line."""

    path: Path
    fields: tuple[str, ...]
    delimiter: str
    first_index: int
    header_lines: int = 0

    def read(self, shape: Shape | None) -> Entries:
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
        return Entries((rows, cols, values), limits)

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
        twice = first_repeat(rows, cols)
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
