// Rows of floats times weights of any format, which are expanded to floats: nothing is rounded but the sums.

#pragma once

#include <cstdint>
#include <type_traits>

#include "formats.h"

// A multiplier for products.h. KEEP: `add` writes the weights to `kept` as floats [count][COUNT * WIDE] as well. `next`: bytes
// that are needed soon, `lines` cache lines for each input.
template <class Format> struct Whole {
    typedef float Input;
    typedef Whole<Kept> Again;
    static constexpr bool KEEPS = !std::is_same_v<Format, Floats> && !std::is_same_v<Format, Pairs>;
    static constexpr int FEW = ROWS, COUNT = KEEPS ? VECTORS : VECTORS / 2, MOST = KEEPS ? ROWS : 2 * ROWS;
    static constexpr int64_t INPUTS = KEEPS ? CHUNK : CHUNK / 2;
    static int64_t length(int64_t in) { return in; }
    static int64_t before(int64_t k) { return Format::before(k); }

    template <int R, int COUNT, bool KEEP> static void add(const float *x, int64_t step, const char *w, int first, int64_t count, float *sums, bool start, float *kept, const char *next, int64_t lines) {
        F sum[R][COUNT];
        sums += first * WIDE;
        for (int r = 0; r < R; r++)
            for (int j = 0; j < COUNT; j++) sum[r][j] = start ? F{} : floats(sums + r * BLOCK + j * WIDE);
        Format::template each<COUNT>(w, first, count, [&](int64_t k, const F(&weight)[COUNT]) __attribute__((always_inline)) {
            if (KEEP)
                for (int j = 0; j < COUNT; j++) put(kept + (k * COUNT + j) * WIDE, weight[j]);
            for (int64_t i = 0; i < lines; i++) ask(next + (k * lines + i) * 64);
            for (int r = 0; r < R; r++) {
                F input = spread(x[r * step + k]);
                hold(input);
                for (int j = 0; j < COUNT; j++) sum[r][j] += input * weight[j];
            }
        });
        for (int r = 0; r < R; r++)
            for (int j = 0; j < COUNT; j++) put(sums + r * BLOCK + j * WIDE, sum[r][j]);
    }
};
