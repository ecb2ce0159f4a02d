// The gradient flow: combinations of sets of matrices, their norms, and products with the Hessian.
//
// A set is a point, a gradient or a stage: ``size`` elements, all factors one after another.  All sets lie one
// after another, too, and are named by their numbers, because they change roles from step to step.

#include "common.cuh"

// The set ``to`` = Σ_k w_k (set s_k) over ``terms`` ≤ 6 terms, one of which may be ``to`` itself.
//
// A thread takes an element.  Bytes: (terms + 1) size b;  flops: 2 terms size.
extern "C" __global__ void __launch_bounds__(BLOCK) combine(
    real* sets, long long size, int to, int terms, int s0, int s1, int s2, int s3, int s4, int s5, real w0,
    real w1, real w2, real w3, real w4, real w5, const double* state) {
  if (state[EVENT] != GOING) return;
  const long long here = (long long)blockIdx.x * BLOCK + threadIdx.x;
  if (here >= size) return;
  real sum = w0 * sets[s0 * size + here];
  if (terms > 1) sum = fma(w1, sets[s1 * size + here], sum);
  if (terms > 2) sum = fma(w2, sets[s2 * size + here], sum);
  if (terms > 3) sum = fma(w3, sets[s3 * size + here], sum);
  if (terms > 4) sum = fma(w4, sets[s4 * size + here], sum);
  if (terms > 5) sum = fma(w5, sets[s5 * size + here], sum);
  sets[to * size + here] = sum;
}

// Row ``factors`` k + j of ``partials``: Σ x² over factor j of set s_k, by block; factor j ends before ends[j].
//
// Blocks are so many a row × rows.  A set: Bytes: size b;  flops: 2 size.
extern "C" __global__ void __launch_bounds__(BLOCK) set_squares(
    const real* __restrict__ sets, long long size, const long long* __restrict__ ends, int factors, int s0,
    int s1, int s2, long long per_block, int blocks, const double* state, double* __restrict__ partials) {
  SHARED_ARRAY(double, slots, BLOCK);
  if (state[EVENT] != GOING) return;
  const int k = blockIdx.y / factors, j = blockIdx.y % factors;
  const real* x = sets + (k == 0 ? s0 : k == 1 ? s1 : s2) * size;
  const long long first = (j == 0 ? 0 : ends[j - 1]) + blockIdx.x * per_block;
  const long long last = min(first + per_block, ends[j]);
  double mine = 0.0;
  for (long long i = first + threadIdx.x; i < last; i += BLOCK) mine = fma((double)x[i], (double)x[i], mine);
  const double total = block_sum(mine, slots);
  if (threadIdx.x == 0) partials[(long long)blockIdx.y * blocks + blockIdx.x] = total;
}

// totals[r] = weight Σ of row r of ``partials``, one block a row of ``count`` numbers.
//
// A row: Bytes: 8 count;  flops: count.
extern "C" __global__ void __launch_bounds__(BLOCK) total(
    const double* __restrict__ partials, int count, double weight, const double* state,
    double* __restrict__ totals) {
  SHARED_ARRAY(double, slots, BLOCK);
  if (state[EVENT] != GOING) return;
  const double sum = sum_of(partials + (long long)blockIdx.x * count, count, slots);
  if (threadIdx.x == 0) totals[blockIdx.x] = weight * sum;
}

// Ẇ on the support as L and R move along L̇ and Ṙ: ẇ_e = ⟨L̇_i, R_j⟩ + ⟨L_i, Ṙ_j⟩.
//
// A warp takes ``per_warp`` entries in a row, its lanes the columns.
// Bytes: S (4 width b + 8 + b);  flops: 4 S width.
extern "C" __global__ void __launch_bounds__(BLOCK) sampled_change(
    const real* __restrict__ left, const real* __restrict__ right, const real* __restrict__ left_dot,
    const real* __restrict__ right_dot, const int* __restrict__ rows, const int* __restrict__ cols,
    long long entries, int width, int per_warp, const double* state, real* __restrict__ w_dot) {
  if (state[EVENT] != GOING) return;
  const int lane = threadIdx.x % WARP;
  const long long first = ((long long)blockIdx.x * WARPS + threadIdx.x / WARP) * per_warp;
  const long long last = min(first + per_warp, entries);
  for (long long e = first; e < last; ++e) {
    const long long i = (long long)rows[e] * width, j = (long long)cols[e] * width;
    real w = 0;
    for (int q = lane; q < width; q += WARP) {
      w = fma(left_dot[i + q], right[j + q], w);
      w = fma(left[i + q], right_dot[j + q], w);
    }
    w = sum_over<WARP>(w);
    if (lane == 0) w_dot[e] = w;
  }
}

// out = Ż D + Z Ḋ, the derivative of what ``gather`` writes.  Blocks as there.
//
// Bytes: S (2 width b + 8 + 2 b) + rows (width b + 8);  flops: 4 S width.  S is the length of the list.
extern "C" __global__ void __launch_bounds__(BLOCK) gather_change(
    const long long* __restrict__ starts, const int* __restrict__ index, const int* __restrict__ order,
    const real* __restrict__ z, const real* __restrict__ z_dot, const real* __restrict__ dense,
    const real* __restrict__ dense_dot, int rows, int width, const double* state, real* __restrict__ out) {
  if (state[EVENT] != GOING) return;
  const long long i = (long long)blockIdx.x * WARPS + threadIdx.x / WARP;
  const int q = blockIdx.y * WARP + threadIdx.x % WARP;
  if (i >= rows || q >= width) return;
  real sum = 0;
  for (long long a = starts[i]; a < starts[i + 1]; ++a) {
    const long long there = (long long)index[a] * width + q;
    sum = fma(z_dot[order[a]], dense[there], sum);
    sum = fma(z[order[a]], dense_dot[there], sum);
  }
  out[i * width + q] = sum;
}
