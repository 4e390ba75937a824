// What the stand-in libnvbufsurface makes and the stand-in driver registers, and what CUDA tells of it: CUeglFrame.
#pragma once
#include <cstddef>

struct EglImage {
  void* memory;  // whole pages, which nobody may touch
  size_t nbytes;
  void* planes[2];
  unsigned width, height, pitch, count;
  bool arrays;  // stored from the bottom up, and reached as arrays alone
  bool dead;
};

struct EglFrame {
  void* planes[3];
  unsigned width, height, depth, pitch, count, channels, type, color, format;
};
