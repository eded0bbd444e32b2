// A stand-in for libcuda: device memory is host memory, kernels are the shared libraries that nvrtc.cpp makes, work is done
// when it is asked for, and what is asked for under capture is kept and done when its graph is launched.
//
// What a test turns:
//   FAKE_CUDA_ARCH=90         compute capability (80)
//   FAKE_CUDA_DRIVER=12080    what cuDriverGetVersion says (13000)
//   FAKE_CUDA_MEMORY=N        bytes of memory (2^40)
//   FAKE_CUDA_DEVICES=0       number of devices (1)
//   FAKE_CUDA_FAIL=name:n     the n-th launch of a kernel makes the device fail, for good, as an illegal address does
//   FAKE_CUDA_ORDER=0|1|2     the order in which a block's threads run
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

typedef unsigned long long Pointer;
typedef std::function<void()> Work;
enum Result { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_IMAGE = 200, NOT_FOUND = 500, ILLEGAL_ADDRESS = 700, STREAM_CAPTURE_UNSUPPORTED = 900 };

struct Module { int (*launch)(const char*, const unsigned*, unsigned, int, void**); int (*arguments)(const char*, unsigned*); };
struct Function { Module* module; std::string name; unsigned dynamic_shared = 48 << 10; };
struct Graph { std::vector<Work> work; };
struct Stream { Graph* capture = nullptr; };
struct Event { std::chrono::steady_clock::time_point time{}; };

static std::recursive_mutex lock;
static std::map<Pointer, size_t> memory;
static size_t used;
static Result failed = SUCCESS;
static Stream default_stream;

static long number(const char* name, long otherwise) {
    const char* text = getenv(name);
    return text ? atol(text) : otherwise;
}
static Stream& of(void* stream) { return stream ? *static_cast<Stream*>(stream) : default_stream; }
// Does the work, or keeps it while the stream records.
static Result run(void* stream, Work work) {
    std::lock_guard<std::recursive_mutex> guard(lock);
    if (failed) return failed;
    if (of(stream).capture) of(stream).capture->work.push_back(std::move(work));
    else work();
    return SUCCESS;
}
// Nothing that waits for the device may happen while a stream records.
static bool capturing;

extern "C" {
// For cublaslt.cpp.
int fake_cuda_run(void* stream, std::function<void()>* work) { return run(stream, *work); }

int cuInit(unsigned) { return SUCCESS; }
int cuDriverGetVersion(int* version) { *version = int(number("FAKE_CUDA_DRIVER", 13000)); return SUCCESS; }
int cuDeviceGetCount(int* count) { *count = int(number("FAKE_CUDA_DEVICES", 1)); return SUCCESS; }
int cuDeviceGet(int* device, int ordinal) { *device = ordinal; return number("FAKE_CUDA_DEVICES", 1) > ordinal ? SUCCESS : NO_DEVICE; }
int cuDeviceGetName(char* name, int length, int) { snprintf(name, length, "a processor playing a GPU"); return SUCCESS; }
int cuDeviceTotalMem_v2(size_t* bytes, int) { *bytes = size_t(number("FAKE_CUDA_MEMORY", 1l << 40)); return SUCCESS; }
int cuDeviceGetUuid(char* uuid, int) { memset(uuid, 7, 16); return SUCCESS; }
int cuDeviceGetUuid_v2(char* uuid, int) { memset(uuid, 7, 16); return SUCCESS; }
int cuDeviceGetAttribute(int* value, int attribute, int) {
    const long arch = number("FAKE_CUDA_ARCH", 80);
    switch (attribute) {
    case 75: *value = int(arch / 10); break;       // compute capability, major
    case 76: *value = int(arch % 10); break;       // minor
    case 16: *value = 4; break;                    // multiprocessors
    case 8: *value = 48 << 10; break;              // shared memory of a block
    case 97: *value = 227 << 10; break;            // the same, opted in to
    case 81: *value = 228 << 10; break;            // of a multiprocessor
    case 38: *value = 50 << 20; break;             // second-level cache
    case 1: *value = 1024; break;                  // threads of a block
    case 10: *value = 32; break;                   // lanes of a warp
    case 39: *value = 2048; break;                 // threads of a multiprocessor
    default: *value = 1; break;                    // can do it
    }
    return SUCCESS;
}
int cuDevicePrimaryCtxRetain(void** context, int) { *context = &default_stream; return SUCCESS; }
int cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
int cuDevicePrimaryCtxSetFlags_v2(int, unsigned) { return SUCCESS; }
int cuCtxSetCurrent(void*) { return SUCCESS; }
int cuCtxGetCurrent(void** context) { *context = &default_stream; return SUCCESS; }
int cuCtxGetDevice(int* device) { *device = 0; return SUCCESS; }
int cuCtxSynchronize() { return capturing ? STREAM_CAPTURE_UNSUPPORTED : failed; }
int cuCtxGetStreamPriorityRange(int* least, int* most) { *least = *most = 0; return SUCCESS; }
int cuGetErrorName(int error, const char** text) {
    *text = error == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : error == ILLEGAL_ADDRESS ? "CUDA_ERROR_ILLEGAL_ADDRESS" : "CUDA_ERROR";
    return SUCCESS;
}
int cuGetErrorString(int error, const char** text) {
    *text = error == OUT_OF_MEMORY ? "out of memory" : error == ILLEGAL_ADDRESS ? "an illegal memory access was encountered" : "some error";
    return SUCCESS;
}

// ---- memory: poisoned when it is given out, checked behind its end when it is given back

static const size_t GUARD = 256;
int cuMemAlloc_v2(Pointer* out, size_t bytes) {
    std::lock_guard<std::recursive_mutex> guard(lock);
    if (failed) return failed;
    if (used + bytes > size_t(number("FAKE_CUDA_MEMORY", 1l << 40))) return OUT_OF_MEMORY;
    void* p = nullptr;
    if (posix_memalign(&p, 1024, bytes + GUARD)) return OUT_OF_MEMORY;
    memset(p, 0xFF, bytes + GUARD);
    *out = reinterpret_cast<Pointer>(p);
    memory[*out] = bytes, used += bytes;
    return SUCCESS;
}
int cuMemFree_v2(Pointer p) {
    std::lock_guard<std::recursive_mutex> guard(lock);
    const auto found = memory.find(p);
    if (found == memory.end()) return INVALID_VALUE;
    const unsigned char* end = reinterpret_cast<unsigned char*>(p + found->second);
    for (size_t i = 0; i < GUARD; i++)
        if (end[i] != 0xFF) { fprintf(stderr, "fake cuda: something wrote behind the end of a buffer of %zu bytes\n", found->second); abort(); }
    used -= found->second;
    memory.erase(found);
    free(reinterpret_cast<void*>(p));
    return SUCCESS;
}
int cuMemAllocAsync(Pointer* out, size_t bytes, void*) { return cuMemAlloc_v2(out, bytes); }
int cuMemFreeAsync(Pointer p, void*) { return cuMemFree_v2(p); }
int cuMemGetInfo_v2(size_t* left, size_t* total) { cuDeviceTotalMem_v2(total, 0); *left = *total - used; return SUCCESS; }
int cuMemHostAlloc(void** out, size_t bytes, unsigned) { return posix_memalign(out, 4096, bytes) ? OUT_OF_MEMORY : SUCCESS; }
int cuMemAllocHost_v2(void** out, size_t bytes) { return cuMemHostAlloc(out, bytes, 0); }
int cuMemFreeHost(void* p) { free(p); return SUCCESS; }
int cuMemHostGetDevicePointer_v2(Pointer* out, void* p, unsigned) { *out = reinterpret_cast<Pointer>(p); return SUCCESS; }
int cuMemcpyHtoDAsync_v2(Pointer dst, const void* src, size_t bytes, void* s) { return run(s, [=] { memcpy(reinterpret_cast<void*>(dst), src, bytes); }); }
int cuMemcpyDtoHAsync_v2(void* dst, Pointer src, size_t bytes, void* s) { return run(s, [=] { memcpy(dst, reinterpret_cast<void*>(src), bytes); }); }
int cuMemcpyDtoDAsync_v2(Pointer dst, Pointer src, size_t bytes, void* s) { return run(s, [=] { memcpy(reinterpret_cast<void*>(dst), reinterpret_cast<void*>(src), bytes); }); }
int cuMemcpyHtoD_v2(Pointer dst, const void* src, size_t bytes) { return capturing ? STREAM_CAPTURE_UNSUPPORTED : cuMemcpyHtoDAsync_v2(dst, src, bytes, nullptr); }
int cuMemcpyDtoH_v2(void* dst, Pointer src, size_t bytes) { return capturing ? STREAM_CAPTURE_UNSUPPORTED : cuMemcpyDtoHAsync_v2(dst, src, bytes, nullptr); }
int cuMemsetD8Async(Pointer dst, unsigned char x, size_t n, void* s) { return run(s, [=] { memset(reinterpret_cast<void*>(dst), x, n); }); }
int cuMemsetD32Async(Pointer dst, unsigned x, size_t n, void* s) {
    return run(s, [=] { for (size_t i = 0; i < n; i++) reinterpret_cast<unsigned*>(dst)[i] = x; });
}

// ---- streams, events, graphs

int cuStreamCreate(void** stream, unsigned) { *stream = new Stream; return SUCCESS; }
int cuStreamCreateWithPriority(void** stream, unsigned, int) { *stream = new Stream; return SUCCESS; }
int cuStreamDestroy_v2(void* stream) { delete static_cast<Stream*>(stream); return SUCCESS; }
int cuStreamSynchronize(void* stream) { return of(stream).capture ? STREAM_CAPTURE_UNSUPPORTED : failed; }
int cuStreamQuery(void*) { return failed; }
int cuStreamWaitEvent(void*, void*, unsigned) { return failed; }
int cuStreamBeginCapture_v2(void* stream, int) { of(stream).capture = new Graph; capturing = true; return failed; }
int cuStreamEndCapture(void* stream, void** graph) { *graph = of(stream).capture; of(stream).capture = nullptr; capturing = false; return failed; }
int cuThreadExchangeStreamCaptureMode(int* mode) {
    static thread_local int now = 0;
    std::swap(now, *mode);
    return SUCCESS;
}
int cuStreamIsCapturing(void* stream, int* status) { *status = of(stream).capture ? 1 : 0; return SUCCESS; }
int cuStreamGetCaptureInfo_v2(void* stream, int* status, unsigned long long* id, void** graph, void* const**, size_t*) {
    *status = of(stream).capture ? 1 : 0;
    if (id) *id = 1;
    if (graph) *graph = of(stream).capture;
    return SUCCESS;
}
int cuStreamWriteValue32_v2(void* stream, Pointer p, unsigned value, unsigned) {
    return run(stream, [=] { *reinterpret_cast<volatile unsigned*>(p) = value; });
}
int cuEventCreate(void** event, unsigned) { *event = new Event; return failed; }
int cuEventDestroy_v2(void* event) { delete static_cast<Event*>(event); return SUCCESS; }
int cuEventRecord(void* event, void* stream) {
    return run(stream, [=] { static_cast<Event*>(event)->time = std::chrono::steady_clock::now(); });
}
int cuEventRecordWithFlags(void* event, void* stream, unsigned) { return cuEventRecord(event, stream); }
int cuEventSynchronize(void*) { return failed; }
int cuEventQuery(void*) { return failed; }
int cuEventElapsedTime(float* ms, void* from, void* to) {
    *ms = std::chrono::duration<float, std::milli>(static_cast<Event*>(to)->time - static_cast<Event*>(from)->time).count();
    return failed;
}
int cuEventElapsedTime_v2(float* ms, void* from, void* to) { return cuEventElapsedTime(ms, from, to); }
int cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long) { *executable = new Graph(*static_cast<Graph*>(graph)); return SUCCESS; }
int cuGraphUpload(void*, void*) { return SUCCESS; }
int cuGraphLaunch(void* executable, void*) {
    std::lock_guard<std::recursive_mutex> guard(lock);
    for (auto& work : static_cast<Graph*>(executable)->work) {
        if (failed) break;
        work();
    }
    return SUCCESS;
}
int cuGraphExecDestroy(void* executable) { delete static_cast<Graph*>(executable); return SUCCESS; }
int cuGraphDestroy(void* graph) { delete static_cast<Graph*>(graph); return SUCCESS; }
int cuGraphGetNodes(void* graph, void**, size_t* n) { *n = static_cast<Graph*>(graph)->work.size(); return SUCCESS; }

// ---- modules and launches

int cuModuleLoadData(void** out, const void* image) {
    unsigned long long length;
    if (memcmp(image, "SHIM", 4) != 0) return INVALID_IMAGE;
    memcpy(&length, static_cast<const char*>(image) + 4, 8);
    const int file = memfd_create("kernels", 0);
    for (size_t done = 0; done < length;) {
        const ssize_t n = write(file, static_cast<const char*>(image) + 12 + done, length - done);
        if (n <= 0) return INVALID_IMAGE;
        done += size_t(n);
    }
    void* library = dlopen(("/proc/self/fd/" + std::to_string(file)).c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) { fprintf(stderr, "fake cuda: %s\n", dlerror()); return INVALID_IMAGE; }
    auto* module = new Module;
    *reinterpret_cast<void**>(&module->launch) = dlsym(library, "shim_launch");
    *reinterpret_cast<void**>(&module->arguments) = dlsym(library, "shim_arguments");
    *out = module;
    return module->launch && module->arguments ? SUCCESS : INVALID_IMAGE;
}
int cuModuleLoadDataEx(void** out, const void* image, unsigned, void*, void*) { return cuModuleLoadData(out, image); }
int cuModuleUnload(void* module) { delete static_cast<Module*>(module); return SUCCESS; }
int cuModuleGetFunction(void** out, void* module, const char* name) {
    unsigned sizes[64];
    if (static_cast<Module*>(module)->arguments(name, sizes) < 0) return NOT_FOUND;
    *out = new Function{ static_cast<Module*>(module), name };
    return SUCCESS;
}
int cuFuncSetAttribute(void* function, int attribute, int value) {
    if (attribute == 8) static_cast<Function*>(function)->dynamic_shared = unsigned(value);
    return SUCCESS;
}
int cuFuncGetAttribute(int* value, int, void*) { *value = 0; return SUCCESS; }
int cuFuncSetCacheConfig(void*, int) { return SUCCESS; }
int cuLaunchKernel(void* handle, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, void* stream, void** arguments, void**) {
    auto* function = static_cast<Function*>(handle);
    if (!gx || !gy || !gz || !bx || bx * by * bz > 1024 || gy > 65535 || gz > 65535) return INVALID_VALUE;
    if (shared > function->dynamic_shared) return INVALID_VALUE;  // as a real driver does where the attribute was not raised
    unsigned sizes[64];
    const int count = function->module->arguments(function->name.c_str(), sizes);
    std::vector<std::vector<char>> values;
    for (int i = 0; i < count; i++) values.emplace_back(static_cast<char*>(arguments[i]), static_cast<char*>(arguments[i]) + sizes[i]);
    return run(stream, [=] {
        static std::map<std::string, int> launches;
        const char* fail = getenv("FAKE_CUDA_FAIL");
        if (fail && std::string(fail) == function->name + ":" + std::to_string(++launches[function->name])) { failed = ILLEGAL_ADDRESS; return; }
        std::vector<std::vector<char>> aligned = values;
        std::vector<void*> addresses;
        std::vector<std::vector<char>> room;
        for (auto& value : aligned) {
            // A parameter may ask for more alignment than a vector of bytes has.
            room.emplace_back(value.size() + 128);
            char* at = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(room.back().data()) + 127) & ~uintptr_t(127));
            memcpy(at, value.data(), value.size());
            addresses.push_back(at);
        }
        const unsigned shape[6] = { gx, gy, gz, bx, by, bz };
        function->module->launch(function->name.c_str(), shape, shared, int(number("FAKE_CUDA_ORDER", 0)), addresses.data());
    });
}
struct LaunchConfig { unsigned gx, gy, gz, bx, by, bz, shared; void* stream; void* attributes; unsigned count; };
int cuLaunchKernelEx(const LaunchConfig* c, void* function, void** arguments, void** extra) {
    return cuLaunchKernel(function, c->gx, c->gy, c->gz, c->bx, c->by, c->bz, c->shared, c->stream, arguments, extra);
}

// A CUtensorMap as tests/shim/hopper.h reads it: place, rows, columns, stride, rows and columns of a box.
int cuTensorMapEncodeTiled(unsigned long long* map, int type, unsigned rank, void* place, const unsigned long long* sizes, const unsigned long long* strides,
                           const unsigned* box, const unsigned* element_strides, int interleave, int swizzle, int, int fill) {
    // bf16, two dimensions, columns side by side, 128-byte swizzle, zeros beyond the edges; strides are multiples of 16 bytes.
    if (type != 9 || rank != 2 || element_strides[0] != 1 || element_strides[1] != 1 || interleave != 0 || swizzle != 3 || fill != 0) return INVALID_VALUE;
    if (strides[0] % 16 || reinterpret_cast<uintptr_t>(place) % 16 || box[0] * 2 > 128 || box[1] > 256 || reinterpret_cast<uintptr_t>(map) % 64) return INVALID_VALUE;
    memset(map, 0, 128);
    map[0] = reinterpret_cast<uintptr_t>(place), map[1] = sizes[1], map[2] = sizes[0], map[3] = strides[0] / 2, map[4] = box[1], map[5] = box[0];
    return SUCCESS;
}
}
