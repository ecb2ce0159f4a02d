// Exact line search: the step η that makes the loss smallest along the gradient.
//
// As every factor moves to W_j − η G_j, W is a polynomial of degree N in ξ = −η, and so is the residual,
// r(η) = Σ_t c_t ξᵗ.  The loss is (c/2) ‖r(η)‖², whose coefficients are sums of inner products ⟨c_s, c_t⟩: of
// these few numbers one thread makes the step.

#include "common.cuh"

// A farther point counts if the loss is lower there by more than this fraction of the terms that cancel.
constexpr double BLUR = 1e-12;
// Largest binary exponent of a factor for a gradient.
constexpr int MOST = sizeof(real) == 8 ? 1000 : 120;

// out[t − 1, e] = the coefficient of ξᵗ, t ≥ 1, of ⟨L_i(ξ), R_j(ξ)⟩ on the support: Σ_{a + b = t} ⟨X_a,i, Y_b,j⟩.
//
// L(ξ) = Σ_a ξᵃ X_a has X_0 in ``left`` and X_1, X_2, … one after another in ``left_powers``, ``lefts`` matrices of
// ``left_size`` elements; R(ξ) = Σ_b ξᵇ Y_b likewise.  A warp takes ``per_warp`` entries in a row, its lanes the
// columns.
// Bytes: S ((lefts + rights + 2) width b + 8 + (lefts + rights) b);  flops: 2 S width (lefts rights + lefts + rights).
extern "C" __global__ void __launch_bounds__(BLOCK, 4) sampled_powers(
    const real* __restrict__ left, const real* __restrict__ right, const real* __restrict__ left_powers,
    const real* __restrict__ right_powers, int lefts, int rights, long long left_size, long long right_size,
    const int* __restrict__ rows, const int* __restrict__ cols, long long entries, int width, int per_warp,
    const double* state, real* __restrict__ out) {
  if (state[EVENT] != GOING) return;
  const int lane = threadIdx.x % WARP;
  const long long first = ((long long)blockIdx.x * WARPS + threadIdx.x / WARP) * per_warp;
  const long long last = min(first + per_warp, entries);
  for (long long e = first; e < last; ++e) {
    const long long i = (long long)rows[e] * width, j = (long long)cols[e] * width;
    for (int t = 1; t <= lefts + rights; ++t) {
      real w = 0;
      for (int a = max(0, t - rights); a <= min(t, lefts); ++a) {
        const real* x = (a == 0 ? left : left_powers + (a - 1) * left_size) + i;
        const real* y = (a == t ? right : right_powers + (t - a - 1) * right_size) + j;
        for (int q = lane; q < width; q += WARP) w = fma(x[q], y[q], w);
      }
      w = sum_over<WARP>(w);
      if (lane == 0) out[(t - 1) * entries + e] = w;
    }
  }
}

// Row s (s + 1) / 2 + t of ``partials``: ⟨c_s, c_t⟩, s ≥ t, over the ``per_block`` elements of each of ``blocks``.
//
// ``r`` stands for c_0, and c_1, c_2, … lie one after another in ``c``, ``size`` = S elements each.  Blocks are rows
// × ``blocks``.  A row: Bytes: 2 S b;  flops: 2 S.
extern "C" __global__ void __launch_bounds__(BLOCK) inner_products(
    const real* __restrict__ r, const real* __restrict__ c, long long size, long long per_block, int blocks,
    const double* state, double* __restrict__ partials) {
  SHARED_ARRAY(double, slots, BLOCK);
  if (state[EVENT] != GOING) return;
  int s = 0, t = blockIdx.x;
  while (t > s) t -= ++s;
  const real* x = s == 0 ? r : c + (s - 1) * size;
  const real* y = t == 0 ? r : c + (t - 1) * size;
  const long long first = blockIdx.y * per_block, last = min(first + per_block, size);
  double mine = 0.0;
  for (long long i = first + threadIdx.x; i < last; i += BLOCK) mine = fma((double)x[i], (double)y[i], mine);
  const double total = block_sum(mine, slots);
  if (threadIdx.x == 0) partials[(long long)blockIdx.x * blocks + blockIdx.y] = total;
}

// gradient ← UNIT gradient, of a norm of about 1: UNIT is a power of two, which changes no digit.
//
// Powers of a small gradient underflow, long before their products with powers of the step do.  Each block adds up
// the ``count`` partial sums of squares by itself, and takes ``per_block`` elements; there are count / 8 blocks.
// Bytes: 2 size b + count²;  flops: size + count² / 8.
extern "C" __global__ void __launch_bounds__(BLOCK) normalize(
    const double* __restrict__ partials, int count, real* __restrict__ gradient, long long size, long long per_block,
    double* state) {
  SHARED_ARRAY(double, slots, BLOCK);
  if (state[EVENT] != GOING) return;
  const double squared = sum_of(partials, count, slots);
  double unit = 1.0;
  if (squared > 0.0 && is_finite(squared)) unit = ldexp(1.0, min(MOST, max(-MOST, -1 - ilogb(sqrt(squared)))));
  const long long first = blockIdx.x * per_block, last = min(first + per_block, size);
  for (long long i = first + threadIdx.x; i < last; i += BLOCK) gradient[i] *= (real)unit;
  if (blockIdx.x == 0 && threadIdx.x == 0) state[UNIT] = unit;
}

// Σ_d p[d] xᵈ.
__device__ __forceinline__ double horner(const double* p, int degree, double x) {
  double value = 0.0;
  for (int d = degree; d >= 0; --d) value = fma(value, x, p[d]);
  return value;
}

// The root of a polynomial between two points where its signs differ: Newton inside a bracket.
//
// It starts where the secant meets zero, which is near the root if the polynomial is nearly a line there.
__device__ __forceinline__ double root_between(
    const double* p, const double* slopes, int degree, double low, double high, double at_low, double at_high) {
  const bool rises = at_low < 0.0;
  double x = low - at_low * (high - low) / (at_high - at_low);
  if (!(low < x && x < high)) x = 0.5 * (low + high);
  for (int k = 0; k < 200; ++k) {
    const double value = horner(p, degree, x);
    if (value == 0.0) return x;
    if ((value < 0.0) == rises)
      low = x;
    else
      high = x;
    const double slope = horner(slopes, degree - 1, x);
    double moved = slope != 0.0 ? x - value / slope : low;
    if (!(low < moved && moved < high)) moved = 0.5 * (low + high);
    if (fabs(moved - x) <= 2.3e-16 * fabs(moved)) return moved;
    x = moved;
  }
  return x;
}

// All sign changes in (0, bound) of p_0 + p_1 x + p_2 x², of degree 1 or 2, ascending in ``roots``; how many.
__device__ __forceinline__ int positive_roots_of_quadratic(const double* p, int degree, double bound, double* roots) {
  if (degree == 0) return 0;
  if (degree == 1) {
    roots[0] = -p[0] / p[1];
    return 0.0 < roots[0] && roots[0] < bound;
  }
  const double discriminant = fma(p[1], p[1], -4.0 * p[0] * p[2]);
  if (!(discriminant > 0.0)) return 0;
  const double q = -0.5 * (p[1] + copysign(sqrt(discriminant), p[1]));  // without cancellation
  const double low = fmin(q / p[2], p[0] / q), high = fmax(q / p[2], p[0] / q);
  int found = 0;
  if (0.0 < low && low < bound) roots[found++] = low;
  if (0.0 < high && high < bound) roots[found++] = high;
  return found;
}

// All sign changes in (0, bound) of the polynomial in row 0 of ``ladder``, ascending in ``roots``; how many.
//
// Row k is filled with the k-th derivative.  Between neighbouring roots of a derivative a polynomial is
// monotone, so climbing from the quadratic derivative upward finds every root.
__device__ __forceinline__ int positive_roots(
    double* ladder, int row, int degree, double bound, double* roots, double* brackets) {
  for (int k = 1; k <= degree; ++k)
    for (int d = 0; d <= degree - k; ++d) ladder[k * row + d] = ladder[(k - 1) * row + d + 1] * (d + 1);
  const int start = max(degree - 2, 0);
  int found = positive_roots_of_quadratic(ladder + start * row, degree - start, bound, roots);
  for (int k = start - 1; k >= 0; --k) {
    const double* p = ladder + k * row;
    // brackets: 0, the roots of the derivative one higher, bound
    brackets[0] = 0.0;
    for (int i = 0; i < found; ++i) brackets[i + 1] = roots[i];
    brackets[found + 1] = bound;
    const int intervals = found + 1;
    found = 0;
    for (int i = 0; i < intervals; ++i) {
      const double low = brackets[i], high = brackets[i + 1];
      const double at_low = horner(p, degree - k, low), at_high = horner(p, degree - k, high);
      if ((at_low < 0.0) != (at_high < 0.0))
        roots[found++] = root_between(p, p + row, degree - k, low, high, at_low, at_high);
    }
  }
  return found;
}

// The global minimizer over 0 < η ≤ max_step of the polynomial Σ_d loss[d] ηᵈ, 0 if it never falls.
//
// Of points that rounding does not tell apart it is the nearest: far out huge terms cancel, which they no longer
// do when the factors are there.
// ``loss`` is overwritten; ``ladder`` has at least degree + 2 rows of degree + 2 numbers.
__device__ __forceinline__ double minimizing_step(double* loss, int degree, double max_step, double* ladder, int row) {
  while (degree > 0 && loss[degree] == 0.0) --degree;
  if (degree == 0 || loss[0] <= 0.0) return 0.0;
  // In units where the constant and the leading coefficient are equal, all coefficients are tame.
  const double unit = pow(loss[0] / fabs(loss[degree]), 1.0 / degree);
  double power = 1.0 / loss[0];
  for (int d = 0; d <= degree; ++d) loss[d] *= power, power *= unit;
  for (int d = 0; d < degree; ++d) ladder[d] = loss[d + 1] * (d + 1);
  // All roots of q lie below 2 max_k |q_{top − k} / q_top|^(1/k) (Fujiwara 1916).
  const int top = degree - 1;
  double bound = 0.0;
  for (int k = 1; k <= top; ++k) bound = fmax(bound, pow(fabs(ladder[top - k] / ladder[top]), 1.0 / k));
  bound = fmin(2.0 * bound, max_step / unit);
  double* const roots = ladder + degree * row;
  const int found = positive_roots(ladder, row, top, bound, roots, roots + row);
  roots[found] = bound;
  // Compared without the constant: near a saddle the loss falls by less than a rounding of itself.
  loss[0] = 0.0;
  double best = 0.0, best_fall = 0.0;
  double* const sizes = ladder;
  for (int d = 0; d <= degree; ++d) sizes[d] = fabs(loss[d]);
  for (int i = 0; i <= found; ++i) {
    const double value = horner(loss, degree, roots[i]);
    if (value < best_fall - BLUR * horner(sizes, degree, roots[i])) best = roots[i], best_fall = value;
  }
  return best * unit;
}

// ⟨c_s, c_t⟩ for s ≥ t: in their sums c_0 still stands multiplied by the scale of the loss.
__device__ __forceinline__ double inner(const double* sums, int s, int t, double scale) {
  const double sum = sums[s * (s + 1) / 2 + t];
  return t > 0 ? sum : s > 0 ? sum / scale : sum / (scale * scale);
}

// The degree without leading coefficients that are below 1e-60 of c_0 at any sensible step.
//
// Near a fit ⟨c_N, c_N⟩ may underflow while ⟨c_N, c_s⟩ does not; what is left of the polynomial would then be
// unbounded below.  Without c_N altogether it is a sum of squares again.
__device__ __forceinline__ int degree_that_counts(const double* sums, int degree, double scale) {
  const double nothing = -2.0 * 60.0 * log(10.0);
  const double size = log(inner(sums, 0, 0, scale));
  const double unit = size - log(inner(sums, 1, 1, scale));  // of the square of the step ‖c_0‖ / ‖c_1‖
  while (degree > 1 && log(inner(sums, degree, degree, scale)) + degree * unit < size + nothing) --degree;
  return degree;
}

// STEP, the global minimizer of the loss along UNIT times the gradient over (0, max_step / UNIT], from the ``sums``
// ⟨c_s, c_t⟩ as ``inner_products`` orders them; 0 if the loss never falls.
//
// One thread of one block; ``ladder`` has room for 2 N + 3 rows of 2 N + 2 numbers, N being ``degree``.
// Bytes: 4 (N + 1) (N + 2) + 8 (2 N + 3) (2 N + 2);  flops: 30 N³.  At depths
// 2 to 4, 0.7 to 1.4 times as many were counted in 30 steps each, and in no step more than 4.2 times.
extern "C" __global__ void __launch_bounds__(BLOCK) exact_step(
    const double* __restrict__ sums, int degree, double scale, double max_step, double* ladder, double* state) {
  if (state[EVENT] != GOING || threadIdx.x != 0) return;
  const int row = 2 * degree + 2;
  double* const loss = ladder + (2 * degree + 2) * row;
  degree = degree_that_counts(sums, degree, scale);
  for (int d = 0; d <= 2 * degree; ++d) loss[d] = 0.0;
  for (int s = 0; s <= degree; ++s)
    for (int t = 0; t <= s; ++t) {
      const double sign = (s + t) % 2 ? -1.0 : 1.0;  // ξ = −η
      loss[s + t] = fma(s == t ? sign : 2.0 * sign, inner(sums, s, t, scale), loss[s + t]);
    }
  state[STEP] = minimizing_step(loss, 2 * degree, max_step / state[UNIT], ladder, row);
}
