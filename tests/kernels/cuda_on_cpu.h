// As much of CUDA as the kernels use, so that g++ compiles them unchanged and they run without a GPU.
//
// A kernel without barriers runs one thread after another; one with barriers or warp votes runs its block's
// threads as coroutines that take turns at every barrier. A seed shuffles the threads' order: results that
// depend on it show up as a difference between seeds.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#define __global__
#define __device__
#define __shared__ static

struct dim3 {
  unsigned x, y, z;
};

struct alignas(16) float4 {
  float x, y, z, w;
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

inline float4 make_float4(float x, float y, float z, float w) { return float4{x, y, z, w}; }

inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline int __popcll(unsigned long long bits) { return __builtin_popcountll(bits); }

template <typename T>
T atomicAdd(T* at, T value) {
  return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}

inline int atomicOr(int* at, int value) { return __atomic_fetch_or(at, value, __ATOMIC_RELAXED); }

// Half precision bit by bit: no type of the compiler's is asked for, older ones have none
inline float float_of(unsigned short half) {
  const unsigned sign = (half & 0x8000u) << 16, exponent = half >> 10 & 31, fraction = half & 0x3ffu;
  if (exponent == 0) return std::copysign(std::ldexp((float)fraction, -24), __uint_as_float(sign));
  const unsigned wide = exponent == 31 ? 0xffu : exponent + 112;
  return __uint_as_float(sign | wide << 23 | fraction << 13);
}

namespace on_cpu {

// Entered through ucontext, left and resumed by jumps: those make no system call
struct Coroutine {
  ucontext_t context;
  jmp_buf place;
  dim3 thread;
  bool entered, done;
  std::unique_ptr<char[]> stack;
};

inline std::vector<Coroutine> coroutines;
inline jmp_buf scheduler;
inline Coroutine* current = nullptr;
inline void (*body)(const void*) = nullptr;
inline const void* body_arguments = nullptr;
inline bool votes[1024];
constexpr size_t STACK = 64 * 1024;

inline void wait() {
  if (!_setjmp(current->place)) _longjmp(scheduler, 1);
}

inline void resume() {
  if (_setjmp(scheduler)) return;
  if (current->entered) _longjmp(current->place, 1);
  current->entered = true;
  setcontext(&current->context);
}

inline void enter() {
  body(body_arguments);
  current->done = true;
  wait();
}

inline void start(Coroutine& one, dim3 thread) {
  if (!one.stack) one.stack.reset(new char[STACK]);
  one.thread = thread;
  one.entered = one.done = false;
  getcontext(&one.context);
  one.context.uc_stack.ss_sp = one.stack.get();
  one.context.uc_stack.ss_size = STACK;
  one.context.uc_link = nullptr;
  makecontext(&one.context, enter, 0);
}

// All threads of a block up to their next barrier, until every one has ended
inline void run_block(const std::vector<unsigned>& turns) {
  for (bool busy = true; busy;) {
    busy = false;
    for (unsigned turn : turns) {
      current = &coroutines[turn];
      if (current->done) continue;
      threadIdx = current->thread;
      resume();
      busy |= !current->done;
    }
  }
}

inline std::vector<unsigned> shuffled(size_t count, unsigned long long seed) {
  std::vector<unsigned> order(count);
  std::iota(order.begin(), order.end(), 0u);
  if (seed) std::shuffle(order.begin(), order.end(), std::mt19937_64(seed));
  return order;
}

inline dim3 split(unsigned place, dim3 size) {
  return dim3{place % size.x, place / size.x % size.y, place / size.x / size.y};
}

// Kernels without barriers: any thread of the grid after any other
inline void run_apart(dim3 grid, dim3 block, unsigned long long seed, void (*kernel)(const void*), const void* of) {
  gridDim = grid;
  blockDim = block;
  const unsigned threads = block.x * block.y * block.z;
  for (unsigned place : shuffled((size_t)grid.x * grid.y * grid.z * threads, seed)) {
    blockIdx = split(place / threads, grid);
    threadIdx = split(place % threads, block);
    kernel(of);
  }
}

inline void run_together(dim3 grid, dim3 block, unsigned long long seed, void (*kernel)(const void*), const void* of) {
  gridDim = grid;
  blockDim = block;
  body = kernel;
  body_arguments = of;
  const unsigned threads = block.x * block.y * block.z;
  if (coroutines.size() < threads) coroutines.resize(threads);
  const std::vector<unsigned> turns = shuffled(threads, seed);
  for (unsigned place : shuffled((size_t)grid.x * grid.y * grid.z, seed)) {
    blockIdx = split(place, grid);
    for (unsigned thread = 0; thread < threads; thread++) start(coroutines[thread], split(thread, block));
    run_block(turns);
  }
}

}  // namespace on_cpu

inline void __syncthreads() { on_cpu::wait(); }
inline void __syncwarp() { on_cpu::wait(); }

inline unsigned __ballot_sync(unsigned mask, bool vote) {
  on_cpu::votes[threadIdx.x] = vote;
  on_cpu::wait();
  const unsigned first = on_cpu::current->thread.x / 32 * 32;
  unsigned bits = 0;
  for (unsigned lane = 0; lane < 32; lane++) bits |= (unsigned)on_cpu::votes[first + lane] << lane;
  on_cpu::wait();
  return bits & mask;
}
