// The products and look-ups of the native kernels alone, on weights of every kind: writes their floats to standard output.
// Ends with 1 if a row depends on how many there are, or on the number of threads.

#include <cstdio>
#include <vector>

#include "products.h"
#include "pack.h"

static uint64_t state = 1;

static uint32_t draw() {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
}

static float number() { return (float)(int32_t)(draw() % 2001 - 1000) / 977.0f; }

static void put_half(uint8_t *to, uint32_t sign) {
    const uint16_t bits = (uint16_t)(sign << 15 | (draw() % 31) << 10 | draw() % 1024);  // subnormal ones too
    std::memcpy(to, &bits, 2);
}

static std::vector<char> packed(int64_t kind, int64_t in, int64_t out) {
    const int64_t blocks = (in + GROUP - 1) / GROUP, heads = kind == Q4_1 || kind == Q4_1_INTEGERS ? 2 : 1;
    const int64_t size = 2 * heads + (kind == Q8_0 || kind == Q8_0_INTEGERS ? 32 : 16);
    std::vector<uint8_t> rows(kind == FLOATS ? out * in * 4 : kind == PAIRS ? out * in * 2 : out * blocks * size);
    if (kind == FLOATS)
        for (int64_t i = 0; i < out * in; i++) { float x = number(); std::memcpy(&rows[4 * i], &x, 4); }
    else if (kind == PAIRS)
        for (int64_t i = 0; i < out * in; i++) { float x = number(); std::memcpy(&rows[2 * i], (char *)&x + 2, 2); }
    else
        for (int64_t b = 0; b < out * blocks; b++) {
            uint8_t *at = &rows[b * size];
            for (int64_t i = 0; i < size; i++) at[i] = (uint8_t)draw();
            for (int64_t h = 0; h < heads; h++) put_half(at + 2 * h, draw() % 2);
        }
    std::vector<char> strips((out + BLOCK - 1) / BLOCK * strip_bytes(kind, in));
    pack_rows(rows.data(), out, in, kind, strips.data(), 1);
    return strips;
}

int main() {
    const int64_t SIZES[][2] = {{1, 5}, {31, 33}, {64, 64}, {100, 70}, {257, 129}}, T = 41;
    bool same = true;
    for (int64_t kind : {FLOATS, PAIRS, Q8_0, Q4_0, Q4_1, Q8_0_INTEGERS, Q4_0_INTEGERS, Q4_1_INTEGERS})
        for (auto [in, out] : SIZES) {
            const std::vector<char> strips = packed(kind, in, out);
            const Matrix w = {strips.data(), kind};
            std::vector<float> x(T * in), y(T * out), part(T * out), row(in);
            for (float &each : x) each = number();
            multiply(x.data(), T, w, in, out, y.data(), false, 1);
            for (int64_t rows = 1; rows <= T; rows++) {
                multiply(x.data() + (T - rows) * in, rows, w, in, out, part.data(), false, 2);
                same = same && !std::memcmp(part.data(), &y[(T - rows) * out], rows * out * sizeof(float));
            }
            fwrite(y.data(), sizeof(float), y.size(), stdout);
            for (int64_t o = 0; o < out; o++) output_weights(w, in, o, row.data()), fwrite(row.data(), sizeof(float), in, stdout);
        }
    return !same;
}
