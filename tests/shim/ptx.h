// What stands in for kernels/ptx.cuh on a CPU: the same functions, the same fragment layouts.
#define TINYLLM_PTX

typedef int i32;
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define DYNAMIC_SHARED(T, name) T* name = reinterpret_cast<T*>(shim::dynamic_shared)

struct bf16 {
    u16 bits;
};
struct __align__(4) bf16x2 {
    bf16 x, y;
};
inline float bits_to_f32(u32 bits) { return __uint_as_float(bits); }
inline u32 f32_to_bits(float x) { return __float_as_uint(x); }
inline float to_f32(bf16 x) { return bits_to_f32(u32(x.bits) << 16); }
inline float to_f32(float x) { return x; }
inline bf16 to_bf16(float x) {
    const u32 bits = f32_to_bits(x);
    return { x != x ? u16(0x7FFF) : u16((bits + 0x7FFF + (bits >> 16 & 1)) >> 16) };
}
inline u32 pack_bf16(float x, float y) { return to_bf16(x).bits | u32(to_bf16(y).bits) << 16; }
inline float exp2_fast(float x) { return exp2f(x); }
inline float tanh_fast(float x) { return tanhf(x); }
inline uint4 load_once(const uint4* p) { return *p; }
inline void store_once(uint4* p, uint4 x) { *p = x; }

namespace shim {
inline float low(u32 pair) { return bits_to_f32(pair << 16); }
inline float high(u32 pair) { return bits_to_f32(pair & 0xFFFF0000u); }
}  // namespace shim

inline void mma_16x8x16(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    static float A[32][16][16], B[32][16][8];
    const u32 w = shim::warp(), g = shim::lane() / 4, t = shim::lane() % 4;
    for (int i = 0; i < 4; i++) {
        const u32 row = g + 8 * (i % 2), column = 2 * t + 8 * (i / 2);
        A[w][row][column] = shim::low(a[i]), A[w][row][column + 1] = shim::high(a[i]);
    }
    for (int i = 0; i < 2; i++) B[w][2 * t + 8 * i][g] = shim::low(b[i]), B[w][2 * t + 8 * i + 1][g] = shim::high(b[i]);
    shim::yield(shim::WARP);
    for (int i = 0; i < 4; i++) {
        const u32 row = g + 8 * (i / 2), column = 2 * t + i % 2;
        for (int k = 0; k < 16; k++) d[i] += A[w][row][k] * B[w][k][column];
    }
    shim::yield(shim::WARP);
}

namespace shim {
inline void load_matrices(u32 (&r)[4], const void* row, bool transposed) {
    if (reinterpret_cast<uintptr_t>(row) % 16 != 0) fail("load_matrices: a row that is not aligned to 16 bytes");
    static const u16* rows[32][32];
    const u32 w = warp(), l = lane();
    rows[w][l] = static_cast<const u16*>(row);
    yield(WARP);
    for (int m = 0; m < 4; m++) {
        const u32 i = l / 4, j = 2 * (l % 4);
        const u16** of = &rows[w][8 * m];
        r[m] = transposed ? of[j][i] | u32(of[j + 1][i]) << 16 : of[i][j] | u32(of[i][j + 1]) << 16;
    }
    yield(WARP);
}
}  // namespace shim
inline void load_matrices(u32 (&r)[4], const void* row) { shim::load_matrices(r, row, false); }
inline void load_matrices_transposed(u32 (&r)[4], const void* row) { shim::load_matrices(r, row, true); }

// Copies become visible to the thread when it waits for their group, not before: a missing wait shows.
namespace shim {
struct Copy { void* shared; uint4 value; };
inline std::vector<Copy> open_copies[MAX_THREADS];
inline std::vector<std::vector<Copy>> groups[MAX_THREADS];
inline const bool forgets_copies = [] {
    block_begins[0] = [] {
        for (unsigned i = 0; i < fiber_count; i++) open_copies[i].clear(), groups[i].clear();
    };
    return true;
}();
}  // namespace shim
inline void copy_async(void* shared, const void* global, bool valid) {
    if ((reinterpret_cast<uintptr_t>(shared) | reinterpret_cast<uintptr_t>(global)) % 16 != 0) shim::fail("copy_async: not aligned to 16 bytes");
    uint4 value{};
    if (valid) memcpy(&value, global, 16);
    memset(shared, 0xFF, 16);
    shim::open_copies[shim::current->linear].push_back({ shared, value });
}
inline void copy_async_commit() {
    auto& open = shim::open_copies[shim::current->linear];
    shim::groups[shim::current->linear].push_back(std::move(open));
    open.clear();
}
template <int N> void copy_async_wait() {
    auto& groups = shim::groups[shim::current->linear];
    while (groups.size() > size_t(N)) {
        for (auto& copy : groups.front()) memcpy(copy.shared, &copy.value, 16);
        groups.erase(groups.begin());
    }
}
