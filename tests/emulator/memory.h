// Global memory that kernels may touch when Options::foreign_memory is off: what was allocated and not freed.
#pragma once

#include <cstddef>

namespace aerogel::emulator {

void add_allocation(const void* p, std::size_t bytes);
/// False if there was none at p.
bool remove_allocation(const void* p);

/// An array of a test is an allocation as long as this lives.
class Allocation {
  public:
    template <class Array>
    explicit Allocation(const Array& array) : data_(array.data()) {
        add_allocation(data_, array.size() * sizeof(array[0]));
    }
    ~Allocation() { remove_allocation(data_); }
    Allocation(const Allocation&) = delete;
    Allocation& operator=(const Allocation&) = delete;

  private:
    const void* data_;
};

/// All bytes lie in one allocation; or they are constants of the program, which may be read.
bool may_touch(const void* p, int bytes, bool writes);

}  // namespace aerogel::emulator
