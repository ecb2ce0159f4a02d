// What all kernels share.  It stands before the other sources, which are compiled as one, once for each REAL.
//
// Arrays are C-contiguous.  A kernel writes each element from one thread, and sums in an order that depends
// on sizes alone, so that results are the same bits on every device and under every schedule.  Products
// that are added are written as fma: nothing is left to the compiler's contraction.
//
// Counts stand beside each kernel: bytes to and from memory, if nothing is found in cache that was not read by
// the same thread, with b bytes in a real; and flops, a multiply-add being two.  A time follows from the larger
// of bytes / bandwidth, flops / rate: see docs/cuda.md.

#ifndef REAL
#define REAL double
#endif
typedef REAL real;

#ifndef SHARED_ARRAY
#define SHARED_ARRAY(type, name, size) __shared__ type name[size]
#endif

constexpr int WARP = 32, BLOCK = 256, WARPS = BLOCK / WARP;
// Lanes that share a sum of a few dozen terms.
constexpr int SHARE = 8;
constexpr unsigned ALL_LANES = 0xffffffffu;

// The state of a trajectory on the device.  The first five are those that a trajectory on the CPU carries;
// STEP is the length of the next step along UNIT times the gradient, NEXT_MEAN_SQUARE becomes MEAN_SQUARE once
// that step is settled, and TAKEN counts the steps since the host last wrote the state; SLOTS is how many there
// are.
enum Slot { LOSS, GRADIENT_SQUARED, TIME, STEPS, MEAN_SQUARE, STEP, UNIT, NEXT_MEAN_SQUARE, EVENT, TAKEN, SLOTS };

// Once EVENT is set every kernel returns at once: the host may queue many steps without looking.
constexpr double GOING = 0, HALTED = 1, DIVERGED = 2;

__device__ __forceinline__ bool is_finite(double x) { return fabs(x) <= 1.7976931348623157e308; }

// The sum over each LANES of a warp, in every lane.  Lanes add the same pairs in either order, so all hold the
// same bits.
template <int LANES>
__device__ __forceinline__ real sum_over(real x) {
  for (int far = LANES / 2; far > 0; far /= 2) x += __shfl_xor_sync(ALL_LANES, x, far);
  return x;
}

// Of numbers that each warp knows, lane 0 at least, the sum over the block: partials[blockIdx.x].
__device__ __forceinline__ void leave_sum_of_warps(double x, double* of_warps, double* partials) {
  if (threadIdx.x % WARP == 0) of_warps[threadIdx.x / WARP] = x;
  __syncthreads();
  if (threadIdx.x != 0) return;
  double total = 0.0;
  for (int k = 0; k < WARPS; ++k) total += of_warps[k];
  partials[blockIdx.x] = total;
}

// The sum over a block of BLOCK threads, in every thread; ``slots`` has room for BLOCK numbers.
__device__ __forceinline__ double block_sum(double x, double* slots) {
  const int t = threadIdx.x;
  slots[t] = x;
  __syncthreads();
  for (int half = BLOCK / 2; half > 0; half /= 2) {
    if (t < half) slots[t] += slots[t + half];
    __syncthreads();
  }
  const double total = slots[0];
  __syncthreads();  // before the slots are used again
  return total;
}

// The sum of the numbers that blocks of another kernel left, by one block.
__device__ __forceinline__ double sum_of(const double* partials, int count, double* slots) {
  double mine = 0.0;
  for (int i = threadIdx.x; i < count; i += BLOCK) mine += partials[i];
  return block_sum(mine, slots);
}
