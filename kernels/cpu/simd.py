"""Rows of a matrix as vectors in registers: the private corner of LLVM IR.

LLVM's vectorizer leaves two thirds of the speed on the table in the sparse products: rows are short, and
it cannot keep one in registers while many others stream past.  Here a row is a number of 64-byte vectors,
and one compiled function has a loop for each number up to :data:`MOST`.  Rows are aligned, and filled up
with zeros.  The IR is portable: where the processor's vectors are shorter, LLVM splits these.

The order of all sums is fixed, so that results do not depend on where a function is inlined.
:mod:`plain` has the same functions as ordinary loops.
"""

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastdmf.kernels.cpu.tables import VECTOR_BYTES

#: Vectors of the longest row that is handled at once: with its sum it fills 28 of 32 registers.
MOST = 14
#: Inner products that share the additions across the lanes of a vector.
AT_ONCE = 4
#: Vectors of the longest row that is handled at once together with its move.
MOST_MOVED = MOST // 2

_I64, _I32 = ir.IntType(64), ir.IntType(32)


class Rows:
    """Emits code for aligned rows of ``count`` vectors of one element type."""

    def __init__(self, builder: ir.IRBuilder, dtype: types.Float, count: int) -> None:
        self.b = builder
        self.scalar = ir.FloatType() if dtype == types.float32 else ir.DoubleType()
        self.size = dtype.bitwidth // 8
        self.lanes = VECTOR_BYTES // self.size
        self.vector = ir.VectorType(self.scalar, self.lanes)
        self.name = f"v{self.lanes}f{dtype.bitwidth}"
        self.count = count
        self.zero = ir.Constant(self.vector, [0.0] * self.lanes)

    def _at(self, base: Any, k: int) -> Any:
        address = self.b.add(base, ir.Constant(_I64, VECTOR_BYTES * k))
        return self.b.inttoptr(address, self.vector.as_pointer())

    def _call(self, name: str, result: Any, args: Sequence[Any]) -> Any:
        kind = ir.FunctionType(result, [a.type for a in args])
        return self.b.call(cgutils.get_or_insert_function(self.b.module, kind, name), args)

    def load(self, base: Any) -> list[Any]:
        """The vectors of the row at an address."""
        return [self.b.load(self._at(base, k), align=VECTOR_BYTES) for k in range(self.count)]

    def store(self, row: Sequence[Any], base: Any) -> None:
        """Write a row to an address."""
        for k in range(self.count):
            self.b.store(row[k], self._at(base, k), align=VECTOR_BYTES)

    def scalar_at(self, base: Any, index: Any, kind: Any = None, size: int | None = None) -> Any:
        """Element ``index`` of the array at an address."""
        offset = self.b.mul(index, ir.Constant(_I64, size or self.size))
        return self.b.load(self.b.inttoptr(self.b.add(base, offset), (kind or self.scalar).as_pointer()))

    def indices_at(self, indices: "Indices", e: Any, number: int) -> list[Any]:
        """Elements e, e + 1, … of a vector of indices, as int64.

        Loads are what sparse products are bound by: one of 64 bits brings as many indices as it holds.
        """
        bits = indices.bits
        found: list[Any] = []
        while len(found) < number:
            count = 64 // bits if number - len(found) >= 64 // bits else 1
            place = self.b.mul(self.b.add(e, ir.Constant(_I64, len(found))), ir.Constant(_I64, bits // 8))
            kind = ir.IntType(bits * count)
            word = self.b.load(
                self.b.inttoptr(self.b.add(indices.base, place), kind.as_pointer()), align=bits // 8
            )
            for k in range(count):  # no index is negative
                part = self.b.lshr(word, ir.Constant(kind, bits * k)) if k else word
                part = part if count == 1 else self.b.trunc(part, ir.IntType(bits))
                found.append(part if bits == 64 else self.b.zext(part, _I64))
        return found

    def fma(self, x: Any, y: Any, z: Any) -> Any:
        """x · y + z, rounded once where the processor can."""
        return self._call(f"llvm.fmuladd.{self.name}", self.vector, [x, y, z])

    def settled(self, x: Any) -> Any:
        """X as it is: LLVM merges no other sum into it, in an order that might differ from build to build."""
        return self._call(f"llvm.arithmetic.fence.{self.name}", self.vector, [x])

    def splat(self, value: Any) -> Any:
        """A vector of one value."""
        undefined = ir.Constant(self.vector, ir.Undefined)
        first = self.b.insert_element(undefined, value, ir.Constant(_I32, 0))
        return self.b.shuffle_vector(
            first, undefined, ir.Constant(ir.VectorType(_I32, self.lanes), [0] * self.lanes)
        )

    def _shuffle(self, x: Any, y: Any, lanes: Sequence[int]) -> Any:
        """The given lanes of two vectors laid end to end."""
        return self.b.shuffle_vector(x, y, ir.Constant(ir.VectorType(_I32, len(lanes)), list(lanes)))

    def lanes_of(self, x: Any, lanes: Sequence[int]) -> Any:
        """The given lanes of a vector."""
        return self._shuffle(x, ir.Constant(x.type, ir.Undefined), lanes)

    def products(self, x: Sequence[Any], y: Sequence[Any]) -> Any:
        """A vector whose lanes add up to ⟨x, y⟩: two running sums halve the latency of the additions."""
        sums: list[Any] = [None, None]
        for k, (u, v) in enumerate(zip(x, y, strict=True)):
            s = sums[k % 2]
            sums[k % 2] = self.b.fmul(u, v) if s is None else self.fma(u, v, s)
        if sums[1] is None:
            return sums[0]
        return self.b.fadd(*map(self.settled, sums))  # not to be made one chain again

    def totals(self, vectors: Sequence[Any]) -> Any:
        """The sums over the lanes of 1, 2, 4, … vectors, as one vector.

        Halves are folded onto each other.  Several vectors share the work, two of them in each vector that
        comes out; each is added up in the same order as it would be alone.
        """
        vectors, number, width = list(vectors), len(vectors), self.lanes
        lanes = range(self.lanes)
        while len(vectors) > 1:
            half = width // 2
            low = [lane for lane in range(2 * self.lanes) if lane % width < half]
            high = [lane + half for lane in low]
            pairs = zip(vectors[::2], vectors[1::2], strict=True)
            vectors = [self.b.fadd(self._shuffle(x, y, low), self._shuffle(x, y, high)) for x, y in pairs]
            width = half
        total, each = vectors[0], width
        while width > 1:
            width //= 2
            total = self.b.fadd(total, self.lanes_of(total, [lane ^ width for lane in lanes]))
        return self.lanes_of(self.settled(total), [each * k for k in range(number)])

    def put(self, numbers: Any, base: Any, e: Any, accumulate: Any) -> None:
        """Write a short vector to elements e, e + 1, … of the array at an address, or add it to them."""
        offset = self.b.mul(e, ir.Constant(_I64, self.size))
        place = self.b.inttoptr(self.b.add(base, offset), numbers.type.as_pointer())
        nothing = ir.Constant(numbers.type, [0.0] * numbers.type.count)
        before = self.b.select(accumulate, self.b.load(place, align=self.size), nothing)
        self.b.store(self.b.fadd(numbers, before), place, align=self.size)

    def transposed(self, rows: Sequence[Any]) -> list[Any]:
        """The rows of a square block, one vector each: ever smaller off-diagonal blocks change places."""
        rows, half = list(rows), self.lanes // 2
        lanes = range(self.lanes)
        while half:
            upper = [lane + self.lanes - half if lane & half else lane for lane in lanes]
            lower = [lane + self.lanes if lane & half else lane + half for lane in lanes]
            for i in lanes:
                if not i & half:
                    x, y = rows[i], rows[i + half]
                    rows[i], rows[i + half] = self._shuffle(x, y, upper), self._shuffle(x, y, lower)
            half //= 2
        return rows


class Indices:
    """Where a vector of indices lies, and how many bits each has."""

    def __init__(self, context: Any, builder: ir.IRBuilder, kind: types.Array, array: Any) -> None:
        data = context.make_array(kind)(context, builder, array).data
        self.base = builder.ptrtoint(data, _I64)
        self.bits = kind.dtype.bitwidth


def loop(builder: ir.IRBuilder, start: Any, stop: Any, carried: Sequence[Any], body: Callable) -> list[Any]:
    """``for i in range(start, stop): carried = body(i, carried)``; returns what is carried at the end."""
    before = builder.basic_block
    head, inside, after = (builder.function.append_basic_block(name) for name in ("head", "body", "after"))
    builder.branch(head)
    builder.position_at_end(head)
    i = builder.phi(_I64)
    i.add_incoming(start, before)
    values = []
    for value in carried:
        phi = builder.phi(value.type)
        phi.add_incoming(value, before)
        values.append(phi)
    builder.cbranch(builder.icmp_signed("<", i, stop), inside, after)
    builder.position_at_end(inside)
    updated = body(i, values)
    i.add_incoming(builder.add(i, ir.Constant(_I64, 1)), builder.basic_block)
    for phi, value in zip(values, updated, strict=True):
        phi.add_incoming(value, builder.basic_block)
    builder.branch(head)
    builder.position_at_end(after)
    return values


def _for_each_count(builder: ir.IRBuilder, dtype: types.Float, count: Any, most: int, emit: Callable) -> None:
    """Emit code for every number of vectors up to ``most``, and branch to the right one."""
    after = builder.function.append_basic_block("after")
    switch = builder.switch(count, after)
    for number in range(1, most + 1):
        block = builder.function.append_basic_block(f"vectors{number}")
        switch.add_case(ir.Constant(_I64, number), block)
        builder.position_at_end(block)
        emit(Rows(builder, dtype, number))
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
def dot_rows(
    typingctx, like, count, left, left_stride, dense, stride, starts, indices, first, last, accumulate, out
):
    """out_e (+)= ⟨left_i, dense[indices_e]⟩ for first ≤ i < last and starts_i ≤ e < starts_{i+1}.

    Rows have ``count`` vectors and lie strides of bytes apart.  All but numbers and the vectors ``starts``
    and ``indices`` are addresses.
    """
    dtype = like.dtype

    def codegen(context, builder, signature, args):
        _, count, left, left_stride, dense, stride, starts, indices, first, last, accumulate, out = args
        starts = Indices(context, builder, signature.args[6], starts)
        indices = Indices(context, builder, signature.args[7], indices)

        def emit(rows):
            def row(i, begin, end):
                x = rows.load(builder.add(left, builder.mul(i, left_stride)))

                def dots(e, number, carried):
                    """The inner products number e, e + 1, …, written as one vector."""
                    products = []
                    for index in rows.indices_at(indices, e, number):
                        y = rows.load(builder.add(dense, builder.mul(index, stride)))
                        products.append(rows.products(x, y))
                    rows.put(rows.totals(products), out, e, accumulate)
                    return []

                _by_fours(builder, begin, end, [], dots)

            _for_each_row(builder, starts, first, last, rows, row)

        _for_each_count(builder, dtype, count, MOST, emit)
        return context.get_dummy_value()

    number = types.int64
    arguments = [*[number] * 5, starts, indices, number, number, types.boolean, number]
    return types.void(like, *arguments), codegen


@intrinsic
def dot_moved_rows(
    typingctx, like, count, left, left_move, left_stride, dense, dense_move, stride, starts, indices, first,
    last, accumulate, linear, quadratic,
):  # fmt: skip
    """The coefficients of ξ and ξ² of ⟨left_i + ξ left_move_i, dense_j + ξ dense_move_j⟩, j = indices_e.

    Written to ``linear`` and ``quadratic``, in one pass: a row of ``dense_move`` is loaded once for both.
    Otherwise as :func:`dot_rows`; moves have the strides of what they move.
    """
    dtype = like.dtype

    def codegen(context, builder, signature, args):
        _, count, *lefts, left_stride, dense, dense_move, stride, starts, indices = args[:10]
        first, last, accumulate, linear, quadratic = args[10:]
        starts = Indices(context, builder, signature.args[8], starts)
        indices = Indices(context, builder, signature.args[9], indices)

        def emit(rows):
            def row(i, begin, end):
                here = builder.mul(i, left_stride)
                x, x_move = (rows.load(builder.add(left, here)) for left in lefts)

                def dots(e, number, carried):
                    once, twice = [], []
                    for index in rows.indices_at(indices, e, number):
                        there = builder.mul(index, stride)
                        y = rows.load(builder.add(dense, there))
                        y_move = rows.load(builder.add(dense_move, there))
                        once.append(rows.products([*x, *x_move], [*y_move, *y]))
                        twice.append(rows.products(x_move, y_move))
                    totals = rows.totals(once + twice)
                    rows.put(rows.lanes_of(totals, range(number)), linear, e, accumulate)
                    rows.put(rows.lanes_of(totals, range(number, 2 * number)), quadratic, e, accumulate)
                    return []

                _by_fours(builder, begin, end, [], dots)

            _for_each_row(builder, starts, first, last, rows, row)

        _for_each_count(builder, dtype, count, MOST_MOVED, emit)
        return context.get_dummy_value()

    number = types.int64
    arguments = [*[number] * 7, starts, indices, number, number, types.boolean, number, number]
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
def sum_rows(
    typingctx, like, count, weights, order, dense, stride, starts, indices, first, last, scale, base,
    base_stride, out, out_stride,
):  # fmt: skip
    """out_i = base_i + scale Σ_e weights[order_e] dense[indices_e] over starts_i ≤ e < starts_{i+1}.

    That for first ≤ i < last.  ``order``, a vector like ``indices``, may be None, which means e itself; the
    base at address 0 is zero.  In place, rows without entries are passed over.
    """
    dtype = like.dtype
    is_in_order = isinstance(order, types.NoneType)

    def codegen(context, builder, signature, args):
        _, count, weights, order, dense, stride, starts, indices, first, last, scale, *places = args
        base, base_stride, out, out_stride = places
        starts = Indices(context, builder, signature.args[6], starts)
        indices = Indices(context, builder, signature.args[7], indices)
        if not is_in_order:
            order = Indices(context, builder, signature.args[3], order)
        has_base = builder.icmp_unsigned("!=", base, ir.Constant(_I64, 0))
        is_in_place = builder.icmp_unsigned("==", base, out)

        def emit(rows):
            scales = rows.splat(scale)

            def add(e, number, sums):
                numbers = [builder.add(e, ir.Constant(_I64, k)) for k in range(number)]
                places = numbers if is_in_order else rows.indices_at(order, e, number)
                for index, place in zip(rows.indices_at(indices, e, number), places, strict=True):
                    y = rows.load(builder.add(dense, builder.mul(index, stride)))
                    weight = rows.splat(rows.scalar_at(weights, place))
                    sums = [rows.fma(v, weight, s) for v, s in zip(y, sums, strict=True)]
                return sums

            def row(i, begin, end):
                is_empty = builder.icmp_signed("==", begin, end)
                with builder.if_then(builder.not_(builder.and_(is_in_place, is_empty))):
                    sums = _by_fours(builder, begin, end, [rows.zero] * rows.count, add)
                    here = builder.add(out, builder.mul(i, out_stride))
                    there = builder.add(base, builder.mul(i, base_stride))
                    start = rows.load(builder.select(has_base, there, here))
                    start = [builder.select(has_base, v, rows.zero) for v in start]
                    rows.store([rows.fma(s, scales, v) for s, v in zip(sums, start, strict=True)], here)

            _for_each_row(builder, starts, first, last, rows, row)

        _for_each_count(builder, dtype, count, MOST, emit)
        return context.get_dummy_value()

    number = types.int64
    vectors = [number, number, order, number, number, starts, indices]
    return types.void(like, *vectors, number, number, dtype, *[number] * 4), codegen
