// A thread pool per calling thread, for loops over independent items. Whichever thread is free takes the next item, so
// that a thread whose core is busy elsewhere delays no other. An idle thread spins for a moment, because the next loop of
// a pass follows at once, and then sleeps: threads that spin for longer, as OpenMP's do, slow the Python code between two
// passes by more than they gain.

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

// Multiplications below which a loop runs on one thread, because a second thread saves less than it loses whenever its core
// is busy with other work.
constexpr int64_t WORTH = 200000;
constexpr std::chrono::microseconds AWAKE(100);  // time that an idle thread spins

static inline void cpu_relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

class ThreadPool {
  public:
    // Calls item(i) for i below `count` on up to `threads` threads, the calling one included.
    template <class F> void each(int64_t count, int threads, const F &item) {
        const int others = (int)std::min<int64_t>(threads, count) - 1;
        if (others < 1 || !in_owner_process()) {
            for (int64_t i = 0; i < count; i++) item(i);
            return;
        }
        start(others);
        // A thread may still be after the last item of the previous loop, about to compare its index with `size`. `size`
        // changes now, so `next` is invalidated first: otherwise that thread could take an item of this loop by mistake.
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

    // Whether this process has the threads: a fork copies the object, but not its threads.
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
    std::atomic<uint64_t> next{NONE};  // high half: number of the loop; low half: its next item
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

    // Runs items of a loop until none is left. A thread that has taken an item keeps `each`, and so the loop, from ending.
    // State read before an item is taken may belong to the next loop already; then the compare-exchange takes no item.
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

// Returns the calling thread's pool. A forked process gets a new one; the old one is not destroyed, because that would wait
// for threads that the new process does not have.
static ThreadPool &thread_pool() {
    struct Owner {
        ThreadPool *own = new ThreadPool;
        ~Owner() {
            if (own->in_owner_process()) delete own;
        }
    };
    static thread_local Owner owner;
    if (!owner.own->in_owner_process()) owner.own = new ThreadPool;
    return *owner.own;
}
