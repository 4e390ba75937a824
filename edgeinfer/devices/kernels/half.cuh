// Half precision by the hardware's own conversion: the CUDA header for it is not in NVRTC's wheel.
// What is not CUDA (the tests' CPU build) brings its own.
#pragma once

typedef unsigned short half_bits;

enum Dtype { FLOAT32 = 0, FLOAT16 = 1 };

#ifdef __CUDACC__
__device__ inline float float_of(half_bits half) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
  return value;
}
#endif

__device__ inline float float_of(float value) { return value; }

__device__ inline bool is_finite(float value) { return fabsf(value) <= 3.402823466e38f; }
