// Emptying the caches: by reading, which needs no privilege and reaches every level.
#include "base/cache.h"

#include <unistd.h>

#include <atomic>
#include <vector>

#include "aerogel/threads.h"
#include "base/thread_pool.h"

namespace aerogel {

std::int64_t cache_bytes() {
    const std::int64_t told = sysconf(_SC_LEVEL3_CACHE_SIZE);
    return told > 0 ? told : std::int64_t{64} << 20;
}

void empty_caches() {
    static const std::vector<std::int64_t> memory(static_cast<std::size_t>(cache_bytes()) / 4, 1);
    static std::atomic<std::int64_t> kept = 0;  // the sums must be wanted
    const std::int64_t threads = num_threads();
    const auto each = static_cast<std::int64_t>(memory.size()) / threads;
    parallel_for(threads, [&](std::int64_t task, int) {
        std::int64_t sum = 0;
        for (std::int64_t i = task * each; i < (task + 1) * each; ++i)
            sum += memory[static_cast<std::size_t>(i)];
        kept += sum;
    });
}

}  // namespace aerogel
