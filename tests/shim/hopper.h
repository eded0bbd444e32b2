// What stands in for kernels/hopper.cuh on a CPU: the same functions, descriptors, swizzle and fragment layouts.
//
// Everything asynchronous happens as late as it may: a copy arrives when somebody waits at its barrier, and until then its
// place holds NaN; a product's registers hold NaN until its group is waited for. So a missing wait shows. A product also
// looks at its factors in shared memory twice, when it is asked for and when the last thread takes its result: memory that was
// given back too early shows.
#define TINYLLM_HOPPER

struct alignas(64) TensorMap {
    u64 words[16];
};
enum Major { K_MAJOR = 0, MN_MAJOR = 1 };
constexpr u64 K_STEP = 32 / 16, MN_STEP = 2048 / 16;

// ---- barriers and copies

namespace shim {
inline bool used;  // anything of this file, in the block at hand
struct Mbarrier {
    u8 mark, parity, count, pending;
    i32 bytes;
};
constexpr u8 MARK = 0xB5;
inline Mbarrier& mbarrier(u64* place) {
    auto& barrier = *reinterpret_cast<Mbarrier*>(place);
    if (barrier.mark != MARK) fail("a barrier in shared memory that nobody initialised");
    return barrier;
}
inline void advance(Mbarrier& barrier) {
    if (barrier.pending == 0 && barrier.bytes == 0) barrier.parity ^= 1, barrier.pending = barrier.count, progress++;
}
inline void arrive(u64* place, u32 bytes) {
    auto& barrier = mbarrier(place);
    if (barrier.pending == 0) fail("more arrivals at a barrier than its phase has");
    barrier.bytes += i32(bytes), barrier.pending--;
    advance(barrier);
}

// A box of a matrix, or bytes as they lie.
struct Load {
    u64* barrier;
    char* to;
    TensorMap map;
    u32 row, column;
    const char* from;
    u32 bytes;
};
inline std::vector<Load> loads;
inline void fetch(const Load& load) {
    if (load.from) {
        memcpy(load.to, load.from, load.bytes);
        return;
    }
    const auto [place, rows, columns, stride, box_rows, box_columns] = reinterpret_cast<const u64(&)[6]>(load.map.words);
    for (u64 r = 0; r < box_rows; r++)
        for (u64 c = 0; c < box_columns; c++) {
            const bool inside = load.row + r < rows && load.column + c < columns;
            const u16 value = inside ? reinterpret_cast<const u16*>(place)[(load.row + r) * stride + load.column + c] : 0;
            memcpy(load.to + r * 128 + ((c / 8) ^ (r % 8)) * 16 + c % 8 * 2, &value, 2);
        }
}
inline void issue(Load load) {
    used = true;
    mbarrier(load.barrier);
    memset(load.to, 0xFF, load.bytes);
    loads.push_back(load);
}
inline void deliver(u64* place) {
    for (size_t i = 0; i < loads.size();) {
        if (loads[i].barrier != place) { i++; continue; }
        fetch(loads[i]);
        mbarrier(place).bytes -= i32(loads[i].bytes);
        loads.erase(loads.begin() + long(i));
        progress++;
    }
    advance(mbarrier(place));
}
}  // namespace shim

inline void mbarrier_init(u64* barrier, u32 arrivals) {
    if (arrivals == 0 || arrivals > 255) shim::fail("a barrier for no arrivals, or more than the stand-in counts");
    *reinterpret_cast<shim::Mbarrier*>(barrier) = { shim::MARK, 0, u8(arrivals), u8(arrivals), 0 };
}
inline void mbarrier_init_fence() {}
inline void mbarrier_arrive(u64* barrier) { shim::arrive(barrier, 0); }
inline void mbarrier_arrive_expect(u64* barrier, u32 bytes) { shim::arrive(barrier, bytes); }
inline void mbarrier_wait(u64* barrier, u32 parity) {
    while (shim::mbarrier(barrier).parity == parity) {
        shim::deliver(barrier);
        if (shim::mbarrier(barrier).parity == parity) shim::yield(shim::POLL);
    }
}
inline void tensor_load(void* shared, const TensorMap* map, u64* barrier, u32 row, u32 column) {
    if (reinterpret_cast<uintptr_t>(shared) % 1024 != 0) shim::fail("tensor_load: not aligned to 1024 bytes");
    shim::issue({ barrier, static_cast<char*>(shared), *map, row, column, nullptr, u32(map->words[4] * 128) });
}
inline void bulk_load(void* shared, const void* global, u32 bytes, u64* barrier) {
    const auto all = reinterpret_cast<uintptr_t>(shared) | reinterpret_cast<uintptr_t>(global) | bytes;
    if (all % 16 != 0) shim::fail("bulk_load: not a multiple of 16");
    shim::issue({ barrier, static_cast<char*>(shared), {}, 0, 0, static_cast<const char*>(global), bytes });
}
inline const void* swizzled(const bf16* box, u32 row, u32 chunk) { return box + row * 64 + (chunk ^ (row % 8)) * 8; }

// ---- registers and barriers of warpgroups

template <u32 REGISTERS> void registers_give() {}
template <u32 REGISTERS> void registers_take() {}

namespace shim {
inline unsigned named_arrivals[16];
// Whether this arrival opened the barrier.
inline bool named(u32 id, u32 threads) {
    used = true;
    if (id >= 16 || threads % 32 != 0) fail("no such named barrier");
    if (++named_arrivals[id] < threads) return false;
    named_arrivals[id] = 0, progress++;
    for (unsigned i = 0; i < fiber_count; i++)
        if (fibers[i].wait == NAMED && fibers[i].barrier == id) fibers[i].wait = RUN;
    return true;
}
}  // namespace shim
inline void named_arrive(u32 id, u32 threads) { shim::named(id, threads); }
inline void named_sync(u32 id, u32 threads) {
    if (shim::named(id, threads)) return;
    // Only an arrival opens it, as some arrive without waiting.
    shim::current->barrier = id, shim::current->expected = ~0u;
    shim::yield(shim::NAMED);
}

// ---- warpgroup products

inline u64 descriptor(const void* shared, u32 leading) {
    const u64 at = u64(static_cast<const char*>(shared) - shim::dynamic_shared);
    if (at >= 227 << 10 || at % 16 != 0) shim::fail("a descriptor of what is no aligned place in dynamic shared memory");
    return at >> 4 | u64(leading >> 4) << 16 | u64(1024 >> 4) << 32 | 1ull << 62;
}
inline u64 descriptor_k(const void* shared) { return descriptor(shared, 16); }
inline u64 descriptor_mn(const void* shared, u32 leading = 1024) { return descriptor(shared, leading); }

namespace shim {
// Element (i of M or N, k) of a factor in shared memory.
inline u16 element(u64 descriptor, Major major, u32 i, u32 k) {
    const auto field = [&](int bit) { return u32(descriptor >> bit & 0x3FFF) << 4; };
    const u32 start = field(0), leading = field(16), stride = field(32);
    if (descriptor >> 62 != 1 || (descriptor >> 49 & 7) != 0) fail("a descriptor of another swizzle");
    u32 at = start;
    if (major == K_MAJOR) at += i / 8 * stride + i % 8 * 128 + k * 2;
    else at += i / 64 * leading + k / 8 * stride + k % 8 * 128 + i % 64 * 2;
    at ^= (at >> 7 & 7) << 4;
    u16 bits;
    memcpy(&bits, dynamic_shared + at, 2);
    return bits;
}

struct Asking {
    int n;
    bool shared_a, add;
    u64 a, b;
    Major a_major, b_major;
};
struct Product : Asking {
    unsigned arrived, taken;
    u16 A[64][16], B[16][128];
    float d[64][128];
    explicit Product(const Asking& asking) : Asking(asking), arrived(0), taken(0) {}
    bool same(const Asking& o) const {
        return n == o.n && shared_a == o.shared_a && add == o.add && a == o.a && b == o.b && a_major == o.a_major && b_major == o.b_major;
    }
    void look(u16 (&A)[64][16], u16 (&B)[16][128]) const {
        for (u32 k = 0; k < 16; k++) {
            for (u32 i = 0; i < 64 && shared_a; i++) A[i][k] = element(a, a_major, i, k);
            for (u32 j = 0; j < u32(n); j++) B[k][j] = element(b, b_major, j, k);
        }
    }
    void compute() {
        look(A, B);
        for (u32 i = 0; i < 64; i++) {
            typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));
            float row[128] = {}, factors[128];
            for (u32 k = 0; k < 16; k++) {
                const float x = bits_to_f32(u32(A[i][k]) << 16);
                for (int j = 0; j < n; j++) factors[j] = bits_to_f32(u32(B[k][j]) << 16);
                for (int j = 0; j < n; j += 4) *reinterpret_cast<Four*>(row + j) += x * *reinterpret_cast<Four*>(factors + j);
            }
            memcpy(d[i], row, sizeof row);
        }
    }
    void check_memory() const {
        static u16 A2[64][16], B2[16][128];
        memcpy(A2, A, sizeof A), memcpy(B2, B, sizeof B);
        look(A2, B2);
        if (memcmp(A2, A, sizeof A) != 0 || memcmp(B2, B, sizeof B) != 0) fail("shared memory changed while a product read it");
    }
};
// The products of a warpgroup in their order; its threads ask for them one by one, and each takes its part of a result.
struct Warpgroup {
    std::deque<std::unique_ptr<Product>> products;
    size_t forgotten;
};
inline Warpgroup warpgroups[MAX_THREADS / 128];

// A thread's accumulator while products work on it.
struct Accumulator {
    float* registers;
    std::vector<float> value;
    int products;
};
struct Asked {
    size_t product;
    float* registers;
};
struct Asker {
    std::vector<Asked> open;
    std::deque<std::vector<Asked>> groups;
    std::vector<Accumulator> accumulators;
    size_t next;
    bool fenced;
    Accumulator& accumulator(float* registers) {
        for (auto& a : accumulators)
            if (a.registers == registers) return a;
        fail("a product without its accumulator");
    }
};
inline Asker askers[MAX_THREADS];

inline void ask(float* d, const u32* a, const Asking& asking) {
    used = true;
    const u32 thread = current->linear;
    auto& asker = askers[thread];
    auto& group = warpgroups[thread / 128];
    if (!asker.fenced) fail("a product without wgmma_fence() since the last commit");
    const size_t at = asker.next - group.forgotten;
    if (at == group.products.size()) group.products.push_back(std::make_unique<Product>(asking));
    Product& p = *group.products[at];
    if (!p.same(asking)) fail("threads of a warpgroup ask for different products");
    if (a) {
        const u32 row = thread % 128 / 32 * 16 + lane() / 4, k = 2 * (lane() % 4);
        for (u32 i = 0; i < 4; i++) {
            u16* pair = &p.A[row + 8 * (i % 2)][k + 8 * (i / 2)];
            pair[0] = u16(a[i]), pair[1] = u16(a[i] >> 16);
        }
    }
    bool known = false;
    for (auto& accumulator : asker.accumulators)
        if (accumulator.registers == d) accumulator.products++, known = true;
    if (!known) {
        asker.accumulators.push_back({ d, std::vector<float>(d, d + p.n / 2), 1 });
        memset(d, 0xFF, sizeof(float) * size_t(p.n / 2));
    }
    asker.open.push_back({ asker.next++, d });
    if (++p.arrived == 128) p.compute(), progress++;
}
// Takes this thread's part of a product's result.
inline void take(const Asked& asked) {
    const u32 thread = current->linear;
    auto& group = warpgroups[thread / 128];
    while (group.products[asked.product - group.forgotten]->arrived < 128) yield(POLL);
    Product& p = *group.products[asked.product - group.forgotten];
    auto& asker = askers[thread];
    auto& accumulator = asker.accumulator(asked.registers);
    const u32 row = thread % 128 / 32 * 16 + lane() / 4, column = 2 * (lane() % 4);
    for (u32 i = 0; i < u32(p.n / 2); i++) {
        const float x = p.d[row + 8 * (i / 2 % 2)][i / 4 * 8 + column + i % 2];
        accumulator.value[i] = p.add ? accumulator.value[i] + x : x;
    }
    if (--accumulator.products == 0) {
        memcpy(accumulator.registers, accumulator.value.data(), sizeof(float) * size_t(p.n / 2));
        asker.accumulators.erase(asker.accumulators.begin() + (&accumulator - asker.accumulators.data()));
    }
    progress++;
    if (++p.taken == 128) {
        p.check_memory();
        // Those before it were taken before.
        group.products.pop_front(), group.forgotten++;
    }
}
inline const bool forgets_hopper = [] {
    block_begins[1] = [] {
        if (!used) return;
        used = false;
        loads.clear();
        for (auto& arrivals : named_arrivals) arrivals = 0;
        for (auto& group : warpgroups) group = {};
        for (auto& asker : askers) asker = {};
    };
    return true;
}();
}  // namespace shim

inline void wgmma_fence() { shim::askers[shim::current->linear].fenced = true; }
inline void wgmma_commit() {
    auto& asker = shim::askers[shim::current->linear];
    asker.groups.push_back(std::move(asker.open));
    asker.open.clear(), asker.fenced = false;
}
template <int N> void wgmma_wait() {
    auto& asker = shim::askers[shim::current->linear];
    // Others first, who may overwrite what was given back too early.
    if (asker.groups.size() > size_t(N)) shim::yield(shim::POLL);
    while (asker.groups.size() > size_t(N)) {
        const auto group = std::move(asker.groups.front());
        asker.groups.pop_front();
        for (auto& asked : group) shim::take(asked);
    }
}
template <int N> void wgmma_hold(float (&)[N]) {}
template <int M, int N> void wgmma_hold(u32 (&)[M][N]) {}
template <int N, Major A = K_MAJOR, Major B = K_MAJOR> void wgmma(float (&d)[N / 2], u64 a, u64 b, bool add) {
    shim::ask(d, nullptr, { N, true, add, a, b, A, B });
}
template <int N, Major B> void wgmma(float (&d)[N / 2], const u32 (&a)[4], u64 b, bool add) {
    shim::ask(d, a, { N, false, add, 0, b, K_MAJOR, B });
}
