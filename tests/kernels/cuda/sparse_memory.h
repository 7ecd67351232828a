// Arrays too large for the machine, of which a test touches little.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>

namespace aerogel::testing {

/// The least number whose lower 32 bits are none.
constexpr std::int64_t kFar = std::int64_t{1} << 32;

/// Addresses without memory until they are touched.
class SparseMemory {
  public:
    explicit SparseMemory(std::size_t bytes)
        : bytes_(bytes),
          data_(::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                       -1, 0)) {}
    ~SparseMemory() { ::munmap(data_, bytes_); }
    SparseMemory(const SparseMemory&) = delete;
    SparseMemory& operator=(const SparseMemory&) = delete;

    bool is_there() const { return data_ != MAP_FAILED; }
    template <typename T>
    T* as() const {
        return static_cast<T*>(data_);
    }

  private:
    std::size_t bytes_;
    void* data_;
};

}  // namespace aerogel::testing
