// SIMD vectors of sixteen floats: loads, stores and exp, the same operations for every lane.

#pragma once

#include <cstdint>
#include <cstring>

typedef float V __attribute__((vector_size(64)));
typedef int32_t VI __attribute__((vector_size(64)));
constexpr int LANES = 16;

typedef uint32_t VU __attribute__((vector_size(64)));

static inline V load(const float *p) { V v; std::memcpy(&v, p, sizeof v); return v; }
static inline VU load(const uint32_t *p) { VU v; std::memcpy(&v, p, sizeof v); return v; }
// Loads into a register that several sums share. Without the barrier the compiler loads from memory again for each sum,
// which makes loads the bottleneck on a processor with as many multiplications as loads per cycle.
template <class T> static inline auto load_once(const T *p) {
    auto v = load(p);
#ifdef __AVX512F__
    asm("" : "+v"(v));
#endif
    return v;
}
static inline void store(float *p, V v) { std::memcpy(p, &v, sizeof v); }
static inline V all(float x) { return x - V{}; }

// Returns exp by range reduction and the Cephes polynomial, relative error about 1e-7; the same code for every element.
static inline V vexp(V x) {
    x = x < all(-87.3f) ? all(-87.3f) : x;
    x = x > all(88.3f) ? all(88.3f) : x;
    V z = x * all(1.44269504088896341f);
    VI n = __builtin_convertvector(z + (z < V{} ? all(-0.5f) : all(0.5f)), VI);
    V f = __builtin_convertvector(n, V);
    x = x - f * all(0.693359375f);
    x = x + f * all(2.12194440e-4f);
    V y = all(1.9875691500e-4f);
    y = y * x + all(1.3981999507e-3f);
    y = y * x + all(8.3334519073e-3f);
    y = y * x + all(4.1665795894e-2f);
    y = y * x + all(1.6666665459e-1f);
    y = y * x + all(5.0000001201e-1f);
    y = y * x * x + x + all(1.0f);
    VI e = (n + 127) << 23;
    V power;
    std::memcpy(&power, &e, sizeof power);
    return y * power;
}
