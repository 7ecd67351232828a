// A short list of blocks, searched from its end.
#include "core/reused_memory.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <mutex>

#include "base/fork.h"

namespace aerogel {
namespace {

constexpr std::size_t kLeastReused = std::size_t{1} << 16;  // smaller ones come from memory touched before
constexpr std::size_t kMostReused = std::size_t{64} << 20;

std::atomic<int> users{0};

struct BlocksOfLoops : WaitingBlocks {
    BlocksOfLoops() : WaitingBlocks(kMostReused) {}
};

WaitingBlocks& waiting() {
    static PerProcess<BlocksOfLoops> blocks;
    return blocks.get();
}

}  // namespace

void* WaitingBlocks::take(std::size_t size) noexcept {
    const std::lock_guard lock(mutex_);
    for (std::size_t i = count_; i-- > 0;)
        if (blocks_[i].size == size) return remove(i).data;
    return nullptr;
}

bool WaitingBlocks::keep(void* block, std::size_t size) noexcept {
    if (size > most_) return false;
    const std::lock_guard lock(mutex_);
    while (count_ == kMostBlocks || bytes_ + size > most_) std::free(remove(0).data);
    blocks_[count_++] = {block, size};
    bytes_ += size;
    return true;
}

void WaitingBlocks::clear() noexcept {
    const std::lock_guard lock(mutex_);
    while (count_ > 0) std::free(remove(count_ - 1).data);
}

WaitingBlocks::Block WaitingBlocks::remove(std::size_t at) noexcept {
    const Block block = blocks_[at];
    const auto first = blocks_.begin() + static_cast<std::ptrdiff_t>(at);
    std::move(first + 1, blocks_.begin() + static_cast<std::ptrdiff_t>(count_), first);
    --count_;
    bytes_ -= block.size;
    return block;
}

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
    if (users == 0 || size < kLeastReused || !waiting().keep(block, size)) return false;
    if (users == 0) waiting().clear();  // the last one went meanwhile
    return true;
}

}  // namespace aerogel
