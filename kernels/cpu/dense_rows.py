"""Long dense rows: A x and Aᵀ r for several x at once, a few rows of A at a time.

A row of A is needed twice, for its product with x and, once its misfit is known, for its share of Aᵀ r.
Both are done while the rows lie in the cache, so that A, which is all the traffic there is, is read from
memory once.  With several x, each vector of A that is in a register meets several of them.

Products go by tiles: :data:`ROWS` rows of A and :data:`MEMBERS` lines x, :data:`TILE` vectors long, have
their running sums in registers (24 of 32, with 5 more for the operands), and a tile of all lines stays in
the nearest cache.  The order of the sums of one line does not depend on the others: it has the same bits in
any company, and alone.
"""

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastdmf.kernels.cpu.compilation import compile_apart, kernel
from fastdmf.kernels.cpu.simd import VECTOR_BYTES, _loop, _Rows

ROWS, MEMBERS = 6, 4
TILE = 32
#: Rows ahead, of the next six, that are fetched from memory while the cache is being worked on.
_AHEAD = 4

_I64, _I32 = ir.IntType(64), ir.IntType(32)


def _number(value: int) -> Any:
    return ir.Constant(_I64, value)


def _addresses(builder: ir.IRBuilder, base: Any, stride: Any, count: int) -> list[Any]:
    return [builder.add(base, builder.mul(stride, _number(i))) for i in range(count)]


class _Tile(_Rows):
    """Emits code that walks along a tile, vector by vector; the last vector is masked."""

    def __init__(self, builder: ir.IRBuilder, dtype: types.Float, width: Any) -> None:
        super().__init__(builder, dtype, 0, None)
        self.others = builder.sdiv(builder.sub(width, _number(1)), _number(self.lanes))
        rest = builder.sub(width, builder.mul(self.others, _number(self.lanes)))
        numbers = ir.Constant(ir.VectorType(_I64, self.lanes), list(range(self.lanes)))
        undefined = ir.Constant(numbers.type, ir.Undefined)
        first = builder.insert_element(undefined, rest, _number(0))
        everywhere = ir.Constant(ir.VectorType(_I32, self.lanes), [0] * self.lanes)
        limit = builder.shuffle_vector(first, undefined, everywhere)
        self.tail = builder.icmp_signed("<", numbers, limit)

    def get(self, address: Any) -> Any:
        """The whole vector at an address."""
        return self.b.load(self._at(address, 0), align=self.size)

    def set(self, vector: Any, address: Any) -> None:
        """Write a whole vector to an address."""
        self.b.store(vector, self._at(address, 0), align=self.size)

    def walk(self, carried: Sequence[Any], body: Callable) -> list[Any]:
        """``carried = body(offset, get, set, carried)`` for every vector of the tile."""

        def whole(k: Any, values: Sequence[Any]) -> list[Any]:
            return body(self.b.mul(k, _number(VECTOR_BYTES)), self.get, self.set, values)

        carried = _loop(self.b, _number(0), self.others, carried, whole)
        end = self.b.mul(self.others, _number(VECTOR_BYTES))
        return body(end, lambda at: self.load(at)[0], lambda v, at: self.store([v], at), carried)

    def prefetch(self, address: Any) -> None:
        """Ask for the cache line at an address, into the second cache."""
        pointer = ir.IntType(8).as_pointer()
        hints = [ir.Constant(_I32, hint) for hint in (0, 2, 1)]  # to be read; soon, not at once; data
        self._call("llvm.prefetch.p0", ir.VoidType(), [self.b.inttoptr(address, pointer), *hints])


def _for_each_size(builder: ir.IRBuilder, rows: Any, members: Any, is_alone: bool, emit: Callable) -> None:
    """Emit code for 1 and :data:`ROWS` rows, each with 1 … :data:`MEMBERS` lines, and branch to the right."""
    after = builder.function.append_basic_block("after")
    most = 1 if is_alone else MEMBERS
    switch = builder.switch(builder.add(builder.mul(rows, _number(most + 1)), members), after)
    for r in (1, ROWS):
        for b in range(1, most + 1):
            block = builder.function.append_basic_block(f"rows{r}members{b}")
            switch.add_case(_number(r * (most + 1) + b), block)
            builder.position_at_end(block)
            emit(r, b)
            builder.branch(after)
    builder.position_at_end(after)


@intrinsic
def _dot_tile(
    typingctx, like, together, rows, members, width, is_first, a, a_stride, x, x_stride, sums, sums_stride
):
    """sums[b, i] (+)= A_i ∘ x_b over a tile, lane by lane; all but numbers are addresses."""
    dtype, is_alone = like.dtype, isinstance(together, types.NoneType)

    def codegen(context, builder, signature, args):
        _, _, rows, members, width, is_first, a, a_stride, x, x_stride, sums, sums_stride = args
        tile = _Tile(builder, dtype, width)

        def emit(rows, members):
            a_at, x_at = _addresses(builder, a, a_stride, rows), _addresses(builder, x, x_stride, members)
            s_at = [
                builder.add(start, _number(VECTOR_BYTES * i))
                for start in _addresses(builder, sums, sums_stride, members)
                for i in range(rows)
            ]

            def body(offset, get, _set, totals):
                across = [get(builder.add(at, offset)) for at in a_at]
                return [
                    tile.fma(v, u, totals[b * rows + i])
                    for b, u in enumerate([get(builder.add(at, offset)) for at in x_at])
                    for i, v in enumerate(across)
                ]

            start = [builder.select(is_first, tile.zero, tile.get(at)) for at in s_at]
            for total, at in zip(tile.walk(start, body), s_at, strict=True):
                tile.set(total, at)

        _for_each_size(builder, rows, members, is_alone, emit)
        return context.get_dummy_value()

    return types.void(like, together, *[types.int64] * 3, types.boolean, *[types.int64] * 6), codegen


@intrinsic
def _add_tile(typingctx, like, together, rows, members, width, a, a_stride, r, r_stride, g, g_stride, ahead):
    """g_b += Σ_i r[b, i] A_i over a tile, and prefetch it so many bytes ahead in A."""
    dtype, is_alone = like.dtype, isinstance(together, types.NoneType)

    def codegen(context, builder, signature, args):
        _, _, rows, members, width, a, a_stride, r, r_stride, g, g_stride, ahead = args
        tile = _Tile(builder, dtype, width)

        def emit(rows, members):
            a_at, g_at = _addresses(builder, a, a_stride, rows), _addresses(builder, g, g_stride, members)
            weights = [
                [tile.splat(tile.scalar_at(at, _number(i))) for i in range(rows)]
                for at in _addresses(builder, r, r_stride, members)
            ]

            def body(offset, get, put, _carried):
                totals = [get(builder.add(at, offset)) for at in g_at]
                for i in range(rows):
                    v = get(builder.add(a_at[i], offset))
                    totals = [tile.fma(v, weights[b][i], total) for b, total in enumerate(totals)]
                for at in a_at[:_AHEAD]:
                    tile.prefetch(builder.add(builder.add(at, offset), ahead))
                for total, at in zip(totals, g_at, strict=True):
                    put(total, builder.add(at, offset))
                return []

            tile.walk([], body)

        _for_each_size(builder, rows, members, is_alone, emit)
        return context.get_dummy_value()

    return types.void(like, together, *[types.int64] * 10), codegen


@intrinsic
def _sum_of_lanes(typingctx, like, address):
    """The sum of the elements of the vector at an address."""
    dtype = like.dtype

    def codegen(context, builder, signature, args):
        rows = _Tile(builder, dtype, _number(1))
        ones = ir.Constant(rows.vector, [1.0] * rows.lanes)
        return rows.dot([rows.get(args[1])], [ones])

    return dtype(like, types.int64), codegen


@kernel
def _dot_rows(a, width, first, rows, x, sums, sums_stride, out, together):
    """out[b, i] = ⟨A_i, x_b⟩ for some rows from ``first`` on; ``sums`` is the address of scratch memory."""
    size, tile = x.itemsize, TILE * VECTOR_BYTES // x.itemsize
    lines = a.ctypes.data + first * a.strides[0]
    for q in range(0, width, tile):
        for b in range(0, x.shape[0], MEMBERS):
            _dot_tile(
                x, together, rows, min(MEMBERS, x.shape[0] - b), min(tile, width - q), q == 0,
                lines + q * size, a.strides[0], x.ctypes.data + b * x.strides[0] + q * size, x.strides[0],
                sums + b * sums_stride, sums_stride,
            )  # fmt: skip
    for b in range(x.shape[0]):
        for i in range(rows):
            out[b, first + i] = _sum_of_lanes(x, sums + b * sums_stride + i * VECTOR_BYTES)


@kernel
def _add_rows(a, width, first, rows, r, g, together):
    """g_b += Σ_i r[b, i] A_i over some rows from ``first`` on."""
    size, tile = r.itemsize, TILE * VECTOR_BYTES // r.itemsize
    lines = a.ctypes.data + first * a.strides[0]
    for q in range(0, width, tile):
        for b in range(0, r.shape[0], MEMBERS):
            _add_tile(
                r, together, rows, min(MEMBERS, r.shape[0] - b), min(tile, width - q),
                lines + q * size, a.strides[0],
                r.ctypes.data + b * r.strides[0] + first * size, r.strides[0],
                g.ctypes.data + b * g.strides[0] + q * size, g.strides[0],
                rows * a.strides[0] if b == 0 else 0,
            )  # fmt: skip


@kernel
def _rows_at_once(last, i):
    """How many rows to take from i on, of those below ``last``."""
    return ROWS if last - i >= ROWS else 1


@kernel
def _scratch(work, width):
    """Address of the running sums behind the gradient in each line of ``work``, and a line's bytes."""
    lanes = VECTOR_BYTES // work.itemsize
    return work.ctypes.data + -(-width // lanes) * VECTOR_BYTES, work.strides[0]


@kernel
def measure_rows(a, width, first, last, x, work, out):
    """out[b, i] = ⟨A_i, x_b⟩ for first ≤ i < last."""
    compile_apart()
    sums, stride = _scratch(work, width)
    i = first
    while i < last:
        rows = _rows_at_once(last, i)
        _dot_rows(a, width, i, rows, x, sums, stride, out, None)
        i += rows


@kernel
def residual_rows(a, width, first, last, x, values, scale, work, r, together):
    """r[b, i] = c (⟨A_i, x_b⟩ − y_i) for first ≤ i < last, and ``work[b, :width]`` = Σ_i r[b, i] A_i."""
    compile_apart()
    sums, stride = _scratch(work, width)
    scale = x.dtype.type(scale)
    for b in range(x.shape[0]):
        for k in range(width):
            work[b, k] = 0
    i = first
    while i < last:
        rows = _rows_at_once(last, i)
        _dot_rows(a, width, i, rows, x, sums, stride, r, together)
        for b in range(x.shape[0]):
            for k in range(i, i + rows):
                r[b, k] = scale * (r[b, k] - values[k])
        _add_rows(a, width, i, rows, r, work, together)
        i += rows
