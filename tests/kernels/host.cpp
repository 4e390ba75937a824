// The kernels as functions of a shared library: launch() takes what the driver's cuLaunchKernel takes.

#include <sstream>
#include <string>

#include "decode.cu"
#include "nms.cu"
#include "preprocess.cu"
#include "topk.cu"

namespace {

template <typename Arguments, void (*kernel)(Arguments)>
void call(const void* arguments) {
  kernel(*static_cast<const Arguments*>(arguments));
}

struct Entry {
  const char* name;
  void (*kernel)(const void*);
  bool together;
};

const Entry ENTRIES[] = {
    {"preprocess", call<PreprocessArguments, preprocess>, false},
    {"decode", call<DecodeArguments, decode>, false},
    {"order", call<SuppressArguments, order>, false},
    {"overlap", call<SuppressArguments, overlap>, false},
    {"choose", call<SuppressArguments, choose>, true},
    {"topk", call<TopkArguments, topk>, true},
};

#define FIELD(type, field) text << #type << " " << #field << " " << offsetof(type, field) << "\n"

}  // namespace

extern "C" int launch(const char* name, const unsigned* grid, const unsigned* block, const void* arguments,
                      unsigned long long seed) {
  for (const Entry& entry : ENTRIES) {
    if (std::string(entry.name) != name) continue;
    const auto run = entry.together ? on_cpu::run_together : on_cpu::run_apart;
    run({grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]}, seed, entry.kernel, arguments);
    return 0;
  }
  return 1;
}

// Every structure the host packs or reads, a line a field: "structure field offset", and "structure - size"
extern "C" const char* layouts() {
  static std::string all;
  std::ostringstream text;
  FIELD(Frame, pixels); FIELD(Frame, chroma); FIELD(Frame, pitch); FIELD(Frame, chroma_pitch);
  FIELD(Frame, height); FIELD(Frame, width); FIELD(Frame, resized_height); FIELD(Frame, resized_width);
  FIELD(Frame, top); FIELD(Frame, left); FIELD(Frame, step); FIELD(Frame, channel); FIELD(Frame, down);
  FIELD(Frame, across); FIELD(Frame, candidates); FIELD(Frame, status);
  text << "Frame - " << sizeof(Frame) << "\n";
  FIELD(PreprocessArguments, frames); FIELD(PreprocessArguments, tensor); FIELD(PreprocessArguments, table);
  FIELD(PreprocessArguments, height); FIELD(PreprocessArguments, width); FIELD(PreprocessArguments, item);
  FIELD(PreprocessArguments, interleaved); FIELD(PreprocessArguments, filter); FIELD(PreprocessArguments, pad);
  text << "PreprocessArguments - " << sizeof(PreprocessArguments) << "\n";
  FIELD(Candidates, frames); FIELD(Candidates, keys); FIELD(Candidates, boxes); FIELD(Candidates, classes);
  FIELD(Candidates, capacity); FIELD(Candidates, reserved);
  text << "Candidates - " << sizeof(Candidates) << "\n";
  FIELD(DecodeArguments, to); FIELD(DecodeArguments, output); FIELD(DecodeArguments, anchors);
  FIELD(DecodeArguments, classes); FIELD(DecodeArguments, layout); FIELD(DecodeArguments, dtype);
  FIELD(DecodeArguments, score); FIELD(DecodeArguments, reserved);
  text << "DecodeArguments - " << sizeof(DecodeArguments) << "\n";
  FIELD(SuppressArguments, found); FIELD(SuppressArguments, keys); FIELD(SuppressArguments, boxes);
  FIELD(SuppressArguments, classes); FIELD(SuppressArguments, overlaps); FIELD(SuppressArguments, kept);
  FIELD(SuppressArguments, results); FIELD(SuppressArguments, words); FIELD(SuppressArguments, most);
  FIELD(SuppressArguments, limit); FIELD(SuppressArguments, suppress); FIELD(SuppressArguments, apart);
  FIELD(SuppressArguments, iou);
  text << "SuppressArguments - " << sizeof(SuppressArguments) << "\n";
  FIELD(Row, x1); FIELD(Row, y1); FIELD(Row, x2); FIELD(Row, y2); FIELD(Row, score); FIELD(Row, class_id);
  text << "Row - " << sizeof(Row) << "\n";
  FIELD(Result, count); FIELD(Result, candidates); FIELD(Result, status); FIELD(Result, reserved);
  text << "Result - " << sizeof(Result) << "\n";
  FIELD(TopkArguments, output); FIELD(TopkArguments, results); FIELD(TopkArguments, classes);
  FIELD(TopkArguments, k); FIELD(TopkArguments, activation); FIELD(TopkArguments, dtype);
  text << "TopkArguments - " << sizeof(TopkArguments) << "\n";
  FIELD(TopkRow, score); FIELD(TopkRow, class_id);
  text << "TopkRow - " << sizeof(TopkRow) << "\n";
  FIELD(TopkResult, count); FIELD(TopkResult, status);
  text << "TopkResult - " << sizeof(TopkResult) << "\n";
  all = text.str();
  return all.c_str();
}

extern "C" float half_to_float(unsigned short half) { return float_of(half); }
