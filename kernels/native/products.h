// Rows of floats times packed matrices. An output element is one sum over the inputs in order, whatever other rows there
// are and however weights are stored; rows are cut into groups only so that a group's sums stay in registers.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "formats.h"
#include "rounded.h"
#include "thread_pool.h"

constexpr int64_t ITEM = 1 << 20;  // multiplications of an item of work: some 20 us, many times what taking one costs
constexpr int64_t PART = 96;  // most rows of an item of work: enough to pay for reading the weights once more

// Adds `count` inputs of R rows of x [R][in] times their weights at w to the sums [R][BLOCK], which begin at 0 if `first`.
// KEEP: writes the weights to `kept` as floats [count][BLOCK] as well. `next`: bytes that are needed soon, `lines` cache
// lines for each input; null for none.
template <class Format, int R, bool KEEP> static void add_inputs(const float *x, int64_t in, const char *w, int64_t count, float *sums, bool first, float *kept, const char *next, int64_t lines) {
    F sum[R][VECTORS];
    for (int r = 0; r < R; r++)
        for (int j = 0; j < VECTORS; j++) sum[r][j] = first ? F{} : floats(sums + r * BLOCK + j * WIDE);
    Format::each(w, count, [&](int64_t k, const F(&weight)[VECTORS]) __attribute__((always_inline)) {
        if (KEEP) {
            for (int j = 0; j < VECTORS; j++) put(kept + k * BLOCK + j * WIDE, weight[j]);
        } else if (next) {
            for (int64_t i = 0; i < lines; i++) ask(next + (k * lines + i) * 64);
        }
        for (int r = 0; r < R; r++)
            for (int j = 0; j < VECTORS; j++) sum[r][j] += spread(x[r * in + k]) * weight[j];
    });
    for (int r = 0; r < R; r++)
        for (int j = 0; j < VECTORS; j++) put(sums + r * BLOCK + j * WIDE, sum[r][j]);
}

typedef void (*AddInputs)(const float *, int64_t, const char *, int64_t, float *, bool, float *, const char *, int64_t);

template <class Format, bool KEEP> static AddInputs add_inputs_of(int64_t rows) {
    switch (rows) {
        case 1: return add_inputs<Format, 1, KEEP>;
        case 2: return add_inputs<Format, 2, KEEP>;
#ifdef __AVX512F__
        case 3: return add_inputs<Format, 3, KEEP>;
        case 4: return add_inputs<Format, 4, KEEP>;
        case 5: return add_inputs<Format, 5, KEEP>;
#endif
        default: return add_inputs<Format, ROWS, KEEP>;
    }
}

// Multiplies rows of x [T][in] by one strip -> sums [T][BLOCK]. One group of rows takes all inputs at once; several take
// turns at each CHUNK of them, so that weights are read and expanded once, and memory is read all the time. Groups are as
// even as possible: five and four rows are faster than six and three, because three rows have too few sums to hide the
// latency of one.
template <class Format> static void strip_product(const float *x, int64_t T, int64_t in, const char *w, float *sums) {
    const int64_t groups = (T + ROWS - 1) / ROWS;
    if (groups == 1) return add_inputs_of<Format, false>(T)(x, in, w, in, sums, true, nullptr, nullptr, 0);
    constexpr bool KEEPS = !std::is_same_v<Format, Floats>;
    alignas(64) float kept[KEEPS ? CHUNK * BLOCK : 1];
    const int64_t lines = (Format::before(CHUNK) + CHUNK * 64 - 1) / (CHUNK * 64);
    for (int64_t k = 0; k < in; k += CHUNK) {
        const int64_t count = std::min(CHUNK, in - k);
        const char *here = w + Format::before(k), *next = w + Format::before(k + CHUNK);
        for (int64_t g = 0; g < groups; g++) {
            const int64_t t = T * g / groups, rows = T * (g + 1) / groups - t;
            const float *from = x + t * in + k;
            if (g == 0) add_inputs_of<Format, KEEPS>(rows)(from, in, here, count, sums, k == 0, kept, nullptr, 0);
            else add_inputs_of<Kept, false>(rows)(from, in, KEEPS ? (const char *)kept : here, count, sums + t * BLOCK, k == 0, nullptr, g == 1 ? next : nullptr, lines);
        }
    }
}

// Multiplies rows of x [T][in] by strip s. Rows of y are `step` floats apart.
template <class Format> static void one_strip(const float *x, int64_t T, Matrix w, int64_t in, int64_t out, int64_t s, float *y, int64_t step, bool onto) {
    const int64_t width = std::min<int64_t>(BLOCK, out - s * BLOCK);
    alignas(64) float sums[PART * BLOCK];
    strip_product<Format>(x, T, in, (const char *)w.data + s * Format::before(in), sums);
    for (int64_t r = 0; r < T; r++) {
        float *to = y + r * step + s * BLOCK;
        const float *from = sums + r * BLOCK;
        if (onto) for (int64_t i = 0; i < width; i++) to[i] += from[i];
        else std::memcpy(to, from, width * sizeof(float));
    }
}

// Multiplies rows of x [T][in] by all strips, in items of neighbouring strips and rows.
template <class Format> static void product(const float *x, int64_t T, Matrix w, int64_t in, int64_t out, float *y, int64_t step, bool onto, int threads) {
    const int64_t strips = (out + BLOCK - 1) / BLOCK, parts = (T + PART - 1) / PART, all = strips * parts;
    const int64_t items = std::min(all, std::max<int64_t>(T * in * out / ITEM, 2 * threads));
    thread_pool().each(items, threads, [&](int64_t item) {
        for (int64_t i = all * item / items; i < all * (item + 1) / items; i++) {
            const int64_t part = i % parts, t = T * part / parts;
            one_strip<Format>(x + t * in, T * (part + 1) / parts - t, w, in, out, i / parts, y + t * step, step, onto);
        }
    });
}

// y [T, out] = (y +) x [T, in] times a packed matrix. Rows of y are `step` floats apart, 0 for `out`.
static void multiply(const float *x, int64_t T, Matrix w, int64_t in, int64_t out, float *y, bool onto, int threads, int64_t step = 0) {
    if (!step) step = out;
    if (T * in * out <= WORTH) threads = 1;
    switch (w.kind) {
        case FLOATS: return product<Floats>(x, T, w, in, out, y, step, onto, threads);
        case PAIRS: return product<Pairs>(x, T, w, in, out, y, step, onto, threads);
        case Q8_0: return product<Eights>(x, T, w, in, out, y, step, onto, threads);
        case Q4_0: return product<Fours<false>>(x, T, w, in, out, y, step, onto, threads);
        case Q4_1: return product<Fours<true>>(x, T, w, in, out, y, step, onto, threads);
        case ROUNDED: return rounded_product(x, T, w, in, out, y, step, onto, threads);
    }
}
