"""The functions of :mod:`simd` as ordinary loops, where explicit vectors are not wanted."""

from fastdmf.kernels.cpu.compilation import kernel
from fastdmf.kernels.cpu.tables import VECTOR_BYTES, vector_at


@kernel
def dot_rows(like, count, row, dense, stride, indices, first, last, accumulate, out):
    """out_e (+)= ⟨row, dense[indices_e]⟩ for first ≤ e < last."""
    width = count * VECTOR_BYTES // like.itemsize
    x, w = vector_at(row, width, like), vector_at(out, last, like)
    for e in range(first, last):
        y = vector_at(dense + indices[e] * stride, width, like)
        total = w[e] if accumulate else like.dtype.type(0)
        for k in range(width):
            total += x[k] * y[k]
        w[e] = total


@kernel
def sum_rows(like, count, weights, order, dense, stride, indices, first, last, scale, has_base, base, out):
    """Out = base + scale Σ_e weights[order_e] dense[indices_e] for first ≤ e < last."""
    width = count * VECTOR_BYTES // like.itemsize
    z, total, start = vector_at(weights, 1, like), vector_at(out, width, like), vector_at(base, width, like)
    for k in range(width):
        total[k] = start[k] if has_base else like.dtype.type(0)
    for e in range(first, last):
        y = vector_at(dense + indices[e] * stride, width, like)
        weight = scale * (z[e] if order is None else z[order[e]])
        for k in range(width):
            total[k] += weight * y[k]


@kernel
def transpose_rows(like, source, source_stride, rows, blocks, out, out_stride):
    """Out = the transpose of rows that are ``blocks`` vectors long."""
    for i in range(rows):
        x = vector_at(source + i * source_stride, blocks * VECTOR_BYTES // like.itemsize, like)
        for k in range(x.size):
            vector_at(out + k * out_stride, rows, like)[i] = x[k]
