// Linear measurements of W, given on its support: z = c (A w − y), and A* z there, for dense and for sparse A.
// Without values, y is zero and all of it is linear in w, as products with the Hessian need it.

#include "common.cuh"

// Rows of a dense A that a block holds at a time: each is read from memory once, for its measurement, and found
// in cache again for its share of A* z.
constexpr int AT_ONCE = 4;

// z_i = c (Σ_a A_ia w_a − y_i) for a sparse A by rows, and partials[b] = Σ (A w − y)_i² over those of block b.
//
// Without partials no squares are summed.  A warp takes ``per_warp`` measurements in a row, its lanes the entries.
// Bytes: nnz (4 + 2 b) + m (8 + 2 b);  flops: 2 nnz + 4 m.
extern "C" __global__ void __launch_bounds__(BLOCK) sparse_residual(
    const long long* __restrict__ starts, const int* __restrict__ index, const real* __restrict__ weights,
    const real* __restrict__ w, const real* __restrict__ values, real scale, int measurements, int per_warp,
    const double* state, real* __restrict__ z, double* __restrict__ partials) {
  SHARED_ARRAY(double, of_warps, WARPS);
  if (state[EVENT] != GOING) return;
  const int lane = threadIdx.x % WARP;
  const int first = (blockIdx.x * WARPS + threadIdx.x / WARP) * per_warp;
  const int last = min(first + per_warp, measurements);
  double squares = 0.0;
  for (int i = first; i < last; ++i) {
    real measured = 0;
    for (long long a = starts[i] + lane; a < starts[i + 1]; a += WARP)
      measured = fma(weights[a], w[index[a]], measured);
    measured = sum_over<WARP>(measured);
    const real difference = measured - (values ? values[i] : 0);
    squares = fma((double)difference, (double)difference, squares);
    if (lane == 0) z[i] = scale * difference;
  }
  if (partials) leave_sum_of_warps(squares, of_warps, partials);
}

// out_e = Σ_i A_ie z_i for a sparse A by columns: nothing is scattered.
//
// A few lanes share an entry.  Bytes: nnz (4 + 2 b) + S (8 + b);  flops: 2 nnz.
extern "C" __global__ void __launch_bounds__(BLOCK) sparse_adjoint(
    const long long* __restrict__ starts, const int* __restrict__ index, const real* __restrict__ weights,
    const real* __restrict__ z, long long entries, const double* state, real* __restrict__ out) {
  if (state[EVENT] != GOING) return;
  const long long e = ((long long)blockIdx.x * BLOCK + threadIdx.x) / SHARE;
  const int rank = threadIdx.x % SHARE;
  real sum = 0;
  if (e < entries)
    for (long long a = starts[e] + rank; a < starts[e + 1]; a += SHARE) sum = fma(weights[a], z[index[a]], sum);
  sum = sum_over<SHARE>(sum);
  if (e < entries && rank == 0) out[e] = sum;
}

// Where entry (i, j), i ≤ j, of a symmetric n × n matrix stands in its triangle, row by row.
__device__ __forceinline__ long long in_triangle(int i, int j, int n) {
  return (long long)i * n - (long long)i * (i - 1) / 2 + (j - i);
}

// What meets the triangles of symmetric A_i in W: w_ii, and w_ij + w_ji.
//
// Blocks are ⌈n / BLOCK⌉ × n.  Bytes: 3 n² b / 2;  flops: n² / 2.
extern "C" __global__ void __launch_bounds__(BLOCK) pack(
    const real* __restrict__ w, int n, const double* state, real* __restrict__ out) {
  if (state[EVENT] != GOING) return;
  const int i = blockIdx.y, j = blockIdx.x * BLOCK + threadIdx.x;
  if (j < i || j >= n) return;
  const real here = w[(long long)i * n + j];
  out[in_triangle(i, j, n)] = i == j ? here : here + w[(long long)j * n + i];
}

// Both at once for a dense A, m × K: slots[b] = Σ z_i A_i and partials[b] = Σ (⟨A_i, w⟩ − y_i)², over the
// ``per_block`` measurements of block b, with z_i = c (⟨A_i, w⟩ − y_i), which needs A_i alone.
//
// Without slots and partials W is measured: z alone is found.
// Bytes: m K b + blocks K b + m b;  flops: 4 m K.  Without slots, blocks K b and 2 m K less.
extern "C" __global__ void __launch_bounds__(BLOCK, 4) dense_residual(
    const real* __restrict__ a, long long width, const real* __restrict__ w, const real* __restrict__ values,
    real scale, int measurements, int per_block, const double* state, real* __restrict__ out,
    real* __restrict__ slots, double* __restrict__ partials) {
  SHARED_ARRAY(real, of_warps, AT_ONCE * WARPS);
  if (state[EVENT] != GOING) return;
  const int first = blockIdx.x * per_block, last = min(first + per_block, measurements);
  real* const slot = slots ? slots + blockIdx.x * width : nullptr;
  double squares = 0.0;
  for (int i = first; i < last; i += AT_ONCE) {
    const real* row[AT_ONCE];
    real z[AT_ONCE] = {};
    for (int u = 0; u < AT_ONCE; ++u) row[u] = a + min(i + u, last - 1) * width;  // the last again, for nothing
    for (long long k = threadIdx.x; k < width; k += BLOCK)
      for (int u = 0; u < AT_ONCE; ++u) z[u] = fma(row[u][k], w[k], z[u]);
    for (int u = 0; u < AT_ONCE; ++u) {
      z[u] = sum_over<WARP>(z[u]);
      if (threadIdx.x % WARP == 0) of_warps[u * WARPS + threadIdx.x / WARP] = z[u];
    }
    __syncthreads();
    for (int u = 0; u < AT_ONCE; ++u) {
      real difference = 0;
      if (i + u < last) {
        for (int k = 0; k < WARPS; ++k) difference += of_warps[u * WARPS + k];
        difference -= values ? values[i + u] : 0;
      }
      squares = fma((double)difference, (double)difference, squares);
      z[u] = scale * difference;
      if (threadIdx.x == 0 && i + u < last) out[i + u] = z[u];
    }
    __syncthreads();  // before the next rows' sums are written
    if (!slots) continue;
    for (long long k = threadIdx.x; k < width; k += BLOCK) {
      real sum = i == first ? 0 : slot[k];
      for (int u = 0; u < AT_ONCE; ++u) sum = fma(z[u], row[u][k], sum);
      slot[k] = sum;
    }
  }
  if (partials && threadIdx.x == 0) partials[blockIdx.x] = squares;
}

// out = factor Σ_b slots[b], an n × p matrix; from triangles if ``is_packed``, and then symmetric.
//
// A block takes 32 columns of a row, each warp every eighth slot: blocks are ⌈p / WARP⌉ × n.
// Bytes: count K b + n p b;  flops: count K.
extern "C" __global__ void __launch_bounds__(BLOCK) sum_slots(
    const real* __restrict__ slots, int count, int n, int p, int is_packed, real factor, const double* state,
    real* __restrict__ out) {
  SHARED_ARRAY(real, of_warps, BLOCK);
  if (state[EVENT] != GOING) return;
  const int lane = threadIdx.x % WARP, i = blockIdx.y, j = blockIdx.x * WARP + lane;
  const bool is_mine = j < p && !(is_packed && j < i);
  const long long width = is_packed ? in_triangle(n - 1, n - 1, n) + 1 : (long long)n * p;
  const long long here = is_packed ? in_triangle(i, j, n) : (long long)i * p + j;
  real sum = 0;
  if (is_mine)
    for (int b = threadIdx.x / WARP; b < count; b += WARPS) sum += slots[b * width + here];
  of_warps[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x >= WARP || !is_mine) return;
  sum = 0;
  for (int k = 0; k < WARPS; ++k) sum += of_warps[k * WARP + lane];
  out[(long long)i * p + j] = factor * sum;
  if (is_packed) out[(long long)j * p + i] = factor * sum;
}
