// What moves a point, and what decides whether it goes on.  All factors lie one after another in one array
// of ``size`` elements, so each of these is one launch whatever the depth.

#include "common.cuh"

// v' = μ v + g,  out = base − STEP v', from a gradient that is written out.
//
// Without momentum the velocities are not touched and may be null.  A thread takes an element.
// Bytes: 3 size b;  flops: 2 size.  With momentum, 2 size b and 2 size more.
extern "C" __global__ void __launch_bounds__(BLOCK) descend(
    const real* __restrict__ gradient, long long size, const double* state, real momentum,
    const real* __restrict__ velocity, real* __restrict__ new_velocity, const real* __restrict__ base,
    real* __restrict__ out) {
  if (state[EVENT] != GOING) return;
  const long long here = (long long)blockIdx.x * BLOCK + threadIdx.x;
  if (here >= size) return;
  real v = gradient[here];
  if (momentum != 0) {
    v = fma(momentum, velocity[here], v);
    new_velocity[here] = v;
  }
  out[here] = fma(-(real)state[STEP], v, base[here]);
}

// partials[b] = Σ x² over the ``per_block`` elements of block b.
//
// Bytes: size b;  flops: 2 size.
extern "C" __global__ void __launch_bounds__(BLOCK) squares(
    const real* __restrict__ x, long long size, long long per_block, const double* state,
    double* __restrict__ partials) {
  SHARED_ARRAY(double, slots, BLOCK);
  if (state[EVENT] != GOING) return;
  const long long first = blockIdx.x * per_block;
  const long long last = first + per_block < size ? first + per_block : size;
  double mine = 0.0;
  for (long long i = first + threadIdx.x; i < last; i += BLOCK) mine = fma((double)x[i], (double)x[i], mine);
  const double total = block_sum(mine, slots);
  if (threadIdx.x == 0) partials[blockIdx.x] = total;
}

// By GRADIENT_SQUARED, the step of GroupRMSprop: v' = α v + (1 − α) Σ_j ‖g_j‖²,
// STEP = lr / (√(v' / (1 − αᵗ)) + eps).
__device__ __forceinline__ void set_pace(double* state, double lr, double alpha, double eps) {
  const double v = alpha * state[MEAN_SQUARE] + (1.0 - alpha) * state[GRADIENT_SQUARED];
  state[NEXT_MEAN_SQUARE] = v;
  state[STEP] = lr / (sqrt(v / (1.0 - pow(alpha, state[STEPS] + 1.0))) + eps);
}

// What the loss at a new point decides, and the square of the gradient's norm if that is known.
//
// If ``moved``, the point is the end of a step: without a finite loss the step counts as not taken and EVENT
// is DIVERGED; else it is counted, and EVENT is HALTED if loss and gradient norm lie at or below both numbers
// of one of the ``pairs`` (loss, norm), or the time has reached ``until``.
__device__ __forceinline__ void arrive(
    double* state, double loss, bool has_norm, double gradient_squared, bool moved, const double* pairs,
    int count, double until) {
  if (moved && !is_finite(loss)) {
    state[EVENT] = DIVERGED;
    return;
  }
  state[LOSS] = loss;
  if (has_norm) state[GRADIENT_SQUARED] = gradient_squared;
  if (!moved) return;
  state[STEPS] += 1.0;
  state[TAKEN] += 1.0;
  state[TIME] += state[STEP] * state[UNIT];
  state[MEAN_SQUARE] = state[NEXT_MEAN_SQUARE];
  bool is_met = state[TIME] >= until;
  for (int c = 0; c < count; ++c)
    is_met |= loss <= pairs[2 * c] && sqrt(state[GRADIENT_SQUARED]) <= pairs[2 * c + 1];
  if (is_met) state[EVENT] = HALTED;
}

// The step of GroupRMSprop.
//
// ``count`` partial sums of squares of the gradient; with none, GRADIENT_SQUARED is known already.
// One block.  Bytes: 8 count;  flops: count.
extern "C" __global__ void __launch_bounds__(BLOCK) pace(
    const double* __restrict__ partials, int count, double lr, double alpha, double eps, double* state) {
  SHARED_ARRAY(double, slots, BLOCK);
  if (state[EVENT] != GOING) return;
  const double total = sum_of(partials, count, slots);
  if (threadIdx.x != 0) return;
  if (count > 0) state[GRADIENT_SQUARED] = total;
  set_pace(state, lr, alpha, eps);
}

// LOSS = weight Σ partials; with ``gradients`` > 0 partial sums of squares, GRADIENT_SQUARED as well; and what
// follows, as for ``arrive``.
//
// One block.  Bytes: 8 (losses + gradients);  flops: losses + gradients.
extern "C" __global__ void __launch_bounds__(BLOCK) settle(
    const double* __restrict__ loss_partials, int losses, double weight,
    const double* __restrict__ gradient_partials, int gradients, int moved, const double* __restrict__ pairs,
    int count, double until, double* state) {
  SHARED_ARRAY(double, slots, BLOCK);
  if (state[EVENT] != GOING) return;
  const double loss = weight * sum_of(loss_partials, losses, slots);
  const double gradient_squared = sum_of(gradient_partials, gradients, slots);
  if (threadIdx.x != 0) return;
  arrive(state, loss, gradients > 0, gradient_squared, moved != 0, pairs, count, until);
}
