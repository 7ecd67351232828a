// Scratch memory of kernel calls, kept between calls because fresh pages cost more than small kernels.
#pragma once

#include <cstddef>

namespace aerogel {

/// At least `bytes` bytes, 64-byte aligned, owned by the calling thread and valid until its next call
/// of this function. The content is undefined. Throws std::bad_alloc.
std::byte* workspace(std::size_t bytes);

/// While it lives, the calling thread has another workspace: for whoever calls the library in the middle of
/// one of its operations (see CancellationQuestion).
class OtherWorkspace {
  public:
    OtherWorkspace();
    ~OtherWorkspace();
    OtherWorkspace(const OtherWorkspace&) = delete;
    OtherWorkspace& operator=(const OtherWorkspace&) = delete;

  private:
    std::byte* data_;
    std::size_t size_;
};

}  // namespace aerogel
