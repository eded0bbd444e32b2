// Attention on Hopper, backward. Shapes and the way blocks work: attention_sm90.cuh.
//
// 7 products where 5 would do: scores and their gradients are made twice, once for the keys and once for the queries. So no two blocks
// add to one number, and P and dS go from registers into the next product without a trip through shared memory.
//
//                                products, GFLOP done   of products   of exponentials   of bytes        predicted
//   attention_rows               -                      -             -                 2 X: 0.05 ms    0.06 ms
//   attention_backward_keys      4: 219                 0.28 ms       0.11 ms           6 X: 0.14 ms    0.45 to 0.55 ms
//   attention_backward_queries   3: 164                 0.21 ms       0.11 ms           5 X: 0.12 ms    0.35 to 0.45 ms
//
// Together 0.86 to 1.06 ms: 240 to 300 TFLOP/s of the 258 GFLOP of 5 products under the causal diagonal.
#include "attention_sm90.cuh"

constexpr u32 NEVER = 0xFFFFFFFFu;  // start of a row that is not there: it sees nothing

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
__device__ __forceinline__ void backward(const TensorMap* qkv_map, const TensorMap* dy_map, bf16* dqkv, const float* rows,
                                         const u32* starts, u32 T, u32 H, u32 pairs, u32 section) {
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
                    const TensorMap* own1_map = KEYS ? qkv_map : dy_map;
                    mbarrier_arrive_expect(&shared->own_full, sizeof shared->own + (KEYS ? 0 : halves * ROWS * 4));
                    for (u32 half = 0; half < 2; half++) {
                        const u32 row = row0 + own * ITEM + half * GROUP;
                        tensor_load(shared->own[0] + half * GROUP * HEAD, qkv_map, &shared->own_full, row, KEYS ? C + column : column);
                        tensor_load(shared->own[1] + half * GROUP * HEAD, own1_map, &shared->own_full, row, KEYS ? 2 * C + column : column);
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
attention_backward_keys(const __grid_constant__ TensorMap qkv_map, const __grid_constant__ TensorMap dy_map, bf16* dqkv,
                        const float* rows, const u32* starts, u32 T, u32 H, u32 pairs, u32 section) {
    backward<true>(&qkv_map, &dy_map, dqkv, rows, starts, T, H, pairs, section);
}

// dq.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
attention_backward_queries(const __grid_constant__ TensorMap qkv_map, const __grid_constant__ TensorMap dy_map, bf16* dqkv,
                           const float* rows, const u32* starts, u32 T, u32 H, u32 pairs, u32 section) {
    backward<false>(&qkv_map, &dy_map, dqkv, rows, starts, T, H, pairs, section);
}
