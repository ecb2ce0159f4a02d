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

    def index_at(self, indices: "Indices", e: Any) -> Any:
        """Element ``e`` of a vector of indices, as int64."""
        index = self.scalar_at(indices.base, e, ir.IntType(indices.bits), indices.bits // 8)
        return self.b.sext(index, _I64) if indices.signed else self.b.zext(index, _I64)

    def fma(self, x: Any, y: Any, z: Any) -> Any:
        """x · y + z, rounded once where the processor can."""
        return self._call(f"llvm.fmuladd.{self.name}", self.vector, [x, y, z])

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

    def products(self, x: Sequence[Any], y: Sequence[Any]) -> Any:
        """A vector whose lanes add up to ⟨x, y⟩; three running sums hide the latency of the additions."""
        sums: list[Any] = [None, None, None]
        for k, (u, v) in enumerate(zip(x, y, strict=True)):
            s = sums[k % 3]
            sums[k % 3] = self.b.fmul(u, v) if s is None else self.fma(u, v, s)
        parts = [s for s in sums if s is not None]
        total = parts[0]
        for s in parts[1:]:
            total = self.b.fadd(total, s)
        return total

    def totals(self, vectors: Sequence[Any]) -> Any:
        """The sums over the lanes of 1, 2, 4, … vectors, as one vector: halves are folded until one is left.

        Several vectors share the work; each is added up in the same order as it would be alone.
        """
        vectors, width = list(vectors), self.lanes
        while width > 1:
            half = width // 2
            nothing = ir.Constant(vectors[0].type, ir.Undefined)
            pairs = list(zip(vectors[::2], vectors[1::2] or [nothing], strict=True))
            lanes = vectors[0].type.count * min(2, len(vectors))
            low = [start + lane for start in range(0, lanes, width) for lane in range(half)]
            high = [lane + half for lane in low]
            vectors = [self.b.fadd(self._shuffle(x, y, low), self._shuffle(x, y, high)) for x, y in pairs]
            width = half
        return vectors[0]

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
    """Where a vector of indices lies, and of which type they are."""

    def __init__(self, context: Any, builder: ir.IRBuilder, kind: types.Array, array: Any) -> None:
        data = context.make_array(kind)(context, builder, array).data
        self.base = builder.ptrtoint(data, _I64)
        self.bits, self.signed = kind.dtype.bitwidth, kind.dtype.signed


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


def _for_each_count(builder: ir.IRBuilder, dtype: types.Float, count: Any, emit: Callable) -> None:
    """Emit code for every number of vectors that a row may have, and branch to the right one."""
    after = builder.function.append_basic_block("after")
    switch = builder.switch(count, after)
    for number in range(1, MOST + 1):
        block = builder.function.append_basic_block(f"vectors{number}")
        switch.add_case(ir.Constant(_I64, number), block)
        builder.position_at_end(block)
        emit(Rows(builder, dtype, number))
        builder.branch(after)
    builder.position_at_end(after)


@intrinsic
def dot_rows(typingctx, like, count, row, dense, stride, indices, first, last, accumulate, out):
    """out_e (+)= ⟨row, dense[indices_e]⟩ for first ≤ e < last.

    Rows have ``count`` vectors and lie ``stride`` bytes apart.  All but numbers and the vector ``indices``
    are addresses.
    """
    dtype = like.dtype

    def codegen(context, builder, signature, args):
        _, count, row, dense, stride, indices, first, last, accumulate, out = args
        indices = Indices(context, builder, signature.args[5], indices)
        entries = builder.sub(last, first)
        fours = builder.sdiv(entries, ir.Constant(_I64, AT_ONCE))
        rest = builder.add(first, builder.mul(fours, ir.Constant(_I64, AT_ONCE)))

        def emit(rows):
            x = rows.load(row)

            def dots(e, number):
                """The inner products number e, e + 1, …, written as one vector."""
                products = []
                for k in range(number):
                    index = rows.index_at(indices, builder.add(e, ir.Constant(_I64, k)))
                    y = rows.load(builder.add(dense, builder.mul(index, stride)))
                    products.append(rows.products(x, y))
                totals = rows.totals(products)
                offset = builder.mul(e, ir.Constant(_I64, rows.size))
                place = builder.inttoptr(builder.add(out, offset), totals.type.as_pointer())
                nothing = ir.Constant(totals.type, [0.0] * number)
                before = builder.select(accumulate, builder.load(place, align=rows.size), nothing)
                builder.store(builder.fadd(totals, before), place, align=rows.size)
                return []

            def together(i, carried):
                return dots(builder.add(first, builder.mul(i, ir.Constant(_I64, AT_ONCE))), AT_ONCE)

            loop(builder, ir.Constant(_I64, 0), fours, [], together)
            loop(builder, rest, last, [], lambda e, carried: dots(e, 1))

        _for_each_count(builder, dtype, count, emit)
        return context.get_dummy_value()

    number = types.int64
    arguments = [*[number] * 4, indices, number, number, types.boolean, number]
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
    typingctx, like, count, weights, order, dense, stride, indices, first, last, scale, has_base, base, out
):
    """Out = base + scale Σ_e weights[order_e] dense[indices_e] for first ≤ e < last.

    ``order``, a vector like ``indices``, may be None, which means e itself; without ``has_base`` the base
    is zero.
    """
    dtype = like.dtype
    is_in_order = isinstance(order, types.NoneType)

    def codegen(context, builder, signature, args):
        _, count, weights, order, dense, stride, indices, first, last, scale, has_base, base, out = args
        indices = Indices(context, builder, signature.args[6], indices)
        if not is_in_order:
            order = Indices(context, builder, signature.args[3], order)

        def emit(rows):
            def body(e, sums):
                y = rows.load(builder.add(dense, builder.mul(rows.index_at(indices, e), stride)))
                weight = rows.scalar_at(weights, e if is_in_order else rows.index_at(order, e))
                splat = rows.splat(weight)
                return [rows.fma(v, splat, s) for v, s in zip(y, sums, strict=True)]

            sums = loop(builder, first, last, [rows.zero] * rows.count, body)
            start = [builder.select(has_base, v, rows.zero) for v in rows.load(base)]
            scales = rows.splat(scale)
            rows.store([rows.fma(s, scales, v) for s, v in zip(sums, start, strict=True)], out)

        _for_each_count(builder, dtype, count, emit)
        return context.get_dummy_value()

    number = types.int64
    numbers = [number, number, order, number, number, indices, number, number]
    return types.void(like, *numbers, dtype, types.boolean, number, number), codegen
