// What all kernels share: the storage type, 16-byte packs, sums over warps and blocks, counter-based random numbers.
#pragma once
#include "ptx.cuh"

// Activations and weights: bf16, or f32 in the mode for checking.
#ifdef TINYLLM_F32
typedef float X;
#else
typedef bf16 X;
#endif

template <class T> struct Convert;
template <> struct Convert<float> {
    static __device__ __forceinline__ float from(float x) { return x; }
};
template <> struct Convert<bf16> {
    static __device__ __forceinline__ bf16 from(float x) { return to_bf16(x); }
};
// Rounded to nearest.
__device__ __forceinline__ X to_x(float x) { return Convert<X>::from(x); }

// 16 bytes of T: what a thread moves at a time.
template <class T> struct __align__(16) Pack {
    static constexpr u32 N = 16 / sizeof(T);
    T v[N];
    __device__ __forceinline__ float get(u32 i) const { return to_f32(v[i]); }
    __device__ __forceinline__ void set(u32 i, float x) { v[i] = Convert<T>::from(x); }
};
template <class T> __device__ __forceinline__ Pack<T> load(const T* p) {
    union { uint4 raw; Pack<T> pack; } u;
    u.raw = *reinterpret_cast<const uint4*>(p);
    return u.pack;
}
template <class T> __device__ __forceinline__ void store(T* p, const Pack<T>& pack) {
    union { uint4 raw; Pack<T> pack; } u;
    u.pack = pack;
    *reinterpret_cast<uint4*>(p) = u.raw;
}
// The same for what is read or written once, and should not push out of the caches what is read again.
template <class T> __device__ __forceinline__ Pack<T> load_stream(const T* p) {
    union { uint4 raw; Pack<T> pack; } u;
    u.raw = load_once(reinterpret_cast<const uint4*>(p));
    return u.pack;
}
template <class T> __device__ __forceinline__ void store_stream(T* p, const Pack<T>& pack) {
    union { uint4 raw; Pack<T> pack; } u;
    u.pack = pack;
    store_once(reinterpret_cast<uint4*>(p), u.raw);
}

// ---- eight elements at a time in either type, as they lie in memory: 16 bytes of bf16, 32 of f32

template <class T> struct Eight {
    u32 words[2 * sizeof(T)];
};
__device__ __forceinline__ float get(const Eight<bf16>& e, u32 i) {
    return bits_to_f32(i % 2 == 0 ? e.words[i / 2] << 16 : e.words[i / 2] & 0xFFFF0000u);
}
__device__ __forceinline__ float get(const Eight<float>& e, u32 i) { return bits_to_f32(e.words[i]); }
// Rounded to nearest.
__device__ __forceinline__ void set(Eight<bf16>& e, const float (&v)[8]) {
#pragma unroll
    for (u32 i = 0; i < 4; i++) e.words[i] = pack_bf16(v[2 * i], v[2 * i + 1]);
}
__device__ __forceinline__ void set(Eight<float>& e, const float (&v)[8]) {
#pragma unroll
    for (u32 i = 0; i < 8; i++) e.words[i] = f32_to_bits(v[i]);
}
// ONCE: what is read or written only once. `p` is aligned to 16 bytes.
template <bool ONCE = false, class T> __device__ __forceinline__ Eight<T> load_eight(const T* p) {
    Eight<T> e;
#pragma unroll
    for (u32 i = 0; i < sizeof(T) / 2; i++) {
        const uint4* at = reinterpret_cast<const uint4*>(p) + i;
        const uint4 quad = ONCE ? load_once(at) : *at;
        e.words[4 * i] = quad.x, e.words[4 * i + 1] = quad.y, e.words[4 * i + 2] = quad.z, e.words[4 * i + 3] = quad.w;
    }
    return e;
}
template <bool ONCE = false, class T> __device__ __forceinline__ void store_eight(T* p, const Eight<T>& e) {
#pragma unroll
    for (u32 i = 0; i < sizeof(T) / 2; i++) {
        uint4* at = reinterpret_cast<uint4*>(p) + i;
        const uint4 quad = make_uint4(e.words[4 * i], e.words[4 * i + 1], e.words[4 * i + 2], e.words[4 * i + 3]);
        if (ONCE) store_once(at, quad);
        else *at = quad;
    }
}

// ---- reductions, in a fixed order

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) x += __shfl_xor_sync(0xFFFFFFFFu, x, lanes);
    return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFu, x, lanes));
    return x;
}
// The sum over a block of up to 1024 threads, told to every thread. `scratch`: 32 floats of shared memory, which may
// be used again right after.
__device__ __forceinline__ float block_sum(float x, float* scratch) {
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = (blockDim.x + 31) / 32;
    x = warp_sum(x);
    if (lane == 0) scratch[warp] = x;
    __syncthreads();
    x = warp_sum(lane < warps ? scratch[lane] : 0.0f);
    __syncthreads();
    return x;
}

// ---- random numbers: Philox 4x32-10 (Salmon et al. 2011) and the key mixing of src/rng.rs

__device__ __forceinline__ u64 mix_bits(u64 z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}
// rng::key(seed, [part])
__device__ __forceinline__ u64 random_key(u64 seed, u64 part) {
    const u64 golden = 0x9E3779B97F4A7C15ull;
    return mix_bits((mix_bits(seed + golden) + golden) ^ mix_bits(part));
}
// rng::block(key, block): four words.
__device__ __forceinline__ uint4 random_block(u64 key, u64 block) {
    u32 k0 = u32(key), k1 = u32(key >> 32), c0 = u32(block), c1 = u32(block >> 32), c2 = 0, c3 = 0;
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const u64 p0 = 0xD2511F53ull * c0, p1 = 0xCD9E8D57ull * c2;
        const u32 n0 = u32(p1 >> 32) ^ c1 ^ k0, n2 = u32(p0 >> 32) ^ c3 ^ k1;
        c0 = n0, c1 = u32(p1), c2 = n2, c3 = u32(p0);
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    return make_uint4(c0, c1, c2, c3);
}

// The numbers of a step in device memory, as the host writes them (`Control` in src/backend/cuda/mod.rs).
struct Control {
    float lr, beta1, beta2, eps, decay, clip;
    float correct1, correct2;  // 1 - beta^step
    float gain1, gain2;        // 1 - beta, rounded once: 1 - float(beta2) is off by 6e-7 of itself
    u64 dropout_key, rounding_key;
};
