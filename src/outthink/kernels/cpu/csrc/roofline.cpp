#include "roofline.h"

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "memory.h"
#include "pool.h"

namespace outthink {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kPasses = 8;
constexpr int64_t kRounds = 400'000;  // of a pass: long enough for helpers to be given cores of their own
constexpr size_t kChunk = size_t{1} << 20, kLine = 64, kAhead = 2048;  // bytes; what reads fastest where it was tried

using FourWords = uint64_t __attribute__((vector_size(32), aligned(32)));

// Of every byte of the chunk, so that none may be left unread.
uint64_t digest(const char* chunk, size_t bytes) {
    FourWords even{}, odd{};
    for (size_t at = 0; at < bytes; at += kLine) {
        __builtin_prefetch(chunk + at + kAhead);
        even ^= *reinterpret_cast<const FourWords*>(chunk + at);
        odd ^= *reinterpret_cast<const FourWords*>(chunk + at + kLine / 2);
    }
    even ^= odd;
    return even[0] ^ even[1] ^ even[2] ^ even[3];
}

}  // namespace

double read_bandwidth(size_t bytes, int threads) {
    const int chunks = static_cast<int>(std::max(bytes / kChunk, size_t{1}));
    // A page that was never written is not memory: all such read the same zeros.
    Memory<char> block(static_cast<size_t>(chunks) * kChunk);
    std::fill(block.data(), block.data() + block.size(), char{1});
    Pool pool(threads);
    std::atomic<uint64_t> sink{0};
    double best = 0;
    for (int pass = 0; pass < kPasses; ++pass) {
        pool.expect(true);
        const auto start = Clock::now();
        pool.each(chunks, false, [&](int chunk, int) {
            sink.fetch_xor(digest(block.data() + static_cast<size_t>(chunk) * kChunk, kChunk), std::memory_order_relaxed);
        });
        const std::chrono::duration<double> seconds = Clock::now() - start;
        best = std::max(best, static_cast<double>(block.size()) / seconds.count());
    }
    return best;
}

double multiply_rate(const Kernels& kernels, Format format, int threads) {
    Pool pool(threads);
    double best = 0;
    for (int pass = 0; pass < kPasses; ++pass) {
        std::atomic<int64_t> done{0};
        pool.expect(true);
        const auto start = Clock::now();
        pool.each(8 * threads, false, [&](int, int) {
            done.fetch_add(kernels.multiply_cached(format, kRounds / 8), std::memory_order_relaxed);
        });
        const std::chrono::duration<double> seconds = Clock::now() - start;
        best = std::max(best, static_cast<double>(done.load()) / seconds.count());
    }
    return best;
}

}  // namespace outthink
