// The ops of kernels/reference for fp32 on CPU. Row-invariant by construction: each output element is one chain of
// operations whose order depends on its own row alone, whatever the number of rows, requests or threads.
// Plain C interface, pointers into contiguous tensors; shapes are checked in native_ops.py.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "attention.h"
#include "simd.h"
#include "noise.h"
#include "sampling.h"
#include "products.h"
#include "pack.h"

extern "C" int64_t strip_width() { return BLOCK; }

// Whether this library was compiled with the instruction for products of rows in bf16, and in int8.
extern "C" int multiplies_bf16() {
#ifdef __AVX512BF16__
    return 1;
#else
    return 0;
#endif
}

extern "C" int multiplies_int8() {
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
    return 1;
#else
    return 0;
#endif
}

// Bytes of a packed matrix of so many outputs and inputs.
extern "C" int64_t packed_bytes(int64_t kind, int64_t in, int64_t out) { return (out + BLOCK - 1) / BLOCK * strip_bytes(kind, in); }

extern "C" void pack(const void *matrix, int64_t rows, int64_t in, int64_t kind, char *to, int threads) { pack_rows(matrix, rows, in, kind, to, threads); }

// A number that changes with any bit of `count` bytes, at the speed of memory: eight sums of products, then their mix.
extern "C" uint64_t digest(const char *p, int64_t count) {
    constexpr uint64_t ODD = 0x9E3779B97F4A7C15;
    uint64_t lanes[8] = {1, 2, 3, 4, 5, 6, 7, 8}, word = 0, found = (uint64_t)count;
    int64_t i = 0;
    for (; i + 64 <= count; i += 64)
        for (int j = 0; j < 8; j++) {
            std::memcpy(&word, p + i + 8 * j, 8);
            lanes[j] = (lanes[j] ^ word) * ODD;
            lanes[j] ^= lanes[j] >> 32;
        }
    for (; i < count; i++) lanes[i % 8] = (lanes[i % 8] ^ (uint8_t)p[i]) * ODD;
    for (uint64_t lane : lanes) found = (found ^ lane) * ODD, found ^= found >> 29;
    return found;
}

// y [n, in]: the weights of the outputs in ids [n], as floats.
extern "C" void lookup(const void *w, int64_t kind, int64_t in, const int64_t *ids, int64_t n, float *y, int threads) {
    thread_pool().each(n, n > 4 ? threads : 1, [&](int64_t i) { output_weights(Matrix{w, kind}, in, ids[i], y + i * in); });
}

// y [T, out] = (y +) x [T, in] times a packed matrix.
extern "C" void linear(const float *x, int64_t T, const void *w, int64_t kind, int64_t in, int64_t out, float *y, int onto, int threads) {
    multiply(x, T, Matrix{w, kind}, in, out, y, onto, threads);
}

// Each of the `groups` equal parts of a row of x [T, E] is normalised on its own; weight [E].
extern "C" void rms_norm(const float *x, int64_t T, int64_t E, int64_t groups, const float *weight, float eps, float *y) {
    const int64_t size = E / groups;
    for (int64_t part = 0; part < T * groups; part++) {
        const float *row = x + part * size, *by = weight + part % groups * size;
        V sum = {};
        int64_t i = 0;
        for (; i + LANES <= size; i += LANES) { V a = load(row + i); sum += a * a; }
        float total = 0;
        for (; i < size; i++) total += row[i] * row[i];
        for (int j = 0; j < LANES; j++) total += sum[j];
        float scale = 1.0f / std::sqrt(total / (float)size + eps);
        for (i = 0; i < size; i++) y[part * size + i] = by[i] * (row[i] * scale);
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

// Rotates the first `heads` of the N heads [T, N, D] in place; then scales the first `queries` by row, if `scale` is set.
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

// Writes one layer's pages: keys [pages, K, D, PAGE], values [pages, K, PAGE, D]. Row t goes to slot[t] = page * PAGE +
// offset (below 0: nowhere). k and v are heads of the rows x [T, N, D], starting at heads `first` and `first` + K.
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

// Calls rows(first, count) for all T rows, shared among threads where they are worth it: `each` operations for a row.
template <class Rows> static void share_rows(int64_t T, int64_t each, int threads, const Rows &rows) {
    const int64_t parts = T * each > WORTH ? std::min<int64_t>(T, 2 * threads) : 1;
    thread_pool().each(parts, threads, [&](int64_t i) { rows(T * i / parts, T * (i + 1) / parts - T * i / parts); });
}

struct Shape { int64_t T, E, H, K, D, I, page, norm_groups; float eps; int threads; };
// Low-rank term of a product for rows with a flag: (x low) high is added to columns `first` to `first + outputs`.
struct Term { Matrix low, high; int64_t rank, first, outputs; };
constexpr int MOST_TERMS = 3;  // behind the last one of a product, rank is 0
struct Weights { const float *norms[2], *head_norms[2]; Matrix qkv, out, gate_up, down; Term qkv_terms[MOST_TERMS], out_terms[MOST_TERMS], gate_up_terms[MOST_TERMS], down_terms[MOST_TERMS]; };
struct Pass {
    const float *cos, *sin, *scale, *flags;
    const int64_t *tables, *request, *seen, *own_first, *own_count, *slot;
    int64_t tiles;
};

// Adds the terms to y [T, out], for rows of x [T, in] with a flag alone: the others are neither read nor written. low has
// MOST_TERMS * T * rank floats for the largest rank. Terms are small: a thread takes a whole one, where there are enough.
static void add_terms(const Term (&terms)[MOST_TERMS], const Shape *s, const Pass *p, const float *x, int64_t in, float *y, int64_t out, float *low) {
    if (!p->flags) return;
    int64_t count = 0, ranks[MOST_TERMS + 1] = {};
    for (; count < MOST_TERMS && terms[count].rank; count++) ranks[count + 1] = ranks[count] + terms[count].rank;
    for (int64_t t = 0, end; t < s->T; t = end + 1) {
        for (end = t; end < s->T && p->flags[end] != 0; end++) {}
        if (end == t) continue;
        auto add = [&](int64_t i, int threads) {
            float *own = low + ranks[i] * s->T;
            multiply(x + t * in, end - t, terms[i].low, in, terms[i].rank, own, false, threads);
            multiply(own, end - t, terms[i].high, terms[i].rank, terms[i].outputs, y + t * out + terms[i].first, true, threads, out);
        };
        const bool shared = s->threads <= count && (end - t) * in * ranks[count] > WORTH;
        if (shared) thread_pool().each(count, s->threads, [&](int64_t i) { add(i, 1); });
        else for (int64_t i = 0; i < count; i++) add(i, s->threads);
    }
}

// Runs a transformer block, the functions above in order: x [T, E] becomes the next layer's x. `scale`, `flags` and the
// head norms may be null. scratch has T * (E + (2 H + 2 K) D + 3 I + MOST_TERMS * rank)
// floats, for the largest rank of all terms.
static void block(const Shape *s, const Weights *w, const Pass *p, float *x, float *keys, float *values, float *scratch) {
    const int64_t T = s->T, E = s->E, N = s->H + 2 * s->K, D = s->D, I = s->I;
    float *h = scratch, *qkv = h + T * E, *mixed = qkv + T * N * D, *both = mixed + T * s->H * D;
    float *act = both + T * 2 * I, *low = act + T * I;
    auto norm = [&](const float *by) {
        share_rows(T, 3 * E, s->threads, [&](int64_t t, int64_t rows) { rms_norm(x + t * E, rows, E, s->norm_groups, by, s->eps, h + t * E); });
    };
    norm(w->norms[0]);
    multiply(h, T, w->qkv, E, N * D, qkv, false, s->threads);
    add_terms(w->qkv_terms, s, p, h, E, qkv, N * D, low);
    share_rows(T, 4 * N * D, s->threads, [&](int64_t first, int64_t rows) {
        float *heads = qkv + first * N * D;
        if (w->head_norms[0])
            for (int64_t t = 0; t < rows; t++) {
                float *q = heads + t * N * D, *k = q + s->H * D;
                rms_norm(q, s->H, D, 1, w->head_norms[0], s->eps, q);
                rms_norm(k, s->K, D, 1, w->head_norms[1], s->eps, k);
            }
        rotate(heads, rows, N, D, p->cos + first * D, p->sin + first * D, s->H + s->K, s->H, p->scale ? p->scale + first : nullptr);
        keep(heads, rows, N, D, s->H, s->K, p->slot + first, s->page, keys, values);
    });
    attention(qkv, T, N, s->H, s->K, D, s->page, keys, values, p->tables, p->tiles, p->request, p->seen, p->own_first, p->own_count, mixed, s->threads);
    add_terms(w->out_terms, s, p, mixed, s->H * D, x, E, low);
    multiply(mixed, T, w->out, s->H * D, E, x, true, s->threads);
    norm(w->norms[1]);
    multiply(h, T, w->gate_up, E, 2 * I, both, false, s->threads);
    add_terms(w->gate_up_terms, s, p, h, E, both, 2 * I, low);
    share_rows(T, 16 * I, s->threads, [&](int64_t t, int64_t rows) { silu_mul(both + t * 2 * I, rows, I, act + t * I); });
    add_terms(w->down_terms, s, p, act, I, x, E, low);
    multiply(act, T, w->down, I, E, x, true, s->threads);
}

struct Final { const float *norm; Matrix head; int64_t vocab, reads; const int64_t *read; float *logits; };
struct Wanted { Choice choice; int64_t row, token; };  // `row` of the logits; `token` is the result

// Runs a pass: all blocks in order (each layer's keys and values are `stride` floats after the previous layer's), the
// logits of the rows in `read`, and the tokens in `wanted`.
extern "C" void forward(const Shape *s, const Weights *w, int64_t layers, const Pass *p, float *x, float *keys, float *values, int64_t stride, float *scratch, const Final *f, Wanted *wanted, int64_t count) {
    for (int64_t l = 0; l < layers; l++) block(s, w + l, p, x, keys + l * stride, values + l * stride, scratch);
    for (int64_t r = 0; r < f->reads; r++) rms_norm(x + f->read[r] * s->E, 1, s->E, s->norm_groups, f->norm, s->eps, scratch + r * s->E);
    multiply(scratch, f->reads, f->head, s->E, f->vocab, f->logits, false, s->threads);
    thread_pool().each(count, count * f->vocab > WORTH ? s->threads : 1, [&](int64_t i) {
        wanted[i].choice.logits = f->logits + wanted[i].row * f->vocab;
        wanted[i].choice.vocab = f->vocab;
        wanted[i].token = chosen(wanted[i].choice);
    });
}
