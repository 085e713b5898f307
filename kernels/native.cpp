// The ops of `reference.py` for fp32 on CPU. Row-invariant by construction: each output element is one chain of
// operations whose order depends on its own row alone, however many rows, requests or threads there are.
// Plain C interface, pointers into contiguous tensors; shapes are checked in native.py.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

typedef float V __attribute__((vector_size(64)));
typedef int32_t VI __attribute__((vector_size(64)));
constexpr int LANES = 16;

#ifdef __AVX512F__
constexpr int VECTORS = 4, ROWS = 6;  // 24 accumulators of 32 registers
#else
constexpr int VECTORS = 1, ROWS = 6;  // 12 of 16 registers of half the width
#endif
// Products below this are left to one thread: what a second one saves, it loses whenever its core is busy elsewhere.
constexpr int64_t WORTH = 1500000;
constexpr int BLOCK = VECTORS * LANES;  // outputs that one strip of a packed matrix holds

typedef uint16_t Half;  // a bf16 number: the upper half of a float
typedef Half VH __attribute__((vector_size(32)));
typedef uint32_t VU __attribute__((vector_size(64)));

static inline V load(const float *p) { V v; std::memcpy(&v, p, sizeof v); return v; }
static inline V load(const Half *p) {
    VH halves;
    std::memcpy(&halves, p, sizeof halves);
    VU words = __builtin_convertvector(halves, VU) << 16;
    V v;
    std::memcpy(&v, &words, sizeof v);
    return v;
}
static inline void store(float *p, V v) { std::memcpy(p, &v, sizeof v); }
static inline V all(float x) { return x - V{}; }

// exp by range reduction and the Cephes polynomial, about 1e-7 relative; the same code for every element of a row.
static inline V vexp(V x) {
    x = x < all(-87.3f) ? all(-87.3f) : x;
    x = x > all(88.3f) ? all(88.3f) : x;
    V z = x * all(1.44269504088896341f);
    VI n = __builtin_convertvector(z + (z < V{} ? all(-0.5f) : all(0.5f)), VI);
    V f = __builtin_convertvector(n, V);
    x = x - f * all(0.693359375f);
    x = x + f * all(2.12194440e-4f);
    V y = all(1.9875691500e-4f);
    y = y * x + all(1.3981999507e-3f);
    y = y * x + all(8.3334519073e-3f);
    y = y * x + all(4.1665795894e-2f);
    y = y * x + all(1.6666665459e-1f);
    y = y * x + all(5.0000001201e-1f);
    y = y * x * x + x + all(1.0f);
    VI e = (n + 127) << 23;
    V power;
    std::memcpy(&power, &e, sizeof power);
    return y * power;
}

// R rows times one strip [in][BLOCK] of floats or halves; `width` of its outputs are real.
template <int R, class W> static inline void strip(const float *x, int64_t in, const W *w, float *y, int64_t out, int width, bool add) {
    V sum[R][VECTORS] = {};
    for (int64_t k = 0; k < in; k++) {
        const W *row = w + k * BLOCK;
        V weight[VECTORS];
        for (int j = 0; j < VECTORS; j++) {
            __builtin_prefetch(row + BLOCK * 16 + j * LANES);
            weight[j] = load(row + j * LANES);
        }
        for (int r = 0; r < R; r++)
            for (int j = 0; j < VECTORS; j++) sum[r][j] += all(x[r * in + k]) * weight[j];
    }
    for (int r = 0; r < R; r++) {
        float made[BLOCK];
        for (int j = 0; j < VECTORS; j++) store(made + j * LANES, sum[r][j]);
        float *to = y + r * out;
        if (add) for (int i = 0; i < width; i++) to[i] += made[i];
        else std::memcpy(to, made, width * sizeof(float));
    }
}

extern "C" int64_t strip_width() { return BLOCK; }

template <class W> static void product(const float *x, int64_t T, const W *w, int64_t in, int64_t out, float *y, bool add, int threads) {
    int64_t strips = (out + BLOCK - 1) / BLOCK;
#pragma omp parallel for num_threads(threads) if (T * in * out > WORTH)
    for (int64_t s = 0; s < strips; s++) {
        const W *from = w + s * in * BLOCK;
        int width = (int)std::min<int64_t>(BLOCK, out - s * BLOCK);
        float *to = y + s * BLOCK;
        int64_t t = 0;
        for (; t + ROWS <= T; t += ROWS) strip<ROWS>(x + t * in, in, from, to + t * out, out, width, add);
        for (; t + 4 <= T; t += 4) strip<4>(x + t * in, in, from, to + t * out, out, width, add);
        for (; t + 2 <= T; t += 2) strip<2>(x + t * in, in, from, to + t * out, out, width, add);
        for (; t < T; t++) strip<1>(x + t * in, in, from, to + t * out, out, width, add);
    }
}

struct Matrix { const void *data; int64_t half; };  // packed [ceil(out / BLOCK)][in][BLOCK], floats or halves

static void multiply(const float *x, int64_t T, Matrix w, int64_t in, int64_t out, float *y, bool add, int threads) {
    if (w.half) product(x, T, (const Half *)w.data, in, out, y, add, threads);
    else product(x, T, (const float *)w.data, in, out, y, add, threads);
}

// y [T, out] = (y +) x [T, in] times a packed matrix.
extern "C" void linear(const float *x, int64_t T, const void *w, int64_t half, int64_t in, int64_t out, float *y, int add, int threads) {
    multiply(x, T, Matrix{w, half}, in, out, y, add, threads);
}

extern "C" void rms_norm(const float *x, int64_t T, int64_t E, const float *weight, float eps, float *y) {
    for (int64_t t = 0; t < T; t++) {
        const float *row = x + t * E;
        V sum = {};
        int64_t i = 0;
        for (; i + LANES <= E; i += LANES) { V a = load(row + i); sum += a * a; }
        float total = 0;
        for (; i < E; i++) total += row[i] * row[i];
        for (int j = 0; j < LANES; j++) total += sum[j];
        float scale = 1.0f / std::sqrt(total / (float)E + eps);
        for (i = 0; i < E; i++) y[t * E + i] = weight[i] * (row[i] * scale);
    }
}

// y [T, I] = silu(both[:, :I]) * both[:, I:]
extern "C" void silu_mul(const float *both, int64_t T, int64_t I, float *y) {
    auto mixed = [](V gate, V up) { return gate / (all(1.0f) + vexp(-gate)) * up; };
    for (int64_t t = 0; t < T; t++) {
        const float *gate = both + t * 2 * I, *up = gate + I;
        int64_t i = 0;
        for (; i + LANES <= I; i += LANES) store(y + t * I + i, mixed(load(gate + i), load(up + i)));
        if (i < I) {
            float g[LANES] = {}, u[LANES] = {};
            std::memcpy(g, gate + i, (I - i) * sizeof(float));
            std::memcpy(u, up + i, (I - i) * sizeof(float));
            store(g, mixed(load(g), load(u)));
            std::memcpy(y + t * I + i, g, (I - i) * sizeof(float));
        }
    }
}

// Turns the first `heads` of the N heads [T, N, D] in place; the first `queries` are then scaled, by row, if `scale`.
extern "C" void rotate(float *x, int64_t T, int64_t N, int64_t D, const float *cos, const float *sin, int64_t heads, int64_t queries, const float *scale) {
    int64_t half = D / 2;
    for (int64_t t = 0; t < T; t++) {
        const float *c = cos + t * D, *s = sin + t * D;
        for (int64_t h = 0; h < heads; h++) {
            float *a = x + (t * N + h) * D, *b = a + half;
            float by = scale && h < queries ? scale[t] : 1.0f;
            for (int64_t i = 0; i < half; i++) {
                float u = a[i], v = b[i];
                a[i] = (u * c[i] - v * s[i]) * by;
                b[i] = (v * c[half + i] + u * s[half + i]) * by;
            }
        }
    }
}

// One layer's pages: keys [pages, K, D, PAGE], values [pages, K, PAGE, D]. Row t goes to slot[t] = page * PAGE + offset
// (below 0: nowhere). k and v are heads of the rows x [T, N, D], starting at heads `first` and `first` + K.
extern "C" void keep(const float *x, int64_t T, int64_t N, int64_t D, int64_t first, int64_t K, const int64_t *slot, int64_t page, float *keys, float *values) {
    for (int64_t t = 0; t < T; t++) {
        if (slot[t] < 0) continue;
        int64_t at = slot[t] / page, offset = slot[t] % page;
        for (int64_t h = 0; h < K; h++) {
            const float *k = x + (t * N + first + h) * D, *v = k + K * D;
            float *to = keys + (at * K + h) * D * page + offset;
            for (int64_t d = 0; d < D; d++) to[d * page] = k[d];
            std::memcpy(values + ((at * K + h) * page + offset) * D, v, D * sizeof(float));
        }
    }
}

struct Head {  // one kv head's view of a pass
    const float *keys, *values;  // of this layer
    int64_t K, D, page, head;
    const float *key_page(int64_t at) const { return keys + (at * K + head) * D * page; }
    const float *value_page(int64_t at) const { return values + (at * K + head) * page * D; }
};

// Scores of G queries [G][D] against `count` keys stored as [D][stride], into out [G][width]; a load serves all queries.
// Writes whole lanes, -inf behind the last key.
template <int G> static inline void score(const float *q, const float *keys, int64_t stride, int64_t count, int64_t D, float *out, int64_t width) {
    constexpr int WIDE = 4;  // lanes of keys at a time: with G, enough independent chains to hide the latency of one
    int64_t j = 0;
    for (; j + WIDE * LANES <= count; j += WIDE * LANES) {
        V sum[G][WIDE] = {};
        for (int64_t d = 0; d < D; d++) {
            V key[WIDE];
            for (int i = 0; i < WIDE; i++) key[i] = load(keys + d * stride + j + i * LANES);
            for (int g = 0; g < G; g++)
                for (int i = 0; i < WIDE; i++) sum[g][i] += all(q[g * D + d]) * key[i];
        }
        for (int g = 0; g < G; g++)
            for (int i = 0; i < WIDE; i++) store(out + g * width + j + i * LANES, sum[g][i]);
    }
    for (; j < count; j += LANES) {
        V sum[G] = {};
        for (int64_t d = 0; d < D; d++) {
            V key = load(keys + d * stride + j);
            for (int g = 0; g < G; g++) sum[g] += all(q[g * D + d]) * key;
        }
        for (int g = 0; g < G; g++) store(out + g * width + j, sum[g]);
    }
    for (int g = 0; g < G; g++)
        for (int64_t i = count; i % LANES; i++) out[g * width + i] = -INFINITY;
}

// acc [G][D] += p [G][width] times values [count][D], in CHAINS of keys j, j + CHAINS, ...; DV vectors of D, or a plain
// loop where D is no multiple of the lanes. Which chain a key is in depends on its own place in its page or branch.
template <int DV, int G> static inline void mix(const float *p, int64_t width, const float *values, int64_t count, int64_t D, float *acc) {
    if constexpr (DV > 0) {
        constexpr int CHAINS = G * DV >= 8 ? 1 : G * DV >= 4 ? 2 : 4;
        V sum[CHAINS][G][DV] = {};
        int64_t j = 0;
        auto add = [&](int64_t key, int c) {
            V value[DV];
            for (int i = 0; i < DV; i++) value[i] = load(values + key * D + i * LANES);
            for (int g = 0; g < G; g++)
                for (int i = 0; i < DV; i++) sum[c][g][i] += all(p[g * width + key]) * value[i];
        };
        for (; j + CHAINS <= count; j += CHAINS)
            for (int c = 0; c < CHAINS; c++) add(j + c, c);
        for (int c = 0; j < count; j++, c++) add(j, c);
        for (int g = 0; g < G; g++)
            for (int i = 0; i < DV; i++) {
                V total = load(acc + g * D + i * LANES);
                for (int c = 0; c < CHAINS; c++) total += sum[c][g][i];
                store(acc + g * D + i * LANES, total);
            }
    } else
        for (int g = 0; g < G; g++)
            for (int64_t j = 0; j < count; j++)
                for (int64_t d = 0; d < D; d++) acc[g * D + d] += p[g * width + j] * values[j * D + d];
}

// p [width] of scores becomes exp(p - max); returns their sum.
static inline float weigh(float *p, int64_t width) {
    V top = all(-INFINITY);
    for (int64_t j = 0; j < width; j += LANES) { V s = load(p + j); top = s > top ? s : top; }
    float most = top[0];
    for (int j = 1; j < LANES; j++) most = std::max(most, top[j]);
    V sum = {};
    for (int64_t j = 0; j < width; j += LANES) {
        V s = load(p + j), e = vexp(s - all(most));
        e = s == all(-INFINITY) ? V{} : e;
        store(p + j, e);
        sum += e;
    }
    float total = 0;
    for (int j = 0; j < LANES; j++) total += sum[j];
    return total;
}

struct Rows {  // what each row of a pass sees; see `Layout`
    const int64_t *tables, *request, *seen, *own_first, *own_count;
    int64_t tiles;
};

struct Own {  // a branch's keys [D][padded], turned like a page's, and values [count][D]; of the branch at row `first`
    std::vector<float> keys, values;
    int64_t first = -1, padded = 0;
};

static void turn(Own &own, const float *x, int64_t t, int64_t T, int64_t N, int64_t H, const Head &head, const Rows &rows) {
    const int64_t D = head.D, first = rows.own_first[t];
    int64_t most = 0;
    for (int64_t r = t; r < T && rows.own_first[r] == first; r++) most = std::max(most, rows.own_count[r]);
    own.first = first;
    own.padded = (most + LANES - 1) / LANES * LANES;
    own.keys.assign(D * own.padded, 0.0f);
    own.values.resize(most * D);
    for (int64_t j = 0; j < most; j++) {
        const float *k = x + ((first + j) * N + H + head.head) * D, *v = k + head.K * D;
        for (int64_t d = 0; d < D; d++) own.keys[d * own.padded + j] = k[d];
        std::memcpy(&own.values[j * D], v, D * sizeof(float));
    }
}

constexpr int QUERIES = 4;     // heads of one group that share each load of a key or value
constexpr int LARGEST = 512;   // of D

// G queries [G][D] of row t over its pages and its own branch -> out [G][D].
template <int DV, int G> static void attend(const float *queries, int64_t t, const Head &head, const Rows &rows, const Own &own, std::vector<float> &p, float *out) {
    const int64_t D = head.D, page = head.page, seen = rows.seen[t], beside = rows.own_count[t];
    const int64_t *table = rows.tables + rows.request[t] * rows.tiles;
    const int64_t cached = (seen + LANES - 1) / LANES * LANES, width = cached + (beside + LANES - 1) / LANES * LANES;
    float q[G * LARGEST], acc[G * LARGEST];
    const float scale = 1.0f / std::sqrt((float)D);
    for (int64_t i = 0; i < G * D; i++) q[i] = queries[i] * scale, acc[i] = 0.0f;
    p.resize(G * width);
    for (int64_t at = 0; at < seen; at += page)
        score<G>(q, head.key_page(table[at / page]), page, std::min(page, seen - at), D, &p[at], width);
    if (beside) score<G>(q, own.keys.data(), own.padded, beside, D, &p[cached], width);
    float total[G];
    for (int g = 0; g < G; g++) total[g] = weigh(&p[g * width], width);
    for (int64_t at = 0; at < seen; at += page)
        mix<DV, G>(&p[at], width, head.value_page(table[at / page]), std::min(page, seen - at), D, acc);
    if (beside) mix<DV, G>(&p[cached], width, own.values.data(), beside, D, acc);
    for (int g = 0; g < G; g++)
        for (int64_t d = 0; d < D; d++) out[g * D + d] = acc[g * D + d] / total[g];
}

template <int DV> static void attend_rows(const float *x, int64_t from, int64_t to, int64_t N, int64_t H, const Head &head, const Rows &rows, float *out) {
    const int64_t D = head.D, share = H / head.K;
    std::vector<float> p;
    Own own;
    for (int64_t t = from; t < to; t++) {
        if (rows.own_count[t] && own.first != rows.own_first[t]) turn(own, x, t, to, N, H, head, rows);
        for (int64_t g = 0; g < share; g += QUERIES) {
            const int64_t h = head.head * share + g;
            const float *q = x + (t * N + h) * D;
            float *y = out + (t * H + h) * D;
            switch (std::min<int64_t>(QUERIES, share - g)) {
                case 1: attend<DV, 1>(q, t, head, rows, own, p, y); break;
                case 2: attend<DV, 2>(q, t, head, rows, own, p, y); break;
                case 3: attend<DV, 3>(q, t, head, rows, own, p, y); break;
                default: attend<DV, QUERIES>(q, t, head, rows, own, p, y);
            }
        }
    }
}

// Queries are the first H heads of x [T, N, D], a branch's own keys and values the 2 K heads after them -> out [T, H, D].
extern "C" void attention(const float *x, int64_t T, int64_t N, int64_t H, int64_t K, int64_t D, int64_t page, const float *keys, const float *values, const int64_t *tables, int64_t tiles, const int64_t *request, const int64_t *seen, const int64_t *own_first, const int64_t *own_count, float *out, int threads) {
    Rows rows = {tables, request, seen, own_first, own_count, tiles};
    const int64_t chunk = 16, chunks = (T + chunk - 1) / chunk;
#pragma omp parallel for num_threads(threads) if (T * tiles > 32)
    for (int64_t part = 0; part < K * chunks; part++) {
        Head head = {keys, values, K, D, page, part / chunks};
        const int64_t from = part % chunks * chunk, to = std::min(T, from + chunk);
        switch (D % LANES ? 0 : D / LANES) {
            case 1: attend_rows<1>(x, from, to, N, H, head, rows, out); break;
            case 2: attend_rows<2>(x, from, to, N, H, head, rows, out); break;
            case 4: attend_rows<4>(x, from, to, N, H, head, rows, out); break;
            case 8: attend_rows<8>(x, from, to, N, H, head, rows, out); break;
            default: attend_rows<0>(x, from, to, N, H, head, rows, out);
        }
    }
}

// The head epilogue without filters: argmax of masked logits (/ temperature + noise), and that token's probability at
// temperature 1 among the allowed. `allowed` (bit mask, `words` a row) and `noise` may be null.
extern "C" void pick(const float *logits, int64_t R, int64_t vocab, const uint8_t *banned, const uint32_t *allowed, int64_t words, const float *noise, float temperature, int64_t *tokens, float *confidence) {
    std::vector<float> row((vocab + LANES - 1) / LANES * LANES);
    for (int64_t r = 0; r < R; r++) {
        const float *from = logits + r * vocab;
        std::fill(row.begin(), row.end(), -INFINITY);
        if (allowed)
            for (int64_t w = 0; w < words; w++)
                for (uint32_t bits = allowed[r * words + w]; bits; bits &= bits - 1) {
                    int64_t t = w * 32 + __builtin_ctz(bits);
                    if (t < vocab) row[t] = from[t];
                }
        else std::memcpy(row.data(), from, vocab * sizeof(float));
        float most = *std::max_element(row.begin(), row.end()), best = -INFINITY, total = 0;
        int64_t chosen = -1;
        for (int64_t t = 0; t < vocab; t++) {
            if (banned[t] || row[t] == -INFINITY) continue;
            float s = noise ? row[t] / temperature + noise[r * vocab + t] : row[t];
            if (s > best || chosen < 0) best = s, chosen = t;
        }
        V sum = {};
        for (size_t t = 0; t < row.size(); t += LANES) {
            V s = load(&row[t]), e = vexp(s - all(most));
            sum += s == all(-INFINITY) ? V{} : e;
        }
        for (int j = 0; j < LANES; j++) total += sum[j];
        tokens[r] = std::max<int64_t>(chosen, 0);
        confidence[r] = std::exp(row[tokens[r]] - most) / total;
    }
}

struct Shape { int64_t T, E, H, K, D, I, rank, page; float eps; int threads; };
struct Weights { const float *norms[2], *head_norms[2]; Matrix qkv, out, gate_up, down, low, high; };
struct Pass {
    const float *cos, *sin, *scale, *flags;
    const int64_t *tables, *request, *seen, *own_first, *own_count, *slot;
    int64_t tiles;
};

// A transformer block, the functions above in their order: x [T, E] becomes the next layer's x. `scale`, `flags`, the
// head norms and the adapter (`low`, `high`) may be null. scratch holds T * (E + (2 H + 2 K) D + 3 I + rank) floats.
static void block(const Shape *s, const Weights *w, const Pass *p, float *x, float *keys, float *values, float *scratch) {
    const int64_t T = s->T, E = s->E, N = s->H + 2 * s->K, D = s->D, I = s->I;
    float *h = scratch, *qkv = h + T * E, *mixed = qkv + T * N * D, *both = mixed + T * s->H * D;
    float *act = both + T * 2 * I, *low = act + T * I;
    rms_norm(x, T, E, w->norms[0], s->eps, h);
    multiply(h, T, w->qkv, E, N * D, qkv, false, s->threads);
    if (w->head_norms[0])
        for (int64_t t = 0; t < T; t++) {
            float *q = qkv + t * N * D, *k = q + s->H * D;
            rms_norm(q, s->H, D, w->head_norms[0], s->eps, q);
            rms_norm(k, s->K, D, w->head_norms[1], s->eps, k);
        }
    rotate(qkv, T, N, D, p->cos, p->sin, s->H + s->K, s->H, p->scale);
    keep(qkv, T, N, D, s->H, s->K, p->slot, s->page, keys, values);
    attention(qkv, T, N, s->H, s->K, D, s->page, keys, values, p->tables, p->tiles, p->request, p->seen, p->own_first, p->own_count, mixed, s->threads);
    if (p->flags && w->low.data) {
        multiply(mixed, T, w->low, s->H * D, s->rank, low, false, s->threads);
        for (int64_t t = 0; t < T; t++)
            for (int64_t i = 0; i < s->rank; i++) low[t * s->rank + i] *= p->flags[t];
        multiply(low, T, w->high, s->rank, E, x, true, s->threads);
    }
    multiply(mixed, T, w->out, s->H * D, E, x, true, s->threads);
    rms_norm(x, T, E, w->norms[1], s->eps, h);
    multiply(h, T, w->gate_up, E, 2 * I, both, false, s->threads);
    silu_mul(both, T, I, act);
    multiply(act, T, w->down, I, E, x, true, s->threads);
}

// All blocks in order; one layer's keys and values lie `stride` floats behind the last one's.
extern "C" void blocks(const Shape *s, const Weights *w, int64_t layers, const Pass *p, float *x, float *keys, float *values, int64_t stride, float *scratch) {
    for (int64_t l = 0; l < layers; l++) block(s, w + l, p, x, keys + l * stride, values + l * stride, scratch);
}
