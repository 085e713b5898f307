// Rows that are rounded to bf16, times bf16 numbers: products of pairs by one instruction, sums in fp32.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "formats.h"
#include "thread_pool.h"

#ifdef __AVX512BF16__
// Multiplies R rows of pairs by one strip, of whose outputs the first `width` exist. VDPBF16PS adds the second input's
// product first, then the first one's; each sum is rounded to the nearest float, and subnormal numbers count as 0.
template <int R> static void rounded_tile(const Pair *x, int64_t pairs, const Pair *w, float *y, int64_t step, int width, bool onto) {
    F sum[R][VECTORS] = {};
    for (int64_t k = 0; k < pairs; k++, w += BLOCK) {
        FU weight[VECTORS];
        for (int j = 0; j < VECTORS; j++) weight[j] = words(w + j * WIDE), hold(weight[j]);
        for (int r = 0; r < R; r++) {
            const __m512bh input = (__m512bh)_mm512_set1_epi32((int)x[r * pairs + k]);
            for (int j = 0; j < VECTORS; j++) sum[r][j] = (F)_mm512_dpbf16_ps((__m512)sum[r][j], input, (__m512bh)weight[j]);
        }
    }
    for (int r = 0; r < R; r++) {
        float sums[BLOCK];
        for (int j = 0; j < VECTORS; j++) put(sums + j * WIDE, sum[r][j]);
        float *to = y + r * step;
        if (onto) for (int i = 0; i < width; i++) to[i] += sums[i];
        else std::memcpy(to, sums, width * sizeof(float));
    }
}

// Rounds a row of floats to pairs of bf16 numbers, to the nearest, ties to even; 0 after the last.
static void round_row(const float *x, int64_t in, Pair *pairs) {
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
}
#endif

// `product` of products.h for ROUNDED.
static void rounded_product(const float *x, int64_t T, Matrix w, int64_t in, int64_t out, float *y, int64_t step, bool onto, int threads) {
#ifdef __AVX512BF16__
    const int64_t pairs = (in + 1) / 2, strips = (out + BLOCK - 1) / BLOCK, groups = (T + ROWS - 1) / ROWS;
    static thread_local std::vector<Pair> rounded;
    rounded.resize(T * pairs);
    Pair *all_rows = rounded.data();
    thread_pool().each(T, threads, [&](int64_t t) { round_row(x + t * in, in, all_rows + t * pairs); });
    thread_pool().each(strips, threads, [&](int64_t s) {
        const Pair *from = (const Pair *)w.data + s * pairs * BLOCK;
        const int width = (int)std::min<int64_t>(BLOCK, out - s * BLOCK);
        for (int64_t g = 0; g < groups; g++) {
            const int64_t t = T * g / groups;
            const Pair *rows = all_rows + t * pairs;
            float *to = y + t * step + s * BLOCK;
            switch (T * (g + 1) / groups - t) {
                case 1: rounded_tile<1>(rows, pairs, from, to, step, width, onto); break;
                case 2: rounded_tile<2>(rows, pairs, from, to, step, width, onto); break;
                case 3: rounded_tile<3>(rows, pairs, from, to, step, width, onto); break;
                case 4: rounded_tile<4>(rows, pairs, from, to, step, width, onto); break;
                case 5: rounded_tile<5>(rows, pairs, from, to, step, width, onto); break;
                default: rounded_tile<ROWS>(rows, pairs, from, to, step, width, onto);
            }
        }
    });
#else
    (void)x, (void)T, (void)w, (void)in, (void)out, (void)y, (void)step, (void)onto, (void)threads;
#endif
}
