// The head epilogue without filters: the token chosen from a row of logits, and its confidence.

#pragma once

#include <algorithm>
#include <cmath>

#include "simd.h"

typedef uint8_t Bytes __attribute__((vector_size(16)));

struct Choice {  // `banned` a byte a token, `allowed` a bit a token (null: all), `noise` a float a token (null: none)
    const float *logits;
    const uint8_t *banned;
    const uint32_t *allowed;
    const float *noise;
    int64_t vocab;
    float temperature;

    V read(const float *from, int64_t t) const {
        if (t + LANES <= vocab) return load(from + t);
        V some = {};
        std::memcpy(&some, from + t, (vocab - t) * sizeof(float));
        return some;
    }
    VI index(int64_t t) const { return VI{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} + (int32_t)t; }
    // For tokens t, t + 1, ... in SIMD lanes: -1 if the grammar allows the token, else 0.
    VI permitted(int64_t t) const {
        VI inside = index(t) < (int32_t)vocab;
        if (!allowed) return inside;
        VI bits = (VI{} + (int32_t)(allowed[t / 32] >> t % 32)) >> index(0);
        return inside & ((bits & 1) != 0);
    }
    // As `permitted`, and 0 for banned tokens.
    VI open(int64_t t) const {
        Bytes bytes = {};
        std::memcpy(&bytes, banned + t, std::min<int64_t>(LANES, vocab - t));
        return permitted(t) & (__builtin_convertvector(bytes, VI) == 0);
    }
};

// Returns the argmax over the open tokens of logits (/ temperature + noise); of equals the first.
static int64_t chosen(const Choice &c) {
    V top = all(-INFINITY);
    VI at = VI{} - 1;
    for (int64_t t = 0; t < c.vocab; t += LANES) {
        if (c.allowed && !(c.allowed[t / 32] >> t % 32 & 0xFFFF)) continue;
        V s = c.read(c.logits, t);
        if (c.noise) s = s / all(c.temperature) + c.read(c.noise, t);
        VI better = (s > top) & c.open(t);
        top = better ? s : top;
        at = better ? c.index(t) : at;
    }
    int best = 0;
    for (int j = 1; j < LANES; j++)
        if (at[j] >= 0 && (at[best] < 0 || top[j] > top[best] || (top[j] == top[best] && at[j] < at[best]))) best = j;
    if (at[best] >= 0) return at[best];
    for (int64_t t = 0; t < c.vocab; t++)  // all logits are -inf
        if (c.open(t)[0]) return t;
    return 0;
}

// Returns a token's probability at temperature 1 among the tokens that the grammar allows.
static float confidence_of(const Choice &c, int64_t token) {
    V top = all(-INFINITY), sum = {};
    for (int64_t t = 0; t < c.vocab; t += LANES) {
        V s = c.permitted(t) ? c.read(c.logits, t) : all(-INFINITY);
        top = s > top ? s : top;
    }
    float most = top[0], total = 0;
    for (int j = 1; j < LANES; j++) most = top[j] > most ? top[j] : most;
    for (int64_t t = 0; t < c.vocab; t += LANES) sum += c.permitted(t) ? vexp(c.read(c.logits, t) - all(most)) : V{};
    for (int j = 0; j < LANES; j++) total += sum[j];
    return std::exp(c.logits[token] - most) / total;
}

// Writes tokens and confidence of R rows of logits. A row of `allowed` has `words` words.
extern "C" void sample_rows(const float *logits, int64_t R, int64_t vocab, const uint8_t *banned, const uint32_t *allowed, int64_t words, const float *noise, float temperature, int64_t *tokens, float *confidence) {
    for (int64_t r = 0; r < R; r++) {
        Choice c = {logits + r * vocab, banned, allowed ? allowed + r * words : nullptr, noise ? noise + r * vocab : nullptr, vocab, temperature};
        tokens[r] = chosen(c);
        confidence[r] = confidence_of(c, tokens[r]);
    }
}
