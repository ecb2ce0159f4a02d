"""Long dense rows: A x and Aᵀ r for several x at once, a few rows of A at a time.

A row of A is needed twice, for its product with x and, once its misfit is known, for its share of Aᵀ r.
Both are done while the rows lie in the cache, so that A, which is all the traffic there is, is read from
memory once.  With several x, each vector of A that is in a register meets several of them.

Products go by tiles: :data:`ROWS` rows of A and :data:`MEMBERS` lines x, :data:`TILE` vectors long, have
their running sums in registers (24 of 32, with 5 more for the operands), and the tile of A stays in the
nearest cache until all lines have met it.  Many lines do not fit the second cache: up to :data:`GROUPS`
groups of rows are then taken while a tile of the lines is near.  The order of the sums of one line does not
depend on the others: it has the same bits in any company, and alone.  BLAS on blocks of rows that fit the
cache has 0.4 to 0.85 of the throughput, for 2 to 16 lines of 10,000 float32.

Points, residuals and scratch memory are *lines*: one array for one point, and for several an int64 array of
the addresses of their arrays.  Code for several is compiled only where there are such addresses.
"""

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from fastdmf.kernels.cpu.compilation import compile_apart, kernel
from fastdmf.kernels.cpu.tables import VECTOR_BYTES, vector_at
from fastdmf.kernels.cpu.vectors import Rows, loop

ROWS, MEMBERS = 6, 4
TILE = 32
GROUPS = 4
MOST_ROWS = GROUPS * ROWS

_I64, _I32 = ir.IntType(64), ir.IntType(32)


def _number(value: int) -> Any:
    return ir.Constant(_I64, value)


def _is_one(lines: Any) -> bool:
    """Whether the type of lines is that of a single one."""
    return isinstance(lines.dtype, types.Float)


def _addresses(
    context: Any, builder: ir.IRBuilder, kind: Any, lines: Any, first: Any, count: int
) -> list[Any]:
    """The addresses of lines ``first`` …"""
    data = context.make_array(kind)(context, builder, lines).data
    if _is_one(kind):
        return [builder.ptrtoint(data, _I64)]
    return [builder.load(builder.gep(data, [builder.add(first, _number(b))])) for b in range(count)]


class _Tile(Rows):
    """Emits code that walks along a tile, vector by vector; the last vector is masked."""

    def __init__(self, builder: ir.IRBuilder, dtype: types.Float, width: Any) -> None:
        super().__init__(builder, dtype, 1)
        self.others = builder.sdiv(builder.sub(width, _number(1)), _number(self.lanes))
        rest = builder.sub(width, builder.mul(self.others, _number(self.lanes)))
        numbers = ir.Constant(ir.VectorType(_I64, self.lanes), list(range(self.lanes)))
        undefined = ir.Constant(numbers.type, ir.Undefined)
        first = builder.insert_element(undefined, rest, _number(0))
        everywhere = ir.Constant(ir.VectorType(_I32, self.lanes), [0] * self.lanes)
        limit = builder.shuffle_vector(first, undefined, everywhere)
        self.mask = builder.icmp_signed("<", numbers, limit)

    def get(self, address: Any) -> Any:
        """The whole vector at an address."""
        return self.b.load(self._at(address, 0), align=self.size)

    def _get_masked(self, address: Any) -> Any:
        args = [self._at(address, 0), ir.Constant(_I32, self.size), self.mask, self.zero]
        return self._call(f"llvm.masked.load.{self.name}.p0", self.vector, args)

    def _set_masked(self, vector: Any, address: Any) -> None:
        args = [vector, self._at(address, 0), ir.Constant(_I32, self.size), self.mask]
        self._call(f"llvm.masked.store.{self.name}.p0", ir.VoidType(), args)

    def set(self, vector: Any, address: Any) -> None:
        """Write a whole vector to an address."""
        self.b.store(vector, self._at(address, 0), align=self.size)

    def walk(self, carried: Sequence[Any], body: Callable) -> list[Any]:
        """``carried = body(offset, get, set, carried)`` for every vector of the tile."""

        def whole(k: Any, values: Sequence[Any]) -> list[Any]:
            return body(self.b.mul(k, _number(VECTOR_BYTES)), self.get, self.set, values)

        carried = loop(self.b, _number(0), self.others, carried, whole)
        end = self.b.mul(self.others, _number(VECTOR_BYTES))
        return body(end, self._get_masked, self._set_masked, carried)

    def prefetch(self, address: Any) -> None:
        """Ask for the cache line at an address, into the second cache."""
        pointer = ir.IntType(8).as_pointer()
        hints = [ir.Constant(_I32, hint) for hint in (0, 2, 1)]  # to be read; soon, not at once; data
        self._call("llvm.prefetch.p0", ir.VoidType(), [self.b.inttoptr(address, pointer), *hints])


def _for_each_size(builder: ir.IRBuilder, rows: Any, members: Any, most: int, emit: Callable) -> None:
    """Emit code for 1 and :data:`ROWS` rows, each with 1 … ``most`` lines, and branch to the right one."""
    after = builder.function.append_basic_block("after")
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
    typingctx, like, rows, a, stride, members, first, x, x_offset, sums, sums_offset, width, is_first
):
    """sums[b, i] (+)= A_i ∘ x_b over a tile, lane by lane; ``a`` is an address, offsets are in bytes."""
    dtype, most = like.dtype, 1 if _is_one(x) else MEMBERS
    signature = types.void(
        like, *[types.int64] * 5, x, types.int64, sums, types.int64, types.int64, types.boolean
    )

    def codegen(context, builder, signature, args):
        _, rows, a, stride, members, first, x, x_offset, sums, sums_offset, width, is_first = args
        tile = _Tile(builder, dtype, width)

        def emit(rows, members):
            a_at = [builder.add(a, builder.mul(stride, _number(i))) for i in range(rows)]
            x_at = _addresses(context, builder, signature.args[6], x, first, members)
            s_at = _addresses(context, builder, signature.args[8], sums, first, members)
            x_at = [builder.add(at, x_offset) for at in x_at]
            s_at = [
                builder.add(at, builder.add(sums_offset, _number(VECTOR_BYTES * i)))
                for at in s_at
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

        _for_each_size(builder, rows, members, most, emit)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def _add_tile(typingctx, like, rows, a, stride, members, first, r, r_offset, g, g_offset, width, ahead):
    """g_b += Σ_i r[b, i] A_i over a tile, and prefetch A so many bytes ahead of it."""
    dtype, most = like.dtype, 1 if _is_one(r) else MEMBERS
    signature = types.void(like, *[types.int64] * 5, r, types.int64, g, *[types.int64] * 3)

    def codegen(context, builder, signature, args):
        _, rows, a, stride, members, first, r, r_offset, g, g_offset, width, ahead = args
        tile = _Tile(builder, dtype, width)

        def emit(rows, members):
            a_at = [builder.add(a, builder.mul(stride, _number(i))) for i in range(rows)]
            r_at = _addresses(context, builder, signature.args[6], r, first, members)
            g_at = _addresses(context, builder, signature.args[8], g, first, members)
            g_at = [builder.add(at, g_offset) for at in g_at]
            weights = [
                [tile.splat(tile.scalar_at(builder.add(at, r_offset), _number(i))) for i in range(rows)]
                for at in r_at
            ]

            def body(offset, get, put, _carried):
                totals = [get(builder.add(at, offset)) for at in g_at]
                for i in range(rows):
                    v = get(builder.add(a_at[i], offset))
                    totals = [tile.fma(v, weights[b][i], total) for b, total in enumerate(totals)]
                for at in a_at:
                    tile.prefetch(builder.add(builder.add(at, offset), ahead))
                for total, at in zip(totals, g_at, strict=True):
                    put(total, builder.add(at, offset))
                return []

            tile.walk([], body)

        _for_each_size(builder, rows, members, most, emit)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def _sum_of_lanes(typingctx, like, address):
    """The sum of the elements of the vector at an address."""
    dtype = like.dtype

    def codegen(context, builder, signature, args):
        rows = Rows(builder, dtype, 1)
        total = rows.totals(rows.load(args[1]))
        return builder.extract_element(total, ir.Constant(_I32, 0))

    return dtype(like, types.int64), codegen


def count_of(lines):
    """How many lines there are."""


@overload(count_of)
def _count_of(lines):
    return (lambda lines: 1) if _is_one(lines) else (lambda lines: lines.size)


def address_of(lines, b):
    """Where line b lies."""


@overload(address_of)
def _address_of(lines, b):
    return (lambda lines, b: lines.ctypes.data) if _is_one(lines) else (lambda lines, b: lines[b])


@kernel
def padded(width, like):
    """Bytes of a line of so many elements in whole vectors."""
    lanes = VECTOR_BYTES // like.itemsize
    return -(-width // lanes) * VECTOR_BYTES


@kernel
def _dot_rows(a, width, first, groups, rows, x, work, slot, out):
    """out[b, i] = ⟨A_i, x_b⟩ for so many groups of ``rows`` rows from ``first`` on."""
    size, tile, count = a.itemsize, TILE * VECTOR_BYTES // a.itemsize, count_of(x)
    stride, sums = a.strides[0], slot + padded(width, a)
    for q in range(0, width, tile):
        for i in range(0, groups * rows, rows):
            lines = a.ctypes.data + (first + i) * stride + q * size
            for b in range(0, count, MEMBERS):
                _dot_tile(
                    a, rows, lines, stride, min(MEMBERS, count - b), b, x, q * size, work,
                    sums + i * VECTOR_BYTES, min(tile, width - q), q == 0,
                )  # fmt: skip
    for b in range(count):
        products = vector_at(address_of(out, b) + first * size, groups * rows, a)
        for i in range(groups * rows):
            products[i] = _sum_of_lanes(a, address_of(work, b) + sums + i * VECTOR_BYTES)


@kernel
def _add_rows(a, width, first, groups, rows, r, work, slot):
    """g_b += Σ_i r[b, i] A_i over so many groups of ``rows`` rows from ``first`` on."""
    size, tile, count = a.itemsize, TILE * VECTOR_BYTES // a.itemsize, count_of(r)
    stride = a.strides[0]
    for q in range(0, width, tile):
        for i in range(first, first + groups * rows, rows):
            lines = a.ctypes.data + i * stride + q * size
            for b in range(0, count, MEMBERS):
                _add_tile(
                    a, rows, lines, stride, min(MEMBERS, count - b), b, r, i * size, work, slot + q * size,
                    min(tile, width - q), groups * rows * stride if b == 0 else 0,
                )  # fmt: skip


@kernel
def _rows_at_once(last, i, count):
    """How many groups of how many rows to take from i on, of those below ``last``, for so many lines."""
    if last - i < ROWS:
        return 1, 1
    return min(GROUPS, max(1, count // MEMBERS), (last - i) // ROWS), ROWS


@kernel
def measure_rows(a, width, first, last, x, work, slot, out):
    """out[b, i] = ⟨A_i, x_b⟩ for first ≤ i < last."""
    compile_apart()
    i = first
    while i < last:
        groups, rows = _rows_at_once(last, i, count_of(x))
        _dot_rows(a, width, i, groups, rows, x, work, slot, out)
        i += groups * rows


@kernel
def residual_rows(a, width, first, last, x, values, scale, work, slot, r):
    """r[b, i] = c (⟨A_i, x_b⟩ − y_i) for first ≤ i < last, and g_b = Σ_i r[b, i] A_i.

    g_b is written to the scratch memory ``work``, from byte ``slot`` of its lines on; behind it are kept
    running sums.
    """
    compile_apart()
    scale = a.dtype.type(scale)
    for b in range(count_of(x)):
        g = vector_at(address_of(work, b) + slot, width, a)
        for k in range(width):
            g[k] = 0
    i = first
    while i < last:
        groups, rows = _rows_at_once(last, i, count_of(x))
        _dot_rows(a, width, i, groups, rows, x, work, slot, r)
        for b in range(count_of(x)):
            misfits = vector_at(address_of(r, b), last, a)
            for k in range(i, i + groups * rows):
                misfits[k] = scale * (misfits[k] - values[k])
        _add_rows(a, width, i, groups, rows, r, work, slot)
        i += groups * rows
