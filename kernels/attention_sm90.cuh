// What the attention kernels for Hopper share: how work is shared out, and where a thread's numbers are. Heads of 64 channels, bf16.
//
// qkv (N, 3C), y and dy (N, C), dqkv (N, 3C), lse (N, H), starts (N); N = B T rows, C = 64 H. Row t of a sequence sees rows
// starts[t] ..= t of it. No sum hangs on timing: an item of work (128 rows of one head) is done by one block in a fixed order.
//
// A block: 3 warpgroups, one block a multiprocessor, item after item. The first is the producer: one thread keeps the copy engine
// busy, up to the next items' tiles, and its registers go to the others. The other two, the consumers, have 64 rows each of the
// item's 128. Each of their 8 warps gives a tile back by one arrival. Items are ordered longest first within sections of heads whose
// other operands stay in the second-level cache. A tile's rows may be those of the next sequence, or behind the last (zeros): what
// they would add is masked.
//
// Times that headers name are per layer at B 64, T 1024, H 12, with the 790 TFLOP/s and 4.3 TB/s that an H200 was measured at and
// 3.9 T exponentials a second; X = 2 B T C bytes = 100.7 MB. None of the predicted ones is measured yet.
#pragma once
#include "base.cuh"
#include "hopper.cuh"

constexpr u32 HEAD = 64;                  // channels of a head: a row of a tile is 128 bytes
constexpr u32 GROUP = 64, ITEM = 128;     // rows of a consumer, of an item
constexpr u32 THREADS = 384, WARPS = 8;   // of a block; of its consumers
// Of a thread. A block begins with 168 for each of its threads (65536 / 384, a multiple of 8), and there are no others to hand out: a
// warpgroup that asks for more than the others gave waits for ever.
constexpr u32 PRODUCER_REGISTERS = 40, CONSUMER_REGISTERS = 232;
static_assert(PRODUCER_REGISTERS + 2 * CONSUMER_REGISTERS <= 3 * 168, "more registers than a block has");
constexpr float SCALE = 0.125f;           // 1 / sqrt(64)
constexpr float LOG2_E = 1.4426950408889634f;
constexpr u32 EVERYBODY = 0xFFFFFFFFu;

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

// This warp is done with what lies behind `empty`, if `done`.
__device__ __forceinline__ void give_back(u64* empty, bool done = true) {
    __syncwarp();
    if (threadIdx.x % 32 == 0 && done) mbarrier_arrive(empty);
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
            uint4* place = reinterpret_cast<uint4*>(out + row * stride + (4 * quad + lane) * 8);
            if (row < rows) *place = make_uint4(word[0], word[1], word[2], word[3]);
        }
    }
}
