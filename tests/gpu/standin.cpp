// A CUDA driver without a GPU: as much of libcuda.so.1 as edgeinfer calls, for the real cuda-bindings to load.
//
// "Device memory" is main memory and the kernels are the very ones of kernels/*.cu, built by g++. It is as unkind
// as a driver may be: nothing put on a stream is done before someone waits for it; fresh memory is full of garbage;
// a copy must lie inside live allocations, its host side page-locked; the host that touches device memory crashes;
// what may not be called during a capture fails; every call but a few needs a current context; an event is of its
// context's streams; a host function runs on a thread of the driver's own, and may call none of this. A graph replays
// what was captured, at the addresses it had then.
//
// standin_*() lets tests make calls fail, lose the GPU, and count what is alive.

#include <dlfcn.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "host.cpp"
#include "standin_egl.h"

namespace {

typedef int CUresult;
typedef unsigned long long CUdeviceptr;

enum : CUresult {
  OK = 0, INVALID_VALUE = 1, INVALID_CONTEXT = 201, INVALID_IMAGE = 200, INVALID_HANDLE = 400, NOT_FOUND = 500,
  NOT_READY = 600, INVALID_DEVICE = 101, ILLEGAL_ADDRESS = 700, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901,
  NOT_PERMITTED = 800, ILLEGAL_STATE = 401, CAPTURE_ISOLATION = 905, CAPTURE_WRONG_THREAD = 908,
};

typedef std::function<CUresult()> Work;

struct Graph { std::vector<Work> work; };

struct Stream {
  std::deque<Work> work;
  unsigned long long given = 0, done = 0;
  Graph* capture = nullptr;
  bool spoilt = false;
  void* context = nullptr;  // none: the default stream, of whichever context is current
};

struct Event {
  Stream* stream = nullptr;
  unsigned long long ticket = 0;
  bool timed = true, inside = false;  // inside: captured, and so no event one can ask
  double at = -1;
  void* context = nullptr;
};

struct Module { std::string code; };
struct Function { std::string name; size_t nbytes; };
struct Block { size_t nbytes; char kind; void* context; };
struct Array { const EglImage* image; int plane; };
struct Resource { const EglImage* image; Array arrays[2]; };

std::recursive_mutex guard;
std::map<uintptr_t, Block> blocks;
std::map<std::string, long> live, calls;
struct Failure { long after; CUresult status; };
std::map<std::string, Failure> failures;
CUresult lost = OK;
int integrated = 0;
const int MOST = 4;
int devices = 1;
int primary[MOST], elsewhere;  // contexts; their addresses are their handles
long retained[MOST];
thread_local std::vector<void*> current;
thread_local Stream* capturing = nullptr;
thread_local bool in_host_function = false;
Stream default_stream;
std::set<Stream*> streams;
std::set<Resource*> resources;

// The CUDA version of the driver, an old one where a test wants it
int cuda() {
  const char* said = std::getenv("STANDIN_CUDA");
  return said ? std::atoi(said) : 13000;
}

// The device whose primary context this is, or -1
int device_of(const void* context) {
  for (int at = 0; at < MOST; at++) if (context == &primary[at]) return at;
  return -1;
}

double now() {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::string plain(const char* name) {
  std::string text(name);
  const size_t at = text.rfind("_v");
  return at == std::string::npos ? text : text.substr(0, at);
}

enum Needs { NOTHING, CONTEXT, NO_CAPTURE };

CUresult enter(const char* function, Needs needs) {
  const std::string name = plain(function);
  calls[name]++;
  const auto found = failures.find(name);
  if (found != failures.end() && found->second.after-- <= 0) {
    const CUresult status = found->second.status;
    failures.erase(found);
    if (capturing) capturing->spoilt = true;
    return status;
  }
  if (lost && needs != NOTHING) return lost;
  if (needs != NOTHING && current.empty()) return INVALID_CONTEXT;
  if (needs == NO_CAPTURE && capturing) {
    capturing->spoilt = true;
    return CAPTURE_UNSUPPORTED;
  }
  return OK;
}

#define ENTER(needs)                                                   \
  if (in_host_function) return NOT_PERMITTED; /* whose caller waits */ \
  std::lock_guard<std::recursive_mutex> locked(guard);                 \
  if (const CUresult refused = enter(__func__, needs)) return refused

Stream* stream_of(void* handle) { return (uintptr_t)handle < 3 ? &default_stream : (Stream*)handle; }

CUresult put(void* handle, Work work) {
  Stream* stream = stream_of(handle);
  if (stream->capture) {
    stream->capture->work.push_back(std::move(work));
  } else {
    stream->work.push_back(std::move(work));
    stream->given++;
  }
  return OK;
}

size_t pages(size_t nbytes) { return (nbytes + 4095) / 4096 * 4096; }

// The GPU's memory is out of the host's reach, but while the stand-in itself works: who touches it is stopped
struct Reach {
  static inline int depth = 0;
  Reach() { if (!depth++) all(PROT_READ | PROT_WRITE); }
  ~Reach() { if (!--depth) all(PROT_NONE); }
  static void one(uintptr_t address, const Block& block, int how) {
    if (block.kind == 'd' && device_of(block.context) >= 0) mprotect((void*)address, pages(block.nbytes), how);
  }
  static void all(int how) {
    for (const auto& held : blocks) one(held.first, held.second, how);
    for (const Resource* seen : resources) mprotect(seen->image->memory, seen->image->nbytes, how);
  }
};

CUresult run_until(Stream* stream, unsigned long long ticket) {
  if (stream->done >= ticket) return lost;
  const Reach reach;
  while (stream->done < ticket && !stream->work.empty()) {
    Work work = std::move(stream->work.front());
    stream->work.pop_front();
    stream->done++;
    const CUresult status = lost ? lost : work();
    if (status) lost = status;
  }
  return lost;
}

// Freeing memory waits for all that may still use it
void run_all() {
  run_until(&default_stream, default_stream.given);
  for (Stream* stream : streams) run_until(stream, stream->given);
}

// Whether all of [address, address + nbytes) is one live allocation, of one of these kinds
bool holds(uintptr_t address, size_t nbytes, const char* kinds) {
  auto block = blocks.upper_bound(address);
  if (block == blocks.begin()) return false;
  --block;
  return std::strchr(kinds, block->second.kind) && address + nbytes <= block->first + block->second.nbytes;
}

CUresult allocate(size_t nbytes, char kind, void* context, void** result) {
  if (!nbytes) return INVALID_VALUE;
  void* memory = std::aligned_alloc(4096, pages(nbytes));
  std::memset(memory, 0xA5, nbytes);
  const Block& block = blocks[(uintptr_t)memory] = Block{nbytes, kind, context};
  Reach::one((uintptr_t)memory, block, PROT_NONE);
  live[kind == 'd' ? "device" : "host"]++;
  *result = memory;
  return OK;
}

CUresult release(uintptr_t address, char kind) {
  const auto found = blocks.find(address);
  if (found == blocks.end() || found->second.kind != kind) return INVALID_VALUE;
  Reach::one(address, found->second, PROT_READ | PROT_WRITE);
  blocks.erase(found);
  live[kind == 'd' ? "device" : "host"]--;
  std::memset((void*)address, 0x5A, 16);
  std::free((void*)address);
  return OK;
}

CUresult copy(uintptr_t to, const char* to_kinds, uintptr_t from, const char* from_kinds, size_t nbytes, void* stream) {
  if (!holds(to, nbytes, to_kinds) || !holds(from, nbytes, from_kinds)) return INVALID_VALUE;
  return put(stream, [=] {
    if (!holds(to, nbytes, to_kinds) || !holds(from, nbytes, from_kinds)) return ILLEGAL_ADDRESS;
    std::memmove((void*)to, (void*)from, nbytes);
    return OK;
  });
}

// CUDA_MEMCPY2D
struct Place { size_t x, y; int type; void* host; CUdeviceptr device; Array* array; size_t pitch; };
struct Copy { Place from, to; size_t nbytes, rows; };

// Where a row of a copy begins; null where it is out of reach. Arrays are stored from the bottom up
char* row_at(const Place& place, size_t row, size_t nbytes, bool read) {
  const uintptr_t at = (place.type == 1 ? (uintptr_t)place.host : place.device) + row * place.pitch;
  if (place.type != 3 && place.pitch < nbytes) return nullptr;
  if (place.type == 1) return holds(at, 1, "d") ? nullptr : (char*)at;
  if (place.type == 2 && holds(at, nbytes, "d")) return (char*)at;
  for (const Resource* seen : resources) {
    const EglImage& image = *seen->image;
    if (!read || image.dead) continue;
    if (place.type == 2 && !image.arrays && at >= (uintptr_t)image.memory &&
        at + nbytes <= (uintptr_t)image.memory + image.nbytes) return (char*)at;
    if (place.type != 3 || !image.arrays || (place.array != &seen->arrays[0] && place.array != &seen->arrays[1])) continue;
    const size_t rows = image.height >> place.array->plane;
    return row < rows && nbytes <= image.width ? (char*)image.planes[place.array->plane] + (rows - 1 - row) * image.pitch : nullptr;
  }
  return nullptr;
}

bool reaches(const Copy& copy) {
  for (size_t row = 0; row < copy.rows; row++) {
    if (!row_at(copy.from, row, copy.nbytes, true) || !row_at(copy.to, row, copy.nbytes, false)) return false;
  }
  return copy.rows > 0;
}

CUresult record(Event* event, void* handle, unsigned flags) {
  Stream* stream = stream_of(handle);
  if (flags && !stream->capture) return INVALID_VALUE;
  if (event->context != (stream->context ? stream->context : current.back())) return INVALID_HANDLE;
  event->inside = stream->capture && !flags;
  put(handle, [=] { event->at = now(); return OK; });
  event->stream = stream;
  event->ticket = stream->given;
  return OK;
}

// Whichever thread asks: the whole context cannot be waited for while one of its streams is captured
CUresult spoil_captures() {
  for (Stream* stream : streams) {
    if (stream->capture && stream->context == current.back()) {
      stream->spoilt = true;
      return CAPTURE_UNSUPPORTED;
    }
  }
  return OK;
}

size_t argument_size(const std::string& kernel) {
  if (kernel == "preprocess") return sizeof(PreprocessArguments);
  if (kernel == "decode") return sizeof(DecodeArguments);
  if (kernel == "topk") return sizeof(TopkArguments);
  return kernel == "order" || kernel == "overlap" || kernel == "choose" ? sizeof(SuppressArguments) : 0;
}

// An ELF file ends with its section table
size_t elf_size(const char* image) {
  uint64_t table;
  uint16_t entry, count;
  std::memcpy(&table, image + 40, 8);
  std::memcpy(&entry, image + 58, 2);
  std::memcpy(&count, image + 60, 2);
  return table + (size_t)entry * count;
}

}  // namespace

#define VISIBLE extern "C" __attribute__((visibility("default")))
#define API VISIBLE CUresult

API cuInit(unsigned) { ENTER(NOTHING); return OK; }
API cuDriverGetVersion(int* version) { ENTER(NOTHING); *version = cuda(); return OK; }
API cuDeviceGetCount(int* count) { ENTER(NOTHING); *count = devices; return OK; }
API cuDeviceGet(int* device, int ordinal) {
  ENTER(NOTHING);
  if (ordinal < 0 || ordinal >= devices) return INVALID_DEVICE;
  *device = ordinal;
  return OK;
}
API cuDeviceGetName(char* name, int length, int device) {
  ENTER(NOTHING);
  std::strncpy(name, device ? ("Stand-in " + std::to_string(device)).c_str() : "Stand-in", length);
  return OK;
}
API cuDeviceGetPCIBusId(char* address, int length, int device) {
  ENTER(NOTHING);
  std::snprintf(address, length, "0000:%02x:00.0", 9 - device);
  return OK;
}
API cuDeviceGetAttribute(int* value, int attribute, int device) {
  ENTER(NOTHING);
  *value = attribute == 75 ? 8 : attribute == 76 ? (device ? 9 : 6) : attribute == 18 ? integrated : 0;
  return OK;
}
API cuDevicePrimaryCtxRetain(void** context, int device) {
  ENTER(NOTHING);
  *context = &primary[device];
  retained[device]++;
  live["retained"]++;
  return OK;
}
API cuDevicePrimaryCtxRelease_v2(int device) {
  ENTER(NOTHING);
  if (retained[device] <= 0) return INVALID_CONTEXT;
  retained[device]--;
  live["retained"]--;
  return OK;
}
API cuCtxPushCurrent_v2(void* context) {
  ENTER(NOTHING);
  const int device = device_of(context);
  if (device >= 0 && retained[device] <= 0) return INVALID_CONTEXT;
  current.push_back(context);
  live["pushed"]++;
  return OK;
}
API cuCtxPopCurrent_v2(void** context) {
  ENTER(NOTHING);
  if (current.empty()) return INVALID_CONTEXT;
  if (context) *context = current.back();
  current.pop_back();
  live["pushed"]--;
  return OK;
}
API cuCtxGetCurrent(void** context) { ENTER(NOTHING); *context = current.empty() ? nullptr : current.back(); return OK; }
API cuCtxSynchronize() {
  ENTER(NO_CAPTURE);
  if (const CUresult refused = spoil_captures()) return refused;
  run_all();
  return lost;
}

API cuMemAlloc_v2(CUdeviceptr* pointer, size_t nbytes) {
  ENTER(NO_CAPTURE);
  return allocate(nbytes, 'd', current.back(), (void**)pointer);
}
API cuMemFree_v2(CUdeviceptr pointer) { ENTER(NO_CAPTURE); return release(pointer, 'd'); }
API cuMemHostAlloc(void** pointer, size_t nbytes, unsigned) {
  ENTER(NO_CAPTURE);
  return allocate(nbytes, 'h', current.back(), pointer);
}
API cuMemFreeHost(void* pointer) { ENTER(NO_CAPTURE); return release((uintptr_t)pointer, 'h'); }
API cuMemHostGetDevicePointer_v2(CUdeviceptr* pointer, void* host, unsigned) {
  ENTER(CONTEXT);
  if (!holds((uintptr_t)host, 1, "h")) return INVALID_VALUE;
  *pointer = (CUdeviceptr)host;
  return OK;
}
API cuMemGetInfo_v2(size_t* free, size_t* total) {
  ENTER(CONTEXT);
  size_t used = 0;
  for (const auto& block : blocks) used += block.second.kind == 'd' ? block.second.nbytes : 0;
  *total = (size_t)8 << 30;
  *free = *total - used;
  return OK;
}
API cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t nbytes, void* stream) {
  ENTER(CONTEXT);
  return copy(to, "d", (uintptr_t)from, "h", nbytes, stream);
}
API cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t nbytes, void* stream) {
  ENTER(CONTEXT);
  return copy((uintptr_t)to, "h", from, "d", nbytes, stream);
}
API cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t nbytes, void* stream) {
  ENTER(CONTEXT);
  return copy(to, "d", from, "d", nbytes, stream);
}
API cuMemcpyPeerAsync(CUdeviceptr to, void*, CUdeviceptr from, void*, size_t nbytes, void* stream) {
  ENTER(CONTEXT);
  return copy(to, "dh", from, "d", nbytes, stream);
}
API cuMemcpy2DAsync_v2(const Copy* asked, void* stream) {
  ENTER(CONTEXT);
  const Copy copy = *asked;
  if (!reaches(copy)) return INVALID_VALUE;
  return put(stream, [=] {
    if (!reaches(copy)) return ILLEGAL_ADDRESS;
    for (size_t row = 0; row < copy.rows; row++) {
      std::memcpy(row_at(copy.to, row, copy.nbytes, false), row_at(copy.from, row, copy.nbytes, true), copy.nbytes);
    }
    return OK;
  });
}
API cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t nbytes, void* stream) {
  ENTER(CONTEXT);
  if (!holds(to, nbytes, "d")) return INVALID_VALUE;
  return put(stream, [=] { std::memset((void*)to, value, nbytes); return OK; });
}
// Of memory that is not the driver's own: zeros
CUresult tell(void* data, int attribute, CUdeviceptr pointer) {
  const bool ours = holds(pointer, 1, "dh");
  const Block block = ours ? std::prev(blocks.upper_bound(pointer))->second : Block{};
  if (attribute == 1) *(void**)data = block.context;
  else if (attribute == 2) *(unsigned*)data = !ours ? 0 : block.kind == 'd' ? 2 : 1;
  else if (attribute == 3) *(CUdeviceptr*)data = ours ? pointer : 0;
  else if (attribute == 9) *(int*)data = ours ? std::max(0, device_of(block.context)) : -2;
  else return INVALID_VALUE;
  return OK;
}
API cuPointerGetAttribute(void* data, int attribute, CUdeviceptr pointer) {
  ENTER(CONTEXT);
  return holds(pointer, 1, "dh") ? tell(data, attribute, pointer) : INVALID_VALUE;
}
API cuPointerGetAttributes(unsigned count, int* attributes, void** data, CUdeviceptr pointer) {
  ENTER(CONTEXT);
  for (unsigned at = 0; at < count; at++) if (const CUresult status = tell(data[at], attributes[at], pointer)) return status;
  return OK;
}

// An image is reached while it is registered; what was put on a stream before is not waited for
API cuGraphicsEGLRegisterImage(void** resource, const EglImage* image, unsigned) {
  ENTER(NO_CAPTURE);
  if (const CUresult refused = spoil_captures()) return refused;
  if (!image || image->dead) return INVALID_VALUE;
  *resource = *resources.insert(new Resource{image, {{image, 0}, {image, 1}}}).first;
  live["resource"]++;
  return OK;
}
API cuGraphicsResourceGetMappedEglFrame(EglFrame* frame, Resource* resource, unsigned, unsigned) {
  ENTER(CONTEXT);
  const EglImage& image = *resource->image;
  *frame = EglFrame{{}, image.width, image.height, 0, image.pitch, image.count, 1, image.arrays ? 0u : 1u, 1, 1};
  for (int at = 0; at < 2; at++) frame->planes[at] = image.arrays ? (void*)&resource->arrays[at] : image.planes[at];
  return OK;
}
API cuGraphicsUnregisterResource(Resource* resource) {
  ENTER(NO_CAPTURE);
  if (const CUresult refused = spoil_captures()) return refused;
  if (!resources.erase(resource) || resource->image->dead) return INVALID_HANDLE;
  delete resource;
  live["resource"]--;
  return OK;
}

API cuStreamCreate(void** stream, unsigned) {
  ENTER(CONTEXT);
  Stream* made = new Stream;
  made->context = current.back();
  streams.insert(made);
  *stream = made;
  live["stream"]++;
  return OK;
}
API cuStreamDestroy_v2(void* stream) {
  ENTER(CONTEXT);
  run_until((Stream*)stream, ((Stream*)stream)->given);
  streams.erase((Stream*)stream);
  delete (Stream*)stream;
  live["stream"]--;
  return OK;
}
API cuStreamSynchronize(void* handle) {
  ENTER(NO_CAPTURE);
  Stream* stream = stream_of(handle);
  return run_until(stream, stream->given);
}
API cuStreamWaitEvent(void* handle, void* of, unsigned) {
  ENTER(CONTEXT);
  const Event event = *(Event*)of;
  if (stream_of(handle)->capture) return CAPTURE_ISOLATION;
  return put(handle, [=] { return event.stream ? run_until(event.stream, event.ticket) : OK; });
}
API cuStreamBeginCapture_v2(void* handle, int) {
  ENTER(CONTEXT);
  Stream* stream = stream_of(handle);
  if (stream == &default_stream) return CAPTURE_UNSUPPORTED;
  if (stream->capture) return ILLEGAL_STATE;
  stream->capture = new Graph;
  stream->spoilt = false;
  capturing = stream;
  live["graph"]++;
  return OK;
}
API cuStreamEndCapture(void* handle, void** graph) {
  std::lock_guard<std::recursive_mutex> locked(guard);
  const CUresult refused = enter(__func__, CONTEXT);
  Stream* stream = stream_of(handle);
  if (!stream->capture) return ILLEGAL_STATE;
  if (capturing != stream) return CAPTURE_WRONG_THREAD;
  *graph = stream->capture;
  stream->capture = nullptr;  // whatever else: the capture is over
  capturing = nullptr;
  if (!stream->spoilt && !refused) return OK;
  delete (Graph*)*graph;
  *graph = nullptr;
  live["graph"]--;
  return refused ? refused : CAPTURE_INVALIDATED;
}

API cuEventCreate(void** event, unsigned flags) {
  ENTER(CONTEXT);
  Event* made = new Event;
  made->timed = !(flags & 2);
  made->context = current.back();
  *event = made;
  live["event"]++;
  return OK;
}
API cuEventDestroy_v2(void* event) { ENTER(CONTEXT); delete (Event*)event; live["event"]--; return OK; }
API cuEventRecordWithFlags(void* event, void* stream, unsigned flags) {
  ENTER(CONTEXT);
  return record((Event*)event, stream, flags);
}
API cuEventRecord(void* event, void* stream) { ENTER(CONTEXT); return record((Event*)event, stream, 0); }
API cuEventSynchronize(void* of) {
  ENTER(NO_CAPTURE);
  Event* event = (Event*)of;
  return event->stream ? run_until(event->stream, event->ticket) : OK;
}
API cuEventElapsedTime_v2(float* ms, void* start, void* end) {
  ENTER(CONTEXT);
  const Event &one = *(Event*)start, &other = *(Event*)end;
  if (!one.timed || !other.timed || one.inside || other.inside || one.at < 0 || other.at < 0) return INVALID_HANDLE;
  if (one.stream->done < one.ticket || other.stream->done < other.ticket) return NOT_READY;
  *ms = (float)(other.at - one.at);
  return OK;
}
API cuEventElapsedTime(float* ms, void* start, void* end) { return cuEventElapsedTime_v2(ms, start, end); }

API cuModuleLoadData(void** module, const void* image) {
  ENTER(NO_CAPTURE);
  if (std::memcmp(image, "\x7f" "ELF", 4)) return INVALID_IMAGE;
  *module = new Module{std::string((const char*)image, elf_size((const char*)image))};
  live["module"]++;
  return OK;
}
API cuModuleUnload(void* module) { ENTER(NO_CAPTURE); delete (Module*)module; live["module"]--; return OK; }
API cuModuleGetFunction(void** function, void* module, const char* name) {
  ENTER(NO_CAPTURE);  // it may be loaded only now
  if (((Module*)module)->code.find(std::string(".text.") + name) == std::string::npos) return NOT_FOUND;
  static std::map<std::string, Function> functions;
  Function& found = functions[name];
  found = Function{name, argument_size(name)};
  if (!found.nbytes) return NOT_FOUND;
  *function = &found;
  return OK;
}
API cuLaunchKernel(void* of, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned, void* stream, void** parameters, void**) {
  ENTER(CONTEXT);
  const Function* function = (Function*)of;
  if (!gx || !gy || !gz || gy > 65535 || gz > 65535 || (size_t)bx * by * bz > 1024) return INVALID_VALUE;
  const void* home = stream_of(stream)->context;
  if (home && home != current.back()) return INVALID_CONTEXT;
  const std::string argument((const char*)parameters[0], function->nbytes);
  return put(stream, [=] {
    const unsigned grid[] = {gx, gy, gz}, block[] = {bx, by, bz};
    alignas(16) char copy[512];
    std::memcpy(copy, argument.data(), argument.size());
    return launch(function->name.c_str(), grid, block, copy, 0) ? NOT_FOUND : OK;
  });
}
API cuLaunchHostFunc(void* stream, void (*function)(void*), void* data) {
  ENTER(CONTEXT);
  return put(stream, [=] {
    // a caller that holds what the function waits for, Python's lock say, waits for ever
    std::thread([=] {
      in_host_function = true;
      function(data);
    }).join();
    return OK;
  });
}

API cuGraphInstantiateWithFlags(void** ready, void* graph, unsigned long long) {
  ENTER(NO_CAPTURE);
  *ready = new Graph(*(Graph*)graph);
  live["ready graph"]++;
  return OK;
}
API cuGraphLaunch(void* ready, void* stream) {
  ENTER(CONTEXT);
  const Graph graph = *(Graph*)ready;
  return put(stream, [=] {
    for (const Work& work : graph.work) {
      if (const CUresult status = work()) return status;
    }
    return (CUresult)OK;
  });
}
API cuGraphExecDestroy(void* ready) { ENTER(CONTEXT); delete (Graph*)ready; live["ready graph"]--; return OK; }
API cuGraphDestroy(void* graph) { ENTER(CONTEXT); delete (Graph*)graph; live["graph"]--; return OK; }

API cuGetErrorName(CUresult, const char** text) { *text = "CUDA_ERROR"; return OK; }
API cuGetErrorString(CUresult status, const char** text) {
  *text = status == 2 ? "out of memory" : "an error";
  return OK;
}

API cuGetProcAddress_v2(const char* symbol, void** found, int version, unsigned long long, int* status) {
  *found = nullptr;
  if (version > cuda()) return INVALID_VALUE;
  for (const char* suffix : {"_v2", "", "WithFlags"}) {
    if (!*found) *found = dlsym(RTLD_DEFAULT, (std::string(symbol) + suffix).c_str());
  }
  Dl_info ours, theirs;
  if (*found && dladdr((void*)cuInit, &ours) && dladdr(*found, &theirs) && ours.dli_fbase != theirs.dli_fbase) {
    *found = nullptr;
  }
  if (status) *status = *found ? 0 : 1;
  return *found ? OK : NOT_FOUND;
}
API cuGetProcAddress(const char* symbol, void** found, int version, unsigned long long flags) {
  return cuGetProcAddress_v2(symbol, found, version, flags, nullptr);
}

// NVRTC asks for tables of functions that no header declares, and does without them
API cuGetExportTable(const void** table, const void*) {
  *table = nullptr;
  return NOT_FOUND;
}

// For tests

VISIBLE void standin_fail(const char* name, long after, int status) {
  std::lock_guard<std::recursive_mutex> locked(guard);
  failures[name] = Failure{after, status};
}
VISIBLE void standin_lose(int status) { lost = status; }
VISIBLE void standin_be_several(int value) { devices = value; }
VISIBLE void standin_be_integrated(int value) { integrated = value; }
VISIBLE const char* standin_counts(int of_calls) {
  static std::string text;
  std::lock_guard<std::recursive_mutex> locked(guard);
  text.clear();
  for (const auto& one : of_calls ? calls : live) text += one.first + "=" + std::to_string(one.second) + "\n";
  return text.c_str();
}
// What a test left on purpose, taken for the zero that other tests start from
VISIBLE void standin_forget() {
  failures.clear();
  live.clear();
  std::fill(retained, retained + MOST, 0);
  current.clear();
}
// Memory of another context, as a library has it that makes its own
VISIBLE void* standin_foreign(size_t nbytes) {
  void* memory;
  allocate(nbytes, 'd', &elsewhere, &memory);
  live["device"]--;
  return memory;
}
