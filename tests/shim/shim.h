// Runs CUDA C++ kernels on one CPU thread: the threads of a block are fibers, barriers and warp collectives are states of
// their scheduler. Test-only; `tests/shim/driver.rs` compiles a kernel file against this with g++ and calls `shim_launch`.
//
// What it shows: wrong indexes and tails, missing barriers (fibers run in three orders), reads of shared memory that nobody
// wrote (it is NaN at the start of each block), divergent barriers. What it cannot show: effects of the memory model
// (missing fences), instruction encodings, speed.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
// Blocks run one after another, so one copy is enough; a section of its own, so that it can be poisoned before each.
#define __shared__ static __attribute__((section("shim_shared")))
extern "C" char __start_shim_shared[] __attribute__((weak, visibility("hidden")));
extern "C" char __stop_shim_shared[] __attribute__((weak, visibility("hidden")));

struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x, y, z; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return { x, y, z, w }; }
inline uint2 make_uint2(unsigned x, unsigned y) { return { x, y }; }
inline float4 make_float4(float x, float y, float z, float w) { return { x, y, z, w }; }
inline float2 make_float2(float x, float y) { return { x, y }; }

namespace shim {
constexpr unsigned MAX_THREADS = 1024;
constexpr size_t STACK = 128 << 10;

// What a fiber waits for. POLL: something another fiber will change (an mbarrier); it is tried again each round.
enum Wait { RUN, BLOCK, WARP, NAMED, POLL, DONE };
struct Fiber {
    uint3 thread;
    unsigned linear;
    Wait wait;
    unsigned barrier, expected;  // of NAMED
    void* stack_pointer;
    char* stack;
};
inline Fiber* current;
inline Fiber* fibers;
inline unsigned fiber_count;
inline uint3 block_index;
inline dim3 block_size, grid_size;
inline char* dynamic_shared;
inline int order;  // of the fibers: 0 up, 1 down, 2 mixed
inline void* scheduler_stack;
inline void (*entry)(void*);
inline void* entry_argument;
inline uint64_t slots[32][32][4];  // [warp][lane]: what collectives exchange
inline const char* kernel_name;
inline unsigned long progress;  // counts what changed for those that poll
inline void (*block_begins[4])();  // what the stand-ins for kernels/*.cuh forget between blocks

[[noreturn]] inline void fail(const char* what) {
    fprintf(stderr, "shim: %s: %s (block %u %u %u)\n", kernel_name, what, block_index.x, block_index.y, block_index.z);
    abort();
}

extern "C" void shim_switch(void** save, void* to) __attribute__((visibility("hidden")));
asm(R"(.text
.hidden shim_switch
.type shim_switch,@function
shim_switch: pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
 movq %rsp,(%rdi); movq %rsi,%rsp
 popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp; ret
)");
inline void yield(Wait wait) {
    current->wait = wait;
    shim_switch(&current->stack_pointer, scheduler_stack);
}
inline void trampoline() {
    entry(entry_argument);
    yield(DONE);
    fail("a finished thread went on");
}

// Runs one block: each fiber in turn up to its next wait; a barrier opens when every live fiber it is for waits at it.
inline void run_block() {
    Fiber* f = fibers;
    const unsigned n = fiber_count, warps = (n + 31) / 32;
    unsigned live = n;
    for (unsigned idle = 0;;) {
        bool ran = false;
        const unsigned long before = progress;
        for (unsigned k = 0; k < n; k++) {
            const unsigned i = order == 1 ? n - 1 - k : order == 2 ? (k * 613u + 7) % n : k;
            if (f[i].wait != RUN && f[i].wait != POLL) continue;
            ran = ran || f[i].wait == RUN;
            current = &f[i];
            f[i].wait = RUN;
            shim_switch(&scheduler_stack, f[i].stack_pointer);
            if (f[i].wait == DONE) live--;
            // A poll that succeeded went on to another wait.
            if (f[i].wait != POLL) ran = true;
        }
        if (progress != before) ran = true;
        if (live == 0) return;
        bool opened = false;
        for (unsigned w = 0; w < warps; w++) {
            bool all = true, any = false;
            const unsigned end = n < w * 32 + 32 ? n : w * 32 + 32;
            for (unsigned i = w * 32; i < end; i++) {
                if (f[i].wait == WARP) any = true;
                else if (f[i].wait != DONE) all = false;
            }
            if (any && all) {
                opened = true;
                for (unsigned i = w * 32; i < end; i++)
                    if (f[i].wait == WARP) f[i].wait = RUN;
            }
        }
        for (unsigned b = 0; b < 16; b++) {
            unsigned waiting = 0, expected = 0;
            for (unsigned i = 0; i < n; i++)
                if (f[i].wait == NAMED && f[i].barrier == b) waiting++, expected = f[i].expected;
            if (waiting != 0 && waiting >= expected) {
                opened = true;
                for (unsigned i = 0; i < n; i++)
                    if (f[i].wait == NAMED && f[i].barrier == b) f[i].wait = RUN;
            }
        }
        if (opened) { idle = 0; continue; }
        bool all = true, any = false;
        for (unsigned i = 0; i < n; i++) {
            if (f[i].wait == BLOCK) any = true;
            else if (f[i].wait != DONE) all = false;
        }
        if (any && all) {
            for (unsigned i = 0; i < n; i++)
                if (f[i].wait == BLOCK) f[i].wait = RUN;
            idle = 0;
            continue;
        }
        idle = ran ? 0 : idle + 1;
        if (idle > 3) fail("deadlock: threads wait at different barriers, or for what never comes");
    }
}

inline void run_grid(void (*function)(void*), void* argument, const char* name, dim3 grid, dim3 block, unsigned shared) {
    static std::vector<char> stacks(MAX_THREADS * STACK);
    static std::vector<Fiber> all(MAX_THREADS);
    const unsigned n = block.x * block.y * block.z;
    kernel_name = name;
    if (n == 0 || n > MAX_THREADS || grid.x * grid.y * grid.z == 0) fail("no such launch shape");
    std::vector<char> memory(shared + 1024);
    entry = function, entry_argument = argument, block_size = block, grid_size = grid, fibers = all.data(), fiber_count = n;
    dynamic_shared = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(memory.data()) + 1023) & ~uintptr_t(1023));
    for (block_index.z = 0; block_index.z < grid.z; block_index.z++)
        for (block_index.y = 0; block_index.y < grid.y; block_index.y++)
            for (block_index.x = 0; block_index.x < grid.x; block_index.x++) {
                memset(dynamic_shared, 0xFF, shared);
                if (__start_shim_shared) memset(__start_shim_shared, 0xFF, __stop_shim_shared - __start_shim_shared);
                for (auto* forget : block_begins)
                    if (forget) forget();
                for (unsigned i = 0; i < n; i++) {
                    char* stack = &stacks[i * STACK];
                    void** top = reinterpret_cast<void**>((reinterpret_cast<uintptr_t>(stack) + STACK) & ~uintptr_t(15));
                    *--top = nullptr;
                    *--top = reinterpret_cast<void*>(trampoline);
                    top -= 6;
                    all[i] = { { i % block.x, i / block.x % block.y, i / block.x / block.y }, i, RUN, 0, 0, top, stack };
                }
                run_block();
            }
}

template <class... A, size_t... I> void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*reinterpret_cast<std::decay_t<A>*>(arguments[I])...);
}
// `arguments` as cuLaunchKernel takes them: a pointer to each.
template <class... A> void launch(void (*kernel)(A...), const char* name, const unsigned* shape, unsigned shared, int fiber_order, void** arguments) {
    struct Call { void (*kernel)(A...); void** arguments; } bound{ kernel, arguments };
    order = fiber_order;
    run_grid([](void* p) { auto* b = static_cast<Call*>(p); call(b->kernel, b->arguments, std::index_sequence_for<A...>{}); }, &bound, name,
             { shape[0], shape[1], shape[2] }, { shape[3], shape[4], shape[5] }, shared);
}

inline unsigned lane() { return current->linear % 32; }
inline unsigned warp() { return current->linear / 32; }
// Each lane leaves a value; once all have, each may read any. The second wait keeps a fast lane from overwriting.
template <class T, class Read> auto exchange(T value, Read read) {
    static_assert(sizeof(T) <= sizeof slots[0][0]);
    memcpy(slots[warp()][lane()], &value, sizeof value);
    yield(WARP);
    auto result = read([](unsigned lane) { T other; memcpy(&other, slots[warp()][lane % 32], sizeof other); return other; });
    yield(WARP);
    return result;
}
inline unsigned lanes() { const unsigned first = warp() * 32; return fiber_count - first < 32 ? fiber_count - first : 32; }
}  // namespace shim

#define threadIdx (shim::current->thread)
#define blockIdx (shim::block_index)
#define blockDim (shim::block_size)
#define gridDim (shim::grid_size)
#define __syncthreads() shim::yield(shim::BLOCK)
#define __syncwarp(...) shim::yield(shim::WARP)
#define __threadfence()
#define __threadfence_block()

template <class T> T __shfl_sync(unsigned, T v, int source) { return shim::exchange(v, [&](auto of) { return of(source); }); }
template <class T> T __shfl_xor_sync(unsigned, T v, int mask) { return shim::exchange(v, [&](auto of) { return of(shim::lane() ^ mask); }); }
template <class T> T __shfl_down_sync(unsigned, T v, int d) {
    return shim::exchange(v, [&](auto of) { return of(shim::lane() + d < 32 ? shim::lane() + d : shim::lane()); });
}
template <class T> T __shfl_up_sync(unsigned, T v, int d) {
    return shim::exchange(v, [&](auto of) { return of(int(shim::lane()) >= d ? shim::lane() - d : shim::lane()); });
}
inline unsigned __ballot_sync(unsigned, int p) {
    return shim::exchange(p, [](auto of) { unsigned m = 0; for (unsigned l = 0; l < shim::lanes(); l++) m |= unsigned(of(l) != 0) << l; return m; });
}
inline int __any_sync(unsigned m, int p) { return __ballot_sync(m, p) != 0; }
inline int __all_sync(unsigned m, int p) { return __ballot_sync(m, !p) == 0; }
template <class T> unsigned __match_any_sync(unsigned, T v) {
    return shim::exchange(v, [&](auto of) { unsigned m = 0; for (unsigned l = 0; l < shim::lanes(); l++) m |= unsigned(of(l) == v) << l; return m; });
}
template <class T, class U> T atomicAdd(T* p, U v) { T old = *p; *p = old + T(v); return old; }
template <class T, class U> T atomicMax(T* p, U v) { T old = *p; *p = old < T(v) ? T(v) : old; return old; }
inline unsigned atomicInc(unsigned* p, unsigned most) { unsigned old = *p; *p = old >= most ? 0 : old + 1; return old; }
template <class T> T __ldg(const T* p) { return *p; }
template <class T> T __ldcs(const T* p) { return *p; }
template <class T> void __stcs(T* p, T v) { *p = v; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(unsigned x) { return __builtin_ffs(int(x)); }
inline int __clz(unsigned x) { return x == 0 ? 32 : __builtin_clz(x); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __uint_as_float(unsigned bits) { float x; memcpy(&x, &bits, 4); return x; }
inline unsigned __float_as_uint(float x) { unsigned bits; memcpy(&bits, &x, 4); return bits; }
template <class T, class U> auto min(T a, U b) -> std::common_type_t<T, U> { using C = std::common_type_t<T, U>; return C(b) < C(a) ? C(b) : C(a); }
template <class T, class U> auto max(T a, U b) -> std::common_type_t<T, U> { using C = std::common_type_t<T, U>; return C(a) < C(b) ? C(b) : C(a); }
