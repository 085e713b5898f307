// Loops over items that do not depend on each other, on a few threads that belong to the thread that calls. Who is free
// takes the next item, so that a thread whose core is busy elsewhere holds up nobody. Without work a thread stays awake
// for a moment, because the next loop of a pass comes at once, and then sleeps: one that keeps watching, as OpenMP's do,
// takes from the Python between two passes more than it gives to them.

#pragma once

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

constexpr std::chrono::microseconds AWAKE(100);

static inline void cpu_relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

class ThreadPool {
  public:
    // item(i) for i below `count`, by up to `threads` threads, this one among them.
    template <class F> void each(int64_t count, int threads, const F &item) {
        const int others = (int)std::min<int64_t>(threads, count) - 1;
        if (others < 1 || !in_owner_process()) {
            for (int64_t i = 0; i < count; i++) item(i);
            return;
        }
        start(others);
        // A thread may still stand behind the last item of the loop before, about to compare its place with the size: the
        // size changes now, so that place must not be there to take.
        const uint64_t loop = (next.fetch_or(NONE) >> 32) + 1;
        run = [](const void *what, int64_t i) { (*(const F *)what)(i); };
        what_of = &item, size = count, helpers = others, done = 0;
        next.store(loop << 32);
        if (asleep.load()) {
            { std::lock_guard<std::mutex> guard(lock); }
            wakeup.notify_all();
        }
        work(loop);
        while (done.load(std::memory_order_acquire) < count) cpu_relax();
    }

    // Whether this is the process that the threads are in: one that forks takes along the object, not them.
    bool in_owner_process() const { return owner_pid == getpid(); }

    ~ThreadPool() {
        {
            std::lock_guard<std::mutex> guard(lock);
            stopping = true;
        }
        wakeup.notify_all();
        for (auto &one : workers) one.join();
    }

  private:
    static constexpr uint64_t NONE = 0xFFFFFFFF;  // no item of any loop
    std::atomic<uint64_t> next{NONE};  // the number of the loop, above, and its next item
    std::atomic<int64_t> size{0}, done{0};
    std::atomic<int> helpers{0}, asleep{0};
    std::atomic<bool> stopping{false};
    std::atomic<void (*)(const void *, int64_t)> run{nullptr};
    std::atomic<const void *> what_of{nullptr};
    std::mutex lock;
    std::condition_variable wakeup;
    std::vector<std::thread> workers;
    const pid_t owner_pid = getpid();

    void start(int others) {
        for (int id = (int)workers.size(); id < others; id++) workers.emplace_back([this, id] { serve(id); });
    }

    // Items of a loop until none is left. Whoever has taken one keeps `each`, and so the loop, from ending; what is read
    // of a loop before an item of it is taken may be of the next one already, and then none is.
    void work(uint64_t loop) {
        uint64_t at = next.load();
        while (at >> 32 == loop && (int64_t)(uint32_t)at < size.load()) {
            if (!next.compare_exchange_weak(at, at + 1)) continue;
            run.load()(what_of.load(), (uint32_t)at);
            done.fetch_add(1, std::memory_order_release);
            at = next.load();
        }
    }

    void serve(int id) {
        for (uint64_t seen = 0;;) {
            wait(seen);
            if (stopping) return;
            seen = next.load() >> 32;
            if (id < helpers.load()) work(seen);
        }
    }

    void wait(uint64_t seen) {
        auto idle = [&] { return next.load() >> 32 == seen && !stopping; };
        const auto until = std::chrono::steady_clock::now() + AWAKE;
        while (idle()) {
            for (int i = 0; i < 16 && idle(); i++) cpu_relax();
            if (std::chrono::steady_clock::now() < until) continue;
            std::unique_lock<std::mutex> guard(lock);
            asleep++;
            wakeup.wait(guard, [&] { return !idle(); });
            asleep--;
        }
    }
};

// The calling thread's. Behind a fork it is left as it is: to end it would be to wait for threads that are not there.
static ThreadPool &thread_pool() {
    struct Owner {
        ThreadPool *const own = new ThreadPool;
        ~Owner() {
            if (own->in_owner_process()) delete own;
        }
    };
    static thread_local Owner owner;
    return *owner.own;
}
