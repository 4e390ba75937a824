// One picture of a batch: its pixels, where they come to lie in the model's frame, and the counters of its
// candidates. The host uploads the frames of a batch in one copy, which also sets the counters to zero.
#pragma once

enum Status { NOT_FINITE = 1, OVERFLOWED = 2 };

struct Frame {
  const unsigned char* pixels;  // the first row; of NV12 the first row of Y
  const unsigned char* chroma;  // NV12: the first row of UV; null otherwise
  long long pitch;              // bytes from row to row
  long long chroma_pitch;
  int height, width;                  // source pixels
  int resized_height, resized_width;  // model pixels
  int top, left;                      // of the resized picture in the model's frame; negative where cut off
  int step;                           // bytes from pixel to pixel; 1 for grey
  int channel[3];     // where the model's channels lie within a pixel; of NV12 within its blue, green, red
  float down[2];      // source pixels per resized pixel, vertically: the double as a sum of two floats
  float across[2];    // the same horizontally
  int candidates;     // counted by decode, whether they fit or not
  int status;         // Status bits
};
