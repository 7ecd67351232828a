// How many threads the library's one pool uses. Results never depend on the number.
//
// The pool starts when it is first needed. A forked child gets a pool of its own, also when other threads of
// its parent were computing; only an operation during which the process forks cannot continue in the child
// (Error there).
// layer: base
#pragma once

#include <string>

namespace aerogel {

/// Threads used by all operations: what set_num_threads() asked for, or AEROGEL_NUM_THREADS, or the number of
/// cores the process may use; fewer where the system refuses threads (see thread_shortage()). Starts the
/// pool. Its threads take no signal that is sent to the process. Whatever rounding, flushing of denormal
/// numbers or traps the calling thread has set, operations compute without and leave them as they were.
int num_threads();

/// Sets the number of threads (1 to 1024; InvalidArgument otherwise). May be called at any time: operations
/// that are running keep the threads they began with.
void set_num_threads(int count);

/// Why fewer threads run than were asked for: "only 3 of 64 threads could be started (Resource temporarily
/// unavailable)"; empty when all run, or none were needed yet. The library itself never prints it.
std::string thread_shortage();

}  // namespace aerogel
