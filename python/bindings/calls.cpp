// The interpreter's lock, its signals and its warnings around a call of the core.
#include "bindings/calls.h"

#include <unistd.h>

#include <string>

#include "aerogel/threads.h"
#include "base/cancellation.h"

namespace aerogel::python {
namespace {

namespace nb = nanobind;

// Python runs its handlers in the main thread only: that of the process, also in a child that another thread
// forked.
bool on_main_thread() {
    return ::gettid() == ::getpid();
}

void warn_about_threads() {
    static std::string told;  // guarded by the interpreter's lock
    const std::string shortage = thread_shortage();
    if (shortage.empty() || shortage == told) return;
    told = shortage;
    if (PyErr_WarnEx(PyExc_RuntimeWarning, ("aerogel: " + shortage).c_str(), 1) != 0)
        throw nb::python_error();
}

}  // namespace

void run_without_gil(FunctionRef<void()> work) {
    std::optional<nb::python_error> raised;
    const auto asked = [&raised] {
        if (!on_main_thread()) return false;
        const nb::gil_scoped_acquire locked;
        if (PyErr_CheckSignals() == 0) return false;
        raised.emplace();
        return true;
    };
    {
        const nb::gil_scoped_release unlocked;
        const CancellationQuestion question(asked);
        try {
            work();
        } catch (...) {
            if (!raised) throw;
        }
    }
    if (raised) throw nb::python_error(*std::move(raised));
    warn_about_threads();
}

}  // namespace aerogel::python
