"""Rows of a matrix as vectors in registers: the private corner of LLVM IR.

LLVM's vectorizer leaves two thirds of the speed on the table in the sparse products: rows are short, and
it cannot keep one in registers while many others stream past.  Here a row is a number of 64-byte vectors
and a masked tail, so that one compiled function serves every width.  The IR is portable: where the
processor's vectors are shorter, LLVM splits these.

The order of all sums is fixed, so that results do not depend on where a function is inlined.

Rows of more than :data:`PANEL_BYTES` bytes are cut into panels.
"""

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

VECTOR_BYTES = 64
#: Vectors of the longest row that is handled at once: with its sum it fills 28 of 32 registers.
MOST = 14
PANEL_BYTES = MOST * VECTOR_BYTES

_I64, _I32 = ir.IntType(64), ir.IntType(32)


class _Rows:
    """Emits code for rows of one element type, of ``full`` whole vectors and one masked by ``tail``."""

    def __init__(self, builder: ir.IRBuilder, dtype: types.Float, full: int, tail: Any) -> None:
        self.b = builder
        self.scalar = ir.FloatType() if dtype == types.float32 else ir.DoubleType()
        self.size = dtype.bitwidth // 8
        self.lanes = VECTOR_BYTES // self.size
        self.vector = ir.VectorType(self.scalar, self.lanes)
        self.name = f"v{self.lanes}f{dtype.bitwidth}"
        self.full, self.tail = full, tail
        self.zero = ir.Constant(self.vector, [0.0] * self.lanes)

    def _at(self, base: Any, k: int) -> Any:
        address = self.b.add(base, ir.Constant(_I64, VECTOR_BYTES * k))
        return self.b.inttoptr(address, self.vector.as_pointer())

    def _call(self, name: str, result: Any, args: Sequence[Any]) -> Any:
        kind = ir.FunctionType(result, [a.type for a in args])
        return self.b.call(cgutils.get_or_insert_function(self.b.module, kind, name), args)

    def load(self, base: Any) -> list[Any]:
        """The vectors of the row at an address."""
        row = [self.b.load(self._at(base, k), align=self.size) for k in range(self.full)]
        args = [self._at(base, self.full), ir.Constant(_I32, self.size), self.tail, self.zero]
        return [*row, self._call(f"llvm.masked.load.{self.name}.p0", self.vector, args)]

    def store(self, row: Sequence[Any], base: Any) -> None:
        """Write a row to an address."""
        for k in range(self.full):
            self.b.store(row[k], self._at(base, k), align=self.size)
        args = [row[-1], self._at(base, self.full), ir.Constant(_I32, self.size), self.tail]
        self._call(f"llvm.masked.store.{self.name}.p0", ir.VoidType(), args)

    def scalar_at(self, base: Any, index: Any, kind: Any = None, size: int | None = None) -> Any:
        """Element ``index`` of the array at an address."""
        offset = self.b.mul(index, ir.Constant(_I64, size or self.size))
        return self.b.load(self.b.inttoptr(self.b.add(base, offset), (kind or self.scalar).as_pointer()))

    def index_at(self, base: Any, index: Any) -> Any:
        """Element ``index`` of the int32 array at an address, as int64."""
        return self.b.sext(self.scalar_at(base, index, _I32, 4), _I64)

    def put(self, value: Any, base: Any, index: Any) -> None:
        """Write element ``index`` of the array at an address."""
        offset = self.b.mul(index, ir.Constant(_I64, self.size))
        self.b.store(value, self.b.inttoptr(self.b.add(base, offset), self.scalar.as_pointer()))

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

    def dot(self, x: Sequence[Any], y: Sequence[Any]) -> Any:
        """⟨x, y⟩: three running sums hide the latency of the additions, then halves are folded."""
        sums: list[Any] = [None, None, None]
        for k, (u, v) in enumerate(zip(x, y, strict=True)):
            s = sums[k % 3]
            sums[k % 3] = self.b.fmul(u, v) if s is None else self.fma(u, v, s)
        parts = [s for s in sums if s is not None]
        total = parts[0]
        for s in parts[1:]:
            total = self.b.fadd(total, s)
        lanes = self.lanes
        while lanes > 1:
            lanes //= 2
            low = ir.Constant(ir.VectorType(_I32, lanes), list(range(lanes)))
            high = ir.Constant(ir.VectorType(_I32, lanes), list(range(lanes, 2 * lanes)))
            undefined = ir.Constant(total.type, ir.Undefined)
            total = self.b.fadd(
                self.b.shuffle_vector(total, undefined, low), self.b.shuffle_vector(total, undefined, high)
            )
        return self.b.extract_element(total, ir.Constant(_I32, 0))


def _loop(builder: ir.IRBuilder, start: Any, stop: Any, carried: Sequence[Any], body: Callable) -> list[Any]:
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


def _for_each_width(builder: ir.IRBuilder, dtype: types.Float, width: Any, emit: Callable) -> None:
    """Emit code for every number of vectors that a row may have, and branch to the right one."""
    lanes = VECTOR_BYTES * 8 // dtype.bitwidth
    others = builder.sdiv(builder.sub(width, ir.Constant(_I64, 1)), ir.Constant(_I64, lanes))
    # The last vector is masked always: a mask that lets all through costs nothing, a second version of
    # the code would.
    rest = builder.sub(width, builder.mul(others, ir.Constant(_I64, lanes)))
    numbers = ir.Constant(ir.VectorType(_I64, lanes), list(range(lanes)))
    undefined = ir.Constant(numbers.type, ir.Undefined)
    first = builder.insert_element(undefined, rest, ir.Constant(_I32, 0))
    limit = builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes))
    mask = builder.icmp_signed("<", numbers, limit)
    after = builder.function.append_basic_block("after")
    switch = builder.switch(others, after)
    for full in range(MOST):
        block = builder.function.append_basic_block(f"width{full}")
        switch.add_case(ir.Constant(_I64, full), block)
        builder.position_at_end(block)
        emit(_Rows(builder, dtype, full, mask))
        builder.branch(after)
    builder.position_at_end(after)


@intrinsic
def dot_rows(typingctx, like, width, row, dense, stride, indices, first, last, accumulate, out):
    """out_e (+)= ⟨row, dense[indices_e]⟩ for first ≤ e < last; all but numbers are addresses."""
    dtype = like.dtype

    def codegen(context, builder, signature, args):
        _, width, row, dense, stride, indices, first, last, accumulate, out = args

        def emit(rows):
            x = rows.load(row)

            def body(e, carried):
                y = builder.add(dense, builder.mul(rows.index_at(indices, e), stride))
                dot = rows.dot(x, rows.load(y))
                before = builder.select(accumulate, rows.scalar_at(out, e), ir.Constant(rows.scalar, 0.0))
                rows.put(builder.fadd(dot, before), out, e)
                return []

            _loop(builder, first, last, [], body)

        _for_each_width(builder, dtype, width, emit)
        return context.get_dummy_value()

    return types.void(like, *[types.int64] * 7, types.boolean, types.int64), codegen


@intrinsic
def sum_rows(typingctx, like, width, weights, order, dense, stride, indices, first, last, accumulate, out):
    """out (+)= Σ_e weights[order_e] dense[indices_e] for first ≤ e < last; ``order`` None means e itself."""
    dtype = like.dtype
    is_in_order = isinstance(order, types.NoneType)

    def codegen(context, builder, signature, args):
        _, width, weights, order, dense, stride, indices, first, last, accumulate, out = args

        def emit(rows):
            def body(e, sums):
                y = rows.load(builder.add(dense, builder.mul(rows.index_at(indices, e), stride)))
                weight = rows.scalar_at(weights, e if is_in_order else rows.index_at(order, e))
                splat = rows.splat(weight)
                return [rows.fma(v, splat, s) for v, s in zip(y, sums, strict=True)]

            start = [builder.select(accumulate, v, rows.zero) for v in rows.load(out)]
            rows.store(_loop(builder, first, last, start, body), out)

        _for_each_width(builder, dtype, width, emit)
        return context.get_dummy_value()

    order_type = types.none if is_in_order else types.int64
    numbers = [types.int64] * 5
    return types.void(
        like, types.int64, types.int64, order_type, *numbers, types.boolean, types.int64
    ), codegen
