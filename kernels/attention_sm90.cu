// Attention on Hopper for heads of 64 channels, bf16: products by warpgroups (wgmma), tiles brought by the tensor copy engine.
//
// qkv (N, 3C), y and dy (N, C), dqkv (N, 3C), lse (N, H), starts (N); N = B T rows, C = 64 H. Row t of a sequence sees rows
// starts[t] ..= t of it. No sum hangs on timing: an item of work (rows of one head) is done by one block in a fixed order.
//
// A block: 3 warpgroups, one block a multiprocessor, item after item. The first is the producer: one thread keeps the copy engine
// busy, up to the next items' tiles, and its registers go to the others. The other two, the consumers, have 64 rows each of the
// item's 128. Items are ordered longest first within sections of heads whose keys and values stay in the second-level cache.
// Each of the 8 warps of the consumers gives a tile back by one arrival.
//
// What it takes, per layer at B 64, T 1024, H 12 (pairs under the causal diagonal alone: 103 GFLOP forward for 2 products), at the
// 790 TFLOP/s and 4.3 TB/s that an H200 was measured at, and 3.9 T exponentials a second:
//
//   kernel            products   GFLOP done   floor by products   by exponentials   by bytes (X = 100.7 MB)   predicted
//   attention_forward     2          113           0.14 ms            0.11 ms           4 X: 0.09 ms       0.27 - 0.35 ms
//   attention_rows        -            -               -                  -              2 X: 0.05 ms             0.06 ms
//   attention_backward_keys 4        219           0.28 ms            0.11 ms           6 X: 0.14 ms       0.45 - 0.55 ms
//   attention_backward_queries 3     164           0.21 ms            0.11 ms           5 X: 0.12 ms       0.35 - 0.45 ms
//
// Products and exponentials overlap only as far as one consumer multiplies while the other does its softmax; with none at all the
// floors add up (0.25 ms forward). Predicted is not measured. The backward has 7 products where 5 would do: scores and their
// gradients are made twice, once for the keys and once for the queries, so that no two blocks add to one number, and that P and
// dS go from registers to the next product without a trip through shared memory.
#include "base.cuh"
#include "hopper.cuh"

constexpr u32 HEAD = 64;                  // channels of a head: a row of a tile is 128 bytes
constexpr u32 GROUP = 64, ITEM = 128;     // rows of a consumer, of an item
constexpr u32 THREADS = 384, WARPS = 8;   // of a block; of its consumers
constexpr u32 PRODUCER_REGISTERS = 24, CONSUMER_REGISTERS = 240;
constexpr float SCALE = 0.125f;           // 1 / sqrt(64)
constexpr float LOG2_E = 1.4426950408889634f, LN_2 = 0.6931471805599453f;
constexpr u32 EVERYBODY = 0xFFFFFFFFu;
constexpr u32 NEVER = 0xFFFFFFFFu;        // start of a row that is not there: it sees nothing

// A place in a ring of N tiles. Who waits for a full one waits for `parity`, who waits for an empty one for the other.
template <u32 N> struct Ring {
    u32 at = 0, parity = 0;
    __device__ __forceinline__ void next() {
        if (++at == N) at = 0, parity ^= 1;
    }
};

struct Work {
    u32 sequence, head;
    u32 rank;  // 0: the longest
};
// Item `item` of `pairs` sequences times heads with `ranks` items each, in sections of `section` pairs.
__device__ __forceinline__ Work work_of(u32 item, u32 heads, u32 pairs, u32 ranks, u32 section) {
    const u32 first = item / (section * ranks) * section, width = min(section, pairs - first), rest = item - first * ranks;
    const u32 pair = first + rest % width;
    return { pair / heads, pair % heads, rest / width };
}

// The same value in all lanes, and the compiler knows.
__device__ __forceinline__ u32 uniform(u32 x) { return __shfl_sync(EVERYBODY, x, 0); }

// This warp is done with what lies behind `empty`.
__device__ __forceinline__ void give_back(u64* empty) {
    __syncwarp();
    if (threadIdx.x % 32 == 0) mbarrier_arrive(empty);
}

// Rows and columns of a thread's part of a (64, 64) accumulator: element i is in row `row(i)`, column `column(i)`.
struct Fragment {
    u32 row0, column0;
    __device__ __forceinline__ Fragment() : row0(threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4), column0(threadIdx.x % 4 * 2) {}
    __device__ __forceinline__ u32 row(u32 i) const { return row0 + 8 * (i / 2 % 2); }
    __device__ __forceinline__ u32 column(u32 i) const { return column0 + i / 4 * 8 + i % 2; }
};

// Columns 16 k to 16 k + 15 of an accumulator, rounded to bf16, as the left factor of a product.
template <int N> __device__ __forceinline__ void pack_left(u32 (&a)[4], const float (&d)[N], u32 k) {
#pragma unroll
    for (u32 i = 0; i < 4; i++) a[i] = pack_bf16(d[8 * k + 2 * i], d[8 * k + 2 * i + 1]);
}

// Writes a (64, 64) accumulator, rows times `factor`, to rows of `out` that are `stride` apart: those below `rows`. The 4 lanes of
// a row exchange 4-byte words, so that each has 16 bytes in a row.
__device__ __forceinline__ void store_rows(bf16* out, u64 stride, u32 rows, const float (&d)[32], const float (&factor)[2]) {
    const u32 lane = threadIdx.x % 4;
    const Fragment at;
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        const u32 row = at.row0 + 8 * half;
#pragma unroll
        for (u32 quad = 0; quad < 2; quad++) {
            u32 word[4];
#pragma unroll
            for (u32 j = 0; j < 4; j++) {
                const u32 i = 4 * (4 * quad + j) + 2 * half;
                word[j] = pack_bf16(d[i] * factor[half], d[i + 1] * factor[half]);
            }
            // word[j] of lane l becomes word[l] of lane j.
#pragma unroll
            for (u32 j = 0; j < 4; j += 2) {
                const u32 other = __shfl_xor_sync(EVERYBODY, lane & 1 ? word[j] : word[j + 1], 1);
                if (lane & 1) word[j] = other; else word[j + 1] = other;
            }
#pragma unroll
            for (u32 j = 0; j < 2; j++) {
                const u32 other = __shfl_xor_sync(EVERYBODY, lane & 2 ? word[j] : word[j + 2], 2);
                if (lane & 2) word[j] = other; else word[j + 2] = other;
            }
            if (row < rows) *reinterpret_cast<uint4*>(out + row * stride + (4 * quad + lane) * 8) = make_uint4(word[0], word[1], word[2], word[3]);
        }
    }
}

// ---- forward

constexpr u32 FORWARD_STAGES = 3;
struct ForwardShared {
    bf16 q[2][ITEM * HEAD];
    bf16 k[FORWARD_STAGES][ITEM * HEAD], v[FORWARD_STAGES][ITEM * HEAD];
    u64 q_full[2], q_empty[2];
    u64 k_full[FORWARD_STAGES], k_empty[FORWARD_STAGES], v_full[FORWARD_STAGES], v_empty[FORWARD_STAGES];
};
static_assert(sizeof(ForwardShared) <= 131328, "FORWARD_SHARED in src/backend/cuda/attention_sm90.rs");

// Scores become what the exponential leaves of them; `best` and `sum` go on, `fade` is what earlier sums are to be scaled by. The
// first tile has a row's own key, so that `best` is a number from then on.
template <int N> __device__ __forceinline__ void softmax_step(float (&s)[N], float (&best)[2], float (&sum)[2], float (&fade)[2]) {
    constexpr float TO_LOG2 = SCALE * LOG2_E;
    float top[2] = { best[0], best[1] };
#pragma unroll
    for (u32 i = 0; i < N; i++) top[i / 2 % 2] = fmaxf(top[i / 2 % 2], s[i]);
#pragma unroll
    for (u32 r = 0; r < 2; r++) {
        top[r] = fmaxf(top[r], __shfl_xor_sync(EVERYBODY, top[r], 1));
        top[r] = fmaxf(top[r], __shfl_xor_sync(EVERYBODY, top[r], 2));
        fade[r] = exp2_fast((best[r] - top[r]) * TO_LOG2);
        best[r] = top[r];
        sum[r] *= fade[r];
        top[r] *= TO_LOG2;
    }
#pragma unroll
    for (u32 i = 0; i < N; i++) {
        s[i] = exp2_fast(s[i] * TO_LOG2 - top[i / 2 % 2]);
        sum[i / 2 % 2] += s[i];
    }
}

// Scores of pairs that do not see each other: key < start or key > row, of the sequence's rows.
template <int N> __device__ __forceinline__ void mask(float (&s)[N], u32 first_row, u32 first_key, const u32 (&start)[2]) {
    const Fragment at;
#pragma unroll
    for (u32 i = 0; i < N; i++) {
        const u32 key = first_key + at.column(i);
        if (key < start[i / 2 % 2] || key > first_row + at.row(i)) s[i] = bits_to_f32(0xFF800000u);
    }
}

// The scores of KEYS keys, on the diagonal, as left factors of the product with the values; zeros for the keys behind.
template <int KEYS>
__device__ __forceinline__ void diagonal(u32 (&p)[8][4], u64 q, u64 k, u32 first_row, u32 first_key, const u32 (&start)[2], float (&best)[2],
                                         float (&sum)[2], u32 turn, u32 others) {
    float s[KEYS / 2];
    wgmma_fence();
#pragma unroll
    for (u32 c = 0; c < HEAD / 16; c++) wgmma<KEYS>(s, q + c * K_STEP, k + c * K_STEP, c != 0);
    wgmma_commit();
    named_arrive(others, 256);
    wgmma_wait<0>();
    wgmma_hold(s);
    mask(s, first_row, first_key, start);
    float fade[2];
    softmax_step(s, best, sum, fade);
#pragma unroll
    for (u32 c = 0; c < 8; c++) {
        if (c < KEYS / 16) pack_left(p[c < KEYS / 16 ? c : 0], s, c < KEYS / 16 ? c : 0);
        else p[c][0] = p[c][1] = p[c][2] = p[c][3] = 0;
    }
}

// y = softmax(q k^T / 8) v and the natural log of the sum of exponentials. `qkv_map` has boxes of 128 rows.
//
// A consumer's step: scores of the next 128 keys and the values' product of the last 128 are asked for together; the softmax of the
// new scores runs under the latter, and under the other consumer's products: they take turns by named barriers 1 and 2. Keys come
// last tile first, so that a row's first tile has its own key. Masks: on the diagonal, and where a document begins.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
attention_forward(const __grid_constant__ TensorMap qkv_map, bf16* y, float* lse, const u32* starts, u32 T, u32 H, u32 pairs, u32 section) {
    DYNAMIC_SHARED(ForwardShared, shared);
    const u32 ranks = (T + ITEM - 1) / ITEM, items = pairs * ranks, C = H * HEAD;
    if (threadIdx.x == 0) {
        for (u32 i = 0; i < 2; i++) mbarrier_init(&shared->q_full[i], 1), mbarrier_init(&shared->q_empty[i], WARPS);
        for (u32 i = 0; i < FORWARD_STAGES; i++) {
            mbarrier_init(&shared->k_full[i], 1), mbarrier_init(&shared->k_empty[i], WARPS);
            mbarrier_init(&shared->v_full[i], 1), mbarrier_init(&shared->v_empty[i], WARPS);
        }
        mbarrier_init_fence();
    }
    __syncthreads();
    const u32 warpgroup = uniform(threadIdx.x / 128);
    if (warpgroup == 0) {
        registers_give<PRODUCER_REGISTERS>();
        if (threadIdx.x == 0) {
            Ring<2> q;
            Ring<FORWARD_STAGES> kv;
            for (u32 item = blockIdx.x; item < items; item += gridDim.x) {
                const Work work = work_of(item, H, pairs, ranks, section);
                const u32 own = ranks - 1 - work.rank, row0 = work.sequence * T, column = work.head * HEAD;
                const u32 first = starts[row0 + own * ITEM] / ITEM;
                mbarrier_wait(&shared->q_empty[q.at], q.parity ^ 1);
                mbarrier_arrive_expect(&shared->q_full[q.at], sizeof shared->q[0]);
                tensor_load(shared->q[q.at], &qkv_map, &shared->q_full[q.at], row0 + own * ITEM, column);
                q.next();
                for (u32 tile = own + 1; tile-- > first; kv.next()) {
                    mbarrier_wait(&shared->k_empty[kv.at], kv.parity ^ 1);
                    mbarrier_arrive_expect(&shared->k_full[kv.at], sizeof shared->k[0]);
                    tensor_load(shared->k[kv.at], &qkv_map, &shared->k_full[kv.at], row0 + tile * ITEM, C + column);
                    mbarrier_wait(&shared->v_empty[kv.at], kv.parity ^ 1);
                    mbarrier_arrive_expect(&shared->v_full[kv.at], sizeof shared->v[0]);
                    tensor_load(shared->v[kv.at], &qkv_map, &shared->v_full[kv.at], row0 + tile * ITEM, 2 * C + column);
                }
            }
        }
    } else {
        registers_take<CONSUMER_REGISTERS>();
        const u32 group = warpgroup - 1, turn = 1 + group, others = 2 - group;
        const Fragment at;
        Ring<2> q_ring;
        Ring<FORWARD_STAGES> k_ring, v_ring;
        // The first turn is the first consumer's.
        if (group == 1) named_arrive(1, 256);
        for (u32 item = blockIdx.x; item < items; item += gridDim.x) {
            const Work work = work_of(item, H, pairs, ranks, section);
            const u32 own = ranks - 1 - work.rank, row0 = work.sequence * T, first_row = own * ITEM + group * GROUP;
            const u32* start_of = starts + row0;
            const u32 start[2] = { start_of[min(first_row + at.row(0), T - 1)], start_of[min(first_row + at.row(2), T - 1)] };
            const u32 block_first = uniform(start_of[own * ITEM] / ITEM), first = uniform(start_of[min(first_row, T - 1)] / ITEM);
            const u32 last_start = uniform(start_of[min(first_row + GROUP - 1, T - 1)]);

            float o[32], best[2] = { bits_to_f32(0xFF800000u), bits_to_f32(0xFF800000u) }, sum[2] = { 0.0f, 0.0f };
            u32 p[8][4];
            mbarrier_wait(&shared->q_full[q_ring.at], q_ring.parity);
            const u64 q = descriptor_k(shared->q[q_ring.at] + group * GROUP * HEAD);
            mbarrier_wait(&shared->k_full[k_ring.at], k_ring.parity);
            const u64 k0 = descriptor_k(shared->k[k_ring.at]);
            named_sync(turn, 256);
            if (group == 0) diagonal<GROUP>(p, q, k0, first_row, own * ITEM, start, best, sum, turn, others);
            else diagonal<ITEM>(p, q, k0, first_row, own * ITEM, start, best, sum, turn, others);
            give_back(&shared->k_empty[k_ring.at]);
            k_ring.next();

            bool begun = false;  // whether o holds anything
            for (u32 tile = own; tile-- > first;) {
                float s[64], fade[2];
                mbarrier_wait(&shared->k_full[k_ring.at], k_ring.parity);
                mbarrier_wait(&shared->v_full[v_ring.at], v_ring.parity);
                const u64 k = descriptor_k(shared->k[k_ring.at]), v = descriptor_mn(shared->v[v_ring.at]);
                named_sync(turn, 256);
                wgmma_fence();
#pragma unroll
                for (u32 c = 0; c < HEAD / 16; c++) wgmma<128>(s, q + c * K_STEP, k + c * K_STEP, c != 0);
                wgmma_commit();
                wgmma_fence();
#pragma unroll
                for (u32 c = 0; c < ITEM / 16; c++) wgmma<64, MN_MAJOR>(o, p[c], v + c * MN_STEP, begun || c != 0);
                wgmma_commit();
                named_arrive(others, 256);
                begun = true;
                wgmma_wait<1>();
                wgmma_hold(s);
                give_back(&shared->k_empty[k_ring.at]);
                k_ring.next();
                if (tile * ITEM < last_start) mask(s, first_row, tile * ITEM, start);
                softmax_step(s, best, sum, fade);
                wgmma_wait<0>();
                wgmma_hold(o);
                wgmma_hold(p);
                give_back(&shared->v_empty[v_ring.at]);
                v_ring.next();
#pragma unroll
                for (u32 i = 0; i < 32; i++) o[i] *= fade[i / 2 % 2];
#pragma unroll
                for (u32 c = 0; c < 8; c++) pack_left(p[c], s, c);
            }
            give_back(&shared->q_empty[q_ring.at]);
            q_ring.next();
            mbarrier_wait(&shared->v_full[v_ring.at], v_ring.parity);
            const u64 v = descriptor_mn(shared->v[v_ring.at]);
            wgmma_fence();
#pragma unroll
            for (u32 c = 0; c < ITEM / 16; c++) wgmma<64, MN_MAJOR>(o, p[c], v + c * MN_STEP, begun || c != 0);
            wgmma_commit();
            wgmma_wait<0>();
            wgmma_hold(o);
            wgmma_hold(p);
            give_back(&shared->v_empty[v_ring.at]);
            v_ring.next();
            // Tiles that only the other consumer's rows see.
            for (u32 tile = first; tile-- > block_first;) {
                named_sync(turn, 256);
                named_arrive(others, 256);
                mbarrier_wait(&shared->k_full[k_ring.at], k_ring.parity);
                give_back(&shared->k_empty[k_ring.at]);
                k_ring.next();
                mbarrier_wait(&shared->v_full[v_ring.at], v_ring.parity);
                give_back(&shared->v_empty[v_ring.at]);
                v_ring.next();
            }

            float factor[2];
            const u32 rows = T - min(first_row, T);
#pragma unroll
            for (u32 r = 0; r < 2; r++) {
                sum[r] += __shfl_xor_sync(EVERYBODY, sum[r], 1);
                sum[r] += __shfl_xor_sync(EVERYBODY, sum[r], 2);
                factor[r] = 1.0f / sum[r];
                const u32 row = at.row(2 * r);
                if (threadIdx.x % 4 == 0 && row < rows) lse[u64(row0 + first_row + row) * H + work.head] = best[r] * SCALE + __logf(sum[r]);
            }
            store_rows(y + u64(row0 + first_row) * C + work.head * HEAD, C, rows, o, factor);
        }
    }
}

// ---- backward

// What both backward kernels want to know of a row of a head, 64 rows at a time so that one copy brings them:
// rows (B, H, tiles of 64, 3, 64) = log-sum-exp in base 2; delta = dy . y; the start, as bits.
constexpr u32 ROWS = 3 * GROUP;

// A block of 256 threads for 64 rows of a head; 8 lanes a row. grid.x = B tiles H. Rows behind T see nothing.
extern "C" __global__ void __launch_bounds__(256)
attention_rows(float* rows, const bf16* dy, const bf16* y, const float* lse, const u32* starts, u32 T, u32 H) {
    const u32 tiles = (T + GROUP - 1) / GROUP, head = blockIdx.x % H, tile = blockIdx.x / H % tiles, sequence = blockIdx.x / H / tiles;
    float* out = rows + u64((sequence * H + head) * tiles + tile) * ROWS;
#pragma unroll
    for (u32 i = threadIdx.x / 8; i < GROUP; i += 32) {
        const u32 t = tile * GROUP + i;
        const u64 row = u64(sequence) * T + t;
        float delta = 0.0f;
        if (t < T) {
            const u64 place = (row * H + head) * HEAD + threadIdx.x % 8 * 8;
            const Pack<bf16> a = load(dy + place), b = load(y + place);
#pragma unroll
            for (u32 j = 0; j < 8; j++) delta += a.get(j) * b.get(j);
        }
#pragma unroll
        for (u32 lanes = 4; lanes > 0; lanes /= 2) delta += __shfl_xor_sync(EVERYBODY, delta, int(lanes));
        if (threadIdx.x % 8 == 0) {
            out[i] = t < T ? lse[row * H + head] * LOG2_E : 0.0f;
            out[GROUP + i] = delta;
            out[2 * GROUP + i] = bits_to_f32(t < T ? starts[row] : NEVER);
        }
    }
}

constexpr u32 BACKWARD_STAGES = 4;
struct BackwardShared {
    bf16 own[2][ITEM * HEAD];
    bf16 other[BACKWARD_STAGES][2][GROUP * HEAD];
    float own_rows[2 * ROWS], rows[BACKWARD_STAGES][ROWS];
    // Tiles of 64: all that the item's rows have to do with, and each consumer's part of them.
    u32 first, last, from[2], to[2];
    u64 own_full, own_empty, full[BACKWARD_STAGES], empty[BACKWARD_STAGES];
};
static_assert(sizeof(BackwardShared) <= 103424, "BACKWARD_SHARED in src/backend/cuda/attention_sm90.rs");

// One item of 128 `own` rows against tiles of 64 `other` rows. KEYS: own are keys and values, other queries and dy, and with
// P^T = exp(own0 other0^T / 8 - lse), dS^T = P^T (own1 other1^T - delta): dv = P^T other1, dk = dS^T other0 / 8. Otherwise own are
// queries and dy, other keys and values, and dq = dS other0 / 8. Own rows lie in registers, as left factors.
template <bool KEYS>
__device__ __forceinline__ void backward(const TensorMap* qkv_map, const TensorMap* dy_map, bf16* dqkv, const float* rows, const u32* starts, u32 T,
                                         u32 H, u32 pairs, u32 section) {
    DYNAMIC_SHARED(BackwardShared, shared);
    const u32 tiles = (T + GROUP - 1) / GROUP, ranks = (T + ITEM - 1) / ITEM, items = pairs * ranks, C = H * HEAD;
    if (threadIdx.x == 0) {
        mbarrier_init(&shared->own_full, 1), mbarrier_init(&shared->own_empty, WARPS);
        for (u32 i = 0; i < BACKWARD_STAGES; i++) mbarrier_init(&shared->full[i], 1), mbarrier_init(&shared->empty[i], WARPS);
        mbarrier_init_fence();
    }
    __syncthreads();
    const u32 warpgroup = uniform(threadIdx.x / 128), lane = threadIdx.x % 32;
    if (warpgroup == 0) {
        registers_give<PRODUCER_REGISTERS>();
        if (threadIdx.x < 32) {
            Ring<1> own_ring;
            Ring<BACKWARD_STAGES> ring;
            for (u32 item = blockIdx.x; item < items; item += gridDim.x) {
                const Work work = work_of(item, H, pairs, ranks, section);
                const u32 own = KEYS ? work.rank : ranks - 1 - work.rank, row0 = work.sequence * T, column = work.head * HEAD;
                const u32* start_of = starts + row0;
                const float* rows_of = rows + u64(work.sequence * H + work.head) * tiles * ROWS;
                u32 first, last, from[2], to[2];
                if (KEYS) {
                    // Starts ascend: the tiles of queries that see a key are those from its own on whose first row does.
                    first = 2 * own, to[0] = to[1] = first;
                    for (u32 tile = first; tile < tiles; tile += 32) {
                        const u32 start = tile + lane < tiles ? start_of[(tile + lane) * GROUP] : NEVER;
                        to[0] += u32(__popc(__ballot_sync(EVERYBODY, start < own * ITEM + GROUP)));
                        to[1] += u32(__popc(__ballot_sync(EVERYBODY, start < own * ITEM + ITEM)));
                    }
                    last = to[1], from[0] = first, from[1] = min(first + 1, last);
                } else {
                    const u32 second = own * ITEM + GROUP;
                    first = from[0] = start_of[own * ITEM] / GROUP, to[0] = 2 * own + 1;
                    to[1] = last = second < T ? to[0] + 1 : to[0];
                    from[1] = second < T ? start_of[second] / GROUP : last;
                }
                if (lane == 0) {
                    mbarrier_wait(&shared->own_empty, own_ring.parity ^ 1);
                    shared->first = first, shared->last = last;
                    shared->from[0] = from[0], shared->from[1] = from[1], shared->to[0] = to[0], shared->to[1] = to[1];
                    const u32 halves = min(2u, tiles - 2 * own);
                    mbarrier_arrive_expect(&shared->own_full, sizeof shared->own + (KEYS ? 0 : halves * ROWS * 4));
                    for (u32 half = 0; half < 2; half++) {
                        const u32 row = row0 + own * ITEM + half * GROUP;
                        tensor_load(shared->own[0] + half * GROUP * HEAD, qkv_map, &shared->own_full, row, KEYS ? C + column : column);
                        tensor_load(shared->own[1] + half * GROUP * HEAD, KEYS ? qkv_map : dy_map, &shared->own_full, row, KEYS ? 2 * C + column : column);
                    }
                    if (!KEYS) bulk_load(shared->own_rows, rows_of + 2 * own * ROWS, halves * ROWS * 4, &shared->own_full);
                    for (u32 tile = first; tile < last; tile++, ring.next()) {
                        u64* full = &shared->full[ring.at];
                        const u32 row = row0 + tile * GROUP;
                        mbarrier_wait(&shared->empty[ring.at], ring.parity ^ 1);
                        mbarrier_arrive_expect(full, sizeof shared->other[0] + (KEYS ? ROWS * 4 : 0));
                        tensor_load(shared->other[ring.at][0], qkv_map, full, row, KEYS ? column : C + column);
                        tensor_load(shared->other[ring.at][1], KEYS ? dy_map : qkv_map, full, row, KEYS ? column : 2 * C + column);
                        if (KEYS) bulk_load(shared->rows[ring.at], rows_of + tile * ROWS, ROWS * 4, full);
                    }
                }
                own_ring.next();
            }
        }
    } else {
        registers_take<CONSUMER_REGISTERS>();
        const u32 group = warpgroup - 1;
        const Fragment at;
        Ring<1> own_ring;
        Ring<BACKWARD_STAGES> ring;
        for (u32 item = blockIdx.x; item < items; item += gridDim.x) {
            const Work work = work_of(item, H, pairs, ranks, section);
            const u32 own = KEYS ? work.rank : ranks - 1 - work.rank, row0 = work.sequence * T, first_row = own * ITEM + group * GROUP;
            mbarrier_wait(&shared->own_full, own_ring.parity);
            u32 own0[4][4], own1[4][4];
#pragma unroll
            for (u32 c = 0; c < 4; c++) {
                const u32 row = group * GROUP + threadIdx.x % 128 / 32 * 16 + lane % 16, chunk = 2 * c + lane / 16;
                load_matrices(own0[c], swizzled(shared->own[0], row, chunk));
                load_matrices(own1[c], swizzled(shared->own[1], row, chunk));
            }
            const u32 first = uniform(shared->first), last = uniform(shared->last);
            const u32 from = uniform(shared->from[group]), to = uniform(shared->to[group]);
            // Of this thread's two own rows, where those are queries; the last start of the consumer's rows.
            float own_lse[2], own_delta[2];
            u32 own_start[2], last_start = 0;
            if (!KEYS) {
                const float* of = shared->own_rows + group * ROWS;
#pragma unroll
                for (u32 r = 0; r < 2; r++) {
                    own_lse[r] = of[at.row(2 * r)], own_delta[r] = of[GROUP + at.row(2 * r)];
                    own_start[r] = f32_to_bits(of[2 * GROUP + at.row(2 * r)]);
                }
                last_start = uniform(f32_to_bits(of[3 * GROUP - 1]));
            }
            give_back(&shared->own_empty);
            own_ring.next();

            float sum0[32], sum1[32];  // of P other1, where KEYS; of dS other0
#pragma unroll
            for (u32 i = 0; i < 32; i++) sum0[i] = sum1[i] = 0.0f;
            // Tiles that only the other consumer's rows have to do with.
            const auto pass = [&] {
                mbarrier_wait(&shared->full[ring.at], ring.parity);
                give_back(&shared->empty[ring.at]);
                ring.next();
            };
            for (u32 tile = first; tile < from; tile++) pass();
            u32 before = 0;
            for (u32 tile = from; tile < to; tile++) {
                float s[32], d[32];
                u32 p[4][4], ds[4][4];
                mbarrier_wait(&shared->full[ring.at], ring.parity);
                const bf16 *other0 = shared->other[ring.at][0], *other1 = shared->other[ring.at][1];
                const float* of = shared->rows[ring.at];
                wgmma_fence();
#pragma unroll
                for (u32 c = 0; c < 4; c++) wgmma<64, K_MAJOR>(s, own0[c], descriptor_k(other0) + c * K_STEP, c != 0);
                wgmma_commit();
                wgmma_fence();
#pragma unroll
                for (u32 c = 0; c < 4; c++) wgmma<64, K_MAJOR>(d, own1[c], descriptor_k(other1) + c * K_STEP, c != 0);
                wgmma_commit();
                wgmma_wait<1>();
                wgmma_hold(s);
                // The products of the tile before are done too.
                if (tile != from) give_back(&shared->empty[before]);
                before = ring.at;
                ring.next();

                constexpr float TO_LOG2 = SCALE * LOG2_E;
#pragma unroll
                for (u32 i = 0; i < 32; i++) s[i] = exp2_fast(s[i] * TO_LOG2 - (KEYS ? of[at.column(i)] : own_lse[i / 2 % 2]));
                const u32 first_other = tile * GROUP;
                if (KEYS ? first_other < first_row + GROUP - 1 || f32_to_bits(of[3 * GROUP - 1]) > first_row
                         : first_other + GROUP - 1 > first_row || last_start > first_other) {
#pragma unroll
                    for (u32 i = 0; i < 32; i++) {
                        const u32 mine = first_row + at.row(i), its = first_other + at.column(i);
                        const u32 key = KEYS ? mine : its, query = KEYS ? its : mine;
                        const u32 start = KEYS ? f32_to_bits(of[2 * GROUP + at.column(i)]) : own_start[i / 2 % 2];
                        if (key < start || key > query) s[i] = 0.0f;
                    }
                }
                if (KEYS) {
#pragma unroll
                    for (u32 c = 0; c < 4; c++) pack_left(p[c], s, c);
                    wgmma_fence();
#pragma unroll
                    for (u32 c = 0; c < 4; c++) wgmma<64, MN_MAJOR>(sum0, p[c], descriptor_mn(other1) + c * MN_STEP, true);
                    wgmma_commit();
                }
                wgmma_wait<KEYS ? 1 : 0>();
                wgmma_hold(d);
#pragma unroll
                for (u32 i = 0; i < 32; i++) s[i] *= d[i] - (KEYS ? of[GROUP + at.column(i)] : own_delta[i / 2 % 2]);
#pragma unroll
                for (u32 c = 0; c < 4; c++) pack_left(ds[c], s, c);
                wgmma_fence();
#pragma unroll
                for (u32 c = 0; c < 4; c++) wgmma<64, MN_MAJOR>(sum1, ds[c], descriptor_mn(other0) + c * MN_STEP, true);
                wgmma_commit();
            }
            wgmma_wait<0>();
            wgmma_hold(sum0);
            wgmma_hold(sum1);
            wgmma_hold(own0);
            wgmma_hold(own1);
            if (from < to) give_back(&shared->empty[before]);
            for (u32 tile = max(from, to); tile < last; tile++) pass();

            const u32 count = T - min(first_row, T);
            bf16* out = dqkv + u64(row0 + first_row) * 3 * C + work.head * HEAD;
            const float one[2] = { 1.0f, 1.0f }, scale[2] = { SCALE, SCALE };
            if (KEYS) store_rows(out + 2 * C, 3 * C, count, sum0, one);
            store_rows(out + (KEYS ? C : 0), 3 * C, count, sum1, scale);
        }
    }
}

// dk and dv. Both maps have boxes of 64 rows.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
attention_backward_keys(const __grid_constant__ TensorMap qkv_map, const __grid_constant__ TensorMap dy_map, bf16* dqkv, const float* rows,
                        const u32* starts, u32 T, u32 H, u32 pairs, u32 section) {
    backward<true>(&qkv_map, &dy_map, dqkv, rows, starts, T, H, pairs, section);
}

// dq.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
attention_backward_queries(const __grid_constant__ TensorMap qkv_map, const __grid_constant__ TensorMap dy_map, bf16* dqkv, const float* rows,
                           const u32* starts, u32 T, u32 H, u32 pairs, u32 section) {
    backward<false>(&qkv_map, &dy_map, dqkv, rows, starts, T, H, pairs, section);
}
