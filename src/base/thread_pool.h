// The library's one thread pool. Work is cut into tasks whose number and content must not depend
// on the number of threads; who runs which task is free, so results are the same for any number.
#pragma once

#include <cstdint>

#include "base/function_ref.h"

namespace aerogel {

/// Runs task(i, worker) for i in [0, count), on all threads of the pool; returns when all are done.
/// `worker` in [0, num_threads()) tells which scratch memory the task may use. Tasks are handed out
/// in ascending order. A nested call runs inline. Tasks must not throw.
/// When cancelled() tasks are left out: then it throws Cancelled, or within run_operation() leaves that to
/// it.
void parallel_for(std::int64_t count, FunctionRef<void(std::int64_t task, int worker)> task);

/// Runs `body` with one pool throughout: num_threads() and the workers of every parallel_for() in it agree,
/// whoever calls set_num_threads() meanwhile. Needed wherever scratch memory is sized by num_threads(), and
/// around kernels, which cannot throw: Cancelled is thrown here, after `body`, when tasks of it were left
/// out; Error when the process forked in its middle and this is the child. Both hold before `body` begins,
/// too. `threads`: at most so many of the pool; 0: all. An operation within another has at most its threads.
void run_operation(FunctionRef<void()> body, int threads = 0);

/// Throws InvalidArgument when AEROGEL_NUM_THREADS is wrong; starts no thread.
void check_thread_settings();

}  // namespace aerogel
