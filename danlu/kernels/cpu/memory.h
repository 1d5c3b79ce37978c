// Memory in whole cache lines, and in large pages where the system has them.
//
// Weights are read from one end to the other for every token. With pages of 4 KiB that is an address to look up every
// 4 KiB, which on a virtual machine takes several reads of memory; with pages of 2 MiB it is hardly any.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace danlu {

// A std::vector that begins with a cache line: loads and stores of whole vectors then never cross one.
template <class T>
struct Aligned {
    using value_type = T;
    Aligned() = default;
    template <class U>
    Aligned(const Aligned<U>&) {}
    T* allocate(size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t{64})); }
    void deallocate(T* p, size_t) { ::operator delete(p, std::align_val_t{64}); }
    bool operator==(const Aligned&) const { return true; }
};

template <class T>
using Array = std::vector<T, Aligned<T>>;

// Gives out zeroed memory, piece behind piece, and takes all of it back at its end.
class Arena {
  public:
    // Null when there is none. A little more than `size` may be read.
    uint8_t* take(size_t size) {
        size = (size + SPARE + 63) / 64 * 64;
        if (size > left_ && !grow(size)) return nullptr;
        uint8_t* p = next_;
        next_ += size, left_ -= size;
        std::memset(p, 0, size);
        return p;
    }

  private:
    static constexpr size_t SPARE = 64, LARGE = 2 << 20, MOST = 64 << 20;

    bool grow(size_t size) {
        // Each chunk twice as large as the one before: a small model stays small.
        size_t chunk = std::max(size, std::min(MOST, LARGE << std::min<size_t>(chunks_.size(), 5)));
        chunk = (chunk + LARGE - 1) / LARGE * LARGE;
        auto* p = static_cast<uint8_t*>(std::aligned_alloc(LARGE, chunk));
        if (!p) return false;
#if defined(__linux__)
        madvise(p, chunk, MADV_HUGEPAGE);  // a wish: without it all works the same
#endif
        chunks_.emplace_back(p);
        next_ = p, left_ = chunk;
        return true;
    }

    struct Free {
        void operator()(void* p) const { std::free(p); }
    };

    std::vector<std::unique_ptr<uint8_t, Free>> chunks_;
    uint8_t* next_ = nullptr;
    size_t left_ = 0;
};

}  // namespace danlu
