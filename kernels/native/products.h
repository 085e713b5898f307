// Rows of floats times packed matrices. An output element is one sum over the inputs in order, whatever other rows there
// are; rows are cut into groups only so that a group's sums stay in registers.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#include "thread_pool.h"
#include "simd.h"

#ifdef __AVX512F__
constexpr int VECTORS = 4, ROWS = 6;  // 24 accumulators of 32 registers
#else
constexpr int VECTORS = 1, ROWS = 6;  // 12 of 16 registers of half the width
#endif
// Multiplications below which a product runs on one thread, because a second thread saves less than it loses whenever
// its core is busy with other work.
constexpr int64_t WORTH = 1500000;
constexpr int BLOCK = VECTORS * LANES;  // outputs of one strip of a packed matrix

// Storage of a packed matrix. FLOATS: [ceil(out / BLOCK)][in][BLOCK]. PAIRS: [ceil(out / BLOCK)][ceil(in / 2)][BLOCK] of
// bf16 numbers, the weights of inputs 2 i and 2 i + 1 (0 after the last one) in one word, so that one operation expands
// either to a float. ROUNDED: PAIRS whose rows are rounded to bf16 as well.
enum Kind : int64_t { FLOATS, PAIRS, ROUNDED };
struct Matrix { const void *data; int64_t kind; };
typedef uint32_t Pair;

static inline V expanded(VU words) { V v; std::memcpy(&v, &words, sizeof v); return v; }

// Adds input k of R rows times its weights to `sum`.
template <int R> static inline void add(V (&sum)[R][VECTORS], const float *x, int64_t in, int64_t k, const V (&weight)[VECTORS]) {
    for (int r = 0; r < R; r++)
        for (int j = 0; j < VECTORS; j++) sum[r][j] += all(x[r * in + k]) * weight[j];
}

template <int R> static inline void accumulate(V (&sum)[R][VECTORS], const float *x, int64_t in, const float *w) {
    for (int64_t k = 0; k < in; k++, w += BLOCK) {
        V weight[VECTORS];
        for (int j = 0; j < VECTORS; j++) weight[j] = load_once(w + j * LANES);
        add(sum, x, in, k, weight);
    }
}

template <int R> static inline void accumulate(V (&sum)[R][VECTORS], const float *x, int64_t in, const Pair *w) {
    for (int64_t k = 0; k < in; k += 2, w += BLOCK) {
        VU both[VECTORS];
        V weight[VECTORS];
        for (int j = 0; j < VECTORS; j++) both[j] = load_once(w + j * LANES), weight[j] = expanded(both[j] << 16);
        add(sum, x, in, k, weight);
        if (k + 1 == in) break;
        for (int j = 0; j < VECTORS; j++) weight[j] = expanded(both[j] & 0xFFFF0000);
        add(sum, x, in, k + 1, weight);
    }
}

#ifdef __AVX512BF16__
// Rows and weights in pairs. VDPBF16PS adds the second input's product first, then the first one's; each sum is rounded
// to the nearest float, and subnormal numbers count as 0.
template <int R> static inline void accumulate(V (&sum)[R][VECTORS], const Pair *x, int64_t pairs, const Pair *w) {
    for (int64_t k = 0; k < pairs; k++, w += BLOCK) {
        VU weight[VECTORS];
        for (int j = 0; j < VECTORS; j++) weight[j] = load_once(w + j * LANES);
        for (int r = 0; r < R; r++) {
            const __m512bh input = (__m512bh)_mm512_set1_epi32((int)x[r * pairs + k]);
            for (int j = 0; j < VECTORS; j++) sum[r][j] = (V)_mm512_dpbf16_ps((__m512)sum[r][j], input, (__m512bh)weight[j]);
        }
    }
}

// Rounds a row of floats to pairs of bf16 numbers, to the nearest, ties to even; 0 after the last.
static void round_row(const float *x, int64_t in, Pair *pairs) {
    int64_t i = 0;
    auto put = [&](const float *from, int64_t count) {
        const __m256bh halves = _mm512_cvtneps_pbh((__m512)load(from));
        std::memcpy(pairs + i / 2, &halves, (count + 1) / 2 * sizeof(Pair));
    };
    for (; i + LANES <= in; i += LANES) put(x + i, LANES);
    if (i == in) return;
    float last[LANES] = {};
    std::memcpy(last, x + i, (in - i) * sizeof(float));
    put(last, in - i);
}
#endif

// Multiplies R rows of `in` floats or pairs by one strip, of whose outputs the first `width` exist. Rows of y are `step`
// floats apart.
template <int R, class X, class W> static void tile(const X *x, int64_t in, const W *w, float *y, int64_t step, int width, bool onto) {
    V sum[R][VECTORS] = {};
    accumulate<R>(sum, x, in, w);
    for (int r = 0; r < R; r++) {
        float sums[BLOCK];
        for (int j = 0; j < VECTORS; j++) store(sums + j * LANES, sum[r][j]);
        float *to = y + r * step;
        if (onto) for (int i = 0; i < width; i++) to[i] += sums[i];
        else std::memcpy(to, sums, width * sizeof(float));
    }
}

// Multiplies rows of x [T][in] by strips [words][BLOCK]. Groups of rows are as even as possible: five and four rows are
// faster than six and three, because three rows have too few sums to hide the latency of one.
template <class X, class W> static void product(const X *x, int64_t T, int64_t in, const W *w, int64_t words, int64_t out, float *y, int64_t step, bool onto, bool shared, int threads) {
    const int64_t strips = (out + BLOCK - 1) / BLOCK, groups = (T + ROWS - 1) / ROWS;
    thread_pool().each(strips, shared ? threads : 1, [&](int64_t s) {
        const W *from = w + s * words * BLOCK;
        const int width = (int)std::min<int64_t>(BLOCK, out - s * BLOCK);
        for (int64_t g = 0; g < groups; g++) {
            const int64_t t = T * g / groups;
            const X *rows = x + t * in;
            float *to = y + t * step + s * BLOCK;
            switch (T * (g + 1) / groups - t) {
                case 1: tile<1>(rows, in, from, to, step, width, onto); break;
                case 2: tile<2>(rows, in, from, to, step, width, onto); break;
                case 3: tile<3>(rows, in, from, to, step, width, onto); break;
                case 4: tile<4>(rows, in, from, to, step, width, onto); break;
                case 5: tile<5>(rows, in, from, to, step, width, onto); break;
                default: tile<ROWS>(rows, in, from, to, step, width, onto);
            }
        }
    });
}

// y [T, out] = (y +) x [T, in] times a packed matrix. Rows of y are `step` floats apart, 0 for `out`.
static void multiply(const float *x, int64_t T, Matrix w, int64_t in, int64_t out, float *y, bool onto, int threads, int64_t step = 0) {
    if (!step) step = out;
    const bool shared = T * in * out > WORTH;
    const int64_t pairs = (in + 1) / 2;
    if (w.kind == FLOATS) product(x, T, in, (const float *)w.data, in, out, y, step, onto, shared, threads);
    if (w.kind == PAIRS) product(x, T, in, (const Pair *)w.data, pairs, out, y, step, onto, shared, threads);
#ifdef __AVX512BF16__
    if (w.kind != ROUNDED) return;
    static thread_local std::vector<Pair> rounded;
    rounded.resize(T * pairs);
    Pair *rows = rounded.data();
    thread_pool().each(T, shared ? threads : 1, [&](int64_t t) { round_row(x + t * in, in, rows + t * pairs); });
    product(rows, T, pairs, (const Pair *)w.data, pairs, out, y, step, onto, shared, threads);
#endif
}
