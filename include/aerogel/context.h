// How one call runs. Where it runs is said by its tensors, which know their device.
// layer: base
#pragma once

namespace aerogel {

/// The default suits nearly every call.
struct Context {
    /// Threads of the CPU that the call may use at most; 0: num_threads() of them, below: InvalidArgument.
    /// Results do not depend on it.
    int threads = 0;
    /// The stream of the device that the call's work is put on (a CUstream); it must outlive the tensors
    /// used on it. Null: the default stream. The CPU has none.
    void* stream = nullptr;
};

}  // namespace aerogel
