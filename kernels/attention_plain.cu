// Attention without tensor cores: in f32, the mode that checks, and in bf16 where the channels of a head are no multiple of 16
// or more than 128. Any D.
//
// A row of qkv (N, 3C) is q (C) | k (C) | v (C); row t of a sequence sees rows starts[t] ..= t of it; y and dy (N, C), lse and
// delta (N, H), starts (N) ascending in a sequence.
//
// All run on blocks of 4 warps, a warp one (row, head), ceil(N H / 4) blocks. 32 rows of the other side are taken at a time:
// first a lane has the whole dot product of one of them, then the lanes share out the channels. What a warp sums up lies in
// dynamic shared memory: `attention_forward` and `attention_dq` 4 (D + 32) floats, `attention_dkv` 4 (2 D + 64).
//
// `attention_dq` goes first, for it makes the delta that `attention_dkv` reads. Sums run over rows in ascending order: bits
// repeat. FLOPs: 2 D T^2 a head forward (the causal half), 7 D T^2 backward (scores and dp are made twice).
//
// Not fast, and not meant to be: in a dot product each lane reads a row of its own, 16 bytes at a time where D allows, so that L1
// serves one lane a clock. B 64, T 1024, H 12, D 64 in f32, predicted from 132 multiprocessors at 1.75 GHz: 4.0e8 pairs of 16 such
// reads are 28 ms forward and, with four dot products, 112 ms backward; the products over channels, 2 lines a pair each, add 4
// and 11 ms. The floors, all FLOPs at 60 TFLOP/s of f32: 1.7 and 6 ms.
#include "base.cuh"

// Where one (row, head) finds its numbers.
struct Place {
    u32 row, width;     // within its sequence; elements of a row of y
    const u32* starts;  // of its sequence
    u64 first;          // row 0 of its sequence, among all rows
    u32 head, heads, d;
    __device__ __forceinline__ Place(u32 index, const u32* all_starts, u32 t, u32 h, u32 d)
        : width(h * d), head(index % h), heads(h), d(d) {
        row = index / h % t, first = u64(index / h / t) * t, starts = all_starts + first;
    }
    // The channels of this head: of a row of y, of a part (0 q, 1 k, 2 v) of a row of qkv; and its place in (N, H).
    __device__ __forceinline__ u64 out(u32 row) const { return (first + row) * width + head * d; }
    __device__ __forceinline__ u64 in(u32 row, u32 part) const { return ((first + row) * 3 + part) * width + head * d; }
    __device__ __forceinline__ u64 stat(u32 row) const { return (first + row) * heads + head; }
};

__device__ __forceinline__ float dot(const X* a, const X* b, u32 d) {
    constexpr u32 N = Pack<X>::N;
    float sum = 0.0f;
    u32 c = 0;
    // Where D is whole packs, so is every offset.
    for (; d % N == 0 && c < d; c += N) {
        const Pack<X> x = load(a + c), y = load(b + c);
#pragma unroll
        for (u32 i = 0; i < N; i++) sum += x.get(i) * y.get(i);
    }
    for (; c < d; c++) sum += to_f32(a[c]) * to_f32(b[c]);
    return sum;
}

extern "C" __global__ void __launch_bounds__(128, 4)
    attention_forward(X* y, float* lse, const X* qkv, const u32* starts, float scale, u32 b, u32 t, u32 h, u32 d) {
    DYNAMIC_SHARED(float, shared);
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, index = blockIdx.x * 4 + warp;
    if (index >= b * t * h) return;
    const Place at(index, starts, t, h, d);
    float *sum = shared + warp * (d + 32), *weight = sum + d;
    const X* q = qkv + at.in(at.row, 0);
    const float none = bits_to_f32(0xFF800000u);  // -infinity
    float most = none, total = 0.0f;              // total: this lane's share
    for (u32 c = lane; c < d; c += 32) sum[c] = 0.0f;
    for (u32 first = at.starts[at.row]; first <= at.row; first += 32) {
        const u32 count = min(32u, at.row + 1 - first);
        const float score = lane < count ? scale * dot(q, qkv + at.in(first + lane, 1), d) : none;
        const float next = fmaxf(most, warp_max(score)), keep = expf(most - next), p = expf(score - next);
        most = next, total = total * keep + p, weight[lane] = p;
        __syncwarp();
        for (u32 c = lane; c < d; c += 32) {
            float x = sum[c] * keep;
            for (u32 j = 0; j < count; j++) x += weight[j] * to_f32(qkv[at.in(first + j, 2) + c]);
            sum[c] = x;
        }
        __syncwarp();
    }
    total = warp_sum(total);
    for (u32 c = lane; c < d; c += 32) y[at.out(at.row) + c] = to_x(sum[c] / total);
    if (lane == 0) lse[at.stat(at.row)] = most + logf(total);
}

// delta = dy . y; dq = scale * sum over keys of p (dy . v - delta) k
extern "C" __global__ void __launch_bounds__(128, 4)
    attention_dq(X* dqkv, float* delta, const X* dy, const X* y, const X* qkv, const float* lse, const u32* starts, float scale, u32 b,
                 u32 t, u32 h, u32 d) {
    DYNAMIC_SHARED(float, shared);
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, index = blockIdx.x * 4 + warp;
    if (index >= b * t * h) return;
    const Place at(index, starts, t, h, d);
    float *sum = shared + warp * (d + 32), *weight = sum + d;
    const X *q = qkv + at.in(at.row, 0), *slope = dy + at.out(at.row);
    float part = 0.0f;
    for (u32 c = lane; c < d; c += 32) part += to_f32(slope[c]) * to_f32(y[at.out(at.row) + c]), sum[c] = 0.0f;
    const float own = warp_sum(part), log_sum = lse[at.stat(at.row)];
    if (lane == 0) delta[at.stat(at.row)] = own;
    for (u32 first = at.starts[at.row]; first <= at.row; first += 32) {
        const u32 count = min(32u, at.row + 1 - first);
        if (lane < count) {
            const float p = expf(scale * dot(q, qkv + at.in(first + lane, 1), d) - log_sum);
            weight[lane] = p * (dot(slope, qkv + at.in(first + lane, 2), d) - own);
        }
        __syncwarp();
        for (u32 c = lane; c < d; c += 32) {
            float x = sum[c];
            for (u32 j = 0; j < count; j++) x += weight[j] * to_f32(qkv[at.in(first + j, 1) + c]);
            sum[c] = x;
        }
        __syncwarp();
    }
    for (u32 c = lane; c < d; c += 32) dqkv[at.in(at.row, 0) + c] = to_x(scale * sum[c]);
}

// dv = sum over the rows that see this one of p dy; dk = scale * sum of p (dy . v - delta) q
extern "C" __global__ void __launch_bounds__(128, 4)
    attention_dkv(X* dqkv, const X* dy, const X* qkv, const float* lse, const float* delta, const u32* starts, float scale, u32 b, u32 t,
                  u32 h, u32 d) {
    DYNAMIC_SHARED(float, shared);
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, index = blockIdx.x * 4 + warp;
    if (index >= b * t * h) return;
    const Place at(index, starts, t, h, d);
    float *dk = shared + warp * (2 * d + 64), *dv = dk + d, *p_of = dv + d, *ds_of = p_of + 32;
    const X *k = qkv + at.in(at.row, 1), *v = qkv + at.in(at.row, 2);
    for (u32 c = lane; c < d; c += 32) dk[c] = dv[c] = 0.0f;
    // Starts ascend: once a row does not see this one, no later row does.
    for (u32 first = at.row; first < t && at.starts[first] <= at.row; first += 32) {
        const u32 count = min(32u, t - first), query = first + lane;
        if (lane < count) {
            const bool sees = at.starts[query] <= at.row;
            const float p = sees ? expf(scale * dot(qkv + at.in(query, 0), k, d) - lse[at.stat(query)]) : 0.0f;
            p_of[lane] = p;
            ds_of[lane] = sees ? p * (dot(dy + at.out(query), v, d) - delta[at.stat(query)]) : 0.0f;
        }
        __syncwarp();
        for (u32 c = lane; c < d; c += 32) {
            float k_sum = dk[c], v_sum = dv[c];
            for (u32 j = 0; j < count; j++) {
                k_sum += ds_of[j] * to_f32(qkv[at.in(first + j, 0) + c]);
                v_sum += p_of[j] * to_f32(dy[at.out(first + j) + c]);
            }
            dk[c] = k_sum, dv[c] = v_sum;
        }
        __syncwarp();
    }
    for (u32 c = lane; c < d; c += 32) {
        dqkv[at.in(at.row, 1) + c] = to_x(scale * dk[c]);
        dqkv[at.in(at.row, 2) + c] = to_x(dv[c]);
    }
}
