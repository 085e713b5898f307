// Attention of the rows of a pass over pages, and in addition over their own branch. See `Layout` in layout.py.

#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "thread_pool.h"
#include "simd.h"

struct Head {  // one key-value head's view of a pass
    const float *keys, *values;  // this layer's pages
    int64_t K, D, page, head;
    const float *key_page(int64_t at) const { return keys + (at * K + head) * D * page; }
    const float *value_page(int64_t at) const { return values + (at * K + head) * page * D; }
};

constexpr int64_t LINE = 64 / sizeof(float);  // floats of a cache line

// Asks memory for `count` floats at p that are needed soon; none if p is null. Always inline, as `ask` in formats.h.
static inline __attribute__((always_inline)) void ask_for(const float *p, int64_t count) {
    if (p) for (int64_t i = 0; i < count; i += LINE) __builtin_prefetch(p + i, 0, 3);
}

// Writes the scores of G queries [G][D] against `count` keys stored as [D][stride] to out [G][width]; one load serves all
// queries. Whole SIMD vectors are written, with -inf after the last key. `next`: a page that is needed soon, or null.
template <int G> static inline void score(const float *q, const float *keys, int64_t stride, int64_t count, int64_t D, float *out, int64_t width, const float *next) {
    constexpr int WIDE = 4;  // vectors of keys at a time: times G, enough independent sums to hide the latency of one
    int64_t j = 0;
    for (; j + WIDE * LANES <= count; j += WIDE * LANES) {
        V sum[G][WIDE] = {};
        for (int64_t d = 0; d < D; d++) {
            V key[WIDE];
            ask_for(next ? next + d * stride : nullptr, WIDE * LANES);
            for (int i = 0; i < WIDE; i++) key[i] = load_once(keys + d * stride + j + i * LANES);
            for (int g = 0; g < G; g++)
                for (int i = 0; i < WIDE; i++) sum[g][i] += all(q[g * D + d]) * key[i];
        }
        for (int g = 0; g < G; g++)
            for (int i = 0; i < WIDE; i++) store(out + g * width + j + i * LANES, sum[g][i]);
    }
    for (; j < count; j += LANES) {
        V sum[G] = {};
        for (int64_t d = 0; d < D; d++) {
            ask_for(next ? next + d * stride + j : nullptr, LANES);
            V key = load_once(keys + d * stride + j);
            for (int g = 0; g < G; g++) sum[g] += all(q[g * D + d]) * key;
        }
        for (int g = 0; g < G; g++) store(out + g * width + j, sum[g]);
    }
    for (int g = 0; g < G; g++)
        for (int64_t i = count; i % LANES; i++) out[g * width + i] = -INFINITY;
}

// acc [G][D] += p [G][width] times values [count][D], in CHAINS sums over keys j, j + CHAINS, ...; DV vectors of D, or a
// plain loop (DV = 0) if D is no multiple of LANES. A key's chain depends on its own place in its page or branch only. `next`:
// a page that is needed soon, or null.
template <int DV, int G, int CHAINS> static inline void mix(const float *p, int64_t width, const float *values, int64_t count, int64_t D, float *acc, const float *next) {
    if constexpr (DV > 0) {
        V sum[CHAINS][G][DV] = {};
        int64_t j = 0;
        auto add = [&](int64_t key, int c) {
            V value[DV];
            ask_for(next ? next + key * D : nullptr, D);
            for (int i = 0; i < DV; i++) value[i] = load_once(values + key * D + i * LANES);
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

// Replaces the scores p [width] by exp(p - max) and returns their sum.
static inline float exponentiate(float *p, int64_t width) {
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

struct Own {  // keys [D][padded], transposed as in a page, and values [count][D] of the branch that begins at row `first`
    std::vector<float> keys, values;
    int64_t first = -1, padded = 0;
};

static void transpose_own(Own &own, const float *x, int64_t t, int64_t T, int64_t N, int64_t H, const Head &head, const Rows &rows) {
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

constexpr int QUERIES = 4;     // query heads of one key-value head that share each load of a key or value
constexpr int LARGEST = 512;   // largest D

// Rows of one request that share each load of a key or value: as many as their queries, of HEADS heads each, have registers.
constexpr int together([[maybe_unused]] int heads) {
#ifdef __AVX512F__
    if (heads <= 3) return 6 / heads;
#endif
    return 1;
}

// Scores after the first `count` of [width] count as nothing.
static inline void forget(float *scores, int64_t count, int64_t width) {
    for (int64_t i = count; i < width; i++) scores[i] = -INFINITY;
}

// Attends from HEADS queries of each of the R rows from t on, [D] each and `step` floats from row to row, to the pages of
// their request and their own branch -> out, R times HEADS [D]. What a row does not see adds exactly nothing to its sums.
template <int DV, int HEADS, int R> static void attend(const float *queries, int64_t step, int64_t t, const Head &head, const Rows &rows, const Own &own, std::vector<float> &p, float *out, int64_t out_step) {
    constexpr int G = HEADS * R, CHAINS = HEADS * DV >= 8 ? 1 : HEADS * DV >= 4 ? 2 : 4;  // the same for any R
    const int64_t D = head.D, page = head.page, *table = rows.tables + rows.request[t] * rows.tiles;
    const int64_t seen = *std::max_element(rows.seen + t, rows.seen + t + R), own_count = *std::max_element(rows.own_count + t, rows.own_count + t + R);
    const int64_t cached = (seen + LANES - 1) / LANES * LANES, width = cached + (own_count + LANES - 1) / LANES * LANES;
    float q[G * LARGEST], acc[G * LARGEST];
    const float scale = 1.0f / std::sqrt((float)D);
    for (int r = 0; r < R; r++)
        for (int64_t i = 0; i < HEADS * D; i++) q[r * HEADS * D + i] = queries[r * step + i] * scale;
    std::fill(acc, acc + G * D, 0.0f);
    p.resize(G * width);
    for (int64_t at = 0; at < seen; at += page) {
        const float *next = at + page < seen ? head.key_page(table[at / page + 1]) : head.value_page(table[0]);
        score<G>(q, head.key_page(table[at / page]), page, std::min(page, seen - at), D, &p[at], width, next);
    }
    if (own_count) score<G>(q, own.keys.data(), own.padded, own_count, D, &p[cached], width, nullptr);
    float total[G];
    for (int g = 0; g < G; g++) {
        forget(&p[g * width], rows.seen[t + g / HEADS], cached);
        forget(&p[g * width + cached], rows.own_count[t + g / HEADS], width - cached);
        total[g] = exponentiate(&p[g * width], width);
    }
    for (int64_t at = 0; at < seen; at += page) {
        const float *next = at + page < seen ? head.value_page(table[at / page + 1]) : nullptr;
        mix<DV, G, CHAINS>(&p[at], width, head.value_page(table[at / page]), std::min(page, seen - at), D, acc, next);
    }
    if (own_count) mix<DV, G, CHAINS>(&p[cached], width, own.values.data(), own_count, D, acc, nullptr);
    for (int g = 0; g < G; g++)
        for (int64_t d = 0; d < D; d++) out[g / HEADS * out_step + g % HEADS * D + d] = acc[g * D + d] / total[g];
}

// Whether rows t and u see the same pages and the same branch, each its part.
static inline bool alike(const Rows &rows, int64_t t, int64_t u) {
    return rows.request[t] == rows.request[u] && !rows.own_count[t] == !rows.own_count[u] && (!rows.own_count[t] || rows.own_first[t] == rows.own_first[u]);
}

template <int DV, int HEADS> static void attend_heads(const float *x, int64_t from, int64_t to, int64_t N, int64_t H, int64_t first, const Head &head, const Rows &rows, std::vector<float> &p, Own &own, float *out) {
    constexpr int R = together(HEADS);
    const int64_t D = head.D;
    for (int64_t t = from, count; t < to; t += count) {
        if (rows.own_count[t] && own.first != rows.own_first[t]) transpose_own(own, x, t, to, N, H, head, rows);
        for (count = 1; count < R && t + count < to && alike(rows, t, t + count);) count++;
        const float *q = x + (t * N + first) * D;
        float *y = out + (t * H + first) * D;
        if (count == R) attend<DV, HEADS, R>(q, N * D, t, head, rows, own, p, y, H * D);
        else for (int64_t r = 0; r < count; r++) attend<DV, HEADS, 1>(q + r * N * D, N * D, t + r, head, rows, own, p, y + r * H * D, H * D);
    }
}

template <int DV> static void attend_rows(const float *x, int64_t from, int64_t to, int64_t N, int64_t H, const Head &head, const Rows &rows, float *out) {
    const int64_t share = H / head.K;
    std::vector<float> p;
    Own own;
    for (int64_t g = 0; g < share; g += QUERIES) {
        const int64_t first = head.head * share + g;
        switch (std::min<int64_t>(QUERIES, share - g)) {
            case 1: attend_heads<DV, 1>(x, from, to, N, H, first, head, rows, p, own, out); break;
            case 2: attend_heads<DV, 2>(x, from, to, N, H, first, head, rows, p, own, out); break;
            case 3: attend_heads<DV, 3>(x, from, to, N, H, first, head, rows, p, own, out); break;
            default: attend_heads<DV, QUERIES>(x, from, to, N, H, first, head, rows, p, own, out);
        }
    }
}

// Attends for all rows: queries are the first H heads of x [T, N, D], keys and values of branches the 2 K heads after
// them -> out [T, H, D].
extern "C" void attention(const float *x, int64_t T, int64_t N, int64_t H, int64_t K, int64_t D, int64_t page, const float *keys, const float *values, const int64_t *tables, int64_t tiles, const int64_t *request, const int64_t *seen, const int64_t *own_first, const int64_t *own_count, float *out, int threads) {
    Rows rows = {tables, request, seen, own_first, own_count, tiles};
    // Rows of an item: few enough that each thread gets two of them, where rows are many enough.
    const int64_t chunk = std::max<int64_t>(1, std::min<int64_t>(16, T * K / (2 * threads))), chunks = (T + chunk - 1) / chunk;
    thread_pool().each(K * chunks, 2 * T * tiles * page * H * D > WORTH ? threads : 1, [&](int64_t part) {
        Head head = {keys, values, K, D, page, part / chunks};
        const int64_t from = part % chunks * chunk, to = std::min(T, from + chunk);
        switch (D % LANES ? 0 : D / LANES) {
            case 1: attend_rows<1>(x, from, to, N, H, head, rows, out); break;
            case 2: attend_rows<2>(x, from, to, N, H, head, rows, out); break;
            case 4: attend_rows<4>(x, from, to, N, H, head, rows, out); break;
            case 8: attend_rows<8>(x, from, to, N, H, head, rows, out); break;
            default: attend_rows<0>(x, from, to, N, H, head, rows, out);
        }
    });
}
