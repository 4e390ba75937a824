// What decode finds and suppression reads: for each picture up to `capacity` boxes, in no particular order.
#pragma once

#include "frame.cuh"

typedef unsigned long long key_bits;

struct Candidates {
  Frame* frames;    // their counters say how many candidates there are
  key_bits* keys;   // (n, capacity); see key_of
  float4* boxes;    // (n, capacity) x1 y1 x2 y2 model pixels
  int* classes;     // (n, capacity)
  int capacity;
  int reserved;
};

// Orders candidates by score, best first, and equal scores by their place in the output. Scores are above 0,
// so that their bits rise with them; no two keys are equal, which makes the order independent of the threads'.
__device__ inline key_bits key_of(float score, int anchor) {
  return ((key_bits)__float_as_uint(score) << 32) | (0xffffffffu - (unsigned)anchor);
}

__device__ inline float score_of(key_bits key) { return __uint_as_float((unsigned)(key >> 32)); }
