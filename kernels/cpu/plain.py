"""The functions of :mod:`simd` as ordinary loops, where explicit vectors are not wanted."""

from fastdmf.kernels.cpu.compilation import inlined, kernel
from fastdmf.kernels.cpu.tables import VECTOR_BYTES, vector_at


@inlined
def _row(place, i, width, like):
    """The first ``width`` elements of row i of a matrix, which has no tails here."""
    return vector_at(place.address + i * place.stride * like.itemsize, width, like)


@kernel
def dot_rows(like, count, left, dense, starts, indices, first, last, accumulate, w):
    """w_e (+)= ⟨left_i, dense[indices_e]⟩ for first ≤ i < last and starts_i ≤ e < starts_{i+1}."""
    width = count * VECTOR_BYTES // like.itemsize
    products = vector_at(w, starts[last], like)
    for i in range(first, last):
        x = _row(left, i, width, like)
        for e in range(starts[i], starts[i + 1]):
            y = _row(dense, indices[e], width, like)
            total = products[e] if accumulate else like.dtype.type(0)
            for k in range(width):
                total += x[k] * y[k]
            products[e] = total


@kernel
def dot_moved_rows(
    like, count, left, left_move, dense, dense_move, starts, indices, first, last, accumulate, linear,
    quadratic,
):  # fmt: skip
    """The coefficients of ξ and ξ² of ⟨left_i + ξ left_move_i, dense_j + ξ dense_move_j⟩, j = indices_e."""
    dot_rows(like, count, left, dense_move, starts, indices, first, last, accumulate, linear)
    dot_rows(like, count, left_move, dense, starts, indices, first, last, True, linear)
    dot_rows(like, count, left_move, dense_move, starts, indices, first, last, accumulate, quadratic)


@kernel
def sum_rows(like, count, weights, order, dense, starts, indices, first, last, scale, base, out):
    """out_i = base_i + scale Σ_e weights[order_e] dense[indices_e] over starts_i ≤ e < starts_{i+1}."""
    width = count * VECTOR_BYTES // like.itemsize
    z = vector_at(weights, 1, like)
    for i in range(first, last):
        total, start = _row(out, i, width, like), _row(base, i, width, like)
        for k in range(width):
            total[k] = start[k] if base.address != 0 else like.dtype.type(0)
        for e in range(starts[i], starts[i + 1]):
            y = _row(dense, indices[e], width, like)
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
