// Matrices in rows to strips and back: packing, and the rows of tokens that a pass looks up in a packed embedding.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "formats.h"
#include "thread_pool.h"

// Writes strip s of a matrix of `rows` rows [rows][in] of T, of which those from s * BLOCK on are the strip's, 0 after the
// last one: row[k * unit + i] becomes to[k][lane][i].
template <class T> static void interleave(const T *matrix, int64_t rows, int64_t in, int64_t s, int64_t unit, T *to) {
    const int64_t padded = (in + unit - 1) / unit * unit;
    for (int64_t lane = 0; lane < BLOCK; lane++) {
        const int64_t row = s * BLOCK + lane;
        for (int64_t k = 0; k < padded; k++)
            to[(k / unit * BLOCK + lane) * unit + k % unit] = row < rows && k < in ? matrix[row * in + k] : T{};
    }
}

// The same for ggml's blocks: rows of [blocks] of a scale, in Q4_1 a minimum, and 32 bytes or 16 bytes of two inputs each,
// the first sixteen inputs in the lower four bits.
static void interleave_blocks(const uint8_t *matrix, int64_t rows, int64_t in, int64_t s, int64_t kind, uint8_t *to) {
    const bool eights = kind == Q8_0 || kind == Q8_0_INTEGERS;
    const int64_t blocks = (in + GROUP - 1) / GROUP, heads = kind == Q4_1 || kind == Q4_1_INTEGERS ? 2 : 1, body = eights ? GROUP : GROUP / 2;
    const int64_t size = 2 * heads + body;
    std::memset(to, 0, BLOCK * blocks * size);
    for (int64_t lane = 0; lane < BLOCK && s * BLOCK + lane < rows; lane++)
        for (int64_t b = 0; b < blocks; b++) {
            const uint8_t *from = matrix + ((s * BLOCK + lane) * blocks + b) * size, *q = from + 2 * heads;
            uint8_t *at = to + b * BLOCK * size;
            for (int64_t h = 0; h < heads; h++) std::memcpy(at + (h * BLOCK + lane) * 2, from + 2 * h, 2);
            at += 2 * heads * BLOCK;
            if (eights) {
                for (int64_t k = 0; k < GROUP; k++)
                    if (kind == Q8_0) at[k * BLOCK + lane] = q[k];
                    else at[(k / 4 * BLOCK + lane) * 4 + k % 4] = q[k] ^ 128;
                continue;
            }
            for (int64_t word = 0; word < 4; word++) {
                uint32_t eight = 0;
                for (int64_t i = 0; i < 8; i++) eight |= (uint32_t)(word < 2 ? q[word * 8 + i] & 15 : q[(word - 2) * 8 + i] >> 4) << (4 * i);
                std::memcpy(at + (word * BLOCK + lane) * 4, &eight, 4);
            }
        }
}

static int64_t strip_bytes(int64_t kind, int64_t in) {
    switch (kind) {
        case FLOATS: return Floats::before(in);
        case Q8_0: case Q8_0_INTEGERS: return Eights::before(in);
        case Q4_0: case Q4_0_INTEGERS: return Fours<false>::before(in);
        case Q4_1: case Q4_1_INTEGERS: return Fours<true>::before(in);
        default: return Pairs::before(in);
    }
}

// Packs `rows` rows at `matrix` to strips, the last one padded: floats for FLOATS, bf16 numbers for PAIRS and PAIRS_HALVES, ggml's
// blocks for the others.
static void pack_rows(const void *matrix, int64_t rows, int64_t in, int64_t kind, char *to, int threads) {
    thread_pool().each((rows + BLOCK - 1) / BLOCK, threads, [&](int64_t s) {
        char *strip = to + s * strip_bytes(kind, in);
        if (kind == FLOATS) interleave((const float *)matrix, rows, in, s, 1, (float *)strip);
        else if (kind == PAIRS || kind == PAIRS_HALVES) interleave((const uint16_t *)matrix, rows, in, s, 2, (uint16_t *)strip);
        else interleave_blocks((const uint8_t *)matrix, rows, in, s, kind, (uint8_t *)strip);
    });
}

// Writes one output's weights [in] of a strip as floats.
template <class Format> static void one_output(const char *strip, int64_t in, int64_t lane, float *y) {
    Format::template each<VECTORS>(strip, 0, in, [&](int64_t k, const F(&weight)[VECTORS]) __attribute__((always_inline)) { y[k] = weight[lane / WIDE][lane % WIDE]; });
}

static void output_weights(Matrix w, int64_t in, int64_t output, float *y) {
    const char *strip = (const char *)w.data + output / BLOCK * strip_bytes(w.kind, in);
    const int64_t lane = output % BLOCK;
    switch (w.kind) {
        case FLOATS: return one_output<Floats>(strip, in, lane, y);
        case Q8_0: return one_output<Eights>(strip, in, lane, y);
        case Q8_0_INTEGERS: return one_output<Quads>(strip, in, lane, y);
        case Q4_0: case Q4_0_INTEGERS: return one_output<Fours<false>>(strip, in, lane, y);
        case Q4_1: case Q4_1_INTEGERS: return one_output<Fours<true>>(strip, in, lane, y);
        default: return one_output<Pairs>(strip, in, lane, y);
    }
}
