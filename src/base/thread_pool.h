// The library's one thread pool. Work is cut into tasks whose number and content must not depend
// on the number of threads; who runs which task is free, so results are the same for any number.
#pragma once

#include <cstdint>

#include "base/function_ref.h"

namespace aerogel {

/// Runs task(i, worker) for i in [0, count), on all threads of the pool; returns when all are done.
/// `worker` in [0, num_threads()) tells which scratch memory the task may use. Tasks are handed out
/// in ascending order. A nested call runs inline. Tasks must not throw.
void parallel_for(std::int64_t count, FunctionRef<void(std::int64_t task, int worker)> task) noexcept;

}  // namespace aerogel
