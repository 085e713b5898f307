// Gumbel noise with exactly the bits of reference.gumbel: Philox4x32-10 and a logarithm in operations that every machine
// rounds in the same way. No product may be fused with a sum here, because that would change the bits.

#pragma once

#include <cstdint>
#include <cstring>

#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#else
#pragma GCC push_options
#pragma GCC optimize("fp-contract=off")
#endif

static const float SERIES[8] = {
    0.333333283662796f, -0.25000619888305664f, 0.20001423358917236f, -0.16629745066165924f,
    0.14201553165912628f, -0.13103213906288147f, 0.12740786373615265f, -0.07750998437404633f,
};

// Returns the natural logarithm of a normal positive number, by the operations of reference.log.
static float logarithm(float x) {
    int32_t bits, rest;
    std::memcpy(&bits, &x, 4);
    int32_t exponent = (bits - 0x3F3504F3) >> 23;
    rest = bits - exponent * (1 << 23);
    float f;
    std::memcpy(&f, &rest, 4);
    f -= 1.0f;
    float power = (float)exponent, square = f * f;
    float y = f * SERIES[7];
    for (int i = 6; i > 0; i--) y = (y + SERIES[i]) * f;
    y = (y + SERIES[0]) * (f * square);
    y = y + power * -2.12194440e-4f;
    y = y - square * 0.5f;
    return (f + y) + power * 0.693359375f;
}

static void philox(uint32_t word[4], uint32_t low, uint32_t high) {
    for (int round = 0; round < 10; round++) {
        uint64_t first = (uint64_t)word[0] * 0xD2511F53u, second = (uint64_t)word[2] * 0xCD9E8D57u;
        uint32_t a = (uint32_t)(second >> 32) ^ word[1] ^ low, c = (uint32_t)(first >> 32) ^ word[3] ^ high;
        word[0] = a, word[1] = (uint32_t)second, word[2] = c, word[3] = (uint32_t)first;
        low += 0x9E3779B9u, high += 0xBB67AE85u;
    }
}

// Writes the noise out [P, V] for positions [P].
extern "C" void gumbel(int64_t seed, const int64_t *positions, int64_t P, int64_t V, float *out) {
    for (int64_t p = 0; p < P; p++)
        for (int64_t t = 0; t < V; t += 4) {
            uint32_t word[4] = {(uint32_t)(t / 4), 0, (uint32_t)positions[p], (uint32_t)(positions[p] >> 32)};
            philox(word, (uint32_t)seed, (uint32_t)((uint64_t)seed >> 32));
            for (int64_t j = 0; j < 4 && t + j < V; j++) {
                float uniform = ((float)(word[j] >> 9) + 0.5f) * (1.0f / 8388608.0f);
                out[p * V + t + j] = -logarithm(-logarithm(uniform));
            }
        }
}

#ifndef __clang__
#pragma GCC pop_options
#endif
