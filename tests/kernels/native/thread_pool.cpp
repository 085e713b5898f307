// Loops of all sizes, one right behind the other: each item must be done once, and before `each` returns.

#include "thread_pool.h"

#include <cstdio>
#include <cstdlib>

int main(int, char **arguments) {
    const int threads = std::atoi(arguments[1]), loops = std::atoi(arguments[2]);
    constexpr int MOST = 64;
    long wrong = 0;
    for (int loop = 0; loop < loops; loop++) {
        const int count = 2 + (int)((uint32_t)loop * 2654435761u >> 7) % (MOST - 2);
        std::atomic<int> done[MOST] = {};
        thread_pool().each(count, threads, [&](int64_t i) { done[i]++; });
        for (int i = 0; i < MOST; i++) wrong += done[i] != (i < count);
    }
    std::printf("%ld\n", wrong);
}
