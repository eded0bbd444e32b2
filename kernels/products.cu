// What matrix products leave to kernels of our own: column sums, and products where the library has no algorithm at all.
//
// column_sums, add_partials: db (O) += column sums of dy (N, O), in two stages. First a block sums a chunk of rows over 32 packs of
// columns: 8 warps, a warp a row of 512 bytes at a time, then the warps' sums in their order; then a block adds the partial sums of
// 32 columns. Chunks are a function of N alone, at most 128 of them. Grids: (O / 256, chunks) in bf16 and (O / 32), threads 256.
// Reads dy once and moves 1 MB of partial sums at O 1,024: (65,536, 768) bf16 is 100.7 MB, 23 us at 4.3 TB/s; O 3,072 94 us.
//
// product_plain: y (M, N) = alpha a b + beta c of any sizes, strides and transpositions, through tiles of 32 x 32 in shared memory;
// grid (N / 32, M / 32), threads 256. Not for speed: a thread reads 20 bytes of shared memory for 8 operations, and no tensor core works.
#include "base.cuh"

// `partials (chunks, O)` = sums over rows of each chunk of `chunk` rows.
extern "C" __global__ void __launch_bounds__(256) column_sums(float* partials, const X* dy, u32 n, u32 o, u32 chunk) {
    constexpr u32 N = Pack<X>::N;
    __shared__ float sums[8][32 * N];
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, first = (blockIdx.x * 32 + lane) * N;
    const u32 begin = blockIdx.y * chunk, end = min(begin + chunk, n);
    float sum[N] = {};
    if (o % N == 0) {
        if (first < o) {
#pragma unroll 4
            for (u32 row = begin + warp; row < end; row += 8) {
                const Pack<X> x = load(dy + u64(row) * o + first);
#pragma unroll
                for (u32 i = 0; i < N; i++) sum[i] += x.get(i);
            }
        }
    } else {
        for (u32 row = begin + warp; row < end; row += 8) {
#pragma unroll
            for (u32 i = 0; i < N; i++) {
                if (first + i < o) sum[i] += to_f32(dy[u64(row) * o + first + i]);
            }
        }
    }
    // Columns that are 32 apart lie side by side: no two lanes meet in a bank.
#pragma unroll
    for (u32 i = 0; i < N; i++) sums[warp][i * 32 + lane] = sum[i];
    __syncthreads();
    for (u32 at = threadIdx.x; at < 32 * N; at += 256) {
        const u32 column = (blockIdx.x * 32 + at % 32) * N + at / 32;
        float total = 0.0f;
#pragma unroll
        for (u32 w = 0; w < 8; w++) total += sums[w][at];
        if (column < o) partials[u64(blockIdx.y) * o + column] = total;
    }
}

// db (O) += sums of partials (chunks, O) over chunks.
extern "C" __global__ void __launch_bounds__(256) add_partials(float* db, const float* partials, u32 chunks, u32 o) {
    __shared__ float sums[8][32];
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, column = blockIdx.x * 32 + lane;
    float sum = 0.0f;
    if (column < o) {
#pragma unroll 4
        for (u32 chunk = warp; chunk < chunks; chunk += 8) sum += partials[u64(chunk) * o + column];
    }
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && column < o) {
        float total = 0.0f;
#pragma unroll
        for (u32 w = 0; w < 8; w++) total += sums[w][lane];
        db[column] += total;
    }
}

// `a` lies in memory as (M, K), transposed as (K, M); `b` as (K, N), transposed as (N, K); `c` is not read at beta 0, and may be `y`.
// `ta`, `tb`: tiles of 32 rows of 33.
template <class Y>
__device__ __forceinline__ void product_tile(Y* y, const Y* c, const X* a, const X* b, u32 m, u32 n, u32 k, u32 a_stride,
                                             u32 b_stride, u32 stride, u32 a_transposed, u32 b_transposed, float alpha, float beta,
                                             float (*ta)[33], float (*tb)[33]) {
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = blockIdx.y * 32, column = blockIdx.x * 32;
    // Element (i, j) of a matrix with `rows` and `columns` in memory.
    const auto at = [](const X* of, u32 i, u32 j, u32 rows, u32 columns, u32 stride) {
        return i < rows && j < columns ? to_f32(of[u64(i) * stride + j]) : 0.0f;
    };
    float sum[4] = {};
    for (u32 from = 0; from < k; from += 32) {
        // A warp reads along a row of memory, whichever way that lies in the tile.
        for (u32 i = warp; i < 32; i += 8) {
            if (a_transposed) ta[lane][i] = at(a, from + i, row + lane, k, m, a_stride);
            else ta[i][lane] = at(a, row + i, from + lane, m, k, a_stride);
            if (b_transposed) tb[lane][i] = at(b, column + i, from + lane, n, k, b_stride);
            else tb[i][lane] = at(b, from + i, column + lane, k, n, b_stride);
        }
        __syncthreads();
#pragma unroll 8
        for (u32 i = 0; i < 32; i++) {
#pragma unroll
            for (u32 q = 0; q < 4; q++) sum[q] += ta[warp + 8 * q][i] * tb[i][lane];
        }
        __syncthreads();
    }
#pragma unroll
    for (u32 q = 0; q < 4; q++) {
        const u32 i = row + warp + 8 * q, j = column + lane;
        if (i >= m || j >= n) continue;
        const u64 place = u64(i) * stride + j;
        float x = alpha * sum[q];
        if (beta != 0.0f) x += beta * to_f32(c[place]);
        y[place] = Convert<Y>::from(x);
    }
}

extern "C" __global__ void __launch_bounds__(256)
product_plain(X* y, const X* c, const X* a, const X* b, u32 m, u32 n, u32 k, u32 a_stride, u32 b_stride, u32 stride, u32 a_transposed,
              u32 b_transposed, float alpha, float beta) {
    __shared__ float ta[32][33], tb[32][33];
    product_tile(y, c, a, b, m, n, k, a_stride, b_stride, stride, a_transposed, b_transposed, alpha, beta, ta, tb);
}
// The same into f32.
extern "C" __global__ void __launch_bounds__(256)
product_plain_wide(float* y, const float* c, const X* a, const X* b, u32 m, u32 n, u32 k, u32 a_stride, u32 b_stride, u32 stride,
                   u32 a_transposed, u32 b_transposed, float alpha, float beta) {
    __shared__ float ta[32][33], tb[32][33];
    product_tile(y, c, a, b, m, n, k, a_stride, b_stride, stride, a_transposed, b_transposed, alpha, beta, ta, tb);
}
