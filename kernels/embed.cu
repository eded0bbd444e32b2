// Embedding: x (N, C) = wte[tokens] + wpe[positions], and backward dw[ids] += dx for either table.
//
// Rows that repeat are summed in ascending order, whatever the timing. The rows are sorted by id; stable, so that equal ids stay in
// order: 8 bits of the id a pass, two passes for up to 65,536 ids. Then:
//
//   embed_count    how often each digit is found in each tile of 2,048 rows; a block of 256 threads a tile
//   embed_scatter  where each goes: after all smaller digits, the same digit in tiles before, in warps before, in lanes before
//   embed_sum      a block a 64 sorted rows, a thread eight columns: sums of equal ids, straight into dw where all of them are in
//                  this tile; the first and the last may go on in the neighbours, and are left as partial sums
//   embed_join     the tile in which such an id begins adds up its partial sums, tile by tile
//
// so that an id of every row is summed by N / 64 blocks at once. Blocks of a multiple of 32 threads, up to 128.
//
// For B 64, T 1024, C 768, X = N C bf16 = 100.7 MB, at 4.3 TB/s: forward reads rows of wte and writes x, 2X, 47 us. Backward reads dx
// once a table, X, 24 us each; beside it reads and writes f32 rows of dw, 6 KB an id that is there: 63 MB, 15 us, for 10,000
// tokens. The sort moves some 2 MB a table, out of the second-level cache, in four launches.
#include "base.cuh"

// Eight columns from `p`, of which `left` are there; ALIGNED: all, at 16 bytes.
template <bool ALIGNED, class T> __device__ __forceinline__ Eight<T> columns(const T* p, u32 left) {
    if (ALIGNED) return load_eight(p);
    float v[8] = {};
    for (u32 i = 0; i < 8; i++)
        if (i < left) v[i] = to_f32(p[i]);
    Eight<T> e;
    set(e, v);
    return e;
}
template <bool ALIGNED, class T> __device__ __forceinline__ void put_columns(T* p, const float (&v)[8], u32 left) {
    if (ALIGNED) {
        Eight<T> e;
        set(e, v);
        store_eight(p, e);
    } else {
        for (u32 i = 0; i < 8; i++)
            if (i < left) p[i] = Convert<T>::from(v[i]);
    }
}

// A warp a row, blocks of 256 threads.
template <bool ALIGNED>
__device__ __forceinline__ void forward(X* x, const u32* tokens, const u32* positions, const X* wte, const X* wpe, u32 n, u32 c) {
    const u32 row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= n) return;
    const X* token = wte + u64(tokens[row]) * c;
    const X* position = wpe + u64(positions[row]) * c;
#pragma unroll 4
    for (u32 column = threadIdx.x % 32 * 8; column < c; column += 256) {
        const Eight<X> a = columns<ALIGNED>(token + column, c - column), b = columns<ALIGNED>(position + column, c - column);
        float v[8];
#pragma unroll
        for (u32 i = 0; i < 8; i++) v[i] = get(a, i) + get(b, i);
        put_columns<ALIGNED>(x + u64(row) * c + column, v, c - column);
    }
}
extern "C" __global__ void __launch_bounds__(256) embed_forward(X* x, const u32* tokens, const u32* positions, const X* wte, const X* wpe,
                                                                u32 n, u32 c) {
    if (c % 8 == 0) forward<true>(x, tokens, positions, wte, wpe, n, c);
    else forward<false>(x, tokens, positions, wte, wpe, n, c);
}

// ---- the sort

constexpr u32 DIGITS = 256, SORTED = 2048;  // rows of a tile

// counts (tiles, DIGITS): of the 8 bits of `ids` from `shift` on.
extern "C" __global__ void __launch_bounds__(256) embed_count(u32* counts, const u32* ids, u32 shift, u32 n) {
    __shared__ u32 found[DIGITS];
    found[threadIdx.x] = 0;
    __syncthreads();
    const u32 first = blockIdx.x * SORTED, end = min(n, first + SORTED);
    for (u32 i = first + threadIdx.x; i < end; i += 256) atomicAdd(&found[ids[i] >> shift & (DIGITS - 1)], 1u);
    __syncthreads();
    counts[blockIdx.x * DIGITS + threadIdx.x] = found[threadIdx.x];
}

// Puts ids and their rows into the order of the digit. `rows` NULL: id i is of row i.
extern "C" __global__ void __launch_bounds__(256) embed_scatter(u32* sorted_ids, u32* sorted_rows, const u32* ids, const u32* rows,
                                                                const u32* counts, u32 tiles, u32 shift, u32 n) {
    constexpr u32 WARPS = 8, ROUNDS = SORTED / 256;
    __shared__ u32 place[WARPS][DIGITS];  // how many of a digit a warp has; then where its first goes
    __shared__ u32 below[WARPS];
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32, digit = threadIdx.x;
    for (u32 i = 0; i < WARPS; i++) place[i][digit] = 0;
    __syncthreads();

    // A warp takes 32 rows at a time of its 256, in order: a lane's place among equal digits of its warp is how many there were
    // in rounds before, and in lanes before.
    u32 id[ROUNDS], rank[ROUNDS];
    const u32 first = blockIdx.x * SORTED + warp * (SORTED / WARPS) + lane;
#pragma unroll
    for (u32 r = 0; r < ROUNDS; r++) {
        const u32 i = first + r * 32;
        id[r] = i < n ? ids[i] : 0;
        const u32 mine = id[r] >> shift & (DIGITS - 1);
        const u32 peers = __match_any_sync(0xFFFFFFFFu, i < n ? mine : DIGITS), before = peers & ((1u << lane) - 1);
        rank[r] = place[warp][mine] + __popc(before);
        __syncwarp();
        if (before == 0 && i < n) place[warp][mine] += __popc(peers);
        __syncwarp();
    }
    __syncthreads();

    // Thread `digit`: how many of it there are, and how many of those in tiles before.
    u32 all = 0, earlier = 0;
#pragma unroll 8
    for (u32 t = 0; t < tiles; t++) {
        const u32 found = counts[t * DIGITS + digit];
        all += found;
        if (t < blockIdx.x) earlier += found;
    }
    u32 through = all;  // of this digit and those below, in this warp of digits; then in all
    for (u32 d = 1; d < 32; d *= 2) {
        const u32 left = __shfl_up_sync(0xFFFFFFFFu, through, d);
        if (lane >= d) through += left;
    }
    if (lane == 31) below[warp] = through;
    __syncthreads();
    for (u32 i = 0; i < warp; i++) through += below[i];
    u32 next = through - all + earlier;
    for (u32 i = 0; i < WARPS; i++) {
        const u32 found = place[i][digit];
        place[i][digit] = next;
        next += found;
    }
    __syncthreads();
#pragma unroll
    for (u32 r = 0; r < ROUNDS; r++) {
        const u32 i = first + r * 32;
        if (i >= n) continue;
        const u32 to = place[warp][id[r] >> shift & (DIGITS - 1)] + rank[r];
        sorted_ids[to] = id[r];
        sorted_rows[to] = rows == nullptr ? i : rows[i];
    }
}

// ---- the sums

constexpr u32 SUMMED = 64;  // sorted rows of a block
constexpr u32 NO_ID = 0xFFFFFFFFu;

template <bool ALIGNED, class T> __device__ __forceinline__ void add_columns(T* p, const float (&v)[8], u32 left) {
    const Eight<T> old = columns<ALIGNED>(p, left);
    float sum[8];
#pragma unroll
    for (u32 i = 0; i < 8; i++) sum[i] = get(old, i) + v[i];
    put_columns<ALIGNED>(p, sum, left);
}

template <bool ALIGNED>
__device__ __forceinline__ void sum_tile(float* dw, float* partial, const X* dx, const u32* ids, const u32* rows, u32 count, u32 c) {
    constexpr u32 AHEAD = 8;  // rows under way
    const u32 column = (blockIdx.y * blockDim.x + threadIdx.x) * 8, left = c - column;
    if (column >= c) return;
    float sum[8] = {};
    bool begins = ids[0] != ids[1];
    for (u32 first = 0; first < count; first += AHEAD) {
        Eight<X> ahead[AHEAD];
#pragma unroll
        for (u32 a = 0; a < AHEAD; a++)
            if (first + a < count) ahead[a] = columns<ALIGNED>(dx + u64(rows[first + a]) * c + column, left);
#pragma unroll
        for (u32 a = 0; a < AHEAD; a++) {
            const u32 i = first + a;
            if (i >= count) break;
#pragma unroll
            for (u32 k = 0; k < 8; k++) sum[k] += get(ahead[a], k);
            const u32 id = ids[1 + i];
            if (i + 1 < count && ids[2 + i] == id) continue;
            if (begins && ids[2 + i] != id) {
                add_columns<ALIGNED>(dw + u64(id) * c + column, sum, left);
            } else {
                put_columns<ALIGNED>(partial + (u64(blockIdx.x) * 2 + begins) * c + column, sum, left);
            }
            begins = true;
#pragma unroll
            for (u32 k = 0; k < 8; k++) sum[k] = 0.0f;
        }
    }
}
// dw[id] += rows of dx; partial (tiles, 2, C): the sum of the id that came from the tile before, and of the one that begins here
// and goes on in the next, where there are such.
extern "C" __global__ void __launch_bounds__(128) embed_sum(float* dw, float* partial, const X* dx, const u32* ids, const u32* rows,
                                                            u32 n, u32 c) {
    __shared__ u32 tile_ids[SUMMED + 2], tile_rows[SUMMED];  // the ids with those of the neighbours
    const u32 first = blockIdx.x * SUMMED, count = min(n - first, SUMMED);
    for (u32 i = threadIdx.x; i < SUMMED + 2; i += blockDim.x)
        tile_ids[i] = first + i >= 1 && first + i - 1 < n ? ids[first + i - 1] : NO_ID;
    for (u32 i = threadIdx.x; i < count; i += blockDim.x) tile_rows[i] = rows[first + i];
    __syncthreads();
    if (c % 8 == 0) sum_tile<true>(dw, partial, dx, tile_ids, tile_rows, count, c);
    else sum_tile<false>(dw, partial, dx, tile_ids, tile_rows, count, c);
}

template <bool ALIGNED> __device__ __forceinline__ void join(float* dw, const float* partial, u32 id, u32 end, u32 c) {
    const u32 column = (blockIdx.y * blockDim.x + threadIdx.x) * 8, left = c - column;
    if (column >= c) return;
    const Eight<float> start = columns<ALIGNED>(partial + (u64(blockIdx.x) * 2 + 1) * c + column, left);
    float sum[8];
#pragma unroll
    for (u32 i = 0; i < 8; i++) sum[i] = get(start, i);
#pragma unroll 8
    for (u32 t = blockIdx.x + 1; t < end; t++) {
        const Eight<float> part = columns<ALIGNED>(partial + u64(t) * 2 * c + column, left);
#pragma unroll
        for (u32 i = 0; i < 8; i++) sum[i] += get(part, i);
    }
    add_columns<ALIGNED>(dw + u64(id) * c + column, sum, left);
}
// dw[id] += partial sums of an id that begins in this tile and goes on in the next.
extern "C" __global__ void __launch_bounds__(128) embed_join(float* dw, const float* partial, const u32* ids, u32 n, u32 c) {
    const u32 first = blockIdx.x * SUMMED, next = first + SUMMED;
    if (next >= n) return;
    const u32 id = ids[next];
    if (ids[next - 1] != id || (first > 0 && ids[first - 1] == id)) return;
    // The first tile that does not begin with this id: by doubling, then by halving.
    const u32 tiles = (n + SUMMED - 1) / SUMMED;
    u32 with = blockIdx.x + 1, step = 1;
    while (with + step < tiles && ids[(with + step) * SUMMED] == id) with += step, step *= 2;
    u32 without = min(with + step, tiles);
    while (with + 1 < without) {
        const u32 middle = (with + without) / 2;
        if (ids[middle * SUMMED] == id) with = middle;
        else without = middle;
    }
    if (c % 8 == 0) join<true>(dw, partial, id, without, c);
    else join<false>(dw, partial, id, without, c);
}
