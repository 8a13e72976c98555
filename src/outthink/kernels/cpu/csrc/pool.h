// Threads that run one function together, with a barrier between its stages.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

namespace outthink {

// The calling thread is number 0. Waiting threads spin for some microseconds, then sleep until they are woken.
class Pool {
   public:
    explicit Pool(int threads);
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int size() const { return threads_; }

    // Calls function(context, thread) on every thread, and returns when all have returned. Not reentrant.
    void run(void (*function)(void*, int), void* context);

    // Returns once every thread of the running function has called it.
    void barrier() {
        if (threads_ > 1) wait_for_all();
    }

   private:
    struct Shared;
    void start();
    void wait_for_all();
    static void work(Shared& shared, int thread, Pool& pool);

    const int threads_;
    int fork_count_;
    std::unique_ptr<Shared> shared_;
    std::vector<std::thread> workers_;
};

// The items of one stage, dealt to the threads as contiguous ranges; a thread whose range is done takes from others.
class Deal {
   public:
    explicit Deal(int threads) : counters_(static_cast<size_t>(threads)) {}

    // Before any thread takes; the threads meet at a barrier in between.
    void reset() {
        for (auto& counter : counters_) counter.next.store(0, std::memory_order_relaxed);
    }

    template <class Function>
    void take(int thread, int items, Function function) {
        const int threads = static_cast<int>(counters_.size());
        for (int i = 0; i < threads; ++i) {
            const int owner = (thread + i) % threads;
            const int begin = range(items, owner), end = range(items, owner + 1);
            for (;;) {
                auto& next = counters_[static_cast<size_t>(owner)].next;
                // The first look keeps finished ranges from being written to.
                if (next.load(std::memory_order_relaxed) >= end - begin) break;
                const int item = begin + next.fetch_add(1, std::memory_order_relaxed);
                if (item >= end) break;
                function(item);
            }
        }
    }

    int range(int items, int thread) const {
        return static_cast<int>(static_cast<int64_t>(items) * thread / static_cast<int64_t>(counters_.size()));
    }

   private:
    struct alignas(64) Counter {
        std::atomic<int> next{0};
    };
    std::vector<Counter> counters_;
};

}  // namespace outthink
