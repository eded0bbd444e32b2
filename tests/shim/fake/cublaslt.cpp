// A stand-in for libcublasLt: matrix products in plain loops over column-major matrices, with the epilogues that the program
// asks for. What the real library would refuse (strides, types, alignments) is refused here as far as its manual says.
//
//   FAKE_CUBLASLT_PLAIN=1     no epilogue is supported
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

typedef unsigned long long u64;
enum { SUCCESS = 0, INVALID_VALUE = 7, EXECUTION_FAILED = 13, NOT_SUPPORTED = 15 };
enum Type { F32 = 0, BF16 = 14 };
enum Epilogue { DEFAULT = 1, BIAS = 4, GELU = 32, GELU_BIAS = 36, GELU_AUX = 160, GELU_AUX_BIAS = 164, DGELU = 192, BGRADA = 256, BGRADB = 512 };

struct Desc {
    int compute = 0, scale = 0, transa = 0, transb = 0, epilogue = DEFAULT, bias_type = -1, aux_type = -1;
    u64 bias = 0, aux = 0;
    int64_t aux_ld = 0;
};
struct Layout { int type; u64 rows, cols; int64_t ld; };
struct Preference { u64 workspace = 0; unsigned reductions = 7; };
struct Algo { u64 data[8]; };
struct Heuristic { Algo algo; size_t workspace; int state; float waves; int reserved[4]; };

template <class T> static int set(T& field, const void* from, size_t bytes) {
    if (bytes != sizeof(T)) return INVALID_VALUE;
    memcpy(&field, from, bytes);
    return SUCCESS;
}
static float get(u64 p, int type, size_t at) {
    if (type == F32) return reinterpret_cast<float*>(p)[at];
    const uint32_t bits = uint32_t(reinterpret_cast<uint16_t*>(p)[at]) << 16;
    float x;
    memcpy(&x, &bits, 4);
    return x;
}
static void put(u64 p, int type, size_t at, float x) {
    if (type == F32) { reinterpret_cast<float*>(p)[at] = x; return; }
    uint32_t bits;
    memcpy(&bits, &x, 4);
    reinterpret_cast<uint16_t*>(p)[at] = x != x ? 0x7FFF : uint16_t((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}
static float inner(float x) { return 0.7978845608f * (x + 0.044715f * x * x * x); }
static float gelu(float x) { return 0.5f * x * (1 + tanhf(inner(x))); }
static float slope(float x) {
    const float t = tanhf(inner(x));
    return 0.5f * (1 + t) + 0.5f * x * (1 - t * t) * 0.7978845608f * (1 + 3 * 0.044715f * x * x);
}
// What cannot be multiplied.
static int check(const Desc* d, const Layout* a, const Layout* b, const Layout* c, const Layout* y) {
    const u64 m = y->rows, n = y->cols, k = d->transa ? a->rows : a->cols;
    if ((d->transa ? a->cols : a->rows) != m || (d->transb ? b->rows : b->cols) != n || (d->transb ? b->cols : b->rows) != k) return INVALID_VALUE;
    if (c->rows != m || c->cols != n || c->type != y->type || a->type != b->type) return INVALID_VALUE;
    for (const Layout* l : { a, b, c, y })
        if (l->ld < int64_t(l->rows)) return INVALID_VALUE;
    if (d->scale != F32) return INVALID_VALUE;
    if (d->epilogue != DEFAULT && getenv("FAKE_CUBLASLT_PLAIN")) return NOT_SUPPORTED;
    switch (d->epilogue) {
    case DEFAULT: case BIAS: case BGRADA: case BGRADB: return SUCCESS;
    case GELU: case GELU_BIAS: return SUCCESS;
    // The auxiliary matrix: a stride that is a multiple of 8 and no less than the rows.
    case GELU_AUX: case GELU_AUX_BIAS: case DGELU: return d->aux_ld % 8 == 0 && d->aux_ld >= int64_t(m) ? SUCCESS : NOT_SUPPORTED;
    default: return NOT_SUPPORTED;
    }
}

extern "C" {
int cublasLtCreate(void** handle) { *handle = new int; return SUCCESS; }
int cublasLtDestroy(void* handle) { delete static_cast<int*>(handle); return SUCCESS; }
size_t cublasLtGetVersion() { return 130000; }
const char* cublasLtGetStatusName(int status) { return status ? "CUBLAS_STATUS_NOT_SUPPORTED" : "CUBLAS_STATUS_SUCCESS"; }
const char* cublasLtGetStatusString(int status) { return cublasLtGetStatusName(status); }
int cublasLtMatmulDescCreate(Desc** desc, int compute, int scale) { *desc = new Desc; (*desc)->compute = compute, (*desc)->scale = scale; return SUCCESS; }
int cublasLtMatmulDescDestroy(Desc* desc) { delete desc; return SUCCESS; }
int cublasLtMatmulDescSetAttribute(Desc* d, int attribute, const void* value, size_t bytes) {
    switch (attribute) {
    case 3: return set(d->transa, value, bytes);
    case 4: return set(d->transb, value, bytes);
    case 7: return set(d->epilogue, value, bytes);
    case 8: return set(d->bias, value, bytes);
    case 11: return set(d->aux, value, bytes);
    case 12: return set(d->aux_ld, value, bytes);
    case 22: return set(d->aux_type, value, bytes);
    case 26: return set(d->bias_type, value, bytes);
    case 2: return SUCCESS;
    default: return INVALID_VALUE;
    }
}
int cublasLtMatrixLayoutCreate(Layout** layout, int type, u64 rows, u64 cols, int64_t ld) { *layout = new Layout{ type, rows, cols, ld }; return SUCCESS; }
int cublasLtMatrixLayoutDestroy(Layout* layout) { delete layout; return SUCCESS; }
int cublasLtMatrixLayoutSetAttribute(Layout*, int, const void*, size_t) { return SUCCESS; }
int cublasLtMatmulPreferenceCreate(Preference** p) { *p = new Preference; return SUCCESS; }
int cublasLtMatmulPreferenceDestroy(Preference* p) { delete p; return SUCCESS; }
int cublasLtMatmulPreferenceSetAttribute(Preference* p, int attribute, const void* value, size_t bytes) {
    if (attribute == 1) return set(p->workspace, value, bytes);
    if (attribute == 3) return set(p->reductions, value, bytes);
    return SUCCESS;
}
int cublasLtMatmulAlgoGetHeuristic(void*, Desc* d, Layout* a, Layout* b, Layout* c, Layout* y, Preference*, int asked, Heuristic* out, int* found) {
    *found = 0;
    const int refused = check(d, a, b, c, y);
    if (refused == INVALID_VALUE) return refused;
    if (refused) return NOT_SUPPORTED;
    for (; *found < asked && *found < 3; ++*found) {
        memset(&out[*found], 0, sizeof(Heuristic));
        out[*found].algo.data[0] = 0xA160 + *found, out[*found].waves = 1;
    }
    return SUCCESS;
}
int cublasLtMatmulAlgoCheck(void*, Desc* d, Layout* a, Layout* b, Layout* c, Layout* y, const Algo* algo, Heuristic* out) {
    if (algo->data[0] < 0xA160 || algo->data[0] > 0xA162) return INVALID_VALUE;
    memset(out, 0, sizeof *out);
    out->algo = *algo;
    return check(d, a, b, c, y);
}
int cublasLtMatmulAlgoConfigGetAttribute(const Algo*, int, void* value, size_t bytes, size_t* written) {
    if (value) memset(value, 0, bytes);
    if (written) *written = bytes;
    return SUCCESS;
}
int cublasLtMatmul(void*, Desc* dp, const float* alpha, u64 A, Layout* ap, u64 B, Layout* bp, const float* beta, u64 C, Layout* cp, u64 Y, Layout* yp, const Algo*, void*, size_t, void* stream);
}

#include <dlfcn.h>
#include <functional>

int cublasLtMatmul(void*, Desc* dp, const float* alpha, u64 A, Layout* ap, u64 B, Layout* bp, const float* beta, u64 C, Layout* cp, u64 Y, Layout* yp, const Algo*, void*, size_t, void* stream) {
    const Desc d = *dp;
    const Layout a = *ap, b = *bp, c = *cp, y = *yp;
    if (const int refused = check(&d, &a, &b, &c, &y)) return refused;
    const float by = *alpha, keep = *beta;
    std::function<void()> work = [=] {
        const u64 m = y.rows, n = y.cols, k = d.transa ? a.rows : a.cols;
        const int bias_type = d.bias_type >= 0 ? d.bias_type : y.type, aux_type = d.aux_type >= 0 ? d.aux_type : y.type;
        std::vector<float> left(m * k), right(k * n);  // left (m, k) row-major; right (n, k) row-major
        for (u64 i = 0; i < m; i++)
            for (u64 l = 0; l < k; l++) left[i * k + l] = get(A, a.type, d.transa ? l + i * a.ld : i + l * a.ld);
        for (u64 j = 0; j < n; j++)
            for (u64 l = 0; l < k; l++) right[j * k + l] = get(B, b.type, d.transb ? j + l * b.ld : l + j * b.ld);
        for (u64 j = 0; j < n; j++)
            for (u64 i = 0; i < m; i++) {
                float sum = 0;
                for (u64 l = 0; l < k; l++) sum += left[i * k + l] * right[j * k + l];
                float x = by * sum;
                if (keep != 0) x += keep * get(C, c.type, i + j * c.ld);
                if (d.epilogue == BIAS || d.epilogue == GELU_BIAS || d.epilogue == GELU_AUX_BIAS) x += get(d.bias, bias_type, i);
                if (d.epilogue == GELU_AUX || d.epilogue == GELU_AUX_BIAS) put(d.aux, aux_type, i + j * d.aux_ld, x);
                if (d.epilogue & GELU && d.epilogue != DGELU) x = gelu(x);
                if (d.epilogue == DGELU) x *= slope(get(d.aux, aux_type, i + j * d.aux_ld));
                put(Y, y.type, i + j * y.ld, x);
            }
        if (d.epilogue == BGRADA)
            for (u64 i = 0; i < m; i++) {
                float sum = 0;
                for (u64 l = 0; l < k; l++) sum += left[i * k + l];
                put(d.bias, bias_type, i, sum);
            }
        if (d.epilogue == BGRADB)
            for (u64 j = 0; j < n; j++) {
                float sum = 0;
                for (u64 l = 0; l < k; l++) sum += right[j * k + l];
                put(d.bias, bias_type, j, sum);
            }
    };
    // The program loads libcuda for itself alone; opened once more it is the same library.
    static const auto run = reinterpret_cast<int (*)(void*, std::function<void()>*)>(dlsym(dlopen("libcuda.so", RTLD_NOW), "fake_cuda_run"));
    return run(stream, &work) ? EXECUTION_FAILED : SUCCESS;
}
