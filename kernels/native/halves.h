// Rows that are rounded to bf16, times bf16 numbers: products of pairs by one instruction, sums in fp32.

#pragma once

#include <cstdint>
#include <cstring>

#include "formats.h"

// A multiplier for products.h. VDPBF16PS adds the second input's product first, then the first one's; each sum is rounded to
// the nearest float, and subnormal numbers count as 0. Without the instruction there is nothing here.
struct Halves {
    typedef Pair Input;
    typedef Halves Again;
    static constexpr bool KEEPS = false;
    static constexpr int FEW = ROWS, COUNT = VECTORS / 2, MOST = 2 * ROWS;
    static constexpr int64_t INPUTS = CHUNK / 2;
    static int64_t length(int64_t in) { return (in + 1) / 2; }
    static int64_t before(int64_t k) { return Pairs::before(k); }

    template <int R, int COUNT, bool> static void add(const Pair *x, int64_t step, const char *w, int first, int64_t count, float *sums, bool start, float *, const char *next, int64_t lines) {
#ifdef __AVX512BF16__
        F sum[R][COUNT];
        sums += first * WIDE, w += first * WIDE * 4;
        for (int r = 0; r < R; r++)
            for (int j = 0; j < COUNT; j++) sum[r][j] = start ? F{} : floats(sums + r * BLOCK + j * WIDE);
        for (int64_t k = 0; k < length(count); k++, w += BLOCK * 4) {
            FU weight[COUNT];
            for (int j = 0; j < COUNT; j++) ask_ahead<COUNT>(w + j * WIDE * 4), weight[j] = words(w + j * WIDE * 4), hold(weight[j]);
            for (int64_t i = 0; i < 2 * lines; i++) ask(next + (2 * k * lines + i) * 64);
            for (int r = 0; r < R; r++) {
                FU input = x[r * step + k] - FU{};
                hold(input);
                for (int j = 0; j < COUNT; j++) sum[r][j] = (F)_mm512_dpbf16_ps((__m512)sum[r][j], (__m512bh)input, (__m512bh)weight[j]);
            }
        }
        for (int r = 0; r < R; r++)
            for (int j = 0; j < COUNT; j++) put(sums + r * BLOCK + j * WIDE, sum[r][j]);
#else
        (void)x, (void)step, (void)w, (void)first, (void)count, (void)sums, (void)start, (void)next, (void)lines;
#endif
    }

    // Rounds a row of floats to the nearest, ties to even; 0 after the last.
    static void round(const float *x, int64_t in, Pair *pairs) {
#ifdef __AVX512BF16__
        int64_t i = 0;
        auto put = [&](const float *from, int64_t count) {
            const __m256bh halves = _mm512_cvtneps_pbh((__m512)floats(from));
            std::memcpy(pairs + i / 2, &halves, (count + 1) / 2 * sizeof(Pair));
        };
        for (; i + WIDE <= in; i += WIDE) put(x + i, WIDE);
        if (i == in) return;
        float last[WIDE] = {};
        std::memcpy(last, x + i, (in - i) * sizeof(float));
        put(last, in - i);
#else
        (void)x, (void)in, (void)pairs;
#endif
    }
};
