"""What a file says of a completion problem, whatever its format."""

from dataclasses import dataclass

import numpy as np

from fastdmf._checks import Array

Shape = tuple[int, int]
Triplets = tuple[Array, Array, Array]


@dataclass(frozen=True)
class Entries:
    """Positions, counted from 0, and values; the shape; and what is held out or known besides."""

    observed: Triplets
    shape: Shape
    test: Triplets | None = None
    truth: Array | None = None


def first_repeat(rows: Array, cols: Array) -> int | None:
    """The first record whose position occurred before, None if there is none."""
    order = np.lexsort((cols, rows))  # stable, so that records of one position stay in order
    again = (np.diff(rows[order]) == 0) & (np.diff(cols[order]) == 0)
    return int(order[1:][again].min()) if again.any() else None
