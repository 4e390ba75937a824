// Pictures to the model's input in one pass: convert, resize, place, fill, reorder, scale, cast.
//
// One thread makes one model pixel, all three channels; grid.z is the picture. What a channel's 256 pixel
// values become is looked up, so that every dtype and every mean gives the CPU's bits; the table stays in the
// first cache. Memory is read once (caches serve a pixel's other neighbours) and written once: from 1080p to
// 640x640 float32 some 4 MB in and 5 MB out a picture, by which the kernel is bound.

#include "frame.cuh"

enum Interpolation { LINEAR, LINEAR_ANTIALIAS, CUBIC_ANTIALIAS };

struct PreprocessArguments {
  const Frame* frames;
  void* tensor;       // (n, 3, height, width), or (n, height, width, 3) if interleaved
  const void* table;  // (3, 256) of the tensor's dtype: what pixels become, in the model's channel order
  int height, width;
  int item;           // bytes of a tensor's number: 1, 2 or 4
  int interleaved;
  int filter;         // Interpolation
  int pad;            // pixel value around the picture
};

struct Pixel {
  int value[3];  // in the model's channel order
};

__device__ inline int clamp(int value, int low, int high) { return value < low ? low : value > high ? high : value; }

// ITU-R BT.601, limited range, in 20-bit fixed point: OpenCV's COLOR_YUV2BGR_NV12 to the bit
__device__ inline Pixel nv12_pixel(const Frame& frame, int y, int x) {
  const unsigned char* pair = frame.chroma + (y / 2) * frame.chroma_pitch + (x / 2) * 2;
  const int u = pair[0] - 128, v = pair[1] - 128;
  const int luma = frame.pixels[y * frame.pitch + x] - 16;
  const int base = (luma < 0 ? 0 : luma) * 1220542 + (1 << 19);
  const int red = clamp((base + 1673527 * v) >> 20, 0, 255);
  const int green = clamp((base - 852492 * v - 409993 * u) >> 20, 0, 255);
  const int blue = clamp((base + 2116026 * u) >> 20, 0, 255);
  Pixel pixel;
  for (int c = 0; c < 3; c++) {
    const int which = frame.channel[c];
    pixel.value[c] = which == 0 ? blue : which == 1 ? green : red;
  }
  return pixel;
}

__device__ inline Pixel pixel_at(const Frame& frame, int y, int x) {
  if (frame.chroma) return nv12_pixel(frame, y, x);
  const unsigned char* at = frame.pixels + y * frame.pitch + (long long)x * frame.step;
  return Pixel{{at[frame.channel[0]], at[frame.channel[1]], at[frame.channel[2]]}};
}

// (index + 0.5) * ratio as the exact sum of `high` and a small `low`: twice a float's precision without the
// double arithmetic that small GPUs do at a 64th of the speed
struct Wide {
  float high, low;
};

__device__ inline Wide centre_of(int index, const float ratio[2]) {
  const float at = index + 0.5f;
  const float high = at * ratio[0];
  return Wide{high, fmaf(at, ratio[1], fmaf(at, ratio[0], -high))};
}

// The two source pixels an output pixel lies between, and their weights in 2048ths
struct Taps {
  int first, second;
  int near, far;
};

__device__ inline Taps taps_of(int index, const float ratio[2]) {
  const Wide centre = centre_of(index, ratio);
  const float shifted = centre.high - 0.5f;
  const float back = shifted - centre.high;
  const float lost = (centre.high - (shifted - back)) + (-0.5f - back);
  const float at = shifted + (lost + centre.low);
  const float whole = floorf(at);
  const float part = at - whole;
  const int first = (int)whole;
  return Taps{first, first + 1, (int)rintf((1.0f - part) * 2048.0f), (int)rintf(part * 2048.0f)};
}

// OpenCV's INTER_LINEAR for uint8, to the bit: beyond the border lies the border pixel, and the shifts are
// those of its vector code. OpenCV shrinks to exactly one half by averaging four pixels, which is what this
// arithmetic gives there too.
__device__ inline Pixel linear_pixel(const Frame& frame, int row, int column) {
  const Taps across = taps_of(column, frame.across), down = taps_of(row, frame.down);
  const int left = clamp(across.first, 0, frame.width - 1), right = clamp(across.second, 0, frame.width - 1);
  const int above = clamp(down.first, 0, frame.height - 1), below = clamp(down.second, 0, frame.height - 1);
  const Pixel a = pixel_at(frame, above, left), b = pixel_at(frame, above, right);
  const Pixel c = pixel_at(frame, below, left), d = pixel_at(frame, below, right);
  Pixel pixel;
  for (int k = 0; k < 3; k++) {
    const int upper = (a.value[k] * across.near + b.value[k] * across.far) >> 4;
    const int lower = (c.value[k] * across.near + d.value[k] * across.far) >> 4;
    pixel.value[k] = (((upper * down.near) >> 16) + ((lower * down.far) >> 16) + 2) >> 2;
  }
  return pixel;
}

// Pillow's BILINEAR, but for the rounding between its two passes
struct Triangle {
  static constexpr float REACH = 1.0f;

  __device__ static float weight(float distance) { return distance < 1.0f ? 1.0f - distance : 0.0f; }
  __device__ static float between(float value) { return value; }
  __device__ static int finally(float value) { return clamp((int)rintf(value), 0, 255); }
};

// Pillow's BICUBIC: Keys' cubic with a = -1/2. It overshoots, so that it matters that the first pass, which is
// across, gives pixel values to the second
struct Cubic {
  static constexpr float REACH = 2.0f;

  __device__ static float weight(float distance) {
    if (distance < 1.0f) return (1.5f * distance - 2.5f) * distance * distance + 1.0f;
    return distance < 2.0f ? ((-0.5f * distance + 2.5f) * distance - 4.0f) * distance + 2.0f : 0.0f;
  }
  __device__ static int finally(float value) { return clamp((int)floorf(value + 0.5f), 0, 255); }
  __device__ static float between(float value) { return (float)finally(value); }
};

// The source pixels under a filter as wide as the shrinking asks for, never narrower than among pixels of one size
template <typename Filter>
struct Window {
  int first, last;  // [first, last)
  float offset;     // of the first pixel's middle from the filter's, in source pixels
  float inverse;    // 1 / what the filter counts as one, in source pixels

  __device__ float weight(int place) const { return Filter::weight(fabsf((place - first + offset) * inverse)); }

  __device__ float total() const {
    float weights = 0.0f;
    for (int place = first; place < last; place++) weights += weight(place);
    return weights;
  }
};

template <typename Filter>
__device__ inline Window<Filter> window_of(int index, const float ratio[2], int length) {
  const Wide centre = centre_of(index, ratio);
  const float whole = floorf(centre.high);
  const float part = (centre.high - whole) + centre.low;
  const float one = ratio[0] > 1.0f ? ratio[0] : 1.0f;
  const float half = Filter::REACH * one;
  Window<Filter> window;
  window.first = clamp((int)whole + (int)floorf(part - half + 0.5f), 0, length - 1);
  window.last = clamp((int)whole + (int)floorf(part + half + 0.5f), window.first + 1, length);
  window.offset = (float)(window.first - (int)whole) - part + 0.5f;
  window.inverse = 1.0f / one;
  return window;
}

// As on the CPU; sums are added in another order there, so that one within a float's precision of a half may
// round the other way
template <typename Filter>
__device__ inline Pixel smooth_pixel(const Frame& frame, int row, int column) {
  const Window<Filter> across = window_of<Filter>(column, frame.across, frame.width);
  const Window<Filter> down = window_of<Filter>(row, frame.down, frame.height);
  const float share = 1.0f / across.total();
  float total[3] = {0.0f, 0.0f, 0.0f};
  float weights = 0.0f;
  for (int y = down.first; y < down.last; y++) {
    float sum[3] = {0.0f, 0.0f, 0.0f};
    for (int x = across.first; x < across.last; x++) {
      const Pixel pixel = pixel_at(frame, y, x);
      const float weight = across.weight(x);
      for (int c = 0; c < 3; c++) sum[c] += weight * pixel.value[c];
    }
    const float weight = down.weight(y);
    weights += weight;
    for (int c = 0; c < 3; c++) total[c] += weight * Filter::between(sum[c] * share);
  }
  Pixel pixel;
  for (int c = 0; c < 3; c++) pixel.value[c] = Filter::finally(total[c] / weights);
  return pixel;
}

__device__ inline Pixel resized_pixel(int filter, const Frame& frame, int row, int column) {
  if (filter == CUBIC_ANTIALIAS) return smooth_pixel<Cubic>(frame, row, column);
  if (filter == LINEAR_ANTIALIAS) return smooth_pixel<Triangle>(frame, row, column);
  return linear_pixel(frame, row, column);
}

template <typename T>
__device__ inline void store(const PreprocessArguments& to, long long first, long long stride, const Pixel& pixel) {
  const T* table = (const T*)to.table;
  T* tensor = (T*)to.tensor + first;
  for (int c = 0; c < 3; c++) tensor[c * stride] = table[c * 256 + pixel.value[c]];
}

extern "C" __global__ void preprocess(PreprocessArguments to) {
  const int x = blockIdx.x * blockDim.x + threadIdx.x;
  const int y = blockIdx.y * blockDim.y + threadIdx.y;
  if (x >= to.width || y >= to.height) return;
  const Frame& frame = to.frames[blockIdx.z];
  const int column = x - frame.left, row = y - frame.top;
  Pixel pixel = {{to.pad, to.pad, to.pad}};
  if (column >= 0 && column < frame.resized_width && row >= 0 && row < frame.resized_height) {
    pixel = resized_pixel(to.filter, frame, row, column);
  }
  const long long area = (long long)to.height * to.width;
  const long long spot = (long long)y * to.width + x;
  const long long first = blockIdx.z * 3 * area + (to.interleaved ? spot * 3 : spot);
  const long long stride = to.interleaved ? 1 : area;
  if (to.item == 4) {
    store<unsigned>(to, first, stride, pixel);
  } else if (to.item == 2) {
    store<unsigned short>(to, first, stride, pixel);
  } else {
    store<unsigned char>(to, first, stride, pixel);
  }
}
