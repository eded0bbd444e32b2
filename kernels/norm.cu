// LayerNorm, forward and backward, x (N, C); with h = (x - mean) rstd and g = dy w:
//
//   y = h w + b, stats (N, 2) = mean, rstd
//   dx += rstd (g - mean(g) - h mean(g h)), dw += column sums of dy h, db of dy, and `sums` of dx as it then is
//
// norm_forward_K, norm_backward_K: C a multiple of 8 up to 256 K. A warp a row, a lane columns 8 lane + 256 k on: 16 bytes of bf16
// at a time, the row in registers, the variance in a second pass over them. As many blocks as the device holds at once, each
// warp going over every so many rows. Forward: 256 threads; the next row is under way while this one is worked on. Backward: one
// block a multiprocessor, of as many warps as registers allow; a lane keeps its columns' three sums in registers over all rows
// of its warp, and the warps of a block meet once, at the end. norm_columns then adds up what the blocks found, in their order.
//
// Any other C: norm_forward_any, norm_backward_any (a warp a row, an element a lane at a time) and norm_sums_any (a thread a
// column of 256 rows), then norm_columns too.
//
// For B 64, T 1024, C 768, X = N C bf16 = 100.7 MB, at 4.3 TB/s: forward reads x and writes y, 2X, 47 us; backward reads dy, x
// and dx and writes dx, 4X, 94 us. norm_columns: 132 blocks of 3 C sums, 1.2 MB, out of the second-level cache, some 3 us.
#include "base.cuh"

// Keeps a bf16 kernel's registers low enough for so many blocks at once. f32 needs twice as many, and is for checking.
#ifdef TINYLLM_F32
#define BLOCKS(n) 1
#else
#define BLOCKS(n) n
#endif

// Their arguments.
#define FORWARD_ARGUMENTS X *y, float2 *stats, const X *x, const X *w, const X *b, float eps, u32 n, u32 c
#define BACKWARD_ARGUMENTS X *dx, float *partial, const X *dy, const X *x, const X *w, const float2 *stats, u32 n, u32 c

// What a lane holds of a row: eight columns from each of K; zeros beyond C.
template <u32 K> struct Row {
    Eight<X> at[K];
};
__device__ __forceinline__ u32 column_of(u32 k) { return (k * 32 + threadIdx.x % 32) * 8; }
template <u32 K, bool ONCE = false> __device__ __forceinline__ Row<K> load_row(const X* p, u32 c) {
    Row<K> row = {};
#pragma unroll
    for (u32 k = 0; k < K; k++)
        if (column_of(k) < c) row.at[k] = load_eight<ONCE>(p + column_of(k));
    return row;
}

template <u32 K>
__device__ __forceinline__ void forward(FORWARD_ARGUMENTS) {
    const u32 warps = gridDim.x * (blockDim.x / 32);
    u32 row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= n) return;
    Row<K> next = load_row<K>(x + u64(row) * c, c);
    for (; row < n; row += warps) {
        const Row<K> now = next;
        if (row + warps < n) next = load_row<K>(x + u64(row + warps) * c, c);
        float sum = 0.0f, squares = 0.0f;
#pragma unroll
        for (u32 k = 0; k < K; k++) {
#pragma unroll
            for (u32 i = 0; i < 8; i++) sum += get(now.at[k], i);
        }
        const float mean = warp_sum(sum) / float(c);
#pragma unroll
        for (u32 k = 0; k < K; k++) {
            if (column_of(k) >= c) continue;
#pragma unroll
            for (u32 i = 0; i < 8; i++) {
                const float d = get(now.at[k], i) - mean;
                squares += d * d;
            }
        }
        const float rstd = rsqrtf(warp_sum(squares) / float(c) + eps);
        if (threadIdx.x % 32 == 0) stats[row] = make_float2(mean, rstd);
#pragma unroll
        for (u32 k = 0; k < K; k++) {
            if (column_of(k) >= c) continue;
            const Eight<X> gain = load_eight(w + column_of(k)), bias = load_eight(b + column_of(k));
            float v[8];
#pragma unroll
            for (u32 i = 0; i < 8; i++) v[i] = (get(now.at[k], i) - mean) * rstd * get(gain, i) + get(bias, i);
            Eight<X> out;
            set(out, v);
            store_eight(y + u64(row) * c + column_of(k), out);
        }
    }
}

extern "C" __global__ void __launch_bounds__(256, BLOCKS(4)) norm_forward_1(FORWARD_ARGUMENTS) {
    forward<1>(y, stats, x, w, b, eps, n, c);
}
extern "C" __global__ void __launch_bounds__(256, BLOCKS(4)) norm_forward_2(FORWARD_ARGUMENTS) {
    forward<2>(y, stats, x, w, b, eps, n, c);
}
extern "C" __global__ void __launch_bounds__(256, BLOCKS(4)) norm_forward_3(FORWARD_ARGUMENTS) {
    forward<3>(y, stats, x, w, b, eps, n, c);
}
extern "C" __global__ void __launch_bounds__(256, BLOCKS(3)) norm_forward_4(FORWARD_ARGUMENTS) {
    forward<4>(y, stats, x, w, b, eps, n, c);
}

// A block's `partial` (3, C): its rows' sums of dy h, dy and dx.
template <u32 K, u32 WARPS>
__device__ __forceinline__ void backward(BACKWARD_ARGUMENTS) {
    __shared__ float meet[WARPS][256];
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float sums[3][K][8] = {};
    for (u32 row = blockIdx.x * WARPS + warp; row < n; row += gridDim.x * WARPS) {
        const u64 from = u64(row) * c;
        const Row<K> up = load_row<K, true>(dy + from, c), in = load_row<K, true>(x + from, c);
        const Row<K> gain = load_row<K>(w, c);
        Row<K> d = load_row<K>(dx + from, c);
        const float mean = stats[row].x, rstd = stats[row].y;
        float g_sum = 0.0f, gh_sum = 0.0f;
#pragma unroll
        for (u32 k = 0; k < K; k++) {
#pragma unroll
            for (u32 i = 0; i < 8; i++) {
                const float dy = get(up.at[k], i), h = (get(in.at[k], i) - mean) * rstd, g = dy * get(gain.at[k], i);
                g_sum += g, gh_sum += g * h;
                sums[0][k][i] += dy * h, sums[1][k][i] += dy;
            }
        }
        const float g_mean = warp_sum(g_sum) / float(c), gh_mean = warp_sum(gh_sum) / float(c);
#pragma unroll
        for (u32 k = 0; k < K; k++) {
            if (column_of(k) >= c) continue;
            float v[8];
#pragma unroll
            for (u32 i = 0; i < 8; i++) {
                const float h = (get(in.at[k], i) - mean) * rstd, g = get(up.at[k], i) * get(gain.at[k], i);
                v[i] = get(d.at[k], i) + rstd * (g - g_mean - h * gh_mean);
            }
            set(d.at[k], v);
            store_eight(dx + from + column_of(k), d.at[k]);
            // Of the numbers as they were stored: what a sum over dx in memory would find.
#pragma unroll
            for (u32 i = 0; i < 8; i++) sums[2][k][i] += get(d.at[k], i);
        }
    }
    for (u32 part = 0; part < 3; part++) {
#pragma unroll
        for (u32 k = 0; k < K; k++) {
#pragma unroll
            for (u32 i = 0; i < 8; i++) meet[warp][lane * 8 + i] = part == 0 ? sums[0][k][i] : part == 1 ? sums[1][k][i] : sums[2][k][i];
            __syncthreads();
            const u32 column = k * 256 + threadIdx.x;
            if (threadIdx.x < 256 && column < c) {
                float total = 0.0f;
                for (u32 i = 0; i < WARPS; i++) total += meet[i][threadIdx.x];
                partial[(u64(blockIdx.x) * 3 + part) * c + column] = total;
            }
            __syncthreads();
        }
    }
}

extern "C" __global__ void __launch_bounds__(768, 1) norm_backward_1(BACKWARD_ARGUMENTS) {
    backward<1, 24>(dx, partial, dy, x, w, stats, n, c);
}
extern "C" __global__ void __launch_bounds__(512, 1) norm_backward_2(BACKWARD_ARGUMENTS) {
    backward<2, 16>(dx, partial, dy, x, w, stats, n, c);
}
extern "C" __global__ void __launch_bounds__(384, 1) norm_backward_3(BACKWARD_ARGUMENTS) {
    backward<3, 12>(dx, partial, dy, x, w, stats, n, c);
}
extern "C" __global__ void __launch_bounds__(256, 1) norm_backward_4(BACKWARD_ARGUMENTS) {
    backward<4, 8>(dx, partial, dy, x, w, stats, n, c);
}

// dw, db, sums (C) += their part of `partial` (blocks, 3, C), block by block in eight strands; NULL ones are left out. A block of
// 256 threads 32 columns of one.
extern "C" __global__ void __launch_bounds__(256) norm_columns(float* dw, float* db, float* sums, const float* partial, u32 blocks, u32 c) {
    __shared__ float meet[8][32];
    float* out = blockIdx.y == 0 ? dw : blockIdx.y == 1 ? db : sums;
    if (out == nullptr) return;
    const u32 lane = threadIdx.x % 32, strand = threadIdx.x / 32, column = blockIdx.x * 32 + lane;
    float total = 0.0f;
    if (column < c) {
#pragma unroll 8
        for (u32 i = strand; i < blocks; i += 8) total += partial[(u64(i) * 3 + blockIdx.y) * c + column];
    }
    meet[strand][lane] = total;
    __syncthreads();
    if (strand != 0 || column >= c) return;
    total = 0.0f;
#pragma unroll
    for (u32 i = 0; i < 8; i++) total += meet[i][lane];
    out[column] += total;
}

// ---- any C

extern "C" __global__ void __launch_bounds__(256) norm_forward_any(FORWARD_ARGUMENTS) {
    const u32 row = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= n) return;
    x += u64(row) * c, y += u64(row) * c;
    float sum = 0.0f, squares = 0.0f;
    for (u32 i = lane; i < c; i += 32) sum += to_f32(x[i]);
    const float mean = warp_sum(sum) / float(c);
    for (u32 i = lane; i < c; i += 32) {
        const float d = to_f32(x[i]) - mean;
        squares += d * d;
    }
    const float rstd = rsqrtf(warp_sum(squares) / float(c) + eps);
    if (lane == 0) stats[row] = make_float2(mean, rstd);
    for (u32 i = lane; i < c; i += 32) y[i] = to_x((to_f32(x[i]) - mean) * rstd * to_f32(w[i]) + to_f32(b[i]));
}

// dx alone.
extern "C" __global__ void __launch_bounds__(256) norm_backward_any(X* dx, const X* dy, const X* x, const X* w, const float2* stats,
                                                                    u32 n, u32 c) {
    const u32 row = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= n) return;
    dx += u64(row) * c, dy += u64(row) * c, x += u64(row) * c;
    const float mean = stats[row].x, rstd = stats[row].y;
    float g_sum = 0.0f, gh_sum = 0.0f;
    for (u32 i = lane; i < c; i += 32) {
        const float g = to_f32(dy[i]) * to_f32(w[i]);
        g_sum += g, gh_sum += g * (to_f32(x[i]) - mean) * rstd;
    }
    const float g_mean = warp_sum(g_sum) / float(c), gh_mean = warp_sum(gh_sum) / float(c);
    for (u32 i = lane; i < c; i += 32) {
        const float h = (to_f32(x[i]) - mean) * rstd, g = to_f32(dy[i]) * to_f32(w[i]);
        dx[i] = to_x(to_f32(dx[i]) + rstd * (g - g_mean - h * gh_mean));
    }
}

// partial (N / 256, 3, C), after norm_backward_any: a block of 128 threads so many columns of 256 rows.
extern "C" __global__ void __launch_bounds__(128) norm_sums_any(float* partial, const X* dx, const X* dy, const X* x, const float2* stats,
                                                                u32 n, u32 c) {
    const u32 column = blockIdx.x * 128 + threadIdx.x, first = blockIdx.y * 256, end = min(n, first + 256);
    if (column >= c) return;
    float sums[3] = {};
    for (u32 row = first; row < end; row++) {
        const u64 at = u64(row) * c + column;
        const float up = to_f32(dy[at]);
        sums[0] += up * (to_f32(x[at]) - stats[row].x) * stats[row].y;
        sums[1] += up;
        sums[2] += to_f32(dx[at]);
    }
    for (u32 part = 0; part < 3; part++) partial[(u64(blockIdx.y) * 3 + part) * c + column] = sums[part];
}
