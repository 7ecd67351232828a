// One growing buffer per calling thread; a buffer far larger than the request is given back.
#include "ops/workspace.h"

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <utility>

#include "base/huge_pages.h"

namespace aerogel {
namespace {

struct Free {
    void operator()(std::byte* p) const { std::free(p); }
};

struct Buffer {
    std::unique_ptr<std::byte, Free> data;
    std::size_t size = 0;
};

thread_local Buffer buffer;

}  // namespace

std::byte* workspace(std::size_t bytes) {
    constexpr std::size_t kPage = 4096;
    constexpr std::size_t kKept = std::size_t{256} << 20;
    if (bytes > SIZE_MAX - kPage) throw std::bad_alloc();
    const std::size_t size = (bytes + kPage) / kPage * kPage;
    if (buffer.size < size || (buffer.size > kKept && buffer.size / 2 > size)) {
        buffer.data.reset();
        buffer.size = 0;
        buffer.data.reset(static_cast<std::byte*>(std::aligned_alloc(kPage, size)));
        if (!buffer.data) throw std::bad_alloc();
        prefer_huge_pages(buffer.data.get(), size);
        buffer.size = size;
    }
    return buffer.data.get();
}

OtherWorkspace::OtherWorkspace() : data_(buffer.data.release()), size_(std::exchange(buffer.size, 0)) {}

OtherWorkspace::~OtherWorkspace() {
    buffer.data.reset(data_);
    buffer.size = size_;
}

}  // namespace aerogel
