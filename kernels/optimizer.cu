// The optimizer: the gradient's norm, AdamW, and the rounding of f32 masters to the weights that passes compute with.
//
//   norm = sqrt(sum of g^2 over all leaves)
//   g' = min(1, clip / norm) g, m = beta1 m + (1 - beta1) g', v = beta2 v + (1 - beta2) g'^2
//   master -= lr (m / correct1 / (sqrt(v / correct2) + eps) + decay master), w = rounded master
//
// A launch takes many leaves: 240 of grad_squares, 80 of adamw and round_masters, which come by value among the arguments, so that
// a recorded step needs no table in memory. A leaf has its blocks, one after another; a block finds its leaf by halving. Blocks of
// 256 threads: of grad_squares over 8,192 elements, whose sum it leaves in `partial`, and one block of grad_norm adds those up in
// order; of the others over 2,048 elements, eight a thread.
//
// Rounding up or down by chance: 16 bits of a Philox block that is a function of (rounding key, leaf, element) are added below
// bf16's last bit, and the sum is cut off there. An eighth of the block serves an element, so that a thread makes one. What
// bf16 holds exactly stays; anything else goes up with the probability of its share of the way: the mean is right.
//
// For P elements: grad_squares reads 4 P bytes; adamw reads g, m, v and master and writes m, v, master and w, 30 P; round_masters
// 6 P. At 4.3 TB/s, 124 M elements: 116 us, 868 us, 174 us.
#include "base.cuh"

// ---- the norm

// Leaves of one launch of grad_squares: `src/backend/cuda/optimizer.rs` has the same.
struct Gradient {
    const float* g;
    u32 len;
    u32 first;  // block
};
struct Gradients {
    Gradient leaves[240];
    u32 count;
};

// The leaf of this block: the last that begins at or before it.
template <class L> __device__ __forceinline__ u32 leaf_of(const L* leaves, u32 count) {
    u32 from = 0, to = count;
    while (from + 1 < to) {
        const u32 middle = (from + to) / 2;
        if (leaves[middle].first <= blockIdx.x) from = middle;
        else to = middle;
    }
    return from;
}

extern "C" __global__ void __launch_bounds__(256) grad_squares(float* partial, const __grid_constant__ Gradients gradients) {
    constexpr u32 BLOCK = 8192;
    __shared__ float scratch[32];
    const Gradient& leaf = gradients.leaves[leaf_of(gradients.leaves, gradients.count)];
    const u32 first = (blockIdx.x - leaf.first) * BLOCK, end = min(leaf.len - first, BLOCK) + first;
    // All of a thread's are under way at once.
    Pack<float> g[BLOCK / 1024];
#pragma unroll
    for (u32 i = 0; i < BLOCK / 1024; i++) {
        const u32 at = first + i * 1024 + threadIdx.x * 4;
        g[i] = at + 4 <= end ? load_stream(leaf.g + at) : Pack<float>{};
    }
    float sum = 0.0f;
#pragma unroll
    for (u32 i = 0; i < BLOCK / 1024; i++) {
        const float(&v)[4] = g[i].v;
        sum += (v[0] * v[0] + v[1] * v[1]) + (v[2] * v[2] + v[3] * v[3]);
    }
    const u32 rest = end / 4 * 4 + threadIdx.x;
    if (rest < end) sum += leaf.g[rest] * leaf.g[rest];
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// norm[0] of `count` partial sums; one block of 1,024 threads.
extern "C" __global__ void __launch_bounds__(1024) grad_norm(float* norm, const float* partial, u32 count) {
    __shared__ float scratch[32];
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < count; i += 1024) sum += partial[i];
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) norm[0] = sqrtf(sum);
}

// ---- the step

struct Leaf {
    X* w;
    float *master, *m, *v;
    const float* g;
    u32 len;
    u32 first;  // block
};
struct Leaves {
    Leaf leaves[80];
    u32 decays[3];  // a bit a leaf
    u32 count;
    u32 index;       // of the first among all leaves of the walk
    u32 stochastic;  // how masters are rounded
};

__device__ __forceinline__ float rounded(float x, u32, bool, float*) { return x; }
// `chance`: 16 random bits.
__device__ __forceinline__ bf16 rounded(float x, u32 chance, bool stochastic, bf16*) {
    if (!stochastic) return to_bf16(x);
    // A NaN would be carried into another number.
    bf16 y;
    y.bits = x != x ? u16(0x7FFF) : u16((f32_to_bits(x) + chance) >> 16);
    return y;
}

// w of eight masters from element `first` on, of which `left` are there.
__device__ __forceinline__ void put_weights(X* w, const float (&master)[8], u32 leaf, u32 first, u32 left, bool stochastic,
                                            const Control* control) {
    u32 words[4] = {};
    if (sizeof(X) == 2 && stochastic) {
        const uint4 block = random_block(random_key(control->rounding_key, leaf), first / 8);
        words[0] = block.x, words[1] = block.y, words[2] = block.z, words[3] = block.w;
    }
    X out[8];
#pragma unroll
    for (u32 i = 0; i < 8; i++) {
        const u32 chance = i % 2 == 0 ? words[i / 2] & 0xFFFF : words[i / 2] >> 16;
        out[i] = rounded(master[i], chance, stochastic, (X*)nullptr);
    }
    if (left >= 8) {
        constexpr u32 N = Pack<X>::N;
#pragma unroll
        for (u32 i = 0; i < 8; i += N) {
            Pack<X> pack;
#pragma unroll
            for (u32 k = 0; k < N; k++) pack.v[k] = out[i + k];
            store(w + first + i, pack);
        }
    } else {
        for (u32 i = 0; i < 8; i++)
            if (i < left) w[first + i] = out[i];
    }
}

// Eight floats, or `left`.
__device__ __forceinline__ void load_floats(float (&v)[8], const float* p, u32 left) {
    if (left >= 8) {
        const Eight<float> e = load_eight<true>(p);
#pragma unroll
        for (u32 i = 0; i < 8; i++) v[i] = get(e, i);
    } else {
#pragma unroll
        for (u32 i = 0; i < 8; i++) v[i] = i < left ? p[i] : 0.0f;
    }
}
__device__ __forceinline__ void store_floats(float* p, const float (&v)[8], u32 left) {
    if (left >= 8) {
        Eight<float> e;
        set(e, v);
        store_eight<true>(p, e);
    } else {
#pragma unroll
        for (u32 i = 0; i < 8; i++)
            if (i < left) p[i] = v[i];
    }
}

extern "C" __global__ void __launch_bounds__(256) adamw(const __grid_constant__ Leaves leaves, const float* norm, const Control* control) {
    const u32 at = leaf_of(leaves.leaves, leaves.count);
    const Leaf& leaf = leaves.leaves[at];
    const u32 first = ((blockIdx.x - leaf.first) * 256 + threadIdx.x) * 8;
    if (first >= leaf.len) return;
    const u32 left = leaf.len - first;
    float g[8], m[8], v[8], master[8];
    load_floats(g, leaf.g + first, left);
    load_floats(m, leaf.m + first, left);
    load_floats(v, leaf.v + first, left);
    load_floats(master, leaf.master + first, left);
    const Control c = *control;
    // min(1, clip / norm), 1 where the norm is 0.
    const float scale = *norm > c.clip ? c.clip / *norm : 1.0f;
    const float rate = c.lr / c.correct1, root = 1.0f / sqrtf(c.correct2);
    const float shrink = leaves.decays[at / 32] >> (at % 32) & 1 ? c.lr * c.decay : 0.0f;
#pragma unroll
    for (u32 i = 0; i < 8; i++) {
        const float clipped = scale * g[i];
        m[i] = c.beta1 * m[i] + c.gain1 * clipped;
        v[i] = c.beta2 * v[i] + c.gain2 * clipped * clipped;
        master[i] -= rate * m[i] / (sqrtf(v[i]) * root + c.eps) + shrink * master[i];
    }
    store_floats(leaf.m + first, m, left);
    store_floats(leaf.v + first, v, left);
    store_floats(leaf.master + first, master, left);
    put_weights(leaf.w, master, leaves.index + at, first, left, leaves.stochastic != 0, control);
}

// w from the masters alone, as adamw left it after the step that `control` is of.
extern "C" __global__ void __launch_bounds__(256) round_masters(const __grid_constant__ Leaves leaves, const Control* control) {
    const u32 at = leaf_of(leaves.leaves, leaves.count);
    const Leaf& leaf = leaves.leaves[at];
    const u32 first = ((blockIdx.x - leaf.first) * 256 + threadIdx.x) * 8;
    if (first >= leaf.len) return;
    const u32 left = leaf.len - first;
    float master[8];
    load_floats(master, leaf.master + first, left);
    put_weights(leaf.w, master, leaves.index + at, first, left, leaves.stochastic != 0, control);
}
