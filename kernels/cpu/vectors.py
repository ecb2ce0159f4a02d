"""Rows of a matrix as vectors in registers: what the functions of :mod:`simd` are built of.

A row is a number of 64-byte vectors, aligned and filled up with zeros.  Of short rows the last vector may
be a quarter as long; these *tails* lie apart, after all rows, so that the others stay aligned: a matrix
takes fewer cache lines.  The IR is portable: where the processor's vectors are shorter, LLVM splits these.
"""

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from fastdmf.kernels.cpu.tables import TAIL_BYTES, VECTOR_BYTES, Place

_I64, _I32 = ir.IntType(64), ir.IntType(32)


class Rows:
    """Emits code for aligned rows of ``count`` vectors of one element type, the last one a tail or not."""

    def __init__(self, builder: ir.IRBuilder, dtype: types.Float, count: int, tailed: bool = False) -> None:
        self.b = builder
        self.scalar = ir.FloatType() if dtype == types.float32 else ir.DoubleType()
        self.size = dtype.bitwidth // 8
        self.lanes = VECTOR_BYTES // self.size
        self.vector = ir.VectorType(self.scalar, self.lanes)
        self.name = f"v{self.lanes}f{dtype.bitwidth}"
        self.whole, self.tailed = count - tailed, tailed
        self.zero = ir.Constant(self.vector, [0.0] * self.lanes)

    @property
    def tail(self) -> ir.VectorType:
        """The type of a tail."""
        return ir.VectorType(self.scalar, TAIL_BYTES // self.size)

    @property
    def zeros(self) -> list[Any]:
        """A row of zeros."""
        tails = [ir.Constant(self.tail, [0.0] * self.tail.count)] if self.tailed else []
        return [self.zero] * self.whole + tails

    def _at(self, base: Any, k: int) -> Any:
        address = self.b.add(base, ir.Constant(_I64, VECTOR_BYTES * k))
        return self.b.inttoptr(address, self.vector.as_pointer())

    def _call(self, name: str, result: Any, args: Sequence[Any]) -> Any:
        kind = ir.FunctionType(result, [a.type for a in args])
        return self.b.call(cgutils.get_or_insert_function(self.b.module, kind, name), args)

    def load(self, base: Any, tail: Any = None) -> list[Any]:
        """The vectors of the row at an address, and the tail at another one."""
        row = [self.b.load(self._at(base, k), align=VECTOR_BYTES) for k in range(self.whole)]
        if self.tailed:
            row.append(self.b.load(self.b.inttoptr(tail, self.tail.as_pointer()), align=TAIL_BYTES))
        return row

    def store(self, row: Sequence[Any], base: Any, tail: Any = None) -> None:
        """Write a row to an address, and its tail to another one."""
        for k in range(self.whole):
            self.b.store(row[k], self._at(base, k), align=VECTOR_BYTES)
        if self.tailed:
            self.b.store(row[-1], self.b.inttoptr(tail, self.tail.as_pointer()), align=TAIL_BYTES)

    def scalar_at(self, base: Any, index: Any) -> Any:
        """Element ``index`` of the array at an address."""
        offset = self.b.mul(index, ir.Constant(_I64, self.size))
        return self.b.load(self.b.inttoptr(self.b.add(base, offset), self.scalar.as_pointer()))

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
        name = f"llvm.fmuladd.v{z.type.count}f{8 * self.size}"
        return self._call(name, z.type, [x, y, z])

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

    def times_plus(self, weight: Any, x: Sequence[Any], y: Sequence[Any]) -> list[Any]:
        """The row weight · x + y, for a weight in every lane of a vector."""
        short = self.lanes_of(weight, range(self.tail.count))
        return [self.fma(u, short if u.type == self.tail else weight, v) for u, v in zip(x, y, strict=True)]

    def _chained(self, x: Sequence[Any], y: Sequence[Any], total: Any = None) -> Any:
        """[total] + x_0 · y_0 + x_1 · y_1 + …, lane by lane."""
        for u, v in zip(x, y, strict=True):
            total = self.b.fmul(u, v) if total is None else self.fma(u, v, total)
        return total

    def products(self, x: Sequence[Any], y: Sequence[Any]) -> Any:
        """A vector whose lanes add up to ⟨x, y⟩: two running sums halve the latency of the additions."""
        tails = [[v for v in row if v.type == self.tail] for row in (x, y)]
        x, y = ([v for v in row if v.type == self.vector] for row in (x, y))
        first = self._chained(*tails)
        if first is not None:  # in the lower lanes of the sum over every other vector, if there are any
            nothing = ir.Constant(self.tail, [0.0] * self.tail.count)
            lanes = range(self.lanes)
            first = self._shuffle(first, nothing, [min(lane, self.tail.count) for lane in lanes])
        even, odd = (0, 1) if first is None else (1, 0)
        first, second = self._chained(x[even::2], y[even::2], first), self._chained(x[odd::2], y[odd::2])
        if second is None:
            return first
        return self.b.fadd(self.settled(first), self.settled(second))  # not to be made one chain again

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


class Matrix:
    """Where a matrix lies of which rows are taken: what emitted code knows of a `Place`."""

    def __init__(self, builder: ir.IRBuilder, address: Any, stride: Any, tails: Any) -> None:
        self.b, self.address, self.stride, self.tails = builder, address, stride, tails

    @classmethod
    def of(cls, builder: ir.IRBuilder, place: Any, dtype: types.Float) -> "Matrix":
        """The matrix at a place, which holds elements of a type."""
        address, stride, tails = (
            builder.extract_value(place, Place._fields.index(name)) for name in ("address", "stride", "tails")
        )
        return cls(builder, address, builder.mul(stride, ir.Constant(_I64, dtype.bitwidth // 8)), tails)

    def row(self, i: Any) -> tuple[Any, Any]:
        """The addresses of the whole vectors of row i and of its tail."""
        tail = self.b.mul(i, ir.Constant(_I64, TAIL_BYTES))
        return self.b.add(self.address, self.b.mul(i, self.stride)), self.b.add(self.tails, tail)
