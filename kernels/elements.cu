// Element by element: GELU, scaled sums, dropout, and biases where a product's epilogue does not add them.
//
// All run on blocks of 256 threads, a thread a pack of 16 bytes (8 bf16, 4 f32), as many blocks as `n` asks for; buffers are
// aligned to 256 bytes, so that a pack is whole or the last. Traffic is that of the arguments, read or written once.
#include "base.cuh"

// GPT-2's GELU: x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) = x sigmoid(2 ...), and its derivative.
__device__ __forceinline__ float gelu_inner(float x) { return 0.7978845608028654f * (x + 0.044715f * x * x * x); }
#ifdef TINYLLM_F32
__device__ __forceinline__ float tanh_of(float x) { return tanhf(x); }
#else
__device__ __forceinline__ float tanh_of(float x) { return tanh_fast(x); }
#endif

// Applies `f(i, element of y before, element of x)` to each of `n` elements. READS: whether `f` wants what `y` held.
template <bool READS, class F> __device__ __forceinline__ void each(X* y, const X* x, u32 n, F f) {
    constexpr u32 N = Pack<X>::N;
    const u32 first = (blockIdx.x * blockDim.x + threadIdx.x) * N;
    if (first + N <= n) {
        const Pack<X> in = load(x + first);
        Pack<X> out;
        if (READS) out = load(y + first);
#pragma unroll
        for (u32 i = 0; i < N; i++) out.set(i, f(first + i, READS ? out.get(i) : 0.0f, in.get(i)));
        store(y + first, out);
    } else {
#pragma unroll
        for (u32 i = first; i < first + N; i++) {
            if (i < n) y[i] = to_x(f(i, READS ? to_f32(y[i]) : 0.0f, to_f32(x[i])));
        }
    }
}

// y += alpha x
extern "C" __global__ void __launch_bounds__(256) axpy(X* y, const X* x, float alpha, u32 n) {
    each<true>(y, x, n, [&](u32, float y, float x) { return y + alpha * x; });
}

// y = gelu(x)
extern "C" __global__ void __launch_bounds__(256) gelu(X* y, const X* x, u32 n) {
    each<false>(y, x, n, [&](u32, float, float x) { return 0.5f * x * (1.0f + tanh_of(gelu_inner(x))); });
}

// d *= gelu'(x)
extern "C" __global__ void __launch_bounds__(256) gelu_backward(X* d, const X* x, u32 n) {
    each<true>(d, x, n, [&](u32, float d, float x) {
        const float t = tanh_of(gelu_inner(x));
        const float slope = 0.7978845608028654f * (1.0f + 3.0f * 0.044715f * x * x);
        return d * (0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * slope);
    });
}

// The bias (O) at a pack that begins at element `first` of (N, O); zeros where there is none.
__device__ __forceinline__ Pack<X> bias_at(const X* b, u32 first, u32 o) {
    constexpr u32 N = Pack<X>::N;
    if (b == nullptr) return Pack<X>{};
    if (o % N == 0) return load(b + first % o);
    Pack<X> bias;
#pragma unroll
    for (u32 i = 0; i < N; i++) bias.v[i] = b[(first + i) % o];
    return bias;
}

// y (N, O) += b (O) + residual (N, O); `residual` may be nullptr. Both are added before the sum is rounded.
extern "C" __global__ void __launch_bounds__(256) bias_add(X* y, const X* residual, const X* b, u32 n, u32 o) {
    const Pack<X> bias = bias_at(b, (blockIdx.x * blockDim.x + threadIdx.x) * Pack<X>::N, o);
    if (residual == nullptr) each<true>(y, y, n * o, [&](u32 i, float y, float) { return y + bias.get(i % Pack<X>::N); });
    else each<true>(y, residual, n * o, [&](u32 i, float y, float r) { return y + (bias.get(i % Pack<X>::N) + r); });
}

// pre (N, O) += b (O), y (N, O) = gelu(pre); `b` may be nullptr.
extern "C" __global__ void __launch_bounds__(256) bias_gelu(X* y, X* pre, const X* b, u32 n, u32 o) {
    const Pack<X> bias = bias_at(b, (blockIdx.x * blockDim.x + threadIdx.x) * Pack<X>::N, o);
    each<true>(pre, pre, n * o, [&](u32 i, float x, float) { return x + bias.get(i % Pack<X>::N); });
    each<false>(y, pre, n * o, [&](u32, float, float x) { return 0.5f * x * (1.0f + tanh_of(gelu_inner(x))); });
}

// y = x / (1 - p) where the element's word is at least `threshold` = p 2^32, else 0. Element i has word i % 4 of
// random_block(key, i / 4): a pack begins a block, so that no word is made twice.
extern "C" __global__ void __launch_bounds__(256)
dropout(X* y, const X* x, u32 threshold, float factor, u64 site, const Control* control, u32 n) {
    constexpr u32 N = Pack<X>::N;
    const u64 key = random_key(control->dropout_key, site);
    const u32 first = (blockIdx.x * blockDim.x + threadIdx.x) * N;
    if (first >= n) return;
    const Pack<X> in = first + N <= n ? load(x + first) : Pack<X>{};
    Pack<X> out;
#pragma unroll
    for (u32 quad = 0; quad < N; quad += 4) {
        const uint4 block = random_block(key, (first + quad) / 4);
        const u32 words[4] = { block.x, block.y, block.z, block.w };
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            const u32 at = quad + i;
            if (first + N <= n) {
                out.set(at, words[i] >= threshold ? in.get(at) * factor : 0.0f);
            } else if (first + at < n) {
                y[first + at] = to_x(words[i] >= threshold ? to_f32(x[first + at]) * factor : 0.0f);
            }
        }
    }
    if (first + N <= n) store(y + first, out);
}
