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

constexpr int kSpins = 2000;  // about 50 us, which is about what waking a thread takes
constexpr int kRemainingBits = 24;
constexpr uint64_t kRemaining = (uint64_t{1} << kRemainingBits) - 1;

}  // namespace

// A stage's items are cut into one range for each thread; a thread takes from its own, then from the others'. A range
// is one number: the stage it belongs to, and how many of its items nobody has begun. Who lowers that number by one has
// taken an item, and knows that the stage lasts at least until the item is done: only then may the other fields be
// read, and until then the calling thread does not change them.
struct Pool::Shared {
    struct alignas(64) Range {
        std::atomic<uint64_t> state{0};
    };

    explicit Shared(int threads) : ranges(static_cast<size_t>(threads)) {}

    int end_of(int owner) const {
        const int64_t count = static_cast<int64_t>(ranges.size());
        return static_cast<int>(int64_t{items.load(std::memory_order_relaxed)} * (owner + 1) / count);
    }

    // Does items until none is left that nobody has begun.
    void work(int thread) {
        const int count = static_cast<int>(ranges.size());
        for (int i = 0; i < count;) {
            const int owner = thread + i < count ? thread + i : thread + i - count;
            auto& range = ranges[static_cast<size_t>(owner)].state;
            uint64_t seen = range.load(std::memory_order_relaxed);
            const uint64_t left = seen & kRemaining;
            if (left == 0) {
                ++i;
            } else if (range.compare_exchange_weak(seen, seen - 1, std::memory_order_acq_rel)) {
                const int item = end_of(owner) - static_cast<int>(left);
                call.load(std::memory_order_relaxed)(context.load(std::memory_order_relaxed), item, thread);
                if (pending.fetch_sub(1, std::memory_order_acq_rel) == 1) pending.notify_one();
            }
        }
    }

    void help(int thread) {
        while (!stop.load(std::memory_order_acquire)) {
            const int calls = wakes.load(std::memory_order_acquire);
            uint64_t seen = 0;
            for (int spin = 0; spin < kSpins; ++spin) {
                if (published.load(std::memory_order_acquire) != seen) {
                    seen = published.load(std::memory_order_relaxed);
                    work(thread);
                    spin = 0;
                }
                relax();
            }
            // Either this thread sees the stage that the caller has just published, or the caller sees it asleep.
            asleep.fetch_add(1, std::memory_order_seq_cst);
            if (published.load(std::memory_order_seq_cst) == seen) wakes.wait(calls, std::memory_order_acquire);
            asleep.fetch_sub(1, std::memory_order_relaxed);
        }
    }

    void wake() {
        wakes.fetch_add(1, std::memory_order_release);
        wakes.notify_all();
    }

    std::vector<Range> ranges;
    std::atomic<int> items{0};
    std::atomic<Call> call{nullptr};
    std::atomic<void*> context{nullptr};
    // Helpers look here, so as not to keep taking the ranges' cache lines from those who work.
    alignas(64) std::atomic<uint64_t> published{0};
    alignas(64) std::atomic<int> pending{0};
    alignas(64) std::atomic<int> wakes{0};
    std::atomic<int> asleep{0};
    std::atomic<bool> stop{false};
};

Pool::Pool(int threads) : threads_(threads), fork_count_(count_forks()) { start(); }

Pool::~Pool() {
    if (count_forks() != fork_count_) {
        abandon();
        return;
    }
    shared_->stop.store(true, std::memory_order_release);
    shared_->wake();
    for (auto& helper : helpers_) helper.join();
}

void Pool::start() {
    shared_ = std::make_unique<Shared>(threads_);
    for (int thread = 1; thread < threads_; ++thread) {
        helpers_.emplace_back([shared = shared_.get(), thread] { shared->help(thread); });
    }
}

// In a forked child: the threads are the parent's, and what they wait on may be in any state.
void Pool::abandon() {
    for (auto& helper : helpers_) helper.detach();
    helpers_.clear();
    (void)shared_.release();
}

void Pool::expect(bool much) {
    much_ = much;
    if (threads_ == 1 || !much) return;
    if (count_forks() != fork_count_) {
        abandon();
        fork_count_ = count_forks();
        start();
    }
    shared_->wake();
}

void Pool::run(int items, Call call, void* context) {
    Shared& shared = *shared_;
    shared.items.store(items, std::memory_order_relaxed);
    shared.call.store(call, std::memory_order_relaxed);
    shared.context.store(context, std::memory_order_relaxed);
    shared.pending.store(items, std::memory_order_relaxed);
    const uint64_t stage = shared.published.load(std::memory_order_relaxed) + 1;
    for (int owner = threads_ - 1; owner >= 0; --owner) {
        const int begin = owner > 0 ? shared.end_of(owner - 1) : 0;
        const auto count = static_cast<uint64_t>(shared.end_of(owner) - begin);
        shared.ranges[static_cast<size_t>(owner)].state.store(stage << kRemainingBits | count,
                                                              std::memory_order_release);
    }
    shared.published.store(stage, std::memory_order_seq_cst);
    if (much_ && shared.asleep.load(std::memory_order_seq_cst) > 0) shared.wake();
    shared.work(0);
    for (int spin = 0; spin < kSpins; ++spin) {
        if (shared.pending.load(std::memory_order_acquire) == 0) return;
        relax();
    }
    for (;;) {
        const int left = shared.pending.load(std::memory_order_acquire);
        if (left == 0) return;
        shared.pending.wait(left, std::memory_order_acquire);
    }
}

}  // namespace outthink
