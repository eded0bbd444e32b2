// Attention on Hopper, forward: y = softmax(q k^T / 8) v within documents, and the natural log of the sums of exponentials. Shapes and
// the way blocks work: attention_sm90.cuh.
//
//   products done     113 GFLOP (103 under the causal diagonal)   0.14 ms
//   exponentials      0.43 G                                      0.11 ms
//   bytes             4 X                                         0.09 ms
//   predicted         0.27 to 0.35 ms: 300 to 380 TFLOP/s of the 103
//
// Products and exponentials overlap only as far as one consumer multiplies while the other does its softmax; not at all is 0.25 ms,
// to which come the start of each item (q, the first scores) and 3.5 other instructions an exponential.
#include "attention_sm90.cuh"

constexpr u32 FORWARD_STAGES = 3;
struct ForwardShared {
    bf16 q[2][ITEM * HEAD];
    bf16 k[FORWARD_STAGES][ITEM * HEAD], v[FORWARD_STAGES][ITEM * HEAD];
    u64 q_full[2], q_empty[2];
    u64 k_full[FORWARD_STAGES], k_empty[FORWARD_STAGES], v_full[FORWARD_STAGES], v_empty[FORWARD_STAGES];
};
static_assert(sizeof(ForwardShared) <= 131328, "FORWARD_SHARED in src/backend/cuda/attention_sm90.rs");

// Where documents begin: those of this thread's two rows, of the block's first row, of the consumer's first and last.
struct Starts {
    u32 row[2], block, first, last;
};

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
__device__ __forceinline__ void diagonal(u32 (&p)[8][4], u64 q, u64 k, u32 first_row, u32 first_key, const u32 (&start)[2],
                                         float (&best)[2], float (&sum)[2], u32 others) {
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
        // Asked for an item ahead, so that nobody waits for them.
        const auto starts_of = [&](u32 item) -> Starts {
            const Work work = work_of(item, H, pairs, ranks, section);
            const u32 block = (ranks - 1 - work.rank) * ITEM, first_row = block + group * GROUP;
            const auto start = [&](u32 row) { return starts[work.sequence * T + min(row, T - 1)]; };
            const u32 last = first_row + GROUP - 1;
            return { { start(first_row + at.row(0)), start(first_row + at.row(2)) }, start(block), start(first_row), start(last) };
        };
        Starts next = {};
        if (blockIdx.x < items) next = starts_of(blockIdx.x);
        // The first turn is the first consumer's.
        if (group == 1) named_arrive(1, 256);
        for (u32 item = blockIdx.x; item < items; item += gridDim.x) {
            const Work work = work_of(item, H, pairs, ranks, section);
            const u32 own = ranks - 1 - work.rank, row0 = work.sequence * T, first_row = own * ITEM + group * GROUP;
            const Starts now = next;
            if (item + gridDim.x < items) next = starts_of(item + gridDim.x);
            const u32 block_first = uniform(now.block / ITEM), first = uniform(now.first / ITEM), last_start = uniform(now.last);

            float o[32] = {}, best[2] = { bits_to_f32(0xFF800000u), bits_to_f32(0xFF800000u) }, sum[2] = { 0.0f, 0.0f };
            u32 p[8][4];
            mbarrier_wait(&shared->q_full[q_ring.at], q_ring.parity);
            const u64 q = descriptor_k(shared->q[q_ring.at] + group * GROUP * HEAD);
            mbarrier_wait(&shared->k_full[k_ring.at], k_ring.parity);
            const u64 k0 = descriptor_k(shared->k[k_ring.at]);
            named_sync(turn, 256);
            if (group == 0) diagonal<GROUP>(p, q, k0, first_row, own * ITEM, now.row, best, sum, others);
            else diagonal<ITEM>(p, q, k0, first_row, own * ITEM, now.row, best, sum, others);
            give_back(&shared->k_empty[k_ring.at]);
            k_ring.next();

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
                for (u32 c = 0; c < ITEM / 16; c++) wgmma<64, MN_MAJOR>(o, p[c], v + c * MN_STEP, true);
                wgmma_commit();
                named_arrive(others, 256);
                wgmma_wait<1>();
                wgmma_hold(s);
                if (tile * ITEM < last_start) mask(s, first_row, tile * ITEM, now.row);
                softmax_step(s, best, sum, fade);
                // Sums are never negative. The compiler does not know, and so cannot put the exponentials behind the wait that they are to
                // fill, as it did.
                give_back(&shared->k_empty[k_ring.at], !(sum[0] + sum[1] < 0.0f));
                k_ring.next();
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
            for (u32 c = 0; c < ITEM / 16; c++) wgmma<64, MN_MAJOR>(o, p[c], v + c * MN_STEP, true);
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
