// Rows of floats times packed matrices. An output element is one sum over the inputs in order, whatever other rows there
// are and however weights are stored; rows are cut into groups only so that a group's sums stay in registers.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "formats.h"
#include "rounded.h"
#include "thread_pool.h"

constexpr int64_t ITEM = 1 << 20;  // multiplications of an item of work: some 20 us, many times what taking one costs
constexpr int64_t PART = 96;  // most rows of an item of work: enough to pay for reading the weights once more

// Adds `count` inputs of R rows of x [R][in] times their weights at w to the sums [R][BLOCK], which begin at 0 if `start`:
// COUNT vectors of outputs from vector `first` on. KEEP: writes the weights to `kept` as floats [count][COUNT * WIDE] as
// well. `next`: bytes that are needed soon, `lines` cache lines for each input.
template <class Format, int R, int COUNT, bool KEEP> static void add_inputs(const float *x, int64_t in, const char *w, int first, int64_t count, float *sums, bool start, float *kept, const char *next, int64_t lines) {
    F sum[R][COUNT];
    sums += first * WIDE;
    for (int r = 0; r < R; r++)
        for (int j = 0; j < COUNT; j++) sum[r][j] = start ? F{} : floats(sums + r * BLOCK + j * WIDE);
    Format::template each<COUNT>(w, first, count, [&](int64_t k, const F(&weight)[COUNT]) __attribute__((always_inline)) {
        if (KEEP)
            for (int j = 0; j < COUNT; j++) put(kept + (k * COUNT + j) * WIDE, weight[j]);
        for (int64_t i = 0; i < lines; i++) ask(next + (k * lines + i) * 64);
        for (int r = 0; r < R; r++) {
            F input = spread(x[r * in + k]);
            hold(input);
            for (int j = 0; j < COUNT; j++) sum[r][j] += input * weight[j];
        }
    });
    for (int r = 0; r < R; r++)
        for (int j = 0; j < COUNT; j++) put(sums + r * BLOCK + j * WIDE, sum[r][j]);
}

typedef void (*AddInputs)(const float *, int64_t, const char *, int, int64_t, float *, bool, float *, const char *, int64_t);

template <class Format, int COUNT, bool KEEP, int... R> static AddInputs add_inputs_of(int64_t rows, std::integer_sequence<int, R...>) {
    static constexpr AddInputs all[] = {add_inputs<Format, R + 1, COUNT, KEEP>...};
    return all[rows - 1];
}

// Multiplies up to ROWS rows of x [T][in] by one strip -> sums [T][BLOCK]: all of its outputs at once.
template <class Format> static void few_rows(const float *x, int64_t T, int64_t in, const char *w, float *sums) {
    add_inputs_of<Format, VECTORS, false>(T, std::make_integer_sequence<int, ROWS>())(x, in, w, 0, in, sums, true, nullptr, nullptr, 0);
}

// The same for any rows: groups of rows take turns at some inputs, while the next ones are on their way from memory. What is
// cheap to expand is read by each group, for one half of the outputs and then for the other: a group has twice the rows, and
// reads half of the weights. The numbers of blocks are expanded by the first group alone, with few rows of all outputs; the
// last group asks memory, because the first one has enough to do.
template <class Format> static void many_rows(const float *x, int64_t T, int64_t in, const char *w, float *sums) {
    constexpr bool KEEPS = !std::is_same_v<Format, Floats> && !std::is_same_v<Format, Pairs>;
    constexpr int COUNT = KEEPS ? VECTORS : HALF, MOST = KEEPS ? ROWS : TALL;
    constexpr int64_t INPUTS = KEEPS ? CHUNK : CHUNK / 2;
    constexpr auto sizes = std::make_integer_sequence<int, MOST>();
    const int64_t groups = (T + MOST - 1) / MOST, turns = VECTORS / COUNT * groups, all = Format::before(INPUTS) / 64;
    const int64_t lines = (all + turns * INPUTS - 1) / (turns * INPUTS);
    alignas(64) float kept[KEEPS ? INPUTS * BLOCK : 1];
    for (int64_t k = 0; k < in; k += INPUTS) {
        const int64_t count = std::min(INPUTS, in - k);
        const char *here = w + Format::before(k), *next = w + Format::before(k + INPUTS);
        for (int64_t turn = 0; turn < turns; turn++) {
            const int64_t g = turn % groups, t = T * g / groups, rows = T * (g + 1) / groups - t, asked = (KEEPS ? turns - 1 - turn : turn) * INPUTS * lines;
            const bool again = KEEPS && g;
            (again ? add_inputs_of<Kept, COUNT, false>(rows, sizes) : add_inputs_of<Format, COUNT, KEEPS>(rows, sizes))(
                x + t * in + k, in, again ? (const char *)kept : here, turn / groups * COUNT, count, sums + t * BLOCK, k == 0, kept, next + asked * 64, asked < all ? lines : 0);
        }
    }
}

// Multiplies rows of x [T][in] by strip s. Rows of y are `step` floats apart.
template <class Format> static void one_strip(const float *x, int64_t T, Matrix w, int64_t in, int64_t out, int64_t s, float *y, int64_t step, bool onto) {
    const int64_t width = std::min<int64_t>(BLOCK, out - s * BLOCK);
    alignas(64) float sums[PART * BLOCK];
    (T <= ROWS ? few_rows<Format> : many_rows<Format>)(x, T, in, (const char *)w.data + s * Format::before(in), sums);
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
