// The count of forks, kept by a handler that runs in every child.
#include "base/fork.h"

#include <pthread.h>

namespace aerogel {
namespace {

std::atomic<std::uint64_t> generation{0};

// At load time, so that no thread can fork while another one is about to register.
[[maybe_unused]] const int kRegistered =
    pthread_atfork(nullptr, nullptr, [] { generation.fetch_add(1, std::memory_order_relaxed); });

}  // namespace

std::uint64_t fork_generation() noexcept {
    return generation.load(std::memory_order_relaxed);
}

}  // namespace aerogel
