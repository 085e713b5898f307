// Rows times packed matrices. An output element is one sum over the inputs in order, whatever other rows there are and
// however weights are stored; rows are cut into groups only so that a group's sums stay in registers.
//
// Knows the order of work. What rows hold, and how a few of them meet a few weights, is a multiplier's matter: `Whole` has
// rows of floats, `Halves` rows that are rounded to bf16, `Integers` rows that are rounded to int8.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "formats.h"
#include "halves.h"
#include "integers.h"
#include "thread_pool.h"
#include "whole.h"

constexpr int64_t ITEM = 1 << 20;  // multiplications of an item of work: some 20 us, many times what taking one costs
constexpr int64_t PART = 96;  // most rows of an item of work: enough to pay for reading the weights once more

// Adds some inputs of R rows of x, which are `step` apart, times their weights at w to the sums [R][BLOCK], which begin at 0
// if `start`: COUNT vectors of outputs from vector `first` on. A multiplier's `add` is one for given R, COUNT and KEEP.
template <class Input> using Add = void (*)(const Input *x, int64_t step, const char *w, int first, int64_t count, float *sums, bool start, float *kept, const char *next, int64_t lines);

template <class M, int COUNT, bool KEEP, int... R> static Add<typename M::Input> add_of(int64_t rows, std::integer_sequence<int, R...>) {
    static constexpr Add<typename M::Input> all[] = {M::template add<R + 1, COUNT, KEEP>...};
    return all[rows - 1];
}

// Multiplies up to FEW rows by one strip -> sums [T][BLOCK]: all of its outputs at once.
template <class M> static void few_rows(const typename M::Input *x, int64_t T, int64_t in, const char *w, float *sums) {
    add_of<M, VECTORS, false>(T, std::make_integer_sequence<int, M::FEW>())(x, M::length(in), w, 0, in, sums, true, nullptr, nullptr, 0);
}

// The same for any rows: groups of up to MOST take turns at some inputs, while the next ones are on their way from memory.
// Weights that are cheap to expand are read by each group, for COUNT vectors of outputs and then for the next ones: such a
// group has more rows. Other weights are expanded by the first group alone, with few rows of all outputs; then the last
// group asks memory first, because the first one has enough to do.
template <class M> static void many_rows(const typename M::Input *x, int64_t T, int64_t in, const char *w, float *sums) {
    constexpr auto sizes = std::make_integer_sequence<int, M::MOST>();
    const int64_t groups = (T + M::MOST - 1) / M::MOST, turns = VECTORS / M::COUNT * groups, all = M::before(M::INPUTS) / 64, step = M::length(in);
    const int64_t lines = (all + turns * M::INPUTS - 1) / (turns * M::INPUTS);
    alignas(64) float kept[M::KEEPS ? M::INPUTS * BLOCK : 1];
    for (int64_t k = 0; k < in; k += M::INPUTS) {
        const int64_t count = std::min(M::INPUTS, in - k);
        const char *here = w + M::before(k), *next = w + M::before(k + M::INPUTS);
        for (int64_t turn = 0; turn < turns; turn++) {
            const int64_t g = turn % groups, t = T * g / groups, rows = T * (g + 1) / groups - t;
            const int64_t asked = (M::KEEPS ? turns - 1 - turn : turn) * M::INPUTS * lines;
            const bool again = M::KEEPS && g;
            (again ? add_of<typename M::Again, M::COUNT, false>(rows, sizes) : add_of<M, M::COUNT, M::KEEPS>(rows, sizes))(
                x + t * step + M::length(k), step, again ? (const char *)kept : here, turn / groups * M::COUNT, count, sums + t * BLOCK, k == 0, kept, next + asked * 64, asked < all ? lines : 0);
        }
    }
}

// Multiplies rows of x by strip s. Rows of y are `step` floats apart.
template <class M> static void one_strip(const typename M::Input *x, int64_t T, Matrix w, int64_t in, int64_t out, int64_t s, float *y, int64_t step, bool onto) {
    const int64_t width = std::min<int64_t>(BLOCK, out - s * BLOCK);
    alignas(64) float sums[PART * BLOCK];
    (T <= M::FEW ? few_rows<M> : many_rows<M>)(x, T, in, (const char *)w.data + s * M::before(in), sums);
    for (int64_t r = 0; r < T; r++) {
        float *to = y + r * step + s * BLOCK;
        const float *from = sums + r * BLOCK;
        if (onto) for (int64_t i = 0; i < width; i++) to[i] += from[i];
        else std::memcpy(to, from, width * sizeof(float));
    }
}

// Multiplies rows of x by all strips, in items of neighbouring strips and rows.
template <class M> static void product(const typename M::Input *x, int64_t T, Matrix w, int64_t in, int64_t out, float *y, int64_t step, bool onto, int threads) {
    const int64_t strips = (out + BLOCK - 1) / BLOCK, parts = (T + PART - 1) / PART, all = strips * parts;
    const int64_t items = std::min(all, std::max<int64_t>(T * in * out / ITEM, 2 * threads));
    thread_pool().each(items, threads, [&](int64_t item) {
        for (int64_t i = all * item / items; i < all * (item + 1) / items; i++) {
            const int64_t part = i % parts, t = T * part / parts;
            one_strip<M>(x + t * M::length(in), T * (part + 1) / parts - t, w, in, out, i / parts, y + t * step, step, onto);
        }
    });
}

// The same for rows of floats that the multiplier rounds first.
template <class M> static void rounded_product(const float *x, int64_t T, Matrix w, int64_t in, int64_t out, float *y, int64_t step, bool onto, int threads) {
    static thread_local std::vector<typename M::Input> rounded;
    rounded.resize(T * M::length(in));
    typename M::Input *rows = rounded.data();
    thread_pool().each(T, 8 * T * in > WORTH ? threads : 1, [&](int64_t t) { M::round(x + t * in, in, rows + t * M::length(in)); });
    product<M>(rows, T, w, in, out, y, step, onto, threads);
}

// y [T, out] = (y +) x [T, in] times a packed matrix. Rows of y are `step` floats apart, 0 for `out`.
static void multiply(const float *x, int64_t T, Matrix w, int64_t in, int64_t out, float *y, bool onto, int threads, int64_t step = 0) {
    if (!step) step = out;
    if (T * in * out <= WORTH) threads = 1;
    switch (w.kind) {
        case FLOATS: return product<Whole<Floats>>(x, T, w, in, out, y, step, onto, threads);
        case PAIRS: return product<Whole<Pairs>>(x, T, w, in, out, y, step, onto, threads);
        case Q8_0: return product<Whole<Eights>>(x, T, w, in, out, y, step, onto, threads);
        case Q4_0: return product<Whole<Fours<false>>>(x, T, w, in, out, y, step, onto, threads);
        case Q4_1: return product<Whole<Fours<true>>>(x, T, w, in, out, y, step, onto, threads);
        case PAIRS_HALVES: return rounded_product<Halves>(x, T, w, in, out, y, step, onto, threads);
        case Q8_0_INTEGERS: return rounded_product<Integers<Quads>>(x, T, w, in, out, y, step, onto, threads);
        case Q4_0_INTEGERS: return rounded_product<Integers<Fours<false>>>(x, T, w, in, out, y, step, onto, threads);
        case Q4_1_INTEGERS: return rounded_product<Integers<Fours<true>>>(x, T, w, in, out, y, step, onto, threads);
    }
}
