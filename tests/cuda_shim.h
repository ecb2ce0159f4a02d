// CUDA C++ on the CPU, as far as the kernels use it: included before their sources.
//
// A CUDA thread is a fiber, and cuda_shim.cpp decides who runs next.  That file is compiled without
// sanitizers: what they see is what the kernels do.
#pragma once
#include <math.h>
#include <string.h>

#include <algorithm>
#include <utility>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static_assert(false, "shared memory is declared by SHARED_ARRAY")

struct ShimIndex {
  unsigned x, y, z;
};

extern "C" {
extern ShimIndex shim_thread, shim_block;
void shim_barrier(int line);
unsigned long long shim_shuffle(int line, unsigned mask, unsigned long long value, int far);
void* shim_shared(int line, unsigned long bytes);
const char* shim_launch(void (*body)(void*), void* what, const unsigned* grid, unsigned threads, unsigned seed);
}

using std::max;
using std::min;
#define threadIdx shim_thread
#define blockIdx shim_block
#define __syncthreads() shim_barrier(__LINE__)
#define __shfl_xor_sync(mask, value, far) shim_shuffled(__LINE__, mask, value, far)
#define SHARED_ARRAY(type, name, size) \
  type* const name = static_cast<type*>(shim_shared(__LINE__, sizeof(type) * (size)))

template <class T>
T shim_shuffled(int line, unsigned mask, T value, int far) {
  unsigned long long bits = 0;
  memcpy(&bits, &value, sizeof value);
  bits = shim_shuffle(line, mask, bits, far);
  memcpy(&value, &bits, sizeof value);
  return value;
}

template <class... A>
struct ShimCall {
  void (*kernel)(A...);
  void** arguments;

  template <size_t... I>
  void go(std::index_sequence<I...>) {
    kernel(*static_cast<A*>(arguments[I])...);
  }
  static void run(void* self) { static_cast<ShimCall*>(self)->go(std::index_sequence_for<A...>{}); }
};

template <class... A>
const char* shim_call(void (*kernel)(A...), void** arguments, const unsigned* grid, unsigned threads, unsigned seed) {
  ShimCall<A...> call{kernel, arguments};
  return shim_launch(&ShimCall<A...>::run, &call, grid, threads, seed);
}

#define SHIM_EXPORT(kernel)                                                                                  \
  extern "C" const char* launch_##kernel(void** arguments, const unsigned* grid, unsigned threads, unsigned seed) { \
    return shim_call(kernel, arguments, grid, threads, seed);                                                \
  }
