// Runs the blocks of a launch one after another, and the threads of a block as fibers of one OS thread.
//
// The seed decides the order of blocks and of threads: 0 and 1 are ascending and descending, others random and
// new at every turn.  A thread runs until it waits; once all wait, the lanes of a warp that meet in a shuffle
// go on, or all threads that meet in a barrier.  Anything else is reported.  Shared memory is a piece of heap
// of its own for each block, full of NaN, so that AddressSanitizer knows its bounds.  ThreadSanitizer takes
// each fiber for a thread and each barrier for what orders them; shuffles and the end of a block order nothing.
//
// x86-64, System V calling convention.
#include "cuda_shim.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

#ifdef SHIM_TSAN
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned);
void __tsan_destroy_fiber(void*);
void __tsan_switch_to_fiber(void*, unsigned);
void __tsan_acquire(void*);
void __tsan_release(void*);
}
#define TSAN(...) __VA_ARGS__
#else
#define TSAN(...)
#endif
#ifdef SHIM_ASAN
extern "C" {
void __sanitizer_start_switch_fiber(void**, const void*, size_t);
void __sanitizer_finish_switch_fiber(void*, const void**, size_t*);
}
#define ASAN(...) __VA_ARGS__
#else
#define ASAN(...)
#endif

ShimIndex shim_thread, shim_block;

extern "C" void shim_switch(void** save, void* load);  // keeps what a callee must keep; makes no system call
asm(R"(
    .text
    .globl shim_switch
shim_switch:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret
)");

namespace {

constexpr unsigned WARP = 32, MOST_THREADS = 1024;
constexpr size_t STACK = 32 << 10, MOST_SHARED = 48 << 10;

enum State { READY, IN_BARRIER, IN_SHUFFLE, DONE };

struct Thread {
  void *at, *stack;
  State state;
  int line, far;
  unsigned mask;
  unsigned long long value;
  void *fiber, *fake_stack;  // of the sanitizers
};

struct Shared {
  int line;
  void* memory;
};

Thread threads[MOST_THREADS];
unsigned count;
Thread* current;
void* scheduler;
TSAN(void* scheduler_fiber;)
ASAN(void* scheduler_fake_stack; const void* scheduler_stack; size_t scheduler_size;)
void (*body)(void*);
void* what;
Shared shared[8];            // of this block; a fixed size, because sanitizers see what fibers allocate
unsigned arrays;
std::vector<void*> kept;     // of earlier blocks, until the launch ends
TSAN(std::vector<void*> ended;)  // fibers, likewise: a new one in the place of an old one would look ordered
unsigned generation;
[[maybe_unused]] char barrier_tags[2];
TSAN(char end_tag;)
char* stacks;
size_t mapped;
char message[200];

void leave([[maybe_unused]] bool for_good) {
  Thread* me = current;
  ASAN(__sanitizer_start_switch_fiber(for_good ? nullptr : &me->fake_stack, scheduler_stack, scheduler_size);)
  TSAN(__tsan_switch_to_fiber(scheduler_fiber, 1);)  // 1: the switch itself orders nothing
  shim_switch(&me->at, scheduler);
  ASAN(__sanitizer_finish_switch_fiber(me->fake_stack, &scheduler_stack, &scheduler_size);)
}

void thread_main() {
  ASAN(__sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_size);)
  body(what);
  current->state = DONE;
  TSAN(__tsan_release(&end_tag);)
  leave(true);
}

void resume(Thread* thread) {
  current = thread;
  const unsigned rank = thread - threads;
  shim_thread = {rank, 0, 0};
  ASAN(__sanitizer_start_switch_fiber(&scheduler_fake_stack, thread->stack, STACK);)
  TSAN(__tsan_switch_to_fiber(thread->fiber, 1);)
  shim_switch(&scheduler, thread->at);
  ASAN(__sanitizer_finish_switch_fiber(scheduler_fake_stack, nullptr, nullptr);)
}

void begin_block() {
  arrays = 0;
#ifdef SHIM_TSAN  // new memory, of which nothing is known
  if (stacks) munmap(stacks, mapped);
  stacks = nullptr;
#endif
  if (stacks && mapped < count * STACK) munmap(stacks, mapped), stacks = nullptr;
  if (!stacks)
    stacks = static_cast<char*>(
        mmap(nullptr, mapped = count * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  for (unsigned i = 0; i < count; ++i) {
    Thread& t = threads[i];
    t = Thread{};
    t.stack = stacks + i * STACK;
    void** top = reinterpret_cast<void**>(stacks + (i + 1) * STACK);
    top[-1] = nullptr;
    top[-2] = reinterpret_cast<void*>(&thread_main);
    std::fill(top - 8, top - 2, nullptr);  // the registers that shim_switch restores
    t.at = top - 8;
    TSAN(t.fiber = __tsan_create_fiber(0);)
  }
}

// Let the lanes go on that wait for one another in shuffles; whether any do.
bool release_warps() {
  bool any = false;
  for (unsigned first = 0; first < count; first += WARP) {
    const unsigned size = std::min(WARP, count - first);
    unsigned waiting = 0;
    for (unsigned k = 0; k < size; ++k) waiting |= unsigned(threads[first + k].state == IN_SHUFFLE) << k;
    for (unsigned k = 0; k < size; ++k) {
      const Thread& t = threads[first + k];
      if (t.state != IN_SHUFFLE || (t.mask & waiting) != t.mask) continue;
      unsigned long long received[WARP];
      for (unsigned l = 0; l < size; ++l) {
        if (!(t.mask >> l & 1)) continue;
        const Thread& other = threads[first + l];
        const unsigned from = l ^ other.far;
        if (other.line != t.line || other.mask != t.mask || from >= size || !(t.mask >> from & 1)) return false;
        received[l] = threads[first + from].value;
      }
      for (unsigned l = 0; l < size; ++l)
        if (t.mask >> l & 1) threads[first + l].value = received[l], threads[first + l].state = READY;
      waiting &= ~t.mask;
      any = true;
    }
  }
  return any;
}

// Let all threads go on if all wait in one barrier; whether they do.
bool release_barrier() {
  for (unsigned i = 0; i < count; ++i)
    if (threads[i].state != IN_BARRIER || threads[i].line != threads[0].line) return false;
  for (unsigned i = 0; i < count; ++i) threads[i].state = READY;
  ++generation;
  return true;
}

const char* report() {
  for (unsigned i = 0; i < count; ++i)
    if (threads[i].state != DONE) {
      snprintf(message, sizeof message, "divergent %s at line %d: block (%u, %u), thread %u waits in vain",
               threads[i].state == IN_BARRIER ? "barrier" : "shuffle", threads[i].line, shim_block.x,
               shim_block.y, i);
      break;
    }
  return message;
}

void arrange(std::vector<unsigned>& order, unsigned seed, std::mt19937& random) {
  std::iota(order.begin(), order.end(), 0u);
  if (seed == 1) std::reverse(order.begin(), order.end());
  if (seed > 1) std::shuffle(order.begin(), order.end(), random);
}

const char* run_block(unsigned seed, std::mt19937& random) {
  begin_block();
  std::vector<unsigned> order(count);
  for (;;) {
    arrange(order, seed, random);
    for (unsigned i : order)
      if (threads[i].state == READY) resume(&threads[i]);
    if (release_warps() || release_barrier()) continue;
    const bool is_over = std::all_of(threads, threads + count, [](const Thread& t) { return t.state == DONE; });
    for (unsigned k = 0; k < arrays; ++k) kept.push_back(shared[k].memory);
    TSAN(for (unsigned i = 0; i < count; ++i) ended.push_back(threads[i].fiber);)
    return is_over ? nullptr : report();
  }
}

}  // namespace

void shim_barrier(int line) {
  current->state = IN_BARRIER;
  current->line = line;
  // Two tags in turn: who wakes late must not be ordered after the next barrier.
  [[maybe_unused]] char* tag = &barrier_tags[generation & 1];
  TSAN(__tsan_release(tag);)
  leave(false);
  TSAN(__tsan_acquire(tag);)
}

unsigned long long shim_shuffle(int line, unsigned mask, unsigned long long value, int far) {
  Thread* me = current;
  me->state = IN_SHUFFLE;
  me->line = line, me->mask = mask, me->value = value, me->far = far;
  leave(false);
  return me->value;
}

void* shim_shared(int line, unsigned long bytes) {
  for (unsigned k = 0; k < arrays; ++k)
    if (shared[k].line == line) {
      TSAN(__tsan_acquire(shared[k].memory);)
      return shared[k].memory;
    }
  if (bytes > MOST_SHARED || arrays == 8) fprintf(stderr, "shim: too much shared memory\n"), abort();
  void* memory = malloc(bytes);
  memset(memory, 0xff, bytes);
  TSAN(__tsan_release(memory);)
  shared[arrays++] = {line, memory};
  return memory;
}

const char* shim_launch(void (*run)(void*), void* argument, const unsigned* grid, unsigned size, unsigned seed) {
  if (size > MOST_THREADS || grid[1] > 65535) return "launch limits";
  body = run, what = argument, count = size;
  TSAN(scheduler_fiber = __tsan_get_current_fiber();)
  std::mt19937 random(seed);
  std::vector<unsigned> order(size_t(grid[0]) * grid[1]);
  arrange(order, seed, random);
  const char* error = nullptr;
  for (unsigned b : order) {
    shim_block = {b % grid[0], b / grid[0], 0};
    if ((error = run_block(seed, random))) break;
  }
  TSAN(__tsan_acquire(&end_tag); for (void* f : ended) __tsan_destroy_fiber(f); ended.clear();)
  for (void* memory : kept) free(memory);
  kept.clear();
  return error;
}
