"""Matrices scattered in memory, addressed by one small table.

A depth-N factorization is N matrices of different shapes.  A tuple of arrays would make Numba compile
every kernel once per depth; a table of (address, rows, columns), one line a matrix, serves every depth
with one compilation, and matrices that a caller already owns need not be copied.  Whoever makes a
table keeps the arrays alive.
"""

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic, overload

from fastdmf.kernels.cpu.compilation import kernel


def table_of(matrices) -> np.ndarray:
    """The table of C-contiguous matrices: an (N, 3) int64 array of addresses, rows and columns."""
    return np.array([(a.ctypes.data, *a.shape) for a in matrices], dtype=np.int64).reshape(-1, 3)


@intrinsic
def _pointer(typingctx, address, like):
    """The address as a pointer to elements of the type of the array ``like``."""
    pointer = types.CPointer(like.dtype)

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(pointer))

    return pointer(types.int64, like), codegen


@kernel
def vector_at(address, size, like):
    """Memory as a vector with the element type of ``like``."""
    return carray(_pointer(address, like), (size,))


@kernel
def matrix(table, j, like):
    """Line j of a table as a C-contiguous matrix with the element type of ``like``."""
    return carray(_pointer(table[j, 0], like), (table[j, 1], table[j, 2]))


@kernel
def reshaped(table, j, rows, columns, like):
    """The memory of line j of a table, at least rows · columns long, as a matrix of that shape."""
    return carray(_pointer(table[j, 0], like), (rows, columns))


@kernel
def flat(table, j, like):
    """Line j of a table as a vector of all its elements."""
    return vector_at(table[j, 0], table[j, 1] * table[j, 2], like)


@intrinsic
def _byte(typingctx, address):
    """The byte at an address."""

    def codegen(context, builder, signature, args):
        return builder.load(builder.inttoptr(args[0], ir.IntType(8).as_pointer()))

    return types.uint8(types.int64), codegen


def is_set(flags):
    """Whether a flag of one byte is set, or any of several, given as an array of their addresses."""


@overload(is_set)
def _is_set(flags):
    if flags.dtype == types.uint8:
        return lambda flags: flags[0] != 0

    def any_of_them(flags):
        number = 0
        for address in flags:
            number += _byte(address)
        return number != 0

    return any_of_them
