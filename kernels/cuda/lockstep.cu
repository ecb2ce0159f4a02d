// Many small trials, a block each, for as many steps as each may take: between these nothing is launched.
//
// All trials share the problem; each has a home, one stretch of memory for its matrices and all that evaluating
// them needs.  Homes are read and written by one block alone, which waits at barriers for itself: they must
// not be read through the cache for constants, so no pointer into them is declared __restrict__.

#include "common.cuh"

// A product has at most TILE EACH = 64 rows and columns: a thread holds EACH × EACH of its elements.
constexpr int TILE = 16, EACH = 4;

// What is said of each matrix: its shape, where it lies in a point, and where in a home are P_j and Δ_j.
enum Plan { ROWS, COLS, AT, PREFIX, DELTA, PLANNED };
// What is said to each block.
enum Order { MOST_STEPS, UNTIL, FIRST_PAIR, PAIRS, NEEDS_NORM, ORDERED };

struct Trial {
  const int* plan;
  int left, right, width, size, entries;
  real *home, *point, *next, *velocity, *new_velocity, *gradient, *z;

  __device__ __forceinline__ int of(int j, Plan what) const { return plan[j * PLANNED + what]; }
  __device__ __forceinline__ int head(int j) const { return j < left ? 0 : left; }
  // P_j = M₁ … M_j along the chain of matrix j, and Δ_j, the gradient in it.
  __device__ __forceinline__ real* prefix(int j) const {
    return j == head(j) ? point + of(j, AT) : home + of(j, PREFIX);
  }
  __device__ __forceinline__ real* delta(int j) const {
    return j == head(j) ? gradient + of(j, AT) : home + of(j, DELTA);
  }
  __device__ __forceinline__ real* left_end() const { return prefix(left - 1); }
  __device__ __forceinline__ real* right_end() const { return prefix(left + right - 1); }
  __device__ __forceinline__ void swap() {
    real* const p = point;
    point = next, next = p;
    real* const v = velocity;
    velocity = new_velocity, new_velocity = v;
  }
};

// C = A B, with A (n × inner) and B (inner × p), whose next row and next column lie so many elements on.
//
// A thread has every 16th row and column.
__device__ __forceinline__ void multiply(
    const real* a, int a_row, int a_col, const real* b, int b_row, int b_col, real* c, int n, int inner, int p) {
  const int i = threadIdx.x / TILE, j = threadIdx.x % TILE;
  real sum[EACH][EACH] = {};
  for (int k = 0; k < inner; ++k) {
    real x[EACH], y[EACH];
    for (int u = 0; u < EACH; ++u) {  // beyond the edges the last is read again, and not written
      x[u] = a[min(i + u * TILE, n - 1) * a_row + k * a_col];
      y[u] = b[k * b_row + min(j + u * TILE, p - 1) * b_col];
    }
    for (int u = 0; u < EACH; ++u)
      for (int v = 0; v < EACH; ++v) sum[u][v] = fma(x[u], y[v], sum[u][v]);
  }
  for (int u = 0; u < EACH; ++u)
    for (int v = 0; v < EACH; ++v)
      if (i + u * TILE < n && j + v * TILE < p) c[(i + u * TILE) * p + j + v * TILE] = sum[u][v];
}

// All prefix products of both chains.
__device__ __forceinline__ void compose(const Trial& t) {
  for (int j = 1; j < t.left + t.right; ++j) {
    if (j == t.left) continue;
    const int n = t.of(t.head(j), ROWS), inner = t.of(j, ROWS), p = t.of(j, COLS);
    multiply(t.prefix(j - 1), inner, 1, t.point + t.of(j, AT), p, 1, t.prefix(j), n, inner, p);
    __syncthreads();
  }
}

// z_e = c (⟨L_i, R_j⟩ − y_e), and the squares of this thread's ⟨L_i, R_j⟩ − y_e.
__device__ __forceinline__ double residual(
    const Trial& t, const int* __restrict__ rows, const int* __restrict__ cols, const real* __restrict__ values,
    real scale) {
  const real *left = t.left_end(), *right = t.right_end();
  const int rank = threadIdx.x % SHARE;
  double squares = 0.0;
  for (int base = 0; base < t.entries; base += BLOCK / SHARE) {
    const int e = base + threadIdx.x / SHARE;
    real w = 0;
    if (e < t.entries)
      for (int q = rank; q < t.width; q += SHARE)
        w = fma(left[rows[e] * t.width + q], right[cols[e] * t.width + q], w);
    w = sum_over<SHARE>(w);
    if (rank != 0 || e >= t.entries) continue;
    const real difference = w - values[e];
    squares = fma((double)difference, (double)difference, squares);
    t.z[e] = scale * difference;
  }
  return squares;
}

// The gradient in all matrices: with P_j = P_{j−1} M_j,  ∂ℓ/∂M_j = P_{j−1}ᵀ Δ_j  and  Δ_{j−1} = Δ_j M_jᵀ.
//
// ``starts``, ``index`` and ``order`` list Z by rows and then by columns, or Z + Zᵀ.
__device__ __forceinline__ void pull_back(
    const Trial& t, const long long* __restrict__ starts, const int* __restrict__ index,
    const int* __restrict__ order, int owners) {
  const int last = t.left + t.right - 1, elements = t.of(0, ROWS) * t.width;
  real *in_left = t.delta(t.left - 1), *in_right = t.delta(last);
  for (int k = threadIdx.x; k < owners * t.width; k += BLOCK) {
    const bool is_left = k < elements;
    const real* other = is_left ? t.right_end() : t.left_end();
    real* out = is_left ? in_left + k : in_right + (k - elements);
    *out = gathered(starts, index, order, t.z, other, t.width, k / t.width, k % t.width);
  }
  __syncthreads();
  for (int j = last; j > 0; --j) {
    if (j == t.left) continue;
    const int n = t.of(t.head(j), ROWS), inner = t.of(j, ROWS), p = t.of(j, COLS);
    multiply(t.prefix(j - 1), 1, inner, t.delta(j), p, 1, t.gradient + t.of(j, AT), inner, n, p);
    multiply(t.delta(j), p, 1, t.point + t.of(j, AT), 1, p, t.delta(j - 1), n, p, inner);
    __syncthreads();
  }
}

__device__ __forceinline__ double gradient_squares(const Trial& t) {
  double squares = 0.0;
  for (int k = threadIdx.x; k < t.size; k += BLOCK)
    squares = fma((double)t.gradient[k], (double)t.gradient[k], squares);
  return squares;
}

// v' = μ v + g,  next = point − STEP v'.
__device__ __forceinline__ void move(const Trial& t, real step, real momentum) {
  for (int k = threadIdx.x; k < t.size; k += BLOCK) {
    real v = t.gradient[k];
    if (momentum != 0) {
      v = fma(momentum, t.velocity[k], v);
      t.new_velocity[k] = v;
    }
    t.next[k] = fma(-step, v, t.point[k]);
  }
  __syncthreads();
}

// Leave point and velocity where they were found.
__device__ __forceinline__ void settle_in(const Trial& t, real momentum) {
  if (t.point == t.home) return;
  for (int k = threadIdx.x; k < t.size; k += BLOCK) {
    t.next[k] = t.point[k];
    if (momentum != 0) t.new_velocity[k] = t.velocity[k];
  }
}

// Block b advances trial b, which lives at ``homes[b]``, as ``orders[b]`` says; its state is ``states[b]``.
//
// A home holds point, next point, gradient, two velocities if there is momentum, z, and products along the
// chains.  The step is lr, or that of GroupRMSprop if ``is_paced``.  With no steps to take, loss and gradient
// are found.
// A launch: Bytes: 4 size b;  a step of a trial: flops: S (6 width + 4) + 2 size.  With momentum, 2 size b and
// 2 size more; 2 size more for the norm of the gradient, and 6 n inner p for each product along a chain.
extern "C" __global__ void __launch_bounds__(BLOCK, 2) advance_each(
    const long long* homes, const int* __restrict__ plan, int left, int right, int size,
    const int* __restrict__ rows, const int* __restrict__ cols, const real* __restrict__ values, int entries,
    const long long* __restrict__ starts, const int* __restrict__ index, const int* __restrict__ order,
    int owners, double scale, int is_paced, double lr, double alpha, double eps, real momentum,
    const double* __restrict__ orders, const double* __restrict__ pairs, double* states) {
  SHARED_ARRAY(double, slots, BLOCK);
  SHARED_ARRAY(double, state, SLOTS);
  double* const own = states + (long long)blockIdx.x * SLOTS;
  if (own[EVENT] != GOING) return;
  if (threadIdx.x < SLOTS) state[threadIdx.x] = own[threadIdx.x];
  const double* told = orders + (long long)blockIdx.x * ORDERED;
  const bool needs_norm = told[NEEDS_NORM] != 0;

  real* const home = (real*)homes[blockIdx.x];
  real* const old = home + 3 * size;
  Trial t = {plan, left, right, plan[(left - 1) * PLANNED + COLS], size, entries, home, home, home + size,
             old, old + size, home + 2 * size, momentum != 0 ? old + 2 * size : old};
  for (bool moved = false;; moved = true) {
    compose(t);
    const double loss = 0.5 * scale * block_sum(residual(t, rows, cols, values, (real)scale), slots);
    double squared = 0.0;
    if (needs_norm) {
      pull_back(t, starts, index, order, owners);
      squared = block_sum(gradient_squares(t), slots);
    }
    if (threadIdx.x == 0)
      arrive(state, loss, needs_norm, squared, moved, pairs + 2 * (long long)told[FIRST_PAIR],
             (int)told[PAIRS], told[UNTIL]);
    __syncthreads();
    if (state[EVENT] != GOING || state[TAKEN] >= told[MOST_STEPS]) break;
    if (!needs_norm) pull_back(t, starts, index, order, owners);
    if (is_paced && !needs_norm) squared = block_sum(gradient_squares(t), slots);
    if (threadIdx.x == 0) {
      if (is_paced) state[GRADIENT_SQUARED] = squared;
      state[STEP] = lr;
      if (is_paced) set_pace(state, lr, alpha, eps);
    }
    __syncthreads();  // before the step is read
    move(t, (real)state[STEP], momentum);
    t.swap();
  }
  if (state[EVENT] == DIVERGED) t.swap();
  settle_in(t, momentum);
  if (threadIdx.x < SLOTS) own[threadIdx.x] = state[threadIdx.x];
}
