// Greedy non-maximum suppression whose result does not depend on the order the candidates were found in.
//
// Three launches, grid.y is the picture; threads beyond the candidates counted on the device leave at once:
//   order     one thread a candidate counts those that beat it, which is its place; n^2 cheap comparisons
//   overlap   one thread a candidate and 64 better ones: a word of "overlaps too much" bits
//   choose    one warp a picture decides 64 boxes at a time, and writes the kept ones in source pixels
// Some overlaps are computed that greedy suppression never looks at; in exchange nothing waits for another
// pair. A few hundred candidates cost a few microseconds a launch, mostly latency.

#include "candidates.cuh"

struct Row {
  float x1, y1, x2, y2;  // source pixels
  float score;
  int class_id;
};

struct Result {
  int count;       // rows that follow
  int candidates;  // above the score threshold
  int status;      // Status bits; with any of them set there are no rows
  int reserved;
};

struct SuppressArguments {
  Candidates found;
  key_bits* keys;      // (n, capacity) in order, as the next two
  float4* boxes;
  int* classes;
  unsigned long long* overlaps;  // (n, words, most): bit b of word w of box i: box 64 w + b is better, and overlaps
  unsigned long long* kept;      // (n, words): bit b of word w: box 64 w + b is kept
  unsigned char* results;        // n times a Result and `limit` rows
  int words;       // most / 64, rounded up
  int most;        // candidates beyond so many, in order, are left out; no more than capacity
  int limit;       // rows at most
  int suppress;    // 0: the model did it itself
  float apart;     // how far classes are moved from each other; 0: classes do not matter
  float iou;       // the largest float that is not above the threshold
};

__device__ inline int stored_of(const SuppressArguments& of, int picture) {
  const int count = of.found.frames[picture].candidates;
  return count > of.found.capacity ? 0 : count;  // which ones were stored is chance: use none
}

__device__ inline int ordered_of(const SuppressArguments& of, int picture) {
  const int count = stored_of(of, picture);
  return count < of.most ? count : of.most;
}

__device__ inline unsigned long long* overlaps_of(const SuppressArguments& of, int picture) {
  return of.overlaps + (long long)picture * of.most * of.words;
}

extern "C" __global__ void order(SuppressArguments of) {
  const int picture = blockIdx.y;
  const int candidate = blockIdx.x * blockDim.x + threadIdx.x;
  const int count = stored_of(of, picture);
  if (candidate >= count) return;
  const long long first = (long long)picture * of.found.capacity;
  const key_bits* keys = of.found.keys + first;
  const key_bits key = keys[candidate];
  int place = 0;
#pragma unroll 8
  for (int other = 0; other < count; other++) place += keys[other] > key;
  if (place >= of.most) return;
  of.keys[first + place] = key;
  of.boxes[first + place] = of.found.boxes[first + candidate];
  of.classes[first + place] = of.found.classes[first + candidate];
}

// The float32 rounding of the moved boxes is part of the published result
__device__ inline float4 moved(float4 box, int class_id, float apart) {
  const float offset = class_id * apart;
  return make_float4(box.x + offset, box.y + offset, box.z + offset, box.w + offset);
}

__device__ inline bool overlap_too_much(float4 a, float4 b, float threshold) {
  const float width = fminf(a.z, b.z) - fmaxf(a.x, b.x);
  const float height = fminf(a.w, b.w) - fmaxf(a.y, b.y);
  if (!(width > 0.0f && height > 0.0f)) return false;
  const float shared = width * height;
  const float area = (a.z - a.x) * (a.w - a.y), other = (b.z - b.x) * (b.w - b.y);
  return shared / (area + other - shared) > threshold;
}

__device__ inline unsigned long long overlap_word(const SuppressArguments& of, long long first, int box, int word) {
  const float4 mine = moved(of.boxes[first + box], of.classes[first + box], of.apart);
  const int start = word * 64;
  const int end = start + 64 < box ? start + 64 : box;
  unsigned long long bits = 0;
#pragma unroll 4
  for (int better = start; better < end; better++) {
    const float4 other = moved(of.boxes[first + better], of.classes[first + better], of.apart);
    bits |= (unsigned long long)overlap_too_much(other, mine, of.iou) << (better - start);
  }
  return bits;
}

extern "C" __global__ void overlap(SuppressArguments of) {
  const int picture = blockIdx.y;
  const int count = ordered_of(of, picture);
  const int words = (count + 63) / 64;
  const long long first = (long long)picture * of.found.capacity;
  unsigned long long* overlaps = overlaps_of(of, picture);
  const long long all = (long long)count * words;
  const long long stride = (long long)gridDim.x * blockDim.x;
  for (long long item = (long long)blockIdx.x * blockDim.x + threadIdx.x; item < all; item += stride) {
    const int box = (int)(item % count), word = (int)(item / count);
    if (word * 64 < box) overlaps[(long long)word * of.most + box] = overlap_word(of, first, box, word);
  }
}

// A box of the model's frame in source pixels, clipped to the source: in double, as on the CPU
__device__ inline Row row_of(const Frame& frame, float4 box, float score, int class_id) {
  const double across = (double)frame.width / frame.resized_width, down = (double)frame.height / frame.resized_height;
  Row row;
  row.x1 = (float)fmin(fmax((box.x - (double)frame.left) * across, 0.0), (double)frame.width);
  row.y1 = (float)fmin(fmax((box.y - (double)frame.top) * down, 0.0), (double)frame.height);
  row.x2 = (float)fmin(fmax((box.z - (double)frame.left) * across, 0.0), (double)frame.width);
  row.y2 = (float)fmin(fmax((box.w - (double)frame.top) * down, 0.0), (double)frame.height);
  row.score = score;
  row.class_id = class_id;
  return row;
}

__device__ inline unsigned long long both(bool low, bool high) {
  const unsigned long long lower = __ballot_sync(0xffffffffu, low);
  return lower | (unsigned long long)__ballot_sync(0xffffffffu, high) << 32;
}

__device__ inline bool has(unsigned long long bits, int place) { return bits >> place & 1; }

// Does a kept box of the words before `word` overlap this one?
__device__ inline bool beaten(const unsigned long long* kept, const unsigned long long* overlaps, int most, int word,
                              int box) {
  unsigned long long hits = 0;
#pragma unroll 4
  for (int before = 0; before < word; before++) hits |= kept[before] & overlaps[(long long)before * most + box];
  return hits != 0;
}

// Which of the undecided 64 greedy suppression keeps, given each lane's two words of overlaps among them.
// A box is kept as soon as every better one that overlaps it is out, and out as soon as one of them is kept;
// each round decides the best of the undecided at least, a handful of rounds all of them.
__device__ inline unsigned long long keep(unsigned long long undecided, unsigned long long low,
                                          unsigned long long high, int lane) {
  unsigned long long kept = 0;
  while (undecided) {
    const unsigned long long now = both(has(undecided, lane) && !(low & (undecided | kept)),
                                        has(undecided, lane + 32) && !(high & (undecided | kept)));
    kept |= now;
    undecided &= ~now & ~both((low & kept) != 0, (high & kept) != 0);
  }
  return kept;
}

extern "C" __global__ void choose(SuppressArguments of) {
  const int picture = blockIdx.y, lane = threadIdx.x;
  const long long first = (long long)picture * of.found.capacity;
  const unsigned long long* overlaps = overlaps_of(of, picture);
  unsigned long long* kept = of.kept + (long long)picture * of.words;
  const Frame& frame = of.found.frames[picture];
  unsigned char* bytes = of.results + picture * (sizeof(Result) + of.limit * sizeof(Row));
  Row* rows = (Row*)(bytes + sizeof(Result));
  const int status = frame.status | (frame.candidates > of.found.capacity ? OVERFLOWED : 0);
  const int candidates = status ? 0 : ordered_of(of, picture);
  int count = 0;
  for (int word = 0; word * 64 < candidates && count < of.limit; word++) {
    bool alive[2];
    unsigned long long among[2] = {0, 0};
    for (int half = 0; half < 2; half++) {
      const int box = word * 64 + half * 32 + lane;
      alive[half] = box < candidates && !(of.suppress && beaten(kept, overlaps, of.most, word, box));
      // the first box of a word has no better one in it, and no overlaps were written
      if (alive[half] && of.suppress && box > word * 64) among[half] = overlaps[(long long)word * of.most + box];
    }
    const unsigned long long chosen = keep(both(alive[0], alive[1]), among[0], among[1], lane);
    if (lane == 0) kept[word] = chosen;
    for (int half = 0; half < 2; half++) {
      const int place = half * 32 + lane;
      const int row = count + __popcll(chosen & ((1ull << place) - 1));
      if (!has(chosen, place) || row >= of.limit) continue;
      const long long box = first + word * 64 + place;
      rows[row] = row_of(frame, of.boxes[box], score_of(of.keys[box]), of.classes[box]);
    }
    count += __popcll(chosen);
    __syncwarp();
  }
  if (lane == 0) *(Result*)bytes = Result{count < of.limit ? count : of.limit, frame.candidates, status, 0};
}
