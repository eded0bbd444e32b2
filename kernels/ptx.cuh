// What needs the compiler's builtins or PTX, behind thin wrappers: bf16 conversions, tensor-core products, asynchronous
// copies, barriers in shared memory. The only file of this folder that speaks PTX. Tests run the kernels on a CPU; there
// `tests/shim/ptx.h` stands in for this file, under the same guard.
#ifndef TINYLLM_PTX
#define TINYLLM_PTX

typedef signed int i32;
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

// Dynamic shared memory of a block, aligned for the tensor copy engine.
#define DYNAMIC_SHARED(T, name) \
    extern __shared__ __align__(1024) u8 name##_bytes[]; \
    T* name = reinterpret_cast<T*>(name##_bytes)

// ---- bf16: a float whose mantissa has 7 bits

struct bf16 {
    u16 bits;
};
struct __align__(4) bf16x2 {
    bf16 x, y;
};

__device__ __forceinline__ float bits_to_f32(u32 bits) { return __uint_as_float(bits); }
__device__ __forceinline__ u32 f32_to_bits(float x) { return __float_as_uint(x); }
__device__ __forceinline__ float to_f32(bf16 x) { return bits_to_f32(u32(x.bits) << 16); }
__device__ __forceinline__ float to_f32(float x) { return x; }

// Nearest, ties to even.
__device__ __forceinline__ bf16 to_bf16(float x) {
    bf16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}
// Two at once, `x` in the lower half.
__device__ __forceinline__ u32 pack_bf16(float x, float y) {
    u32 packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(y), "f"(x));
    return packed;
}

// 2^x, and tanh, by the special function unit: 2^-22 and 2^-11 relative.
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ float tanh_fast(float x) {
    float y;
    asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// ---- 16-byte accesses that pass the caches by (`ldcs`, `stcs`: read or written once)

__device__ __forceinline__ uint4 load_once(const uint4* p) { return __ldcs(p); }
__device__ __forceinline__ void store_once(uint4* p, uint4 x) { __stcs(p, x); }

// ---- tensor cores from sm_80 on: d (16, 8) += a (16, 16) b (16, 8), one warp
//
// Lane l holds, with g = l / 4 and t = l % 4: a = rows g and g + 8, columns 2t, 2t + 1 and 2t + 8, 2t + 9 in the order
// (g, 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8), each a pair of bf16; b = rows 2t, 2t + 1 and 2t + 8, 2t + 9 of column
// g; d = (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1).
__device__ __forceinline__ void mma_16x8x16(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ u32 shared_address(const void* p) { return u32(__cvta_generic_to_shared(p)); }

// Four 8 x 8 matrices of bf16 from shared memory: lanes 0-7 give the addresses of the rows of the first, 8-15 of the second
// and so on. Lane l receives of each matrix the pair (row l / 4, columns 2 (l % 4) and the next); transposed, of its transpose.
__device__ __forceinline__ void load_matrices(u32 (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row)));
}
__device__ __forceinline__ void load_matrices_transposed(u32 (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row)));
}

// ---- asynchronous copies from sm_80 on: 16 bytes a thread; zeros where `valid` is false

__device__ __forceinline__ void copy_async(void* shared, const void* global, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(valid ? 16 : 0));
}
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;"); }
// Waits until at most `N` of this thread's committed groups are still under way. No access to memory moves across it, so that a
// thread may read what it copied itself without a barrier.
template <int N> __device__ __forceinline__ void copy_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

#endif
