// Microseconds of the parts of a pass at SmolLM2-135M's shapes, and the rate at which this machine reads memory.
//
//     g++ -O3 -march=native -std=c++17 -pthread -w -Ikernels/native scripts/native/measure_pass.cpp -o measure_pass
//     ./measure_pass THREADS KIND [KIND OF THE HEAD]     # 0 fp32, 1 bf16, 3 Q8_0, 4 Q4_0, 5 Q4_1
//                                                      # rows rounded: 2 bf16, 6 Q8_0, 7 Q4_0, 8 Q4_1
//
// Weights are made up; all of them are read in every pass, so that none is in a cache when it is needed. Medians.

#include "native.cpp"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <thread>

constexpr int64_t E = 576, H = 9, K = 3, D = 64, I = 1536, LAYERS = 30, VOCAB = 49152, PAGE = 64, SEEN = 200, PAGES = 8;
constexpr int64_t N = H + 2 * K, ROUNDS = 21;
enum Part { NORMS, QKV, ROTATE_KEEP, ATTENTION, OUT, GATE_UP, SILU, DOWN, HEAD, PARTS };
static const char *NAMES[PARTS] = {"norms", "qkv", "rotate, keep", "attention", "out", "gate, up", "silu", "down", "head"};

static double now() { return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now().time_since_epoch()).count(); }
static double median(std::vector<double> v) { std::sort(v.begin(), v.end()); return v[v.size() / 2]; }

struct Layer { Matrix qkv, out, gate_up, down; };
static int64_t total = 0;

static Matrix matrix(int64_t kind, int64_t in, int64_t out) {
    const int64_t size = packed_bytes(kind, in, out);
    auto *data = (uint16_t *)std::aligned_alloc(4096, (size + 4095) / 4096 * 4096);
    for (int64_t i = 0; i < size / 2; i++) data[i] = 0x2C00 + i % 512;  // small numbers as fp16, bf16 and fp32
    total += size;
    return {data, kind};
}

// GB/s of `threads` threads that add up 512 MB.
static double read_rate(int threads) {
    std::vector<float> data(1 << 27, 1.0f);
    std::vector<double> seconds;
    for (int round = 0; round < 9; round++) {
        const double begin = now();
        std::vector<float> sums(threads);
        std::vector<std::thread> all;
        for (int t = 0; t < threads; t++)
            all.emplace_back([&, t] {
                F sum[8] = {};
                const int64_t share = (int64_t)data.size() / threads;
                for (int64_t i = t * share; i + 8 * WIDE <= (t + 1) * share; i += 8 * WIDE)
                    for (int j = 0; j < 8; j++) ask((const char *)&data[i + j * WIDE] + AHEAD), sum[j] += floats(&data[i + j * WIDE]);
                for (F each : sum) sums[t] += each[0];
            });
        for (auto &one : all) one.join();
        seconds.push_back(now() - begin + (sums[0] < 0));
    }
    return data.size() * 4.0 / median(seconds) / 1000;
}

int main(int count, char **given) {
    const int threads = count > 1 ? std::atoi(given[1]) : 1;
    const int64_t kind = count > 2 ? std::atoi(given[2]) : 1, head_kind = count > 3 ? std::atoi(given[3]) : kind;
    const double rate = read_rate(threads);
    std::vector<Layer> layers(LAYERS);
    for (Layer &l : layers) l = {matrix(kind, E, N * D), matrix(kind, H * D, E), matrix(kind, E, 2 * I), matrix(kind, I, E)};
    const Matrix head = matrix(head_kind, E, VOCAB);
    std::vector<float> ones(E, 1.0f), keys(LAYERS * PAGES * K * D * PAGE, 0.01f), values = keys;
    printf("%d threads, reads %.1f GB/s, weights %.1f MB: %.0f us\n", threads, rate, total / 1e6, total / rate / 1e3);
    for (int64_t T : {1, 2, 4, 8, 16, 32}) {
        std::vector<float> x(T * E), h(T * E), qkv(T * N * D), mixed(T * H * D), both(T * 2 * I), act(T * I), logits(T * VOCAB), cos(T * D, 1.0f), sin(T * D);
        std::vector<int64_t> table(PAGES), request(T), seen(T, SEEN), none(T), slot(T, SEEN - 1);
        std::iota(table.begin(), table.end(), 0);
        std::vector<double> part[PARTS], pass;
        for (int64_t round = 0; round < ROUNDS; round++) {
            double spent[PARTS] = {}, last = now();
            const double begin = last;
            auto tick = [&](Part p) { const double t = now(); spent[p] += t - last, last = t; };
            std::fill(x.begin(), x.end(), 0.5f);
            for (int64_t l = 0; l < LAYERS; l++) {
                float *k = &keys[l * PAGES * K * D * PAGE], *v = &values[l * PAGES * K * D * PAGE];
                rms_norm(x.data(), T, E, 1, ones.data(), 1e-5f, h.data()), tick(NORMS);
                multiply(h.data(), T, layers[l].qkv, E, N * D, qkv.data(), false, threads), tick(QKV);
                rotate(qkv.data(), T, N, D, cos.data(), sin.data(), H + K, H, nullptr);
                keep(qkv.data(), T, N, D, H, K, slot.data(), PAGE, k, v), tick(ROTATE_KEEP);
                attention(qkv.data(), T, N, H, K, D, PAGE, k, v, table.data(), (SEEN + PAGE - 1) / PAGE, request.data(), seen.data(), none.data(), none.data(), mixed.data(), threads), tick(ATTENTION);
                multiply(mixed.data(), T, layers[l].out, H * D, E, x.data(), true, threads), tick(OUT);
                rms_norm(x.data(), T, E, 1, ones.data(), 1e-5f, h.data()), tick(NORMS);
                multiply(h.data(), T, layers[l].gate_up, E, 2 * I, both.data(), false, threads), tick(GATE_UP);
                silu_mul(both.data(), T, I, act.data()), tick(SILU);
                multiply(act.data(), T, layers[l].down, I, E, x.data(), true, threads), tick(DOWN);
            }
            multiply(x.data(), T, head, E, VOCAB, logits.data(), false, threads), tick(HEAD);
            pass.push_back(now() - begin);
            for (int p = 0; p < PARTS; p++) part[p].push_back(spent[p]);
        }
        printf("%2ld rows %6.0f us, %5.1f GB/s:", (long)T, median(pass), total / median(pass) / 1000);
        for (int p = 0; p < PARTS; p++) printf(" %s %.0f%s", NAMES[p], median(part[p]), p + 1 < PARTS ? "," : "\n");
    }
}
