// Large zeroed blocks of memory, aligned to pages and on huge ones where the system grants them.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <utility>

namespace outthink {

template <class T>
class Memory {
   public:
    Memory() = default;
    explicit Memory(size_t count) : count_(count) {
        if (count == 0) return;
#ifdef __SANITIZE_ADDRESS__
        // The sanitizer guards the ends of what it allocates, not of mappings.
        data_ = static_cast<T*>(std::calloc(count, sizeof(T)));
        if (!data_) throw std::bad_alloc();
#else
        // Whole huge pages, aligned: a large block that straddles small ones reads at half the speed.
        const size_t size = reserved();
        void* block = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (block == MAP_FAILED) throw std::bad_alloc();
        auto start = reinterpret_cast<uintptr_t>(block);
        const uintptr_t aligned = (start + kHuge - 1) / kHuge * kHuge;
        if (bytes() >= kHuge / 2) {
            const uintptr_t end = aligned + (size - kHuge);
            if (aligned > start) munmap(block, aligned - start);
            if (start + size > end) munmap(reinterpret_cast<void*>(end), start + size - end);
            start = aligned;
#ifdef MADV_HUGEPAGE
            madvise(reinterpret_cast<void*>(start), size - kHuge, MADV_HUGEPAGE);
#endif
        }
        data_ = reinterpret_cast<T*>(start);
#endif
    }
    ~Memory() {
#ifdef __SANITIZE_ADDRESS__
        std::free(data_);
#else
        if (data_) munmap(data_, bytes() >= kHuge / 2 ? reserved() - kHuge : reserved());
#endif
    }
    Memory(Memory&& other) noexcept { *this = std::move(other); }
    Memory& operator=(Memory&& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(count_, other.count_);
        return *this;
    }

    T* data() const { return data_; }
    size_t size() const { return count_; }
    size_t bytes() const { return count_ * sizeof(T); }

   private:
    static constexpr size_t kHuge = size_t{2} << 20;
    size_t reserved() const {
        if (bytes() < kHuge / 2) return bytes();
        return (bytes() + kHuge - 1) / kHuge * kHuge + kHuge;
    }

    T* data_ = nullptr;
    size_t count_ = 0;
};

}  // namespace outthink
