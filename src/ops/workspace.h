// Scratch memory of kernel calls, kept between calls because fresh pages cost more than small kernels.
#pragma once

#include <cstddef>

namespace aerogel {

/// Scratch memory for as long as it lives, lent by a pool of the process: at least `bytes` bytes, 64-byte
/// aligned, of undefined content. Whoever asks in the middle of another call (a question of
/// CancellationQuestion that calls the library) gets other memory. Throws std::bad_alloc.
class Workspace {
  public:
    explicit Workspace(std::size_t bytes);
    ~Workspace();
    Workspace(const Workspace&) = delete;
    Workspace& operator=(const Workspace&) = delete;

    std::byte* data() const { return data_; }

  private:
    std::byte* data_;
    std::size_t size_;
};

}  // namespace aerogel
