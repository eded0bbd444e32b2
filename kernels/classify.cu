// The classifier: rows that count, their cross entropy and its gradient in one pass over the logits.
//
// N rows in the batch, K of them counted, C channels, V tokens; P = V rounded up to 64 is the stride of logits, as many rows as the
// weight has in memory. Logits exist for a chunk of up to 8,192 rows: by cuBLASLt `logits = x wte^T`, by `cross_entropy` in place
// `dlogits`, by cuBLASLt `dwte += dlogits^T x` and `dx = dlogits wte`. Where all rows count nothing is gathered or scattered.
//
//   kernel               blocks     threads        reads                      writes
//   cross_entropy        a row      P / 8 to 512   logits (K, P)              dlogits (K, P) over them, losses (K)
//   cross_entropy_twice  a row      P / 8 to 512   logits twice               the same; for rows that shared memory has no room for
//   cross_entropy_loss   a row      P / 8 to 512   logits (K, P)              losses (K)
//   sum_losses           1          1024           losses (K)                 loss (1) +=
//   gather_rows          8 rows     256            (K, C)                     (K, C)
//   scatter_rows         8 rows     256            (K, C)                     (K, C)
//   copy_logits          a row      256            (K, P)                     (K, V)
//
// At 65,536 rows and V 50,304 in bf16 the logits are 6.59 GB: read once and written once 13.2 GB, 3.07 ms at 4.3 TB/s; evaluation
// 6.59 GB, 1.53 ms. The two exponentials an element are 6.6e9, 1.8 ms of the special function units (16 a cycle on 132
// multiprocessors at 1.75 GHz), beside the traffic. Gather and scatter of C 768 in all rows would be 0.2 GB each, 47 us.
//
// A row of 50,304 bf16 is 98 KiB: two fit into a multiprocessor's 228 KiB of shared memory, so that one row is loaded while the
// other is written, which registers could not do (25 words a thread for each of 1,024 threads leave no room for a second block).
// sm_80's 164 KiB hold one.
// A thread meets its own packs alone, so that no barrier stands between a copy and its use.
//
// Statistics from the epilogue of the head's product would spare evaluation the logits whole (13.2 GB with the product's own
// write), but training nothing over this kernel: it would still read and write each logit once. To save more, both products after it
// would have to make the gradient as they load their factor.
#include "base.cuh"

__device__ constexpr u32 NO_ROW = 0xFFFFFFFFu;  // stands for a row that is not there
__device__ constexpr float LOG2_E = 1.4426950408889634f;

// One row a block; 64 registers a thread let two blocks of 512 live on a multiprocessor.
#define ROW_BOUNDS __launch_bounds__(512, 2)

// Rounded to nearest, two at a time.
__device__ __forceinline__ Pack<X> packed(const float (&x)[Pack<X>::N]) {
    union { uint4 raw; Pack<X> pack; } u;
#ifdef TINYLLM_F32
#pragma unroll
    for (u32 i = 0; i < Pack<X>::N; i++) u.pack.set(i, x[i]);
#else
    u.raw = make_uint4(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7]));
#endif
    return u.pack;
}

// The largest of what a thread has met, and the sum of exp(x - largest).
struct Met {
    float most, sum;
};
// Meets the first `valid` elements of a pack, or all.
template <bool ALL> __device__ __forceinline__ void meet(Met& met, const Pack<X>& x, u32 valid) {
    float most = met.most;
#pragma unroll
    for (u32 i = 0; i < Pack<X>::N; i++) {
        if (ALL || i < valid) most = fmaxf(most, x.get(i));
    }
    if (most > met.most) {
        met.sum *= exp2_fast((met.most - most) * LOG2_E);
        met.most = most;
    }
    const float shift = -most * LOG2_E;
    float sum = 0.0f;
#pragma unroll
    for (u32 i = 0; i < Pack<X>::N; i++) {
        if (ALL || i < valid) sum += exp2_fast(x.get(i) * LOG2_E + shift);
    }
    met.sum += sum;
}
// What all threads of the block have met. `scratch`: 64 floats.
__device__ __forceinline__ Met met_by_all(Met met, float* scratch) {
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    // Who met nothing has the sum 0, and a largest from which nothing can be taken.
    const auto joined = [](Met met) {
        const float most = warp_max(met.most);
        return Met{ most, warp_sum(met.sum == 0.0f ? 0.0f : met.sum * exp2_fast((met.most - most) * LOG2_E)) };
    };
    met = joined(met);
    if (lane == 0) scratch[warp] = met.most, scratch[32 + warp] = met.sum;
    __syncthreads();
    return joined(lane < warps ? Met{ scratch[lane], scratch[32 + lane] } : Met{ bits_to_f32(0xFF800000u), 0.0f });
}

// Packs of a row that a thread has under way into shared memory.
__device__ constexpr u32 AHEAD = 8;

// losses[k] = weight (log sum exp(logits) - logits[id]), and logits = weight (softmax - one at id), 0 in columns V to P. Rows behind
// `rows` and those of weight 0 become zeros, whatever they held. KEPT: the row stays in shared memory between its two passes.
template <bool GRADIENT, bool KEPT>
__device__ __forceinline__ void row_of(X* logits, float* losses, const u32* ids, const float* weights, u32 rows, u32 v, u32 stride, X* kept,
                                       float* scratch) {
    constexpr u32 N = Pack<X>::N;
    const u32 packs = stride / N, whole = v / N, used = (v + N - 1) / N;
    // From the last row on: the product wrote it last, and the next product begins with the first.
    const u32 k = gridDim.x - 1 - blockIdx.x;
    X* row = logits + u64(k) * stride;
    const float weight = k < rows ? weights[k] : 0.0f;
    if (weight == 0.0f) {
        if (threadIdx.x == 0 && k < rows) losses[k] = 0.0f;
        if (GRADIENT) {
            for (u32 p = threadIdx.x; p < packs; p += blockDim.x) store(row + p * N, Pack<X>{});
        }
        return;
    }
    const u32 id = ids[k];
    const float aim = to_f32(row[id]);

    Met met = { bits_to_f32(0xFF800000u), 0.0f };
    if (KEPT) {
        u32 next = threadIdx.x;
        for (u32 i = 0; i < AHEAD; i++, next += blockDim.x) {
            if (next < used) copy_async(kept + next * N, row + next * N, true);
            copy_async_commit();
        }
        for (u32 p = threadIdx.x; p < used; p += blockDim.x, next += blockDim.x) {
            copy_async_wait<AHEAD - 1>();
            const Pack<X> x = load(kept + p * N);
            if (p < whole) meet<true>(met, x, N);
            else meet<false>(met, x, v - p * N);
            if (next < used) copy_async(kept + next * N, row + next * N, true);
            copy_async_commit();
        }
    } else {
#pragma unroll 4
        for (u32 p = threadIdx.x; p < whole; p += blockDim.x) meet<true>(met, load(row + p * N), N);
        if (whole < used && threadIdx.x == whole % blockDim.x) meet<false>(met, load(row + whole * N), v - whole * N);
    }
    // The barrier in here also stands between everybody's reading of `aim` and the first write.
    met = met_by_all(met, scratch);
    if (threadIdx.x == 0) losses[k] = weight * (met.most - aim + logf(met.sum));

    if (GRADIENT) {
        const float shift = -met.most * LOG2_E, factor = weight / met.sum;
        for (u32 p = threadIdx.x; p < packs; p += blockDim.x) {
            float d[N];
            const Pack<X> x = p >= used ? Pack<X>{} : load((KEPT ? kept : row) + p * N);
#pragma unroll
            for (u32 i = 0; i < N; i++) d[i] = p < whole || p * N + i < v ? exp2_fast(x.get(i) * LOG2_E + shift) * factor : 0.0f;
            store(row + p * N, packed(d));
        }
        // By the thread that has just written the pack around it.
        if (threadIdx.x == id / N % blockDim.x) row[id] = to_x(exp2_fast(aim * LOG2_E + shift) * factor - weight);
    }
}

// Dynamic shared memory: a row, (P) X.
extern "C" __global__ void ROW_BOUNDS
cross_entropy(X* logits, float* losses, const u32* ids, const float* weights, u32 rows, u32 v, u32 stride) {
    DYNAMIC_SHARED(X, kept);
    __shared__ float scratch[64];
    row_of<true, true>(logits, losses, ids, weights, rows, v, stride, kept, scratch);
}
extern "C" __global__ void ROW_BOUNDS
cross_entropy_twice(X* logits, float* losses, const u32* ids, const float* weights, u32 rows, u32 v, u32 stride) {
    __shared__ float scratch[64];
    row_of<true, false>(logits, losses, ids, weights, rows, v, stride, nullptr, scratch);
}
extern "C" __global__ void ROW_BOUNDS
cross_entropy_loss(X* logits, float* losses, const u32* ids, const float* weights, u32 rows, u32 v, u32 stride) {
    __shared__ float scratch[64];
    row_of<false, false>(logits, losses, ids, weights, rows, v, stride, nullptr, scratch);
}

// loss[0] += the sum of losses (K), in an order that hangs on K alone.
extern "C" __global__ void __launch_bounds__(1024) sum_losses(float* loss, const float* losses, u32 k) {
    __shared__ float scratch[32];
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < k; i += blockDim.x) sum += losses[i];
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) loss[0] += sum;
}

// y = x, a warp a row of C; zeros where x is nullptr.
__device__ __forceinline__ void copy_row(X* y, const X* x, u32 c) {
    constexpr u32 N = Pack<X>::N;
    const u32 lane = threadIdx.x % 32;
    if (c % N == 0) {
        for (u32 i = lane * N; i < c; i += 32 * N) store(y + i, x == nullptr ? Pack<X>{} : load(x + i));
    } else {
        for (u32 i = lane; i < c; i += 32) y[i] = x == nullptr ? to_x(0.0f) : x[i];
    }
}

// y (filled, C) = x[rows]; zeros for NO_ROW and behind `count`.
extern "C" __global__ void __launch_bounds__(256) gather_rows(X* y, const X* x, const u32* rows, u32 count, u32 filled, u32 c) {
    const u32 k = blockIdx.x * 8 + threadIdx.x / 32;
    if (k >= filled) return;
    const u32 row = k < count ? rows[k] : NO_ROW;
    copy_row(y + u64(k) * c, row == NO_ROW ? nullptr : x + u64(row) * c, c);
}

// y[rows] = x (count, C); NO_ROW goes nowhere.
extern "C" __global__ void __launch_bounds__(256) scatter_rows(X* y, const X* x, const u32* rows, u32 count, u32 c) {
    const u32 k = blockIdx.x * 8 + threadIdx.x / 32;
    if (k >= count || rows[k] == NO_ROW) return;
    copy_row(y + u64(rows[k]) * c, x + u64(k) * c, c);
}

// y (rows, V) = x (rows, P) without its pad columns. Rows of any V are not aligned, so that elements go one by one.
extern "C" __global__ void __launch_bounds__(256) copy_logits(X* y, const X* x, u32 v, u32 stride) {
    for (u32 i = threadIdx.x; i < v; i += blockDim.x) y[u64(blockIdx.x) * v + i] = x[u64(blockIdx.x) * stride + i];
}
