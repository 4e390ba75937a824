// A detector's raw output to candidates: boxes above the score threshold, in model pixels.
//
// One thread reads one anchor; grid.y is the picture. YOLOv5 lays an anchor's numbers side by side, so that
// neighbouring threads read far apart; but only the objectness is read of all anchors (one 32-byte sector
// each, a tenth of the tensor), and the classes of the few that pass. YOLOv8 lays the anchors side by side:
// every read is coalesced, and all of the tensor is read once.

#include "candidates.cuh"
#include "half.cuh"

enum Layout { YOLOV5 = 0, YOLOV8 = 1, END2END = 2 };

struct DecodeArguments {
  Candidates to;
  const void* output;
  int anchors, classes;
  int layout;
  int dtype;
  float score;
  int reserved;
};

// What one anchor holds; `wanted` when it is above the threshold, or may be for all its NaN tell
struct Found {
  float4 box;
  float score;
  int class_id;
  bool wanted;
  bool finite;  // every number of the anchor; known if it is wanted
};

struct Best {
  float score;
  int class_id;
  bool finite;  // every score
  bool nan;     // one score at least
};

// The best of `classes` scores `stride` apart, each times `objectness`; the first of equals
template <typename T>
__device__ inline Best best_class(const T* first, long long stride, int classes, float objectness) {
  Best best = {float_of(first[0]) * objectness, 0, is_finite(float_of(first[0])), false};
  best.nan = best.score != best.score;
#pragma unroll 8
  for (int c = 1; c < classes; c++) {
    const float value = float_of(first[c * stride]);
    const float score = value * objectness;
    best.finite &= is_finite(value);
    best.nan |= score != score;
    if (score > best.score) {
      best.score = score;
      best.class_id = c;
    }
  }
  return best;
}

__device__ inline bool all_finite(float4 box) {
  return is_finite(box.x) && is_finite(box.y) && is_finite(box.z) && is_finite(box.w);
}

template <typename T>
__device__ inline float4 four(const T* first, long long stride) {
  return make_float4(float_of(first[0]), float_of(first[stride]), float_of(first[2 * stride]),
                     float_of(first[3 * stride]));
}

// cx cy w h to x1 y1 x2 y2
__device__ inline float4 corners(float4 box) {
  const float across = box.z / 2.0f, down = box.w / 2.0f;
  return make_float4(box.x - across, box.y - down, box.x + across, box.y + down);
}

template <typename T>
__device__ inline Found yolov5_anchor(const DecodeArguments& of, const T* output, int anchor) {
  const T* row = output + (long long)anchor * (5 + of.classes);
  const float objectness = float_of(row[4]);
  if (objectness <= of.score) return Found{};
  const float4 box = four(row, 1);
  const Best best = best_class(row + 5, 1, of.classes, objectness);
  const bool finite = is_finite(objectness) && best.finite && all_finite(box);
  return Found{corners(box), best.score, best.class_id, best.score > of.score || !finite, finite};
}

template <typename T>
__device__ inline Found yolov8_anchor(const DecodeArguments& of, const T* output, int anchor) {
  const long long stride = of.anchors;
  const Best best = best_class(output + anchor + 4 * stride, stride, of.classes, 1.0f);
  if (best.score <= of.score && !best.nan) return Found{};
  const float4 box = four(output + anchor, stride);
  return Found{corners(box), best.score, best.class_id, true, best.finite && all_finite(box)};
}

template <typename T>
__device__ inline Found end2end_row(const DecodeArguments& of, const T* output, int anchor) {
  const T* row = output + (long long)anchor * 6;
  const float score = float_of(row[4]), class_id = float_of(row[5]);
  if (score <= of.score) return Found{};
  const float4 box = four(row, 1);
  const bool finite = is_finite(score) && is_finite(class_id) && all_finite(box);
  return Found{box, score, finite ? (int)class_id : 0, true, finite};
}

template <typename T>
__device__ inline void decode_anchor(const DecodeArguments& of, const T* outputs, int picture, int anchor) {
  const long long width = of.layout == YOLOV5 ? 5 + of.classes : of.layout == YOLOV8 ? 4 + of.classes : 6;
  const T* output = outputs + picture * width * of.anchors;
  const Found found = of.layout == YOLOV5   ? yolov5_anchor(of, output, anchor)
                      : of.layout == YOLOV8 ? yolov8_anchor(of, output, anchor)
                                            : end2end_row(of, output, anchor);
  if (!found.wanted) return;
  Frame& frame = of.to.frames[picture];
  if (!found.finite) {
    atomicOr(&frame.status, NOT_FINITE);
    return;
  }
  const int place = atomicAdd(&frame.candidates, 1);
  if (place >= of.to.capacity) return;  // counted all the same: the host sees more candidates than fit
  const long long at = (long long)picture * of.to.capacity + place;
  of.to.keys[at] = key_of(found.score, anchor);
  of.to.boxes[at] = found.box;
  of.to.classes[at] = found.class_id;
}

extern "C" __global__ void decode(DecodeArguments of) {
  const int anchor = blockIdx.x * blockDim.x + threadIdx.x;
  if (anchor >= of.anchors) return;
  if (of.dtype == FLOAT16) {
    decode_anchor(of, (const half_bits*)of.output, blockIdx.y, anchor);
  } else {
    decode_anchor(of, (const float*)of.output, blockIdx.y, anchor);
  }
}
