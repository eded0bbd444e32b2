// Attention on tensor cores from sm_80 on (mma.sync), in bf16, D (TINYLLM_SIZE) a multiple of 16 up to 128. No T x T matrix.
//
// A row of qkv and dqkv (N, 3C) is q (C) | k (C) | v (C); row t of a sequence sees rows starts[t] ..= t of it; y and dy (N, C),
// lse and delta (N, H) in f32, starts (N) ascending in a sequence.
//
// attention_forward   y, lse. A block owns 128 query rows of a head (D > 64: 64), 32 (16) a warp, and takes 64 keys at a time
//                     from the diagonal down, with a running maximum and sum.
// attention_dq        dq, and delta, the row sums of dy y. A block owns query rows likewise, and takes keys upwards.
// attention_dkv       dk and dv. A block owns keys, and takes 64 queries at a time from the diagonal up. After attention_dq.
//
// Each is launched on ceil(T / OWN) B H blocks of 4 warps with two tiles in dynamic shared memory, so that the next is fetched while
// one is worked on (D 64: 36,864 bytes, D 128: 69,632; attention_dkv 1,536 more): two blocks a multiprocessor. What a warp owns is in
// registers, as left factors; what is fetched is the right factor of two products, read along or across its rows. With 32 rows
// a warp each fragment from shared memory serves two products: 128 bytes a product, half of what shared memory can give in
// that time on an A100; with 16 rows (D > 64) the two are even.
//
// Masks are applied only where a tile touches the diagonal or the beginning of a document; tiles that nobody in the block sees are
// not fetched, and a warp passes by what only its neighbours see.
//
// Backward in two kernels makes 7 products instead of 5 (scores and dp twice): dq is summed over keys, dk and dv over queries,
// each sum in one block and in one order, so that bits repeat without atomics and without a dq in f32 in between.
//
// B 64, T 1024, H 12, D 64 on an H200 (790 TFLOP/s, 4.3 TB/s), the causal half of FLOPs; predicted from published rates, not measured:
//   forward   103 GFLOP (110 executed), 0.41 GB: floor 0.13 ms, predicted 0.45 ms at 229 TFLOP/s, what FlashAttention-2 has here,
//             with mma.sync as well
//   backward  361 GFLOP in 7 products (371 executed), 0.61 + 0.61 GB: floor 0.33 ms for the 258 GFLOP of 5, predicted 2.0 ms at
//             180 TFLOP/s, which is FlashAttention-2's backward, going by its 192 for both; its 5 products take 1.4 ms
#include "base.cuh"

constexpr u32 D = TINYLLM_SIZE;
static_assert(D % 16 == 0 && D >= 16 && D <= 128, "the channels of a head: a multiple of 16 up to 128");
constexpr u32 THREADS = 128;
constexpr u32 M = D <= 64 ? 2 : 1;          // 16-row pieces that a warp owns
constexpr u32 OWN = THREADS / 32 * 16 * M;  // rows that a block owns
constexpr u32 TILE = 64;                    // rows that are fetched at a time
// Elements of a row in shared memory: an odd number of 16-byte packs, so that the 8 rows of a matrix lie in different banks.
constexpr u32 ROW = D + 8;
constexpr float LOG2_E = 1.4426950408889634f;
#define NOTHING bits_to_f32(0xFF800000u)  // -infinity: a score that counts for nothing

// Which rows, and of which head, a block owns. The tiles with the most work come first, so that no long one is left for the end;
// but `group` heads at a time, so that what their blocks fetch stays in the second-level cache.
struct Place {
    u32 first;  // row of the sequence
    u32 sequence, head;
};
template <bool LATE_FIRST> __device__ __forceinline__ Place place(u32 t, u32 h, u32 heads, u32 group) {
    const u32 tiles = (t + OWN - 1) / OWN, round = blockIdx.x / (group * tiles), rest = blockIdx.x % (group * tiles);
    const u32 size = min(group, heads - round * group), tile = rest / size, head = round * group + rest % size;
    return { (LATE_FIRST ? tiles - 1 - tile : tile) * OWN, head / h, head % h };
}

// Offsets within a sequence have 32 bits (T 3C is below 2^32), because registers are short.
//
// A lane's part of fragments, with g = lane / 4 and c = lane % 4, is that of ptx.cuh: rows g and g + 8, columns 2c and 2c + 1.
typedef u32 Rows[M][D / 16][4];   // (16 M, D) as a left factor
typedef float Sums[M][D / 8][4];   // (16 M, D)
typedef float Scores[M][2][4];    // (16 M, 16)
typedef float RowStats[M][2];     // of rows g and g + 8 of each piece

// Rows `first ..` of a head; behind the last of `t` rows, that one again: their results are not stored.
__device__ __forceinline__ void load_rows(Rows& rows, const bf16* from, u32 stride, u32 first, u32 t) {
    const u32 g = threadIdx.x % 32 / 4, c = threadIdx.x % 4;
#pragma unroll
    for (u32 m = 0; m < M; m++)
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            const bf16* row = from + (min(first + 16 * m + 8 * half + g, t - 1) * stride + 2 * c);
#pragma unroll
            for (u32 k = 0; k < D / 16; k++) {
                rows[m][k][half] = *reinterpret_cast<const u32*>(row + 16 * k);
                rows[m][k][half + 2] = *reinterpret_cast<const u32*>(row + 16 * k + 8);
            }
        }
}

// Stores `factor * sums` of rows before `t`.
__device__ __forceinline__ void store_rows(bf16* to, u32 stride, u32 first, u32 t, const Sums& sums, const RowStats& factor) {
    const u32 g = threadIdx.x % 32 / 4, c = threadIdx.x % 4;
#pragma unroll
    for (u32 m = 0; m < M; m++)
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            const u32 row = first + 16 * m + 8 * half + g;
            if (row >= t) continue;
#pragma unroll
            for (u32 n = 0; n < D / 8; n++)
                *reinterpret_cast<u32*>(to + (row * stride + 2 * c) + 8 * n) =
                    pack_bf16(factor[m][half] * sums[m][n][2 * half], factor[m][half] * sums[m][n][2 * half + 1]);
        }
}

// Begins to fetch rows `first .. first + TILE` of a head, zeros behind `t`.
__device__ __forceinline__ void fetch(bf16* tile, const bf16* from, u32 stride, u32 first, u32 t) {
#pragma unroll
    for (u32 i = 0; i < TILE * (D / 8) / THREADS; i++) {
        const u32 pack = i * THREADS + threadIdx.x, row = pack / (D / 8), column = pack % (D / 8) * 8;
        copy_async(tile + row * ROW + column, from + ((first + row) * stride + column), first + row < t);
    }
}

// scores (16 M, 16) = rows (16 M, D) times the transpose of 16 rows of a tile.
__device__ __forceinline__ void times_transposed(Scores& scores, const Rows& rows, const bf16* tile) {
    const u32 lane = threadIdx.x % 32;
    const bf16* at = tile + (lane / 16 * 8 + lane % 8) * ROW + lane / 8 % 2 * 8;
#pragma unroll
    for (u32 m = 0; m < M; m++)
#pragma unroll
        for (u32 n = 0; n < 2; n++)
#pragma unroll
            for (u32 i = 0; i < 4; i++) scores[m][n][i] = 0.0f;
#pragma unroll
    for (u32 k = 0; k < D / 16; k++) {
        u32 of[4];
        load_matrices(of, at + 16 * k);
        const u32 left[2] = { of[0], of[1] }, right[2] = { of[2], of[3] };
#pragma unroll
        for (u32 m = 0; m < M; m++) {
            mma_16x8x16(scores[m][0], rows[m][k], left);
            mma_16x8x16(scores[m][1], rows[m][k], right);
        }
    }
}

// sums (16 M, D) += weights (16 M, 16), rounded to bf16, times 16 rows of a tile.
__device__ __forceinline__ void add_product(Sums& sums, const Scores& weights, const bf16* tile) {
    const u32 lane = threadIdx.x % 32;
    const bf16* at = tile + lane % 16 * ROW + lane / 16 * 8;
    u32 factor[M][4];
#pragma unroll
    for (u32 m = 0; m < M; m++)
#pragma unroll
        for (u32 i = 0; i < 4; i++) factor[m][i] = pack_bf16(weights[m][i / 2][i % 2 * 2], weights[m][i / 2][i % 2 * 2 + 1]);
#pragma unroll
    for (u32 n = 0; n < D / 16; n++) {
        u32 of[4];
        load_matrices_transposed(of, at + 16 * n);
        const u32 left[2] = { of[0], of[1] }, right[2] = { of[2], of[3] };
#pragma unroll
        for (u32 m = 0; m < M; m++) {
            mma_16x8x16(sums[m][2 * n], factor[m], left);
            mma_16x8x16(sums[m][2 * n + 1], factor[m], right);
        }
    }
}

__device__ __forceinline__ void clear(Sums& sums) {
#pragma unroll
    for (u32 m = 0; m < M; m++)
#pragma unroll
        for (u32 n = 0; n < D / 8; n++)
#pragma unroll
            for (u32 i = 0; i < 4; i++) sums[m][n][i] = 0.0f;
}

// The queries that a warp owns: which keys they see.
struct Queries {
    u32 first, last;       // rows of the warp that are there
    u32 earliest, latest;  // where the documents of these two begin
    u32 starts[M][2];      // of this lane's rows
    __device__ __forceinline__ Queries(const u32* of, u32 first, u32 t) : first(first), last(min(first + 16 * M, t) - 1) {
        earliest = of[min(first, t - 1)], latest = of[last];
#pragma unroll
        for (u32 m = 0; m < M; m++)
#pragma unroll
            for (u32 half = 0; half < 2; half++) starts[m][half] = of[min(first + 16 * m + 8 * half + threadIdx.x % 32 / 4, t - 1)];
    }
    // Whether any of them sees any of `count` keys, and whether all see all.
    __device__ __forceinline__ bool see_any(u32 key, u32 count) const { return first <= last && key <= last && earliest < key + count; }
    __device__ __forceinline__ bool see_all(u32 key, u32 count) const { return key + count <= first + 1 && latest <= key; }
    // Makes nothing of the scores of keys `key .. key + 16` that are not seen. & and not &&: no branches.
    __device__ __forceinline__ void mask(Scores& scores, u32 key) const {
        const u32 row = first + threadIdx.x % 32 / 4;
        key += threadIdx.x % 4 * 2;
#pragma unroll
        for (u32 m = 0; m < M; m++)
#pragma unroll
            for (u32 i = 0; i < 8; i++) {
                const u32 of = key + i / 4 * 8 + i % 2, half = i % 4 / 2;
                const bool seen = starts[m][half] <= of & of <= row + 16 * m + 8 * half;
                scores[m][i / 4][i % 4] = seen ? scores[m][i / 4][i % 4] : NOTHING;
            }
    }
};

// What attention_forward and attention_dq fetch of the keys.
struct __align__(16) KeyTile {
    bf16 k[TILE * ROW], v[TILE * ROW];
};
__device__ __forceinline__ void fetch_keys(KeyTile& tile, const bf16* k, const bf16* v, u32 stride, u32 key, u32 t) {
    fetch(tile.k, k, stride, key, t);
    fetch(tile.v, v, stride, key, t);
    copy_async_commit();
}

extern "C" __global__ void __launch_bounds__(THREADS)
    attention_forward(bf16* y, float* lse, const bf16* qkv, const u32* starts, float scale, u32 t, u32 h, u32 heads, u32 group) {
    DYNAMIC_SHARED(KeyTile, tiles);  // [2]
    const Place at = place<true>(t, h, heads, group);
    const u32 stride = 3 * h * D, first = at.first + threadIdx.x / 32 * 16 * M;
    const u64 row0 = u64(at.sequence) * t;
    const bf16 *q = qkv + row0 * stride + at.head * D, *k = q + h * D, *v = k + h * D;
    const Queries queries(starts + row0, first, t);
    const float scale2 = scale * LOG2_E;

    const u32 begin = starts[row0 + at.first] / TILE, end = (min(at.first + OWN, t) + TILE - 1) / TILE;
    fetch_keys(tiles[0], k, v, stride, (end - 1) * TILE, t);

    Rows rows;
    load_rows(rows, q, stride, first, t);
    Sums sums;
    clear(sums);
    RowStats most, total;  // of raw scores; of the exponentials of this lane's columns
#pragma unroll
    for (u32 m = 0; m < M; m++) most[m][0] = most[m][1] = NOTHING, total[m][0] = total[m][1] = 0.0f;

    u32 buffer = 0;
    for (u32 step = end; step-- > begin; buffer ^= 1) {
        const u32 key = step * TILE;
        copy_async_wait<0>();
        __syncthreads();
        // The other buffer was last read before this barrier.
        if (step > begin) fetch_keys(tiles[buffer ^ 1], k, v, stride, key - TILE, t);
        const KeyTile& tile = tiles[buffer];
        if (queries.see_any(key, TILE)) {
            Scores scores[TILE / 16];
#pragma unroll
            for (u32 chunk = 0; chunk < TILE / 16; chunk++) times_transposed(scores[chunk], rows, tile.k + 16 * chunk * ROW);
            if (!queries.see_all(key, TILE)) {
#pragma unroll
                for (u32 chunk = 0; chunk < TILE / 16; chunk++) queries.mask(scores[chunk], key + 16 * chunk);
            }
            // A warp's first tile has the diagonals of all its rows: from there on each maximum is finite.
#pragma unroll
            for (u32 m = 0; m < M; m++)
#pragma unroll
                for (u32 half = 0; half < 2; half++) {
                    float next = most[m][half];
#pragma unroll
                    for (u32 i = 0; i < TILE / 4; i++) next = fmaxf(next, scores[i / 4][m][i / 2 % 2][2 * half + i % 2]);
                    next = fmaxf(next, __shfl_xor_sync(0xFFFFFFFFu, next, 1));
                    next = fmaxf(next, __shfl_xor_sync(0xFFFFFFFFu, next, 2));
                    const float keep = exp2_fast(scale2 * (most[m][half] - next)), shift = scale2 * next;
                    most[m][half] = next;
                    float sum = total[m][half] * keep;
#pragma unroll
                    for (u32 i = 0; i < TILE / 4; i++) {
                        float& x = scores[i / 4][m][i / 2 % 2][2 * half + i % 2];
                        x = exp2_fast(fmaf(x, scale2, -shift));
                        sum += x;
                    }
                    total[m][half] = sum;
#pragma unroll
                    for (u32 n = 0; n < D / 8; n++) sums[m][n][2 * half] *= keep, sums[m][n][2 * half + 1] *= keep;
                }
#pragma unroll
            for (u32 chunk = 0; chunk < TILE / 16; chunk++) add_product(sums, scores[chunk], tile.v + 16 * chunk * ROW);
        }
    }

    RowStats factor;
#pragma unroll
    for (u32 m = 0; m < M; m++)
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            float sum = total[m][half];
            sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 1);
            sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 2);
            factor[m][half] = 1.0f / sum;
            const u32 row = first + 16 * m + 8 * half + threadIdx.x % 32 / 4;
            if (threadIdx.x % 4 == 0 && row < t) lse[(row0 + row) * h + at.head] = scale * most[m][half] + logf(sum);
        }
    store_rows(y + row0 * h * D + at.head * D, h * D, first, t, sums, factor);
}

// One tile of keys for a warp of attention_dq: dq += p (dy v^T - delta) k.
__device__ __forceinline__ void add_dq(Sums& sums, const Rows& q, const Rows& dy, const RowStats& lse2, const RowStats& delta,
                                       const Queries& queries, u32 key, const KeyTile& tile, float scale2) {
    // Not unrolled: registers are short.
#pragma unroll 1
    for (u32 first = 0; first < TILE; first += 16) {
        if (!queries.see_any(key + first, 16)) continue;
        Scores p, ds;
        times_transposed(p, q, tile.k + first * ROW);
        times_transposed(ds, dy, tile.v + first * ROW);
        if (!queries.see_all(key + first, 16)) queries.mask(p, key + first);
#pragma unroll
        for (u32 m = 0; m < M; m++)
#pragma unroll
            for (u32 i = 0; i < 8; i++) {
                const u32 n = i / 4, e = i % 4, half = e / 2;
                ds[m][n][e] = exp2_fast(fmaf(p[m][n][e], scale2, -lse2[m][half])) * (ds[m][n][e] - delta[m][half]);
            }
        add_product(sums, ds, tile.k + first * ROW);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    attention_dq(bf16* dqkv, float* delta, const bf16* dy, const bf16* y, const bf16* qkv, const float* lse, const u32* starts, float scale,
                 u32 t, u32 h, u32 heads, u32 group) {
    DYNAMIC_SHARED(KeyTile, tiles);  // [2]
    const Place at = place<true>(t, h, heads, group);
    const u32 stride = 3 * h * D, first = at.first + threadIdx.x / 32 * 16 * M;
    const u64 row0 = u64(at.sequence) * t, out = row0 * h * D + at.head * D;
    const bf16 *q = qkv + row0 * stride + at.head * D, *k = q + h * D, *v = k + h * D;
    const Queries queries(starts + row0, first, t);

    const u32 begin = starts[row0 + at.first] / TILE, end = (min(at.first + OWN, t) + TILE - 1) / TILE;
    fetch_keys(tiles[0], k, v, stride, begin * TILE, t);

    Rows q_rows, dy_rows;
    RowStats lse2, own;
    load_rows(q_rows, y + out, h * D, first, t);
    load_rows(dy_rows, dy + out, h * D, first, t);
#pragma unroll
    for (u32 m = 0; m < M; m++)
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            float sum = 0.0f;
#pragma unroll
            for (u32 i = 0; i < D / 8; i++) {
                const u32 a = q_rows[m][i / 2][i % 2 * 2 + half], b = dy_rows[m][i / 2][i % 2 * 2 + half];
                sum += bits_to_f32(a << 16) * bits_to_f32(b << 16) + bits_to_f32(a & 0xFFFF0000u) * bits_to_f32(b & 0xFFFF0000u);
            }
            sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 1);
            sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 2);
            own[m][half] = sum;
            const u32 row = first + 16 * m + 8 * half + threadIdx.x % 32 / 4;
            const u64 stat = (row0 + min(row, t - 1)) * h + at.head;
            lse2[m][half] = LOG2_E * lse[stat];
            if (threadIdx.x % 4 == 0 && row < t) delta[stat] = sum;
        }
    load_rows(q_rows, q, stride, first, t);
    Sums sums;
    clear(sums);

    u32 buffer = 0;
    for (u32 step = begin; step < end; step++, buffer ^= 1) {
        copy_async_wait<0>();
        __syncthreads();
        // The other buffer was last read before this barrier.
        if (step + 1 < end) fetch_keys(tiles[buffer ^ 1], k, v, stride, (step + 1) * TILE, t);
        if (first < t) add_dq(sums, q_rows, dy_rows, lse2, own, queries, step * TILE, tiles[buffer], scale * LOG2_E);
    }
    RowStats factor;
#pragma unroll
    for (u32 m = 0; m < M; m++) factor[m][0] = factor[m][1] = scale;
    store_rows(dqkv + row0 * stride + at.head * D, stride, first, t, sums, factor);
}

// What attention_dkv fetches of the queries.
struct __align__(16) QueryTile {
    bf16 q[TILE * ROW], dy[TILE * ROW];
    float lse2[TILE], delta[TILE];
    u32 starts[TILE];
};

// One tile of queries for a warp of attention_dkv that owns keys `key ..`: dv += p^T dy, dk += (p (dy v^T - delta))^T q.
__device__ __forceinline__ void add_dkv(Sums& dk, Sums& dv, const Rows& k, const Rows& v, const QueryTile& tile, u32 query, u32 key,
                                        float scale2) {
    const u32 c = threadIdx.x % 4;
    // Not unrolled: registers are short.
#pragma unroll 1
    for (u32 first = 0; first < TILE; first += 16) {
        // Nobody in it sees a key: all before the first, or all in later documents.
        if (query + first + 15 < key || tile.starts[first] >= key + 16 * M) continue;
        Scores p, ds;
        times_transposed(p, k, tile.q + first * ROW);
        times_transposed(ds, v, tile.dy + first * ROW);
        if (query + first + 1 < key + 16 * M || tile.starts[first + 15] > key) {
            const i32 row = key + threadIdx.x % 32 / 4, ahead = query + first + 2 * c - row;
#pragma unroll
            for (u32 m = 0; m < M; m++)
#pragma unroll
                for (u32 i = 0; i < 8; i++) {
                    const i32 down = 16 * m + i % 4 / 2 * 8, along = i / 4 * 8 + i % 2;
                    // & and not &&: no branches.
                    const bool sees = down - along <= ahead & i32(tile.starts[first + 2 * c + along]) - row <= down;
                    p[m][i / 4][i % 4] = sees ? p[m][i / 4][i % 4] : NOTHING;
                }
        }
#pragma unroll
        for (u32 n = 0; n < 2; n++)
#pragma unroll
            for (u32 e = 0; e < 2; e++) {
                const float lse2 = tile.lse2[first + 8 * n + 2 * c + e], delta = tile.delta[first + 8 * n + 2 * c + e];
#pragma unroll
                for (u32 m = 0; m < M; m++)
#pragma unroll
                    for (u32 i = e; i < 4; i += 2) {
                        p[m][n][i] = exp2_fast(fmaf(p[m][n][i], scale2, -lse2));
                        ds[m][n][i] = p[m][n][i] * (ds[m][n][i] - delta);
                    }
            }
        add_product(dv, p, tile.dy + first * ROW);
        add_product(dk, ds, tile.q + first * ROW);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    attention_dkv(bf16* dqkv, const bf16* dy, const bf16* qkv, const float* lse, const float* delta, const u32* starts, float scale, u32 t,
                  u32 h, u32 heads, u32 group) {
    DYNAMIC_SHARED(QueryTile, tiles);  // [2]
    const Place at = place<false>(t, h, heads, group);
    const u32 stride = 3 * h * D, key = at.first + threadIdx.x / 32 * 16 * M;
    const u64 row0 = u64(at.sequence) * t;
    const bf16 *q = qkv + row0 * stride + at.head * D, *slope = dy + row0 * h * D + at.head * D;
    starts += row0, lse += row0 * h + at.head, delta += row0 * h + at.head;

    const auto fetch_tile = [&](QueryTile& tile, u32 query) {
        fetch(tile.q, q, stride, query, t);
        fetch(tile.dy, slope, h * D, query, t);
        copy_async_commit();
    };
    // What a thread brings of the statistics; behind the last query exponentials become 0.
    float lse2, own;
    u32 start;
    const auto read_stats = [&](u32 query) {
        const bool there = query + threadIdx.x < t;
        const u32 row = min(query + threadIdx.x, t - 1);
        lse2 = there ? LOG2_E * lse[row * h] : -NOTHING;
        own = there ? delta[row * h] : 0.0f;
        start = there ? starts[row] : 0x7FFFFFFFu;
    };
    const auto write_stats = [&](QueryTile& tile) {
        if (threadIdx.x < TILE) tile.lse2[threadIdx.x] = lse2, tile.delta[threadIdx.x] = own, tile.starts[threadIdx.x] = start;
    };
    read_stats(at.first), write_stats(tiles[0]);
    fetch_tile(tiles[0], at.first);
    Rows k_rows, v_rows;
    load_rows(k_rows, q + h * D, stride, key, t);
    load_rows(v_rows, q + 2 * h * D, stride, key, t);
    Sums dk, dv;
    clear(dk), clear(dv);

    u32 query = at.first, buffer = 0;
    for (bool more = true; more; query += TILE, buffer ^= 1) {
        copy_async_wait<0>();
        __syncthreads();
        const QueryTile& tile = tiles[buffer];
        // Starts ascend: once the last query of a tile sees none of the keys, no later one does. The other buffer was last read
        // before this barrier.
        more = query + TILE < t && tile.starts[TILE - 1] <= (key | (OWN - 1));
        if (more) fetch_tile(tiles[buffer ^ 1], query + TILE), read_stats(query + TILE);
        if (key < t) add_dkv(dk, dv, k_rows, v_rows, tile, query, key, scale * LOG2_E);
        if (more) write_stats(tiles[buffer ^ 1]);
    }
    RowStats scaled, plain;
#pragma unroll
    for (u32 m = 0; m < M; m++) scaled[m][0] = scaled[m][1] = scale, plain[m][0] = plain[m][1] = 1.0f;
    bf16* const to = dqkv + row0 * stride + at.head * D;
    store_rows(to + h * D, stride, key, t, dk, scaled);
    store_rows(to + 2 * h * D, stride, key, t, dv, plain);
}
