// How the core is called from Python: without the interpreter's lock, and so that signals still end the call.
#pragma once

#include <nanobind/nanobind.h>

#include <optional>
#include <type_traits>

#include "base/function_ref.h"

namespace aerogel::python {

/// Runs `work` without the interpreter's lock. Everything that may use the pool is called so: a thread that
/// waits for the pool with the lock would keep another one from looking for signals. On the main thread
/// Python's signal handlers run meanwhile, about every 50 ms; what one raises (KeyboardInterrupt) ends the
/// work between two tasks and comes out of this call, also where the work was done by then. A RuntimeWarning
/// tells, once, when fewer threads run than were asked for.
void run_without_gil(FunctionRef<void()> work);

/// The same with a result.
template <typename Work>
auto without_gil(Work&& work) {
    using Result = std::invoke_result_t<Work>;
    if constexpr (std::is_void_v<Result>) {
        run_without_gil(work);
    } else {
        std::optional<Result> result;
        run_without_gil([&] { result.emplace(work()); });
        return *std::move(result);
    }
}

}  // namespace aerogel::python
