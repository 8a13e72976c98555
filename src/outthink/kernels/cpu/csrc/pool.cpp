#include "pool.h"

#include <pthread.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace outthink {
namespace {

// Threads do not survive a fork: a pool used in a child process must start its own.
std::atomic<int> forks{0};

int count_forks() {
    static const bool watching = [] {
        pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1, std::memory_order_relaxed); });
        return true;
    }();
    (void)watching;
    return forks.load(std::memory_order_relaxed);
}

inline void relax() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// About 50 us of looking between steps and inside one; a sleeping thread takes about as long to wake.
constexpr int kSpins = 2000;

// Returns when `value` differs from `old`.
void wait_for_change(std::atomic<int>& value, int old) {
    for (int spin = 0; spin < kSpins; ++spin) {
        if (value.load(std::memory_order_acquire) != old) return;
        relax();
    }
    while (value.load(std::memory_order_acquire) == old) value.wait(old, std::memory_order_acquire);
}

}  // namespace

struct Pool::Shared {
    void (*function)(void*, int) = nullptr;
    void* context = nullptr;
    bool stop = false;
    alignas(64) std::atomic<int> epoch{0};       // raised to start a function
    alignas(64) std::atomic<int> generation{0};  // raised when all have come to the barrier
    alignas(64) std::atomic<int> arrived{0};
};

Pool::Pool(int threads) : threads_(threads), fork_count_(count_forks()) { start(); }

Pool::~Pool() {
    if (count_forks() != fork_count_) {
        // The workers belong to the parent; neither they nor what they wait on may be touched.
        for (auto& worker : workers_) worker.detach();
        (void)shared_.release();
        return;
    }
    shared_->stop = true;
    shared_->epoch.fetch_add(1, std::memory_order_release);
    shared_->epoch.notify_all();
    for (auto& worker : workers_) worker.join();
}

void Pool::start() {
    shared_ = std::make_unique<Shared>();
    for (int thread = 1; thread < threads_; ++thread) {
        workers_.emplace_back([shared = shared_.get(), thread, this] { work(*shared, thread, *this); });
    }
}

void Pool::work(Shared& shared, int thread, Pool& pool) {
    int seen = 0;
    for (;;) {
        wait_for_change(shared.epoch, seen);
        seen = shared.epoch.load(std::memory_order_acquire);
        if (shared.stop) return;
        shared.function(shared.context, thread);
        pool.wait_for_all();
    }
}

void Pool::run(void (*function)(void*, int), void* context) {
    if (threads_ == 1) {
        function(context, 0);
        return;
    }
    if (count_forks() != fork_count_) {
        for (auto& worker : workers_) worker.detach();
        workers_.clear();
        (void)shared_.release();
        fork_count_ = count_forks();
        start();
    }
    shared_->function = function;
    shared_->context = context;
    shared_->epoch.fetch_add(1, std::memory_order_release);
    shared_->epoch.notify_all();
    function(context, 0);
    wait_for_all();
}

void Pool::wait_for_all() {
    Shared& shared = *shared_;
    const int generation = shared.generation.load(std::memory_order_acquire);
    if (shared.arrived.fetch_add(1, std::memory_order_acq_rel) == threads_ - 1) {
        shared.arrived.store(0, std::memory_order_relaxed);
        shared.generation.fetch_add(1, std::memory_order_release);
        shared.generation.notify_all();
    } else {
        wait_for_change(shared.generation, generation);
    }
}

}  // namespace outthink
