// What Hopper adds, behind thin wrappers: barriers in shared memory, the tensor copy engine, warpgroup products. Tests run
// the kernels on a CPU; there `tests/shim/hopper.h` stands in for this file, under the same guard.
//
// For sm_90a alone. What the stand-in cannot prove is the encoding of instructions and descriptors: it is written down here as
// the PTX ISA has it, field by field, and is what a first run on a GPU checks.
#ifndef TINYLLM_HOPPER
#define TINYLLM_HOPPER
#include "ptx.cuh"

// ---- barriers in shared memory (mbarrier): a phase ends when all arrivals and all bytes that were announced have come
//
// Phases have parity 0, 1, 0, ... To wait for a parity is to wait for the end of the phase of that parity; at a fresh barrier
// parity 1 counts as over. Arriving releases, waiting acquires, within the block.

__device__ __forceinline__ void mbarrier_init(u64* barrier, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
// By the thread that initialised, before the block's __syncthreads(): the copy engine is to see the barriers too.
__device__ __forceinline__ void mbarrier_init_fence() {
    asm volatile("fence.mbarrier_init.release.cluster;\n\tfence.proxy.async.shared::cta;" ::: "memory");
}
__device__ __forceinline__ void mbarrier_arrive(u64* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
// Arrives, and announces bytes that copies will bring in this phase.
__device__ __forceinline__ void mbarrier_arrive_expect(u64* barrier, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes) : "memory");
}
__device__ __forceinline__ void mbarrier_wait(u64* barrier, u32 parity) {
    u32 over;
    do {
        asm volatile("{\n\t.reg .pred p;\n\tmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n\tselp.u32 %0, 1, 0, p;\n\t}"
                     : "=r"(over)
                     : "r"(shared_address(barrier)), "r"(parity)
                     : "memory");
    } while (over == 0);
}

// ---- the tensor copy engine (TMA): one thread asks, the barrier counts the bytes

// A matrix in memory as `Driver::tensor_map` describes it (CUtensorMap): boxes of 64 bf16 columns, swizzled by 128 bytes. A
// kernel takes it as `const __grid_constant__ TensorMap`.
struct __align__(64) TensorMap {
    u64 words[16];
};

// The box whose first element is (row, column) to `shared`, aligned to 1024 bytes; zeros beyond the matrix's edges, which
// count as bytes brought all the same.
__device__ __forceinline__ void tensor_load(void* shared, const TensorMap* map, u64* barrier, u32 row, u32 column) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(
                     shared_address(shared)),
                 "l"(map), "r"(shared_address(barrier)), "r"(column), "r"(row)
                 : "memory");
}
// Bytes as they lie: places and length are multiples of 16.
__device__ __forceinline__ void bulk_load(void* shared, const void* global, u32 bytes, u64* barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared_address(shared)),
                 "l"(global), "r"(bytes), "r"(shared_address(barrier))
                 : "memory");
}

// A box in shared memory: row r lies at 128 r; its 16-byte chunk c lies where chunk c ^ (r % 8) would (Swizzle<3, 4, 3>: bits 4
// to 6 of the address are xored with bits 7 to 9).
__device__ __forceinline__ const void* swizzled(const bf16* box, u32 row, u32 chunk) { return box + row * 64 + (chunk ^ (row % 8)) * 8; }

// ---- registers and barriers of warpgroups (4 warps, the first a multiple of 4)

// All warps of a warpgroup together. The kernel needs __launch_bounds__(threads, 1), or the compiler ignores it.
template <u32 REGISTERS> __device__ __forceinline__ void registers_give() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}
template <u32 REGISTERS> __device__ __forceinline__ void registers_take() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

// Barrier `id` (1 to 15; 0 is __syncthreads()) opens when `threads` have arrived; whoever syncs also waits.
__device__ __forceinline__ void named_sync(u32 id, u32 threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
__device__ __forceinline__ void named_arrive(u32 id, u32 threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

// ---- warpgroup products (wgmma): d (64, N) = (d +) a (64, 16) b (16, N), bf16 with f32 sums, by 128 threads, asynchronous
//
// Thread 32 w + l holds, with g = l / 4 and t = l % 4, of d rows 16 w + g and that + 8: d[4 j], d[4 j + 1] = (first row, columns
// 8 j + 2 t and the next), d[4 j + 2], d[4 j + 3] = the same of the second row. Of a in registers it holds what mma_16x8x16
// (ptx.cuh) holds of rows 16 w to 16 w + 15: so d[8 k .. 8 k + 8] packed in pairs is the a of columns 16 k to 16 k + 15.
//
// a or b in shared memory is told by a descriptor:
//
//   bits 0-13   address / 16 (18 bits of address)
//   bits 16-29  leading byte offset / 16      bits 32-45  stride byte offset / 16
//   bits 49-51  base offset: 0, as the pattern of 8 rows begins at a multiple of 1024
//   bits 62-63  1: swizzled by 128 bytes
//
// In both orders a row of memory has 128 bytes and the stride byte offset leads from 8 rows to the next 8: 1024.
//   K-major: a row of memory is a row of a, or a column of b. 16 more of K are 32 bytes on, within the swizzled row: the hardware
//     xors address bits, so that the descriptor's address may point into the row. The leading offset is not used (1).
//   MN-major: a row of memory is one k, its 64 elements 64 rows of a or columns of b. 16 more of K are 16 rows on: 2048 bytes. The
//     leading byte offset leads from 64 elements of M or N to the next 64; with 64 alone it is not used.
enum Major { K_MAJOR = 0, MN_MAJOR = 1 };  // imm-trans-a, imm-trans-b
constexpr u64 K_STEP = 32 / 16, MN_STEP = 2048 / 16;  // what a descriptor grows by for the next 16 of K

__device__ __forceinline__ u64 descriptor(const void* shared, u32 leading) {
    return u64(shared_address(shared) >> 4 & 0x3FFF) | u64(leading >> 4) << 16 | u64(1024 >> 4) << 32 | 1ull << 62;
}
__device__ __forceinline__ u64 descriptor_k(const void* shared) { return descriptor(shared, 16); }
__device__ __forceinline__ u64 descriptor_mn(const void* shared, u32 leading = 1024) { return descriptor(shared, leading); }

// Before the first product, and whenever registers that a product takes were written by anything but products.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most `N` committed groups are under way; until then registers and shared memory of a product are its own.
template <int N> __device__ __forceinline__ void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"); }
// Right after a wait, for each array of registers that the products waited for wrote or read: the compiler does not know that
// they are busy until then, and must not move their uses before it, nor give them to others.
template <int N> __device__ __forceinline__ void wgmma_hold(float (&r)[N]) {
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+f"(r[i])::"memory");
}
template <int M, int N> __device__ __forceinline__ void wgmma_hold(u32 (&r)[M][N]) {
#pragma unroll
    for (int i = 0; i < M * N; i++) asm volatile("" : "+r"(r[i / N][i % N])::"memory");
}

// clang-format off
#define WGMMA_REGISTERS_32 \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}"
#define WGMMA_OPERANDS_32 \
    "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), \
    "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), \
    "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), \
    "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
#define WGMMA_REGISTERS_64 \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}"
#define WGMMA_OPERANDS_64 \
    "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), \
    "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), \
    "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), \
    "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), \
    "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), \
    "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), \
    "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), \
    "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
// clang-format on

// a and b from shared memory; d is added to if `add`.
template <int N, Major A = K_MAJOR, Major B = K_MAJOR> __device__ __forceinline__ void wgmma(float (&d)[N / 2], u64 a, u64 b, bool add) {
    static_assert(N == 64 || N == 128, "no wrapper yet");
    if constexpr (N == 64) {
        asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %34, 0;\n\t"
                     "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " WGMMA_REGISTERS_32 ", %32, %33, p, 1, 1, %35, %36;\n\t}"
                     : WGMMA_OPERANDS_32
                     : "l"(a), "l"(b), "r"(u32(add)), "n"(int(A)), "n"(int(B)));
    } else {
        asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %66, 0;\n\t"
                     "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " WGMMA_REGISTERS_64 ", %64, %65, p, 1, 1, %67, %68;\n\t}"
                     : WGMMA_OPERANDS_64
                     : "l"(a), "l"(b), "r"(u32(add)), "n"(int(A)), "n"(int(B)));
    }
}
// The same with a in registers.
template <int N, Major B> __device__ __forceinline__ void wgmma(float (&d)[N / 2], const u32 (&a)[4], u64 b, bool add) {
    static_assert(N == 64, "no wrapper yet");
    asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %37, 0;\n\t"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " WGMMA_REGISTERS_32 ", "
                 "{%32, %33, %34, %35}, %36, p, 1, 1, %38;\n\t}"
                 : WGMMA_OPERANDS_32
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(u32(add)), "n"(int(B)));
}

#endif
