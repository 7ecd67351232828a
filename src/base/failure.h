// How a kernel, which cannot throw, says that its device failed: the first failure of the thread's operation
// is kept, and the operation throws it when the kernel is back.
#pragma once

namespace aerogel {

struct Failure {
    int code = 0;                ///< of the device's runtime; 0: none
    const char* what = nullptr;  ///< the kernel that failed; lives as long as the process
};

/// Keeps it unless the thread has one already.
void note_failure(const Failure& failure) noexcept;
/// Whether the thread has one.
bool failed() noexcept;
/// The first one since the last call, which is then forgotten.
Failure take_failure() noexcept;

}  // namespace aerogel
