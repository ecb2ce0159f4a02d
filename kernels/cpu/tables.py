"""Matrices scattered in memory, addressed by one small table.

A depth-N factorization is N matrices of different shapes.  A tuple of arrays would make Numba compile
every kernel once per depth; a table of (address, rows, columns, stride), one line a matrix, serves every
depth with one compilation.  The stride is the number of elements from one row to the next: rows may be
longer in memory than the matrix is wide, and what they end in is zero.  Whoever makes a table keeps the
arrays alive.
"""

from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from fastdmf.kernels.cpu.compilation import kernel

#: Rows of sparse products are aligned to so many bytes, and filled up to multiples of them.
VECTOR_BYTES = 64


class Place(NamedTuple):
    """Where a matrix lies."""

    address: int
    rows: int
    cols: int
    stride: int


def table_of(matrices) -> np.ndarray:
    """The table of matrices whose rows are contiguous."""
    lines = [(a.ctypes.data, *a.shape, max(a.strides[0] // a.itemsize, a.shape[1])) for a in matrices]
    return np.array(lines, dtype=np.int64).reshape(-1, 4)


@intrinsic
def _pointer(typingctx, address, like):
    """The address as a pointer to elements of the type of the array ``like``."""
    pointer = types.CPointer(like.dtype)

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(pointer))

    return pointer(types.int64, like), codegen


@kernel
def place(table, j):
    """Line j of a table."""
    return Place(table[j, 0], table[j, 1], table[j, 2], table[j, 3])


@kernel
def place_of(array, rows, cols):
    """The memory of a C-contiguous array as a matrix."""
    return Place(array.ctypes.data, rows, cols, cols)


@kernel
def vector_at(address, size, like):
    """Memory as a vector with the element type of ``like``."""
    return carray(_pointer(address, like), (size,))


@kernel
def flat(table, j, like):
    """Line j of a table as a vector of all its elements, with the zeros that rows end in."""
    return vector_at(table[j, 0], table[j, 1] * table[j, 3], like)


@kernel
def copy_into(target, source):
    """``target[:] = source`` for vectors of one length, without the messages for others being compiled."""
    for i in range(target.size):
        target[i] = source[i]


@intrinsic
def _byte(typingctx, address):
    """The byte at an address."""

    def codegen(context, builder, signature, args):
        return builder.load(builder.inttoptr(args[0], ir.IntType(8).as_pointer()))

    return types.uint8(types.int64), codegen


@kernel
def is_set(flags):
    """Whether any flag is set, of one byte each, given as an array of their addresses."""
    number = 0
    for address in flags:
        number += _byte(address)
    return number != 0
