// The k best classes of each picture, best first, the lower class first of equals.
//
// One block a picture (grid.x). Every thread minds every 256th class and remembers its best that is not yet
// taken; a round takes the best of all threads, and only the thread that lost it looks again. A thousand
// classes and k = 5 cost about two microseconds, 22,000 classes and k = 100 some fifty.

#include "half.cuh"

enum Activation { SOFTMAX = 0, SIGMOID = 1, NONE = 2 };

struct TopkRow {
  float score;
  int class_id;
};

struct TopkResult {
  int count;
  int status;  // 1: the output holds NaN, or its highest number is infinite, and there are no rows
};

struct TopkArguments {
  const void* output;      // (n, classes)
  unsigned char* results;  // n times a TopkResult and k rows
  int classes, k;
  int activation;
  int dtype;
};

typedef unsigned long long key_bits;

// threads of the block; a power of two
#define THREADS 256

// Rises with the value over all floats, and falls with the class; 0 is below every key of a number
__device__ inline key_bits sort_key(float value, int class_id) {
  const unsigned bits = __float_as_uint(value + 0.0f);  // -0 equals 0
  const unsigned rising = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return ((key_bits)rising << 32) | (0xffffffffu - (unsigned)class_id);
}

__device__ inline float value_of(key_bits key) {
  const unsigned rising = (unsigned)(key >> 32);
  return __uint_as_float(rising & 0x80000000u ? rising & 0x7fffffffu : ~rising);
}

__device__ inline int class_of(key_bits key) { return (int)(0xffffffffu - (unsigned)key); }

__device__ inline float logit(const TopkArguments& of, int class_id) {
  const long long place = (long long)blockIdx.x * of.classes + class_id;
  return of.dtype == FLOAT16 ? float_of(((const half_bits*)of.output)[place]) : ((const float*)of.output)[place];
}

// This thread's best class whose key is below `ceiling`; 0 when there is none
__device__ inline key_bits best_below(const TopkArguments& of, key_bits ceiling) {
  key_bits best = 0;
#pragma unroll 4
  for (int c = threadIdx.x; c < of.classes; c += THREADS) {
    const key_bits key = sort_key(logit(of, c), c);
    if (key < ceiling && key > best) best = key;
  }
  return best;
}

__device__ inline key_bits largest(key_bits mine, key_bits* shared) {
  shared[threadIdx.x] = mine;
  __syncthreads();
  for (int span = THREADS / 2; span > 0; span /= 2) {
    if (threadIdx.x < (unsigned)span && shared[threadIdx.x + span] > shared[threadIdx.x]) {
      shared[threadIdx.x] = shared[threadIdx.x + span];
    }
    __syncthreads();
  }
  const key_bits result = shared[0];
  __syncthreads();
  return result;
}

// The same for a sum: always added in the same order, so that it is the same sum
__device__ inline float total(float mine, float* shared) {
  shared[threadIdx.x] = mine;
  __syncthreads();
  for (int span = THREADS / 2; span > 0; span /= 2) {
    if (threadIdx.x < (unsigned)span) shared[threadIdx.x] += shared[threadIdx.x + span];
    __syncthreads();
  }
  const float result = shared[0];
  __syncthreads();
  return result;
}

__device__ inline float activated(int activation, float value, float highest, float sum) {
  if (activation == SOFTMAX) return expf(value - highest) / sum;
  if (activation == SIGMOID) return 1.0f / (1.0f + expf(-value));
  return value;
}

extern "C" __global__ void topk(TopkArguments of) {
  __shared__ key_bits keys[THREADS];
  __shared__ float sums[THREADS];
  unsigned char* bytes = of.results + blockIdx.x * (sizeof(TopkResult) + of.k * sizeof(TopkRow));
  TopkRow* rows = (TopkRow*)(bytes + sizeof(TopkResult));
  float broken = 0.0f;
  for (int c = threadIdx.x; c < of.classes; c += THREADS) broken += logit(of, c) != logit(of, c);
  key_bits mine = best_below(of, ~0ull);
  key_bits taken = largest(mine, keys);
  const float highest = value_of(taken);
  if (total(broken, sums) > 0.0f || !is_finite(highest)) {
    if (threadIdx.x == 0) *(TopkResult*)bytes = TopkResult{0, 1};
    return;
  }
  float sum = 0.0f;
  if (of.activation == SOFTMAX) {
    for (int c = threadIdx.x; c < of.classes; c += THREADS) sum += expf(logit(of, c) - highest);
    sum = total(sum, sums);
  }
  const int count = of.k < of.classes ? of.k : of.classes;
  for (int place = 0; place < count; place++) {
    if (threadIdx.x == 0) {
      rows[place] = TopkRow{activated(of.activation, value_of(taken), highest, sum), class_of(taken)};
    }
    if (mine == taken) mine = best_below(of, taken);
    taken = largest(mine, keys);
  }
  if (threadIdx.x == 0) *(TopkResult*)bytes = TopkResult{count, 0};
}
