// A short list of blocks, searched from its end.
#include "core/reused_memory.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <utility>

#include "base/fork.h"

namespace aerogel {
namespace {

constexpr std::size_t kLeastReused = std::size_t{1} << 16;  // smaller ones come from memory touched before
constexpr std::size_t kMostReused = std::size_t{64} << 20;
constexpr std::size_t kMostBlocks = 16;

struct WaitingBlock {
    void* data = nullptr;
    std::size_t size = 0;
};

std::atomic<int> users{0};

class WaitingBlocks {
  public:
    void* take(std::size_t size) {
        const std::lock_guard lock(mutex_);
        for (std::size_t i = count_; i-- > 0;)
            if (blocks_[i].size == size) return remove(i).data;
        return nullptr;
    }

    bool keep(WaitingBlock block) {
        const std::lock_guard lock(mutex_);
        if (users == 0) return false;
        while (count_ == kMostBlocks || (count_ > 0 && bytes_ + block.size > kMostReused))
            std::free(remove(0).data);
        blocks_[count_++] = block;
        bytes_ += block.size;
        return true;
    }

    void clear() {
        const std::lock_guard lock(mutex_);
        while (users == 0 && count_ > 0) std::free(remove(count_ - 1).data);
    }

  private:
    WaitingBlock remove(std::size_t at) {
        const WaitingBlock block = blocks_[at];
        std::move(blocks_.begin() + static_cast<std::ptrdiff_t>(at) + 1,
                  blocks_.begin() + static_cast<std::ptrdiff_t>(count_),
                  blocks_.begin() + static_cast<std::ptrdiff_t>(at));
        --count_;
        bytes_ -= block.size;
        return block;
    }

    std::mutex mutex_;
    std::array<WaitingBlock, kMostBlocks> blocks_;  // the oldest first
    std::size_t count_ = 0, bytes_ = 0;
};

WaitingBlocks& waiting() {
    static PerProcess<WaitingBlocks> blocks;
    return blocks.get();
}

}  // namespace

ReusedMemory::ReusedMemory() {
    ++users;
}

ReusedMemory::~ReusedMemory() {
    if (--users == 0) waiting().clear();
}

void* take_reused(std::size_t size) noexcept {
    return users == 0 || size < kLeastReused ? nullptr : waiting().take(size);
}

bool keep_for_reuse(void* block, std::size_t size) noexcept {
    if (users == 0 || size < kLeastReused || size > kMostReused) return false;
    return waiting().keep({block, size});
}

}  // namespace aerogel
