"""Matrices scattered in memory, addressed by one small table.

A depth-N factorization is N matrices of different shapes.  A tuple of arrays would make Numba compile
every kernel once per depth; a table of places, one line a matrix, serves every depth with one compilation.
The stride is the number of elements from one row to the next: rows may be longer in memory than the matrix
is wide, and what they end in is zero.  What whole vectors leave over of them may lie apart, in tails right
behind the rows.  Whoever makes a table keeps the memory alive.
"""

from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastdmf.kernels.cpu.compilation import inlined, kernel

#: Rows of sparse products are aligned to so many bytes, and filled up to multiples of them.
VECTOR_BYTES = 64
#: A tail takes so many.
TAIL_BYTES = 16


class Place(NamedTuple):
    """Where a matrix lies, and where its ``tails`` do, 0 if it has none."""

    address: int
    rows: int
    cols: int
    stride: int
    tails: int


_WORDS = len(Place._fields)


class Table(NamedTuple):
    """Where the ``count`` lines of a table lie."""

    address: int
    count: int


class Flags(NamedTuple):
    """Where the addresses of ``count`` flags lie, of one byte each."""

    address: int
    count: int


@intrinsic
def _word(typingctx, address, k):
    """The integer number k from an address on."""

    def codegen(context, builder, signature, args):
        words = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.load(builder.gep(words, [args[1]]))

    return types.int64(types.int64, types.int64), codegen


@kernel
def place(table, j):
    """Line j of a table."""
    line = table.address + 8 * _WORDS * j
    return Place(_word(line, 0), _word(line, 1), _word(line, 2), _word(line, 3), _word(line, 4))


@kernel
def table_in(tables, k):
    """Table k of a stack of them, (K, N, 5)."""
    lines = tables.shape[1]
    return Table(np.int64(tables.ctypes.data) + 8 * _WORDS * lines * k, lines)


@kernel
def place_of(array, rows, cols):
    """The memory of a C-contiguous array as a matrix."""
    return Place(array.ctypes.data, rows, cols, cols, 0)


@intrinsic
def vector_at(typingctx, address, size, like):
    """Memory as a vector with the element type of ``like``."""
    kind = types.Array(like.dtype, 1, "C")

    def codegen(context, builder, signature, args):
        address, size, _ = args
        vector = context.make_array(kind)(context, builder)
        vector.data = builder.inttoptr(address, vector.data.type)
        vector.nitems, vector.shape = size, cgutils.pack_array(builder, [size])
        vector.itemsize = context.get_constant(types.intp, kind.dtype.bitwidth // 8)
        vector.strides = cgutils.pack_array(builder, [vector.itemsize])
        return vector._getvalue()

    return kind(types.int64, types.int64, like), codegen


@inlined
def flat(table, j, like):
    """Line j of a table as a vector of all its elements, with the zeros that rows end in, and its tails."""
    matrix = place(table, j)
    length = matrix.stride + (TAIL_BYTES // like.itemsize if matrix.tails != 0 else 0)
    return vector_at(matrix.address, matrix.rows * length, like)


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
def flags_at(addresses):
    """The flags whose addresses an array holds."""
    return Flags(np.int64(addresses.ctypes.data), addresses.size)


@kernel
def is_set(flags):
    """Whether any flag is set."""
    number = 0
    for k in range(flags.count):
        number += _byte(_word(flags.address, k))
    return number != 0
