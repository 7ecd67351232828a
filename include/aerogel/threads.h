// How many threads the library's one pool uses. Results never depend on the number.
// layer: base
#pragma once

namespace aerogel {

/// Threads used by all operations: AEROGEL_NUM_THREADS, or the number of cores the process may use.
int num_threads();

/// Sets the number of threads (1 to 1024; InvalidArgument otherwise). Call while no operation runs.
void set_num_threads(int count);

}  // namespace aerogel
