// Storage of packed matrices: strips of BLOCK outputs, and how the weights of one input are read from a strip as floats.
// Knows bytes and vectors. What comes out is the number that is stored, to the last bit: bf16 numbers expand exactly, and
// the scale and minimum of a block times and plus small integers are what `kernels/blocks.py` makes of them.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#ifdef __AVX512F__
constexpr int WIDE = 16, VECTORS = 4, ROWS = 6;  // 24 sums of 32 registers
#else
constexpr int WIDE = 8, VECTORS = 4, ROWS = 3;  // 12 sums of 16 registers
#endif
constexpr int BLOCK = VECTORS * WIDE;  // outputs of one strip of a packed matrix
constexpr int64_t GROUP = 32;          // inputs that share a scale
constexpr int64_t CHUNK = 128;         // most inputs that groups of rows take while their weights are in the nearest cache
constexpr int64_t AHEAD = 4096;        // bytes that reading asks memory for in advance

typedef float F __attribute__((vector_size(WIDE * 4)));
typedef int32_t FI __attribute__((vector_size(WIDE * 4)));
typedef uint32_t FU __attribute__((vector_size(WIDE * 4)));
typedef uint32_t Pair;
typedef int8_t Octets __attribute__((vector_size(GROUP)));

// FLOATS: [strips][in][BLOCK]. PAIRS: [strips][ceil(in / 2)][BLOCK] of bf16 numbers, the weights of inputs 2 i and 2 i + 1
// (0 after the last one) in one word, so that one operation expands either to a float. The others are ggml's blocks of GROUP
// inputs, the blocks of a strip's outputs side by side: [strips][ceil(in / GROUP)] of BLOCK fp16 scales, in Q4_1 BLOCK fp16
// minima, and the integers: in Q8_0 [GROUP][BLOCK] bytes, in the others [GROUP / 8][BLOCK] words, of which each holds eight
// inputs of an output, the first one lowest. ..._HALVES and ..._INTEGERS: for rows that are rounded to bf16, or to int8; the
// same bytes, but Q8_0_INTEGERS has [GROUP / 4][BLOCK] words of four inputs, each byte more by 128.
enum Kind : int64_t { FLOATS, PAIRS, PAIRS_HALVES, Q8_0, Q4_0, Q4_1, Q8_0_INTEGERS, Q4_0_INTEGERS, Q4_1_INTEGERS };
struct Matrix { const void *data; int64_t kind; };

static inline F floats(const void *p) { F v; std::memcpy(&v, p, sizeof v); return v; }
static inline FU words(const void *p) { FU v; std::memcpy(&v, p, sizeof v); return v; }
static inline F as_floats(FU bits) { F v; std::memcpy(&v, &bits, sizeof v); return v; }
static inline void put(void *p, F v) { std::memcpy(p, &v, sizeof v); }
static inline F spread(float x) { return x - F{}; }

// Asks memory for a cache line. Always inline: GCC takes a function that only prefetches for one without effect, and drops calls.
static inline __attribute__((always_inline)) void ask(const char *p) { __builtin_prefetch(p, 0, 3); }
template <int COUNT> static inline __attribute__((always_inline)) void ask_ahead(const char *p) { if (COUNT == VECTORS) ask(p + AHEAD); }

// Keeps a value in a register that several sums share. Without it the compiler loads from memory again for each sum, which
// makes loads the bottleneck on a processor with as many multiplications as loads per cycle.
template <class T> static inline void hold(T &v) {
#ifdef __AVX512F__
    asm("" : "+v"(v));
#else
    (void)v;
#endif
}

// WIDE fp16 numbers, which are finite.
static inline F halves(const void *p) {
#if defined(__AVX512F__)
    return (F)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
#elif defined(__F16C__)
    return (F)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
#else
    typedef uint16_t H __attribute__((vector_size(WIDE * 2)));
    H bits;
    std::memcpy(&bits, p, sizeof bits);
    const FU wide = __builtin_convertvector(bits, FU);
    return as_floats((wide & 0x7FFF) << 13) * as_floats(((wide & 0x8000) << 16) | (FU)(wide - wide + 0x77800000));  // times 2^112
#endif
}

// WIDE bytes with a sign.
static inline F bytes(const void *p) {
#if defined(__AVX512F__)
    return (F)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
#elif defined(__AVX2__)
    return (F)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
#else
    typedef int8_t C __attribute__((vector_size(WIDE)));
    C v;
    std::memcpy(&v, p, sizeof v);
    return __builtin_convertvector(__builtin_convertvector(v, FI), F);
#endif
}

// The lowest four bits of each word, less `LESS`.
template <int LESS> static inline F nibbles(FU v) {
#ifdef __AVX512F__
    static const float TABLE[16] = {0 - LESS, 1 - LESS, 2 - LESS, 3 - LESS, 4 - LESS, 5 - LESS, 6 - LESS, 7 - LESS, 8 - LESS, 9 - LESS, 10 - LESS, 11 - LESS, 12 - LESS, 13 - LESS, 14 - LESS, 15 - LESS};
    return (F)_mm512_permutexvar_ps((__m512i)v, _mm512_loadu_ps(TABLE));
#else
    return __builtin_convertvector((FI)(v & 15) - LESS, F);
#endif
}

// A format: the bytes of a strip before input k, a multiple of CHUNK or the end; and `each`, which calls take(k, weights) for
// `count` inputs from one of these on, the weights as COUNT of a strip's vectors from vector `first` on. Whole strips ask
// memory for what comes AHEAD; those who read halves do so themselves.
struct Floats {
    static int64_t before(int64_t k) { return k * BLOCK * 4; }
    template <int COUNT, class Take> static inline __attribute__((always_inline)) void each(const char *w, int first, int64_t count, Take take) {
        w += first * WIDE * 4;
        for (int64_t k = 0; k < count; k++, w += BLOCK * 4) {
            F weight[COUNT];
            for (int j = 0; j < COUNT; j++) ask_ahead<COUNT>(w + j * WIDE * 4), weight[j] = floats(w + j * WIDE * 4), hold(weight[j]);
            take(k, weight);
        }
    }
};

struct Pairs {
    static int64_t before(int64_t k) { return (k + 1) / 2 * BLOCK * 4; }
    template <int COUNT, class Take> static inline __attribute__((always_inline)) void each(const char *w, int first, int64_t count, Take take) {
        w += first * WIDE * 4;
        for (int64_t k = 0; k < count; k += 2, w += BLOCK * 4) {
            FU both[COUNT];
            F weight[COUNT];
            for (int j = 0; j < COUNT; j++) ask_ahead<COUNT>(w + j * WIDE * 4), both[j] = words(w + j * WIDE * 4), hold(both[j]), weight[j] = as_floats(both[j] << 16);
            take(k, weight);
            if (k + 1 == count) break;
            for (int j = 0; j < COUNT; j++) weight[j] = as_floats(both[j] & 0xFFFF0000);
            take(k + 1, weight);
        }
    }
};

struct Eights {
    static constexpr int64_t SIZE = BLOCK * (2 + GROUP);
    static int64_t before(int64_t k) { return (k + GROUP - 1) / GROUP * SIZE; }
    template <int COUNT, class Take> static inline __attribute__((always_inline)) void each(const char *w, int first, int64_t count, Take take) {
        w += first * WIDE;
        for (int64_t start = 0; start < count; start += GROUP, w += SIZE) {
            F scale[COUNT];
            for (int j = 0; j < COUNT; j++) scale[j] = halves(w + first * WIDE + j * WIDE * 2);
            const char *at = w + BLOCK * 2;
            const int64_t last = std::min(GROUP, count - start);
            for (int64_t k = 0; k < last; k++, at += BLOCK) {
                F weight[COUNT];
                ask_ahead<COUNT>(at);
                for (int j = 0; j < COUNT; j++) weight[j] = bytes(at + j * WIDE) * scale[j];
                take(start + k, weight);
            }
        }
    }
};

// Eights for rows that are rounded to integers. `ordered`: a row's inputs in the order of the words that `quads` takes, four each.
struct Quads {
    static constexpr int64_t SIZE = Eights::SIZE;
    static constexpr int32_t LESS = 128;
    static constexpr bool LEAST = false;
    static int64_t before(int64_t k) { return Eights::before(k); }
    static Octets ordered(Octets inputs) { return inputs; }
    template <int COUNT, class Take> static inline __attribute__((always_inline)) void quads(const char *w, int first, Take take) {
        w += BLOCK * 2 + first * WIDE * 4;
        for (int i = 0; i < GROUP / 4; i++, w += BLOCK * 4) {
            FU four[COUNT];
            for (int j = 0; j < COUNT; j++) ask_ahead<COUNT>(w + j * WIDE * 4), four[j] = words(w + j * WIDE * 4), hold(four[j]);
            take(i, four);
        }
    }
    template <int COUNT, class Take> static inline __attribute__((always_inline)) void each(const char *w, int first, int64_t count, Take take) {
        for (int64_t k = 0; k < count; k++) {
            const char *block = w + k / GROUP * SIZE;
            F weight[COUNT];
            for (int j = 0; j < COUNT; j++) {
                const FU four = words(block + BLOCK * 2 + (k % GROUP / 4 * BLOCK + (first + j) * WIDE) * 4);
                weight[j] = __builtin_convertvector((FI)(four >> k % 4 * 8 & 255) - LESS, F) * halves(block + (first + j) * WIDE * 2);
            }
            take(k, weight);
        }
    }
};

template <bool MINIMUM> struct Fours {
    static constexpr int64_t HEAD = BLOCK * (MINIMUM ? 4 : 2), SIZE = HEAD + BLOCK * GROUP / 2;
    static constexpr int32_t LESS = MINIMUM ? 0 : 8;
    static constexpr bool LEAST = MINIMUM;
    static Octets ordered(Octets inputs) {
        const Octets order = {0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15, 16, 18, 20, 22, 17, 19, 21, 23, 24, 26, 28, 30, 25, 27, 29, 31};
        return __builtin_shuffle(inputs, order);
    }
    static int64_t before(int64_t k) { return (k + GROUP - 1) / GROUP * SIZE; }
    template <int COUNT, class Take> static inline __attribute__((always_inline)) void each(const char *w, int first, int64_t count, Take take) {
        for (int64_t start = 0; start < count; start += GROUP, w += SIZE) {
            F scale[COUNT], least[COUNT];
            for (int j = 0; j < COUNT; j++) scale[j] = halves(w + (first + j) * WIDE * 2), least[j] = MINIMUM ? halves(w + (VECTORS + first + j) * WIDE * 2) : F{};
            const int64_t last = std::min(GROUP, count - start);
            for (int64_t k = 0; k < last; k += 8) {
                const char *at = w + HEAD + k * BLOCK / 2 + first * WIDE * 4;
                FU eight[COUNT];
                for (int j = 0; j < COUNT; j++) ask_ahead<COUNT>(at + j * WIDE * 4), eight[j] = words(at + j * WIDE * 4), hold(eight[j]);
                for (int64_t i = 0; i < 8 && k + i < last; i++) {
                    F weight[COUNT];
                    for (int j = 0; j < COUNT; j++) {
                        const F q = nibbles<LESS>(eight[j]);
                        weight[j] = MINIMUM ? q * scale[j] + least[j] : q * scale[j];
                        eight[j] >>= 4;
                    }
                    take(start + k + i, weight);
                }
            }
        }
    }
    // Calls take(i, words) for words of four inputs: of eight, those at even places, then the others.
    template <int COUNT, class Take> static inline __attribute__((always_inline)) void quads(const char *w, int first, Take take) {
        w += HEAD + first * WIDE * 4;
        for (int i = 0; i < GROUP / 4; i += 2, w += BLOCK * 4) {
            FU eight[COUNT], four[COUNT];
            for (int j = 0; j < COUNT; j++) ask_ahead<COUNT>(w + j * WIDE * 4), eight[j] = words(w + j * WIDE * 4), hold(eight[j]), four[j] = eight[j] & 0x0F0F0F0F;
            take(i, four);
            for (int j = 0; j < COUNT; j++) four[j] = eight[j] >> 4 & 0x0F0F0F0F;
            take(i + 1, four);
        }
    }
};

// Weights as floats that are in the nearest cache already: COUNT vectors for each input.
struct Kept {
    template <int COUNT, class Take> static inline __attribute__((always_inline)) void each(const char *w, int, int64_t count, Take take) {
        for (int64_t k = 0; k < count; k++, w += COUNT * WIDE * 4) {
            F weight[COUNT];
            for (int j = 0; j < COUNT; j++) weight[j] = floats(w + j * WIDE * 4), hold(weight[j]);
            take(k, weight);
        }
    }
};
