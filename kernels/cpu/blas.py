"""Dense products, by the BLAS that SciPy brings."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.linalg import ensure_blas

from fastdmf.kernels.cpu.compilation import kernel

ensure_blas()  # binds the symbol that is called below


@intrinsic
def _gemm(typingctx, like, transa, transb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
    """BLAS ?gemm on column-major matrices at addresses, by the entry that Numba's own ``np.dot`` uses.

    ``np.dot`` itself takes contiguous arrays only, and can neither scale nor add.
    """
    char, size, pointer = ir.IntType(8), ir.IntType(64), ir.IntType(8).as_pointer()
    kind = "s" if like.dtype == types.float32 else "d"

    def codegen(context, builder, signature, args):
        _, transa, transb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc = args
        arguments = [char] * 3 + [size] * 3 + [pointer, pointer, size, pointer, size, pointer, pointer, size]
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.IntType(32), arguments), "numba_xxgemm"
        )

        def letter(is_transposed):
            return builder.select(is_transposed, ir.Constant(char, ord("t")), ir.Constant(char, ord("n")))

        def slot(value):
            return builder.bitcast(cgutils.alloca_once_value(builder, value), pointer)

        a, b, c = (builder.inttoptr(address, pointer) for address in (a, b, c))
        values = [ir.Constant(char, ord(kind)), letter(transa), letter(transb), m, n, k]
        builder.call(function, [*values, slot(alpha), a, lda, b, ldb, slot(beta), c, ldc])
        return context.get_dummy_value()

    flags, scalar, number = [types.boolean] * 2, like.dtype, types.int64
    return types.void(like, *flags, *[number] * 3, scalar, *[number] * 4, scalar, number, number), codegen


@kernel
def multiply(x, x_transposed, y, y_transposed, scale, kept, out, like):
    """out ← kept · out + scale · X Y, for the places of X or Xᵀ, of Y or Yᵀ, and of the result."""
    inner = x.rows if x_transposed else x.cols
    # Row by row, out is what BLAS takes for its transpose: outᵀ = Yᵀ Xᵀ.
    _gemm(
        like, y_transposed, x_transposed, out.cols, out.rows, inner, like.dtype.type(scale),
        y.address, y.stride, x.address, x.stride, like.dtype.type(kept), out.address, out.stride,
    )  # fmt: skip
