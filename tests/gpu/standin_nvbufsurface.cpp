// NvBufSurface without a Jetson: surfaces whose pixels nobody reaches but through an EGLImage that CUDA has registered.
//
// The structures are declared here anew, with the sizes they have in L4T R35 and R36, and in DeepStream 9.1.

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "standin_egl.h"

namespace {

struct Planes {
  uint32_t num_planes, width[4], height[4], pitch[4], offset[4], psize[4], bytesPerPix[4];
  void* _reserved[16];
};

namespace r36 {
struct Mapped { void* addr[4]; void* eglImage; void* _reserved[4]; };
struct Params {
  uint32_t width, height, pitch;
  int colorFormat, layout;
  uint64_t bufferDesc;
  uint32_t dataSize;
  void* dataPtr;
  Planes planeParams;
  Mapped mappedAddr;
  void* paramex;
  void* _reserved[3];
};
struct Surface {
  uint32_t gpuId, batchSize, numFilled;
  bool isContiguous;
  int memType;
  Params* surfaceList;
  void* _reserved[4];
};
static_assert(sizeof(Planes) == 232 && sizeof(Mapped) == 72 && sizeof(Params) == 384 && sizeof(Surface) == 64);
}  // namespace r36

namespace ds91 {
struct Mapped { void* addr[4]; void *eglImage, *nvmmPtr, *cudaPtr; void* _reserved[4]; };
struct Params {
  uint32_t width, height, pitch;
  int colorFormat, layout;
  uint64_t bufferDesc;
  uint32_t dataSize;
  void* dataPtr;
  Planes planeParams;
  Mapped mappedAddr;
  void *paramex, *cudaBuffer;
  void* _reserved[4];
};
struct Surface {
  uint32_t gpuId, batchSize, numFilled;
  bool isContiguous;
  int memType;
  Params* surfaceList;
  bool isImportedBuf;
  void* _reserved[4];
};
static_assert(sizeof(Mapped) == 88 && sizeof(Params) == 416 && sizeof(Surface) == 72);
}  // namespace ds91

struct Made {
  r36::Surface surface;
  r36::Params params;
  EglImage image;
};

// A surface may be a copy of the one that was made; its list is the same
Made* made_of(const r36::Surface* surface) { return (Made*)((char*)surface->surfaceList - offsetof(Made, params)); }

long made, unmade;
int refusals;

template <typename Surface, typename Params, typename Mapped>
std::string offsets() {
  std::string text;
#define TELL(type, field) text += #type "." #field "=" + std::to_string(offsetof(type, field)) + "\n"
  TELL(Surface, gpuId); TELL(Surface, batchSize); TELL(Surface, numFilled); TELL(Surface, isContiguous);
  TELL(Surface, memType); TELL(Surface, surfaceList);
  TELL(Params, width); TELL(Params, height); TELL(Params, pitch); TELL(Params, colorFormat); TELL(Params, layout);
  TELL(Params, bufferDesc); TELL(Params, dataSize); TELL(Params, dataPtr); TELL(Params, planeParams);
  TELL(Params, mappedAddr);
  TELL(Planes, num_planes); TELL(Planes, width); TELL(Planes, height); TELL(Planes, pitch); TELL(Planes, offset);
  TELL(Planes, psize); TELL(Planes, bytesPerPix); TELL(Planes, _reserved);
  TELL(Mapped, addr); TELL(Mapped, eglImage);
  return text;
}

}  // namespace

#define API extern "C" __attribute__((visibility("default")))

API int NvBufSurfaceMapEglImage(r36::Surface* surface, int index) {
  Made* one = made_of(surface);
  if (index || surface->memType != 4 || refusals-- > 0) return -1;
  one->image.dead = false;
  surface->surfaceList[0].mappedAddr.eglImage = &one->image;
  made++;
  return 0;
}

API int NvBufSurfaceUnMapEglImage(r36::Surface* surface, int index) {
  Made* one = made_of(surface);
  if (index || one->image.dead) return -1;
  one->image.dead = true;
  surface->surfaceList[0].mappedAddr.eglImage = nullptr;
  unmade++;
  return 0;
}

// For tests

API const char* standin_offsets(int newer) {
  static std::string text;
  text = newer ? offsets<ds91::Surface, ds91::Params, ds91::Mapped>() : offsets<r36::Surface, r36::Params, r36::Mapped>();
  return text.c_str();
}

API void* standin_surface(unsigned width, unsigned height, unsigned pitch, int type, bool arrays, void* data) {
  Made* one = new Made{};
  const unsigned rows = height + 3, nbytes = (pitch * (rows + height / 2) + 4095) / 4096 * 4096;
  char* memory = (char*)(data ? data : mmap(nullptr, nbytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  one->image = EglImage{data ? nullptr : memory, nbytes, {memory, memory + pitch * rows}, width, height, pitch, 2, arrays, true};
  one->surface = r36::Surface{0, 1, 1, true, type, &one->params, {}};
  one->params.width = width, one->params.height = height, one->params.pitch = pitch;
  one->params.colorFormat = 6, one->params.layout = arrays;
  one->params.dataPtr = data;
  one->params.planeParams = Planes{2, {width, width / 2}, {height, height / 2}, {pitch, pitch},
                                   {0, pitch * rows}, {pitch * rows, pitch * (height / 2)}, {1, 2}, {}};
  return one;
}

// The picture, height * 3 / 2 rows of width bytes
API void standin_fill(Made* one, const char* pixels) {
  const EglImage& image = one->image;
  mprotect(image.memory, image.nbytes, PROT_READ | PROT_WRITE);
  std::memset(image.memory, 0xEE, image.nbytes);
  for (int plane = 0; plane < 2; plane++) {
    const unsigned rows = image.height >> plane;
    for (unsigned row = 0; row < rows; row++, pixels += image.width) {
      const unsigned at = image.arrays ? rows - 1 - row : row;
      std::memcpy((char*)image.planes[plane] + at * image.pitch, pixels, image.width);
    }
  }
  mprotect(image.memory, image.nbytes, PROT_NONE);
}

API void standin_unmake(Made* one) {
  if (one->image.memory) munmap(one->image.memory, one->image.nbytes);
  delete one;
}

API void standin_refuse(int times) { refusals = times; }
API long standin_images(int over) { return over ? unmade : made; }
