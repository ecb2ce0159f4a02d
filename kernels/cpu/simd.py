"""Sums over rows of matrices with explicit vectors: the private corner of LLVM IR.

LLVM's vectorizer leaves two thirds of the speed on the table in the sparse products: rows are short, and
it cannot keep one in registers while many others stream past.  Here one compiled function has a loop for
each number of vectors in a row up to :data:`MOST`.  The order of all sums is fixed, so that results do not
depend on where a function is inlined.  :mod:`plain` has the same functions as ordinary loops.
"""

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastdmf.kernels.cpu.tables import VECTOR_BYTES
from fastdmf.kernels.cpu.vectors import Indices, Matrix, Rows, loop

#: Vectors of the longest row that is handled at once: with its sum it fills 28 of 32 registers.
MOST = 14
#: Vectors of the longest row that is handled at once together with its move, and of the longest with a tail.
MOST_MOVED = MOST_TAILED = MOST // 2
#: Inner products that share the additions across the lanes of a vector.
AT_ONCE = 4

_I64 = ir.IntType(64)


def _for_each_count(
    builder: ir.IRBuilder, dtype: types.Float, count: Any, tails: Any, most: int, emit: Callable
) -> None:
    """Emit code for every number of vectors up to ``most``, with a tail or not; branch to the right one."""
    after = builder.function.append_basic_block("after")
    has_tails = builder.icmp_unsigned("!=", tails, ir.Constant(_I64, 0))
    switch = builder.switch(builder.select(has_tails, builder.neg(count), count), after)
    for number in (*range(1, most + 1), *range(-MOST_TAILED, 0)):
        block = builder.function.append_basic_block(f"vectors{number}")
        switch.add_case(ir.Constant(_I64, number), block)
        builder.position_at_end(block)
        emit(Rows(builder, dtype, abs(number), tailed=number < 0))
        builder.branch(after)
    builder.position_at_end(after)


def _by_fours(
    builder: ir.IRBuilder, first: Any, last: Any, carried: Sequence[Any], body: Callable
) -> list[Any]:
    """``carried = body(e, number, carried)`` for ``number`` entries from e on: :data:`AT_ONCE`, then 1."""
    four = ir.Constant(_I64, AT_ONCE)
    fours = builder.sdiv(builder.sub(last, first), four)
    rest = builder.add(first, builder.mul(fours, four))

    def together(k, values):
        return body(builder.add(first, builder.mul(k, four)), AT_ONCE, values)

    carried = loop(builder, ir.Constant(_I64, 0), fours, carried, together)
    return loop(builder, rest, last, carried, lambda e, values: body(e, 1, values))


def _for_each_row(
    builder: ir.IRBuilder, starts: "Indices", first: Any, last: Any, rows: Rows, body: Callable
) -> None:
    """``body(i, begin, end)`` for the rows first ≤ i < last and the entries begin ≤ e < end of each."""

    def row(i, carried):
        begin, end = rows.indices_at(starts, i, 1) + rows.indices_at(
            starts, builder.add(i, ir.Constant(_I64, 1)), 1
        )
        body(i, begin, end)
        return []

    loop(builder, first, last, [], row)


@intrinsic
def dot_rows(typingctx, like, count, left, dense, starts, indices, first, last, accumulate, w):
    """w_e (+)= ⟨left_i, dense[indices_e]⟩ for first ≤ i < last and starts_i ≤ e < starts_{i+1}.

    Of rows, the first ``count`` vectors are taken.  Matrices are given as places, ``w`` as an address.
    """
    dtype = like.dtype

    def codegen(context, builder, signature, args):
        _, count, left, dense, starts, indices, first, last, accumulate, w = args
        left, dense = (Matrix.of(builder, place, dtype) for place in (left, dense))
        starts = Indices(context, builder, signature.args[4], starts)
        indices = Indices(context, builder, signature.args[5], indices)

        def emit(rows):
            def row(i, begin, end):
                x = rows.load(*left.row(i))

                def dots(e, number, carried):
                    """The inner products number e, e + 1, …, written as one vector."""
                    products = [
                        rows.products(x, rows.load(*dense.row(index)))
                        for index in rows.indices_at(indices, e, number)
                    ]
                    rows.put(rows.totals(products), w, e, accumulate)
                    return []

                _by_fours(builder, begin, end, [], dots)

            _for_each_row(builder, starts, first, last, rows, row)

        _for_each_count(builder, dtype, count, dense.tails, MOST, emit)
        return context.get_dummy_value()

    number = types.int64
    return types.void(
        like, number, left, dense, starts, indices, number, number, types.boolean, number
    ), codegen


@intrinsic
def dot_moved_rows(
    typingctx, like, count, left, left_move, dense, dense_move, starts, indices, first, last, accumulate,
    linear, quadratic,
):  # fmt: skip
    """The coefficients of ξ and ξ² of ⟨left_i + ξ left_move_i, dense_j + ξ dense_move_j⟩, j = indices_e.

    Written to ``linear`` and ``quadratic``, in one pass: a row of ``dense_move`` is loaded once for both.
    Otherwise as :func:`dot_rows`.
    """
    dtype = like.dtype

    def codegen(context, builder, signature, args):
        _, count, *places, starts, indices, first, last, accumulate, linear, quadratic = args
        left, left_move, dense, dense_move = (Matrix.of(builder, place, dtype) for place in places)
        starts = Indices(context, builder, signature.args[6], starts)
        indices = Indices(context, builder, signature.args[7], indices)

        def emit(rows):
            def row(i, begin, end):
                x, x_move = rows.load(*left.row(i)), rows.load(*left_move.row(i))

                def dots(e, number, carried):
                    once, twice = [], []
                    for index in rows.indices_at(indices, e, number):
                        y, y_move = rows.load(*dense.row(index)), rows.load(*dense_move.row(index))
                        once.append(rows.products([*x, *x_move], [*y_move, *y]))
                        twice.append(rows.products(x_move, y_move))
                    totals = rows.totals(once + twice)
                    rows.put(rows.lanes_of(totals, range(number)), linear, e, accumulate)
                    rows.put(rows.lanes_of(totals, range(number, 2 * number)), quadratic, e, accumulate)
                    return []

                _by_fours(builder, begin, end, [], dots)

            _for_each_row(builder, starts, first, last, rows, row)

        _for_each_count(builder, dtype, count, dense.tails, MOST_MOVED, emit)
        return context.get_dummy_value()

    number = types.int64
    places = [left, left_move, dense, dense_move]
    arguments = [number, *places, starts, indices, number, number, types.boolean, number, number]
    return types.void(like, *arguments), codegen


@intrinsic
def transpose_rows(typingctx, like, source, source_stride, rows, blocks, out, out_stride):
    """Out = the transpose of rows that are ``blocks`` vectors long; all but numbers are addresses.

    Blocks of as many rows as a vector has lanes are turned at once.  Where rows run out the last one is
    repeated, which fills the ends of the rows of ``out`` with numbers of no meaning.
    """
    dtype = like.dtype

    def codegen(context, builder, signature, args):
        _, source, source_stride, rows, blocks, out, out_stride = args
        unit = Rows(builder, dtype, 1)
        lanes, wide = ir.Constant(_I64, unit.lanes), ir.Constant(_I64, VECTOR_BYTES)
        last = builder.sub(rows, ir.Constant(_I64, 1))
        bands = builder.sdiv(builder.add(last, lanes), lanes)

        def band(i, carried):
            def block(j, carried):
                vectors = []
                for k in range(unit.lanes):
                    row = builder.add(builder.mul(i, lanes), ir.Constant(_I64, k))
                    row = builder.select(builder.icmp_signed("<", row, last), row, last)
                    address = builder.add(source, builder.mul(row, source_stride))
                    vectors += unit.load(builder.add(address, builder.mul(j, wide)))
                for k, vector in enumerate(unit.transposed(vectors)):
                    row = builder.add(builder.mul(j, lanes), ir.Constant(_I64, k))
                    address = builder.add(out, builder.mul(row, out_stride))
                    unit.store([vector], builder.add(address, builder.mul(i, wide)))
                return []

            return loop(builder, ir.Constant(_I64, 0), blocks, [], block)

        loop(builder, ir.Constant(_I64, 0), bands, [], band)
        return context.get_dummy_value()

    return types.void(like, *[types.int64] * 6), codegen


@intrinsic
def sum_rows(typingctx, like, count, weights, order, dense, starts, indices, first, last, scale, base, out):
    """out_i = base_i + scale Σ_e weights[order_e] dense[indices_e] over starts_i ≤ e < starts_{i+1}.

    That for first ≤ i < last.  ``order``, a vector like ``indices``, may be None, which means e itself; the
    base at address 0 is zero.  In place, rows without entries are passed over.  ``weights`` is an address.
    """
    dtype = like.dtype
    is_in_order = isinstance(order, types.NoneType)

    def codegen(context, builder, signature, args):
        _, count, weights, order, dense, starts, indices, first, last, scale, base, out = args
        dense, base, out = (Matrix.of(builder, place, dtype) for place in (dense, base, out))
        starts = Indices(context, builder, signature.args[5], starts)
        indices = Indices(context, builder, signature.args[6], indices)
        if not is_in_order:
            order = Indices(context, builder, signature.args[3], order)
        has_base = builder.icmp_unsigned("!=", base.address, ir.Constant(_I64, 0))
        is_in_place = builder.icmp_unsigned("==", base.address, out.address)

        def emit(rows):
            scales = rows.splat(scale)

            def add(e, number, sums):
                numbers = [builder.add(e, ir.Constant(_I64, k)) for k in range(number)]
                places = numbers if is_in_order else rows.indices_at(order, e, number)
                for index, place in zip(rows.indices_at(indices, e, number), places, strict=True):
                    weight = rows.splat(rows.scalar_at(weights, place))
                    sums = rows.times_plus(weight, rows.load(*dense.row(index)), sums)
                return sums

            def row(i, begin, end):
                is_empty = builder.icmp_signed("==", begin, end)
                with builder.if_then(builder.not_(builder.and_(is_in_place, is_empty))):
                    sums = _by_fours(builder, begin, end, rows.zeros, add)
                    there = zip(base.row(i), out.row(i), strict=True)
                    start = rows.load(*(builder.select(has_base, x, y) for x, y in there))
                    start = [builder.select(has_base, v, o) for v, o in zip(start, rows.zeros, strict=True)]
                    rows.store(rows.times_plus(scales, sums, start), *out.row(i))

            _for_each_row(builder, starts, first, last, rows, row)

        _for_each_count(builder, dtype, count, dense.tails, MOST, emit)
        return context.get_dummy_value()

    number = types.int64
    vectors = [number, number, order, dense, starts, indices]
    return types.void(like, *vectors, number, number, dtype, base, out), codegen
