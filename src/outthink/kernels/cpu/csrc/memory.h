// Large zeroed blocks of memory, aligned to pages and on huge ones where the system grants them.
#pragma once

#include <sys/mman.h>

#include <cstddef>
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
        void* block = mmap(nullptr, bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (block == MAP_FAILED) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
        if (bytes() >= (size_t{2} << 20)) madvise(block, bytes(), MADV_HUGEPAGE);
#endif
        data_ = static_cast<T*>(block);
#endif
    }
    ~Memory() {
#ifdef __SANITIZE_ADDRESS__
        std::free(data_);
#else
        if (data_) munmap(data_, bytes());
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
    T* data_ = nullptr;
    size_t count_ = 0;
};

}  // namespace outthink
