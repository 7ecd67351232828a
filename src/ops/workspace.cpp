// A pool of buffers: the last one given back is lent first, because its pages are the warmest.
#include "ops/workspace.h"

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#include "base/fork.h"
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

constexpr std::size_t kPage = 4096;
constexpr std::size_t kLarge = std::size_t{256} << 20;
constexpr std::size_t kKept = 8;  // as many threads may take turns without an allocation

struct Pool {
    std::mutex guard;
    std::vector<Buffer> free;
};
PerProcess<Pool> pool;

// Small enough to be kept although the call needs less.
bool fits(const Buffer& buffer, std::size_t size) {
    return buffer.size >= size && (buffer.size <= kLarge || buffer.size / 2 <= size);
}

Buffer kept_buffer(std::size_t size) {
    Pool& mine = pool.get();
    const std::lock_guard lock(mine.guard);
    for (std::size_t i = mine.free.size(); i-- > 0;) {
        if (!fits(mine.free[i], size)) continue;
        Buffer found = std::move(mine.free[i]);
        mine.free.erase(mine.free.begin() + static_cast<std::ptrdiff_t>(i));
        return found;
    }
    // One that does not fit goes, so that a growing workload holds one buffer per caller.
    Buffer unfit;
    if (!mine.free.empty()) {
        unfit = std::move(mine.free.back());
        mine.free.pop_back();
    }
    return {};
}

Buffer fresh_buffer(std::size_t size) {
    Buffer buffer;
    buffer.data.reset(static_cast<std::byte*>(std::aligned_alloc(kPage, size)));
    if (!buffer.data) throw std::bad_alloc();
    prefer_huge_pages(buffer.data.get(), size);
    buffer.size = size;
    return buffer;
}

}  // namespace

Workspace::Workspace(std::size_t bytes) {
    if (bytes > SIZE_MAX - kPage) throw std::bad_alloc();
    const std::size_t size = (bytes + kPage) / kPage * kPage;
    Buffer buffer = kept_buffer(size);
    if (!buffer.data) buffer = fresh_buffer(size);
    data_ = buffer.data.release();
    size_ = buffer.size;
}

Workspace::~Workspace() {
    Buffer buffer;
    buffer.data.reset(data_);
    buffer.size = size_;
    Pool& mine = pool.get();
    const std::lock_guard lock(mine.guard);
    if (mine.free.size() >= kKept) mine.free.erase(mine.free.begin());
    mine.free.push_back(std::move(buffer));
}

}  // namespace aerogel
