// Rows that are rounded to int8, a scale for GROUP inputs as weights in blocks have: sums of a block are whole numbers, by one
// instruction for four products where the processor has it, and exact; sums of blocks are fp32.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "formats.h"

// GROUP inputs of a row: four bytes a word, in the order of the format's; x is about scale * byte. `begin`: what the sum of
// products begins with, so that weights count as they should, which are stored without a sign. `total`: scale * sum of bytes.
struct Rounded {
    int32_t words[GROUP / 4], begin;
    float scale, total;
};

// sum + the four products of each word's bytes, those of w without a sign, those of x with one.
static inline FI dots(FI sum, FU w, int32_t x) {
#if defined(__AVX512VNNI__)
    return (FI)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)w, _mm512_set1_epi32(x));
#elif defined(__AVXVNNI__)
    return (FI)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)w, _mm256_set1_epi32(x));
#else
    for (int i = 0; i < 4; i++) sum += (FI)(w >> 8 * i & 255) * (int32_t)(int8_t)(x >> 8 * i);
    return sum;
#endif
}

// The nearest whole numbers, of two equally near ones the even one.
static inline FI nearest(F v) {
#if defined(__AVX512F__)
    return (FI)_mm512_cvtps_epi32((__m512)v);
#elif defined(__AVX2__)
    return (FI)_mm256_cvtps_epi32((__m256)v);
#else
    FI found;
    for (int i = 0; i < WIDE; i++) found[i] = (int32_t)std::nearbyint(v[i]);
    return found;
#endif
}

typedef int8_t Narrow __attribute__((vector_size(WIDE)));

// A multiplier for products.h.
template <class Format> struct Integers {
    typedef Rounded Input;
    typedef Integers Again;
    static constexpr bool KEEPS = false;
    static constexpr int FEW = ROWS / 3, COUNT = VECTORS / 2, MOST = ROWS;
    static constexpr int64_t INPUTS = CHUNK;
    static int64_t length(int64_t in) { return (in + GROUP - 1) / GROUP; }
    static int64_t before(int64_t k) { return Format::before(k); }

    template <int R, int COUNT, bool> static void add(const Rounded *x, int64_t step, const char *w, int first, int64_t count, float *sums, bool start, float *, const char *next, int64_t lines) {
        F sum[R][COUNT];
        sums += first * WIDE;
        for (int r = 0; r < R; r++)
            for (int j = 0; j < COUNT; j++) sum[r][j] = start ? F{} : floats(sums + r * BLOCK + j * WIDE);
        for (int64_t b = 0; b < length(count); b++, w += Format::SIZE) {
            FI whole[R][COUNT];
            for (int r = 0; r < R; r++)
                for (int j = 0; j < COUNT; j++) whole[r][j] = x[r * step + b].begin - FI{};
            for (int64_t i = 0; i < GROUP * lines; i++) ask(next + (b * GROUP * lines + i) * 64);
            Format::template quads<COUNT>(w, first, [&](int i, const FU(&weight)[COUNT]) __attribute__((always_inline)) {
                for (int r = 0; r < R; r++)
                    for (int j = 0; j < COUNT; j++) whole[r][j] = dots(whole[r][j], weight[j], x[r * step + b].words[i]);
            });
            for (int j = 0; j < COUNT; j++) {
                const F scale = halves(w + (first + j) * WIDE * 2), least = Format::LEAST ? halves(w + (VECTORS + first + j) * WIDE * 2) : F{};
                for (int r = 0; r < R; r++) {
                    sum[r][j] += __builtin_convertvector(whole[r][j], F) * (scale * spread(x[r * step + b].scale));
                    if (Format::LEAST) sum[r][j] += least * spread(x[r * step + b].total);
                }
            }
        }
        for (int r = 0; r < R; r++)
            for (int j = 0; j < COUNT; j++) put(sums + r * BLOCK + j * WIDE, sum[r][j]);
    }

    // Rounds a row of floats to the nearest, ties to even; 0 after the last. The largest of a block becomes 127 or -127.
    static void round(const float *x, int64_t in, Rounded *blocks) {
        constexpr int PARTS = GROUP / WIDE;
        for (int64_t k = 0; k < in; k += GROUP, blocks++) {
            float part[GROUP] = {};
            std::memcpy(part, x + k, std::min(GROUP, in - k) * sizeof(float));
            F input[PARTS], largest = {};
            for (int p = 0; p < PARTS; p++) {
                input[p] = floats(part + p * WIDE);
                const F size = input[p] < 0 ? -input[p] : input[p];
                largest = size > largest ? size : largest;
            }
            float most = 0;
            for (int i = 0; i < WIDE; i++) most = std::max(most, largest[i]);
            const float by = most > 0 ? 127 / most : 0;
            FI sums = {};
            Octets bytes;
            for (int p = 0; p < PARTS; p++) {
                const FI whole = nearest(input[p] * spread(by));
                const auto narrow = __builtin_convertvector(whole, Narrow);
                std::memcpy((char *)&bytes + p * WIDE, &narrow, WIDE);
                sums += whole;
            }
            int32_t sum = 0;
            for (int i = 0; i < WIDE; i++) sum += sums[i];
            bytes = Format::ordered(bytes);
            std::memcpy(blocks->words, &bytes, GROUP);
            blocks->scale = most / 127, blocks->begin = -Format::LESS * sum, blocks->total = blocks->scale * (float)sum;
        }
    }
};
