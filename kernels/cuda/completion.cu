// W on a sparse support Ω of S entries (i, j), numbered e row by row: W = L Rᵀ with rows of length ``width``.
//
// For UUᵀ, L and R are both U.

#include "common.cuh"

// z_e = c (⟨L_i, R_j⟩ − y_e), and partials[b] = Σ (⟨L_i, R_j⟩ − y_e)² over the entries of block b.
//
// Without values y is zero, and without partials no squares are summed: W is sampled.
// A warp takes ``per_warp`` entries in a row, its lanes the columns; blocks are 1-D.
// Bytes: S (2 width b + 8 + 2 b);  flops: S (2 width + 4).
extern "C" __global__ void __launch_bounds__(BLOCK, 4) sampled_residual(
    const real* __restrict__ left, const real* __restrict__ right, const int* __restrict__ rows,
    const int* __restrict__ cols, const real* __restrict__ values, real scale, long long entries, int width,
    int per_warp, const double* state, real* __restrict__ z, double* __restrict__ partials) {
  SHARED_ARRAY(double, of_warps, WARPS);
  if (state[EVENT] != GOING) return;
  const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
  const long long first = ((long long)blockIdx.x * WARPS + warp) * per_warp;
  const long long last = first + per_warp < entries ? first + per_warp : entries;
  double squares = 0.0;
  for (long long e = first; e < last; ++e) {
    const real* l = left + (long long)rows[e] * width;
    const real* r = right + (long long)cols[e] * width;
    real w = 0;
    for (int q = lane; q < width; q += WARP) w = fma(l[q], r[q], w);
    w = sum_over<WARP>(w);
    const real difference = w - (values ? values[e] : 0);
    squares = fma((double)difference, (double)difference, squares);
    if (lane == 0) z[e] = scale * difference;
  }
  if (partials) leave_sum_of_warps(squares, of_warps, partials);
}

// The same where W on the support is known, or is what moves: z_e = c (w_e − y_e), ``per_block`` entries a block.
//
// Without values and partials it is copied.
// Bytes: 3 S b;  flops: 4 S.
extern "C" __global__ void __launch_bounds__(BLOCK) entry_residual(
    const real* __restrict__ w, const real* __restrict__ values, real scale, long long entries,
    long long per_block, const double* state, real* __restrict__ z, double* __restrict__ partials) {
  SHARED_ARRAY(double, slots, BLOCK);
  if (state[EVENT] != GOING) return;
  const long long first = blockIdx.x * per_block;
  const long long last = first + per_block < entries ? first + per_block : entries;
  double squares = 0.0;
  for (long long e = first + threadIdx.x; e < last; e += BLOCK) {
    const real difference = w[e] - (values ? values[e] : 0);
    squares = fma((double)difference, (double)difference, squares);
    z[e] = scale * difference;
  }
  if (!partials) return;
  const double total = block_sum(squares, slots);
  if (threadIdx.x == 0) partials[blockIdx.x] = total;
}

// Element q of Σ_e z_e D_j over the entries e = order[a] that lie in row i, D_j being row index[a].
//
// Row by row that is Z R, column by column Zᵀ L, and over both lists joined (Z + Zᵀ) U: three lists, one code,
// and every sum is one thread's own.
__device__ __forceinline__ real gathered(
    const long long* __restrict__ starts, const int* __restrict__ index, const int* __restrict__ order,
    const real* __restrict__ z, const real* __restrict__ dense, int width, long long i, int q) {
  real sum = 0;
  for (long long a = starts[i]; a < starts[i + 1]; ++a)
    sum = fma(z[order[a]], dense[(long long)index[a] * width + q], sum);
  return sum;
}

// out = Z D, the gradient in one side of W.
//
// A warp takes a row and 32 columns: blocks are ⌈rows / WARPS⌉ × ⌈width / WARP⌉.
// Bytes: S (width b + 8 + b) + rows (width b + 8);  flops: 2 S width.  S is the length of the list.
extern "C" __global__ void __launch_bounds__(BLOCK) gather(
    const long long* __restrict__ starts, const int* __restrict__ index, const int* __restrict__ order,
    const real* __restrict__ z, const real* __restrict__ dense, int rows, int width, const double* state,
    real* __restrict__ out) {
  if (state[EVENT] != GOING) return;
  const long long i = (long long)blockIdx.x * WARPS + threadIdx.x / WARP;
  const int q = blockIdx.y * WARP + threadIdx.x % WARP;
  if (i >= rows || q >= width) return;
  out[i * width + q] = gathered(starts, index, order, z, dense, width, i, q);
}

// The same, and the step of gradient descent at once: v' = μ v + Z D,  out = base − STEP v'.
//
// Without momentum (μ = 0) the velocities are not touched and may be null.  Blocks as for ``gather``.
// Bytes: S (width b + 8 + b) + rows (2 width b + 8);  flops: 2 (S + rows) width.  With momentum, 2 rows width b
// and 2 rows width more.
extern "C" __global__ void __launch_bounds__(BLOCK) gather_step(
    const long long* __restrict__ starts, const int* __restrict__ index, const int* __restrict__ order,
    const real* __restrict__ z, const real* __restrict__ dense, int rows, int width, const double* state,
    real momentum, const real* __restrict__ velocity, real* __restrict__ new_velocity,
    const real* __restrict__ base, real* __restrict__ out) {
  if (state[EVENT] != GOING) return;
  const long long i = (long long)blockIdx.x * WARPS + threadIdx.x / WARP;
  const int q = blockIdx.y * WARP + threadIdx.x % WARP;
  if (i >= rows || q >= width) return;
  const long long here = i * width + q;
  real v = gathered(starts, index, order, z, dense, width, i, q);
  if (momentum != 0) {
    v = fma(momentum, velocity[here], v);
    new_velocity[here] = v;
  }
  out[here] = fma(-(real)state[STEP], v, base[here]);
}
